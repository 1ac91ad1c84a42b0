"""Follows where the backends of versions are found, and changes the versions by it: with the drains of all others."""

import asyncio
import random
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import datetime
from enum import StrEnum

from rollout.backends import Backends, Scaling
from rollout.books import name_of
from rollout.controller import Controller
from rollout.discovery.answer import Answer
from rollout.discovery.decide import Plan, located, plan, unlocated
from rollout.discovery.kept import Discovery
from rollout.discovery.source import Discover
from rollout.discovery.telling import Telling
from rollout.errors import Conflict, RolloutError, Unavailable, Unknown
from rollout.happenings import Event, EventKind, Severity
from rollout.holding import held
from rollout.ledger import Entry, Ledger
from rollout.record import PutEvent, PutService, PutVersion, Service, Version
from rollout.rights import Asker
from rollout.saver import Saving
from rollout.spare import check_spare
from rollout.spec import Endpoint
from rollout.state import Phase
from xds.errors import XdsError

TICK_S = 0.2
SOON_S = 1.0  # after a change that somebody else makes just now, and between queries that wait for a change
FIRST_S = 8.0  # a deployment waits so long for the first answer, and the command line for 10 s
LONGEST_FRESH_S = 300.0  # a TTL of days is obeyed so far
AT_ONCE = 50  # sources that are asked
FAULT_CHARACTERS = 500
UNSAVED_LIMIT = 500  # events that wait for the disk; beyond, what is stale is only in the log


class Status(StrEnum):
    """How a source stands: not asked yet; followed; or not followed now, and then nothing is changed."""

    UNASKED = "unasked"
    FRESH = "fresh"
    STALE = "stale"


@dataclass(frozen=True, slots=True)
class Around:
    """What is around it. `check` raises InvalidSpec for a source that cannot be asked here, `ask` returns an answer.

    `clock` is the engine's, `wall` for people. `later` makes a pause a little longer, so that not all ask at once.
    `told` hears when a source becomes stale, or is fresh again.
    """

    check: Callable[[Discover], None]
    ask: Callable[[Discover, Answer | None], Awaitable[Answer]]
    clock: Callable[[], float]
    wall: Callable[[], datetime]
    later: Callable[[float], float]
    told: Callable[["Report"], None]


@dataclass(frozen=True, slots=True)
class Report:
    """How the source of a version stands. `fault` is why it is stale, "" where it is not.

    `endpoints` are those of the last answer, at `answered_at`, both empty before the first; `missing` has by address in
    how many answers each backend was missing; `next_s` is the engine's time of the next look, None for one under way.
    `warning` says what is unwise in what the version has by it, "" for nothing.
    """

    service: str
    version: str
    discovery: Discovery
    status: Status
    fault: str
    endpoints: tuple[Endpoint, ...]
    answered_at: datetime | None
    missing: Mapping[str, int]
    next_s: float | None
    warning: str = ""


@dataclass(slots=True)
class _Watch:
    """A version whose source is followed. `busy`: its service was being changed when it was looked at last.

    `acting`: its own change is being saved now, which nobody may cut short.
    """

    service: str
    version: str
    discovery: Discovery
    status: Status = Status.UNASKED
    fault: str = ""
    answer: Answer | None = None
    answered_at: datetime | None = None
    missing: Mapping[str, int] = field(default_factory=dict)
    next_s: float | None = None
    busy: bool = False
    acting: bool = False
    telling: Telling = field(default_factory=Telling)
    task: asyncio.Task[None] | None = None

    def report(self) -> Report:
        endpoints = () if self.answer is None else self.answer.endpoints
        return Report(
            self.service,
            self.version,
            self.discovery,
            self.status,
            self.fault,
            endpoints,
            self.answered_at,
            self.missing,
            self.next_s,
        )


