"""Delta: a request changes what is wanted, a response says what changed; every resource has its own version."""

from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Any as Message
from typing import NamedTuple

from xds import proto
from xds.resources import DELTA, ENDPOINTS, Resource, ResourceType
from xds.snapshot import View
from xds.subscription import (
    NONE,
    NOTHING,
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

NAME = DELTA
REQUEST = "envoy.service.discovery.v3.DeltaDiscoveryRequest"


def decode(raw: bytes) -> Message:
    return proto.message_class(REQUEST).FromString(raw)


def read(message: Message) -> Request:
    error = message.error_detail
    return Request(
        message.type_url,
        message.response_nonce,
        frozenset(message.resource_names_subscribe),
        Fault(error.code, error.message) if message.HasField("error_detail") else None,
        left=frozenset(message.resource_names_unsubscribe),
        versions=frozenset(message.initial_resource_versions.items()),
    )


def repeated(_state: Subscription, _raw: bytes) -> None:
    """Return None, for an ACK in delta repeats no names."""


def receive(state: Subscription, request: Request) -> Subscription:
    """Return the state after a request's subscribes and unsubscribes, which count whatever its nonce is."""
    subscribed = subscribable(state.type, request.names)
    if state.wildcard and state.type.absent_by_alias:
        # Names come from the Host headers of strangers; they are answered, and the wildcard has them anyway.
        asked = subscribed - {WILDCARD}
        return replace(state, again=state.again | asked) if asked else state
    unsubscribed = request.left & state.names - subscribed
    if not subscribed and not unsubscribed:
        return state
    state = renamed(state, state.names - unsubscribed | subscribed)
    # Subscribing again asks for the resource again; and an explicit name that is dropped inside the wildcard is
    # answered, with the resource or its removal (xDS protocol, "Unsubscribing from resources").
    again = subscribed | unsubscribed if state.wildcard else subscribed
    return replace(state, again=(state.again | again) - {WILDCARD}, due=state.due or WILDCARD in subscribed)


def accepted(earlier: tuple[Sent, ...], _: Request) -> int:
    """Return how many of the earlier responses a NACK accepts: all, for in delta each response has its own answer."""
    return len(earlier)


def first(request: Request, current: Current) -> Subscription:
    """Return the state after a type's first request; a client that reconnects says which versions it holds."""
    type_ = current.view.type
    subscribed = subscribable(type_, request.names)
    implicit = type_.wildcard and not subscribed
    state = Subscription(type_, frozenset({WILDCARD}) if implicit else subscribed, implicit)
    if state.wildcard and type_.absent_by_alias:
        # An Envoy that was told that a name is absent shows it with an empty version.
        asked = subscribed - {WILDCARD} - {name for name, version in request.versions if not version}
        state = replace(state, names=frozenset({WILDCARD}), again=asked)
    versions = {name: version for name, version in request.versions if version and state.wants(name)}
    if not versions:
        return replace(state, due=state.wildcard)
    held = _held(current.view, state.names, versions)
    unknown = frozenset(name for name in versions if current.view.resources.get(name) is not held.resources[name])
    # A cluster that was warming when the stream broke waits for its load assignment: always send those.
    return replace(state, held=NOTHING if type_ is ENDPOINTS else held, acked=held, unknown=unknown)


def _held(view: View, names: frozenset[str], versions: Mapping[str, str]) -> Held:
    """Return what a client holds that says it has these versions."""
    whole = complete(view, names)
    if versions == {name: whole.version(name) for name in whole.resources}:
        return whole
    served = {name: whole.resources[name] for name, version in versions.items() if whole.version(name) == version}
    earlier = {name: Resource(view.type, name, version, b"", ()) for name, version in versions.items()}
    return Held(MappingProxyType({**earlier, **served}))


class Asked(NamedTuple):
    """What to send although the client has it: whole, or without its body; `due`: even if that is nothing."""

    again: frozenset[str]
    beats: frozenset[str]
    due: bool


def plan(state: Subscription, view: View, kept: frozenset[str]) -> Plan | None:
    """Return the next response for a client in this state: what changed, and what is gone."""
    again, beats = state.again, state.beats
    if beats:
        # Envoy keeps by a heartbeat only the version that it has, and a virtual host only when it is sent whole.
        whole = beats if state.type.absent_by_alias else {name for name in beats if not _accepted(state, name)}
        again, beats = again | whole, beats - whole
    return _difference(view, state.names, state.held, kept, Asked(again, beats, state.due))


def _accepted(state: Subscription, name: str) -> bool:
    return state.acked.version(name) == state.held.version(name)


@shared(SHARED_STATES)
def _difference(view: View, names: frozenset[str], held: Held, kept: frozenset[str], asked: Asked) -> Plan | None:
    # A client that has all is asked about by name only: strangers make an Envoy ask for whatever host they think of.
    has_all = held is complete(view, names)
    changed = tuple(
        resource
        for resource in of_view(view, asked.again | asked.beats if has_all else names)
        if resource.name not in kept
        and (not _holds(held, resource) or resource.name in asked.again or resource.name in asked.beats)
    )
    lost = NONE if has_all else frozenset(name for name, each in held.resources.items() if each is not None)
    never = frozenset(name for name in names - {WILDCARD} if name not in held.resources) | asked.again
    removed = lost.difference(view.resources, kept)
    absent = never.difference(view.resources, kept, removed)
    if not changed and not removed and not absent and not asked.due:
        return None
    after = held if has_all and names.isdisjoint(absent) else _after(view, names, held, changed, removed | absent)
    bodiless = frozenset(
        resource.name for resource in changed if resource.name in asked.beats and _holds(held, resource)
    )
    if view.type.absent_by_alias:
        return Plan(view.version, changed, tuple(sorted(removed)), after, bodiless - asked.again, tuple(sorted(absent)))
    return Plan(view.version, changed, tuple(sorted(removed | absent)), after, bodiless - asked.again)


def _after(view: View, names: frozenset[str], held: Held, changed: tuple[Resource, ...], gone: frozenset[str]) -> Held:
    """Return what a client holds that was told what changed and what is gone."""
    after = {**held.resources, **{resource.name: resource for resource in changed}}
    for name in gone:
        if name in names:
            after[name] = None  # told so; the subscription stays
        else:
            after.pop(name, None)
    whole = complete(view, names)
    return whole if after == whole.resources else Held(MappingProxyType(after))


def _holds(held: Held, resource: Resource) -> bool:
    """Say whether this very resource is held.

    One of an earlier stream, without a body, does not count when its version comes back: nobody knows what it needs.
    """
    before = held.resources.get(resource.name)
    return before is not None and before.version == resource.version and bool(before.body)


def encode(type_: ResourceType, plan: Plan, nonce: str, *, ttls: bool) -> bytes:
    """Encode a DeltaDiscoveryResponse; with TTLs for a client that knows them."""
    expiring = ttls and NAME in type_.expires_in
    bodies = [b"" if each.name in plan.beats else bytes_field(2, any_of(each)) for each in plan.resources]
    names = [_named(each) + (ttl_field(each) if expiring else b"") for each in plan.resources]
    resources = b"".join(bytes_field(2, body + name) for body, name in zip(bodies, names, strict=True))
    # Envoy holds the request of an unknown host back until it hears of an empty virtual host with that alias.
    absent = b"".join(bytes_field(2, text_field(3, name) + text_field(4, name)) for name in plan.absent)
    removed = b"".join(bytes_field(6, name.encode()) for name in plan.removed)
    tail = text_field(5, nonce) + removed + bytes_field(7, IDENTITY)
    return text_field(1, plan.version) + resources + absent + text_field(4, type_.url) + tail


def _named(resource: Resource) -> bytes:
    return text_field(1, resource.version) + text_field(3, resource.name)
