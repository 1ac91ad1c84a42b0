"""Delta: a request changes what is wanted, a response says what changed; every resource has its own version."""

from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Any as Message

from xds import proto
from xds.resources import ENDPOINTS, Resource, ResourceType
from xds.snapshot import View
from xds.subscription import (
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
from xds.wire import IDENTITY, any_of, bytes_field, text_field

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


def receive(state: Subscription, request: Request) -> Subscription:
    """Return the state after a request's subscribes and unsubscribes, which count whatever its nonce is."""
    subscribed = subscribable(state.type, request.names)
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
    implicit = type_.full_state and not subscribed
    state = Subscription(type_, frozenset({WILDCARD}) if implicit else subscribed, implicit)
    versions = {name: version for name, version in request.versions if state.wants(name)}
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


def plan(state: Subscription, view: View, kept: frozenset[str]) -> Plan | None:
    """Return the next response for a client in this state: what changed, and what is gone."""
    return _difference(view, state.names, state.held, kept, state.again, state.due)


@shared(SHARED_STATES)
def _difference(
    view: View,
    names: frozenset[str],
    held: Held,
    kept: frozenset[str],
    again: frozenset[str],
    due: bool,  # noqa: FBT001  # part of a state
) -> Plan | None:
    changed = tuple(
        resource
        for resource in of_view(view, names)
        if resource.name not in kept and (not _holds(held, resource) or resource.name in again)
    )
    removed = _removed(view, names, held, again) - kept
    if not changed and not removed and not due:
        return None
    after = {**held.resources, **{resource.name: resource for resource in changed}}
    for name in removed:
        if name in names:
            after[name] = None  # told so; the subscription stays
        else:
            after.pop(name, None)
    whole = complete(view, names)
    held = whole if after == whole.resources else Held(MappingProxyType(after))
    return Plan(view.version, changed, tuple(sorted(removed)), held)


def _holds(held: Held, resource: Resource) -> bool:
    """Say whether this very resource is held.

    One of an earlier stream, without a body, does not count when its version comes back: nobody knows what it needs.
    """
    before = held.resources.get(resource.name)
    return before is not None and before.version == resource.version and bool(before.body)


def _removed(view: View, names: frozenset[str], held: Held, again: frozenset[str]) -> frozenset[str]:
    """Return the names to call removed: what the client holds no longer exists, or what it asks for never did."""
    lost = {name for name, each in held.resources.items() if each is not None}
    asked = {name for name in names - {WILDCARD} if name not in held.resources} | again
    return frozenset(name for name in lost | asked if name not in view.resources)


def encode(type_: ResourceType, plan: Plan, nonce: str) -> bytes:
    """Encode a DeltaDiscoveryResponse."""
    resources = b"".join(bytes_field(2, _named(resource)) for resource in plan.resources)
    removed = b"".join(bytes_field(6, name.encode()) for name in plan.removed)
    tail = text_field(5, nonce) + removed + bytes_field(7, IDENTITY)
    return text_field(1, plan.version) + resources + text_field(4, type_.url) + tail


def _named(resource: Resource) -> bytes:
    return text_field(1, resource.version) + bytes_field(2, any_of(resource)) + text_field(3, resource.name)
