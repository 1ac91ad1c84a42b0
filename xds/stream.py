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
from dataclasses import dataclass, field, replace
from types import MappingProxyType

from xds.answers import answered
from xds.resources import (
    BY_URL,
    CLUSTERS,
    ENDPOINTS,
    EXTENSION_CONFIGS,
    LISTENERS,
    ROUTES,
    RUNTIMES,
    SCOPED_ROUTES,
    SECRETS,
    TYPES,
    VIRTUAL_HOSTS,
    ResourceType,
)
from xds.snapshot import Snapshot, View
from xds.subscription import (
    BEATS,
    NONE,
    SHARED_STATES,
    SHARED_STEPS,
    Current,
    Dialect,
    Held,
    Lag,
    Plan,
    Request,
    Subscription,
    beyond,
    gone,
    pulse,
    sent,
    shared,
    unified,
    users_of,
    warming,
)

BARRIER_S = 2.0
RETURN_S = 60.0  # a client with a stream for each type has all of them back: Envoy waits for up to 30 s in between
INTRODUCTION = (CLUSTERS, LISTENERS, ROUTES)  # a client that comes back with these asks for them in its first moments
LEAVES = (SECRETS, RUNTIMES, ENDPOINTS)  # refer to nothing
ROOTS = (RUNTIMES, LISTENERS, SCOPED_ROUTES, VIRTUAL_HOSTS)  # nothing refers to them


@dataclass(frozen=True, slots=True)
class Stream:
    """The state of one stream, since its first request at `since_s`; `types` are in the order of sending.

    `introduced` says that it had the time to ask for all that it wants. `last` is the highest number that was a nonce.
    `sent_s` says when the responses with clusters went out that are not answered yet, by nonce. With `ttls` the client
    lets resources go whose TTL has ended; `beaten_s` says when it last heard of those that it holds. `only` is the type
    of a stream that is not aggregated, and `fresh_s` says when new clusters went out on it, by name;
    `routed_s` when a client that names its clusters was last told of other routes or listeners.
    """

    dialect: Dialect
    types: Mapping[ResourceType, Subscription]
    since_s: float = 0.0
    introduced: bool = False
    last: int = 0
    sent_s: Mapping[str, float] = field(default_factory=lambda: MappingProxyType({}))
    ttls: bool = False
    beaten_s: Mapping[ResourceType, float] = field(default_factory=lambda: MappingProxyType({}))
    only: ResourceType | None = None
    fresh_s: Mapping[str, float] = field(default_factory=lambda: MappingProxyType({}))
    routed_s: float = float("-inf")

    def with_state(self, state: Subscription) -> "Stream":
        return self.moved({**self.types, state.type: state}, self.last, self.sent_s)

    def moved(self, types: Mapping[ResourceType, Subscription], last: int, sent_s: Mapping[str, float]) -> "Stream":
        """Return the stream after a request or a response; replace() would cost four times as much."""
        since_s, introduced, ttls, beaten_s = self.since_s, self.introduced, self.ttls, self.beaten_s
        only, fresh_s, routed_s = self.only, self.fresh_s, self.routed_s
        return Stream(self.dialect, types, since_s, introduced, last, sent_s, ttls, beaten_s, only, fresh_s, routed_s)


Streams = tuple[Stream, ...]


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
    stream: Stream, request: Request, served: Snapshot, recent: Mapping[str, Held], now_s: float
) -> tuple[Stream, Answer | None]:
    """Return the stream after a request, and the answer that it held. A type nobody serves changes nothing."""
    type_ = BY_URL.get(request.type_url)
    if type_ is None:
        return stream, None
    view = served.views[type_]
    before = stream.types.get(type_)
    if before is None:
        types = {**stream.types, type_: unified(stream.dialect.first(request, Current(view, recent)))}
        ordered = {each: types[each] for each in TYPES if each in types}
        return stream.moved(ordered, stream.last, stream.sent_s), None
    if request.fault is None:
        state, answer = _received(view, before, request, stream.dialect)
    else:
        state, answer = _step(before, request, stream.dialect, now_s)
    if state is before:
        return stream, answer
    stream = stream.with_state(state)
    if stream.sent_s and type_ is CLUSTERS:
        left = {each.nonce: stream.sent_s[each.nonce] for each in state.unanswered if each.nonce in stream.sent_s}
        stream = replace(stream, sent_s=left)
    return stream, answer


