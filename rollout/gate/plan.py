"""The stages as they will be: weights that give the candidate enough traffic to be judged, and each one's margin."""

from collections.abc import Sequence
from dataclasses import dataclass

from rollout.gate.betting import provable_margin
from rollout.gate.sample import Past
from rollout.gate.settings import Gate

FULL_BP = 10_000
HALF_BP = 5_000
TIGHTEST = 0.1  # a margin budget asks for no less than this part of the margin


@dataclass(frozen=True, slots=True)
class Step:
    """One stage as it will be: the `stage` of the strategy that it is, and its weight in basis points.

    `next_bp` is the weight behind it, None for the last. `margin` is how much worse, as a share of its own requests,
    the candidate must prove not to be: what the next step wagers is then less than `gate.margin` of all requests.
    """

    stage: int
    weight_bp: int
    next_bp: int | None
    margin: float

    def margin_of(self, late: float, gate: Gate) -> float:
        """The margin in latency, where stable itself has so large a share of late requests.

        As for errors, a part of that share: else a service with two kinds of requests, one of them always late, would
        have to show to half a percent what moves by chance.
        """
        return max(self.margin, min(1.0, gate.margin_ratio * late * FULL_BP / (self.next_bp or FULL_BP)))


def steps(weights_bp: Sequence[int], gate: Gate, past: Past) -> tuple[Step, ...]:
    """The steps of stages with these weights.

    At low traffic it is failures that must be bounded and not percents: a weight is raised until the candidate gets
    `gate.min_rps` (but not above 50 %), stages that are then equal are one, and the margin allows `gate.bad_rps`.
    A weight of 0 is a stage of another kind, and stays as it is.
    """
    raised = [_raised(weight_bp, gate, past) for weight_bp in weights_bp]
    kept = [index for index, weight in enumerate(raised) if not weight or weight not in raised[:index]]
    margin = overall_margin(gate, past)
    following = [next((raised[later] for later in kept if later > index and raised[later]), None) for index in kept]
    return tuple(
        Step(index, raised[index], next_bp, _margin(gate, past, margin, raised[index], next_bp))
        for index, next_bp in zip(kept, following, strict=True)
    )


def overall_margin(gate: Gate, past: Past) -> float:
    """How many more requests may go wrong, as a share of all requests of the service."""
    low_traffic = gate.bad_rps / past.rate_rps if past.rate_rps else 0.0
    return min(1.0, max(gate.margin, gate.margin_ratio * past.errors, low_traffic))


def _raised(weight_bp: int, gate: Gate, past: Past) -> int:
    if not past.rate_rps or weight_bp >= HALF_BP or not weight_bp:
        return weight_bp
    return max(weight_bp, round(min(HALF_BP, FULL_BP * gate.min_rps / past.rate_rps)))


def _margin(gate: Gate, past: Past, margin: float, weight_bp: int, next_bp: int | None) -> float:
    widest = min(1.0, margin * FULL_BP / (next_bp or FULL_BP))
    if not gate.margin_budget_s or not past.rate_rps or weight_bp in (0, FULL_BP):
        return widest
    weight = weight_bp / FULL_BP
    shown = provable_margin(
        past.errors, weight / (1 - weight), weight * past.rate_rps * gate.margin_budget_s, gate.beta
    )
    return min(widest, max(TIGHTEST * widest, shown))
