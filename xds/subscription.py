"""What one client wants of one type, and what it was last given.

Values here are immutable and compared by identity where they are large: streams in equal states share them,
so the difference between what they hold and what is served is computed, and encoded, once for all of them.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache
from types import MappingProxyType
from typing import Any as Message
from typing import Protocol

from xds.resources import Resource, ResourceType
from xds.snapshot import View

WILDCARD = "*"
SHARED_STATES = 128  # distinct (wanted, held, served) states whose differences are kept; beyond, they are computed again
NACK_TEXT_LIMIT = 4096  # of a NACK's text the tail is kept: Envoy puts the reason behind the whole resource


@dataclass(frozen=True, slots=True, eq=False)
class Held:
    """What a client was given: version by name; None for a name it was told does not exist."""

    versions: Mapping[str, str | None]


NOTHING = Held(MappingProxyType({}))


@dataclass(frozen=True, slots=True, eq=False)
class Plan:
    """One response still without its nonce: what to send, and what the client holds after it."""

    view: View
    resources: tuple[Resource, ...]
    removed: tuple[str, ...]
    held: Held

    def names(self, type_: ResourceType) -> frozenset[str]:
        """Return the names of `type_` that these resources need."""
        return frozenset(name for resource in self.resources for name in resource.names(type_))


@dataclass(frozen=True, slots=True)
class Sent:
    """A response that the client has not answered yet; `at_s` is when it was sent."""

    nonce: str
    plan: Plan
    at_s: float


@dataclass(frozen=True, slots=True)
class Rejection:
    """A NACK: what the client said (`code` of gRPC, the tail of its text), and when."""

    code: int
    text: str
    at_s: float
    view_version: str


@dataclass(frozen=True, slots=True)
class Lag:
    """Why a client does not have a version of a resource yet; `refused`: it sent a NACK."""

    why: str
    refused: bool = False


@dataclass(frozen=True, slots=True)
class Subscription:
    """One client's state for one type on one stream; it ends with the stream.

    `names` may hold WILDCARD; `implicit` says that it came from an empty first request. `held` is what was sent,
    `acked` what was accepted; `rejected` holds versions by name that were NACKed and are still what is held.
    `again` names what to resend though it did not change. `view` is what was last sent from, None before.
    """

    type: ResourceType
    names: frozenset[str]
    implicit: bool = False
    held: Held = NOTHING
    acked: Held = NOTHING
    rejected: Mapping[str, str | None] = field(default_factory=lambda: NOTHING.versions)
    rejection: Rejection | None = None
    again: frozenset[str] = frozenset()
    view: View | None = None
    nonce: str = ""
    acked_version: str = ""
    unanswered: tuple[Sent, ...] = ()

    @property
    def wildcard(self) -> bool:
        return WILDCARD in self.names

    def wants(self, name: str) -> bool:
        return WILDCARD in self.names or name in self.names

    def has(self, name: str, version: str | None) -> bool:
        """Say whether the client accepted this version of `name` (None: that it is gone), or has no wish for it."""
        if not self.wants(name):
            return True
        if version is None:
            return self.acked.versions.get(name) is None
        return self.acked.versions.get(name) == version and self.rejected.get(name) != version

    def exists(self, name: str, *, sent_before_s: float) -> bool:
        """Say whether `name` works at the client in some version: accepted, or sent so long ago that we stop waiting."""
        accepted = self.acked.versions.get(name)
        if accepted is not None and self.rejected.get(name) != accepted:
            return True
        return any(
            sent.at_s <= sent_before_s and sent.plan.held.versions.get(name) is not None for sent in self.unanswered
        )


class Dialect(Protocol):
    """What SotW and delta do differently."""

    def receive(self, state: Subscription | None, request: Message, current: "Current") -> Subscription | None:
        """Return the state after a request's subscription and version fields; None: ignore the request."""

    def plan(self, state: Subscription, view: View, *, may_remove: bool) -> Plan | None:
        """Return what to say to a client in this state, or None."""

    def encode(self, plan: Plan, nonce: str) -> bytes:
        """Return the response's bytes."""

    def decode(self, raw: bytes) -> Message:
        """Return the request message of these bytes; raises protobuf's DecodeError."""


@dataclass(frozen=True, slots=True)
class Current:
    """What a first request is compared with: the type, the view served now and recent views by version."""

    type: ResourceType
    view: View
    recent: Mapping[str, View]


def renamed(state: Subscription, names: frozenset[str]) -> Subscription:
    """Return the state with other names; what is no longer wanted is forgotten, so asking again sends again."""
    if WILDCARD in names:
        return replace(state, names=names)
    return replace(
        state, names=names, implicit=False, held=restricted(state.held, names), acked=restricted(state.acked, names)
    )


def sent(state: Subscription, plan: Plan, nonce: str, now_s: float) -> Subscription:
    """Return the state after a plan went out under `nonce`."""
    rejected = state.rejected
    if rejected:
        rejected = {name: version for name, version in rejected.items() if plan.held.versions.get(name) == version}
    return replace(
        state,
        held=plan.held,
        again=state.again.difference((resource.name for resource in plan.resources), plan.removed),
        rejected=rejected,
        view=plan.view,
        nonce=nonce,
        unanswered=(*state.unanswered, Sent(nonce, plan, now_s)),
    )


def answered(state: Subscription, nonce: str, error: Message | None, now_s: float) -> Subscription:
    """Return the state after an ACK (`error` None) or NACK of the response `nonce`; an unknown nonce changes nothing.

    A paused Envoy answers only the newest of several responses, so an answer counts for the ones before it too.
    A NACK never takes back what is held: Envoy may have applied the good part of the response.
    """
    index = next((i for i, each in enumerate(state.unanswered) if each.nonce == nonce), None)
    if index is None:
        return state
    answer = state.unanswered[index]
    later = state.unanswered[index + 1 :]
    if error is None:
        accepted = {resource.name for resource in answer.plan.resources}
        rejected = {name: version for name, version in state.rejected.items() if name not in accepted}
        return replace(
            state,
            acked=answer.plan.held,
            acked_version=answer.plan.view.version,
            rejected=rejected,
            rejection=state.rejection if rejected else None,
            unanswered=later,
        )
    refused = {
        resource.name: resource.version
        for resource in answer.plan.resources
        if state.acked.versions.get(resource.name) != resource.version
    }
    text = error.message[-NACK_TEXT_LIMIT:]
    rejection = Rejection(error.code, text, now_s, answer.plan.view.version)
    return replace(state, rejected={**state.rejected, **refused}, rejection=rejection, unanswered=later)


@lru_cache(maxsize=SHARED_STATES)
def restricted(held: Held, names: frozenset[str]) -> Held:
    """Return what is held under these names only."""
    return Held(MappingProxyType({name: version for name, version in held.versions.items() if name in names}))


@lru_cache(maxsize=SHARED_STATES)
def everything(view: View) -> Held:
    """Return what a client holds that has all of a view."""
    return Held(MappingProxyType({resource.name: resource.version for resource in view.resources.values()}))


def of_view(view: View, names: frozenset[str]) -> tuple[Resource, ...]:
    """Return the resources of a view that a client with these names wants, sorted by name."""
    if WILDCARD in names:
        return tuple(view.resources.values())
    return tuple(view.resources[name] for name in sorted(names) if name in view.resources)
