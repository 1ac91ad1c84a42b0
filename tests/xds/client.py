"""Small worlds of resources, and a wire client without I/O: its bytes go straight into a session."""

import functools
from collections.abc import Callable, Iterable, Mapping
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

from xds import proto
from xds.cache import Cache
from xds.node import Peer
from xds.resources import (
    BY_URL,
    CLUSTERS,
    ENDPOINTS,
    LISTENERS,
    ROUTES,
    Resource,
    ResourceType,
    content_version,
    resource,
)
from xds.session import ControlPlane, Session
from xds.snapshot import Snapshot, snapshot

SERVICE = "envoy.service.discovery.v3"
HTTP = "envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager"
ROUTER = "envoy.extensions.filters.http.router.v3.Router"
TCP = "envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy"
ADS = {"ads": {}, "resource_api_version": "V3"}
PROTOCOLS = ("sotw", "delta")
NODE = {"id": "edge-1", "cluster": "edge", "locality": {"region": "eu", "zone": "eu-1"}}


@functools.cache
def cluster(name: str, mark: object = 0, service_name: str = "") -> Resource:
    """Make an EDS cluster; `mark` stands for its other settings."""
    eds = {"eds_config": ADS, "service_name": service_name}
    words = {"name": name, "type": "EDS", "eds_cluster_config": eds, "alt_stat_name": f"{name}-{mark}"}
    return resource(CLUSTERS, proto.parse(CLUSTERS.message, words))


@functools.cache
def assignment(name: str, port: int = 80) -> Resource:
    address = {"socket_address": {"address": "127.0.0.1", "port_value": port}}
    words = {"cluster_name": name, "endpoints": [{"lb_endpoints": [{"endpoint": {"address": address}}]}]}
    return resource(ENDPOINTS, proto.parse(ENDPOINTS.message, words))


@functools.cache
def route(name: str, *clusters: str, mark: object = 0) -> Resource:
    """Make a route configuration with one route to each of the clusters."""
    routes = [{"match": {"prefix": f"/{each}"}, "route": {"cluster": each}} for each in clusters]
    words = {"name": name, "virtual_hosts": [{"name": f"host-{mark}", "domains": ["*"], "routes": routes}]}
    return resource(ROUTES, proto.parse(ROUTES.message, words))


@functools.cache
def listener(name: str, route_name: str, mark: object = 0, port: int = 10000) -> Resource:
    manager = {
        "@type": f"type.googleapis.com/{HTTP}",
        "stat_prefix": f"{name}-{mark}",
        "rds": {"route_config_name": route_name, "config_source": ADS},
        "http_filters": [{"name": "router", "typed_config": {"@type": f"type.googleapis.com/{ROUTER}"}}],
    }
    return _listener(name, manager, port)


@functools.cache
def tcp_listener(name: str, cluster_name: str, mark: object = 0) -> Resource:
    words = {"@type": f"type.googleapis.com/{TCP}", "stat_prefix": f"{name}-{mark}", "cluster": cluster_name}
    return _listener(name, words)


def _listener(name: str, filter_words: Mapping[str, object], port: int = 10000) -> Resource:
    address = {"socket_address": {"address": "127.0.0.1", "port_value": port}}
    chains = [{"filters": [{"name": "only", "typed_config": filter_words}]}]
    words = {"name": name, "address": address, "filter_chains": chains}
    return resource(LISTENERS, proto.parse(LISTENERS.message, words))


def shop(*clusters: str, routed: Iterable[str] | None = None, mark: object = 0) -> tuple[Resource, ...]:
    """Make a world: these clusters with their endpoints, and one listener whose route names `routed` of them."""
    return (
        *(cluster(name, mark) for name in clusters),
        *(assignment(name) for name in clusters),
        listener("edge", "main"),
        route("main", *(clusters if routed is None else routed)),
    )


@dataclass(frozen=True, slots=True)
class Transport:
    """How a Wire gets its session; `extras` is what it needs in every snapshot."""

    open: Callable[[Cache, str, Callable[[], None]], Session]
    extras: tuple[Resource, ...] = ()


def _here(cache: Cache, protocol: str, wake: Callable[[], None]) -> Session:
    return Session(ControlPlane(cache), protocol, Peer("ipv4:127.0.0.1:1"), wake)


TRANSPORT: ContextVar[Transport] = ContextVar("TRANSPORT")
HERE = Transport(_here)


def served(*resources: Resource) -> Snapshot:
    return snapshot((*resources, *TRANSPORT.get(HERE).extras))


@dataclass(frozen=True, slots=True)
class Reply:
    """One response, decoded by protobuf; `versions` has each resource's content version by name."""

    type: ResourceType
    version: str
    nonce: str
    versions: Mapping[str, str]
    messages: Mapping[str, Any]
    removed: tuple[str, ...]
    at_s: float

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(self.versions)

    def __str__(self) -> str:
        return " ".join((self.type.word, *self.names, *(f"-{name}" for name in self.removed)))


