"""What is served to the fleet: configuration and splits, published to the cache; and who has it already."""

from collections.abc import Iterable, Mapping

from rollout.spec import FULL_BP
from rollout.traffic.compiler import (
    Compiler,
    ServiceTraffic,
    VersionTraffic,
    address_of,
    bare_stat_name,
    cluster_name,
    stat_name,
)
from rollout.traffic.overlay import overlay
from xds.cache import Cache, Wanted
from xds.config import parse
from xds.errors import InvalidConfig, Problem
from xds.resources import CLUSTERS, ENDPOINTS, ROUTES, Resource
from xds.snapshot import Snapshot, inconsistencies
from xds.subscription import Lag

INITIAL = "initial"


def check(files: Mapping[str, str]) -> tuple[Compiler, tuple[Problem, ...]]:
    """Compile a configuration as it is served before any rollout; return its compiler and its warnings.

    Raises InvalidConfig with every problem found.
    """
    compiler = Compiler(overlay(parse(files)))
    _compiled(compiler, {name: untouched(INITIAL) for name in compiler.overlay.services})
    return compiler, compiler.overlay.warnings


def untouched(stable: str) -> ServiceTraffic:
    """Return the traffic of a service with one version, on the endpoints that envoy-configs gives it."""
    return ServiceTraffic(stable, (VersionTraffic(stable, FULL_BP, None),))


def _compiled(compiler: Compiler, traffic: Mapping[str, ServiceTraffic]) -> Snapshot:
    snapshot = compiler.compile(traffic)
    problems = inconsistencies(snapshot, compiler.overlay.elsewhere)
    if problems:
        raise InvalidConfig(problems)
    return snapshot


class Publisher:
    """Holds the configuration and the splits in force, and publishes what follows from both."""

    def __init__(self, cache: Cache) -> None:
        self._cache = cache
        self._compiler: Compiler | None = None
        self._traffic: dict[str, ServiceTraffic] = {}

    @property
    def compiler(self) -> Compiler:
        assert self._compiler is not None, "load() comes first"
        return self._compiler

    def services(self) -> frozenset[str]:
        """Return the names of the services that the configuration has."""
        return frozenset(self.compiler.overlay.services)

    def load(
        self, files: Mapping[str, str], traffic: Mapping[str, ServiceTraffic], busy: frozenset[str] = frozenset()
    ) -> tuple[Problem, ...]:
        """Serve this configuration with these splits from now on; return its warnings.

        A service that `traffic` does not name is served untouched. Raises InvalidConfig, and goes on serving what it
        served, when the configuration is wrong in itself, or lacks a service that is `busy` with a rollout or a drain.
        """
        compiler, warnings = check(files)
        lost = sorted(busy - compiler.overlay.services.keys())
        if lost:
            what = "is not in envoy-configs, but a rollout or a drain of it is in progress; put its EDS cluster back"
            raise InvalidConfig(tuple(Problem(f"service '{name}'", what) for name in lost))
        following = {name: traffic.get(name) or untouched(INITIAL) for name in compiler.overlay.services}
        snapshot = _compiled(compiler, following)  # makes again only what differs from check()
        self._compiler, self._traffic = compiler, following
        self._cache.publish(snapshot)
        return warnings

    def serve(self, service: str, traffic: ServiceTraffic) -> bool:
        """Publish this split of a service; return False when it is what is served already."""
        if self._traffic[service] == traffic:
            return False
        following = {**self._traffic, service: traffic}
        snapshot = self.compiler.compile(following)
        self._traffic = following
        return self._cache.publish(snapshot)

    def traffic(self, service: str) -> ServiceTraffic:
        return self._traffic[service]

    def stat_name(self, service: str, version: str) -> str:
        return stat_name(self.compiler.overlay.services[service], version)

    def bare_stat_name(self, service: str) -> str | None:
        """Return the stats' name of a service's own cluster, None when only routes name the service."""
        template = self.compiler.overlay.services[service]
        return bare_stat_name(template) if template.bare else None

    def addresses(self, service: str) -> tuple[str, ...]:
        """Return the addresses that envoy-configs gives a service."""
        assignment = self.compiler.overlay.services[service].assignment
        return tuple(address_of(each) for locality in assignment.endpoints for each in locality.lb_endpoints)

    def lagging(self, service: str, known_versions: Iterable[str]) -> Mapping[str, Lag]:
        """Return by node id why a connected Envoy does not have a service as it is served now."""
        known = tuple(known_versions)
        return self._cache.lagging(lambda snapshot: self._wanted(snapshot, service, known))

    def letting_go(self, service: str, version: str) -> Mapping[str, Lag]:
        """Return by node id why a connected Envoy may still use a version that goes.

        It may while a route of its names the version, while it has not ACKed what is served of its endpoints, or that
        its cluster is gone. An Envoy that never had the version, because it refused it, is not waited for.
        """
        name = cluster_name(service, version)
        users = self._cache.needing(CLUSTERS, name)
        return {**self.endpoint_lags(service, version), **{node: Lag(f"may still use '{name}'") for node in users}}

    def endpoint_lags(self, service: str, version: str) -> Mapping[str, Lag]:
        """Return by node id why a connected Envoy does not know the health of a version's endpoints as it is served."""
        name = cluster_name(service, version)

        def wanted(snapshot: Snapshot) -> Iterable[Wanted]:
            served = [each for each in (name, service) if snapshot.get(ENDPOINTS, each) is not None]
            yield from (Wanted(ENDPOINTS, each, _version(snapshot.get(ENDPOINTS, each))) for each in served)
            if name not in served:
                yield Wanted(CLUSTERS, name, None)

        return self._cache.lagging(wanted)

    def _wanted(self, snapshot: Snapshot, service: str, known_versions: Iterable[str]) -> Iterable[Wanted]:
        present = {version.name for version in self._traffic[service].versions}
        clusters = [cluster_name(service, version) for version in sorted(present | set(known_versions))]
        for name in (*clusters, service):
            cluster, assignment = snapshot.get(CLUSTERS, name), snapshot.get(ENDPOINTS, name)
            if cluster is not None or name in clusters:
                yield Wanted(CLUSTERS, name, _version(cluster))
            if cluster is not None:
                yield Wanted(ENDPOINTS, name, _version(assignment))
        for route in self.compiler.overlay.routes:
            if service in route.services:
                yield Wanted(ROUTES, route.name, _version(snapshot.get(ROUTES, route.name)))


def _version(resource: Resource | None) -> str | None:
    return None if resource is None else resource.version
