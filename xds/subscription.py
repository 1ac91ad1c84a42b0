"""What one client wants of one type, and what it was last given.

Values here are immutable and compared by identity where they are large: streams in equal states share them,
so the difference between what they hold and what is served is computed, and encoded, once for all of them.
"""

import functools
import itertools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any as Message
from typing import Concatenate, NamedTuple, ParamSpec, Protocol, TypeVar
from weakref import WeakValueDictionary

from xds.resources import ENDPOINTS, Resource, ResourceType
from xds.snapshot import Memo, View

WILDCARD = "*"
SHARED_STATES = 64  # distinct states of clients whose results are kept; beyond, they are computed again
SHARED_STEPS = 1024  # the same for what is small
MANY_NAMES = 1_000  # what has more is not small: each client may choose 100,000 of its own, and they are kept too
UNANSWERED_LIMIT = 64  # responses of one type that may wait for their answers; the oldest is forgotten first


class Remembering(Protocol):
    """Something immutable that keeps what was computed from it."""

    @property
    def memo(self) -> Memo: ...


NONE = frozenset[str]()
BEATS = 3  # in a TTL: one that is lost or late does no harm

Key = TypeVar("Key", bound=Remembering)
Rest = ParamSpec("Rest")
Result = TypeVar("Result")
Pure = Callable[Concatenate[Key, Rest], Result]


def shared(limit: int) -> Callable[[Pure[Key, Rest, Result]], Pure[Key, Rest, Result]]:
    """Remember up to `limit` results of a pure function in its first argument's memo, so that they die with it.

    A result must not refer to that argument, or no old snapshot would be let go. The other arguments live as long too:
    were they older values of the same kind, each would hold the one before it, and none would ever go.
    """

    def wrap(function: Pure[Key, Rest, Result]) -> Pure[Key, Rest, Result]:
        @functools.wraps(function)
        def remembered(key: Key, /, *rest: Rest.args, **named: Rest.kwargs) -> Result:
            try:
                return key.memo[function][rest]  # type: ignore[no-any-return]  # what this function returned
            except KeyError:
                assert not named, "only positional arguments are compared"
            known = key.memo.setdefault(function, {})
            if len(known) >= _room(limit, rest):
                known.clear()
            result = known[rest] = function(key, *rest, **named)
            return result

        return remembered

    return wrap


@dataclass(frozen=True, slots=True, eq=False)
class Held:
    """What a client was given, by name; None for a name it was told does not exist.

    A resource of an earlier stream, of which only the version is known, has no body and no references.
    """

    resources: Mapping[str, Resource | None]
    memo: Memo = field(default_factory=dict, init=False, repr=False)

    def version(self, name: str) -> str | None:
        resource = self.resources.get(name)
        return None if resource is None else resource.version


NOTHING = Held(MappingProxyType({}))


@dataclass(frozen=True, slots=True, eq=False, weakref_slot=True)
class Plan:
    """One response: what to send, and what the client holds after it.

    Of the resources, `beats` are sent without their body, only to be kept; `absent` are names that do not exist.
    `number` is its nonce on every stream that has not had a higher one yet, so that these share its bytes.
    """

    version: str
    resources: tuple[Resource, ...]
    removed: tuple[str, ...]
    held: Held
    beats: frozenset[str] = frozenset()
    absent: tuple[str, ...] = ()
    number: int = field(default_factory=itertools.count(1).__next__, init=False)
    memo: Memo = field(default_factory=dict, init=False, repr=False)

    def names(self) -> tuple[str, ...]:
        return tuple(resource.name for resource in self.resources)


class Sent(NamedTuple):
    """A response that the client has not answered yet."""

    nonce: str
    plan: Plan


class Fault(NamedTuple):
    """What a NACK says: a code of gRPC, and the tail of the client's text."""

    code: int
    text: str


class Request(NamedTuple):
    """What counts of a discovery request; requests are compared by value.

    `names` are in SotW all that the client wants, in delta those that it subscribes to, and `left` those that it
    leaves. What it holds from before is in SotW the `version` of a type, in delta `versions` by name, as pairs.
    """

    type_url: str
    nonce: str
    names: frozenset[str]
    fault: Fault | None
    version: str = ""
    left: frozenset[str] = frozenset()
    versions: frozenset[tuple[str, str]] = frozenset()

    @property
    def size(self) -> int:
        """How many names it has."""
        return len(self.names) + len(self.left) + len(self.versions)


@dataclass(frozen=True, slots=True)
class Rejection:
    """A NACK: what the client said (`code` of gRPC, the tail of its text), when, and of which version of the type."""

    code: int
    text: str
    at_s: float
    version: str


@dataclass(frozen=True, slots=True)
class Lag:
    """Why a client does not have a version of a resource yet; `refused`: it sent a NACK."""

    why: str
    refused: bool = False


