"""Everything that a rollout's looks have shown so far: small, and made of plain values that JSON can hold."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Self

from rollout.gate.attribution import add
from rollout.gate.checks import Check, Watched, watch
from rollout.gate.guards import FULL_BP, Ceiling, HangGuard, Retries, grace_s
from rollout.gate.plan import Step
from rollout.gate.promotion import PromoteEvidence, Shares, ShownMargin
from rollout.gate.rollback import RollbackEvidence
from rollout.gate.sample import Host, Look, Past, Stratum, Tally
from rollout.gate.settings import Gate

LIMIT_FACTOR = 2.0


@dataclass(frozen=True, slots=True)
class Evidence:
    """Carried from look to look, through all stages of one rollout; `start` it once and `renew` it at each new stage.

    Counts are *settled* once both versions have finished requests in their stratum; until then they are carried. Bets
    see settled counts only: whether a count is carried, and so dropped when the stage ends, then depends on how many
    requests came and never on how they ended, which keeps the bounds exact. The same goes for the stakes and for the
    latency edges: they come from what stable did before the look.
    """

    rollback: RollbackEvidence = field(default_factory=RollbackEvidence)
    promotion: PromoteEvidence = field(default_factory=PromoteEvidence)
    shown: ShownMargin = field(default_factory=ShownMargin)
    shares: Shares = field(default_factory=Shares)
    hang: HangGuard = field(default_factory=HangGuard)
    retries: Retries = field(default_factory=Retries)
    slo: Ceiling = field(default_factory=Ceiling)  # against gate.slo_errors
    alone: Ceiling = field(default_factory=Ceiling)  # where the candidate has all requests: against stable's before
    stable: Tally = field(default_factory=Tally)  # of this stage, settled
    candidate: Tally = field(default_factory=Tally)  # of this stage, settled, or without any stable beside it
    candidate_before: Tally = field(default_factory=Tally)  # of the stages before this one
    excess: float = 0.0  # bad requests of this rollout, beyond what stable would have had
    carried: tuple[Stratum, ...] = ()
    hosts: Mapping[str, Host] = field(default_factory=dict)  # the candidate's, of this rollout
    watched: Mapping[str, Watched] = field(default_factory=dict)  # checks, in this stage
    stage_s: float | None = None  # when the stage began, None before the first look
    looked_s: float = 0.0  # when the last look was
    first_s: float | None = None  # when the candidate first answered, None before
    blind_s: float | None = None  # since when data is missing, None while it is all there
    held_s: float | None = None  # since when something holds the stage whatever the comparison says, None otherwise

    @classmethod
    def start(cls) -> Self:
        """That of a rollout which has seen nothing."""
        return cls()

    def renew(self, at_s: float) -> Evidence:
        """For the next stage: what it must show begins at nothing, one more process starts beside the others."""
        again = self.promotion.again
        shares = self.shares if again is None else again.shares  # without the incident that it began with
        return replace(
            self,
            rollback=self.rollback.restarted(at_s),
            promotion=PromoteEvidence.start(shares, at_s),
            shares=shares,
            hang=HangGuard(),
            stable=Tally(),
            candidate=Tally(),
            candidate_before=self.candidate_before.merge(self.candidate),
            carried=(),
            watched={},
            stage_s=at_s,
        )

    def converging(self, at_s: float) -> Evidence:
        """While Envoys come to the stage's weight one by one: what ended was sent by the weights of before."""
        return replace(self, hang=HangGuard(), stage_s=at_s)

    def pardoned(self, at_s: float) -> Evidence:
        """For going on without the backend that all errors came from: what spoke against the candidate was its.

        It is a new test, so each such pardon adds alpha to the probability of failing a good candidate.
        """
        return replace(
            Evidence(shares=self.shares, candidate_before=self.candidate_before.merge(self.candidate)),
            promotion=PromoteEvidence.start(self.shares, at_s),
            stage_s=at_s,
            looked_s=self.looked_s,
            first_s=self.first_s,
        )

    @property
    def ln_e(self) -> float:
        """ln of the evidence that the candidate is worse."""
        return self.rollback.ln_e

    def is_cold(self, gate: Gate, at_s: float) -> bool:
        """Say whether the candidate's backends have only just begun to answer."""
        return gate.warmup_s > 0 and (self.first_s is None or at_s - self.first_s < gate.warmup_s)

    def after(self, gate: Gate, checks: Sequence[Check], look: Look, step: Step) -> Evidence:
        """With one more look: the bets are placed on what it settles."""
        cold = self.is_cold(gate, look.at_s)
        # What began cold is not carried into the time when the candidate is judged in full.
        carried = () if not cold and self.is_cold(gate, self.looked_s) else self.carried
        settled, carried = settle((*carried, *_between(look.strata)))
        alone = total(each.candidate for each in _alone(look.strata))
        answered = any(each.candidate.requests for each in look.strata)
        return replace(
            self._cold(gate, settled, look) if cold else self._warm(gate, settled, look, step),
            hang=self._hang(look),
            retries=self.retries.after(
                total(each.stable for each in settled),
                total(each.candidate for each in settled),
                look.at_s - self.looked_s,
            ),
            alone=self.alone.after(alone, self.limit_alone(look.past, step), gate.slo_alpha, look.at_s),
            stable=self.stable.merge(total(each.stable for each in settled)),
            candidate=self.candidate.merge(total(each.candidate for each in settled)).merge(alone),
            shares=self.shares.after(settled),
            excess=self.excess + _excess(settled) + alone.errors - alone.requests * self.shares.errors(look.past),
            carried=carried,
            hosts=add(self.hosts, look.hosts),
            watched=watch(checks, self.watched, look.readings),
            stage_s=look.at_s if self.stage_s is None else self.stage_s,
            looked_s=look.at_s,
            first_s=look.at_s if self.first_s is None and answered else self.first_s,
        )

    def _cold(self, gate: Gate, settled: Sequence[Stratum], look: Look) -> Evidence:
        return replace(self, rollback=self.rollback.after_cold(gate, settled, look.past.phi, look.at_s))

    def _warm(self, gate: Gate, settled: Sequence[Stratum], look: Look, step: Step) -> Evidence:
        return replace(
            self,
            rollback=self.rollback.after(gate, settled, look.past, look.at_s),
            promotion=self.promotion.after(gate, settled, look, step),
            shown=self.shown.after(gate, settled, self.shares, look.past),
            slo=self._slo(gate, (*settled, *_alone(look.strata)), look.at_s),
        )

    def _slo(self, gate: Gate, strata: Sequence[Stratum], at_s: float) -> Ceiling:
        if gate.slo_errors is None:
            return self.slo
        return self.slo.after(total(each.candidate for each in strata), gate.slo_errors, gate.slo_alpha, at_s)

    def _hang(self, look: Look) -> HangGuard:
        """A look counts when it began after the requests at this weight had time to end."""
        early = self.stage_s is None or self.looked_s - self.stage_s < grace_s(look.past)
        return self.hang if early else self.hang.after(look.strata)

    def limit_alone(self, past: Past, step: Step) -> float:
        """The error share up to which the candidate is as good as stable was, where there is none beside it."""
        before = self.shares.errors(past)
        return min(0.99, before + max((LIMIT_FACTOR - 1) * before, step.margin))


