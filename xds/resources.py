"""The types of resource that a proxy may ask for, and one resource of them as it is served."""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any as Message  # protobuf messages have no common static type worth naming

from google.protobuf.descriptor import FieldDescriptor

from xds import proto

ANY = "google.protobuf.Any"


SOTW, DELTA = "sotw", "delta"


@dataclass(frozen=True, slots=True, eq=False)
class ResourceType:
    """One xDS type.

    `word` is its list in envoy-configs, `message` its protobuf name, `name_field` the field that names a resource.
    With `wildcard` a client may ask for all of it. With `full_state` a SotW response carries all resources and absence
    deletes (xDS protocol, "Deleting Resources"). `expires_in` names the variants of the protocol in which an Envoy lets
    go of a resource at the end of its TTL; in others it keeps it, or crashes (envoy#24271). With `absent_by_alias` a
    name that does not exist is answered by an empty resource with that alias: until then an Envoy holds the request
    back that wants it.
    """

    word: str
    message: str
    name_field: str = "name"
    wildcard: bool = False
    full_state: bool = False
    expires_in: frozenset[str] = frozenset()
    absent_by_alias: bool = False

    @property
    def url(self) -> str:
        return f"type.googleapis.com/{self.message}"

    def __str__(self) -> str:
        return self.word


_BOTH = frozenset({SOTW, DELTA})
_DELTA_ONLY = frozenset({DELTA})

SECRETS = ResourceType("secrets", "envoy.extensions.transport_sockets.tls.v3.Secret")
RUNTIMES = ResourceType("runtimes", "envoy.service.runtime.v3.Runtime", expires_in=_BOTH)
CLUSTERS = ResourceType("clusters", "envoy.config.cluster.v3.Cluster", wildcard=True, full_state=True, expires_in=_BOTH)
ENDPOINTS = ResourceType("endpoints", "envoy.config.endpoint.v3.ClusterLoadAssignment", name_field="cluster_name")
EXTENSION_CONFIGS = ResourceType("extension_configs", "envoy.config.core.v3.TypedExtensionConfig", expires_in=_BOTH)
LISTENERS = ResourceType(
    "listeners", "envoy.config.listener.v3.Listener", wildcard=True, full_state=True, expires_in=_BOTH
)
SCOPED_ROUTES = ResourceType(
    "scoped_routes",
    "envoy.config.route.v3.ScopedRouteConfiguration",
    wildcard=True,
    full_state=True,
    expires_in=_DELTA_ONLY,
)
ROUTES = ResourceType("routes", "envoy.config.route.v3.RouteConfiguration")
VIRTUAL_HOSTS = ResourceType(
    "virtual_hosts",
    "envoy.config.route.v3.VirtualHost",
    wildcard=True,
    expires_in=_DELTA_ONLY,
    absent_by_alias=True,
)

# Order of sending: make before break (xDS protocol, "Eventual consistency considerations").
TYPES = (
    SECRETS,
    RUNTIMES,
    CLUSTERS,
    ENDPOINTS,
    EXTENSION_CONFIGS,
    LISTENERS,
    SCOPED_ROUTES,
    ROUTES,
    VIRTUAL_HOSTS,
)
ROUTED = (SCOPED_ROUTES, ROUTES, VIRTUAL_HOSTS)
"""The types whose resources hold routes."""

BY_WORD = {type_.word: type_ for type_ in TYPES}
BY_URL = {type_.url: type_ for type_ in TYPES}


@dataclass(frozen=True, slots=True)
class Reference:
    """A name that a resource needs to exist; `field` says where it stands."""

    type: ResourceType
    name: str
    field: str


@dataclass(frozen=True, slots=True)
class Resource:
    """One resource as it is served: `body` holds canonical bytes, `version` a hash of them and of the TTL.

    `ttl_s` is how long a client may keep it without hearing of it again, None until it is removed.
    """

    type: ResourceType
    name: str
    version: str
    body: bytes
    references: tuple[Reference, ...]
    ttl_s: float | None = None

    def names(self, wanted: ResourceType) -> frozenset[str]:
        """Return the names of type `wanted` that this resource refers to."""
        return frozenset(reference.name for reference in self.references if reference.type is wanted)


def content_version(body: bytes) -> str:
    """Return the version of these bytes: equal content, equal version, in every process."""
    return hashlib.sha256(body).hexdigest()[:16]


def resource(type_: ResourceType, message: Message, ttl_s: float | None = None) -> Resource:
    """Freeze a message into the resource that is served."""
    body = proto.canonical(message)
    name = getattr(message, type_.name_field)
    return expiring(Resource(type_, name, content_version(body), body, tuple(references(message))), ttl_s)


def expiring(made: Resource, ttl_s: float | None) -> Resource:
    """Return the resource with this TTL, and a version of its own: a client must hear of another TTL."""
    if ttl_s is None:
        return made
    return replace(made, ttl_s=ttl_s, version=content_version(made.body + f" for {ttl_s:g} s".encode()))