class Discovering:
    """Each source is followed in a task of its own, so one that hangs delays no other.

    What it does follows from the last answer and the books alone, so a restart in the midst of it loses nothing.
    """

    def __init__(
        self, controller: Controller, backends: Backends, ledger: Ledger, around: Around, *, tick_s: float = TICK_S
    ) -> None:
        self._controller = controller
        self._backends = backends
        self._ledger = ledger
        self._around = around
        self._tick_s = tick_s
        self._books = controller.books
        self._watches: dict[tuple[str, str], _Watch] = {}
        self._at_once = asyncio.Semaphore(AT_ONCE)

    # --- what may be asked ---

    def reports(self) -> tuple[Report, ...]:
        """Return how each source stands, by service and version; those too that were set just now."""
        found = {}
        for version in self._books.discovered():
            assert version.discovery is not None
            key = version.service, version.name
            watch = self._watches.get(key)
            known = watch is not None and watch.discovery == version.discovery
            found[key] = watch if watch is not None and known else _Watch(*key, version.discovery)
        return tuple(replace(found[key].report(), warning=self._unlocated(*key)) for key in sorted(found))

    def report(self, service: str, version: str) -> Report:
        """Return how one stands. Raises Unknown."""
        self._record(service, version)
        found = next((each for each in self.reports() if (each.service, each.version) == (service, version)), None)
        if found is None:
            what = f"the backends of '{version}' of '{service}' are not discovered"
            raise Unknown(f"{what}; `rollout discovery set` says where they are found")
        return found

    async def first(self, discover: Discover) -> tuple[Endpoint, ...]:
        """Return what a source says now. Raises InvalidSpec, or Unavailable where it names no backend in time."""
        self._around.check(discover)
        try:
            async with asyncio.timeout(FIRST_S):
                answer = await self._around.ask(discover, None)
        except TimeoutError as error:
            raise Unavailable(f"discover: {discover.label} gave no answer within {FIRST_S:g} s") from error
        except RolloutError as error:
            raise Unavailable(f"discover: {discover.label}: {error}") from error
        if not answer.endpoints:
            raise Unavailable(f"discover: {discover.label} answers, but names no backend; is one registered there?")
        return answer.endpoints

    def said(self, discover: Discover, by: str) -> Discovery:
        """Return what is remembered of a source that somebody gives now."""
        return Discovery(discover, by, self._around.wall())

    # --- what may be changed ---

    async def set(self, service: str, version: str, discover: Discover, by: Asker) -> None:
        """Have a version's backends found there from now on. Raises InvalidSpec, Unknown, Conflict or Unavailable."""
        self._record(service, version)
        with self._ledger.asked(service, "discovery set", by, f"{version} by {discover.label}") as entry:
            self._around.check(discover)
            await self._change(service, version, self.said(discover, str(by)), entry)

    async def remove(self, service: str, version: str, by: Asker) -> None:
        """Follow a version's source no more; its backends stay. Raises Unknown, Conflict or Unavailable."""
        self._record(service, version)
        with self._ledger.asked(service, "discovery remove", by, version) as entry:
            await self._change(service, version, None, entry)

    async def _change(self, service: str, version: str, discovery: Discovery | None, entry: Entry) -> None:
        if self._record(service, version).discovery == discovery:
            return
        where = "no source any more" if discovery is None else discovery.discover.label
        with held(self._controller, service, entry):
            await self._controller.up_to_date(service)
            record = replace(self._record(service, version), discovery=discovery)
            entry.about_to(f"the backends of '{version}' of '{service}' are found by {where}")
            stable = Service(service, self._books.stable(service))
            changes = (PutService(stable), PutVersion(record), entry.result())
            await self._controller.change(service, changes, lambda: self._books.settle(stable, record))

    def _record(self, service: str, version: str) -> Version:
        self._controller.check_service(service)
        versions = self._books.versions(service)
        found = next((each for each in versions if each.name == version), None)
        if found is None:
            known = ", ".join(each.name for each in versions)
            raise Unknown(f"'{service}' has no version '{version}' now; it has {known}")
        return found

    # --- life ---

    async def run(self) -> None:
        """Follow the sources, until cancelled."""
        async with asyncio.TaskGroup() as group:
            while True:
                self._follow(group)
                await asyncio.sleep(self._tick_s)

    def _follow(self, group: asyncio.TaskGroup) -> None:
        """End what is no longer wanted, and begin what is."""
        wanted = {(each.service, each.name): each.discovery for each in self._books.discovered()}
        for key, watch in tuple(self._watches.items()):
            if wanted.get(key) != watch.discovery and not watch.acting:
                del self._watches[key]
                if watch.task is not None:
                    watch.task.cancel()
        for key, discovery in wanted.items():
            if key not in self._watches and discovery is not None:
                watch = self._watches[key] = _Watch(*key, discovery)
                watch.task = group.create_task(self._keep(watch), name=f"discovery of {' '.join(key)}")

    async def _keep(self, watch: _Watch) -> None:
        while True:
            watch.next_s = None
            await self._look(watch)
            pause_s = self._around.later(_pause_s(watch))
            watch.next_s = self._around.clock() + pause_s
            await asyncio.sleep(pause_s)

    async def _look(self, watch: _Watch) -> None:
        """Ask the source once, and do what follows from its answer."""
        try:
            answer = await self._answer(watch)
            watch.answer, watch.answered_at = answer, self._around.wall()
            why = await self._act(watch, answer)
        except (RolloutError, XdsError) as error:
            why = str(error)
        except Exception as error:  # noqa: BLE001 - what no source foresaw must not end the fleet's control plane
            why = f"a bug of the server: {type(error).__name__}"
        finally:
            watch.acting = False
        self._tell(watch, why[:FAULT_CHARACTERS])

    async def _answer(self, watch: _Watch) -> Answer:
        discover = watch.discovery.discover
        if _waits(watch):
            return await self._around.ask(discover, watch.answer)
        async with self._at_once:
            return await self._around.ask(discover, watch.answer if discover.consul is None else None)

    async def _act(self, watch: _Watch, answer: Answer) -> str:
        """Change what the answer changes; return why it is not followed, "" where it is."""
        service, version = watch.service, watch.version
        record = self._record(service, version)
        watch.busy = not self._controller.is_quiet(service)
        if watch.busy or self._goes(service, version):
            return watch.fault if watch.busy else ""
        own, kept = self._own(record), self._kept(record)
        made = plan(watch.discovery.discover, located(answer.endpoints, own, kept), kept, watch.missing)
        watch.missing = made.missing
        why = made.why or self._not_ours(service, version, made)
        if why or not (made.add or made.remove):
            return why
        watch.acting = True
        by = Asker(f"discovery {watch.discovery.discover.label}", "the source of the version")
        if made.add:
            await self._backends.scale(service, version, Scaling(add=made.add), by)
        if made.remove:
            # Asked here first: what is refused at each look would fill the records.
            await check_spare(self._controller, service, version, made.remove)
            await self._backends.scale(service, version, Scaling(remove=made.remove), by)
        return ""

    def _kept(self, record: Version) -> tuple[Endpoint, ...]:
        """Return the endpoints of a version without those that are about to leave it."""
        mine = (each for each in self._books.backends(record.service) if each.version == record.name)
        leaving = {each.address for each in mine if each.leaves}
        return tuple(each for each in self._own(record) if each.address not in leaving)

    def _own(self, record: Version) -> tuple[Endpoint, ...]:
        """Return all endpoints of a version. Raises Conflict where groups of proxies are given other ones."""
        return (
            self._controller.publisher.own_endpoints(record.service) if record.endpoints is None else record.endpoints
        )

    def _unlocated(self, service: str, version: str) -> str:
        """Say what a version lacks that its source has placed; "" for nothing."""
        records = self._books.versions(service)
        mine = [each for record in records if record.name == version for each in record.endpoints or ()]
        if all(each.location for each in mine):
            return ""
        every: list[Endpoint] = []
        for record in records:
            with suppress(Conflict):
                every += self._own(record)
        return unlocated(mine, every)

    def _goes(self, service: str, version: str) -> bool:
        """Say whether a rollout lets a version go just now: nobody is added to it any more."""
        rollout = self._books.rollouts.get(service)
        if rollout is None or self._books.over(rollout) or rollout.state.loser is None:
            return False
        going = rollout.state.phase in (Phase.DRAINING, Phase.REMOVING)
        return going and name_of(rollout, rollout.state.loser) == version

    def _not_ours(self, service: str, version: str, made: Plan) -> str:
        """Say which backends of an answer are those of another version; "" for none."""
        added = {each.address for each in made.add}
        for other in self._books.versions(service):
            shared = sorted(added.intersection(self._books.addresses(service, other.name)))
            if other.name != version and shared:
                return f"it names {', '.join(shared[:5])} of '{other.name}'; each version needs backends of its own"
        return ""

    def _tell(self, watch: _Watch, why: str) -> None:
        watch.status, watch.fault = (Status.STALE if why else Status.FRESH), why
        if not watch.telling.is_due(why, self._around.clock()):
            return
        self._around.told(watch.report())
        if self._controller.saver.unsaved("") < UNSAVED_LIMIT:
            self._controller.saver.put(Saving((PutEvent(_event(watch, self._around.wall())),)))


