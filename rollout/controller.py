"""The reconcile loop: observe -> advance -> save -> apply, for every service with a rollout or a drain.

Decisions are synchronous and wait for nothing. They are acted on once they are saved; only a rollback acts first,
so that neither a disk, nor a metric, nor a hanging Envoy stands in its way.
"""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime

from rollout.ailing import Ailing
from rollout.bell import Bell
from rollout.books import Books, name_of
from rollout.checks import Names
from rollout.errors import Conflict, Unavailable, Unknown
from rollout.events import Rhythm, of_step
from rollout.history import History
from rollout.leaving import Around, Leaving
from rollout.machine import advance, by_location, check_stage, in_waves, taken_back, turned_back, wanted, weight_bp
from rollout.message import Endpoints
from rollout.messenger import Report
from rollout.metrics import Query, Scrape
from rollout.metrics.sources import Commands
from rollout.observer import Observer, Stats
from rollout.permit import Permit
from rollout.prospect import what_now
from rollout.record import (
    Backend,
    Change,
    Contents,
    DropVersion,
    Ended,
    PutEvent,
    PutHistory,
    PutIll,
    PutNodes,
    PutPast,
    PutRollout,
    PutService,
    Rollout,
    Service,
    TakenBack,
    VersionHistory,
)
from rollout.rights import Asker
from rollout.saver import Saver, Saving
from rollout.spec import Strategy
from rollout.state import Command, Effect, LetGo, Phase, Retire, Role, Seen, Serve, State
from rollout.store import Store
from rollout.traffic.compiler import ServiceTraffic
from rollout.traffic.groups import Files
from rollout.traffic.publisher import Checked, Publisher
from rollout.turns import Turns
from xds.cache import Cache, Fleet

TICK_BUSY_S, TICK_IDLE_S = 0.1, 1.0
UNSAVED_SUSPECT = 5
UNSAVED_LIMIT = 120  # steps of one service that wait for the disk; beyond, looks are dropped, but nothing else


@dataclass(frozen=True, slots=True)
class Outside:
    """What the controller is given of the world.

    `survey` asks every Envoy one question now. `clock` gives the engine's seconds, which never go back and stand still
    while no server runs; `wall` is for people. `changed` hears each step with the one before, `disk` its faults.
    `permit` raises InvalidSpec for a strategy that asks for what may not be done here. `hooks` says what became of a
    rollout's. `let_go` hears of each single backend whose drain is done, `saved` of
    each batch that was saved, `served` of each publish: which service's split, "" for a configuration.
    """

    stats: Stats
    survey: Callable[[Query], Awaitable[Mapping[str, Scrape]]]
    clock: Callable[[], float]
    wall: Callable[[], datetime]
    changed: Callable[[Rollout, Rollout | None], None]
    disk: Callable[[str], None]
    permit: Callable[[Strategy], None] = Permit(Commands(None), lambda _: None).check
    hooks: Callable[[Rollout], tuple[Report, ...]] = lambda _: ()
    let_go: Callable[[Backend], None] = lambda _: None
    saved: Callable[[Sequence[Change]], None] = lambda _: None
    served: Callable[[str], None] = lambda _: None


@dataclass(frozen=True, slots=True)
class Order:
    """What an operator wants of a rollout in progress; `location` "" is all of it, `why` the reason, "" the usual.

    `stage` is the one that it is for, from 0; None for whichever the rollout is in.
    """

    command: Command
    by: Asker
    location: str = ""
    why: str = ""
    stage: int | None = None