def route_of(virtual_host: str) -> str:
    """Return the route configuration that a resource of VHDS belongs to ("" for none): its name up to the last slash.

    Envoy sorts them so, and looks for what is removed among the names of its virtual hosts (measured, 1.40): hence the
    message's own name is the resource's.
    """
    return virtual_host.rpartition("/")[0]


def walk(message: Message, path: str = "") -> Iterator[tuple[str, Message]]:
    """Yield every message inside `message` with its field path, itself first; an Any counts as what it holds."""
    if message.DESCRIPTOR.full_name == ANY:
        inner = proto.unpack(message)
        if inner is not None:
            yield from walk(inner, path)
        return
    yield path, message
    for field, value in message.ListFields():
        if field.type != FieldDescriptor.TYPE_MESSAGE:
            continue
        below = f"{path}.{field.name}" if path else field.name
        for key, item in _items(field, value):
            yield from walk(item, below + key)


def _items(field: Message, value: Message) -> Iterator[tuple[str, Message]]:
    if not field.is_repeated:
        yield "", value
    elif field.message_type.GetOptions().map_entry:
        if field.message_type.fields_by_name["value"].message_type is not None:
            yield from ((f"[{key!r}]", item) for key, item in value.items())
    else:
        yield from ((f"[{index}]", item) for index, item in enumerate(value))


def references(message: Message) -> Iterator[Reference]:
    """Yield what `message` needs, wherever it stands in it, each (type, name) once."""
    seen: set[tuple[str, str]] = set()
    for path, part in walk(message):
        for type_, name, field in _named_by(part):
            if name and (type_.word, name) not in seen:
                seen.add((type_.word, name))
                yield Reference(type_, name, f"{path}.{field}" if path else field)


_TCP_PROXY = "envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy"
_CLUSTER_FIELDS = {
    "envoy.config.route.v3.RouteAction": "cluster",
    "envoy.config.route.v3.RouteAction.RequestMirrorPolicy": "cluster",
    "envoy.config.route.v3.WeightedCluster.ClusterWeight": "name",
    "envoy.config.core.v3.HttpUri": "cluster",
    "envoy.config.core.v3.GrpcService.EnvoyGrpc": "cluster_name",
    _TCP_PROXY: "cluster",
    f"{_TCP_PROXY}.WeightedCluster.ClusterWeight": "name",
}
_FILTERS = frozenset(
    {
        "envoy.config.cluster.v3.Filter",
        "envoy.config.listener.v3.Filter",
        "envoy.config.listener.v3.ListenerFilter",
        "envoy.extensions.filters.http.composite.v3.DynamicConfig",
        "envoy.extensions.filters.network.http_connection_manager.v3.HttpFilter",
        "envoy.extensions.filters.udp.udp_proxy.v3.UdpProxyConfig.SessionFilter",
    }
)


def _named_by(part: Message) -> Iterator[tuple[ResourceType, str, str]]:
    match part.DESCRIPTOR.full_name:
        case "envoy.config.cluster.v3.Cluster" if is_eds(part):
            yield ENDPOINTS, assignment_name(part), "eds_cluster_config.service_name"
        case "envoy.extensions.filters.network.http_connection_manager.v3.Rds" if by_ads(part.config_source):
            yield ROUTES, part.route_config_name, "route_config_name"
        case "envoy.config.route.v3.ScopedRouteConfiguration":
            yield ROUTES, part.route_configuration_name, "route_configuration_name"
        case "envoy.extensions.transport_sockets.tls.v3.SdsSecretConfig" if by_ads(part.sds_config):
            yield SECRETS, part.name, "name"
        case name if name in _FILTERS:
            discovery = part.config_discovery
            if by_ads(discovery.config_source) and not discovery.HasField("default_config"):
                yield EXTENSION_CONFIGS, part.name, "name"
        case name if name in _CLUSTER_FIELDS:
            field = _CLUSTER_FIELDS[name]
            yield CLUSTERS, getattr(part, field), field


def by_ads(source: Message) -> bool:
    """Say whether a ConfigSource means this control plane."""
    return source.WhichOneof("config_source_specifier") in ("ads", "self")


def is_eds_type(cluster: Message) -> bool:
    """Say whether a Cluster gets its endpoints by EDS, from whatever source."""
    return bool(cluster.type == proto.message_class("envoy.config.cluster.v3.Cluster").EDS)


def is_eds(cluster: Message) -> bool:
    """Say whether a Cluster gets its endpoints from this control plane."""
    return is_eds_type(cluster) and by_ads(cluster.eds_cluster_config.eds_config)


def assignment_name(cluster: Message) -> str:
    """Return the name of an EDS cluster's load assignment."""
    return str(cluster.eds_cluster_config.service_name or cluster.name)
