"""A service's split by weights of its endpoints, for TCP proxies: their listeners and clusters stay as they are.

Each version's endpoints together have the version's weight of the sum, in each priority. Inside a version they keep
their proportions: by their own weights, and by those of localities where the cluster balances by these. Only endpoints
that take new connections count, so one that is let go leaves its part to the others of its version.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from math import gcd
from typing import Any as Message

from rollout.traffic.assignment import LOCALITY, Group, Place, address_of
from xds import proto

UNIT = 100_000
"""Of a basis point: 10,000 bp are 1e9 then, below Envoy's limit of 2^32 - 1 for a priority's sum of weights, and an
endpoint's weight is exact to 0.01 % of all connections with up to 100,000 of them."""
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
        weights = {
            spot: max(1, round(share * UNIT)) for spot, share in shares.items() if share and spot[0][3] == priority
        }
        unit = gcd(*weights.values())
        for (place, position), weight in weights.items():
            localities[place].lb_endpoints[position].load_balancing_weight.value = weight // unit
    for place, message in localities.items():
        total = sum(_weights(message, (position for at, position in shares if at == place and shares[at, position])))
        if total:
            message.load_balancing_weight.value = total


def _weights(message: Message, positions: Iterable[int]) -> Iterable[int]:
    return (message.lb_endpoints[position].load_balancing_weight.value for position in positions)
