"""The saved events in their order, for all who follow them: each with a place of its own, woken by what is new."""

import asyncio
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice, takewhile

from rollout.errors import Unavailable
from rollout.happenings import Event, Wanted
from rollout.record import Change, PutEvent, PutOperation
from rollout.store import Chronicle

AT_HAND = 2_000  # the newest, in memory: who follows closely asks no disk
BATCH = 500
RETRY_S = 0.5
ALL = Wanted()


@dataclass(frozen=True, slots=True)
class Page:
    """Events in their order; `next` is the id after which to go on, though what is before it may not be wanted."""

    events: tuple[Event, ...]
    next: int


class Feed:
    """Follows the store. Nothing is told before it is saved, so what was told is there after a restart, too."""

    def __init__(self, chronicle: Chronicle) -> None:
        self._chronicle = chronicle
        self._recent: deque[Event] = deque(maxlen=AT_HAND)
        self._saved = asyncio.Event()
        self._news = asyncio.Event()  # another one each time: whoever waits holds the one that will be set
        self.last = 0
        """The newest id that was saved."""
        self.oldest = 1
        """The oldest id that was kept when this server started; what came later is kept for long."""
        self.ended = False
        """The server stops: nobody follows any more."""

    async def open(self) -> None:
        """Take in what is there. Raises Unavailable."""
        self.oldest, self.last = await self._chronicle.span()
        self._recent.extend(await self._chronicle.events(self.last - AT_HAND, AT_HAND, ALL))

    async def run(self) -> None:
        """Take in what was saved, until cancelled."""
        while True:
            await self._saved.wait()
            self._saved.clear()
            try:
                await self._take()
            except Unavailable:  # it is saved all the same, and read when it can be
                self._saved.set()
                await asyncio.sleep(RETRY_S)

    def saved(self, changes: Sequence[Change]) -> None:
        """Hear of a batch that was saved."""
        if any(_tells(each) for each in changes):
            self._saved.set()

    def end(self) -> None:
        """Have all who follow go home."""
        self.ended = True
        self._wake()

    async def changed(self, after: int) -> None:
        """Return once there is a newer event than this id, or the feed has ended."""
        while self.last <= after and not self.ended:
            await self._news.wait()

    async def read(self, after: int, limit: int = BATCH, wanted: Wanted = ALL) -> tuple[Event, ...]:
        """Return at most `limit` events after this id, the oldest first. Raises Unavailable."""
        return (await self.page(after, limit, wanted)).events

    async def page(self, after: int, limit: int, wanted: Wanted) -> Page:
        """Return what comes after an id, with where to go on. Raises Unavailable."""
        last = self.last
        if after >= last:
            return Page((), after)
        if self._recent and self._recent[0].id <= after + 1:
            fresh = tuple(takewhile(lambda each: each.id > after, reversed(self._recent)))
            events = tuple(islice(filter(wanted.takes, reversed(fresh)), limit))
        else:
            found = await self._chronicle.events(after, limit, wanted)
            events = tuple(each for each in found if each.id <= last)
        return Page(events, events[-1].id if len(events) == limit else last)

    async def page_before(self, before: int, limit: int, wanted: Wanted) -> Page:
        """Return the last events before an id. Raises Unavailable."""
        events = await self._chronicle.events_before(min(before, self.last + 1), limit, wanted)
        return Page(events, min(before - 1, self.last))

    async def gone(self, after: int) -> int | None:
        """Return the oldest id that is kept, when some after this one are gone or it is none of ours; else None.

        Raises Unavailable.
        """
        if after > self.last:  # of a database that was there before this one
            return self.oldest
        if after == self.last:
            return None
        if self._recent and self._recent[0].id <= after:
            return None if any(each.id == after for each in self._recent) else self.oldest
        self.oldest, _ = await self._chronicle.span()
        if after < self.oldest:
            return self.oldest if after + 1 < self.oldest else None
        # Ids follow each other: one that there is not was heard from a database in whose place a backup was put.
        known = await self._chronicle.events(after - 1, 1, ALL)
        return None if known and known[0].id == after else self.oldest

    async def _take(self) -> None:
        while events := await self._chronicle.events(self.last, BATCH, ALL):
            self._recent.extend(events)
            self.last = events[-1].id
            self._wake()

    def _wake(self) -> None:
        self._news.set()
        self._news = asyncio.Event()


def _tells(change: Change) -> bool:
    return isinstance(change, PutEvent) or (isinstance(change, PutOperation) and change.event is not None)
