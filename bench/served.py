"""What the fleet is served in a measurement: clusters in pairs behind weighted routes, and one change at a time."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any as Message

from xds import proto
from xds.resources import CLUSTERS, ENDPOINTS, LISTENERS, ROUTES, Resource, ResourceType, resource

LISTENER = "ingress"
ROUTE = "main"
FULL_BP = 10_000
DRAINING = 3  # envoy.config.core.v3.HealthStatus
ADS: Mapping[str, object] = {"ads": {}, "resource_api_version": "V3"}
ROUTER = "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router"
MANAGER = "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager"


class Change(StrEnum):
    """What a push changes: the weights of one route, or the health of one endpoint."""

    WEIGHTS = "weights"
    ENDPOINT = "endpoint"


@dataclass(frozen=True, slots=True)
class Size:
    """Clusters, an even number of them, and endpoints in each."""

    clusters: int
    endpoints: int

    def __str__(self) -> str:
        return f"{self.clusters}x{self.endpoints}"


def resources(size: Size) -> tuple[Resource, ...]:
    """Return all that is served before the first change."""
    clusters = [_parsed(CLUSTERS, _cluster(number)) for number in range(size.clusters)]
    assignments = [_assignment(size, number, draining=0) for number in range(size.clusters)]
    return (*clusters, *assignments, _parsed(LISTENERS, _listener()), _route(size, candidate_bp=0))


def changed(size: Size, change: Change, number: int) -> Resource:
    """Return the one resource that push `number` (from 1 on) of a kind replaces; no two of them are equal."""
    if change is Change.WEIGHTS:
        return _route(size, candidate_bp=number)
    return _assignment(size, 0, draining=number ^ number >> 1)  # Gray code: one endpoint changes in each step


def digest(body: bytes) -> str:
    return hashlib.sha256(body).hexdigest()[:16]


def digest_of(content: Mapping[tuple[str, str], str]) -> str:
    """Return the digest of a whole state: resources' digests by type URL and name."""
    return digest("\n".join(f"{url} {name} {each}" for (url, name), each in sorted(content.items())).encode())


def _parsed(type_: ResourceType, words: Mapping[str, object]) -> Resource:
    return resource(type_, proto.parse(type_.message, words))


def _name(number: int) -> str:
    """Return the name of a cluster: two versions of each service."""
    return f"service-{number // 2:03}@v{number % 2 + 1}"


def _cluster(number: int) -> Mapping[str, object]:
    return {
        "name": _name(number),
        "type": "EDS",
        "eds_cluster_config": {"eds_config": ADS},
        "connect_timeout": "1s",
        "lb_policy": "LEAST_REQUEST",
        "common_lb_config": {"healthy_panic_threshold": {"value": 0}},
        "circuit_breakers": {"thresholds": [{"max_connections": 4096, "max_requests": 4096, "max_retries": 16}]},
    }


def _assignment(size: Size, number: int, draining: int) -> Resource:
    """Return a cluster's endpoints; bit n of `draining` says that endpoint n drains."""
    message: Message = proto.message_class(ENDPOINTS.message)(cluster_name=_name(number))
    locality = message.endpoints.add()
    locality.locality.region, locality.locality.zone = "eu-west-1", "eu-west-1a"
    locality.load_balancing_weight.value = size.endpoints
    for index in range(size.endpoints):
        each = locality.lb_endpoints.add()
        socket = each.endpoint.address.socket_address
        socket.address, socket.port_value = f"10.{number // 256}.{number % 256}.{index}", 8080
        if draining >> index & 1:
            each.health_status = DRAINING
    return resource(ENDPOINTS, message)


def _listener() -> Mapping[str, object]:
    manager = {
        "@type": MANAGER,
        "stat_prefix": "http",
        "rds": {"route_config_name": ROUTE, "config_source": ADS},
        "http_filters": [{"name": "router", "typed_config": {"@type": ROUTER}}],
    }
    return {
        "name": LISTENER,
        "address": {"socket_address": {"address": "0.0.0.0", "port_value": 8080}},  # noqa: S104  # only words here
        "filter_chains": [{"filters": [{"name": "http", "typed_config": manager}]}],
    }


def _route(size: Size, candidate_bp: int) -> Resource:
    """Return the route configuration; `candidate_bp` of the first service's traffic goes to its second version."""
    routes = [_weighted(service, candidate_bp if service == 0 else 0) for service in range(size.clusters // 2)]
    hosts = [{"name": "all", "domains": ["*"], "routes": routes}]
    return _parsed(ROUTES, {"name": ROUTE, "virtual_hosts": hosts})


def _weighted(service: int, candidate_bp: int) -> Mapping[str, object]:
    weights = (FULL_BP - candidate_bp, candidate_bp)
    clusters = [{"name": _name(2 * service + index), "weight": weight} for index, weight in enumerate(weights)]
    match = {"prefix": f"/service-{service:03}/"}
    return {"match": match, "route": {"weighted_clusters": {"clusters": clusters}, "timeout": "15s"}}
