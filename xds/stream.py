"""One stream's machine: what a request changes, and which response may go out next.

Make before break, for each stream by itself, so that a stuck proxy holds nobody else up:

- A route or listener goes out when every cluster that it names works at this client: ACKed, or sent BARRIER_S ago
  (after its initialisation Envoy withholds the CDS ACK until the cluster is warm). What names only clusters that are
  known, such as a change of weights or a rollback, waits for nothing. A client that refused a cluster keeps the route
  that it has; one that has none yet is better off with all the other clusters of the route.
- Nothing leaves while anything that the client may still work with needs it: clusters go when the client has ACKed
  routes and listeners that do not name them.
- A load assignment follows each cluster that was changed: Envoy warms the cluster anew, and in delta never asks.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any as Message

from xds.resources import BY_URL, CLUSTERS, ENDPOINTS, LISTENERS, ROUTES, RUNTIMES, SECRETS, TYPES, ResourceType
from xds.snapshot import Snapshot
from xds.subscription import Current, Dialect, Held, Lag, Plan, Subscription, answered, gone, sent, users_of

BARRIER_S = 2.0
INTRODUCTION = (CLUSTERS, LISTENERS, ROUTES)  # a client that comes back with these asks for them in its first moments
LEAVES = (SECRETS, RUNTIMES, ENDPOINTS)  # refer to nothing


@dataclass(frozen=True, slots=True)
class Stream:
    """The state of one ADS stream, since its first request at `since_s`; `serial` numbers its responses.

    `introduced` says that it had the time to ask for all that it wants.
    """

    dialect: Dialect
    types: Mapping[ResourceType, Subscription]
    since_s: float = 0.0
    introduced: bool = False
    serial: int = 0


@dataclass(frozen=True, slots=True)
class Response:
    """One response, encoded; `type`, `version` and `names` are for the log and the metrics."""

    type: ResourceType
    version: str
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
    stream: Stream, request: Message, served: Snapshot, recent: Mapping[str, Held], now_s: float
) -> tuple[Stream, Answer | None]:
    """Return the stream after a request, and the answer that it held. A type nobody serves changes nothing."""
    type_ = BY_URL.get(request.type_url)
    if type_ is None:
        return stream, None
    before = stream.types.get(type_)
    state = before
    answer = None
    if before is not None and request.response_nonce:
        state = answered(before, request, now_s)
        if state is not before:
            answer = Answer(type_, state, request.HasField("error_detail"))
    state = stream.dialect.receive(state, request, Current(served.views[type_], recent))
    return replace(stream, types={**stream.types, type_: state}), answer


def respond(stream: Stream, served: Snapshot, now_s: float) -> tuple[Stream, Response | None]:
    """Return the next response for this client, or None when there is nothing that may be said now."""
    if not stream.introduced and _introduced(stream, now_s):
        stream = replace(stream, introduced=True)
    for type_ in TYPES:
        state = stream.types.get(type_)
        plan = _next(stream, state, served, now_s) if state is not None else None
        if state is not None and plan is not None:
            return _send(stream, state, served, plan, now_s)
    return stream, None


def wake_at_s(stream: Stream, now_s: float) -> float | None:
    """Return when time alone may allow another response, by the end of a barrier."""
    starts = [] if stream.introduced else [stream.since_s]
    clusters = stream.types.get(CLUSTERS)
    if clusters is not None:
        starts += [each.at_s for each in clusters.unanswered]
    return min((start + BARRIER_S for start in starts if start + BARRIER_S > now_s), default=None)


def lag(stream: Stream, type_: ResourceType, name: str, version: str | None) -> Lag | None:
    """Return why this client does not have this version of a resource yet (None: that it is gone), or None."""
    state = stream.types.get(type_)
    if state is None:
        return None if stream.introduced else Lag(f"has just connected and may ask for {type_} yet")
    if state.has(name, version):
        return None
    if state.rejection is not None and version is not None and state.rejected.get(name) == version:
        return Lag(f"refused {type_} '{name}': {state.rejection.text}", refused=True)
    if state.unanswered and state.held.version(name) == version:
        return Lag(f"has not ACKed {type_} '{name}'")
    return Lag(f"has not been sent {type_} '{name}'")


def may_need(stream: Stream, type_: ResourceType, name: str) -> bool:
    """Say whether anything that this client may be working with needs `name` of `type_`."""
    return bool(_needed(stream, type_, frozenset({name})))


def _needed(stream: Stream, type_: ResourceType, names: frozenset[str]) -> frozenset[str]:
    """Return those of the names that something may need which this client may be working with."""
    users = [each for each in stream.types.values() if each.type is not type_ and each.type not in LEAVES]
    if not stream.introduced or any(user.unknown for user in users):
        return names
    return names.intersection(*[frozenset[str]().union(*(user.in_use(type_) for user in users))])


def _introduced(stream: Stream, now_s: float) -> bool:
    return stream.since_s + BARRIER_S <= now_s or all(type_ in stream.types for type_ in INTRODUCTION)


def _next(stream: Stream, state: Subscription, served: Snapshot, now_s: float) -> Plan | None:
    view = served.views[state.type]
    # Nothing needs a listener. What was refused and never accepted is not there to be kept.
    lost = [] if state.type is LISTENERS else [name for name in gone(view, state.held) if state.had(name)]
    kept = _needed(stream, state.type, frozenset(lost)) if lost else frozenset()
    plan = stream.dialect.plan(state, view, kept)
    if plan is None or state.type is CLUSTERS or state.type in LEAVES:
        return plan
    early = _too_early(stream, state, served, plan, now_s)
    if not early:
        return plan
    if state.type.full_state and not state.nonce and any(state.held.version(name) is None for name in early):
        return None  # the first word on listeners is a whole one: it makes an Envoy ready, and what it omits is deleted
    return stream.dialect.plan(state, view, kept | early)


def _too_early(stream: Stream, state: Subscription, served: Snapshot, plan: Plan, now_s: float) -> frozenset[str]:
    """Return the resources of a plan that name a cluster which does not work at this client yet."""
    clusters = stream.types.get(CLUSTERS)
    users = users_of(plan, CLUSTERS)
    if clusters is None or not users:
        return frozenset()
    absent = [name for name in users if _absent(clusters, served, name, now_s)]
    missing = frozenset(user for name in absent if name not in clusters.rejected for user in users[name])
    refused = frozenset(user for name in absent if name in clusters.rejected for user in users[name])
    return missing | {user for user in refused if state.had(user)}


def _absent(clusters: Subscription, served: Snapshot, name: str, now_s: float) -> bool:
    """Say whether a cluster that is served does not work at the client yet.

    A client that did not ask for it (gRPC learns its clusters from the route) waits for none.
    """
    if not clusters.wants(name) or served.get(CLUSTERS, name) is None:
        return False
    since_s = clusters.offered_s(name)
    return since_s is None or since_s + BARRIER_S > now_s


def _send(stream: Stream, state: Subscription, served: Snapshot, plan: Plan, now_s: float) -> tuple[Stream, Response]:
    serial = stream.serial + 1
    nonce = str(serial)
    types = {**stream.types, state.type: sent(state, plan, nonce, now_s)}
    endpoints = types.get(ENDPOINTS)
    if state.type is CLUSTERS and endpoints is not None:
        types[ENDPOINTS] = replace(endpoints, again=endpoints.again | _to_warm(state, plan, endpoints))
    body = stream.dialect.encode(served.views[state.type], plan, nonce)
    response = Response(state.type, plan.version, nonce, body, plan.names())
    return replace(stream, types=types, serial=serial), response


def _to_warm(clusters: Subscription, plan: Plan, endpoints: Subscription) -> frozenset[str]:
    """Return the load assignments to resend behind changed clusters."""
    changed = (each for each in plan.resources if clusters.held.version(each.name) != each.version)
    return frozenset(name for each in changed for name in each.names(ENDPOINTS) if endpoints.wants(name))