def read(protocol: str, raw: bytes, at_s: float = 0.0) -> Reply:
    """Decode a response as a client would, and check what every response must hold."""
    kind = "DiscoveryResponse" if protocol == "sotw" else "DeltaDiscoveryResponse"
    message = proto.message_class(f"{SERVICE}.{kind}").FromString(raw)
    assert message.control_plane.identifier == "envoy-rollout"
    assert message.nonce
    type_ = BY_URL[message.type_url]
    bodies = list(message.resources) if protocol == "sotw" else [each.resource for each in message.resources]
    assert all(each.type_url == type_.url for each in bodies)
    messages = {getattr(inner, type_.name_field): inner for inner in map(proto.unpack, bodies) if inner is not None}
    assert len(messages) == len(bodies), "a name stands twice"
    versions = {name: content_version(proto.canonical(inner)) for name, inner in messages.items()}
    if protocol == "delta":
        assert {each.name: each.version for each in message.resources} == versions
        return Reply(
            type_,
            message.system_version_info,
            message.nonce,
            versions,
            messages,
            tuple(message.removed_resources),
            at_s,
        )
    return Reply(type_, message.version_info, message.nonce, versions, messages, (), at_s)


class Wire:
    """A client that says what a test tells it to say. Time stands still unless the test moves `now_s`."""

    def __init__(self, cache: Cache, protocol: str, node_id: str = "edge-1", now_s: float = 0.0) -> None:
        self.protocol = protocol
        self.now_s = now_s
        self.wakes = 0
        self.nonces: list[str] = []
        self.session = TRANSPORT.get(HERE).open(cache, protocol, self._wake)
        self._node: Mapping[str, Any] | None = {**NODE, "id": node_id}
        self._names: dict[ResourceType, tuple[str, ...]] = {}

    def _wake(self) -> None:
        self.wakes += 1

    def send(self, words: Mapping[str, Any]) -> None:
        """Send one request in protobuf's JSON words; the first one carries the node."""
        self.session.receive(self.encode(words), self.now_s)

    def encode(self, words: Mapping[str, Any]) -> bytes:
        """Return the bytes of one request."""
        kind = "DiscoveryRequest" if self.protocol == "sotw" else "DeltaDiscoveryRequest"
        node, self._node = self._node, None
        words = words if node is None else {"node": node, **words}
        return proto.canonical(proto.parse(f"{SERVICE}.{kind}", words))

    def ask(self, type_: ResourceType, *names: str, nonce: str = "", **words: object) -> None:
        """Ask for names: in SotW these are all, in delta these more."""
        self._names[type_] = names
        field = "resource_names" if self.protocol == "sotw" else "resource_names_subscribe"
        self.send({"type_url": type_.url, field: list(names), "response_nonce": nonce, **words})

    def leave(self, type_: ResourceType, *names: str) -> None:
        """Unsubscribe names (delta)."""
        self.send({"type_url": type_.url, "resource_names_unsubscribe": list(names)})

    def replies(self) -> list[Reply]:
        """Take all that the server has to say now."""
        found = []
        while (response := self.session.respond(self.now_s)) is not None:
            found.append(read(self.protocol, response.body, self.now_s))
            assert (response.nonce, response.names) == (found[-1].nonce, found[-1].names)
            assert len(found) < 100, "the server talks without end"
        self.nonces += [reply.nonce for reply in found]
        assert len(set(self.nonces)) == len(self.nonces), "a nonce was used twice"
        return found

    def said(self) -> list[str]:
        """Take all that the server has to say now, in short: the type, names, and removed names with a minus."""
        return [str(reply) for reply in self.replies()]

    def ack(self, reply: Reply, *names: str) -> None:
        """Accept a response; in SotW with these names, or those of the last request."""
        self.answer(reply, names or self._names.get(reply.type, ()))

    def nack(self, reply: Reply, text: str = "no good", *, version: str = "") -> None:
        """Refuse a response; `version` is what a SotW client had accepted before."""
        self.answer(reply, self._names.get(reply.type, ()), error=text, version=version)

    def answer(self, reply: Reply, names: tuple[str, ...], *, error: str = "", version: str = "") -> None:
        words: dict[str, Any] = {"type_url": reply.type.url, "response_nonce": reply.nonce}
        if self.protocol == "sotw":
            words |= {"resource_names": list(names), "version_info": version if error else reply.version}
            self._names[reply.type] = names
        if error:
            words["error_detail"] = {"code": 13, "message": error}
        self.send(words)

    def settle(self) -> list[str]:
        """Accept all that comes until the server is silent; return what came."""
        came: list[str] = []
        while replies := self.replies():
            for reply in replies:
                came.append(str(reply))
                self.ack(reply)
            assert len(came) < 100, "the server talks without end"
        return came

    def connect(self, *, clusters: Iterable[str] = (), routes: Iterable[str] = ("main",)) -> list[str]:
        """Ask for everything as an Envoy does and accept all of it; `clusters` name the load assignments."""
        self.ask(CLUSTERS)
        came = self.settle()
        self.ask(ENDPOINTS, *clusters)
        came += self.settle()
        self.ask(LISTENERS)
        came += self.settle()
        self.ask(ROUTES, *routes)
        return came + self.settle()
