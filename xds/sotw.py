"""State of the world: a request names all that is wanted, a response says it anew."""

import functools
from dataclasses import replace
from types import MappingProxyType
from typing import Any as Message

from xds import proto
from xds.resources import SOTW, Resource, ResourceType
from xds.snapshot import View
from xds.snapshot import view as make_view
from xds.subscription import (
    SHARED_STATES,
    WILDCARD,
    Current,
    Fault,
    Held,
    Plan,
    Request,
    Sent,
    Subscription,
    complete,
    of_view,
    renamed,
    shared,
    subscribable,
)
from xds.wire import IDENTITY, any_of, bytes_field, text_field, ttl_field

NAME = SOTW
NAME_TAG = b"\x1a"  # of resource_names, field 3
REQUEST = "envoy.service.discovery.v3.DiscoveryRequest"
RESOURCE_URL = "type.googleapis.com/envoy.service.discovery.v3.Resource"


def decode(raw: bytes) -> Message:
    return proto.message_class(REQUEST).FromString(raw)


def read(message: Message) -> Request:
    error = message.error_detail
    fault = Fault(error.code, error.message) if message.HasField("error_detail") else None
    names = frozenset(message.resource_names)
    return Request(message.type_url, message.response_nonce, names, fault, message.version_info)


def repeated(state: Subscription, raw: bytes) -> Request | None:
    """Return the request of these bytes when it accepts the last response and repeats the names, else None.

    An Envoy repeats all names in each ACK, in another order each time. That they are the same is seen in their bytes,
    for half of what it costs to decode them.
    """
    if not state.unanswered:
        return None
    nonce, plan = state.unanswered[-1]
    head = text_field(1, plan.version)
    tail = text_field(4, state.type.url) + text_field(5, nonce)
    if not raw.startswith(head) or not raw.endswith(tail):
        return None
    known, empty = _pieces(state.names)
    said = raw[len(head) : -len(tail)].split(NAME_TAG)
    # As many as there are, and all of them: so each one once.
    if said[0] or len(said) != 1 + empty + len(known) or said.count(b"") != 1 + empty or known.difference(said):
        return None
    return Request(state.type.url, nonce, state.names, None, plan.version)


@functools.lru_cache(SHARED_STATES)
def _pieces(names: frozenset[str]) -> tuple[frozenset[bytes], int]:
    """Return what stands between the tags when these names are said, and how often nothing does.

    That is one piece for each name, but for one of 26 characters, whose length looks like the tag. Without control
    characters no piece is that of two names; with them there are no pieces here.
    """
    if not all(map(str.isprintable, names)):
        return frozenset(), 0
    pieces = [piece for name in names for piece in bytes_field(3, name.encode()).split(NAME_TAG)[1:]]
    return frozenset(pieces) - {b""}, pieces.count(b"")


def receive(state: Subscription, request: Request) -> Subscription:
    """Return the state after a request's names; when its nonce is not the last one, only what it drops is noted.

    For the client may ask for that again by the time it has the last nonce, and then it must be sent again.
    """
    names = subscribable(state.type, request.names)
    if request.nonce != state.nonce:
        return state if state.type.full_state else replace(state, dropped=state.dropped | state.names - names)
    if state.dropped:
        state = replace(state, again=state.again | state.dropped & names, dropped=frozenset())
    # SotW: an empty list is the wildcard only until names were given once (xDS protocol, "How the client specifies
    # what resources to return"); Envoy sends it with a nonce when its last EDS cluster goes.
    if not names and state.implicit:
        return state
    if names == state.names:
        return replace(state, implicit=False) if state.implicit else state
    return renamed(state, names)


def accepted(earlier: tuple[Sent, ...], request: Request) -> int:
    """Return how many of the earlier responses a NACK accepts: those up to the version that it shows."""
    return next((i for i, each in enumerate(earlier, 1) if each.plan.version == request.version), 0)


def first(request: Request, current: Current) -> Subscription:
    """Return the state after a type's first request; a client that reconnects shows the version that it holds."""
    type_ = current.view.type
    names = subscribable(type_, request.names)
    implicit = type_.full_state and not names
    state = Subscription(type_, frozenset({WILDCARD}) if implicit else names, implicit)
    state = replace(state, due=state.wildcard)
    version = request.version
    if not version:
        return state
    if state.wildcard:
        # Only full-state types may be skipped: a skipped EDS leaves a cluster warming.
        known = complete(current.view, state.names) if version == current.view.version else current.recent.get(version)
        if known is not None:
            return replace(state, held=known, acked=known, acked_version=version, due=False)
    # Of a full-state type it may hold what is gone, and only an answer that leaves that out tells it so.
    return replace(state, unknown=state.names, due=type_.full_state)


def plan(state: Subscription, view: View, kept: frozenset[str]) -> Plan | None:
    """Return the next response for a client in this state: all for full-state types, else only what changed.

    What is to be kept beyond its TTL is sent whole: without its body Envoy would let it go.
    """
    if state.type.full_state:
        # A wildcard client waits for its first answer even if that is empty; one that names what does not exist
        # gets silence until it does.
        return _all(view, state.names, state.held, kept, state.due or bool(state.beats))
    return _changes(view, state.names, state.held, kept, state.again | state.beats)


@shared(SHARED_STATES)
def _all(view: View, names: frozenset[str], held: Held, kept: frozenset[str], due: bool) -> Plan | None:  # noqa: FBT001  # part of a state
    target = _target(view, names, held, kept)
    if target.resources == held.resources and not due:
        return None
    resources = tuple(each for each in target.resources.values() if each is not None)
    # A client that reconnects shows this version, so it stands for what was sent, not for what is served.
    version = make_view(view.type, resources).version if kept else view.version
    return Plan(version, resources, (), target)


def _target(view: View, names: frozenset[str], held: Held, kept: frozenset[str]) -> Held:
    """Return what a client is to hold: what is served, but for the kept names, which stay as the client has them."""
    wanted = complete(view, names)
    if not kept:
        return wanted
    stay = {name: held.resources.get(name) for name in kept}
    both = {**wanted.resources, **stay}
    return Held(MappingProxyType({name: both[name] for name in sorted(both) if both[name] is not None}))


@shared(SHARED_STATES)
def _changes(view: View, names: frozenset[str], held: Held, kept: frozenset[str], again: frozenset[str]) -> Plan | None:
    changed = tuple(
        resource
        for resource in of_view(view, names)
        if resource.name not in kept and (held.version(resource.name) != resource.version or resource.name in again)
    )
    if not changed:
        return None
    after = {**held.resources, **{resource.name: resource for resource in changed}}
    whole = complete(view, names)
    return Plan(view.version, changed, (), whole if after == whole.resources else Held(MappingProxyType(after)))


def encode(type_: ResourceType, plan: Plan, nonce: str, *, ttls: bool) -> bytes:
    """Encode a DiscoveryResponse; with TTLs for a client that knows them."""
    wrapped = ttls and NAME in type_.expires_in
    resources = b"".join(bytes_field(2, (_expiring if wrapped else any_of)(each)) for each in plan.resources)
    identity = bytes_field(6, IDENTITY)
    return text_field(1, plan.version) + resources + text_field(4, type_.url) + text_field(5, nonce) + identity


def _expiring(resource: Resource) -> bytes:
    """Encode the Any of a resource, inside of one that says its TTL when it has one."""
    if resource.ttl_s is None:
        return any_of(resource)
    inner = text_field(3, resource.name) + text_field(1, resource.version) + bytes_field(2, any_of(resource))
    return text_field(1, RESOURCE_URL) + bytes_field(2, inner + ttl_field(resource))
