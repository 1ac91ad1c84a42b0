"""Delta: a request changes what is wanted, a response says what changed; every resource has its own version."""

from dataclasses import replace
from functools import lru_cache
from types import MappingProxyType
from typing import Any as Message

from xds import proto
from xds.resources import ENDPOINTS, Resource
from xds.snapshot import View
from xds.subscription import (
    NOTHING,
    SHARED_STATES,
    WILDCARD,
    Current,
    Held,
    Plan,
    Subscription,
    everything,
    of_view,
    renamed,
    restricted,
)
from xds.wire import any_of, bytes_field, text_field

REQUEST = "envoy.service.discovery.v3.DeltaDiscoveryRequest"


def decode(raw: bytes) -> Message:
    return proto.message_class(REQUEST).FromString(raw)


def receive(state: Subscription | None, request: Message, current: Current) -> Subscription | None:
    """Return the state after a request's subscribes and unsubscribes, which count whatever its nonce is."""
    subscribed = frozenset(request.resource_names_subscribe)
    if state is None:
        return _first(subscribed, request, current)
    unsubscribed = frozenset(request.resource_names_unsubscribe) & state.names
    if not subscribed and not unsubscribed:
        return state
    names = (state.names | subscribed) - unsubscribed
    # Subscribing again asks for the resource again; and an explicit name that is dropped inside the wildcard is
    # answered, with the resource or its removal (xDS protocol, "Unsubscribing from resources").
    again = subscribed | (unsubscribed if WILDCARD in names else frozenset())
    return replace(renamed(state, names), again=(state.again | again) - {WILDCARD})


def _first(subscribed: frozenset[str], request: Message, current: Current) -> Subscription:
    implicit = current.type.full_state and not subscribed
    names = frozenset({WILDCARD}) if implicit else subscribed
    state = Subscription(current.type, names, implicit)
    versions = dict(request.initial_resource_versions)
    if not versions:
        return state
    same = everything(current.view)
    held = same if versions == same.versions else Held(MappingProxyType(versions))
    held = held if WILDCARD in names else restricted(held, names)
    # A cluster that was warming when the stream broke waits for its load assignment: always send those.
    return replace(state, held=NOTHING if current.type is ENDPOINTS else held, acked=held)


def plan(state: Subscription, view: View, *, may_remove: bool) -> Plan | None:
    """Return the next response for a client in this state: what changed, and what is gone if that may be said."""
    first = state.view is None and state.implicit and state.held is NOTHING
    return _difference(state.names, state.held, view, state.again, (may_remove, first))


@lru_cache(maxsize=SHARED_STATES)
def _difference(
    names: frozenset[str], held: Held, view: View, again: frozenset[str], may_remove_and_first: tuple[bool, bool]
) -> Plan | None:
    may_remove, first = may_remove_and_first
    changed = tuple(
        resource
        for resource in of_view(view, names)
        if held.versions.get(resource.name) != resource.version or resource.name in again
    )
    gone = {
        name
        for name, version in held.versions.items()
        if name not in view.resources and version is not None and may_remove
    }
    absent = {
        name
        for name in (names | again) - {WILDCARD}
        if name not in view.resources and (name not in held.versions or name in again)
    }
    if not changed and not gone and not absent and not first:
        return None
    versions = {**held.versions, **{resource.name: resource.version for resource in changed}}
    for name in gone | absent:
        if name in names:
            versions[name] = None  # told so; the subscription stays
        else:
            versions.pop(name, None)
    return Plan(view, changed, tuple(sorted(gone | absent)), Held(MappingProxyType(versions)))


def encode(plan: Plan, nonce: str) -> bytes:
    return _body(plan) + text_field(5, nonce)


@lru_cache(maxsize=64)
def _body(plan: Plan) -> bytes:
    """Encode a DeltaDiscoveryResponse but for its nonce; equal for all streams in the same state, so made once."""
    resources = b"".join(bytes_field(2, _named(resource)) for resource in plan.resources)
    removed = b"".join(bytes_field(6, name.encode()) for name in plan.removed)
    identity = bytes_field(7, text_field(1, "envoy-rollout"))
    return text_field(1, plan.view.version) + resources + text_field(4, plan.view.type.url) + removed + identity


def _named(resource: Resource) -> bytes:
    return text_field(1, resource.version) + bytes_field(2, any_of(resource)) + text_field(3, resource.name)
