"""What documents say is compared with how all stands, told as a plan, and carried out. To ask again is harmless."""

import hashlib
import json
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, assert_never

from rollout.backends import Backends
from rollout.controller import Controller
from rollout.declared.documents import Problem, StrategyDocument, Written, parse, problem
from rollout.declared.planning import plan, to_do
from rollout.declared.secrets import unknown_secrets
from rollout.declared.steps import IDLE, Action, Placed, Situation, Standing, Step, Wanted, Wishes, step_view
from rollout.declared.writing import documents as written_documents
from rollout.declared.writing import only_named, with_secrets
from rollout.discovering import Discovering
from rollout.discovery.kept import Discovery
from rollout.errors import Conflict, InvalidSpec, Rehearsed, RolloutError, Unavailable
from rollout.faults import path_words
from rollout.operations import Operations
from rollout.record import Version
from rollout.rights import Asker
from rollout.spec import Deployment, Endpoint, parse_endpoint
from rollout.strategies import Strategies
from rollout.traffic.fitting import check_fits

MOST_DOCUMENTS = 10_000
_TELLING = (Action.CREATE, Action.CHANGE, Action.ROLLOUT, Action.SUPERSEDE)


@dataclass(frozen=True, slots=True)
class Planned:
    """The steps at one moment. `fingerprint` is that of the documents, the steps, and what they rest on."""

    steps: tuple[Step, ...]
    warnings: tuple[str, ...]
    fingerprint: str

    @property
    def changes(self) -> int:
        return to_do(self.steps)


class Declaring:
    """Plans and applies documents, and writes them."""

    def __init__(
        self,
        controller: Controller,
        operations: Operations,
        backends: Backends,
        strategies: Strategies,
        discovering: Discovering,
    ) -> None:
        self._controller = controller
        self._books = controller.books
        self._operations = operations
        self._backends = backends
        self._discovering = discovering
        self.strategies = strategies

    # --- how all stands ---

    def situation(self, services: Collection[str]) -> Situation:
        standing = {each: self._standing(each) for each in self._controller.services() if each in services}
        return Situation(dict(self._books.strategies), standing)

    def _standing(self, service: str) -> Standing:
        books = self._books
        versions = {each.name: self._placed(each) for each in books.versions(service)}
        rollout, queued = books.rollouts.get(service), books.queued.get(service)
        past = {each.name: each for each in books.past_versions(service)}
        in_progress = self._controller.in_progress(service)
        return Standing(service, books.stable(service), versions, rollout, in_progress, queued, past)

    def _placed(self, version: Version) -> Placed:
        drains = self._books.backends(version.service)
        leaving = frozenset(each.address for each in drains if each.version == version.name and each.leaves)
        if version.endpoints is not None:
            source = version.discovery
            return Placed(version.endpoints, leaving, discover=None if source is None else source.discover)
        try:
            return Placed(self._controller.publisher.own_endpoints(version.service), leaving, from_files=True)
        except Conflict:  # groups of proxies are given other ones
            addresses = tuple(map(parse_endpoint, self._books.placed(version)))
            return Placed(addresses, leaving, from_files=True, located=False)

    def export(self, services: Collection[str]) -> tuple[dict[str, Any], ...]:
        """Return the documents of these services, and all strategies: a plan finds them unchanged."""
        return tuple(written_documents(self.situation(services), services))

    def export_only(self, services: Collection[str]) -> tuple[dict[str, Any], ...]:
        """Return the documents of these services, and the strategies that these name."""
        return tuple(only_named(self.export(services)))

    # --- plan ---

    def plan(self, documents: Sequence[Any], wishes: Wishes, services: Collection[str]) -> Planned:
        """Say what would be done, of these services. Raises InvalidSpec with all that is wrong, a line each."""
        if not documents and wishes.prune:  # by a mistake of whoever wrote them: every strategy would go
            raise InvalidSpec("documents: is empty, and `prune` would remove every strategy; send at least one")
        if len(documents) > MOST_DOCUMENTS:
            raise InvalidSpec(f"documents: are {len(documents)}; send up to {MOST_DOCUMENTS}")
        now = self.situation(services)
        written = [
            Written("", number, with_secrets(document, now)) for number, document in enumerate(documents, start=1)
        ]
        declared, problems = parse(written)
        problems = problems or tuple(_without_secrets(written))
        if not problems:
            steps, found = plan(declared, now, wishes)
            problems = (*found, *self._not_here(steps))
        if problems:
            raise InvalidSpec("\n".join(map(str, problems)))
        warnings = tuple(
            f"documents[{each.written.number - 1}].{warning.path}: {warning.what}"
            for each in declared.strategies.values()
            for warning in each.warnings
        )
        return Planned(steps, warnings, _fingerprint(documents, steps, wishes, now))

    def _not_here(self, steps: Sequence[Step]) -> Iterator[Problem]:
        """Yield what this server may not or cannot do."""
        for step in steps:
            if step.wish is None or step.action not in _TELLING:
                continue
            try:
                self._controller.outside.permit(step.wish.strategy)
                if isinstance(step.wish, Wanted):
                    check_fits(self._controller.publisher, step.name, step.wish.strategy)
            except InvalidSpec as error:
                if isinstance(step.wish, Wanted):
                    yield problem(step.wish.document.written, ("strategy",), str(error))
                else:
                    yield problem(step.wish.written, (), str(error))

    # --- apply ---

    async def apply(self, planned: Planned, by: Asker) -> Planned:
        """Do what was planned just now. Raises Conflict or Unavailable where a step failed; the others are done."""
        if by.rehearses:
            words = "; ".join(f"{step.resource}: {step.words}" for step in planned.steps)
            raise Rehearsed(words or "nothing: there is no document", changes=planned.changes > 0)
        failed: list[tuple[Step, RolloutError]] = []
        for step in planned.steps:
            try:
                await self._do(step, by)
            except RolloutError as error:
                failed.append((step, error))
        if failed:
            done = planned.changes - len(failed)
            words = "; ".join(f"{step.resource}: {error}" for step, error in failed)
            what = f"{done} of {planned.changes} changes are done, the others are not: {words}"
            kind = Unavailable if any(isinstance(error, Unavailable) for _, error in failed) else Conflict
            raise kind(f"{what}; apply again when that is out of the way")
        return replace(planned, steps=tuple(map(self._begun, planned.steps)))

    async def _do(self, step: Step, by: Asker) -> None:
        wish = step.wish
        match step.action:
            case Action.NONE | Action.HELD | Action.WAITS:
                return
            case Action.REMOVE:
                await self.strategies.remove(step.name, by)
            case Action.CREATE | Action.CHANGE:
                assert isinstance(wish, StrategyDocument), step
                await self.strategies.put(step.name, wish.content, by)
            case Action.ADOPT | Action.BACKENDS | Action.ROLLOUT | Action.SUPERSEDE:
                assert isinstance(wish, Wanted), step
                await self._move(step, wish, by)
            case _:
                assert_never(step.action)

    async def _move(self, step: Step, wanted: Wanted, by: Asker) -> None:
        service, version = step.name, wanted.version
        if step.action is Action.ADOPT:
            await self._operations.adopt(service, version, by)
        elif step.action is Action.BACKENDS:
            await self._place(service, wanted, by)
        elif step.action is Action.ROLLOUT:
            endpoints, found = await self._found(wanted, by)
            await self._operations.deploy(_deployment(wanted, endpoints), by, found)
        else:
            await self._supersede(service, wanted, by)

    async def _found(self, wanted: Wanted, by: Asker) -> tuple[tuple[Endpoint, ...], Discovery | None]:
        """Return where a new version runs, and how that is found. Raises Unavailable."""
        if wanted.discover is None:
            return wanted.endpoints or (), None
        return await self._discovering.first(wanted.discover), self._discovering.said(wanted.discover, str(by))

    async def _place(self, service: str, wanted: Wanted, by: Asker) -> None:
        """Have a version that is there run where a document says."""
        if wanted.discover is not None:
            await self._discovering.set(service, wanted.version, wanted.discover, by)
        elif wanted.endpoints is not None:
            placed = self._standing(service).versions.get(wanted.version)
            if placed is not None and placed.discover is not None:
                await self._discovering.remove(service, wanted.version, by)
            endpoints = wanted.endpoints if placed is None else placed.completed(wanted.endpoints)
            await self._backends.place(service, wanted.version, endpoints, by)

    async def _supersede(self, service: str, wanted: Wanted, by: Asker) -> None:
        """Take back what is in progress; to go back to a version that is there, it is named as it runs."""
        standing = self._standing(service)
        placed = standing.versions.get(wanted.version)
        going_back = placed is not None and wanted.version == standing.stable
        if placed is not None and going_back:
            await self._operations.supersede(_deployment(wanted, placed.endpoints), by)
            await self._place(service, wanted, by)
        else:
            endpoints, found = await self._found(wanted, by)
            await self._operations.supersede(_deployment(wanted, endpoints), by, found)

    def _begun(self, step: Step) -> Step:
        """Return a step with the rollout that is to be waited for, now that it is done."""
        if step.kind != "service" or step.action is Action.WAITS:
            return step
        rollout = self._books.rollouts.get(step.name)
        if rollout is None or not self._controller.in_progress(step.name):
            return step
        behind = step.name in self._books.queued
        return replace(step, rollout=rollout.id + 1 if behind else rollout.id)


