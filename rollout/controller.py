"""The reconcile loop: observe -> advance -> save -> apply, for every service with a rollout or a drain.

Decisions are synchronous and wait for nothing. They are acted on once they are saved; only a rollback acts first,
so that neither a disk, nor a metric, nor a hanging Envoy stands in its way.
"""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import datetime

from rollout.books import Books, name_of
from rollout.checks import CheckSpec, Names
from rollout.drain import Drain
from rollout.drain import look as look_at_drain
from rollout.errors import Conflict, Unavailable, Unknown
from rollout.history import History
from rollout.machine import advance, plan
from rollout.metrics import Query, Scrape
from rollout.metrics.sources import Commands
from rollout.observer import SCRAPE_ENVOY_S, SOON_S, Observer, Stats
from rollout.record import (
    Backend,
    Change,
    Contents,
    DropVersion,
    PutBackend,
    PutHistory,
    PutNodes,
    PutRollout,
    PutService,
    PutVersion,
    Rollout,
    Service,
    Version,
    VersionHistory,
)
from rollout.saver import Saver, Saving
from rollout.spec import Deployment, Strategy, check_version_name
from rollout.state import Command, Effect, LetGo, Phase, Retire, Role, Seen, Serve, State, start
from rollout.store import Store
from rollout.traffic.groups import Files
from rollout.traffic.publisher import Checked, Publisher
from xds.cache import Cache

TICK_BUSY_S, TICK_IDLE_S = 0.1, 1.0
SCRAPE_S = 0.5
SCRAPE_SOON_S = 0.1  # while something is let go, and when a stage has begun: then seconds count
UNSAVED_SUSPECT = 5
UNSAVED_LIMIT = 120  # steps of one service that wait for the disk; beyond, looks are dropped, but nothing else


@dataclass(frozen=True, slots=True)
class Outside:
    """What the controller is given of the world.

    `survey` asks every Envoy one question now. `clock` gives the engine's seconds, which never go back and stand still
    while no server runs; `wall` is for people. `changed` hears each step with the one before, `disk` its faults.
    `permit` raises InvalidSpec for checks that may not be run here.
    """

    stats: Stats
    survey: Callable[[Query], Awaitable[Mapping[str, Scrape]]]
    clock: Callable[[], float]
    wall: Callable[[], datetime]
    changed: Callable[[Rollout, Rollout | None], None]
    disk: Callable[[str], None]
    permit: Callable[[tuple[CheckSpec, ...]], None] = Commands(None).check


