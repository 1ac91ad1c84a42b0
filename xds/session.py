"""A client on the server: who it is, what its stream says next, and the end of it; no I/O."""

import functools
import itertools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any as Message

from google.protobuf.json_format import SerializeToJsonError
from google.protobuf.message import DecodeError

from xds import delta, sotw
from xds.access import Access, Anyone, Grant
from xds.cache import Cache, Member, NodeStatus, TypeStatus, Wanted
from xds.errors import InvalidRequest, NotReady, XdsError
from xds.limits import Admission, Limits
from xds.node import Node, Peer
from xds.proto import to_dict
from xds.resources import BY_URL, CLUSTERS, SECRETS, ResourceType
from xds.stream import Answer, Response, Stream, lag, may_need, receive, respond, wake_at_s, warmed
from xds.subscription import Dialect, Lag, Request, warming

DIALECTS: Mapping[str, Dialect] = {"sotw": sotw, "delta": delta}


TTLS = "xds.config.supports-resource-ttl"
FEATURES = frozenset({TTLS})  # that count here
SHOWN = 128  # characters of a client's text in an error; a nonce or version of ours has fewer
NAMED = {
    "sotw": ("resource_names",),
    "delta": ("resource_names_subscribe", "resource_names_unsubscribe", "initial_resource_versions"),
}
# Clients in equal states send equal bytes, so these are decoded once; of this size none of their fields is too long.
REMEMBERED = 1024
REMEMBERED_BYTES = 1024
REPEATED_BYTES = 512  # an ACK of that size has so many names that they are compared before they are decoded


@dataclass(frozen=True, slots=True)
class Events:
    """What an edge or a metric wants to hear of a session; each is called synchronously."""

    joined: Callable[[NodeStatus], None] = lambda _: None
    left: Callable[[NodeStatus], None] = lambda _: None
    answered: Callable[[Node, Answer], None] = lambda _node, _answer: None
    responded: Callable[[Node, Response], None] = lambda _node, _response: None
    refused: Callable[[Peer, XdsError], None] = lambda _peer, _error: None


@dataclass(frozen=True, slots=True)
class ControlPlane:
    """What all sessions of a server share."""

    cache: Cache
    events: Events = field(default_factory=Events)
    access: Access = field(default_factory=Anyone)
    limits: Limits = field(default_factory=Limits)
    admission: Admission = field(default_factory=Admission)


class Session:
    """One stream of discovery requests. An edge feeds it requests, asks it for responses, and closes it.

    `only` is the type of a stream that is not aggregated.
    """

    def __init__(
        self,
        plane: ControlPlane,
        protocol: str,
        peer: Peer,
        wake: Callable[[], None],
        only: ResourceType | None = None,
    ) -> None:
        self.peer = peer
        self.protocol = protocol
        self.wake = wake
        self.is_open = True
        self._plane = plane
        self._only = only
        self.stream = Stream(DIALECTS[protocol], {}, only=only)
        self._node: Node | None = None
        self._grant = Grant()
        self._status: tuple[Stream, NodeStatus] | None = None  # of the stream as it was then

    @property
    def node(self) -> Node:
        assert self._node is not None, "a session has a node from its first request on"
        return self._node

    def receive(self, raw: bytes, now_s: float) -> None:
        """Take one request.

        Raises InvalidRequest for what breaks the protocol, Forbidden for what the peer may not have, Overloaded for
        what is beyond a limit, and NotReady before the first snapshot. A closed session takes none.
        """
        if not self.is_open:
            return  # it would join again, and nobody would have it leave
        cache = self._plane.cache
        fleet = cache.fleet
        if fleet is None:
            raise NotReady("no snapshot is loaded yet")
        dialect = self.stream.dialect
        if self._node is None:
            message = _decoded(dialect, raw)
            request = self._typed(_bounded(self.protocol, message, self._plane.limits))
            self._join(_node(message, self._plane.limits), now_s)
        else:
            request = self._typed(self._read(raw))
        if request.type_url == SECRETS.url:
            self._grant.check_secrets(request.names)
        self.stream, answer = receive(self.stream, request, fleet.of(self.node), cache.recent, now_s)
        type_ = BY_URL.get(request.type_url)
        if type_ is not None:
            state = self.stream.types[type_]
            self._plane.limits.check_names(max(len(state.names), len(state.again)))
            known = request.version and request.version == state.acked_version  # not any that a client makes up
            if known and not state.nonce and type_.full_state and state.wildcard:
                cache.remember(request.version, state.held)  # it was sent by a server before this one
        if answer is not None:
            self._plane.events.answered(self.node, answer)
            if self._only is not None:
                for member in self._beside():
                    member.wake()

    def _read(self, raw: bytes) -> Request:
        dialect = self.stream.dialect
        if len(raw) >= REPEATED_BYTES:
            for state in self.stream.types.values():
                request = dialect.repeated(state, raw)
                if request is not None:
                    return request
        if len(raw) <= REMEMBERED_BYTES:
            return _remembered(self.protocol, raw)
        return _bounded(self.protocol, _decoded(dialect, raw), self._plane.limits)

    def _typed(self, request: Request) -> Request:
        """Return the request with its type, which a stream that is not aggregated may leave out."""
        only = self._only
        if only is None and not request.type_url:
            raise InvalidRequest("type_url is empty; an ADS request must name its type")
        if only is None or request.type_url == only.url:
            return request
        if request.type_url:
            shown = request.type_url[:SHOWN]
            raise InvalidRequest(f"type_url is {shown!r} on a stream that is only for {only}; use ADS")
        return request._replace(type_url=only.url)

    def respond(self, now_s: float) -> Response | None:
        """Return the next response to write, computed from the newest snapshot; None when there is nothing to say."""
        fleet = self._plane.cache.fleet
        if fleet is None or self._node is None or not self.is_open:
            return None
        served = fleet.of(self._node)
        before = self.stream.types.get(CLUSTERS)
        self.stream, response = respond(self.stream, served, now_s, self._streams_beside())
        if response is not None:
            state = self.stream.types[response.type]
            if before is not None and state.type is CLUSTERS:
                for member in self._beside():
                    member.warm(warming(state.unanswered[-1].plan, before.held))
            if response.type.full_state and state.wildcard:
                self._plane.cache.remember(response.version, state.held)
            self._plane.events.responded(self._node, response)
        return response

    def wake_at_s(self, now_s: float) -> float | None:
        return wake_at_s(self.stream, now_s, self._streams_beside())

    def warm(self, names: frozenset[str]) -> None:
        """Send these load assignments again, for their clusters have changed on another stream of the client."""
        self.stream = warmed(self.stream, names)
        self.wake()

    def _beside(self) -> tuple[Member, ...]:
        """Return the other sessions of a client that has one for each type; those of aggregated streams stand alone."""
        return () if self._only is None else self._plane.cache.beside(self)

    def _streams_beside(self) -> tuple[Stream, ...]:
        return () if self._only is None else tuple(member.stream for member in self._beside())

    def close(self, now_s: float) -> None:
        """Leave the cache and say nothing more; closing again does nothing."""
        if self.is_open and self._node is not None:
            self._node = replace(self._node, metadata={})  # gone nodes are remembered, but not all that they said
            self._plane.cache.leave(self._node.id, self, now_s)
            self._plane.events.left(replace(self.status(), connected=False, since_s=now_s))
        self.is_open = False
        self.wake = _nobody  # a cycle of session and edge would stay in memory until somebody looks for garbage

    def status(self) -> NodeStatus:
        """Return what it has; asked for at each look, and the same object until that changes."""
        known = self._status
        if known is not None and known[0] is self.stream and known[1].node is self.node:
            return known[1]
        types = {
            type_: TypeStatus(state.acked_version, bool(state.unanswered), state.rejection)
            for type_, state in self.stream.types.items()
        }
        since_s = self.stream.since_s
        found = NodeStatus(self.node, self.peer.address, self.protocol, connected=True, since_s=since_s, types=types)
        self._status = (self.stream, found)
        return found

    def lag(self, wanted: Wanted) -> Lag | None:
        return lag(self.stream, wanted.type, wanted.name, wanted.version)

    def may_need(self, type_: ResourceType, name: str) -> bool:
        return may_need((self.stream, *self._streams_beside()), type_, name)

    def _join(self, node: Node, now_s: float) -> None:
        self._plane.limits.check_streams(node.id, self._plane.cache.sessions(node.id))
        self._grant = self._plane.access.admit(self.peer, node)
        self._node = node
        self.stream = replace(self.stream, since_s=now_s, ttls=TTLS in node.features)
        self._plane.cache.join(node.id, self)
        self._plane.events.joined(self.status())


