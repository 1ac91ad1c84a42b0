"""The evidence that the candidate is worse: the stakes of all bets, through all stages of one rollout."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

from rollout.gate.betting import EFFECTS, Bet, Trial, log_sum_exp, restart_share, rollback_llr
from rollout.gate.sample import Past, Quantile, Stratum, Tally
from rollout.gate.settings import Gate


class Metric(StrEnum):
    """What a request may be bad in: an error, or slower than so many of stable's."""

    ERRORS = "errors"
    P75 = "p75"
    P95 = "p95"
    P99 = "p99"
    P999 = "p999"

    @property
    def quantile(self) -> Quantile | None:
        """None for errors."""
        return None if self is Metric.ERRORS else Quantile(self.value)


STAKES: Mapping[Metric, float] = {
    Metric.ERRORS: 0.5,
    Metric.P75: 0.125,
    Metric.P95: 0.125,
    Metric.P99: 0.125,
    Metric.P999: 0.125,
}
"""A weighted mean of evidence is evidence: this takes the place of Bonferroni, and needs no independence."""

GROSS_EFFECTS = EFFECTS[2:4]  # larger ones lose in looks with few requests
COLD_STAKE = 0.5

_SLOTS = tuple((metric, rho) for metric in Metric for rho in EFFECTS)
_PRIORS = tuple(math.log(STAKES[metric] / len(EFFECTS)) for metric, _ in _SLOTS)


@dataclass(frozen=True, slots=True)
class RollbackEvidence:
    """It goes on over the stages: alpha is spent once for the whole rollout and need not be split.

    A second process starts at each stage and every `gate.restart_s`, with a smaller stake each time (their shares sum
    to at most 1), so the weighted sum of all stays below 1 in expectation while the candidate is no worse, and P(it
    ever reaches 1/alpha) <= alpha.
    """

    sums: tuple[float, ...] = (0.0,) * len(_SLOTS)  # ln of what each bet has won since the rollout began
    offsets: tuple[float, ...] = (restart_share(0),) * len(_SLOTS)  # ln sum over processes: share / won at its start
    restarts: int = 1  # processes so far
    restarted_s: float | None = None  # when the last one began, None before the first look
    peak_ln_e: float = 0.0  # the highest ln_e so far, but at least 0
    cold: tuple[float, ...] = (0.0,) * len(GROSS_EFFECTS)  # as sums, of bets on gross errors while it was cold

    def restarted(self, at_s: float) -> RollbackEvidence:
        """One more process, which knows nothing of the past."""
        share = restart_share(self.restarts)
        offsets = tuple(log_sum_exp((offset, share - won)) for offset, won in zip(self.offsets, self.sums, strict=True))
        return replace(self, offsets=offsets, restarts=self.restarts + 1, restarted_s=at_s)

    @property
    def ln_e(self) -> float:
        """ln of the evidence that the candidate is worse.

        Half of the stake was kept back while the candidate was cold: bets on gross errors lose where there are none.
        """
        won = math.log(COLD_STAKE / len(self.cold)) + log_sum_exp(self.cold)
        cold = log_sum_exp((won, math.log(1 - COLD_STAKE)))
        return log_sum_exp(map(sum, zip(_PRIORS, self.offsets, self.sums, strict=True))) + cold

    @property
    def p_value(self) -> float:
        """The probability that a candidate as good as stable would ever have shown so much."""
        return math.exp(-self.peak_ln_e)

    def strongest(self) -> Metric:
        """The metric that adds most to the evidence."""
        share = dict.fromkeys(Metric, -math.inf)
        for (metric, _), *parts in zip(_SLOTS, _PRIORS, self.offsets, self.sums, strict=True):
            share[metric] = log_sum_exp((share[metric], sum(parts)))
        return max(share, key=share.__getitem__)

    def after(self, gate: Gate, settled: Sequence[Stratum], past: Past, at_s: float) -> RollbackEvidence:
        """All bets placed on what a look settled."""
        phis = {metric: past.phi if metric is Metric.ERRORS else past.slow_phi for metric in Metric}
        trials = {metric: _trials(metric, settled) for metric in Metric}
        won = (_won(trials[metric], Bet(rho, gate.tolerance, 0.0, phis[metric]), gate) for metric, rho in _SLOTS)
        sums = tuple(before + more for before, more in zip(self.sums, won, strict=True))
        return _looked(self, replace(self, sums=sums), gate, at_s)

    def after_cold(self, gate: Gate, settled: Sequence[Stratum], phi: float, at_s: float) -> RollbackEvidence:
        """The same while the candidate's backends are cold: errors far above stable's only, and no latency."""
        trials = _trials(Metric.ERRORS, settled)
        bets = (Bet(rho, gate.tolerance, gate.warmup_errors, phi) for rho in GROSS_EFFECTS)
        cold = tuple(before + _won(trials, bet, gate) for before, bet in zip(self.cold, bets, strict=True))
        return _looked(self, replace(self, cold=cold), gate, at_s)


def _looked(before: RollbackEvidence, known: RollbackEvidence, gate: Gate, at_s: float) -> RollbackEvidence:
    """Start another process when it is time, and keep the peak."""
    if known.restarted_s is None:
        known = replace(known, restarted_s=at_s)
    elif at_s - known.restarted_s >= gate.restart_s:
        known = known.restarted(at_s)
    return replace(known, peak_ln_e=max(before.peak_ln_e, known.ln_e))


def _won(trials: Sequence[Trial], bet: Bet, gate: Gate) -> float:
    """Strata add up before the cap, for one burst may reach several of them."""
    return min(math.fsum(rollback_llr(trial, bet) for trial in trials), gate.cap_nats)


def _trials(metric: Metric, settled: Sequence[Stratum]) -> tuple[Trial, ...]:
    """The interval as this metric counts it, one trial for each stratum where it is known of both versions."""
    quantile = metric.quantile
    if quantile is None:
        return tuple(error_trial(stratum) for stratum in settled)
    known = (each for each in settled if quantile in each.stable.slow and quantile in each.candidate.slow)
    return tuple(_slow_trial(stratum.stable, stratum.candidate, quantile) for stratum in known)


def error_trial(stratum: Stratum) -> Trial:
    """Requests and errors of both; Envoy's counters move while they are read, so bad is at most all."""
    stable, candidate = stratum.stable, stratum.candidate
    return trial_of(stable.requests, stable.errors, candidate.requests, candidate.errors)


def trial_of(stable_requests: int, stable_bad: int, candidate_requests: int, candidate_bad: int) -> Trial:
    """A trial in which bad is at most all."""
    return Trial(
        stable_requests, min(stable_bad, stable_requests), candidate_requests, min(candidate_bad, candidate_requests)
    )


def _slow_trial(stable: Tally, candidate: Tally, quantile: Quantile) -> Trial:
    return trial_of(stable.timed, stable.slow[quantile], candidate.timed, candidate.slow[quantile])
