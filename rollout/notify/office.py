"""The notifications of one server: by its file as it was last right, and through Apprise."""

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

import structlog

from rollout.calls import Calls
from rollout.errors import Unknown
from rollout.notify.loading import Loaded, load
from rollout.notify.notifier import Following, Notifier, World
from rollout.notify.plan import unwise
from rollout.notify.words import Message
from rollout.record import Change
from rollout.saver import Saver, Saving
from xds.errors import InvalidConfig

SPARE_S = 1.0  # Apprise has limits of its own, some of which are of the same length


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What is around: the events, who saves, the time. `public_url` is where people reach the page, None: unknown."""

    feed: Following
    saver: Saver
    clock: Callable[[], float]
    wall: Callable[[], datetime]
    public_url: str | None = None


class Office:
    """Without a file nobody is told of anything, and nothing of Apprise is loaded."""

    def __init__(self, path: Path | None, around: Surroundings) -> None:
        self._path = path
        self._around = around
        self._calls = Calls()
        self._log = structlog.get_logger()
        self._post: Any = None
        self._notifier: Notifier | None = None

    @property
    def notifier(self) -> Notifier:
        """Raises Unknown where there are no notifications."""
        if self._notifier is None:
            raise Unknown("this server tells nobody: start it with `rollout serve --notify FILE`")
        return self._notifier

    @property
    def is_open(self) -> bool:
        return self._notifier is not None

    async def open(self, cursors: Mapping[str, int]) -> None:
        """Read the file, if there is one. Raises InvalidConfig."""
        if self._path is None:
            return
        around = self._around
        loaded = await asyncio.to_thread(self._load, self._path)
        world = World(
            around.feed,
            self._send,
            self._post.shown,
            self._save,
            self._untold,
            around.clock,
            around.wall,
            around.public_url,
        )
        self._notifier = Notifier(world, loaded, cursors)
        self._log.info("notifications", targets=sorted(loaded.addresses))
        for warning in unwise(loaded.plan):
            self._log.warning("notifications", warning=warning)

    async def run(self) -> None:
        """Until cancelled."""
        if self._notifier is None:
            await asyncio.Event().wait()
        else:
            await self._notifier.run()

    async def reload(self) -> tuple[str, ...]:
        """Read the file again, and return what is wrong or unwise in it; where it is wrong the last good one stays."""
        if self._path is None or self._notifier is None:
            return ()
        try:
            loaded = await asyncio.to_thread(self._load, self._path)
        except InvalidConfig as error:
            self._log.warning("notifications refused; the last good ones stay", reason=str(error))
            return tuple(f"{problem}; the last good notifications stay" for problem in error.problems)
        self._notifier.load(loaded)
        return unwise(loaded.plan)

    def _load(self, path: Path) -> Loaded:
        # Apprise is some hundred modules: half a second, which only a server that uses it should take.
        self._post = import_module("rollout.notify.post")
        return load(path, self._post.check)

    async def _send(self, url: str, message: Message, timeout_s: float) -> None:
        await self._calls.run(partial(self._post.send, url, message), timeout_s + SPARE_S, of=url)

    def _save(self, changes: tuple[Change, ...]) -> Saving:
        return self._around.saver.put(Saving(changes))

    def _untold(self, target: str, message: Message, why: str) -> None:
        self._log.warning("notification given up", target=target, about=message.title, last=message.last, reason=why)
