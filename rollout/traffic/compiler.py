"""Overlay and splits -> snapshot: a pure function of both, which makes again only what changed."""

import hashlib
import math
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any as Message

from rollout.spec import FULL_BP, Endpoint
from rollout.traffic.overlay import Overlay, RouteTemplate, ServiceTemplate
from rollout.traffic.places import change, copied
from xds import proto
from xds.resources import (
    CLUSTERS,
    ENDPOINTS,
    ROUTES,
    TYPES,
    Reference,
    Resource,
    ResourceType,
    content_version,
    resource,
)
from xds.snapshot import Snapshot, View, of_views, view

WEIGHTED_CLUSTER = "envoy.config.route.v3.WeightedCluster"
WEIGHTS_LIMIT = 2**32 - 1  # of the sum of weights in a route
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
    """What is served of one service: its versions, the stable one among them; their weights sum to FULL_BP."""

    stable: str
    versions: tuple[VersionTraffic, ...]

    def __post_init__(self) -> None:
        assert sum(version.weight_bp for version in self.versions) == FULL_BP, self
        assert any(version.name == self.stable for version in self.versions), self


# Clusters of a service's versions that get requests, and their weights.
Weights = tuple[tuple[str, int], ...]
Made = dict[object, Resource]


def cluster_name(service: str, version: str) -> str:
    return f"{service}@{version}"


def stat_name(service: ServiceTemplate, version: str) -> str:
    """Return the name of a version's cluster in Envoy's stats: a dot there would end the name of the cluster."""
    name = cluster_name(service.stat, version)
    if _PLAIN_STAT.fullmatch(name):
        return name
    mark = hashlib.sha256(name.encode()).hexdigest()[:6]  # v2.1 and v2_1 must not meet
    return f"{re.sub('[.:]', '_', name)}-{mark}"


def bare_stat_name(service: ServiceTemplate) -> str:
    """Return the name of a service's own cluster in Envoy's stats, where a colon is an underscore."""
    return str(service.cluster.alt_stat_name or service.name).replace(":", "_")


def address_of(endpoint: Message) -> str:
    """Return an LbEndpoint's address as HOST:PORT, or "" when it is no socket address."""
    if not endpoint.endpoint.address.HasField("socket_address"):
        return ""
    socket = endpoint.endpoint.address.socket_address
    host = f"[{socket.address}]" if ":" in socket.address else socket.address
    return f"{host}:{socket.port_value}"


class Compiler:
    """Compiles the splits of one overlay. What is equal to the last time is not made again, but is the same object."""

    def __init__(self, overlay: Overlay) -> None:
        self.overlay = overlay
        self._traffic: Mapping[str, ServiceTraffic] = {}
        self._made: Mapping[str, Made] = {}
        self._routes: Mapping[str, Resource] = {}
        self._views: Mapping[ResourceType, tuple[tuple[Resource, ...], View]] = {}

    def compile(self, services: Mapping[str, ServiceTraffic]) -> Snapshot:
        """Return the snapshot for these splits; each service of the overlay must have one."""
        traffic = {name: services[name] for name in self.overlay.services}
        changed = {name for name, each in traffic.items() if each != self._traffic.get(name)}
        shifted = {
            name
            for name in changed
            if name not in self._traffic or _weights(name, traffic[name]) != _weights(name, self._traffic[name])
        }
        made = {
            name: _service(template, traffic[name], self._made.get(name, {})) if name in changed else self._made[name]
            for name, template in self.overlay.services.items()
        }
        routes = {
            each.name: self._routes[each.name] if shifted.isdisjoint(each.services) else _route(each, traffic)
            for each in self.overlay.routes
        }
        resources = [*self.overlay.fixed, *(one for each in made.values() for one in each.values()), *routes.values()]
        by_type: dict[ResourceType, list[Resource]] = {type_: [] for type_ in TYPES}
        for each in resources:
            by_type[each.type].append(each)
        views = {type_: self._view(type_, tuple(mine)) for type_, mine in by_type.items()}
        self._traffic, self._made, self._routes, self._views = traffic, made, routes, views
        return of_views(each for _, each in views.values())

    def _view(self, type_: ResourceType, mine: tuple[Resource, ...]) -> tuple[tuple[Resource, ...], View]:
        before = self._views.get(type_)
        if before is not None and len(before[0]) == len(mine) and all(map(_is, before[0], mine)):
            return before
        return mine, view(type_, mine)


