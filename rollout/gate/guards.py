"""Guards beside the comparison: a candidate that swallows requests, and limits that hold whatever stable does."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from rollout.gate.betting import LIMIT_EFFECTS, hang_llr, limit_llr, log_sum_exp
from rollout.gate.sample import Past, Stratum, Tally
from rollout.gate.settings import Gate

FULL_BP = 10_000
GRACE_S, GRACE_P99S = 1.0, 3.0
FORGIVING_NATS = 3.0
WARY_NATS = 10.0
EXPECTED_REQUESTS = 10
HALF_LIFE_S = 10.0


@dataclass(frozen=True, slots=True)
class HangGuard:
    """CUSUM on finished requests against the ACKed weight: those that never end give no errors until a timeout.

    `level` is ln of the evidence that the candidate finishes a tenth of its share rather than half of it, since it
    last looked well. False alarms are at most `gate.hang_alarms` a look.
    """

    level: float = 0.0

    def after(self, strata: Sequence[Stratum]) -> HangGuard:
        """With one look that began when requests at the present weight could have ended."""
        more = sum(
            hang_llr(each.stable.requests, each.candidate.requests, _sent_share(each))
            for each in strata
            if _is_split(each)
        )
        return HangGuard(max(0.0, self.level) + more)

    def alarm(self, gate: Gate) -> bool:
        return gate.hang_guard and self.level >= -math.log(gate.hang_alarms)

    def suspicion(self, gate: Gate) -> bool:
        """Too much of it to promote."""
        return gate.hang_guard and self.level >= -math.log(gate.hang_alarms) / 2


def _sent_share(stratum: Stratum) -> float:
    """The candidate's share of the requests that began, at most its weight: who is not sent any does not hang."""
    weight, begun = stratum.weight_bp / FULL_BP, stratum.stable.started + stratum.candidate.started
    return min(weight, stratum.candidate.started / begun) if begun else weight


def grace_s(past: Past) -> float:
    """How long after a change of weight finished requests say nothing of it: they take as long as they take."""
    return GRACE_S + GRACE_P99S * past.p99_ms / 1000


def some_hang(strata: Sequence[Stratum]) -> str | None:
    """Why it looks as if a part of the candidate's requests hung; None when it does not.

    By its weight so many should be running as of stable's: some four standard deviations more are too many.
    """
    usual = sum(each.stable.active * each.weight_bp / (FULL_BP - each.weight_bp) for each in strata if _is_split(each))
    active = sum(each.candidate.active for each in strata if _is_split(each))
    limit = 2 * usual + 4 * math.sqrt(usual) + 3
    if active <= limit:
        return None
    return f"{active} of its requests are running, where {usual:.1f} would be usual (limit {limit:.0f})"


def answers_nothing(candidate: Tally) -> str | None:
    """Why it looks as if the candidate hung where it has all requests; None when it does not."""
    if candidate.requests or not candidate.active:
        return None
    return f"has answered nothing since the last look, and {candidate.active:,} of its requests are running"


def _is_split(stratum: Stratum) -> bool:
    """Its Envoys send requests to both as they should: of one that does not, what is missing says nothing."""
    return 0 < stratum.weight_bp < FULL_BP and not stratum.group


def gets_no_traffic(stable: Tally, candidate: Tally, weight: float) -> bool:
    """The candidate has finished nothing, where it should have had some requests by now."""
    return candidate.requests == 0 and weight * stable.requests > EXPECTED_REQUESTS


@dataclass(frozen=True, slots=True)
class Retries:
    """Requests and retries of both versions lately: what is older than HALF_LIFE_S counts half."""

    stable_requests: float = 0.0
    stable_retries: float = 0.0
    candidate_requests: float = 0.0
    candidate_retries: float = 0.0

    def after(self, stable: Tally, candidate: Tally, seconds: float) -> Retries:
        """With what both did in so many seconds."""
        kept = 0.5 ** (max(0.0, seconds) / HALF_LIFE_S)
        return Retries(
            kept * self.stable_requests + stable.requests,
            kept * self.stable_retries + stable.retries,
            kept * self.candidate_requests + candidate.requests,
            kept * self.candidate_retries + candidate.retries,
        )

    @property
    def shares(self) -> tuple[float, float]:
        """Retries by requests, of stable and of the candidate."""
        return (
            self.stable_retries / max(1.0, self.stable_requests),
            self.candidate_retries / max(1.0, self.candidate_requests),
        )


@dataclass(frozen=True, slots=True)
class Ceiling:
    """Evidence that the candidate's error share is above a limit, with nothing to compare it with.

    Errors that hit both versions count in full, so it holds a stage and fails nobody. It does not grow without end:
    when the errors are over, it comes down in seconds. Nor does it fall without end: what begins after hours is found
    as soon as at first, at the price that P(it is ever above although the limit is met) is at most alpha for the first
    time, and alpha / e^10 for each look after that. `since_s`: since when it has been above, None while it is not.
    """

    sums: tuple[float, ...] = (0.0,) * len(LIMIT_EFFECTS)
    since_s: float | None = None

    def after(self, candidate: Tally, limit: float, alpha: float, at_s: float) -> Ceiling:
        """With one look."""
        most = -math.log(alpha) + FORGIVING_NATS
        bad = min(candidate.errors, candidate.requests)
        sums = tuple(
            min(most, max(-WARY_NATS, before) + limit_llr(candidate.requests, bad, rho, limit))
            for rho, before in zip(LIMIT_EFFECTS, self.sums, strict=True)
        )
        following = replace(self, sums=sums)
        if not following.above(alpha):
            return replace(following, since_s=None)
        return replace(following, since_s=at_s if self.since_s is None else self.since_s)

    def above(self, alpha: float) -> bool:
        return log_sum_exp(self.sums) - math.log(len(self.sums)) >= -math.log(alpha)
