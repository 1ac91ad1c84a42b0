"""Overlay and splits -> snapshot: a pure function of both, which makes again only what changed."""

import hashlib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any as Message

from rollout.spec import FULL_BP, Endpoint
from rollout.traffic.overlay import ROUTE_ACTION, Overlay, RouteTemplate, ServiceTemplate, copied, rewrite
from xds.resources import CLUSTERS, ENDPOINTS, ROUTES, TYPES, Resource, ResourceType, assignment_name, resource
from xds.snapshot import Snapshot, View, of_views, view

UINT32_MAX = 2**32 - 1
DRAINING = 3  # envoy.config.core.v3.HealthStatus
_PLAIN_STAT = re.compile(r"[^.:]+")


@dataclass(frozen=True, slots=True)
class VersionTraffic:
    """What is served of one version. `endpoints` None: those of envoy-configs.

    `draining` marks all of them, `let_go` some addresses as DRAINING; `removed` leaves addresses out.
    """

    name: str
    weight_bp: int
    endpoints: tuple[Endpoint, ...] | None
    draining: bool = False
    let_go: frozenset[str] = frozenset()
    removed: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class ServiceTraffic:
    """What is served of one service: its versions, stable first; their weights sum to FULL_BP."""

    stable: str
    versions: tuple[VersionTraffic, ...]


def cluster_name(service: str, version: str) -> str:
    return f"{service}@{version}"


def stat_name(service: ServiceTemplate, version: str) -> str:
    """Return the name of a version's cluster in Envoy's stats: a dot there would end the name of the cluster."""
    name = cluster_name(service.cluster.alt_stat_name or service.name, version)
    if _PLAIN_STAT.fullmatch(name):
        return name
    mark = hashlib.sha256(name.encode()).hexdigest()[:6]  # v2.1 and v2_1 must not meet
    return f"{re.sub('[.:]', '_', name)}-{mark}"


class Compiler:
    """Compiles the splits of one overlay. What is equal to the last time is not made again, but is the same object."""

    def __init__(self, overlay: Overlay) -> None:
        self.overlay = overlay
        self._made: dict[object, Resource] = {}
        self._views: dict[ResourceType, tuple[tuple[Resource, ...], View]] = {}

    def compile(self, services: Mapping[str, ServiceTraffic]) -> Snapshot:
        """Return the snapshot for these splits; each service of the overlay must have one."""
        made: dict[object, Resource] = {}
        resources = [*self.overlay.fixed]
        for name, template in self.overlay.services.items():
            resources += self._service(template, services[name], made)
        for route in self.overlay.routes:
            weights = {name: _weights(name, services[name]) for name in route.services}
            key = (ROUTES, route.name, tuple(weights.items()))
            made[key] = self._made.get(key) or _route(route, weights)
            resources.append(made[key])
        self._made = made
        return of_views(self._view(type_, resources) for type_ in TYPES)

    def _service(
        self, template: ServiceTemplate, traffic: ServiceTraffic, made: dict[object, Resource]
    ) -> Iterable[Resource]:
        for version in traffic.versions:
            key: object = (CLUSTERS, template.name, version.name)
            made[key] = self._made.get(key) or _cluster(template, version.name)
            yield made[key]
            name = cluster_name(template.name, version.name)
            yield self._assignment(template, name, version, made)
            if template.bare and version.name == traffic.stable:
                key = (CLUSTERS, template.name, None)
                made[key] = self._made.get(key) or resource(CLUSTERS, _with_defaults(template))
                yield made[key]
                yield self._assignment(template, assignment_name(template.cluster), version, made)

    def _assignment(
        self, template: ServiceTemplate, name: str, version: VersionTraffic, made: dict[object, Resource]
    ) -> Resource:
        key = (ENDPOINTS, name, version.endpoints, version.draining, version.let_go, version.removed)
        made[key] = self._made.get(key) or _assignment(template, name, version)
        return made[key]

    def _view(self, type_: ResourceType, resources: list[Resource]) -> View:
        mine = tuple(each for each in resources if each.type is type_)
        before = self._views.get(type_)
        if before is not None and len(before[0]) == len(mine) and all(map(_is, before[0], mine)):
            return before[1]
        made = view(type_, mine)
        self._views[type_] = (mine, made)
        return made


def _is(one: Resource, other: Resource) -> bool:
    return one is other


def _weights(service: str, traffic: ServiceTraffic) -> tuple[tuple[str, int], ...]:
    return tuple((cluster_name(service, each.name), each.weight_bp) for each in traffic.versions if each.weight_bp)


