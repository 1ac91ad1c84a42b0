"""State of the world: a request names all that is wanted, a response says it anew."""

from functools import lru_cache
from types import MappingProxyType
from typing import Any as Message

from xds import proto
from xds.resources import Resource
from xds.snapshot import View
from xds.snapshot import view as make_view
from xds.subscription import (
    SHARED_STATES,
    WILDCARD,
    Current,
    Held,
    Plan,
    Subscription,
    everything,
    of_view,
    renamed,
)
from xds.wire import any_of, bytes_field, text_field

REQUEST = "envoy.service.discovery.v3.DiscoveryRequest"


def decode(raw: bytes) -> Message:
    return proto.message_class(REQUEST).FromString(raw)


def receive(state: Subscription | None, request: Message, current: Current) -> Subscription | None:
    """Return the state after a request's names; None when its nonce is not the last one: then it is ignored."""
    names = frozenset(request.resource_names)
    if state is None:
        return _first(names, request, current)
    if request.response_nonce != state.nonce:
        return None
    # SotW: an empty list is the wildcard only until names were given once (xDS protocol, "How the client specifies
    # what resources to return"); Envoy sends it with a nonce when its last EDS cluster goes.
    if not names and state.implicit:
        names = state.names
    if names == state.names:
        return state
    return renamed(state, names)


def _first(names: frozenset[str], request: Message, current: Current) -> Subscription:
    implicit = current.type.full_state and not names
    state = Subscription(current.type, frozenset({WILDCARD}) if implicit else names, implicit)
    known = current.recent.get(request.version_info) if state.wildcard and request.version_info else None
    if known is None:
        return state
    # A client that reconnects says what it holds. Only full-state types may be skipped: a skipped EDS leaves
    # a cluster warming.
    held = everything(known)
    return replace(state, held=held, acked=held, view=known, acked_version=known.version)


def plan(state: Subscription, view: View, *, may_remove: bool) -> Plan | None:
    """Return the next response for a client in this state: all for full-state types, else only what changed."""
    if not state.type.full_state:
        return _changes(state.names, state.held, view, state.again)
    target = view if may_remove or state.view is None else _union(state.view, view)
    return _all(state.names, state.held, target, first=state.view is None)


@lru_cache(maxsize=SHARED_STATES)
def _union(before: View, after: View) -> View:
    """Return `after` with what only `before` has: the first half of make before break."""
    kept = tuple(each for name, each in before.resources.items() if name not in after.resources)
    return make_view(after.type, (*after.resources.values(), *kept)) if kept else after


@lru_cache(maxsize=SHARED_STATES)
def _all(names: frozenset[str], held: Held, view: View, *, first: bool) -> Plan | None:
    wanted = of_view(view, names)
    versions = {resource.name: resource.version for resource in wanted}
    # A wildcard client waits for its first answer even if that is empty; one that names what does not exist
    # gets silence until it does.
    if versions == held.versions and not (first and WILDCARD in names):
        return None
    return Plan(view, wanted, (), Held(MappingProxyType(versions)))


@lru_cache(maxsize=SHARED_STATES)
def _changes(names: frozenset[str], held: Held, view: View, again: frozenset[str]) -> Plan | None:
    changed = tuple(
        resource
        for resource in of_view(view, names)
        if held.versions.get(resource.name) != resource.version or resource.name in again
    )
    if not changed:
        return None
    return Plan(view, changed, (), Held(MappingProxyType({**held.versions, **_versions(changed)})))


def _versions(resources: tuple[Resource, ...]) -> dict[str, str]:
    return {resource.name: resource.version for resource in resources}


def encode(plan: Plan, nonce: str) -> bytes:
    return _body(plan) + text_field(5, nonce)


@lru_cache(maxsize=64)
def _body(plan: Plan) -> bytes:
    """Encode a DiscoveryResponse but for its nonce; equal for all streams in the same state, so made once."""
    resources = b"".join(bytes_field(2, any_of(resource)) for resource in plan.resources)
    identity = bytes_field(6, text_field(1, "envoy-rollout"))
    return text_field(1, plan.view.version) + resources + text_field(4, plan.view.type.url) + identity
