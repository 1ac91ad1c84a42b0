"""What is served to the fleet: configuration and splits, published to the cache; and who has it already."""

from collections.abc import Iterable, Iterator, Mapping
from types import MappingProxyType
from typing import NamedTuple

from rollout.exposure import FULL_BP
from rollout.spec import Endpoint
from rollout.traffic import written
from rollout.traffic.assignment import address_of
from rollout.traffic.compiler import (
    ServiceTraffic,
    VersionTraffic,
    bare_stat_name,
    shadow_stat_name,
    stat_name,
)
from rollout.traffic.groups import COMMON, Files, FleetCompiler, FleetTraffic, check_consistent, overlays
from rollout.traffic.lint import moved_keys
from rollout.traffic.overlay import Overlay, ServiceTemplate
from rollout.traffic.routing import cluster_name, shadow_name
from xds.cache import Cache, Fleet, Wanted
from xds.errors import InvalidConfig, Problem
from xds.node import Node
from xds.resources import CLUSTERS, ENDPOINTS, Resource
from xds.snapshot import Snapshot
from xds.subscription import Lag

INITIAL = "initial"
ByLocation = Mapping[str, ServiceTraffic]
NOWHERE: ByLocation = MappingProxyType({})


class Checked(NamedTuple):
    """A configuration that is right in itself: compiled for every group as it is served before any rollout."""

    files: Files
    compiler: FleetCompiler
    warnings: tuple[Problem, ...]


class Prepared(NamedTuple):
    """A configuration with the splits in force, compiled and found to fit; what `load` serves from then on."""

    compiler: FleetCompiler
    traffic: dict[str, FleetTraffic]
    fleet: Fleet
    warnings: tuple[Problem, ...]


def check(files: Files | Mapping[str, str]) -> Checked:
    """Parse, lint and compile a configuration; files alone are the same for every proxy. It may run in a thread.

    Raises InvalidConfig with every problem found.
    """
    files = files if isinstance(files, Files) else Files(files)
    found, warnings = overlays(files)
    compiler = FleetCompiler(found)
    fleet = compiler.compile({name: FleetTraffic(untouched(INITIAL)) for name in compiler.services})
    check_consistent(files, compiler, fleet)
    return Checked(files, compiler, warnings)


def untouched(stable: str) -> ServiceTraffic:
    """Return the traffic of a service with one version, on the endpoints that envoy-configs gives it."""
    return ServiceTraffic(stable, (VersionTraffic(stable, FULL_BP, None),))


