"""A service's split by weights of its endpoints, for TCP proxies: their listeners and clusters stay as they are.

Each version's endpoints together have the version's weight of the sum, in each priority. Inside a version they keep
their proportions: by their own weights, and by those of localities where the cluster balances by these. Only endpoints
that take new connections count, so one that is let go leaves its part to the others of its version.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from math import gcd, lcm
from typing import Any as Message

from rollout.traffic.assignment import LOCALITY, Group, Place, address_of
from xds import proto

EXACT_LIMIT = 2**31
SCALE = 10**9
"""Weights are exact where their sum, in lowest terms, is below the one, and else rounded to parts of the other. Both
leave room below Envoy's limit for the sum of a priority's weights, 2^32 - 1."""
SERVING = frozenset({0, 1, 5})  # UNKNOWN, HEALTHY, DEGRADED of envoy.config.core.v3.HealthStatus


@dataclass(frozen=True, slots=True)
class Part:
    """One version's endpoints as they are served, and its weight in basis points."""

    groups: tuple[Group, ...]
    weight_bp: int


def shared(parts: Sequence[Part], *, locality_weighted: bool) -> tuple[Group, ...]:
    """Join the endpoints of versions, with weights by which each version gets its share.

    `locality_weighted`: the cluster chooses a locality by its weight, before it chooses an endpoint. An address that
    several versions have stands once, with the sum of its weights.
    """
    localities: dict[Place, Message] = {}
    weights: dict[tuple[Place, int], Fraction] = {}
    known: dict[str, tuple[Place, int]] = {}
    for part in parts:
        messages = [(group.place, _message(group)) for group in part.groups]
        own = _fractions(messages, locality_weighted=locality_weighted)
        for number, (place, message) in enumerate(messages):
            into = localities.setdefault(place, _empty(message))
            for position, endpoint in enumerate(message.lb_endpoints):
                share = own.get((number, position), Fraction(0)) * part.weight_bp
                spot = known.get(address_of(endpoint))
                if spot is None:
                    into.lb_endpoints.append(endpoint)
                    spot = place, len(into.lb_endpoints) - 1
                    known.update({address_of(endpoint): spot} if address_of(endpoint) else {})
                weights[spot] = weights.get(spot, Fraction(0)) + share
    _put(localities, weights)
    return tuple(_group(place, message) for place, message in localities.items())


def _message(group: Group) -> Message:
    return proto.message_class(LOCALITY).FromString(b"".join((group.before, *group.endpoints, group.after)))


def _empty(message: Message) -> Message:
    empty = proto.message_class(LOCALITY)()
    empty.CopyFrom(message)
    empty.ClearField("lb_endpoints")
    return empty


def _group(place: Place, message: Message) -> Group:
    return Group(place, proto.canonical(message), b"", (), {}, counted=False)


def _fractions(
    localities: Sequence[tuple[Place, Message]], *, locality_weighted: bool
) -> Mapping[tuple[int, int], Fraction]:
    """Return by position what part of a version's connections each serving endpoint gets, of those in its priority."""
    serving = {
        (number, position): endpoint.load_balancing_weight.value or 1
        for number, (_, message) in enumerate(localities)
        for position, endpoint in enumerate(message.lb_endpoints)
        if endpoint.health_status in SERVING
    }
    here = {number: sum(weight for (at, _), weight in serving.items() if at == number) for number, _ in serving}
    priorities = {number: localities[number][0][3] for number in here}
    given = {number: localities[number][1].load_balancing_weight.value for number in here}
    by_locality = locality_weighted and any(given.values())
    of_locality = given if by_locality else here
    totals = {
        priority: sum(of_locality[number] for number in here if priorities[number] == priority)
        for priority in set(priorities.values())
    }
    return {
        (number, position): Fraction(of_locality[number] * weight, totals[priorities[number]] * here[number])
        for (number, position), weight in serving.items()
        if totals[priorities[number]]
    }


def _put(localities: Mapping[Place, Message], shares: Mapping[tuple[Place, int], Fraction]) -> None:
    """Write weights into the endpoints that have a share, in each priority in their lowest terms."""
    for priority in {place[3] for place in localities}:
        weights = _whole({spot: share for spot, share in shares.items() if share and spot[0][3] == priority})
        for (place, position), weight in weights.items():
            localities[place].lb_endpoints[position].load_balancing_weight.value = weight
    for place, message in localities.items():
        total = sum(_weights(message, (position for at, position in shares if at == place and shares[at, position])))
        if total:
            message.load_balancing_weight.value = total


def _whole(shares: Mapping[tuple[Place, int], Fraction]) -> Mapping[tuple[Place, int], int]:
    """Return whole numbers in these proportions."""
    total, unit = sum(shares.values()), lcm(*(share.denominator for share in shares.values()))
    weights = {spot: int(share * unit) for spot, share in shares.items()}
    common = gcd(*weights.values())
    if sum(weights.values()) <= EXACT_LIMIT * common:
        return {spot: weight // common for spot, weight in weights.items()}
    return {spot: max(1, round(share * SCALE / total)) for spot, share in shares.items()}


def _weights(message: Message, positions: Iterable[int]) -> Iterable[int]:
    return (message.lb_endpoints[position].load_balancing_weight.value for position in positions)
