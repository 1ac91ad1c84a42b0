"""The reconcile loop: observe -> advance -> save -> apply, for every service with a rollout or a drain.

Decisions are synchronous and wait for nothing. They are saved by a loop of their own, and acted on once saved; only
a rollback acts first, so that neither a disk, nor a metric, nor a hanging Envoy stands in its way.
"""

import asyncio
import contextlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime

from rollout.drain import Active, Drain
from rollout.drain import look as look_at_drain
from rollout.errors import Conflict, Unavailable, Unknown
from rollout.gate import Counts
from rollout.looks import Looks, total
from rollout.machine import (
    ENDED,
    Command,
    Effect,
    Phase,
    Retire,
    Role,
    Seen,
    Serve,
    Split,
    State,
    advance,
    start,
    wanted,
)
from rollout.metrics import Failure, Query, Scrape
from rollout.record import (
    Backend,
    Change,
    Contents,
    DropVersion,
    PutBackend,
    PutNodes,
    PutRollout,
    PutService,
    PutVersion,
    Rollout,
    Service,
    Version,
)
from rollout.spec import FULL_BP, Deployment
from rollout.store import Store
from rollout.traffic.compiler import ServiceTraffic, VersionTraffic
from rollout.traffic.publisher import INITIAL, Publisher
from xds.cache import Cache, NodeStatus

LOOK_EVERY_S = 1.0
TICK_BUSY_S, TICK_IDLE_S = 0.1, 1.0
SCRAPE_DRAINING_S, SCRAPE_S = 0.1, 1.0
STALE_SCRAPE_S = 5.0
DISCONNECT_GRACE_S = 30.0  # so long a node that went away is waited for: a restart, a cut line
SAVE_RETRY_S = 0.5
COMMAND_SAVE_LIMIT_S = 5.0
UNSAVED_LIMIT = 120  # steps of one service that wait for the disk; beyond, looks are dropped, but nothing else
REASON_LIMIT = 300


@dataclass(slots=True)
class Saving:
    """Changes that wait to be saved together, and what is to happen then."""

    changes: tuple[Change, ...]
    service: str = ""
    then: Callable[[], None] = lambda: None
    saved: asyncio.Event = field(default_factory=asyncio.Event)


@dataclass(frozen=True, slots=True)
class Outside:
    """What the controller is given: the fleet's latest stats, clocks, and who hears of changes.

    `clock` gives the engine's seconds, which never go back and stand still while no server runs; `wall` is for people.
    """

    latest: Callable[[], Mapping[str, Scrape]]
    failures: Callable[[], Mapping[str, Failure]]
    clock: Callable[[], float]
    wall: Callable[[], datetime]
    changed: Callable[[Rollout, Rollout | None], None]
    disk: Callable[[str], None]