def later(pause_s: float) -> float:
    """Make a pause longer by up to a tenth: what began at the same time does not go on so."""
    return pause_s * random.uniform(1.0, 1.1)  # noqa: S311 - no secret


def _waits(watch: _Watch) -> bool:
    """Say whether the next question waits for a change: not while anything is to be confirmed, or done again."""
    known = watch.answer is not None and bool(watch.answer.mark)
    settled = watch.status is Status.FRESH and not watch.missing and not watch.busy
    return watch.discovery.discover.consul is not None and known and settled


def _pause_s(watch: _Watch) -> float:
    every_s = watch.discovery.discover.every.total_seconds()
    if watch.busy or _waits(watch):
        return min(every_s, SOON_S)
    fresh_s = 0.0 if watch.answer is None or watch.status is Status.STALE else watch.answer.fresh_s
    return max(every_s, min(fresh_s, LONGEST_FRESH_S))


def _event(watch: _Watch, at: datetime) -> Event:
    label = watch.discovery.discover.label
    detail = {"version": watch.version, "source": label, "fault": watch.fault}
    if watch.status is Status.STALE:
        text = f"'{watch.version}' keeps its backends, for {label} is not followed: {watch.fault}"
        return Event(at, EventKind.DISCOVERY_STALE, Severity.WARNING, watch.service, None, text, detail)
    text = f"the backends of '{watch.version}' follow {label} again"
    return Event(at, EventKind.DISCOVERY_FRESH, Severity.NOTICE, watch.service, None, text, detail)
