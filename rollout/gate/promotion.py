"""The evidence that the candidate is not worse by the margin, gate by gate; and the smallest margin shown so far."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from rollout.gate.betting import Stake, Trial, promote_bet, promote_llr
from rollout.gate.plan import Step
from rollout.gate.rollback import Metric, error_trial, trial_of
from rollout.gate.sample import LATE, USUAL_LATE, USUAL_SLOW, Look, Past, Stratum, Tally
from rollout.gate.settings import Gate

GATES = (Metric.ERRORS, Metric.P95, Metric.P99)
MARGINS = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1)
"""The margins that are tried beside the stage's own, to say how much worse the candidate is at most."""
RETRIES, RETRY_S, FORGET_S = 0.1, 10.0, 20.0
PRIOR_REQUESTS, PRIOR_BAD = 2000, 1
"""So many requests the past counts for beside what stable shows in this rollout."""


@dataclass(frozen=True, slots=True)
class Shares:
    """What stable has shown in this rollout before a look, and what is expected of it from that and the past.

    Stakes are set by it, so a wrong one costs time and no validity.
    """

    stable: Tally = field(default_factory=Tally)

    def after(self, settled: Sequence[Stratum]) -> Shares:
        """With what a look has settled."""
        stable = self.stable
        for stratum in settled:
            stable = stable.merge(stratum.stable)
        return Shares(stable)

    def errors(self, past: Past) -> float:
        """Stable's expected share of errors."""
        return _expected(past.errors, self.stable.errors, self.stable.requests)

    def of(self, metric: Metric, past: Past) -> tuple[float, float]:
        """Stable's expected share of bad requests, and that of a candidate which is just as good."""
        quantile = metric.quantile
        if quantile is None:
            return (self.errors(past),) * 2
        slow = past.slow.get(quantile, USUAL_SLOW[quantile])
        late = past.late.get(quantile, USUAL_LATE[quantile])
        timed = self.stable.timed
        return (
            _expected(slow, self.stable.slow.get(quantile, 0), timed),
            _expected(late, self.stable.late.get(quantile, 0), timed),
        )


def _expected(before: float, bad: int, requests: int) -> float:
    return min(1.0, (PRIOR_REQUESTS * before + PRIOR_BAD + bad) / (PRIOR_REQUESTS + requests))


@dataclass(frozen=True, slots=True)
class Attempt:
    """One test that all gates are within the margin, from some moment of the stage on.

    All of them must reach 1/beta: an intersection of claims, so beta is not split between them.
    """

    sums: tuple[float, ...] = (0.0,) * len(GATES)
    began_s: float = 0.0
    number: int = 0  # how many attempts of the stage came before
    shares: Shares = field(default_factory=Shares)  # what stable has shown that its stakes may rest on
    forgot_s: float = 0.0  # since when that is, for a later attempt
    untimed: bool = False  # requests have no latencies: errors are all that there is to show

    @property
    def price(self) -> float:
        """ln of what its evidence is divided by: the n-th new attempt has the part RETRIES / (n*(n+1)) of beta."""
        return math.log(self.number * (self.number + 1) / RETRIES) if self.number else 0.0

    @property
    def net(self) -> tuple[float, ...]:
        """ln of the evidence for each gate, comparable between attempts."""
        return tuple(won - self.price for won in (self.sums[:1] if self.untimed else self.sums))

    def after(self, settled: Sequence[Stratum], look: Look, margins: Mapping[Metric, float]) -> Attempt:
        """With one look; its stakes rest on what was before."""
        past = look.past
        sums = tuple(
            before + math.fsum(_won(metric, stratum, self.shares, past, margins[metric]) for stratum in settled)
            for metric, before in zip(GATES, self.sums, strict=True)
        )
        known = replace(self, sums=sums, shares=self.shares.after(settled), untimed=past.untimed)
        # A later one began because of an incident: when that is over, its stakes must not rest on it for ever.
        if not self.number or look.at_s - self.forgot_s < FORGET_S:
            return known
        return replace(known, shares=Shares(), forgot_s=look.at_s)


