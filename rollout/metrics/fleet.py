"""The latest stats of every Envoy of the fleet, kept fresh in rounds."""

import asyncio
import contextlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from rollout.errors import Unavailable
from rollout.metrics.admin import EnvoyAdmin
from rollout.metrics.envoy import Query, Scrape

SCRAPES_AT_ONCE = 64
DOUBTFUL_AT_ONCE = 64
NAPS, LEAST_NAP_S = 5, 0.1


@dataclass(frozen=True, slots=True)
class Failure:
    """Since when an Envoy could not be read, on the admin client's clock, and why the last attempt failed."""

    since_s: float
    why: str


class FleetScraper:
    """Scrapes all targets each interval; each result is stored the moment it arrives.

    `targets` gives the admin address by node id, `questions` what tells by node what to ask it (None: nothing now, so
    it is not read) and `interval_s` the pause: all three are asked in every round, the last one also while it sleeps.
    `on_scrape` hears the node id of every attempt that ended, well or not.

    An endpoint that is still being scraped is left out of the round, and those that failed last time wait only for each
    other: however many of them hang, those that answer are read in time.
    """

    def __init__(
        self,
        admin: EnvoyAdmin,
        targets: Callable[[], Mapping[str, str]],
        questions: Callable[[], Callable[[str], Query | None]],
        interval_s: Callable[[], float],
        on_scrape: Callable[[str], None],
    ) -> None:
        self._admin = admin
        self._targets = targets
        self._questions = questions
        self._interval_s = interval_s
        self._on_scrape = on_scrape
        self._at_once = asyncio.Semaphore(SCRAPES_AT_ONCE)
        self._doubtful_at_once = asyncio.Semaphore(DOUBTFUL_AT_ONCE)
        self._addresses: Mapping[str, str] = {}
        self._in_flight: set[str] = set()
        self._latest: dict[str, Scrape] = {}
        self._failures: dict[str, Failure] = {}

    @property
    def latest(self) -> Mapping[str, Scrape]:
        """The last good scrape by node id; it stays while later ones fail, so look at its time and at `failures`."""
        return MappingProxyType(self._latest)

    @property
    def failures(self) -> Mapping[str, Failure]:
        """By node id, the Envoys whose last scrape failed."""
        return MappingProxyType(self._failures)

    async def survey(self, query: Query) -> Mapping[str, Scrape]:
        """Ask every target this one question now; those that do not answer are left out."""

        async def ask(node_id: str, address: str) -> Scrape | None:
            async with self._lane(node_id):
                with contextlib.suppress(Unavailable):
                    return await self._admin.scrape(address, query)
            return None

        targets = dict(self._targets())
        answers = await asyncio.gather(*(ask(*target) for target in targets.items()))
        return {node_id: answer for node_id, answer in zip(targets, answers, strict=True) if answer is not None}

    async def run(self) -> None:
        """Until cancelled."""
        try:
            async with asyncio.TaskGroup() as scrapes:
                while True:
                    for node_id, (address, query) in self._next_round().items():
                        scrapes.create_task(self._scrape(node_id, address, query), name=f"scrape {node_id}")
                    await self._pause()
        finally:
            self._admin.close()

    async def _pause(self) -> None:
        """In naps, for it may get shorter meanwhile: a stage that has just begun is read at once."""
        clock = asyncio.get_running_loop().time
        began_s = clock()
        while True:
            pause_s = self._interval_s()
            left_s = began_s + pause_s - clock()
            if left_s <= 0:
                return
            await asyncio.sleep(min(left_s, max(LEAST_NAP_S, pause_s / NAPS)))

    def _next_round(self) -> Mapping[str, tuple[str, Query]]:
        """Forgets who is no target any more, or not there; claims those that are to be asked and not in flight."""
        self._addresses = targets = dict(self._targets())
        self._admin.keep(frozenset(targets.values()))
        for node_id in self._failures.keys() - targets.keys():
            del self._failures[node_id]
        for node_id in [each for each, scrape in self._latest.items() if targets.get(each) != scrape.address]:
            del self._latest[node_id]
        due: dict[str, tuple[str, Query]] = {}
        question = self._questions()
        for node_id in targets.keys() - self._in_flight:
            query = question(node_id)
            if query is not None:
                due[node_id] = (targets[node_id], query)
        self._in_flight.update(due)
        return due

    def _lane(self, node_id: str) -> asyncio.Semaphore:
        return self._doubtful_at_once if node_id in self._failures else self._at_once

    async def _scrape(self, node_id: str, address: str, query: Query) -> None:
        try:
            async with self._lane(node_id):
                started_s = self._admin.clock()
                try:
                    outcome: Scrape | Failure = await self._admin.scrape(address, query)
                except Unavailable as error:
                    outcome = Failure(started_s, str(error))
        finally:
            self._in_flight.discard(node_id)
        self._store(node_id, address, outcome)

    def _store(self, node_id: str, address: str, outcome: Scrape | Failure) -> None:
        """An answer from where the node is not (any more) says nothing of it."""
        if self._addresses.get(node_id) != address:
            return
        match outcome:
            case Scrape():
                self._latest[node_id] = outcome
                self._failures.pop(node_id, None)
            case Failure(why=why):
                first = self._failures.get(node_id, outcome)
                self._failures[node_id] = Failure(first.since_s, why)
        self._on_scrape(node_id)