class Controller:
    """Owns the rollouts in memory. Every change of its state happens in a synchronous method."""

    def __init__(self, publisher: Publisher, cache: Cache, store: Store, outside: Outside) -> None:
        self._publisher = publisher
        self._cache = cache
        self._store = store
        self._outside = outside
        self._stable: dict[str, str] = {}
        self._versions: dict[tuple[str, str], Version] = {}
        self._rollouts: dict[str, Rollout] = {}
        self._backends: dict[tuple[str, str, str], Backend] = {}
        self._splits: dict[str, Split] = {}
        self._looks: dict[str, Looks] = {}
        self._looked_s: dict[str, float] = {}
        self._recent: dict[str, tuple[Counts, Counts]] = {}
        self._nodes: dict[str, float] = {}
        self._saving: list[Saving] = []
        self._unsaved: Counter[str] = Counter()
        self._awake = asyncio.Event()
        self._to_save = asyncio.Event()

    # --- what others may ask ---

    def services(self) -> tuple[str, ...]:
        return tuple(sorted(self._publisher.services()))

    def stable(self, service: str) -> str:
        self._check_service(service)
        return self._stable.get(service, INITIAL)

    def versions(self, service: str) -> tuple[Version, ...]:
        self._check_service(service)
        stored = tuple(version for (owner, _), version in sorted(self._versions.items()) if owner == service)
        return stored or (Version(service, INITIAL, None),)

    def addresses(self, service: str, version: str) -> tuple[str, ...]:
        """Return the addresses of a version's backends, without those that were let go."""
        record = next((each for each in self.versions(service) if each.name == version), None)
        if record is None:
            return ()
        if record.endpoints is None:
            known = self._publisher.addresses(service)
        else:
            known = tuple(endpoint.address for endpoint in record.endpoints)
        gone = {each.address for each in self.backends(service) if each.version == version and each.removed}
        return tuple(address for address in known if address not in gone)

    def rollout(self, service: str) -> Rollout | None:
        """Return the rollout in progress, else the newest one."""
        self._check_service(service)
        return self._rollouts.get(service)

    def in_progress(self, service: str) -> bool:
        rollout = self._rollouts.get(service)
        return rollout is not None and not self._over(rollout)

    def backends(self, service: str) -> tuple[Backend, ...]:
        return tuple(each for key, each in sorted(self._backends.items()) if key[0] == service)

    def recent(self, service: str) -> tuple[Counts, Counts]:
        """Return what stable and candidate did in the last look."""
        return self._recent.get(service, (Counts(), Counts()))

    def lagging(self, service: str) -> Mapping[str, str]:
        return {**self._lags(service)[0], **self._missing()}

    # --- what others may change ---

    async def deploy(self, deployment: Deployment, by: str) -> Rollout:
        """Start a rollout, or return the one that does just this. Raises Unknown, Conflict or Unavailable."""
        service, stable = deployment.service, self.stable(deployment.service)
        current = self._rollouts.get(service)
        if current is not None and not self._over(current):
            if current.candidate == deployment.version and self._same_endpoints(deployment):
                return current
            moving = f"{current.stable} -> {current.candidate}, {current.state.phase.replace('_', ' ')}"
            raise Conflict(f"a rollout of '{service}' is in progress ({moving}); wait for its end or abort it")
        if deployment.version == stable:
            if current is not None and current.candidate == stable and self._same_endpoints(deployment):
                return current
            raise Conflict(f"'{deployment.version}' is the stable version of '{service}' already, with its own endpoints")
        now_s, at = self._outside.clock(), self._outside.wall()
        number = current.id + 1 if current else 1
        state = start(now_s, f"deployed by {by}")
        rollout = Rollout(
            service, number, stable, deployment.version, deployment.strategy, state, 1, at, at
        )
        candidate = Version(service, deployment.version, deployment.endpoints)
        changes: tuple[Change, ...] = (
            PutService(Service(service, stable)),
            *(PutVersion(version) for version in self.versions(service)),
            PutVersion(candidate),
            PutRollout(rollout, None),
        )
        await self._saved(Saving(changes, service, lambda: self._begin(rollout, candidate)))
        return rollout

    async def command(self, service: str, command: Command, by: str) -> Rollout:
        """Obey an operator. Raises Unknown, Conflict, or Unavailable when it was done but not saved yet."""
        self._check_service(service)
        rollout = self._rollouts.get(service)
        if rollout is None or self._over(rollout):
            raise Conflict(f"no rollout of '{service}' is in progress")
        self._decide(rollout, command, by)
        waiting = [each for each in self._saving if each.service == service]
        if waiting:
            await self._wait_saved(waiting[-1])
        return self._rollouts[service]

    async def adopt(self, service: str, version: str) -> None:
        """Name the version that envoy-configs' endpoints are. Raises Unknown or Conflict."""
        self._check_service(service)
        if self.stable(service) == version and not self.in_progress(service):
            return
        if any(each.endpoints is not None for each in self.versions(service)) or service in self._rollouts:
            raise Conflict(f"'{service}' has had a rollout; its stable version is '{self.stable(service)}' and keeps its name")
        before = self.stable(service)
        changes = (PutService(Service(service, version)), PutVersion(Version(service, version, None)))
        drop = (DropVersion(service, before),)
        await self._saved(Saving((*drop, *changes), service, lambda: self._adopted(service, before, version)))

    async def drain(self, service: str, address: str) -> Backend:
        """Let one backend go. Raises Unknown, or Conflict for the last one of a version with traffic."""
        self._check_service(service)
        version = next((each.name for each in self.versions(service) if address in self.addresses(service, each.name)), None)
        if version is None:
            known = sorted(each for named in self.versions(service) for each in self.addresses(service, named.name))
            raise Unknown(f"'{service}' has no backend {address}; it has {', '.join(known)}")
        key = (service, version, address)
        if key in self._backends:
            return self._backends[key]
        left = set(self.addresses(service, version)) - {each.address for each in self.backends(service)} - {address}
        if not left and self.weight_bp(service, version) > 0:
            raise Conflict(f"{address} is the last healthy backend of '{version}', which has traffic; add one first")
        backend = Backend(service, version, address, Drain(self._outside.clock()))
        await self._saved(Saving((PutBackend(backend),), service, lambda: self._put_backend(backend)))
        return backend

    def reload(self, files: Mapping[str, str]) -> tuple[str, ...]:
        """Serve another configuration; return its warnings. Raises InvalidConfig and changes nothing."""
        return tuple(map(str, self._publisher.load(files, self._all_traffic())))

    # --- life ---

    def restore(self, contents: Contents, files: Mapping[str, str]) -> tuple[str, ...]:
        """Take up what was saved and publish it; return the configuration's warnings. Raises InvalidConfig."""
        self._stable = {each.name: each.stable for each in contents.services}
        self._versions = {(each.service, each.name): each for each in contents.versions}
        self._rollouts = {each.service: each for each in contents.rollouts}
        self._backends = {(each.service, each.version, each.address): each for each in contents.backends}
        self._nodes = dict.fromkeys(contents.nodes, self._outside.clock())
        for service, rollout in self._rollouts.items():
            if not self._over(rollout):
                self._splits[service] = wanted(rollout.strategy, rollout.state)
        return tuple(map(str, self._publisher.load(files, self._all_traffic())))

    async def run(self) -> None:
        """Reconcile at every change and every tick, until cancelled."""
        while True:
            busy = self.reconcile()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(TICK_BUSY_S if busy else TICK_IDLE_S):
                    await self._awake.wait()
            self._awake.clear()

    async def save(self) -> None:
        """Save what was decided, in order, until cancelled; the disk's faults are waited out."""
        while True:
            await self._to_save.wait()
            self._to_save.clear()
            while self._saving:
                await self._save_batch(tuple(self._saving))

    def wake(self) -> None:
        self._awake.set()

    def reconcile(self) -> bool:
        """Take one look at everything; return whether anything is in progress."""
        self._note_nodes()
        active = [rollout for rollout in self._rollouts.values() if not self._over(rollout)]
        for rollout in active:
            self._decide(rollout)
        draining = [backend for backend in self._backends.values() if not backend.removed]
        for backend in draining:
            self._look_at_backend(backend)
        return bool(active or draining)

    def query(self) -> Query:
        """Return what to ask of each Envoy now."""
        names = [
            self._publisher.stat_name(service, version.name)
            for service in self.services()
            for version in self._publisher.traffic(service).versions
            if self.in_progress(service) or any(not each.removed for each in self.backends(service))
        ]
        return Query(tuple(names), tuple(each.address for each in self._backends.values() if not each.removed))

    def scrape_every_s(self) -> float:
        draining = any(rollout.state.phase is Phase.DRAINING for rollout in self._rollouts.values())
        draining = draining or any(not backend.removed for backend in self._backends.values())
        return SCRAPE_DRAINING_S if draining else SCRAPE_S

    # --- decisions ---

    def _decide(self, rollout: Rollout, command: Command | None = None, by: str = "") -> None:
        service = rollout.service
        seen = self._observe(rollout, command, by)
        following, effects = advance(rollout.strategy, rollout.state, seen)
        turned_back = following.phase is Phase.ROLLING_BACK and rollout.state.phase is not Phase.ROLLING_BACK
        if following != rollout.state:
            if self._unsaved[service] > UNSAVED_LIMIT and following.phase is rollout.state.phase:
                return
            self._step(rollout, following, seen)
        if turned_back or not self._unsaved[service]:
            for effect in effects:
                self._apply(self._rollouts[service], effect)

    def _step(self, rollout: Rollout, state: State, because: Seen) -> None:
        following = replace(rollout, state=state, revision=rollout.revision + 1, changed_at=self._outside.wall())
        self._rollouts[rollout.service] = following
        self._enqueue(Saving((PutRollout(following, because),), rollout.service))
        self._outside.changed(following, rollout)

    def _apply(self, rollout: Rollout, effect: Effect) -> None:
        match effect:
            case Serve(split):
                self._splits[rollout.service] = split
                self._publish(rollout.service)
            case Retire(role):
                self._retire(rollout, role)

    def _retire(self, rollout: Rollout, role: Role) -> None:
        if self._unsaved[rollout.service]:
            return
        winner, loser = self._name(rollout, role.other), self._name(rollout, role)
        changes = (PutService(Service(rollout.service, winner)), DropVersion(rollout.service, loser))
        self._enqueue(Saving(changes, rollout.service, lambda: self._retired(rollout.service, winner, loser)))

    def _retired(self, service: str, winner: str, loser: str) -> None:
        self._stable[service] = winner
        self._forget(service, loser)
        self._splits.pop(service, None)
        self._looks.pop(service, None)
        self._publish(service)

    def _begin(self, rollout: Rollout, candidate: Version) -> None:
        self._stable[rollout.service] = rollout.stable
        for version in (*self.versions(rollout.service), candidate):
            self._versions[rollout.service, version.name] = version
        self._rollouts[rollout.service] = rollout
        self._splits[rollout.service] = wanted(rollout.strategy, rollout.state)
        self._recent.pop(rollout.service, None)
        self._outside.changed(rollout, None)

    def _adopted(self, service: str, before: str, version: str) -> None:
        self._forget(service, before)
        self._stable[service] = version
        self._versions[service, version] = Version(service, version, None)
        self._publish(service)

    def _forget(self, service: str, version: str) -> None:
        self._versions.pop((service, version), None)
        for key in [key for key in self._backends if key[:2] == (service, version)]:
            del self._backends[key]

    def _put_backend(self, backend: Backend) -> None:
        self._backends[backend.service, backend.version, backend.address] = backend
        self._publish(backend.service)

    def _look_at_backend(self, backend: Backend) -> None:
        if self._unsaved[backend.service]:
            return
        now_s = self._outside.clock()
        rollout = self._rollouts.get(backend.service)
        limit_s = rollout.strategy.drain_timeout.total_seconds() if rollout else 30.0
        acked = not self.lagging(backend.service)
        drain = look_at_drain(
            backend.drain, now_s=now_s, acked=acked, active=self._backend_active(backend), limit_s=limit_s
        )
        if drain == backend.drain:
            return
        following = replace(backend, drain=drain, removed=drain.done)
        self._enqueue(Saving((PutBackend(following),), backend.service, lambda: self._put_backend(following)))

    # --- observations ---

    def _observe(self, rollout: Rollout, command: Command | None, by: str) -> Seen:
        service, state = rollout.service, rollout.state
        connected = {status.node.id: status for status in self._cache.connected()}
        lagging, refused = self._lags(service)
        refused = {**_fresh_rejections(connected, state.since_s), **refused}
        missing = self._missing()
        split = self._splits.get(service)
        now_s = self._outside.clock()
        seen = Seen(
            now_s,
            len(connected),
            fleet=len(connected.keys() | self._nodes.keys()),
            served=split,
            lagging={**missing, **lagging},
            refused=refused,
            command=command,
            by=by,
        )
        match state.phase:
            case Phase.WARMING:
                return replace(seen, unready=tuple(self._unready(rollout, connected)))
            case Phase.SHIFTING | Phase.PAUSED if split is not None and split.candidate_bp:
                return self._with_look(seen, rollout, connected, split.candidate_bp)
            case Phase.DRAINING:
                return replace(seen, active=self._active(rollout, connected))
            case Phase.COMPLETED | Phase.ROLLED_BACK:
                assert state.loser is not None
                return replace(seen, retired=(service, self._name(rollout, state.loser)) not in self._versions)
            case _:
                return seen

    def _lags(self, service: str) -> tuple[dict[str, str], dict[str, str]]:
        versions = (version.name for version in self.versions(service))
        lags = self._publisher.lagging(service, versions)
        return (
            {node: lag.why[:REASON_LIMIT] if not lag.refused else _tail(lag.why) for node, lag in lags.items()},
            {node: _tail(lag.why) for node, lag in lags.items() if lag.refused},
        )

    def _missing(self) -> dict[str, str]:
        now_s = self._outside.clock()
        connected = {status.node.id for status in self._cache.connected()}
        return {
            node: f"is disconnected (waited for up to {DISCONNECT_GRACE_S:g} s)"
            for node, seen_s in self._nodes.items()
            if node not in connected and now_s - seen_s < DISCONNECT_GRACE_S
        }

    def _note_nodes(self) -> None:
        """Remember who belongs to the fleet, so that a restarted server waits for them too."""
        now_s = self._outside.clock()
        before = set(self._nodes)
        for status in self._cache.connected():
            self._nodes[status.node.id] = now_s
        for node in [node for node, seen_s in self._nodes.items() if now_s - seen_s > DISCONNECT_GRACE_S]:
            del self._nodes[node]
        if set(self._nodes) != before:
            self._enqueue(Saving((PutNodes(tuple(sorted(self._nodes))),)))

    def _unready(self, rollout: Rollout, connected: Mapping[str, NodeStatus]) -> Iterator[str]:
        stat = self._publisher.stat_name(rollout.service, rollout.candidate)
        expected = len(self.addresses(rollout.service, rollout.candidate))
        latest = self._outside.latest()
        for node in sorted(connected):
            scrape = latest.get(node)
            failure = self._outside.failures().get(node)
            if failure is not None:
                yield f"{node}: {failure.why}"
            elif scrape is None or scrape.started_s < rollout.state.since_s:
                yield f"{node}: no stats yet"
            else:
                stats = scrape.clusters.get(stat)
                healthy = stats.membership_healthy if stats else 0
                if stats is None or healthy < expected:
                    yield f"{node}: {healthy} of {expected} backends healthy"

    def _with_look(
        self, seen: Seen, rollout: Rollout, connected: Mapping[str, NodeStatus], weight_bp: int
    ) -> Seen:
        service = rollout.service
        looks = self._looks.get(service)
        if looks is None:
            stats = (self._publisher.stat_name(service, name) for name in (rollout.stable, rollout.candidate))
            looks = self._looks[service] = Looks(*stats)
        looks.acked(connected.keys() - seen.lagging.keys(), weight_bp, seen.now_s)
        latest = self._outside.latest()
        for node in connected.keys() & latest.keys():
            looks.add(node, latest[node])
        if seen.now_s - self._looked_s.get(service, 0.0) < LOOK_EVERY_S:
            return seen
        self._looked_s[service] = seen.now_s
        look = looks.take(connected, self._blind(connected, seen.now_s))
        self._recent[service] = total(look)
        return replace(seen, looked_s=seen.now_s, look=look)

    def _blind(self, connected: Mapping[str, NodeStatus], now_s: float) -> Mapping[str, str]:
        latest, failures = self._outside.latest(), self._outside.failures()
        blind: dict[str, str] = {}
        for node, status in connected.items():
            failure, scrape = failures.get(node), latest.get(node)
            last_s = max(status.since_s, scrape.started_s if scrape else 0.0)
            if now_s - last_s > STALE_SCRAPE_S:
                blind[node] = failure.why if failure else "no stats"
        return blind

    def _active(self, rollout: Rollout, connected: Mapping[str, NodeStatus]) -> Active | None:
        assert rollout.state.loser is not None
        stat = self._publisher.stat_name(rollout.service, self._name(rollout, rollout.state.loser))

        def running(scrape: Scrape) -> int | None:
            stats = scrape.clusters.get(stat)
            return None if stats is None else stats.rq_active + stats.rq_pending_active

        return self._activity(connected, running)

    def _backend_active(self, backend: Backend) -> Active | None:
        stat = self._publisher.stat_name(backend.service, backend.version)

        def running(scrape: Scrape) -> int | None:
            stats = scrape.clusters.get(stat)
            return None if stats is None else stats.backends.get(backend.address)

        return self._activity({status.node.id: status for status in self._cache.connected()}, running)

    def _activity(
        self, connected: Mapping[str, NodeStatus], running: Callable[[Scrape], int | None]
    ) -> Active | None:
        """Return what runs by node, as of the oldest of the answers; an Envoy that cannot be asked counts as unknown."""
        latest, failures = self._outside.latest(), self._outside.failures()
        answered = {node: latest[node] for node in connected if node in latest and node not in failures}
        if not connected:
            return None
        by_node: dict[str, int | None] = {node: running(scrape) for node, scrape in answered.items()}
        by_node |= dict.fromkeys(connected.keys() - answered.keys())
        at_s = min((scrape.started_s for scrape in answered.values()), default=self._outside.clock())
        return Active(at_s, by_node)

    # --- what is served ---

    def _publish(self, service: str) -> None:
        self._publisher.serve(service, self._traffic(service))

    def _all_traffic(self) -> dict[str, ServiceTraffic]:
        touched = self._stable.keys() | {each.service for each in self._backends.values()}
        return {service: self._traffic(service) for service in touched}

    def _traffic(self, service: str) -> ServiceTraffic:
        rollout, split = self._rollouts.get(service), self._splits.get(service)
        if rollout is None or split is None:
            stable = self._stable.get(service, INITIAL)
            return ServiceTraffic(stable, (self._version_traffic(service, stable, FULL_BP),))
        weights = {Role.STABLE: FULL_BP - split.candidate_bp, Role.CANDIDATE: split.candidate_bp}
        versions = (
            self._version_traffic(service, self._name(rollout, role), weights[role], draining=role is split.draining)
            for role in Role
            if role in split.present
        )
        stable_role = Role.CANDIDATE if weights[Role.STABLE] == 0 else Role.STABLE
        return ServiceTraffic(self._name(rollout, stable_role), tuple(versions))

    def _version_traffic(self, service: str, name: str, weight_bp: int, *, draining: bool = False) -> VersionTraffic:
        record = self._versions.get((service, name))
        mine = [each for each in self.backends(service) if each.version == name]
        return VersionTraffic(
            name,
            weight_bp,
            record.endpoints if record else None,
            draining,
            frozenset(each.address for each in mine if not each.removed),
            frozenset(each.address for each in mine if each.removed),
        )

    def weight_bp(self, service: str, version: str) -> int:
        return next((each.weight_bp for each in self._traffic(service).versions if each.name == version), 0)

    # --- small ones ---

    def _check_service(self, service: str) -> None:
        if service not in self._publisher.services():
            known = ", ".join(self.services()) or "none: envoy-configs has no EDS cluster"
            raise Unknown(f"there is no service '{service}'; there are {known}")

    def _same_endpoints(self, deployment: Deployment) -> bool:
        known = self._versions.get((deployment.service, deployment.version))
        return known is not None and set(known.endpoints or ()) == set(deployment.endpoints)

    def _over(self, rollout: Rollout) -> bool:
        """Say whether a rollout has ended and its loser is forgotten: nothing is left to do for it."""
        loser = rollout.state.loser
        if rollout.state.phase not in ENDED or loser is None:
            return False
        return (rollout.service, self._name(rollout, loser)) not in self._versions

    @staticmethod
    def _name(rollout: Rollout, role: Role) -> str:
        return rollout.stable if role is Role.STABLE else rollout.candidate

    def _enqueue(self, saving: Saving) -> None:
        self._saving.append(saving)
        self._unsaved[saving.service] += 1
        self._to_save.set()

    async def _saved(self, saving: Saving) -> None:
        self._enqueue(saving)
        await self._wait_saved(saving)

    async def _wait_saved(self, saving: Saving) -> None:
        try:
            async with asyncio.timeout(COMMAND_SAVE_LIMIT_S):
                await saving.saved.wait()
        except TimeoutError as error:
            raise Unavailable(
                f"not saved within {COMMAND_SAVE_LIMIT_S:g} s, the disk does not answer; it is tried again"
            ) from error

    async def _save_batch(self, batch: tuple[Saving, ...]) -> None:
        changes = [change for saving in batch for change in saving.changes]
        try:
            await self._store.save(changes, engine_s=self._outside.clock())
        except Unavailable as error:
            self._outside.disk(str(error))
            await asyncio.sleep(SAVE_RETRY_S)
            return
        del self._saving[: len(batch)]
        for saving in batch:
            self._unsaved[saving.service] -= 1
            saving.then()
            saving.saved.set()
        self.wake()


def _fresh_rejections(connected: Mapping[str, NodeStatus], since_s: float) -> dict[str, str]:
    """Return NACKs that came since a phase began, of whatever type: something is wrong in the fleet, so stop."""
    return {
        node: _tail(f"refused {type_}: {each.rejection.text}")
        for node, status in connected.items()
        for type_, each in status.types.items()
        if each.rejection is not None and each.rejection.at_s >= since_s
    }


def _tail(text: str) -> str:
    """Keep the beginning, which says what was refused, and the end, where Envoy puts the reason."""
    return text if len(text) <= REASON_LIMIT else f"{text[:80]} ... {text[-(REASON_LIMIT - 85) :]}"