@shared(SHARED_STEPS)
def _received(_: View, before: Subscription, request: Request, dialect: Dialect) -> tuple[Subscription, Answer | None]:
    """Return the state after a request without a fault, which clients in equal states share."""
    return _step(before, request, dialect, 0.0)


def _step(before: Subscription, request: Request, dialect: Dialect, now_s: float) -> tuple[Subscription, Answer | None]:
    state = answered(before, request, dialect, now_s) if request.nonce else before
    answer = None if state is before else Answer(state.type, state, request.fault is not None)
    state = dialect.receive(state, request)
    return (state if state is before else unified(state)), answer


def respond(stream: Stream, served: Snapshot, now_s: float, beside: Streams = ()) -> tuple[Stream, Response | None]:
    """Return the next response for this client, or None when there is nothing that may be said now.

    `beside` are the other streams of a client that has one for each type.
    """
    if not stream.introduced and _introduced(stream, now_s):
        stream = replace(stream, introduced=True)
    if stream.ttls:
        stream = _beating(stream, now_s)
    views, dialect = served.views, stream.dialect
    for type_, state in stream.types.items():
        view = views[type_]
        if _wish(view, state, dialect) is None:
            continue
        plan = _next((stream, *beside), state, served, now_s)
        if plan is not None:
            return _send(stream, view, plan, now_s)
    return stream, None


@shared(SHARED_STEPS)
def _wish(view: View, state: Subscription, dialect: Dialect) -> Plan | None:
    """Return what there is to say to a client when nothing holds it back."""
    return dialect.plan(state, view, NONE)


def wake_at_s(stream: Stream, now_s: float, beside: Streams = ()) -> float | None:
    """Return when time alone may allow another response, by the end of a barrier."""
    named = stream.routed_s + BARRIER_S > now_s
    if stream.introduced and not stream.sent_s and not beside and not stream.beaten_s and not named:
        return None
    starts = [start for each in (stream, *beside) for start in (*each.sent_s.values(), *each.fresh_s.values())]
    ends = [start + BARRIER_S for start in (*starts, stream.routed_s)]
    ends += [each.since_s + _wait_s(each) for each in (stream, *beside) if not each.introduced]
    for type_, beaten_s in stream.beaten_s.items():
        beat = pulse(stream.types[type_].held, stream.dialect.NAME)
        ends += [beaten_s + beat.every_s] if beat is not None else []
    return min((end for end in ends if end > now_s), default=None)


def _beating(stream: Stream, now_s: float) -> Stream:
    """Return the stream with what is to be said again by now, so that the client keeps it beyond its TTL."""
    for type_, state in stream.types.items():
        beat = pulse(state.held, stream.dialect.NAME)
        if beat is None:
            continue
        waited_s = now_s - stream.beaten_s.get(type_, float("-inf"))
        if waited_s < beat.every_s:
            continue
        if waited_s >= beat.every_s * BEATS:  # it may have let go of all that: a stall, or an earlier stream
            marked = replace(state, again=state.again | beat.names, due=state.due or state.type.full_state)
        else:
            marked = replace(state, beats=state.beats | beat.names)
        stream = replace(stream.with_state(unified(marked)), beaten_s={**stream.beaten_s, type_: now_s})
    return stream