def check_fingerprint(planned: Planned, fingerprint: str) -> None:
    """Raise Conflict when a plan is not the one that somebody agreed to."""
    if fingerprint and fingerprint != planned.fingerprint:
        what = "things have changed since that plan was made, or its documents or options"
        raise Conflict(f"{what}; plan again, and apply what it says; nothing was changed")


def at_stake(planned: Planned) -> tuple[str | None, ...]:
    """Return the services that are named, and None where what is of the whole fleet changes.

    A service that stays as it is now counts too: who may not change it must not read that it only waits.
    """
    steps = (step for step in planned.steps if step.kind == "service" or step.action not in IDLE)
    return tuple(dict.fromkeys(step.name if step.kind == "service" else None for step in steps))


def _deployment(wanted: Wanted, endpoints: tuple[Endpoint, ...]) -> Deployment:
    return Deployment(
        service=wanted.document.service, version=wanted.version, endpoints=endpoints, strategy=wanted.strategy
    )


def _without_secrets(written: Sequence[Written]) -> Iterator[Problem]:
    for each in written:
        for fault in unknown_secrets(each.content):
            yield Problem("", each.number, path_words(fault.path), None, fault.what)


def _fingerprint(documents: Sequence[Any], steps: Sequence[Step], wishes: Wishes, now: Situation) -> str:
    """Equal for equal documents, options, steps, and what has happened to what they name."""
    named = {step.name for step in steps}
    revisions = {name: each.revision for name, each in now.strategies.items() if name in named}
    rollouts = {name: each.rollout and each.rollout.id for name, each in now.services.items() if name in named}
    options = [wishes.retry, wishes.supersede, wishes.prune]
    views = [{**step_view(step), "words": ""} for step in steps]
    whole = json.dumps([documents, options, views, revisions, rollouts], sort_keys=True)
    return hashlib.sha256(whole.encode()).hexdigest()[:32]