def _with_defaults(template: ServiceTemplate) -> Message:
    """Copy a service's cluster, with what a rollout needs where the user left it unset."""
    cluster = copied(template.cluster)
    if not cluster.common_lb_config.HasField("healthy_panic_threshold"):
        cluster.common_lb_config.healthy_panic_threshold.value = 0  # panic would send requests to draining hosts
    if not cluster.HasField("track_cluster_stats"):
        cluster.track_cluster_stats.per_endpoint_stats = True
    cluster.ignore_health_on_host_removal = True  # else a removed host stays while its health checks pass
    return cluster


def _cluster(template: ServiceTemplate, version: str) -> Resource:
    cluster = _with_defaults(template)
    cluster.name = cluster_name(template.name, version)
    cluster.eds_cluster_config.service_name = cluster.name
    stat = stat_name(template, version)
    cluster.alt_stat_name = stat if stat != cluster.name else ""
    return resource(CLUSTERS, cluster)


def _assignment(template: ServiceTemplate, name: str, version: VersionTraffic) -> Resource:
    assignment = copied(template.assignment)
    assignment.cluster_name = name
    if version.endpoints is not None:
        _set_endpoints(assignment, version.endpoints)
    for locality in assignment.endpoints:
        kept = [each for each in locality.lb_endpoints if address_of(each) not in version.removed]
        if len(kept) < len(locality.lb_endpoints):
            kept = [copied(each) for each in kept]
            del locality.lb_endpoints[:]
            locality.lb_endpoints.extend(kept)
        for endpoint in locality.lb_endpoints:
            if version.draining or address_of(endpoint) in version.let_go:
                endpoint.health_status = DRAINING
    return resource(ENDPOINTS, assignment)


def address_of(endpoint: Message) -> str:
    """Return an LbEndpoint's address as HOST:PORT, or "" when it is no socket address."""
    if not endpoint.endpoint.address.HasField("socket_address"):
        return ""
    socket = endpoint.endpoint.address.socket_address
    host = f"[{socket.address}]" if ":" in socket.address else socket.address
    return f"{host}:{socket.port_value}"


def _set_endpoints(assignment: Message, endpoints: tuple[Endpoint, ...]) -> None:
    """Put these endpoints in place of the assignment's own, grouped by locality; its policy stays."""
    by_locality: dict[tuple[str, str], list[Endpoint]] = {}
    for endpoint in endpoints:
        by_locality.setdefault((endpoint.region, endpoint.zone), []).append(endpoint)
    del assignment.endpoints[:]
    for (region, zone), group in sorted(by_locality.items()):
        locality = assignment.endpoints.add()
        locality.locality.region, locality.locality.zone = region, zone
        locality.load_balancing_weight.value = len(group)  # without it locality-weighted balancing sends nothing
        for endpoint in sorted(group, key=lambda each: each.address):
            socket = locality.lb_endpoints.add().endpoint.address.socket_address
            socket.address, socket.port_value = endpoint.host, endpoint.port


def _route(route: RouteTemplate, weights: Mapping[str, tuple[tuple[str, int], ...]]) -> Resource:
    message = copied(route.message)

    def split(action: Message) -> bool:
        if action.cluster in weights:
            parts = weights[action.cluster]
            action.weighted_clusters.SetInParent()  # clears `cluster`: both are of one oneof
            for name, weight in parts:
                action.weighted_clusters.clusters.add(name=name).weight.value = weight
            return True
        if any(each.name in weights for each in action.weighted_clusters.clusters):
            _split_weighted(action.weighted_clusters, weights)
            return True
        return False

    rewrite(message, ROUTE_ACTION, split)
    return resource(ROUTES, message)


def _split_weighted(weighted: Message, weights: Mapping[str, tuple[tuple[str, int], ...]]) -> None:
    """Split each entry that is a service in proportion, and scale the others alike."""
    total = sum(entry.weight.value for entry in weighted.clusters)
    parts: list[tuple[Message, str, int]] = [
        (entry, name, entry.weight.value * weight)
        for entry in map(copied, weighted.clusters)
        for name, weight in weights.get(entry.name, ((entry.name, FULL_BP),))
    ]
    scaled = _scaled([weight for _, _, weight in parts], total)
    del weighted.clusters[:]
    weighted.ClearField("total_weight")
    for (entry, name, _), weight in zip(parts, scaled, strict=True):
        part = weighted.clusters.add()
        part.CopyFrom(entry)
        part.name, part.weight.value = name, weight


def _scaled(products: list[int], total: int) -> list[int]:
    """Return weights in these proportions: of FULL_BP where that is exact, else as they are, else as near as fits."""
    if all(product % total == 0 for product in products):
        return [product // total for product in products]
    if sum(products) <= UINT32_MAX:
        return products
    return [max(1, product * FULL_BP // total) if product else 0 for product in products]
