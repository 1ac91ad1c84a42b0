"""One stream's machine: what a request changes, and which response may go out next.

Make before break, for each stream by itself, so that a stuck proxy holds nobody else up:

- A route or listener goes out when every cluster that it names works at this client: ACKed, or sent BARRIER_S ago
  (after its initialisation Envoy withholds the CDS ACK until the cluster is warm). A response whose clusters are all
  known, such as a change of weights or a rollback, waits for nothing.
- Clusters leave only when the client has ACKed the routes and listeners that no longer name them.
- A load assignment follows each cluster that was changed: Envoy warms the cluster anew, and in delta never asks.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any as Message

from xds.resources import BY_URL, CLUSTERS, ENDPOINTS, LISTENERS, ROUTES, TYPES, ResourceType
from xds.snapshot import Snapshot, View
from xds.subscription import Current, Dialect, Lag, Plan, Subscription, answered, of_view, sent

BARRIER_S = 2.0


@dataclass(frozen=True, slots=True)
class Stream:
    """The state of one ADS stream; `serial` numbers its responses, so that nonces are unique."""

    dialect: Dialect
    types: Mapping[ResourceType, Subscription]
    serial: int = 0


@dataclass(frozen=True, slots=True)
class Response:
    """One response, encoded; `type` and `names` are for the log and the metrics."""

    type: ResourceType
    nonce: str
    body: bytes
    names: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Answer:
    """What a request told about an earlier response."""

    type: ResourceType
    subscription: Subscription
    rejected: bool


def receive(
    stream: Stream, request: Message, served: Snapshot, recent: Mapping[str, View], now_s: float
) -> tuple[Stream, Answer | None]:
    """Return the stream after a request, and the answer that it held. A type nobody serves changes nothing."""
    type_ = BY_URL.get(request.type_url)
    if type_ is None:
        return stream, None
    before = stream.types.get(type_)
    error = request.error_detail if request.HasField("error_detail") else None
    state = before
    answer = None
    if before is not None and request.response_nonce:
        state = answered(before, request.response_nonce, error, now_s)
        if state is not before:
            answer = Answer(type_, state, error is not None)
    following = stream.dialect.receive(state, request, Current(type_, served.views[type_], recent))
    following = following or state
    if following is None or following is before:
        return stream, answer
    return replace(stream, types={**stream.types, type_: following}), answer


def respond(stream: Stream, served: Snapshot, now_s: float) -> tuple[Stream, Response | None]:
    """Return the next response for this client, or None when there is nothing that may be said now."""
    for type_ in TYPES:
        state = stream.types.get(type_)
        if state is None:
            continue
        plan = _next(stream, state, served, now_s)
        if plan is not None:
            return _send(stream, state, plan, now_s)
    return stream, None


def wake_at_s(stream: Stream, now_s: float) -> float | None:
    """Return when time alone may allow another response: the end of the barrier behind an unanswered CDS."""
    clusters = stream.types.get(CLUSTERS)
    ends = [each.at_s + BARRIER_S for each in clusters.unanswered] if clusters else []
    return min((end for end in ends if end > now_s), default=None)


def lag(stream: Stream, type_: ResourceType, name: str, version: str | None) -> Lag | None:
    """Return why this client does not have this version of a resource yet (None: that it is gone), or None."""
    state = stream.types.get(type_)
    if state is None or state.has(name, version):
        return None
    if state.rejection is not None and name in state.rejected:
        return Lag(f"refused {type_} '{name}': {state.rejection.text}", refused=True)
    if any(name in each.plan.held.versions or name in each.plan.removed for each in state.unanswered):
        return Lag(f"has not ACKed {type_} '{name}'")
    return Lag(f"has not been sent {type_} '{name}'")


def _next(stream: Stream, state: Subscription, served: Snapshot, now_s: float) -> Plan | None:
    plan = stream.dialect.plan(state, served.views[state.type], may_remove=_may_remove(stream, state.type, served))
    if plan is None or state.type not in (LISTENERS, ROUTES):
        return plan
    missing = _missing_clusters(stream, plan, served, now_s)
    if not missing:
        return plan
    if state.type.full_state:
        return None
    return _without(stream, state, served, missing)


def _without(stream: Stream, state: Subscription, served: Snapshot, missing: frozenset[str]) -> Plan | None:
    """Plan for those resources of a type that need none of the missing clusters."""
    view = served.views[state.type]
    held_back = {
        resource.name for resource in of_view(view, state.names) if not missing.isdisjoint(resource.names(CLUSTERS))
    }
    names = frozenset(each.name for each in of_view(view, state.names)) - held_back
    plan = stream.dialect.plan(replace(state, names=names), view, may_remove=False)
    return plan


def _missing_clusters(stream: Stream, plan: Plan, served: Snapshot, now_s: float) -> frozenset[str]:
    """Return the clusters that a plan's resources name and that do not work at this client yet.

    A client that did not ask for a cluster (gRPC learns its clusters from the route) waits for none.
    """
    clusters = stream.types.get(CLUSTERS)
    if clusters is None:
        return frozenset()
    return frozenset(
        name
        for name in plan.names(CLUSTERS)
        if clusters.wants(name)
        and served.get(CLUSTERS, name) is not None
        and not clusters.exists(name, sent_before_s=now_s - BARRIER_S)
    )


def _may_remove(stream: Stream, type_: ResourceType, served: Snapshot) -> bool:
    """Removals go in the reverse order of additions: a type may lose resources once those that name them are gone."""
    match type_:
        case _ if type_ is CLUSTERS:
            return _settled(stream, LISTENERS, served) and _settled(stream, ROUTES, served)
        case _ if type_ is ENDPOINTS:
            return _settled(stream, CLUSTERS, served)
        case _ if type_ is ROUTES:
            return _settled(stream, LISTENERS, served)
        case _:
            return True


def _settled(stream: Stream, type_: ResourceType, served: Snapshot) -> bool:
    """Say whether the client has accepted all of a type as it is served, or does not ask for it."""
    state = stream.types.get(type_)
    if state is None:
        return True
    if state.unanswered or state.rejected:
        return False
    return stream.dialect.plan(state, served.views[type_], may_remove=True) is None


def _send(stream: Stream, state: Subscription, plan: Plan, now_s: float) -> tuple[Stream, Response]:
    serial = stream.serial + 1
    nonce = str(serial)
    types = {**stream.types, state.type: sent(state, plan, nonce, now_s)}
    endpoints = types.get(ENDPOINTS)
    if state.type is CLUSTERS and endpoints is not None:
        types[ENDPOINTS] = replace(endpoints, again=endpoints.again | _to_warm(state, plan, endpoints))
    names = tuple(resource.name for resource in plan.resources)
    response = Response(state.type, nonce, stream.dialect.encode(plan, nonce), names)
    return replace(stream, types=types, serial=serial), response


def _to_warm(clusters: Subscription, plan: Plan, endpoints: Subscription) -> frozenset[str]:
    """Return the load assignments to resend behind changed clusters."""
    changed = (each for each in plan.resources if clusters.held.versions.get(each.name) != each.version)
    return frozenset(name for each in changed for name in each.names(ENDPOINTS) if endpoints.wants(name))
