"""What the engine knows of services, versions, rollouts and drained backends, and the traffic that follows from it."""

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace

from rollout.exposure import FULL_BP
from rollout.machine import wanted
from rollout.record import (
    KEPT_VERSIONS,
    Backend,
    Contents,
    DropMark,
    Ended,
    Mark,
    NamedStrategy,
    Origin,
    PastVersion,
    Queued,
    Rollout,
    Service,
    Version,
)
from rollout.state import ENDED, Role, Split
from rollout.traffic.compiler import ServiceTraffic, VersionTraffic
from rollout.traffic.groups import place_of
from rollout.traffic.publisher import INITIAL
from rollout.traffic.routing import PLAIN, Routing


def name_of(rollout: Rollout, role: Role) -> str:
    return rollout.stable if role is Role.STABLE else rollout.candidate


@dataclass(slots=True)
class Books:
    """The engine's memory; the store holds the same, but for what is being saved.

    `splits` has what is published for each service with a rollout in progress. `written` returns the addresses that
    envoy-configs gives a service. `marks` are those of operators, `ill` has by service the addresses of backends that
    probes or most Envoys find unhealthy, as it is known now.
    """

    written: Callable[[str], tuple[str, ...]]
    splits: dict[str, Split] = field(default_factory=dict)
    rollouts: dict[str, Rollout] = field(default_factory=dict)
    marks: dict[tuple[str, str], Mark] = field(default_factory=dict)
    ill: dict[str, frozenset[str]] = field(default_factory=dict)
    queued: dict[str, Queued] = field(default_factory=dict)
    strategies: dict[str, NamedStrategy] = field(default_factory=dict)
    _stable: dict[str, str] = field(default_factory=dict)
    # By service first: what is asked of each of thousands of services must not look at those of all others.
    _versions: dict[str, dict[str, Version]] = field(default_factory=dict)
    _backends: dict[str, dict[tuple[str, str], Backend]] = field(default_factory=dict)
    _past: dict[str, dict[str, PastVersion]] = field(default_factory=dict)

    def restore(self, contents: Contents) -> None:
        """Take up what was saved."""
        self._stable = {each.name: each.stable for each in contents.services}
        self._versions, self._backends, self._past = {}, {}, {}
        for past in contents.past:
            self._past.setdefault(past.service, {})[past.name] = past
        for version in contents.versions:
            self.put_version(version)
        for backend in contents.backends:
            self.put_backend(backend)
        self.rollouts = {each.service: each for each in contents.rollouts}
        self.marks = {(each.service, each.address): each for each in contents.marks}
        self.ill = dict(contents.ill)
        self.queued = {each.version.service: each for each in contents.queued}
        self.strategies = {each.name: each for each in contents.strategies}
        self.splits = {each.service: wanted(each.strategy, each.state) for each in self.active()}

    # --- what is there ---

    def stable(self, service: str) -> str:
        return self._stable.get(service, INITIAL)

    def versions(self, service: str) -> tuple[Version, ...]:
        known = tuple(version for _, version in sorted(self._versions.get(service, {}).items()))
        return known or (Version(service, INITIAL, None),)

    def discovered(self) -> tuple[Version, ...]:
        """Return the versions whose backends are found by a source."""
        return tuple(each for own in self._versions.values() for each in own.values() if each.discovery is not None)

    def backends(self, service: str) -> tuple[Backend, ...]:
        """Return the backends of a service that were let go, or are about to be."""
        return tuple(each for _, each in sorted(self._backends.get(service, {}).items()))

    def let_go(self, service: str) -> frozenset[str]:
        """Return the addresses that the rollout in progress lets go by itself, saved or not."""
        rollout = self.rollouts.get(service)
        if rollout is None or rollout.state.loser is not None:
            return frozenset()
        lanes = (lane.let_go for lane in rollout.state.lanes.values() if lane.loser is not Role.CANDIDATE)
        return frozenset({rollout.state.let_go, *lanes}) - {""}

    def draining(self) -> tuple[Backend, ...]:
        return tuple(each for own in self._backends.values() for each in own.values() if not each.removed)

    def addresses(self, service: str, version: str) -> tuple[str, ...]:
        """Return the addresses of a version's backends, without those that were let go."""
        record = next((each for each in self.versions(service) if each.name == version), None)
        if record is None:
            return ()
        known = self.written(service) if record.endpoints is None else tuple(each.address for each in record.endpoints)
        gone = {each.address for each in self.backends(service) if each.version == version and each.removed}
        return tuple(address for address in known if address not in gone)

    def endpoints(self, service: str, version: str) -> tuple[str, ...]:
        """Return a version's backends as HOST:PORT@region/zone, as far as that is known."""
        known = self._known(service, version)
        written = {each.address: str(each) for each in (known.endpoints if known else None) or ()}
        return tuple(written.get(address, address) for address in self.addresses(service, version))

    def ran_on(self, service: str, version: str) -> tuple[str, ...]:
        """Return the addresses of a version's backends; of one that was let go, those that it had."""
        past = self.past(service, version)
        return self.addresses(service, version) or (past.addresses if past else ())

    def users(self, services: Iterable[str]) -> Mapping[str, frozenset[tuple[str, str]]]:
        """Return by address which versions, as (service, version), run there."""
        found: dict[str, set[tuple[str, str]]] = {}
        for service in services:
            for version in self.versions(service):
                for address in self.addresses(service, version.name):
                    found.setdefault(address, set()).add((service, version.name))
        return {address: frozenset(each) for address, each in found.items()}

    def still_used(
        self, rollout: Rollout, users: Mapping[str, frozenset[tuple[str, str]]]
    ) -> Mapping[str, tuple[str, ...]]:
        """Return by address who else runs on backends of the version that goes, as "service version"."""
        assert rollout.state.loser is not None, rollout
        loser = name_of(rollout, rollout.state.loser)
        others = {
            address: users.get(address, frozenset()) - {(rollout.service, loser)}
            for address in self.ran_on(rollout.service, loser)
        }
        return {address: tuple(sorted(" ".join(each) for each in those)) for address, those in others.items() if those}

    def marked(self, service: str) -> frozenset[str]:
        """Return the addresses that operators have marked unhealthy."""
        return frozenset(address for owner, address in self.marks if owner == service)

    def marks_of(self, service: str, addresses: Iterable[str]) -> tuple[DropMark, ...]:
        """Return what takes away the marks of backends that leave: another machine may have their addresses next."""
        return tuple(DropMark(service, address) for address in sorted(self.marked(service).intersection(addresses)))

    def unhealthy(self, service: str, version: str) -> frozenset[str]:
        """Return the backends of a version that the fleet is told not to use, whoever has found that.

        For a version on the endpoints of envoy-configs, which may not be read yet: all that are no other version's.
        """
        found = self.marked(service) | self.ill.get(service, frozenset())
        if not found:
            return found
        by_version = {each.name: each.endpoints for each in self.versions(service)}
        mine = by_version.pop(version, None)
        if mine is not None:
            return found.intersection(each.address for each in mine)
        return found.difference(each.address for others in by_version.values() for each in others or ())

    def past(self, service: str, version: str) -> PastVersion | None:
        """Return what is remembered of a version that was let go, None for nothing."""
        return self._past.get(service, {}).get(version)

    def past_versions(self, service: str) -> tuple[PastVersion, ...]:
        """Return the versions of a service that were let go and are not there again, the newest first."""
        past = self._past.get(service, {}).values()
        gone = [each for each in past if self._known(service, each.name) is None]
        return tuple(sorted(gone, key=lambda each: each.ended.engine_s, reverse=True))

    def is_free(self, service: str) -> bool:
        """Say whether a service has no rollout in progress."""
        return self.under_way(service) is None

    def under_way(self, service: str) -> Rollout | None:
        """Return the rollout of a service that is in progress."""
        rollout = self.rollouts.get(service)
        return None if rollout is None or self.over(rollout) else rollout

    def is_busy(self, service: str) -> bool:
        """Say whether a service has a rollout or a drain in progress."""
        backends = self._backends.get(service, {}).values()
        return not self.is_free(service) or any(not each.removed for each in backends)

    def active(self) -> tuple[Rollout, ...]:
        return tuple(rollout for rollout in self.rollouts.values() if not self.over(rollout))

    def over(self, rollout: Rollout) -> bool:
        """Say whether a rollout has ended and its loser is forgotten: nothing is left to do for it."""
        loser = rollout.state.loser
        return rollout.state.phase in ENDED and loser is not None and self.retired(rollout, loser)

    def retired(self, rollout: Rollout, role: Role) -> bool:
        return self._known(rollout.service, name_of(rollout, role)) is None

    def runs(self, version: Version) -> bool:
        """Say whether a version is there, on just these endpoints."""
        known = self._known(version.service, version.name)
        if known is None or version.endpoints == ():  # a hook says them
            return known is not None
        if version.discovery is not None:  # what is found there now may be others than when it was asked for
            return known.discovery == version.discovery
        if known.endpoints is None or version.endpoints is None:
            return set(self.placed(known)) == set(self.placed(version))
        return set(known.endpoints) == set(version.endpoints)

    def placed(self, version: Version) -> tuple[str, ...]:
        """Return the addresses that a record has, of backends that were let go, too."""
        if version.endpoints is None:
            return self.written(version.service)
        return tuple(each.address for each in version.endpoints)

    def unserved(self, service: str) -> frozenset[str]:
        """Return the addresses of envoy-configs that no version has, for each has endpoints of its own."""
        versions = self.versions(service)
        if any(version.endpoints is None for version in versions):
            return frozenset()
        return frozenset(self.written(service)).difference(*map(self.placed, versions))

    def without(self, service: str, name: str, addresses: Collection[str]) -> Version:
        """Return a version without some of its backends."""
        version = self._versions[service][name]
        assert version.endpoints is not None, version
        left = tuple(each for each in version.endpoints if each.address not in addresses)
        return replace(version, endpoints=left)

    def past_version(self, rollout: Rollout, role: Role, ended: Ended) -> PastVersion:
        """Return what is remembered of the version that a rollout lets go."""
        service, name = rollout.service, name_of(rollout, role)
        known = self._known(service, name)
        addresses = self.addresses(service, name)
        endpoints = known.endpoints if known else ()
        if endpoints is not None:
            endpoints = tuple(each for each in endpoints if each.address in addresses)
        # The strategy of a way back is not that of a version: it leaves out stages, which are for later undos.
        way = None if rollout.origin is Origin.DEPLOY else self.past(service, rollout.candidate)
        strategy, served = (rollout.strategy, False) if way is None else (way.strategy, way.served)
        was_stable, discovery = served or role is Role.STABLE, known.discovery if known else None
        return PastVersion(service, name, endpoints, addresses, strategy, was_stable, ended, discovery)

    # --- what happened ---

    def begin(self, rollout: Rollout, candidate: Version) -> None:
        for version in (*self.versions(rollout.service), candidate):
            self.put_version(version)
        self._stable[rollout.service] = rollout.stable
        self.rollouts[rollout.service] = rollout
        self.queued.pop(rollout.service, None)
        self.splits[rollout.service] = wanted(rollout.strategy, rollout.state)

    def retire(self, service: str, winner: str, loser: str) -> None:
        self._forget(service, loser)
        self._stable[service] = winner
        self.splits.pop(service, None)

    def settle(self, service: Service, version: Version) -> None:
        """Take in a version's endpoints, of a service that may have been untouched before."""
        self._stable[service.name] = service.stable
        self.put_version(version)

    def put_version(self, version: Version) -> None:
        self._versions.setdefault(version.service, {})[version.name] = version

    def put_past(self, past: PastVersion) -> None:
        mine = self._past.setdefault(past.service, {})
        mine[past.name] = past
        for each in sorted(mine.values(), key=lambda each: each.ended.engine_s)[:-KEPT_VERSIONS]:
            del mine[each.name]

    def drop_past(self, service: str, name: str) -> None:
        self._past.get(service, {}).pop(name, None)

    def put_queued(self, queued: Queued) -> None:
        self.queued[queued.version.service] = queued

    def drop_queued(self, service: str) -> None:
        self.queued.pop(service, None)

    def drop_backend(self, backend: Backend) -> None:
        self._drop(backend.service, (backend.version, backend.address))

    def put_mark(self, mark: Mark) -> None:
        self.marks[mark.service, mark.address] = mark

    def drop_mark(self, service: str, address: str) -> None:
        self.marks.pop((service, address), None)

    def drop_marks(self, drops: Iterable[DropMark]) -> None:
        for each in drops:
            self.drop_mark(each.service, each.address)

    def adopt(self, version: Version, backends: Iterable[Backend]) -> None:
        """Have a service's only version, and what was let go of it, under another name."""
        self._forget(version.service, self.stable(version.service))
        self.settle(Service(version.service, version.name), version)
        for backend in backends:
            self.put_backend(backend)

    def put_backend(self, backend: Backend) -> None:
        self._backends.setdefault(backend.service, {})[backend.version, backend.address] = backend

    def _forget(self, service: str, version: str) -> None:
        self._versions.get(service, {}).pop(version, None)
        for key in [key for key in self._backends.get(service, {}) if key[0] == version]:
            self._drop(service, key)

    def _drop(self, service: str, key: tuple[str, str]) -> None:
        self._backends.get(service, {}).pop(key, None)

    def _known(self, service: str, version: str) -> Version | None:
        return self._versions.get(service, {}).get(version)

    # --- what follows ---

    def touched(self) -> frozenset[str]:
        """Return the services that are served otherwise than envoy-configs alone would have it."""
        marked = {service for service, _ in self.marks}
        return frozenset(self._stable) | marked | {service for service, own in self._backends.items() if own}

    def busy(self) -> frozenset[str]:
        """Return the services with a rollout or a drain in progress."""
        return frozenset(filter(self.is_busy, self.rollouts.keys() | self._backends.keys()))

    def traffic(self, service: str) -> ServiceTraffic:
        rollout, split = self.rollouts.get(service), self.splits.get(service)
        if rollout is None or split is None:
            stable = self.stable(service)
            return ServiceTraffic(stable, (self._version(service, stable, FULL_BP),))
        return self._split_traffic(rollout, split, split.candidate_bp)

    def by_location(self, service: str) -> Mapping[str, ServiceTraffic]:
        """Return by place what is served where a location has a weight of its own."""
        rollout, split = self.rollouts.get(service), self.splits.get(service)
        if rollout is None or split is None:
            return {}
        served = {bp: self._split_traffic(rollout, split, bp) for bp in set(split.by_location.values())}
        return {place_of(location): served[bp] for location, bp in split.by_location.items()}

    def _split_traffic(self, rollout: Rollout, split: Split, candidate_bp: int) -> ServiceTraffic:
        service = rollout.service
        weights = {Role.STABLE: FULL_BP - candidate_bp, Role.CANDIDATE: candidate_bp}
        versions = tuple(
            self._version(service, name_of(rollout, role), weights[role], draining=role is split.draining)
            for role in Role
            if role in split.present
        )
        stable = Role.STABLE if weights[Role.STABLE] else Role.CANDIDATE
        return ServiceTraffic(name_of(rollout, stable), versions, _routing(rollout, split))

    def weight_bp(self, service: str, version: str) -> int:
        return next((each.weight_bp for each in self.traffic(service).versions if each.name == version), 0)

    def _version(self, service: str, name: str, weight_bp: int, *, draining: bool = False) -> VersionTraffic:
        record = self._known(service, name)
        mine = [each for each in self.backends(service) if each.version == name]
        return VersionTraffic(
            name,
            weight_bp,
            record.endpoints if record else None,
            draining,
            frozenset(each.address for each in mine if not each.removed),
            frozenset(each.address for each in mine if each.removed),
            self.unhealthy(service, name),
        )


def _routing(rollout: Rollout, split: Split) -> Routing:
    """Return how requests reach the versions beside weights; the shadow is there as long as both versions are."""
    strategy = rollout.strategy
    if split.present != frozenset(Role):
        return PLAIN
    stages = (*strategy.stages, *(stage for wave in strategy.waves for stage in wave.stages))
    return Routing(
        rollout.candidate,
        shadow=strategy.preview is not None or any(stage.mirror_bp for stage in stages),
        match=split.match,
        mirror_bp=split.mirror_bp,
        preview=strategy.preview if split.preview else None,
        sticky=strategy.sticky if split.draining is None else None,
    )