class Publisher:
    """Holds the configuration and the splits in force, and publishes what follows from both."""

    def __init__(self, cache: Cache) -> None:
        self._cache = cache
        self._compiler: FleetCompiler | None = None
        self._traffic: dict[str, FleetTraffic] = {}
        self._written: dict[tuple[str, str], frozenset[str]] = {}  # addresses by group and service, as asked for

    @property
    def compiler(self) -> FleetCompiler:
        assert self._compiler is not None, "load() comes first"
        return self._compiler

    def services(self) -> frozenset[str]:
        """Return the names of the services that the configuration has, for whichever proxies."""
        return self.compiler.services

    def load(
        self,
        config: Checked | Files | Mapping[str, str],
        traffic: Mapping[str, ServiceTraffic],
        busy: frozenset[str] = frozenset(),
        by_location: Mapping[str, ByLocation] = MappingProxyType({}),
    ) -> tuple[Problem, ...]:
        """Serve this configuration with these splits from now on; return its warnings. Raises as `prepare`."""
        prepared = self.prepare(config, traffic, busy, by_location)
        self._compiler, self._traffic, self._written = prepared.compiler, prepared.traffic, {}
        self._cache.publish(prepared.fleet)
        return prepared.warnings

    def prepare(
        self,
        config: Checked | Files | Mapping[str, str],
        traffic: Mapping[str, ServiceTraffic],
        busy: frozenset[str] = frozenset(),
        by_location: Mapping[str, ByLocation] = MappingProxyType({}),
    ) -> Prepared:
        """Return what would be served by this configuration with these splits; nothing is changed.

        A service that `traffic` does not name is served untouched; `by_location` is by service, see serve(). Raises
        InvalidConfig when the configuration is wrong in itself, or lacks a service that is `busy` with a rollout or a
        drain, for any proxies that have it.
        """
        files, compiler, warnings = config if isinstance(config, Checked) else check(config)
        lost = tuple(_lost(busy, self._compiler, compiler))
        if lost:
            raise InvalidConfig(lost)
        following = {
            name: FleetTraffic(traffic.get(name) or untouched(INITIAL), dict(by_location.get(name, NOWHERE)))
            for name in compiler.services
        }
        fleet = compiler.compile(following)  # makes again only what differs from check()
        check_consistent(files, compiler, fleet)
        lost = tuple(_moved_keys(self._cache.fleet, fleet))
        if lost:
            raise InvalidConfig(lost)
        return Prepared(compiler, following, fleet, warnings)

    def serve(self, service: str, traffic: ServiceTraffic, by_location: ByLocation = NOWHERE) -> bool:
        """Publish this split of a service; return False when it is what is served already.

        Proxies in a place of `by_location`, see groups.Grouping, are served its split instead.
        """
        split = FleetTraffic(traffic, dict(by_location))
        if self._traffic[service] == split:
            return False
        following = {**self._traffic, service: split}
        fleet = self.compiler.compile(following)
        self._traffic = following
        return self._cache.publish(fleet)

    def traffic(self, service: str) -> ServiceTraffic:
        """Return what is served of a service where its location has no split of its own."""
        return self._traffic[service].everywhere

    def has(self, node: Node, service: str) -> bool:
        """Say whether a proxy's configuration has a service."""
        return service in self._overlay(node).services

    def health_checked(self, service: str) -> bool:
        """Say whether every proxy that has a service checks the health of its backends itself."""
        return all(template.cluster.health_checks for template in self._templates(service))

    def stat_name(self, service: str, version: str) -> str:
        """Return the name of a version's cluster in the stats of every proxy that has it."""
        return stat_name(next(self._templates(service)), version)

    def shadow_stat_name(self, service: str, version: str) -> str:
        """Return the name of a version's shadow cluster in the stats of every proxy that has it."""
        return shadow_stat_name(next(self._templates(service)), version)

    def bare_stat_names(self, service: str) -> tuple[str, ...]:
        """Return the names that a service's own cluster has in the stats of proxies; none when only routes name it."""
        names = (bare_stat_name(template) for template in self._templates(service) if template.bare)
        return tuple(dict.fromkeys(names))

    def bare_stat_name(self, node: Node, service: str) -> str | None:
        """Return the stats' name of a service's own cluster at a proxy, None when it has none."""
        template = self._overlay(node).services.get(service)
        return bare_stat_name(template) if template is not None and template.bare else None

    def tcp_stat_names(self, service: str) -> tuple[str, ...]:
        """Return the names that a service's own cluster has in the stats of proxies whose TCP proxies name it."""
        return tuple(dict.fromkeys(bare_stat_name(each) for each in self._templates(service) if each.tcp))

    def takes_tcp_only(self, service: str) -> bool:
        """Say whether TCP proxies lead to a service, and no route of any proxy does."""
        routes = (route for overlay in self.compiler.overlays.values() for route in overlay.routes)
        return bool(self.tcp_stat_names(service)) and not any(service in route.services for route in routes)

    def addresses(self, service: str) -> tuple[str, ...]:
        """Return the addresses that envoy-configs gives a service, for whichever proxies."""
        return tuple(dict.fromkeys(each for template in self._templates(service) for each in _written(template)))

    def places(self, service: str) -> Mapping[str, str]:
        """Return by address in which location envoy-configs has a service's endpoints, "" for none."""
        return written.places(self._templates(service))

    def own_endpoints(self, service: str) -> tuple[Endpoint, ...]:
        """Return the endpoints that envoy-configs gives a service as a version has its own. Raises Conflict."""
        return written.own_endpoints(self._templates(service))

    def backends(self, service: str, version: str) -> tuple[frozenset[str], ...]:
        """Return the addresses of a version as each group of proxies that has the service is given them, each once.

        What is let go is among them, what is removed is not.
        """
        return tuple(dict.fromkeys(self._backends(each, version) for each in self._templates(service)))

    def has_backend(self, node: Node, service: str, version: str, address: str) -> bool:
        """Say whether a proxy is given an address of a version: those of envoy-configs may differ by group."""
        if not self.has(node, service):
            return False
        record = next((each for each in _versions(self._traffic[service]) if each.name == version), None)
        if record is None or record.endpoints is not None:
            return True
        group = self.compiler.grouping.cluster(node)
        if (group, service) not in self._written:
            self._written[group, service] = frozenset(_written(self.compiler.overlays[group].services[service]))
        return address in self._written[group, service]

    def lagging(self, service: str, known_versions: Iterable[str]) -> Mapping[str, Lag]:
        """Return by node id why a connected Envoy does not have a service as it is served now."""
        known = tuple(known_versions)
        return self._cache.lagging(lambda snapshot: self._wanted(snapshot, service, known))

    def letting_go(self, service: str, version: str) -> Mapping[str, Lag]:
        """Return by node id why a connected Envoy may still use a version that goes.

        It may while a route of its names the version, while it has not ACKed what is served of its endpoints, or that
        its cluster is gone. An Envoy that never had the version, because it refused it, is not waited for.
        """
        names = (shadow_name(service, version), cluster_name(service, version))
        users = {node: Lag(f"may still use '{name}'") for name in names for node in self._cache.needing(CLUSTERS, name)}
        return {**self.endpoint_lags(service, version), **users}

    def endpoint_lags(self, service: str, version: str) -> Mapping[str, Lag]:
        """Return by node id why a connected Envoy does not know the health of a version's endpoints as it is served."""
        names = (cluster_name(service, version), shadow_name(service, version))

        def wanted(snapshot: Snapshot) -> Iterable[Wanted]:
            served = [each for each in (*names, service) if snapshot.get(ENDPOINTS, each) is not None]
            yield from (Wanted(ENDPOINTS, each, _version(snapshot.get(ENDPOINTS, each))) for each in served)
            yield from (Wanted(CLUSTERS, each, None) for each in names if each not in served)

        return self._cache.lagging(wanted)

    def _wanted(self, snapshot: Snapshot, service: str, known_versions: Iterable[str]) -> Iterable[Wanted]:
        overlay = self.compiler.overlay_of(snapshot)
        if service not in overlay.services:
            return
        present = {version.name for version in _versions(self._traffic[service])}
        versions = sorted(present | set(known_versions))
        clusters = [cluster_name(service, version) for version in versions]
        for name in (*clusters, *(shadow_name(service, version) for version in versions), service):
            cluster, assignment = snapshot.get(CLUSTERS, name), snapshot.get(ENDPOINTS, name)
            if cluster is not None or name in clusters:
                yield Wanted(CLUSTERS, name, _version(cluster))
            if cluster is not None:
                yield Wanted(ENDPOINTS, name, _version(assignment))
        for route in overlay.routes:
            if service in route.services:
                yield Wanted(route.type, route.name, _version(snapshot.get(route.type, route.name)))

    def _overlay(self, node: Node) -> Overlay:
        return self.compiler.overlays[self.compiler.grouping.cluster(node)]

    def _templates(self, service: str) -> Iterator[ServiceTemplate]:
        return (each.services[service] for each in self.compiler.overlays.values() if service in each.services)

    def _backends(self, template: ServiceTemplate, version: str) -> frozenset[str]:
        found: set[str] = set()
        for each in _versions(self._traffic[template.name]):
            if each.name == version:
                given = None if each.endpoints is None else [endpoint.address for endpoint in each.endpoints]
                found |= set(_written(template) if given is None else given) - each.removed
        return frozenset(found)


