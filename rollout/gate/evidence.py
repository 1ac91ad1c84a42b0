"""Everything that a rollout's looks have shown so far: the stakes of all bets, and the counts that were bet on."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any, Self

from rollout.gate.betting import EFFECTS, Bet, Trial, log_sum_exp, restart_share, rollback_llr
from rollout.gate.sample import Counts, Stratum
from rollout.gate.settings import Gate

FULL_WEIGHT_BP = 10_000
RESTART_EVERY_LOOKS = 60
"""A late regression must not first win back what a healthy hour has lost, so a new process starts now and then."""
RESOLUTION_MS = 1.5
"""Envoy counts latencies in whole milliseconds: a difference of one says nothing, one of two does."""


class Metric(StrEnum):
    """What a request may be bad in; the slow ones are slower than so many of stable's."""

    ERRORS = "errors"
    SLOW_P95 = "slow_p95"
    SLOW_P99 = "slow_p99"


STAKES: Mapping[Metric, float] = {Metric.ERRORS: 0.5, Metric.SLOW_P95: 0.25, Metric.SLOW_P99: 0.25}
"""A weighted mean of evidence is evidence: this takes the place of Bonferroni, and needs no independence."""

_SLOTS = tuple((metric, rho) for metric in Metric for rho in EFFECTS)
_PRIORS = tuple(math.log(STAKES[metric] / len(EFFECTS)) for metric, _ in _SLOTS)


@dataclass(frozen=True, slots=True)
class Evidence:
    """Carried from look to look, through all stages of one rollout; `start` it once and `renew` it at each new stage.

    The evidence to roll back goes on over the stages: alpha is spent once for the whole rollout and need not be split.
    A second process starts at each stage and every 60 looks, with a smaller stake each time (their shares sum to at
    most 1), so the weighted sum of all stays below 1 in expectation while the candidate is no worse, and P(it ever
    reaches 1/alpha) <= alpha.

    Counts are *settled* once both versions have finished requests in their stratum; until then they are carried.
    Bets and the checks of Pass see settled counts only: whether a count is carried, and so dropped when the stage
    ends, then depends on how many requests came and never on how they ended, which keeps the bound exact. The same
    goes for the latency edges: they come from stable's counts that were settled before the look.
    """

    sums: tuple[float, ...] = (0.0,) * len(_SLOTS)  # ln of what each bet has won since the rollout began
    offsets: tuple[float, ...] = (restart_share(0),) * len(_SLOTS)  # ln sum over processes: share / won at its start
    restarts: int = 1  # processes so far
    looks: int = 0  # since the last restart
    peak_ln_e: float = 0.0  # the highest ln_e so far, but at least 0
    candidate_requests: int = 0  # the candidate's settled requests in this rollout
    stable: Counts = field(default_factory=Counts)  # of this rollout, where the candidate ran beside it
    stage_stable: Counts = field(default_factory=Counts)  # of this stage, where the candidate ran beside it
    stage_candidate: Counts = field(default_factory=Counts)  # of this stage, where stable ran beside it
    stage_alone: Counts = field(default_factory=Counts)  # the candidate's in this stage where it takes all requests
    carried: tuple[Stratum, ...] = ()

    @classmethod
    def start(cls) -> Self:
        """That of a rollout which has seen nothing."""
        return cls()

    def renew(self) -> Evidence:
        """For the next stage: its counts begin at nothing, a new process starts, what was carried is not bet on."""
        stable = self.stable
        for stratum in self.carried:
            stable = stable.merge(stratum.stable)
        return replace(
            self.restarted(),
            stable=stable,
            stage_stable=Counts(),
            stage_candidate=Counts(),
            stage_alone=Counts(),
            carried=(),
        )

    def restarted(self) -> Evidence:
        """One more process, which knows nothing of the past."""
        share = restart_share(self.restarts)
        offsets = tuple(log_sum_exp((offset, share - won)) for offset, won in zip(self.offsets, self.sums, strict=True))
        return replace(self, offsets=offsets, restarts=self.restarts + 1, looks=0)

    @property
    def ln_e(self) -> float:
        """ln of the evidence that the candidate is worse."""
        return log_sum_exp(map(sum, zip(_PRIORS, self.offsets, self.sums, strict=True)))

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

    def edge_ms(self, metric: Metric) -> float | None:
        """From where on a request counts as slow; None while stable has too few samples, and for errors."""
        match metric:
            case Metric.ERRORS:
                return None
            case Metric.SLOW_P95:
                q, samples = 0.95, 20
            case Metric.SLOW_P99:
                q, samples = 0.99, 100
        latency = self.stable.latency
        edge_ms = latency.edge(q) if latency.count >= samples else None
        return None if edge_ms is None else edge_ms + RESOLUTION_MS

    def after(self, gate: Gate, strata: Sequence[Stratum]) -> Evidence:
        """With one more look: the bets are placed on what it settles."""
        settled, carried = settle((*self.carried, *_between(strata)))
        known = self._betted(gate, settled)
        if known.looks >= RESTART_EVERY_LOOKS:
            known = known.restarted()
        stable, candidate = total(s.stable for s in settled), total(s.candidate for s in settled)
        alone = total(s.candidate for s in strata if s.weight_bp == FULL_WEIGHT_BP)
        return replace(
            known,
            candidate_requests=self.candidate_requests + candidate.requests,
            stable=self.stable.merge(stable),
            stage_stable=self.stage_stable.merge(stable),
            stage_candidate=self.stage_candidate.merge(candidate),
            stage_alone=self.stage_alone.merge(alone),
            carried=carried,
        )

    def to_json(self) -> dict[str, Any]:
        """Plain values for a JSON document; floats come back bit by bit."""
        return {
            "sums": list(self.sums),
            "offsets": list(self.offsets),
            "restarts": self.restarts,
            "looks": self.looks,
            "peak_ln_e": self.peak_ln_e,
            "candidate_requests": self.candidate_requests,
            "stable": self.stable.to_json(),
            "stage_stable": self.stage_stable.to_json(),
            "stage_candidate": self.stage_candidate.to_json(),
            "stage_alone": self.stage_alone.to_json(),
            "carried": [stratum.to_json() for stratum in self.carried],
        }

    @classmethod
    def from_json(cls, saved: Mapping[str, Any]) -> Self:
        """The evidence that `to_json` wrote."""
        return cls(
            sums=tuple(saved["sums"]),
            offsets=tuple(saved["offsets"]),
            restarts=saved["restarts"],
            looks=saved["looks"],
            peak_ln_e=saved["peak_ln_e"],
            candidate_requests=saved["candidate_requests"],
            stable=Counts.from_json(saved["stable"]),
            stage_stable=Counts.from_json(saved["stage_stable"]),
            stage_candidate=Counts.from_json(saved["stage_candidate"]),
            stage_alone=Counts.from_json(saved["stage_alone"]),
            carried=tuple(map(Stratum.from_json, saved["carried"])),
        )

    def _betted(self, gate: Gate, settled: Sequence[Stratum]) -> Evidence:
        """All bets placed; strata add up before the cap, for one burst may reach several of them."""
        warm = self.candidate_requests >= gate.warmup_requests
        trials = {metric: self._trials(metric, settled, warm=warm) for metric in Metric}
        sums = []
        for (metric, rho), before in zip(_SLOTS, self.sums, strict=True):
            bet = Bet(rho, gate.error_ratio_tolerance)
            won = math.fsum(rollback_llr(trial, bet) for trial in trials[metric])
            sums.append(before + min(won, gate.cap_nats))
        known = replace(self, sums=tuple(sums), looks=self.looks + 1)
        return replace(known, peak_ln_e=max(self.peak_ln_e, known.ln_e))

    def _trials(self, metric: Metric, settled: Sequence[Stratum], *, warm: bool) -> tuple[Trial, ...]:
        """The interval as this metric counts it, one trial for each stratum."""
        if metric is Metric.ERRORS:
            return tuple(_trial(s, s.stable.requests, s.candidate.requests, None) for s in settled)
        edge_ms = self.edge_ms(metric) if warm else None
        if edge_ms is None:
            return ()
        return tuple(_trial(s, s.stable.timed, s.candidate.timed, edge_ms) for s in settled)


