"""Tells targets of events: each follows the feed at a place of its own, and none waits for another."""

import asyncio
import contextlib
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Protocol

from rollout.cursors import DropCursor, PutCursor
from rollout.errors import RolloutError, Unavailable, Unknown
from rollout.happenings import Event, Severity
from rollout.notify.loading import Loaded
from rollout.notify.pace import Budget, backoff_s
from rollout.notify.plan import Plan
from rollout.notify.words import Message, Words
from rollout.record import Change
from rollout.saver import Saving

PAGE = 500
FOLDED_LIMIT = 5_000  # events of one message
RETRY_S = 1.0
BEHIND_LIMIT = 1_000  # events that concern nobody are looked at again after a restart, but not more


class Following(Protocol):
    """The saved events, as the feed has them."""

    last: int
    ended: bool

    async def changed(self, after: int) -> None: ...
    async def read(self, after: int, limit: int) -> tuple[Event, ...]: ...
    async def gone(self, after: int) -> int | None: ...


@dataclass(frozen=True, slots=True)
class World:
    """What the notifier is given.

    `send` tells an address once, within so many seconds, and raises Unavailable; `shown` is an address without its
    secrets. `save` puts changes with what is saved. `untold` hears of a message that was given up, and why.
    `public_url` is where people reach the page, None where nobody has said.
    """

    feed: Following
    send: Callable[[str, Message, float], Awaitable[None]]
    shown: Callable[[str], str]
    save: Callable[[tuple[Change, ...]], Saving]
    untold: Callable[[str, Message, str], None]
    clock: Callable[[], float]
    wall: Callable[[], datetime]
    public_url: str | None = None


@dataclass(frozen=True, slots=True)
class Report:
    """How it stands with one target: `fault` is why it does not take what it is sent, "" while it does.

    `waiting` counts events that it is still to be told of, `given_up` messages that it never got.
    """

    target: str
    address: str
    delivered_at: datetime | None
    waiting: int
    fault: str
    delivered: int
    given_up: int


@dataclass(slots=True)
class _Box:
    """One target: it was told of all up to `cursor`, of which all up to `saved` is saved."""

    cursor: int
    saved: int
    budget: Budget = field(default_factory=Budget)
    waiting: int = 0
    fault: str = ""
    delivered_at: datetime | None = None
    counts: Counter[str] = field(default_factory=Counter)
    lost: int = 0  # messages that were given up since one was delivered