def _versions(traffic: FleetTraffic) -> Iterator[VersionTraffic]:
    """Yield the versions that are served anywhere."""
    for each in (traffic.everywhere, *traffic.by_location.values()):
        yield from each.versions


def _written(template: ServiceTemplate) -> list[str]:
    return [address_of(each) for locality in template.assignment.endpoints for each in locality.lb_endpoints]


def _lost(busy: Iterable[str], before: FleetCompiler | None, after: FleetCompiler) -> Iterator[Problem]:
    """Yield a problem for each busy service that is no more there, for all proxies or for those of one cluster."""
    for name in sorted(busy):
        remedy = "but a rollout or a drain of it is in progress; put its EDS cluster back"
        if name not in after.services:
            yield Problem(f"service '{name}'", f"is not in envoy-configs, {remedy}")
            continue
        for group in sorted({} if before is None else before.overlays.keys() | after.overlays.keys()):
            had, has = (name in _overlay(each, group).services for each in (before or after, after))
            if had and not has:
                whom = f"for proxies of the cluster '{group}'" if group else "for proxies whose cluster has no folder"
                yield Problem(f"service '{name}'", f"is not in envoy-configs {whom} any more, {remedy}")


def _overlay(compiler: FleetCompiler, group: str) -> Overlay:
    return compiler.overlays.get(group) or compiler.overlays[COMMON]


def _version(resource: Resource | None) -> str | None:
    return None if resource is None else resource.version


def _moved_keys(before: Fleet | None, after: Fleet) -> Iterator[Problem]:
    if before is not None:
        yield from moved_keys(before.common, after.common)
        for group in before.groups.keys() & after.groups.keys():
            yield from moved_keys(before.groups[group], after.groups[group])