def settle(strata: Sequence[Stratum]) -> tuple[tuple[Stratum, ...], tuple[Stratum, ...]]:
    """Added up by weight: the strata in which both versions have finished requests, and those to carry on."""
    by_weight: dict[int, Stratum] = {}
    for stratum in strata:
        known = by_weight.get(stratum.weight_bp)
        by_weight[stratum.weight_bp] = stratum if known is None else known.merge(stratum)
    ordered = [by_weight[weight_bp] for weight_bp in sorted(by_weight)]
    return tuple(filter(_is_settled, ordered)), tuple(s for s in ordered if not _is_settled(s))


def total(counts: Iterable[Counts]) -> Counts:
    """The sum of any number of counts."""
    sum_so_far = Counts()
    for one in counts:
        sum_so_far = sum_so_far.merge(one)
    return sum_so_far


def _between(strata: Sequence[Stratum]) -> tuple[Stratum, ...]:
    """Those whose Envoys send both versions requests."""
    return tuple(stratum for stratum in strata if 0 < stratum.weight_bp < FULL_WEIGHT_BP)


def _is_settled(stratum: Stratum) -> bool:
    return stratum.stable.requests > 0 and stratum.candidate.requests > 0


def _trial(stratum: Stratum, stable: int, candidate: int, edge_ms: float | None) -> Trial:
    """Errors, or requests slower than the edge; Envoy's counters move while they are read, so bad is at most all."""
    if edge_ms is None:
        bad = stratum.stable.errors, stratum.candidate.errors
    else:
        bad = stratum.stable.slow(edge_ms), stratum.candidate.slow(edge_ms)
    return Trial(stable, min(bad[0], stable), candidate, min(bad[1], candidate))
