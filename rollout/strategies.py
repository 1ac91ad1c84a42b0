"""Strategies by name: kept for deployments that name them. A rollout keeps the one that it began with."""

import asyncio
import json
from collections.abc import Mapping
from typing import Any

from rollout.controller import Controller
from rollout.declared.documents import wrong_name
from rollout.declared.planning import content_of, parsed
from rollout.declared.secrets import restored, unknown_secrets
from rollout.errors import InvalidSpec, Unknown
from rollout.faults import path_words
from rollout.ledger import Entry, Ledger
from rollout.linting import Linted, lint_document
from rollout.record import DropStrategy, NamedStrategy, PutStrategy
from rollout.rights import Asker
from rollout.saver import Saving
from rollout.spec import Strategy

MOST_STRATEGIES = 1_000


class Strategies:
    """Checks what is asked for, and saves it. To ask again is harmless."""

    def __init__(self, controller: Controller, ledger: Ledger) -> None:
        self._controller = controller
        self._ledger = ledger
        self._books = controller.books
        self._saver = controller.saver
        self._changing = asyncio.Lock()

    def all(self) -> tuple[NamedStrategy, ...]:
        return tuple(each for _, each in sorted(self._books.strategies.items()))

    def get(self, name: str) -> NamedStrategy:
        """Raises Unknown."""
        found = self._books.strategies.get(name)
        if found is None:
            known = ", ".join(sorted(self._books.strategies)) or "none yet; `rollout strategy put` adds one"
            raise Unknown(f"there is no strategy '{name}'; there are {known}")
        return found

    def meaning(self, name: str) -> Strategy:
        """Return what a name stands for now. Raises InvalidSpec, for who names it has it wrong."""
        try:
            return parsed(self.get(name))
        except Unknown as error:
            raise InvalidSpec(str(error)) from error

    def checked(self, name: str, content: Mapping[str, Any]) -> tuple[Mapping[str, Any], Linted]:
        """Return what would be saved, known secrets in it, and what is unwise. Raises InvalidSpec with all faults."""
        wrong = [f"name: {words}" for words in wrong_name(name)]
        known = self._books.strategies.get(name)
        whole = content if known is None else restored(content, content_of(known))
        linted = lint_document(whole, None)
        wrong += [_words(each.path, each.what) for each in linted.faults]
        wrong += [_words(path_words(each.path), each.what) for each in unknown_secrets(whole)]
        if wrong or linted.strategy is None:
            raise InvalidSpec("\n".join(wrong))
        try:
            self._controller.outside.permit(linted.strategy)
        except InvalidSpec as error:
            raise InvalidSpec(f"strategy.{error}") from error
        return whole, linted

    def tag(self, name: str) -> str:
        """Return what tells a strategy as it is from all that it was; "none" while there is none."""
        known = self._books.strategies.get(name)
        return "none" if known is None else f"{known.revision}-{known.at.timestamp():.3f}"

    async def put(self, name: str, content: Mapping[str, Any], by: Asker) -> NamedStrategy:
        """Have a strategy be so from now on. Raises InvalidSpec or Unavailable."""
        async with self._changing:
            with self._ledger.asked("", "strategy put", by, name, lambda: self.tag(name)) as entry:
                whole, _ = self.checked(name, content)
                known = self._books.strategies.get(name)
                if known is not None and content_of(known) == whole:
                    entry.same(f"the strategy '{name}' is so already")
                    return known
                if known is None and len(self._books.strategies) >= MOST_STRATEGIES:
                    raise InvalidSpec(f"there are {MOST_STRATEGIES} strategies already; remove some")
                entry.about_to(f"the strategy '{name}' is {'added' if known is None else 'changed'}")
                return await self._put(name, whole, by, entry)

    async def _put(self, name: str, content: Mapping[str, Any], by: Asker, entry: Entry) -> NamedStrategy:
        known = self._books.strategies.get(name)
        revision = 1 if known is None else known.revision + 1
        saved = NamedStrategy(name, json.dumps(content), str(by), self._controller.outside.wall(), revision)

        def put() -> None:
            self._books.strategies[name] = saved

        changes = (PutStrategy(saved), entry.result(f"revision {revision}"))
        await self._saver.wait(self._saver.put(Saving(changes, "", put)))
        return saved

    async def remove(self, name: str, by: Asker) -> None:
        """Forget a strategy; rollouts that began by it go on. Raises Unknown or Unavailable."""
        async with self._changing:
            with self._ledger.asked("", "strategy remove", by, name, lambda: self.tag(name)) as entry:
                self.get(name)
                entry.about_to(f"the strategy '{name}' is removed; rollouts that began by it go on")

                def drop() -> None:
                    self._books.strategies.pop(name, None)

                changes = (DropStrategy(name), entry.result())
                await self._saver.wait(self._saver.put(Saving(changes, "", drop)))


def _words(path: str, what: str) -> str:
    return f"strategy.{path}: {what}" if path else f"strategy: {what}"