def lag(stream: Stream, type_: ResourceType, name: str, version: str | None) -> Lag | None:
    """Return why this client does not have this version of a resource yet (None: that it is gone), or None."""
    state = stream.types.get(type_)
    if state is None:
        if stream.introduced or stream.only is not None:
            return None
        return Lag(f"has just connected and may ask for {type_} yet")
    if state.has(name, version):
        return None
    if state.rejection is not None and version is not None and state.rejected.get(name) == version:
        return Lag(f"refused {type_} '{name}': {state.rejection.text}", refused=True)
    if state.unanswered and state.held.version(name) == version:
        return Lag(f"has not ACKed {type_} '{name}'")
    return Lag(f"has not been sent {type_} '{name}'")


def may_need(streams: Streams, type_: ResourceType, name: str) -> bool:
    """Say whether anything that a client with these streams may be working with needs `name` of `type_`."""
    return bool(_needed(streams, type_, frozenset({name})))


def _needed(streams: Streams, type_: ResourceType, names: frozenset[str]) -> frozenset[str]:
    """Return those of the names that something may need which this client may be working with."""
    states = (state for stream in streams for state in stream.types.values())
    users = [each for each in states if each.type is not type_ and each.type not in LEAVES]
    here = {type_ for stream in streams for type_ in stream.types}
    if not (streams[0].introduced or here.issuperset(INTRODUCTION)) or any(user.unknown for user in users):
        return names
    return names.intersection(*[frozenset[str]().union(*(user.in_use(type_) for user in users))])


def _wait_s(stream: Stream) -> float:
    return BARRIER_S if stream.only is None else RETURN_S


def _introduced(stream: Stream, now_s: float) -> bool:
    return stream.since_s + _wait_s(stream) <= now_s or all(type_ in stream.types for type_ in INTRODUCTION)


def _next(streams: Streams, state: Subscription, served: Snapshot, now_s: float) -> Plan | None:
    """Return what to say of one type to a client on the first of its streams."""
    view, dialect = served.views[state.type], streams[0].dialect
    # What was refused and never accepted is not there to be kept.
    lost = NONE if state.type in ROOTS else frozenset(filter(state.had, gone(view, state.held)))
    kept = _needed(streams, state.type, lost) if lost else NONE
    if state.type is EXTENSION_CONFIGS:
        kept |= lost & state.names  # a listener that drains asks for its filters until it is gone
    if state.type is CLUSTERS and streams[0].routed_s + BARRIER_S > now_s:
        kept |= lost & state.names  # a gRPC channel ACKs a route before it has its clusters, and uses the old ones
    plan = dialect.plan(state, view, kept) if kept else _wish(view, state, dialect)
    if plan is None or state.type is CLUSTERS or state.type in LEAVES:
        return plan
    early = _too_early(streams, state, served, plan, now_s)
    if not early:
        return plan
    # The first word on listeners is a whole one: it makes an Envoy ready. So is each for a client that names them
    # (gRPC), which takes what is left out for deleted.
    whole = state.type.full_state and not (state.nonce and state.wildcard)
    if whole and any(state.held.version(name) is None for name in early):
        return None
    return dialect.plan(state, view, kept | early)


def _too_early(streams: Streams, state: Subscription, served: Snapshot, plan: Plan, now_s: float) -> frozenset[str]:
    """Return the resources of a plan that name a cluster which does not work at this client yet."""
    stream = next((each for each in streams if CLUSTERS in each.types), None)
    if stream is None:
        # It returns without ADS, and what it works with needs its clusters: these come on another stream.
        returns = streams[0].only is not None and not streams[0].introduced
        return frozenset(filter(state.had, plan.names())) if returns and users_of(plan, CLUSTERS) else NONE
    clusters = stream.types[CLUSTERS]
    # With every response answered, what was accepted works.
    unsure = clusters.unanswered or stream.fresh_s
    doubtful = users_of(plan, CLUSTERS).keys() if unsure else beyond(plan, CLUSTERS, clusters.acked)
    absent = [name for name in doubtful if _absent(stream, clusters, served, name, now_s)]
    if not absent:
        return NONE
    users = users_of(plan, CLUSTERS)
    missing = frozenset(user for name in absent if name not in clusters.rejected for user in users[name])
    refused = frozenset(user for name in absent if name in clusters.rejected for user in users[name])
    return missing | {user for user in refused if state.had(user)}


