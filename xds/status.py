"""What the client status service (CSDS) says of each client: what it was sent, what it ACKed, what it refused."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any as Message

from google.protobuf.json_format import ParseDict
from google.protobuf.message import DecodeError

from xds import proto
from xds.cache import Cache
from xds.errors import InvalidRequest
from xds.node import Node
from xds.redaction import redacted, without_values
from xds.resources import SECRETS, Resource
from xds.snapshot import Snapshot
from xds.subscription import WILDCARD, Subscription
from xds.wire import bytes_field

PACKAGE = "envoy.service.status.v3"
REQUEST = f"{PACKAGE}.ClientStatusRequest"
CLIENT = f"{PACKAGE}.ClientConfig"
CONFIG_FIELD = 1  # ClientStatusResponse.config
STREAMED_BYTES = 3 * 1024 * 1024  # of one message of a stream, a single client apart: gRPC clients take 4 MiB
RESPONSE_BYTES = 60 * 1024 * 1024  # of one client, and of the only message of a fetch
NAMES_AT_ONCE = 500
SHARED_BYTES = 32 * 1024 * 1024  # of encoded parts that are kept for other clients in the same state
# envoy.service.status.v3.ConfigStatus: how the server sees it.
SYNCED, NOT_SENT, STALE, ERROR = 1, 2, 3, 4
# envoy.admin.v3.ClientResourceStatus: how the client must see it, by what it said.
UNKNOWN, REQUESTED, DOES_NOT_EXIST, ACKED, NACKED = 0, 1, 2, 3, 4
NODE_ID_PATTERNS = ("exact", "prefix", "suffix", "contains")
WITHHELD = "withheld: what was refused holds a secret, and the client's text may quote it; see the client's own log"


@dataclass(frozen=True, slots=True)
class NodeIds:
    """Node ids by one of NODE_ID_PATTERNS."""

    pattern: str
    text: str
    ignore_case: bool = False

    def have(self, node_id: str) -> bool:
        """Say whether a node id is one of these."""
        text, found = (self.text.lower(), node_id.lower()) if self.ignore_case else (self.text, node_id)
        match self.pattern:
            case "exact":
                return found == text
            case "prefix":
                return found.startswith(text)
            case "suffix":
                return found.endswith(text)
            case _:
                return text in found


@dataclass(frozen=True, slots=True)
class Query:
    """Which clients to tell of (of `ids` any must hold; none given: all), and whether with what the resources hold."""

    ids: tuple[NodeIds, ...] = ()
    contents: bool = False

    def wants(self, node_id: str) -> bool:
        return not self.ids or any(each.have(node_id) for each in self.ids)


def parse(raw: bytes) -> Query:
    """Read a ClientStatusRequest. Raises InvalidRequest for what is none, or asks by what is not supported.

    Contents are for those who name the nodes that they want to see: of a whole fleet they could be gigabytes.
    """
    try:
        request = proto.message_class(REQUEST).FromString(raw)
    except DecodeError as error:
        raise InvalidRequest("the message is no client status request") from error
    ids = tuple(_ids(matcher, f"node_matchers[{index}]") for index, matcher in enumerate(request.node_matchers))
    named = bool(ids) and all(each.pattern == "exact" for each in ids)
    return Query(ids, contents=named and not request.exclude_resource_contents)


def _ids(matcher: Message, where: str) -> NodeIds:
    if matcher.node_metadatas:
        raise InvalidRequest(f"{where}.node_metadatas: nodes are chosen by node_id only")
    pattern = matcher.node_id.WhichOneof("match_pattern")
    if pattern is None and not matcher.HasField("node_id"):
        return NodeIds("prefix", "")
    if pattern not in NODE_ID_PATTERNS:
        raise InvalidRequest(f"{where}.node_id: {pattern or 'no pattern'}; use one of {', '.join(NODE_ID_PATTERNS)}")
    return NodeIds(pattern, getattr(matcher.node_id, pattern), matcher.node_id.ignore_case)


# What an encoded part of a client's status depends on; what is large is compared by identity, so clients share it.
Standing = tuple[object, ...]


class Report:
    """The answer to one query. Clients in equal states share what is encoded of them.

    `epoch_s` is the wall clock's time at which the server's own clock was 0.
    """

    def __init__(self, cache: Cache, query: Query, epoch_s: float) -> None:
        self._cache = cache
        self._query = query
        self._epoch_s = epoch_s
        self._encoded: dict[Standing, bytes] = {}
        self._encoded_bytes = 0

    def clients(self) -> Iterator[Iterator[bytes]]:
        """Yield one ClientConfig for each stream, sorted by node id, as of the moment when it is asked for.

        It comes in parts, so that the work for a large one can be done little by little: the parts of a message, one
        behind the other, are the message.
        """
        for member in self._cache.members():
            if self._query.wants(member.node.id):
                yield self._client(member.node, member.stream.types.values())

    def _client(self, node: Node, states: Iterable[Subscription]) -> Iterator[bytes]:
        served = self._cache.served(node)
        yield proto.canonical(proto.message_class(CLIENT)(node=node_message(node)))
        if served is not None:
            for state in states:
                yield from self._resources(state, served)

    def _resources(self, state: Subscription, served: Snapshot) -> Iterator[bytes]:
        standing = (served.views[state.type], state.names, state.held, state.acked, state.unknown)
        known = self._encoded.get(standing) if state.rejection is None else None  # a NACK has a text and a time
        if known is not None:
            yield known
            return
        names = _names(state, served)
        parts = []
        for start in range(0, len(names), NAMES_AT_ONCE):
            message = proto.message_class(CLIENT)()
            for name in names[start : start + NAMES_AT_ONCE]:
                self._describe(message.generic_xds_configs.add(), state, served, name)
            parts.append(proto.canonical(message))
            yield parts[-1]
        if state.rejection is None:
            self._share(standing, b"".join(parts))

    def _share(self, standing: Standing, encoded: bytes) -> None:
        if self._encoded_bytes + len(encoded) > SHARED_BYTES:
            self._encoded, self._encoded_bytes = {}, 0
        self._encoded[standing] = encoded
        self._encoded_bytes += len(encoded)

    def _describe(self, entry: Message, state: Subscription, served: Snapshot, name: str) -> None:
        accepted = state.acked.resources.get(name)
        entry.type_url, entry.name = state.type.url, name
        entry.client_status = client_status(state, served, name)
        entry.config_status = config_status(state, served, name)
        if accepted is not None:
            entry.version_info = accepted.version
            self._show(entry.xds_config, accepted)
        if entry.client_status == NACKED:
            self._explain(entry.error_state, state, name)

    def _explain(self, error: Message, state: Subscription, name: str) -> None:
        error.version_info = state.rejected[name]
        refused = state.held.resources.get(name)
        if refused is not None:
            self._show(error.failed_configuration, refused)
        if state.rejection is not None:
            error.details = WITHHELD if _holds_secrets(state) else without_values(state.rejection.text)
            error.last_update_attempt.FromNanoseconds(int((self._epoch_s + state.rejection.at_s) * 1e9))

    def _show(self, holder: Message, resource: Resource) -> None:
        """Put in what a resource holds, if that was asked for and is known: never a secret."""
        # Of a resource that a client brought from an earlier stream only the version is known.
        if self._query.contents and resource.body and resource.type is not SECRETS:
            holder.type_url, holder.value = resource.type.url, redacted(resource.type.message, resource.body)


def _names(state: Subscription, served: Snapshot) -> list[str]:
    names = {*state.names, *state.held.resources}
    if state.wildcard:
        names |= served.views[state.type].resources.keys()
    return sorted(names - {WILDCARD})


def client_status(state: Subscription, served: Snapshot, name: str) -> int:
    """Return an envoy.admin.v3.ClientResourceStatus: what the client has of a resource, by what it said."""
    if name in state.rejected:
        return NACKED
    if state.acked.version(name) is not None:
        return ACKED
    if state.may_know(name):
        return UNKNOWN
    return REQUESTED if served.get(state.type, name) is not None else DOES_NOT_EXIST


def config_status(state: Subscription, served: Snapshot, name: str) -> int:
    """Return an envoy.service.status.v3.ConfigStatus: how far what is served of a resource has come."""
    if name in state.rejected:
        return ERROR
    resource = served.get(state.type, name)
    if resource is None or state.held.version(name) != resource.version:
        return NOT_SENT
    return SYNCED if state.acked.version(name) == resource.version else STALE


def _holds_secrets(state: Subscription) -> bool:
    """Say whether anything that was refused holds a secret."""
    if state.type is SECRETS:
        return True
    refused = (state.held.resources.get(name) for name in state.rejected)
    return any(each is not None and redacted(state.type.message, each.body) != each.body for each in refused)


def node_message(node: Node) -> Message:
    """Return what is kept of a node, as the protocol's message."""
    message = proto.message_class("envoy.config.core.v3.Node")(id=node.id, cluster=node.cluster)
    if node.location:
        message.locality.region, message.locality.zone = node.region, node.zone
    ParseDict(dict(node.metadata), message.metadata)
    if node.version:
        major, minor, patch = map(int, node.version.split("."))
        version = message.user_agent_build_version.version
        version.major_number, version.minor_number, version.patch = major, minor, patch
    return message


class Pages:
    """Packs whole clients into ClientStatusResponses, as many into each as the limit allows."""

    def __init__(self, limit_bytes: int = STREAMED_BYTES) -> None:
        self._limit_bytes = limit_bytes
        self._parts: list[bytes] = []
        self._size = 0

    def add(self, client: bytes) -> bytes | None:
        """Add a client; return the page before it when that has no room for it."""
        part = bytes_field(CONFIG_FIELD, client)
        full = self.last() if self._parts and self._size + len(part) > self._limit_bytes else None
        self._parts.append(part)
        self._size += len(part)
        return full

    def last(self) -> bytes:
        """Return what was added since the last page, and begin another."""
        page = b"".join(self._parts)
        self._parts, self._size = [], 0
        return page
