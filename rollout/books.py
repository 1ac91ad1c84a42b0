"""What the engine knows of services, versions, rollouts and drained backends, and the traffic that follows from it."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from rollout.exposure import FULL_BP
from rollout.machine import wanted
from rollout.record import Backend, Contents, Mark, Rollout, Version
from rollout.spec import Deployment
from rollout.state import ENDED, Role, Split
from rollout.traffic.compiler import ServiceTraffic, VersionTraffic
from rollout.traffic.groups import place_of
from rollout.traffic.publisher import INITIAL


def name_of(rollout: Rollout, role: Role) -> str:
    return rollout.stable if role is Role.STABLE else rollout.candidate


@dataclass(slots=True)
class Books:
    """The engine's memory; the store holds the same, but for what is being saved.

    `splits` has what is published for each service with a rollout in progress. `written` returns the addresses that
    envoy-configs gives a service. `marks` are those of operators, `ill` has by service the addresses of backends that
    probes or most Envoys find unhealthy, as it is known now: it is not saved.
    """

    written: Callable[[str], tuple[str, ...]]
    splits: dict[str, Split] = field(default_factory=dict)
    rollouts: dict[str, Rollout] = field(default_factory=dict)
    marks: dict[tuple[str, str], Mark] = field(default_factory=dict)
    ill: dict[str, frozenset[str]] = field(default_factory=dict)
    _stable: dict[str, str] = field(default_factory=dict)
    _versions: dict[tuple[str, str], Version] = field(default_factory=dict)
    _backends: dict[tuple[str, str, str], Backend] = field(default_factory=dict)

    def restore(self, contents: Contents) -> None:
        """Take up what was saved."""
        self._stable = {each.name: each.stable for each in contents.services}
        self._versions = {(each.service, each.name): each for each in contents.versions}
        self._backends = {(each.service, each.version, each.address): each for each in contents.backends}
        self.rollouts = {each.service: each for each in contents.rollouts}
        self.marks = {(each.service, each.address): each for each in contents.marks}
        self.splits = {each.service: wanted(each.strategy, each.state) for each in self.active()}

    # --- what is there ---

    def stable(self, service: str) -> str:
        return self._stable.get(service, INITIAL)

    def versions(self, service: str) -> tuple[Version, ...]:
        known = tuple(version for (owner, _), version in sorted(self._versions.items()) if owner == service)
        return known or (Version(service, INITIAL, None),)

    def backends(self, service: str) -> tuple[Backend, ...]:
        """Return the backends of a service that were let go, or are about to be."""
        return tuple(each for key, each in sorted(self._backends.items()) if key[0] == service)

    def draining(self) -> tuple[Backend, ...]:
        return tuple(each for each in self._backends.values() if not each.removed)

    def addresses(self, service: str, version: str) -> tuple[str, ...]:
        """Return the addresses of a version's backends, without those that were let go."""
        record = next((each for each in self.versions(service) if each.name == version), None)
        if record is None:
            return ()
        known = self.written(service) if record.endpoints is None else tuple(each.address for each in record.endpoints)
        gone = {each.address for each in self.backends(service) if each.version == version and each.removed}
        return tuple(address for address in known if address not in gone)

    def marked(self, service: str) -> frozenset[str]:
        """Return the addresses that operators have marked unhealthy."""
        return frozenset(address for owner, address in self.marks if owner == service)

    def unhealthy(self, service: str, version: str) -> frozenset[str]:
        """Return the backends of a version that the fleet is told not to use, whoever has found that."""
        found = self.marked(service) | self.ill.get(service, frozenset())
        return found & set(self.addresses(service, version)) if found else found

    def active(self) -> tuple[Rollout, ...]:
        return tuple(rollout for rollout in self.rollouts.values() if not self.over(rollout))

    def over(self, rollout: Rollout) -> bool:
        """Say whether a rollout has ended and its loser is forgotten: nothing is left to do for it."""
        loser = rollout.state.loser
        return rollout.state.phase in ENDED and loser is not None and self.retired(rollout, loser)

    def retired(self, rollout: Rollout, role: Role) -> bool:
        return (rollout.service, name_of(rollout, role)) not in self._versions

    def runs(self, deployment: Deployment) -> bool:
        """Say whether the version of a deployment is there, on just its endpoints."""
        known = self._versions.get((deployment.service, deployment.version))
        return known is not None and set(known.endpoints or ()) == set(deployment.endpoints)

    # --- what happened ---

    def begin(self, rollout: Rollout, candidate: Version) -> None:
        for version in (*self.versions(rollout.service), candidate):
            self._versions[rollout.service, version.name] = version
        self._stable[rollout.service] = rollout.stable
        self.rollouts[rollout.service] = rollout
        self.splits[rollout.service] = wanted(rollout.strategy, rollout.state)

    def retire(self, service: str, winner: str, loser: str) -> None:
        self._forget(service, loser)
        self._stable[service] = winner
        self.splits.pop(service, None)

    def put_mark(self, mark: Mark) -> None:
        self.marks[mark.service, mark.address] = mark

    def drop_mark(self, service: str, address: str) -> None:
        self.marks.pop((service, address), None)

    def adopt(self, service: str, version: str) -> None:
        self._forget(service, self.stable(service))
        self._stable[service] = version
        self._versions[service, version] = Version(service, version, None)

    def put_backend(self, backend: Backend) -> None:
        self._backends[backend.service, backend.version, backend.address] = backend

    def _forget(self, service: str, version: str) -> None:
        self._versions.pop((service, version), None)
        for key in [key for key in self._backends if key[:2] == (service, version)]:
            del self._backends[key]

    # --- what follows ---

    def touched(self) -> frozenset[str]:
        """Return the services that are served otherwise than envoy-configs alone would have it."""
        marked = {service for service, _ in self.marks}
        return frozenset(self._stable) | marked | {each.service for each in self._backends.values()}

    def busy(self) -> frozenset[str]:
        """Return the services with a rollout or a drain in progress."""
        return frozenset({each.service for each in self.active()} | {each.service for each in self.draining()})

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
        return ServiceTraffic(name_of(rollout, stable), versions)

    def weight_bp(self, service: str, version: str) -> int:
        return next((each.weight_bp for each in self.traffic(service).versions if each.name == version), 0)

    def _version(self, service: str, name: str, weight_bp: int, *, draining: bool = False) -> VersionTraffic:
        record = self._versions.get((service, name))
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
