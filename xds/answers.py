"""What an ACK or a NACK tells: what its client has accepted, what it refused, and what nobody knows."""

from collections.abc import Iterable, Mapping
from dataclasses import replace
from types import MappingProxyType

from xds.redaction import redacted, without_values
from xds.resources import ResourceType
from xds.subscription import (
    NONE,
    SHARED_STATES,
    WILDCARD,
    Dialect,
    Fault,
    Held,
    Plan,
    Rejection,
    Request,
    Sent,
    Subscription,
    restricted,
    shared,
)

NACK_TEXT_LIMIT = 4096  # of a NACK's text the tail is kept: Envoy puts the reason behind the whole resource
PARTLY_APPLIED = "Error adding/updating "  # how Envoy's NACK begins when it took what is good of several resources


def answered(state: Subscription, request: Request, dialect: Dialect, now_s: float) -> Subscription:
    """Return the state after the ACK or NACK in a request; an unknown nonce changes nothing.

    A paused Envoy answers only the newest of several responses, so an answer counts for the ones before it too.
    A NACK never takes back what is held: Envoy may have applied the good part of the response.
    """
    index = next((i for i, each in enumerate(state.unanswered) if each.nonce == request.nonce), None)
    if index is None:
        return state
    answer, earlier = state.unanswered[index], state.unanswered[:index]
    state = replace(state, unanswered=state.unanswered[index + 1 :])
    if request.fault is None:
        return _accepted(state, answer.plan, {}, (*earlier, answer))
    count = dialect.accepted(earlier, request)
    if count:
        state = _accepted(state, earlier[count - 1].plan, {}, earlier[:count])
    return _rejected(state, request.fault, (*earlier[count:], answer), now_s)


@shared(SHARED_STATES)
def holds_secrets(plan: Plan, type_: ResourceType) -> bool:
    """Say whether any of a plan's resources has a key, a password or a token in it."""
    return any(redacted(type_.message, each.body) is not each.body for each in plan.resources)


def _rejected(state: Subscription, fault: Fault, told: tuple[Sent, ...], now_s: float) -> Subscription:
    plan = told[-1].plan
    suspects = {
        resource.name: resource.version
        for each in told
        for resource in each.plan.resources
        if state.acked.version(resource.name) != resource.version
    }
    blamed = {name: suspects[name] for name in _blamed(fault.text, suspects)}
    if blamed:
        state = _accepted(state, plan, blamed, told)
    else:
        # Of several routes or load assignments any may be in force; clusters and listeners are refused as a whole.
        unclear = frozenset(suspects) if len(suspects) > 1 and not state.type.full_state else frozenset()
        state = replace(state, rejected={**state.rejected, **suspects}, unknown=state.unknown | unclear)
    rejected = {name: version for name, version in state.rejected.items() if state.held.version(name) == version}
    # Envoy's words hold the whole resource.
    text = without_values(fault.text) if any(holds_secrets(each.plan, state.type) for each in told) else fault.text
    rejection = Rejection(fault.code, text[-NACK_TEXT_LIMIT:], now_s, plan.version)
    # A refused heartbeat means that the client let go of what it should keep.
    again = state.again.union(*(each.plan.beats for each in told))
    return replace(state, rejected=rejected, rejection=rejection, again=again)


def _blamed(text: str, names: Iterable[str]) -> frozenset[str]:
    """Return the names that a NACK of Envoy's blames, each followed by a colon; none when it took nothing."""
    if not text.startswith(PARTLY_APPLIED):
        return NONE
    words = {piece.rpartition(" ")[2] for piece in text.split(": ")[:-1]}  # once, for text and names are many
    return frozenset(name for name in names if name in words or (" " in name and f" {name}: " in text))


def _accepted(state: Subscription, plan: Plan, refused: Mapping[str, str], told: tuple[Sent, ...]) -> Subscription:
    """Return the state of a client that took a plan but for the versions by name that it refused."""
    names = {name for each in told for name in (*each.plan.names(), *each.plan.removed)}
    rejected = {**{name: version for name, version in state.rejected.items() if name not in names}, **refused}
    unknown = state.unknown - names
    if WILDCARD in unknown:  # only SotW clusters and listeners: a response said all
        unknown = frozenset(refused)
    held = plan.held if state.wildcard else restricted(plan.held, state.names)
    return replace(
        state,
        acked=_without(held, rejected, state.acked),
        acked_version=state.acked_version if refused else plan.version,
        unknown=unknown | state.unknown.intersection(refused),
        rejected=rejected,
        rejection=state.rejection if rejected else None,
    )


def _without(held: Held, rejected: Mapping[str, str], before: Held) -> Held:
    """Return what is held with every rejected version replaced by the accepted one before it, if there is one."""
    bad = {name: before.resources.get(name) for name, version in rejected.items() if held.version(name) == version}
    if not bad:
        return held
    kept = {name: bad.get(name, resource) for name, resource in held.resources.items()}
    return Held(MappingProxyType({name: each for name, each in kept.items() if each is not None or name not in bad}))