@dataclass(frozen=True, slots=True)
class PromoteEvidence:
    """ln of the evidence that the candidate is within the margin, of one stage.

    An incident that hits both versions costs the first attempt so much that it hardly recovers. Then another begins,
    which knows nothing of it; all new ones together have a tenth of beta, so P(a stage is left although some gate is
    worse by the margin) <= 1.1 * beta.
    """

    first: Attempt = field(default_factory=Attempt)
    again: Attempt | None = None  # the newest of the later attempts, None while there is none
    better: float = 0.0  # that the candidate has fewer errors than stable

    @classmethod
    def start(cls, shares: Shares, at_s: float) -> PromoteEvidence:
        """For a stage that begins; `shares` is what stable has shown in this rollout so far."""
        return cls(Attempt(began_s=at_s, shares=shares))

    @property
    def best(self) -> Attempt:
        """The attempt that is nearest to its end."""
        return self.first if self.again is None or min(self.first.net) >= min(self.again.net) else self.again

    def by_metric(self) -> Mapping[Metric, float]:
        """ln of the evidence for each gate, which must reach 1/beta in all."""
        return dict(zip(GATES, self.best.net, strict=False))

    @property
    def unknown(self) -> tuple[Metric, ...]:
        """The gates that no bet was placed on yet, though there was one on another."""
        placed = dict(zip(self.by_metric(), self.best.sums, strict=False))
        return tuple(metric for metric, won in placed.items() if won == 0 and any(self.best.sums))

    def after(self, gate: Gate, settled: Sequence[Stratum], look: Look, step: Step) -> PromoteEvidence:
        """With one look."""
        margins = {metric: _margin(metric, gate, look.past, step) for metric in GATES}
        p0 = self.first.shares.errors(look.past)
        better = sum(_won_by(error_trial(stratum), (p0, p0 / 2), 0.0, look.past.phi) for stratum in settled)
        known = PromoteEvidence(
            self.first.after(settled, look, margins),
            None if self.again is None else self.again.after(settled, look, margins),
            self.better + better,
        )
        newest = known.again or known.first
        fresh = Attempt((0.0,) * len(GATES), look.at_s, newest.number + 1, forgot_s=look.at_s, untimed=newest.untimed)
        if min(newest.net) > min(fresh.net) or look.at_s - newest.began_s < RETRY_S:
            return known
        return replace(known, again=fresh)


@dataclass(frozen=True, slots=True)
class ShownMargin:
    """The same for errors against several margins at once, over the whole rollout."""

    sums: tuple[float, ...] = (0.0,) * len(MARGINS)
    shown: tuple[bool, ...] = (False,) * len(MARGINS)  # whether the evidence has ever reached 1/beta

    def after(self, gate: Gate, settled: Sequence[Stratum], shares: Shares, past: Past) -> ShownMargin:
        """With one look; `shares` are from before it."""
        p0 = shares.errors(past)
        trials = [error_trial(stratum) for stratum in settled]
        sums = tuple(
            before + math.fsum(_won_by(trial, (p0, p0), margin, past.phi) for trial in trials)
            for margin, before in zip(MARGINS, self.sums, strict=True)
        )
        limit = -math.log(gate.beta)
        shown = tuple(known or won >= limit for known, won in zip(self.shown, sums, strict=True))
        return ShownMargin(sums, shown)

    @property
    def margin(self) -> float | None:
        """The upper bound of how much worse the candidate is, which holds with 1 - beta at all looks; None: none yet.

        It and all larger ones must have been shown: else it would be the best of many tries.
        """
        smallest = None
        for margin, shown in zip(reversed(MARGINS), reversed(self.shown), strict=True):
            if not shown:
                break
            smallest = margin
        return smallest


def _margin(metric: Metric, gate: Gate, past: Past, step: Step) -> float:
    quantile = metric.quantile
    return step.margin if quantile is None else step.margin_of(past.late.get(quantile, USUAL_LATE[quantile]), gate)


def _won(metric: Metric, stratum: Stratum, shares: Shares, past: Past, margin: float) -> float:
    """Nothing where the metric is not known of both versions: no data is no evidence."""
    trial = _trial(metric, stratum)
    return 0.0 if trial is None else _won_by(trial, shares.of(metric, past), margin, past.phi)


def _won_by(trial: Trial, expected: tuple[float, float], margin: float, phi: float) -> float:
    c = trial.candidate_requests / trial.stable_requests
    return promote_llr(trial, Stake(promote_bet(*expected, c, margin), margin, 1.0, phi))


def _trial(metric: Metric, stratum: Stratum) -> Trial | None:
    """The candidate's late requests against stable's slow ones: late is later, by the latency tolerance."""
    quantile = metric.quantile
    if quantile is None:
        return error_trial(stratum)
    assert quantile in LATE, quantile
    stable, candidate = stratum.stable, stratum.candidate
    slow, late = stable.slow.get(quantile), candidate.late.get(quantile)
    if slow is None or late is None or not stable.timed or not candidate.timed:
        return None
    return trial_of(stable.timed, slow, candidate.timed, late)