@dataclass(frozen=True, slots=True, eq=False, weakref_slot=True)
class Subscription:
    """One client's state for one type on one stream; it ends with the stream.

    `names` may hold WILDCARD; `implicit` says that it came from an empty first request. `held` is what was sent,
    `acked` what was accepted; `rejected` holds versions by name that were NACKed and are still what is held.
    `unknown` are names that the client may hold in a content that nobody here knows, from an earlier stream or after a
    NACK of several resources; WILDCARD stands for any name. `again` names what to resend though it did not change;
    `beats` names what is to be said again only so that the client keeps it beyond its TTL. `dropped` are names that a
    request left out which came too early to count (SotW); `due` says that the client waits for an answer even if that
    is empty.
    """

    type: ResourceType
    names: frozenset[str]
    implicit: bool = False
    held: Held = NOTHING
    acked: Held = NOTHING
    unknown: frozenset[str] = frozenset()
    rejected: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    rejection: Rejection | None = None
    again: frozenset[str] = frozenset()
    beats: frozenset[str] = frozenset()
    dropped: frozenset[str] = frozenset()
    due: bool = False
    nonce: str = ""
    acked_version: str = ""
    unanswered: tuple[Sent, ...] = ()

    @property
    def size(self) -> int:
        """How many names a client gave it."""
        return len(self.names) + len(self.again)

    @property
    def wildcard(self) -> bool:
        return WILDCARD in self.names

    def wants(self, name: str) -> bool:
        return WILDCARD in self.names or name in self.names

    def has(self, name: str, version: str | None) -> bool:
        """Say whether the client accepted this version of `name` (None: that it is gone), or has no wish for it.

        Not while it was sent another since: it may be working with that.
        """
        if not self.wants(name):
            return True
        if self.acked.version(name) != version or self.held.version(name) != version:
            return False
        later = any(each.plan.held.version(name) != version for each in self.unanswered)
        return not later and (version is not None or not self.may_know(name))

    def had(self, name: str) -> bool:
        """Say whether the client may have some version of `name`."""
        return self.offered(name) is not None or name in self.unknown

    def may_know(self, name: str) -> bool:
        """Say whether the client may hold `name` in a content that nobody here knows."""
        return not self.unknown.isdisjoint((name, WILDCARD))

    def offered(self, name: str) -> str | None:
        """Return the nonce of the response since which the client has `name` without a gap, None when it has not.

        The nonce is empty when the client accepted some version of it.
        """
        since = None if self.acked.version(name) is None else ""
        for each in self.unanswered:
            if each.plan.held.version(name) is None:
                since = None
            elif since is None:
                since = each.nonce
        return since

    def in_use(self, type_: ResourceType) -> frozenset[str]:
        """Return the names of `type_` that any resource needs which the client may be working with now."""
        stages = (self.acked, self.held, *(each.plan.held for each in self.unanswered))
        return frozenset(name for held in dict.fromkeys(stages) for name in needs(held, type_))


def _room(limit: int, arguments: tuple[object, ...]) -> int:
    """Return how many results are kept when these arguments are kept with one of them."""
    sizes = (each.size for each in arguments if isinstance(each, Subscription | Request))
    return limit if max(sizes, default=0) <= MANY_NAMES else min(limit, SHARED_STATES)


_FIELDS = tuple(Subscription.__dataclass_fields__)
_STATES: "WeakValueDictionary[tuple[object, ...], Subscription]" = WeakValueDictionary()


def unified(state: Subscription) -> Subscription:
    """Return the one object that stands for all states equal to this; a client that refused something stays apart."""
    if state.rejection is not None or state.rejected:
        return state
    return _STATES.setdefault(tuple(None if name == "rejected" else getattr(state, name) for name in _FIELDS), state)


class Dialect(Protocol):
    """What SotW and delta do differently."""

    @property
    def NAME(self) -> str: ...  # noqa: N802  # a constant of a module

    def decode(self, raw: bytes) -> Message:
        """Return the request message of these bytes; raises protobuf's DecodeError."""

    def read(self, message: Message) -> Request:
        """Return what counts of a request message."""

    def repeated(self, state: Subscription, raw: bytes) -> Request | None:
        """Return the request of these bytes when it only accepts the last response and repeats the names, else None."""

    def first(self, request: Request, current: "Current") -> Subscription:
        """Return the state after a type's first request on a stream."""

    def receive(self, state: Subscription, request: Request) -> Subscription:
        """Return the state after the names of a later request."""

    def accepted(self, earlier: tuple[Sent, ...], request: Request) -> int:
        """Return how many of the responses before a refused one its client accepted."""

    def plan(self, state: Subscription, view: View, kept: frozenset[str]) -> Plan | None:
        """Return what to say to a client in this state, or None; names in `kept` stay as the client has them."""

    def encode(self, type_: ResourceType, plan: Plan, nonce: str, *, ttls: bool) -> bytes:
        """Return a response's bytes; with TTLs for a client that knows them."""