def _is(one: Resource, other: Resource) -> bool:
    return one is other


def _weights(service: str, traffic: ServiceTraffic) -> Weights:
    return tuple((cluster_name(service, each.name), each.weight_bp) for each in traffic.versions if each.weight_bp)


def _service(template: ServiceTemplate, traffic: ServiceTraffic, before: Made) -> Made:
    """Return what is served of a service by what it depends on: that of `before` where that is the same."""
    makers: dict[object, Callable[[], Resource]] = {}
    placed = tuple(replace(version, weight_bp=0) for version in traffic.versions)
    for version in placed:
        name = cluster_name(template.name, version.name)
        makers[CLUSTERS, name] = partial(_cluster, template, version.name)
        makers[ENDPOINTS, name, version] = partial(_assignment, template, name, (version,))
    if template.bare:
        stable_first = tuple(
            replace(version, draining=version.draining or version.name != traffic.stable)
            for version in sorted(placed, key=lambda each: each.name != traffic.stable)
        )
        makers[CLUSTERS, template.name] = partial(_bare_cluster, template)
        makers[ENDPOINTS, template.name, stable_first] = partial(_assignment, template, template.name, stable_first)
    return {key: before.get(key) or make() for key, make in makers.items()}


def _cluster(template: ServiceTemplate, version: str) -> Resource:
    cluster = _with_defaults(template.cluster)
    cluster.name = cluster_name(template.name, version)
    cluster.eds_cluster_config.service_name = cluster.name
    stat = stat_name(template, version)
    cluster.alt_stat_name = stat if stat != cluster.name else ""
    return resource(CLUSTERS, cluster)


def _bare_cluster(template: ServiceTemplate) -> Resource:
    cluster = _with_defaults(template.cluster)
    cluster.eds_cluster_config.service_name = ""  # another service may share it, but not its versions
    return resource(CLUSTERS, cluster)


def _with_defaults(written: Message) -> Message:
    """Copy a service's cluster, with what a rollout needs where the user left it unset."""
    cluster = copied(written)
    if not cluster.common_lb_config.HasField("healthy_panic_threshold"):
        cluster.common_lb_config.healthy_panic_threshold.value = 0  # panic would send requests to draining hosts
    if not cluster.HasField("track_cluster_stats"):
        cluster.track_cluster_stats.per_endpoint_stats = True
    cluster.ignore_health_on_host_removal = True  # else a removed host stays while its health checks pass
    return cluster


def _assignment(template: ServiceTemplate, name: str, versions: tuple[VersionTraffic, ...]) -> Resource:
    """Assign the endpoints of these versions to the cluster of this name.

    The cluster of a service itself holds all its versions, all but the stable one DRAINING: so they are health-checked
    before they become stable, when new hosts would be left out until their first check.
    """
    first, *others = versions
    assignment = _placed(template, first)
    assignment.cluster_name = name
    for version in others:
        _add(assignment, _placed(template, version))
    body = proto.canonical(assignment)
    return Resource(ENDPOINTS, name, content_version(body), body, ())


def _placed(template: ServiceTemplate, version: VersionTraffic) -> Message:
    """Return the service's assignment with the endpoints of a version, without the removed ones."""
    assignment = copied(template.assignment)
    if version.endpoints is not None:
        _replace_endpoints(assignment, [each for each in version.endpoints if each.address not in version.removed])
    for locality in assignment.endpoints:
        _keep(locality, lambda endpoint: address_of(endpoint) not in version.removed)
        for endpoint in locality.lb_endpoints:
            if version.draining or address_of(endpoint) in version.let_go:
                endpoint.health_status = DRAINING
    return assignment