class Notifier:
    """At least once and in order for each target; who cannot be told is tried again, and given up after a while."""

    def __init__(self, world: World, loaded: Loaded, cursors: Mapping[str, int]) -> None:
        self._world = world
        self._boxes = {name: _Box(cursor, cursor) for name, cursor in cursors.items()}
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._moved = asyncio.Event()
        self._loaded_again = asyncio.Event()  # another one each time
        self._dropped: set[str] = set()
        self._words = Words()
        self._plan, self._addresses = Plan(), dict[str, str]()
        self.load(loaded)

    def load(self, loaded: Loaded) -> None:
        """Go by this plan from now on. A target that is new is told of what happens from now on."""
        self._plan, self._addresses = loaded.plan, dict(loaded.addresses)
        self._words = self._plan.words(self._world.public_url)
        last = self._world.feed.last
        for name in self._plan.targets:
            box = self._boxes.setdefault(name, _Box(last, -1))
            box.cursor = min(box.cursor, last)  # of a database that was there before this one
        self._dropped |= self._boxes.keys() - self._plan.targets.keys()
        self._boxes = {name: self._boxes[name] for name in self._plan.targets}
        self._dropped -= self._boxes.keys()
        self._moved.set()
        self._loaded_again.set()
        self._loaded_again = asyncio.Event()

    async def run(self) -> None:
        """Until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._keep())
            while True:
                again = self._loaded_again
                for name in self._tasks.keys() - self._boxes.keys():
                    self._tasks.pop(name).cancel()
                for name in self._boxes.keys() - self._tasks.keys():
                    self._tasks[name] = group.create_task(self._follow(name))
                await again.wait()

    def reports(self) -> tuple[Report, ...]:
        """Return how it stands with each target."""
        return tuple(
            Report(
                name,
                self._world.shown(self._addresses[name]),
                box.delivered_at,
                box.waiting,
                box.fault,
                box.counts["delivered"],
                box.counts["given_up"],
            )
            for name, box in sorted(self._boxes.items())
        )

    def check_target(self, target: str | None) -> None:
        """Raise Unknown where there is no such target; None is all of them."""
        if target is not None and target not in self._boxes:
            raise Unknown(f"there is no target '{target}'; there are {', '.join(self._boxes) or 'none'}")

    async def test(self, target: str | None) -> Mapping[str, str]:
        """Send a message to a target, or to all; return by name why it did not get there, "" where it did."""
        names = sorted(self._boxes) if target is None else [target]
        return dict(zip(names, await asyncio.gather(*map(self._tested, names)), strict=True))

    async def _tested(self, name: str) -> str:
        body = f"This is what '{name}' gets from envoy-rollout. Somebody has asked for it; nothing is wrong."
        try:
            await self._send(name, Message("A test of envoy-rollout", body, Severity.INFO, 0))
        except RolloutError as error:
            return str(error)
        return ""

    async def _send(self, name: str, message: Message) -> None:
        await self._world.send(self._addresses[name], message, self._plan.limit.timeout.total_seconds())

    async def _follow(self, name: str) -> None:
        box, feed = self._boxes[name], self._world.feed
        while not feed.ended:
            await feed.changed(box.cursor)
            try:
                oldest = await feed.gone(box.cursor)
                if oldest is not None:
                    box.cursor = oldest - 1
                pending, looked = await self._pending(name, box.cursor)
            except Unavailable:  # the disk's fault, which others tell of
                await asyncio.sleep(RETRY_S)
                continue
            box.waiting = len(pending)
            if not pending:
                self._move(box, looked)
                continue
            per_minute = self._plan.limit.per_minute
            left = box.budget.left(per_minute, self._world.clock())
            if left < 1:
                await asyncio.sleep(box.budget.wait_s(per_minute))  # what comes until then is told together
                continue
            box.budget.take()
            many = len(pending) > 1 and left == 1
            message = self._words.folded(pending) if many else self._words.message(pending[0])
            await self._deliver(name, message)
            box.waiting = max(0, box.waiting - message.events)
            box.cursor = message.last
            self._moved.set()

    async def _pending(self, name: str, after: int) -> tuple[list[Event], int]:
        """Return what a target is to be told of, and up to which event that was looked for."""
        found: list[Event] = []
        while len(found) < FOLDED_LIMIT:
            page = await self._world.feed.read(after, PAGE)
            if not page:
                break
            found += [event for event in page if self._plan.tells(name, event)]
            after = page[-1].id
        return found, after

    def _move(self, box: _Box, looked: int) -> None:
        box.cursor = looked
        if looked - box.saved >= BEHIND_LIMIT:
            self._moved.set()

    async def _deliver(self, name: str, message: Message) -> None:
        """Return once it has arrived, or is given up."""
        box, world = self._boxes[name], self._world
        began_s, attempt = world.clock(), 0
        while True:
            attempt += 1
            again = self._loaded_again
            try:
                await self._send(name, self._with_losses(box, message))
            except RolloutError as error:
                box.fault = str(error)
                box.counts["failed"] += 1
            else:
                box.fault, box.lost, box.delivered_at = "", 0, world.wall()
                box.counts["delivered"] += 1
                return
            wait_s = backoff_s(attempt)
            if world.clock() - began_s + wait_s > self._plan.limit.give_up.total_seconds():
                box.counts["given_up"] += 1
                box.lost += 1
                world.untold(name, message, box.fault)
                return
            with contextlib.suppress(TimeoutError):  # another address is tried at once
                async with asyncio.timeout(wait_s):
                    await again.wait()

    def _with_losses(self, box: _Box, message: Message) -> Message:
        if not box.lost:
            return message
        messages = "message was" if box.lost == 1 else "messages were"
        body = f"{message.body}\n{box.lost} {messages} given up before this one: rollout events has them."
        return Message(message.title, body, message.severity, message.last, message.events)

    async def _keep(self) -> None:
        """Save how far each target was told, the latest only."""
        while True:
            await self._moved.wait()
            self._moved.clear()
            moved = {name: box.cursor for name, box in self._boxes.items() if box.cursor != box.saved}
            dropped: tuple[Change, ...] = tuple(map(DropCursor, sorted(self._dropped)))
            changes = (*dropped, *(PutCursor(*each) for each in moved.items()))
            self._dropped.clear()
            if not changes:
                continue
            saving = self._world.save(changes)
            await saving.saved.wait()
            for name, cursor in moved.items():
                if name in self._boxes:
                    self._boxes[name].saved = cursor