def _nobody() -> None:
    """Wake nobody."""


def _decoded(dialect: Dialect, raw: bytes) -> Message:
    try:
        return dialect.decode(raw)
    except DecodeError as error:
        raise InvalidRequest("the message is no discovery request") from error


@functools.lru_cache(REMEMBERED)
def _remembered(protocol: str, raw: bytes) -> Request:
    dialect = DIALECTS[protocol]
    return dialect.read(_decoded(dialect, raw))


def _bounded(protocol: str, message: Message, limits: Limits) -> Request:
    """Read a request of any size. Raises Overloaded when it says more than is kept of a client.

    What is cut cannot be one of our nonces and versions, which are short, so it is as unknown as before.
    """
    for field_name in NAMED[protocol]:
        limits.check_names(len(getattr(message, field_name)))  # before they are read: that alone takes seconds
    request = DIALECTS[protocol].read(message)
    limits.check_name(max(map(len, itertools.chain(request.names, request.left, *request.versions)), default=0))
    fault = request.fault and request.fault._replace(text=request.fault.text[-limits.fault_characters :])
    return request._replace(nonce=request.nonce[:SHOWN], version=request.version[:SHOWN], fault=fault)


def _node(request: Message, limits: Limits) -> Node:
    """Keep what is needed of a node and drop the rest: its list of extensions alone is 60 KB."""
    node = request.node
    if not node.id:
        raise InvalidRequest("node.id is empty in the first request; give each proxy a unique --service-node")
    said = {
        "id": node.id,
        "cluster": node.cluster,
        "locality.region": node.locality.region,
        "locality.zone": node.locality.zone,
    }
    for where, text in said.items():
        if len(text) > limits.node_characters:
            what = f"has {len(text)} characters; at most {limits.node_characters} are accepted"
            raise InvalidRequest(f"node.{where} {what}")
        if not text.isprintable():
            raise InvalidRequest(f"node.{where} is {text!r}; characters that cannot be printed are not accepted")
    size = node.metadata.ByteSize()
    if size > limits.node_metadata_bytes:
        raise InvalidRequest(f"node.metadata has {size} bytes; at most {limits.node_metadata_bytes} are accepted")
    try:
        metadata = to_dict(node.metadata)
    except (SerializeToJsonError, ValueError) as error:  # ValueError: infinity
        raise InvalidRequest(f"node.metadata is no JSON: {error}") from error
    return Node(
        node.id,
        node.cluster,
        node.locality.region,
        node.locality.zone,
        _version(node),
        metadata,
        FEATURES.intersection(node.client_features),
    )


def _version(node: Message) -> str:
    if not node.HasField("user_agent_build_version"):
        return ""
    build = node.user_agent_build_version.version
    return f"{build.major_number}.{build.minor_number}.{build.patch}"