class Controller:
    """Owns the rollouts. Every change of its state happens in a synchronous method."""

    def __init__(self, publisher: Publisher, cache: Cache, store: Store, outside: Outside) -> None:
        self.books = Books(publisher.addresses)
        self.observer = Observer(self.books, publisher, cache, outside.stats, outside.clock)
        self._publisher = publisher
        self._outside = outside
        self._awake = asyncio.Event()
        self._saver = Saver(store, outside.clock, outside.disk, self.wake)
        self._changing: set[str] = set()

    # --- life ---

    def restore(self, contents: Contents, files: Files) -> tuple[str, ...]:
        """Take up what was saved and publish it; return the configuration's warnings. Raises InvalidConfig."""
        self.books.restore(contents)
        self.observer.historian.restore({(each.service, each.version): each.history for each in contents.histories})
        self.observer.expect(contents.nodes)
        return self.reload(files)

    async def run(self) -> None:
        """Reconcile at every change and every tick, until cancelled."""
        while True:
            began_s = self._outside.clock()
            busy = self.reconcile()
            # Half of the time is for others: a look at a thousand Envoys must not follow on each of their ACKs.
            await asyncio.sleep(self._outside.clock() - began_s)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(TICK_BUSY_S if busy else TICK_IDLE_S):
                    await self._awake.wait()
            self._awake.clear()

    async def save(self) -> None:
        """Save what was decided, until cancelled."""
        await self._saver.run()

    def wake(self) -> None:
        self._awake.set()

    def reconcile(self) -> bool:
        """Take one look at everything; return whether anything is in progress."""
        self.observer.watch()
        nodes = self.observer.note_nodes()
        if nodes is not None:
            self._saver.put(Saving((PutNodes(nodes),)))
        active, draining = self.books.active(), self.books.draining()
        for rollout in active:
            self._decide(rollout)
        for backend in draining:
            self._look_at_backend(backend)
        if not self._saver.unsaved(""):
            self._save_histories(self.observer.historian.to_save(self._outside.clock()))
        return bool(active or draining)

    def heard(self, node: str) -> None:
        """Take in what a node's admin endpoint said last, if it did."""
        scrape = self._outside.stats.latest().get(node)
        if scrape is not None:
            self.observer.historian.heard(node, scrape)
        self.wake()

    async def save_histories(self) -> None:
        """Save what was seen of services up to now. Raises Unavailable."""
        saving = self._save_histories(self.observer.historian.all_to_save())
        if saving is not None:
            await self._saver.wait(saving)

    def _save_histories(self, histories: Mapping[tuple[str, str], History]) -> Saving | None:
        changes = tuple(PutHistory(VersionHistory(*key, history)) for key, history in histories.items())
        return self._saver.put(Saving(changes)) if changes else None

    def scrape_every_s(self) -> float:
        now_s = self._outside.clock()
        soon = self.books.draining() or any(_is_urgent(rollout.state, now_s) for rollout in self.books.active())
        least_s = SCRAPE_SOON_S if soon else SCRAPE_S
        return max(least_s, SCRAPE_ENVOY_S * self.observer.connected())

    # --- what may be asked ---

    def services(self) -> tuple[str, ...]:
        return tuple(sorted(self._publisher.services()))

    def check_service(self, service: str) -> None:
        """Raise Unknown when there is no such service."""
        if service not in self._publisher.services():
            known = ", ".join(self.services()) or "none, for envoy-configs has no EDS cluster"
            raise Unknown(f"there is no service '{service}'; there are {known}")

    def rollout(self, service: str) -> Rollout | None:
        """Return the rollout in progress, else the newest one. Raises Unknown."""
        self.check_service(service)
        return self.books.rollouts.get(service)

    def unsaved(self, service: str) -> str | None:
        """Return why what was decided for a service is not saved, None when it is or is about to be."""
        steps = self._saver.unsaved(service)
        if not steps:
            return None
        return self._saver.fault or ("the disk does not answer" if steps > UNSAVED_SUSPECT else None)

    def names(self, rollout: Rollout) -> Names:
        """Return what a strategy's placeholders stand for."""
        service, versions = rollout.service, (rollout.stable, rollout.candidate)
        return Names(service, *versions, *(self._publisher.stat_name(service, each) for each in versions))

    def in_progress(self, service: str) -> bool:
        rollout = self.books.rollouts.get(service)
        return rollout is not None and not self.books.over(rollout)

    # --- what may be changed ---

    def reload(self, config: Checked | Files) -> tuple[str, ...]:
        """Serve another configuration; return its warnings. Raises InvalidConfig and changes nothing."""
        traffic = {service: self.books.traffic(service) for service in self.books.touched()}
        return tuple(map(str, self._publisher.load(config, traffic, self.books.busy() | self._changing)))

    async def deploy(self, deployment: Deployment, by: str) -> Rollout:
        """Start a rollout, or return the one that does just this.

        Raises Unknown, Conflict, Unavailable, or InvalidSpec for checks that may not be run here.
        """
        service = deployment.service
        current = self.rollout(service)
        self._outside.permit(deployment.strategy.checks)
        if current is not None and current.candidate == deployment.version and self.books.runs(deployment):
            if self.in_progress(service) and current.strategy != deployment.strategy:
                raise Conflict(f"a rollout of '{service}' to '{current.candidate}' is in progress, by another strategy")
            return current
        self._check_free(deployment, current)
        at, stable = self._outside.wall(), self.books.stable(service)
        past = self.observer.historian.past(service, stable, deployment.strategy.gate)
        state = start(self._outside.clock(), f"deployed by {by}", plan(deployment.strategy, past))
        number = current.id + 1 if current else 1
        rollout = Rollout(service, number, stable, deployment.version, deployment.strategy, state, 1, at, at)
        with self._alone(service):
            await self._begin(rollout, Version(service, deployment.version, deployment.endpoints))
        return rollout

    async def command(self, service: str, command: Command, by: str) -> Rollout:
        """Obey an operator. Raises Unknown, Conflict, or Unavailable when it was done but is not saved yet."""
        rollout = self.rollout(service)
        if rollout is None or self.books.over(rollout):
            raise Conflict(f"no rollout of '{service}' is in progress")
        self._decide(rollout, command, by)
        unsaved = self._saver.last(service)
        if unsaved is not None:
            try:
                await self._saver.wait(unsaved)
            except Unavailable as error:
                served = "all traffic is on the stable version, but this is" if command is Command.ABORT else "this is"
                raise Unavailable(f"{served} {error}") from error
        return self.books.rollouts[service]

    async def adopt(self, service: str, version: str) -> None:
        """Name the version that envoy-configs' endpoints are. Raises InvalidSpec, Unknown or Conflict."""
        check_version_name(version)
        self.check_service(service)
        before = self.books.stable(service)
        if before == version:
            return
        if service in self.books.rollouts:
            raise Conflict(f"'{service}' has had a rollout; its stable version keeps its name, '{before}'")
        changes = (
            DropVersion(service, before),
            PutService(Service(service, version)),
            PutVersion(Version(service, version, None)),
        )

        def adopted() -> None:
            self.books.adopt(service, version)
            self.observer.renamed(service, before, version)

        with self._alone(service):
            await self._saved(Saving(changes, service, adopted))

    async def drain(self, service: str, address: str) -> Backend:
        """Let one backend go. Raises Unknown, or Conflict for the last healthy one of its version."""
        self.check_service(service)
        versions = [version.name for version in self.books.versions(service)]
        version = next((each for each in versions if address in self.books.addresses(service, each)), None)
        if version is None:
            known = ", ".join(each for name in versions for each in self.books.addresses(service, name))
            raise Unknown(f"'{service}' has no backend {address}; it has {known or 'none'}")
        started = next((each for each in self.books.backends(service) if each.address == address), None)
        if started is not None:
            return started
        with self._alone(service):
            # Of any version: a rollback may need the one that has no traffic now.
            if not await self._healthy_others(service, version, address):
                what = f"{address} is the last healthy backend of '{version}', which has traffic or may get it back"
                raise Conflict(f"{what}; nothing was changed")
            backend = Backend(service, version, address, Drain(self._outside.clock()))
            await self._saved(Saving((PutBackend(backend),), service, lambda: self.books.put_backend(backend)))
        return backend

    @contextlib.contextmanager
    def _alone(self, service: str) -> Iterator[None]:
        """Hold a service while a change of it is checked and saved. Raises Conflict while another one is."""
        if service in self._changing or self.unsaved(service):
            raise Conflict(f"another change of '{service}' is being saved; try again when it is")
        self._changing.add(service)
        try:
            yield
        finally:
            self._changing.discard(service)

    # --- decisions ---

    def _decide(self, rollout: Rollout, command: Command | None = None, by: str = "") -> None:
        service = rollout.service
        if self._saver.unsaved(service) and rollout.state.loser is not None and command is None:
            return  # what is let go waits for the disk, and so do its clocks
        seen = self.observer.observe(rollout, command, by)
        following, effects = advance(rollout.strategy, rollout.state, seen)
        if following != rollout.state:
            looked_only = command is None and following.phase is rollout.state.phase
            if looked_only and self._saver.unsaved(service) > UNSAVED_LIMIT:
                return
            self._step(rollout, following, seen)
        turned_back = following.loser is Role.CANDIDATE and rollout.state.loser is not Role.CANDIDATE
        if turned_back or not self._saver.unsaved(service):
            for effect in effects:
                self._apply(self.books.rollouts[service], effect)

    def _step(self, rollout: Rollout, state: State, because: Seen) -> None:
        following = replace(rollout, state=state, revision=rollout.revision + 1, changed_at=self._outside.wall())
        self.books.rollouts[rollout.service] = following
        self._saver.put(Saving((PutRollout(following, because),), rollout.service))
        self._outside.changed(following, rollout)

    def _apply(self, rollout: Rollout, effect: Effect) -> None:
        match effect:
            case Serve(split):
                self.books.splits[rollout.service] = split
                self._publish(rollout.service)
            case Retire(role):
                self._retire(rollout.service, name_of(rollout, role.other), name_of(rollout, role))
            case LetGo(address):
                self._let_go(Backend(rollout.service, rollout.candidate, address, Drain(self._outside.clock())))

    def _retire(self, service: str, winner: str, loser: str) -> None:
        def retired() -> None:
            self.books.retire(service, winner, loser)
            self.observer.forget(service)
            self.observer.historian.drop(service, loser)
            self._publish(service)

        self._saver.put(Saving((PutService(Service(service, winner)), DropVersion(service, loser)), service, retired))

    def _let_go(self, backend: Backend) -> None:
        def let_go() -> None:
            self.books.put_backend(backend)
            self._publish(backend.service)

        self._saver.put(Saving((PutBackend(backend),), backend.service, let_go))

    def _look_at_backend(self, backend: Backend) -> None:
        if self._saver.unsaved(backend.service):
            return
        rollout = self.books.rollouts.get(backend.service)
        strategy = rollout.strategy if rollout else Strategy()
        drain = look_at_drain(
            backend.drain,
            now_s=self._outside.clock(),
            acked=self.observer.backend_known(backend),
            active=self.observer.backend_active(backend),
            limit_s=strategy.drain_timeout.total_seconds(),
        )
        if drain == backend.drain:
            return
        following = replace(backend, drain=drain, removed=drain.done)

        def looked() -> None:
            self.books.put_backend(following)
            self._publish(backend.service)

        self._saver.put(Saving((PutBackend(following),), backend.service, looked))

    async def _begin(self, rollout: Rollout, candidate: Version) -> None:
        service = rollout.service

        def begin() -> None:
            self.books.begin(rollout, candidate)
            self._outside.changed(rollout, None)

        changes: tuple[Change, ...] = (
            PutService(Service(service, rollout.stable)),
            *(PutVersion(version) for version in (*self.books.versions(service), candidate)),
            PutRollout(rollout, None),
        )
        await self._saver.wait(self._saver.put(Saving(changes, service, begin)))

    def _check_free(self, deployment: Deployment, current: Rollout | None) -> None:
        """Raise Conflict when there is a rollout, a version of this name, or one on these endpoints."""
        service = deployment.service
        if current is not None and not self.books.over(current):
            phase = current.state.phase.replace("_", " ")
            moving = f"{current.stable} -> {current.candidate}, {phase}"
            raise Conflict(f"a rollout of '{service}' is in progress ({moving}); wait for its end, or abort it")
        stable = self.books.stable(service)
        known = self.books.addresses(service, stable)
        if deployment.version == stable:
            what = f"version '{stable}' of '{service}' exists already, on {', '.join(known) or 'no endpoints'}"
            raise Conflict(f"{what}; give the new version another name")
        shared = sorted(set(known) & {endpoint.address for endpoint in deployment.endpoints})
        if shared:
            what = f"{', '.join(shared)} belongs to '{stable}', whose backends are let go at the end"
            raise Conflict(f"{what}; give '{deployment.version}' backends of its own")

    async def _healthy_others(self, service: str, version: str, address: str) -> frozenset[str]:
        """Return the version's other backends that no Envoy finds ill, and one finds healthy where Envoys can tell.

        Raises Unavailable when there are Envoys, and none answers.
        """
        leaving = {each.address for each in self.books.backends(service)}
        others = frozenset(self.books.addresses(service, version)) - leaving - {address}
        if not others or not self.observer.connected():
            return self._fewest(service, version, address, others)
        stat = self._publisher.stat_name(service, version)
        scrapes = await self._outside.survey(Query((stat,), tuple(sorted(others))))
        if not scrapes:
            raise Unavailable(
                f"no Envoy says whether the other backends of '{version}' are healthy; nothing was changed"
            )
        found = [each for scrape in scrapes.values() for each in scrape.clusters[stat].backends.items()]
        ill = {backend for backend, stats in found if not stats.healthy}
        healthy = (frozenset(backend for backend, _ in found) or others) - ill
        return self._fewest(service, version, address, healthy)

    def _fewest(self, service: str, version: str, address: str, others: frozenset[str]) -> frozenset[str]:
        """Return what proxies that have an address have of the others, in the group of proxies that has the fewest."""
        groups = (each & others for each in self._publisher.backends(service, version) if address in each)
        return min(groups, key=len, default=others)

    async def _saved(self, saving: Saving) -> None:
        """Save a change, then serve what follows from it."""
        then = saving.then

        def saved() -> None:
            then()
            self._publish(saving.service)

        await self._saver.wait(self._saver.put(replace(saving, then=saved)))

    def _publish(self, service: str) -> None:
        self._publisher.serve(service, self.books.traffic(service))


def _is_urgent(state: State, now_s: float) -> bool:
    """Say whether traffic is shifted or let go just now."""
    return state.phase is Phase.DRAINING or (state.phase is Phase.SHIFTING and now_s - state.since_s < SOON_S)