def settle(strata: Sequence[Stratum]) -> tuple[tuple[Stratum, ...], tuple[Stratum, ...]]:
    """Added up by group: the strata in which both versions have finished requests, and those to carry on."""
    by_group: dict[tuple[int, str], Stratum] = {}
    for stratum in strata:
        key = (stratum.weight_bp, stratum.group)
        known = by_group.get(key)
        by_group[key] = stratum if known is None else known.merge(stratum)
    ordered = [by_group[key] for key in sorted(by_group)]
    return tuple(filter(_is_settled, ordered)), tuple(each for each in ordered if not _is_settled(each))


def total(tallies: Iterable[Tally]) -> Tally:
    """The sum of any number of tallies."""
    sum_so_far = Tally()
    for one in tallies:
        sum_so_far = sum_so_far.merge(one)
    return sum_so_far


def _between(strata: Sequence[Stratum]) -> tuple[Stratum, ...]:
    """Those whose Envoys send both versions requests."""
    return tuple(stratum for stratum in strata if 0 < stratum.weight_bp < FULL_BP)


def _alone(strata: Sequence[Stratum]) -> tuple[Stratum, ...]:
    return tuple(stratum for stratum in strata if stratum.weight_bp == FULL_BP)


def _is_settled(stratum: Stratum) -> bool:
    return stratum.stable.requests > 0 and stratum.candidate.requests > 0


def _excess(settled: Sequence[Stratum]) -> float:
    return sum(each.candidate.errors - each.candidate.requests * each.stable.error_share for each in settled)