class Controller:
    """Owns the rollouts. Every change of its state happens in a synchronous method."""

    def __init__(self, publisher: Publisher, cache: Cache, store: Store, outside: Outside) -> None:
        self.books = Books(publisher.addresses)
        self.observer = Observer(self.books, publisher, cache, outside.stats, outside.clock)
        self.ailing = Ailing(self.books, publisher, cache, outside.stats.senses, outside.clock)
        self.publisher = publisher
        self.outside = outside
        self.freed = asyncio.Event()
        """Set when a service is free for its next rollout."""
        self.bell = Bell()
        """Rings when anything has changed that somebody may wait for."""
        self.seen: dict[str, Seen] = {}
        """By service what the last decision about its rollout in progress rested on."""
        self._awake = asyncio.Event()
        self.saver = Saver(store, outside.clock, outside.disk, self._saved)
        around = Around(outside.clock, outside.wall, outside.let_go)
        self._leaving = Leaving(self.books, self.observer, self.saver, self.publish, around)
        self._rhythm = Rhythm()
        self._changing: set[str] = set()
        self._given_up: dict[str, Saving] = {}
        self._ending: dict[str, Rollout] = {}  # rollouts as they have ended, until that is saved
        self._kept: dict[str, Rollout] = {}  # rollouts as they were saved last

    # --- life ---

    def restore(self, contents: Contents, files: Files) -> tuple[str, ...]:
        """Take up what was saved and publish it; return the configuration's warnings. Raises InvalidConfig."""
        self.books.restore(contents)
        self.observer.historian.restore({(each.service, each.version): each.history for each in contents.histories})
        self.observer.expect(contents.nodes)
        self.ailing.restore(contents.ill)
        warnings = self.reload(files)
        for taken in contents.taken_back:
            self._take_back_again(taken)
        return warnings

    async def run(self) -> None:
        """Reconcile at every change and every tick, until cancelled."""
        while True:
            busy = await self._reconcile_in_turns()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(TICK_BUSY_S if busy else TICK_IDLE_S):
                    await self._awake.wait()
            self._awake.clear()

    async def save(self) -> None:
        """Save what was decided, until cancelled."""
        await self.saver.run()

    def wake(self) -> None:
        self._awake.set()

    def _saved(self, changes: Sequence[Change]) -> None:
        self._kept |= {each.rollout.service: each.rollout for each in changes if isinstance(each, PutRollout)}
        self.outside.saved(changes)
        self.bell.ring()
        self.wake()

    def reconcile(self) -> bool:
        """Take one look at everything; return whether anything is in progress."""
        for _ in self._looks():
            pass
        return bool(self.books.busy())

    async def _reconcile_in_turns(self) -> bool:
        """The same, but nobody waits behind a thousand rollouts: after each turn all who are ready have theirs."""
        clock = self.outside.clock
        turns = Turns(clock())
        for _ in self._looks():
            since_s = clock()
            if turns.over(since_s):
                await asyncio.sleep(0)
                turns.gave(since_s, clock())
        # Half of the time is for others: a look at a thousand Envoys must not follow on each of their ACKs.
        await asyncio.sleep(turns.owed_s(clock()))
        return bool(self.books.busy())

    def _looks(self) -> Iterator[None]:
        """Take one look at everything. At each yield all is whole, and anything may change."""
        self.observer.watch()
        nodes = self.observer.note_nodes()
        if nodes is not None:
            self.saver.put(Saving((PutNodes(nodes),)))
        busy = self.books.busy()
        for service in self.ailing.forget_all_but(busy):
            self.publish(service)
        for service in sorted(busy):
            yield
            if self.books.is_busy(service):
                self._look_at(service)
        yield
        if not self.saver.unsaved(""):
            for service, ill in self.ailing.to_save().items():
                self.saver.put(Saving((PutIll(service, ill),)))
            self._save_histories(self.observer.historian.to_save(self.outside.clock()))

    def _look_at(self, service: str) -> None:
        if self.ailing.look_at(service):
            self.publish(service)
        rollout = self.books.under_way(service)
        if rollout is not None:
            self._decide(rollout)
        self._leaving.look_at(service)

    def heard(self, node: str) -> None:
        """Take in what a node's admin endpoint said last, if it did."""
        scrape = self.outside.stats.latest().get(node)
        if scrape is not None:
            self.observer.historian.heard(node, scrape)
        self.wake()

    async def save_histories(self) -> None:
        """Save what was seen of services up to now. Raises Unavailable."""
        saving = self._save_histories(self.observer.historian.all_to_save())
        if saving is not None:
            await self.saver.wait(saving)

    def _save_histories(self, histories: Mapping[tuple[str, str], History]) -> Saving | None:
        changes = tuple(PutHistory(VersionHistory(*key, history)) for key, history in histories.items())
        return self.saver.put(Saving(changes)) if changes else None

    # --- what may be asked ---

    def services(self) -> tuple[str, ...]:
        return tuple(sorted(self.publisher.services()))

    def check_service(self, service: str) -> None:
        """Raise Unknown when there is no such service."""
        if service not in self.publisher.services():
            known = ", ".join(self.services()) or "none, for envoy-configs has no EDS cluster"
            raise Unknown(f"there is no service '{service}'; there are {known}")

    def rollout(self, service: str) -> Rollout | None:
        """Return the rollout in progress, else the newest one. Raises Unknown."""
        self.check_service(service)
        return self.books.rollouts.get(service)

    def unsaved(self, service: str) -> str | None:
        """Return why what was decided for a service is not saved, None when it is or is about to be."""
        steps = self.saver.unsaved(service)
        if not steps:
            return None
        return self.saver.fault or ("the disk does not answer" if steps > UNSAVED_SUSPECT else None)

    def saved(self, service: str) -> bool:
        """Say whether all that was decided for a service is saved."""
        return not self.saver.unsaved(service)

    def endpoints(self, rollout: Rollout) -> Endpoints:
        """Return where a rollout's versions run; the one that goes without what another version or service uses."""
        stable, candidate = (
            self.books.endpoints(rollout.service, each) for each in (rollout.stable, rollout.candidate)
        )
        if rollout.state.phase is not Phase.REMOVING:
            return Endpoints(stable, candidate)
        shared = self.books.still_used(rollout, self.users())
        return Endpoints(_without(stable, shared), _without(candidate, shared))

    def users(self) -> Mapping[str, frozenset[tuple[str, str]]]:
        """Return by address which versions, as (service, version), run there."""
        return self.books.users(self.services())

    def names(self, rollout: Rollout) -> Names:
        """Return what a strategy's placeholders stand for."""
        service, versions = rollout.service, (rollout.stable, rollout.candidate)
        return Names(service, *versions, *(self.publisher.stat_name(service, each) for each in versions))

    def weight_bp(self, rollout: Rollout) -> float:
        """Return the candidate's wanted share of traffic; in waves that of all Envoys, if each has the same traffic."""
        if not in_waves(rollout.strategy, rollout.state):
            return weight_bp(rollout.strategy, rollout.state)
        envoys = self.observer.whereabouts(rollout.service)
        weights = by_location(rollout.state)
        whole = sum(count * weights.get(location, 0) for location, count in envoys.items())
        return whole / max(1, sum(envoys.values()))

    def in_progress(self, service: str) -> bool:
        return not self.books.is_free(service)

    def is_quiet(self, service: str) -> bool:
        """Say whether no change of a service is being checked or saved."""
        return service not in self._changing and not self.saver.unsaved(service)

    # --- what may be changed ---

    def reload(self, config: Checked | Files) -> tuple[str, ...]:
        """Serve another configuration; return its warnings. Raises InvalidConfig and changes nothing."""
        warnings = tuple(map(str, self.publisher.load(config, *self._in_force())))
        self.outside.served("")
        return (*warnings, *filter(None, map(self._unserved, self.services())))

    def would_serve(self, config: Checked) -> Fleet:
        """Return what another configuration would serve. Raises as `reload`."""
        return self.publisher.prepare(config, *self._in_force()).fleet

    def _in_force(
        self,
    ) -> tuple[Mapping[str, ServiceTraffic], frozenset[str], Mapping[str, Mapping[str, ServiceTraffic]]]:
        """Return what is served of each service, which are busy, and what is served by location."""
        traffic = {service: self.books.traffic(service) for service in self.books.touched()}
        by_location = {service: self.books.by_location(service) for service in traffic}
        return traffic, self.books.busy() | self._changing | self._hanging(), by_location

    def _unserved(self, service: str) -> str:
        """Say which endpoints of envoy-configs nobody gets any more, for its versions have their own; "" for none."""
        unserved = sorted(self.books.unserved(service))
        if not unserved:
            return ""
        more = f" and {len(unserved) - 3} more" if len(unserved) > 3 else ""
        names = [f"'{each.name}'" for each in self.books.versions(service)]
        own = "has endpoints of its own" if len(names) == 1 else "have endpoints of their own"
        what = f"service '{service}': its endpoints in envoy-configs are not served ({', '.join(unserved[:3])}{more})"
        return f"{what}: {' and '.join(names)} {own}, which `rollout scale` changes; take these out of the file"

    def obey(self, service: str, order: Order) -> None:
        """Do what an operator wants, which waits for nothing. Raises Unknown or Conflict."""
        self._decide(self.meant(service, order), order)

    def meant(self, service: str, order: Order) -> Rollout:
        """Return the rollout in progress that an order is for. Raises Unknown or Conflict."""
        rollout = self.rollout(service)
        if rollout is None or self.books.over(rollout):
            raise Conflict(f"no rollout of '{service}' is in progress{what_now(rollout)}")
        if order.stage is not None:
            check_stage(rollout.strategy, rollout.state, order.location, order.stage)
        return rollout

    async def settled(self, service: str) -> None:
        """Return once all that was decided of a service is saved. Raises Unavailable."""
        unsaved = self.saver.last(service)
        if unsaved is None:
            return
        try:
            await self.saver.wait(unsaved)
        except Unavailable as error:
            back = self.books.rollouts[service].state.loser is Role.CANDIDATE
            served = "all traffic is on the stable version, but this is" if back else "this is"
            raise Unavailable(f"{served} {error}") from error

    def _check_alone(self, service: str) -> None:
        if service in self._changing | self._hanging() or self.unsaved(service):
            raise Conflict(f"another change of '{service}' is being saved; try again when it is")

    def _hanging(self) -> frozenset[str]:
        """Return the services with a change that nobody waits for any more, but that is saved as soon as it can be."""
        return frozenset(service for service, given_up in self._given_up.items() if not given_up.saved.is_set())

    @contextlib.contextmanager
    def beside(self, service: str) -> Iterator[None]:
        """Look at a service that others may change meanwhile. Raises Conflict as `alone`."""
        self._check_alone(service)
        yield

    @contextlib.contextmanager
    def alone(self, service: str) -> Iterator[None]:
        """Hold a service while a change of it is checked and saved. Raises Conflict while another one is."""
        self._check_alone(service)
        self._changing.add(service)
        try:
            yield
        except Unavailable:
            # It is saved all the same, later: another one would be worked out from what was there before it.
            change = self.saver.last_change(service)
            if change is not None:
                self._given_up[service] = change
            raise
        finally:
            self._changing.discard(service)

    async def change(self, service: str, changes: tuple[Change, ...], then: Callable[[], None]) -> None:
        """Save a change of a service, take it into the books, and serve what follows from it. Raises Unavailable."""

        def saved() -> None:
            then()
            self.publish(service)

        await self.saver.wait(self.saver.put(Saving(changes, service, saved)))

    async def up_to_date(self, service: str) -> None:
        """Return once the books have all that was decided of a service's versions. Raises Unavailable."""
        while (change := self.saver.last_change(service)) is not None:
            await self.saver.wait(change)

    def publish(self, service: str) -> None:
        """Serve what follows from the books; nothing where envoy-configs has no such service any more."""
        if service not in self.publisher.services():
            return
        if self.publisher.serve(service, self.books.traffic(service), self.books.by_location(service)):
            self.outside.served(service)

    # --- decisions ---

    def _take_back_again(self, taken: TakenBack) -> None:
        """Go on with what Envoys have: the stable version, though that could not be saved. At once, at any pace."""
        by = f"the server before, which could not save it: {taken.reason}"
        for _ in range(2):  # a gradual way back is shortened by asking again
            rollout = self.books.rollouts[taken.service]
            if rollout.id == taken.id and (rollout.state.loser is not Role.CANDIDATE or rollout.state.back_bp):
                with contextlib.suppress(Conflict):
                    self._decide(rollout, Order(Command.ABORT, Asker(by)))

    def _decide(self, rollout: Rollout, order: Order | None = None) -> None:
        service = rollout.service
        rollout = self._ending.get(service, rollout)
        if self.saver.unsaved(service) and rollout.state.loser is not None and order is None:
            return  # what is let go waits for the disk, and so do its clocks
        self.seen[service] = seen = self._seen(rollout, order)
        following, effects = advance(rollout.strategy, rollout.state, seen)
        back = turned_back(rollout.state, following)
        if following != rollout.state:
            looked_only = order is None and not back and following.phase is rollout.state.phase
            if looked_only and self.saver.unsaved(service) > UNSAVED_LIMIT:
                return
            match effects:
                case (Retire(role),):
                    self._end(rollout, following, seen, role)
                    return
            self._step(rollout, following, seen)
        if back and following.loser is None and seen.served is not None:
            # Of a location alone: what others go forward to waits until it is saved.
            effects = (Serve(taken_back(seen.served, following)),)
        if back or not self.saver.unsaved(service) or self._lasts(service, effects):
            for effect in effects:
                self._apply(self.books.rollouts[service], effect)

    def _lasts(self, service: str, effects: tuple[Effect, ...]) -> bool:
        """Say whether a server after this one would serve the same, though the newest looks are not saved yet."""
        kept = self._kept.get(service)
        return kept is not None and effects == (Serve(wanted(kept.strategy, kept.state)),)

    def _seen(self, rollout: Rollout, order: Order | None) -> Seen:
        if order is None:
            return self.observer.observe(rollout, None, "")
        seen = self.observer.observe(rollout, order.command, str(order.by))
        return replace(seen, location=order.location, why=order.why)

    def _step(self, rollout: Rollout, state: State, because: Seen) -> None:
        following, changes = self._stepped(rollout, state, because)
        self.books.rollouts[rollout.service] = following
        self.saver.put(Saving(changes, rollout.service))
        self.outside.changed(following, rollout)
        self.bell.ring()

    def _stepped(self, rollout: Rollout, state: State, because: Seen) -> tuple[Rollout, tuple[Change, ...]]:
        following = replace(rollout, state=state, revision=rollout.revision + 1, changed_at=self.outside.wall())
        events = self._rhythm.kept(of_step(rollout, following, because), because.now_s)
        return following, (PutRollout(following, because), *map(PutEvent, events))

    def _end(self, rollout: Rollout, state: State, because: Seen, loser: Role) -> None:
        """Show the end together with all that follows from it, once it is saved: nobody sees one without the other."""
        service = rollout.service
        following, changes = self._stepped(rollout, state, because)
        gone, retired = self._retired(following, loser)
        self._ending[service] = following

        def ended() -> None:
            self.books.rollouts[service] = self._ending.pop(service)
            self.outside.changed(following, rollout)
            retired()

        self.saver.put(Saving((*changes, *gone), service, ended))

    def _apply(self, rollout: Rollout, effect: Effect) -> None:
        match effect:
            case Serve(split):
                self.books.splits[rollout.service] = split
                self.publish(rollout.service)
            case Retire(role):  # of a rollout whose end was saved without it, by an older server
                changes, retired = self._retired(rollout, role)
                self.saver.put(Saving(changes, rollout.service, retired))
            case LetGo(address):
                self._leaving.let_go(rollout.service, rollout.candidate, address, self._changing)

    def _retired(self, rollout: Rollout, role: Role) -> tuple[tuple[Change, ...], Callable[[], None]]:
        """Forget the version that a rollout has let go: what is saved, and what then."""
        service, winner, loser = rollout.service, name_of(rollout, role.other), name_of(rollout, role)
        past = self.books.past_version(rollout, role, Ended(self.outside.clock(), self.outside.wall()))
        record = next(each for each in self.books.versions(service) if each.name == loser)
        marks = self.books.marks_of(service, self.books.placed(record))

        def retired() -> None:
            self.books.drop_marks(marks)
            self.books.retire(service, winner, loser)
            self.books.put_past(past)
            self.observer.forget(service)
            self.seen.pop(service, None)
            self.observer.historian.drop(service, loser)
            self.publish(service)
            self.freed.set()

        return (PutService(Service(service, winner)), DropVersion(service, loser), PutPast(past), *marks), retired


def _without(endpoints: tuple[str, ...], addresses: Collection[str]) -> tuple[str, ...]:
    return tuple(each for each in endpoints if each.partition("@")[0] not in addresses)