def _keep(locality: Message, wanted: Callable[[Message], bool]) -> None:
    kept = [copied(each) for each in locality.lb_endpoints if wanted(each)]
    if len(kept) < len(locality.lb_endpoints):
        del locality.lb_endpoints[:]
        locality.lb_endpoints.extend(kept)


def _replace_endpoints(assignment: Message, endpoints: Iterable[Endpoint]) -> None:
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


def _add(assignment: Message, more: Message) -> None:
    """Add the endpoints of another assignment where their address is new, each to its locality."""
    known = {address_of(endpoint) for locality in assignment.endpoints for endpoint in locality.lb_endpoints}
    by_place = {_place(locality): locality for locality in assignment.endpoints}
    for locality in more.endpoints:
        _keep(locality, lambda endpoint: address_of(endpoint) not in known)
        there = by_place.get(_place(locality))
        if there is not None:
            there.lb_endpoints.extend(locality.lb_endpoints)
        elif locality.lb_endpoints:
            assignment.endpoints.append(locality)


def _place(locality: Message) -> tuple[str, str, str, int]:
    where = locality.locality
    return where.region, where.zone, where.sub_zone, locality.priority


def _route(route: RouteTemplate, traffic: Mapping[str, ServiceTraffic]) -> Resource:
    weights = {name: _weights(name, traffic[name]) for name in route.services}
    weighted = {name: _weighted(each) for name, each in weights.items()}

    def split(action: Message, _: str) -> None:
        if action.cluster in weighted:
            action.weighted_clusters.CopyFrom(weighted[action.cluster])  # clears `cluster`: both are of one oneof
        else:
            _split_weighted(action.weighted_clusters, weights)

    message = copied(route.message)
    change(message, route.places, split)
    body = proto.canonical(message)
    versions = (
        Reference(CLUSTERS, cluster, f"{route.services[name]}.weighted_clusters")
        for name, each in weights.items()
        for cluster, _ in each
    )
    return Resource(ROUTES, route.name, content_version(body), body, (*versions, *route.references))


def _weighted(weights: Weights) -> Message:
    message = proto.message_class(WEIGHTED_CLUSTER)()
    for name, weight in weights:
        message.clusters.add(name=name).weight.value = weight
    return message


def _split_weighted(weighted: Message, weights: Mapping[str, Weights]) -> None:
    """Split each entry that is a service in proportion, and scale the others alike.

    The weights sum to FULL_BP where that is exact, else to a multiple. Where requests are hashed they always sum to the
    same multiple, whatever the splits, or users would move between versions.
    """
    total = sum(entry.weight.value for entry in weighted.clusters)
    unit = math.gcd(*(entry.weight.value for entry in weighted.clusters))
    parts: list[tuple[Message, str, int]] = [
        (entry, name, entry.weight.value // unit * weight)
        for entry in map(copied, weighted.clusters)
        for name, weight in weights.get(entry.name, ((entry.name, FULL_BP),))
    ]
    products = [weight for _, _, weight in parts]
    hashed = weighted.WhichOneof("random_value_specifier") is not None
    exact = not hashed and all(product % (total // unit) == 0 for product in products)
    scaled = [product // (total // unit) for product in products] if exact else _fitting(products)
    del weighted.clusters[:]
    weighted.ClearField("total_weight")  # it would have to be the sum, and is deprecated
    for (entry, name, _), weight in zip(parts, scaled, strict=True):
        part = weighted.clusters.add()
        part.CopyFrom(entry)
        part.name, part.weight.value = name, weight


def _fitting(weights: list[int]) -> list[int]:
    """Return these weights, or as near to their proportions as fits where they are above Envoy's limit."""
    total = sum(weights)
    if total <= WEIGHTS_LIMIT:
        return weights
    ends, end = [], 0
    for weight in weights:
        end += weight
        ends.append(end * WEIGHTS_LIMIT // total)
    return [after - before for before, after in zip([0, *ends], ends, strict=False)]