class Current(NamedTuple):
    """What a first request is compared with: the view served now, and what earlier SotW responses gave, by version."""

    view: View
    recent: Mapping[str, Held]


def subscribable(type_: ResourceType, names: frozenset[str]) -> frozenset[str]:
    """Return the names that count: few types have a wildcard (xDS protocol, "Resource names")."""
    return names if type_.wildcard else names - {WILDCARD}


def renamed(state: Subscription, names: frozenset[str]) -> Subscription:
    """Return the state with other names; what is no longer wanted is forgotten, so asking again sends again."""
    if WILDCARD in names:
        return replace(state, names=names, implicit=False, due=state.due or not state.wildcard)
    rejected = {name: version for name, version in state.rejected.items() if name in names}
    return replace(
        state,
        names=names,
        implicit=False,
        due=False,
        held=restricted(state.held, names),
        acked=restricted(state.acked, names),
        unknown=names if WILDCARD in state.unknown else state.unknown & names,
        again=state.again & names,
        beats=state.beats & names,
        rejected=rejected,
        rejection=None if state.rejected and not rejected else state.rejection,
    )


def sent(state: Subscription, plan: Plan, nonce: str) -> Subscription:
    """Return the state after a plan went out under `nonce`."""
    rejected = state.rejected
    if rejected:
        rejected = {name: version for name, version in rejected.items() if plan.held.version(name) == version}
    return replace(
        state,
        held=plan.held,
        again=state.again.difference(plan.names(), plan.removed, plan.absent),
        beats=NONE,
        due=False,
        rejected=rejected,
        nonce=nonce,
        unanswered=(*state.unanswered, Sent(nonce, plan))[-UNANSWERED_LIMIT:],
    )


def restricted(held: Held, names: frozenset[str]) -> Held:
    """Return what is held under these names only."""
    return held if held.resources.keys() <= names else _restricted(held, names)


@shared(SHARED_STATES)
def _restricted(held: Held, names: frozenset[str]) -> Held:
    return Held(MappingProxyType({name: each for name, each in held.resources.items() if name in names}))


@shared(SHARED_STATES)
def needs(held: Held, type_: ResourceType) -> frozenset[str]:
    """Return the names of `type_` that what is held refers to."""
    return frozenset(name for each in held.resources.values() if each is not None for name in each.names(type_))


class Pulse(NamedTuple):
    """What of the resources that a client holds ends by itself, and how often the client must hear of it."""

    names: frozenset[str]
    every_s: float


@shared(SHARED_STATES)
def pulse(held: Held, protocol: str) -> Pulse | None:
    """Return the pulse that keeps alive what is held; None when all of it lives until it is removed."""
    each_s = {
        name: each.ttl_s
        for name, each in held.resources.items()
        if each is not None and each.ttl_s is not None and protocol in each.type.expires_in
    }
    return Pulse(frozenset(each_s), min(each_s.values()) / BEATS) if each_s else None


@shared(SHARED_STATES)
def warming(plan: Plan, before: Held) -> frozenset[str]:
    """Return the load assignments of the clusters that a plan gives a client which had them not, or not so, before."""
    changed = (each for each in plan.held.resources.values() if each and before.version(each.name) != each.version)
    return frozenset(name for each in changed for name in each.names(ENDPOINTS))


@shared(SHARED_STATES)
def users_of(plan: Plan, type_: ResourceType) -> Mapping[str, frozenset[str]]:
    """Return by name of `type_` which resources of a plan refer to it."""
    users: dict[str, set[str]] = {}
    for resource in plan.resources:
        for name in resource.names(type_):
            users.setdefault(name, set()).add(resource.name)
    return MappingProxyType({name: frozenset(each) for name, each in users.items()})


@shared(SHARED_STATES)
def beyond(plan: Plan, type_: ResourceType, held: Held) -> frozenset[str]:
    """Return the names of `type_` that a plan needs and that are not held."""
    return frozenset(name for name in users_of(plan, type_) if held.version(name) is None)


@shared(SHARED_STATES)
def gone(view: View, held: Held) -> frozenset[str]:
    """Return the names that a client holds and that are not served any more."""
    return frozenset(name for name, each in held.resources.items() if each is not None and name not in view.resources)


@shared(SHARED_STATES)
def complete(view: View, names: frozenset[str]) -> Held:
    """Return what a client with these names holds that has all of them."""
    return Held(MappingProxyType({resource.name: resource for resource in of_view(view, names)}))


def of_view(view: View, names: frozenset[str]) -> tuple[Resource, ...]:
    """Return the resources of a view that a client with these names wants, sorted by name."""
    if WILDCARD in names:
        return tuple(view.resources.values())
    return tuple(view.resources[name] for name in sorted(names) if name in view.resources)