def _absent(stream: Stream, clusters: Subscription, served: Snapshot, name: str, now_s: float) -> bool:
    """Say whether a cluster that is served does not work at the client yet.

    A client that did not ask for it (gRPC learns its clusters from the route) waits for none.
    """
    if not clusters.wants(name) or served.get(CLUSTERS, name) is None:
        return False
    if name in stream.fresh_s and stream.fresh_s[name] + BARRIER_S > now_s:
        return True
    since = clusters.offered(name)
    return since is None or (since in stream.sent_s and stream.sent_s[since] + BARRIER_S > now_s)


def _send(stream: Stream, view: View, plan: Plan, now_s: float) -> tuple[Stream, Response]:
    state = stream.types[view.type]
    number = plan.number if plan.number > stream.last else stream.last + 1  # a stream's nonces never repeat
    shares = number == plan.number
    response = (_shared_response if shares else _response)(plan, state.type, stream.dialect, str(number), stream.ttls)
    told = (_shared_sent if shares else _sent)(view, plan, state, str(number))
    types = {**stream.types, state.type: told}
    sent_s = stream.sent_s
    if state.type is CLUSTERS:
        sent_s = {each.nonce: sent_s.get(each.nonce, now_s) for each in told.unanswered}
        if stream.only is CLUSTERS:
            stream = replace(stream, fresh_s=_fresh(stream, state, plan, now_s))
        if ENDPOINTS in types:
            types[ENDPOINTS] = _resending(types[ENDPOINTS], warming(plan, state.held))
    clusters = types.get(CLUSTERS)
    if state.type in (LISTENERS, ROUTES) and clusters is not None and not clusters.wildcard:
        stream = replace(stream, routed_s=now_s)
    if stream.ttls and state.type not in stream.beaten_s and pulse(plan.held, stream.dialect.NAME) is not None:
        stream = replace(stream, beaten_s={**stream.beaten_s, state.type: now_s})
    return stream.moved(types, number, sent_s), response


def _fresh(stream: Stream, clusters: Subscription, plan: Plan, now_s: float) -> Mapping[str, float]:
    """Return which clusters may not be warm yet though they are ACKed: without ADS, Envoy ACKs them at once.

    A client that has nothing yet, or loses what it has with this response, is better off with all of it soon.
    """
    still = {name: at_s for name, at_s in stream.fresh_s.items() if at_s + BARRIER_S > now_s}
    if not clusters.nonce and not clusters.acked.resources:
        return still
    return {**dict.fromkeys((name for name in plan.names() if not clusters.had(name)), now_s), **still}


def _sent(_: View, plan: Plan, state: Subscription, nonce: str) -> Subscription:
    # Remembered by the view: the state holds the plan, which would keep it, and all states before it, for ever.
    return unified(sent(state, plan, nonce))


def _response(plan: Plan, type_: ResourceType, dialect: Dialect, nonce: str, ttls: bool) -> Response:  # noqa: FBT001
    return Response(type_, plan.version, nonce, dialect.encode(type_, plan, nonce, ttls=ttls), plan.names())


_shared_sent = shared(SHARED_STEPS)(_sent)
_shared_response = shared(SHARED_STATES)(_response)


def warmed(stream: Stream, names: frozenset[str]) -> Stream:
    """Return the stream of a client to which these load assignments are to be sent behind its changed clusters."""
    endpoints = stream.types.get(ENDPOINTS)
    return stream if endpoints is None else stream.with_state(_resending(endpoints, names))


def _resending(endpoints: Subscription, names: frozenset[str]) -> Subscription:
    again = endpoints.again.union(name for name in names if endpoints.wants(name))
    return endpoints if again == endpoints.again else unified(replace(endpoints, again=again))
