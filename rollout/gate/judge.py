"""The verdict of one look: rolled back on evidence that it is worse, promoted on evidence that it is not."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

from rollout.gate import attribution, words
from rollout.gate import checks as limits
from rollout.gate.attribution import blame
from rollout.gate.checks import Check
from rollout.gate.evidence import Evidence, total
from rollout.gate.guards import FULL_BP, answers_nothing, gets_no_traffic, some_hang
from rollout.gate.plan import Step
from rollout.gate.rollback import Metric
from rollout.gate.sample import Look
from rollout.gate.settings import Gate, WhenBlind
from rollout.gate.verdict import Blind, Fail, Inconclusive, Pass, Verdict


def judge(gate: Gate, checks: Sequence[Check], evidence: Evidence, look: Look, step: Step) -> tuple[Evidence, Verdict]:
    """What is known after this look, and what follows from it. Call it for each look at this step's weight.

    Fail: the evidence has reached 1/alpha in this rollout (and stays so: a record that was lost is judged again), a
    guard alarms, a critical check is broken, or the error budget is spent.
    Blind: an Envoy or a check could not be read, or none reports. What could be read still counts, and may fail it.
    Pass: it is shown that the candidate is not worse by the step's margin in errors, p95 and p99, without a doubt.
    Where the candidate takes all requests there is nothing to compare with: it holds while it has clearly more errors
    than stable had before, and fails only when that lasts.
    """
    after = _held(gate, _seeing(evidence.after(gate, checks, look, step), checks, look), look, step)
    notes = (*limits.notes(checks, after.watched, look.names[1]), *look.astray)
    return after, replace(_verdict(gate, checks, after, look, step), notes=notes)


def judge_aside(checks: Sequence[Check], evidence: Evidence, look: Look) -> tuple[Evidence, Verdict]:
    """What follows where the candidate serves nobody: copies of requests, or testers. Checks alone decide.

    What it answers there is no evidence for a stage in which it does serve.
    """
    watched = limits.watch(checks, evidence.watched, look.readings)
    unseen = limits.blind(checks, watched)
    blind_s = (look.at_s if evidence.blind_s is None else evidence.blind_s) if unseen else None
    after = replace(evidence, watched=watched, looked_s=look.at_s, stage_s=look.at_s, blind_s=blind_s)
    broken = limits.failed(checks, watched, look.names[1])
    doubt = next(limits.doubts(checks, watched, look.names[1]), None)
    verdict: Verdict
    if broken is not None:
        verdict = Fail(broken)
    elif unseen:
        verdict = Blind(words.listed(unseen))
    elif doubt is not None:
        verdict = Inconclusive(doubt)
    else:
        verdict = Pass("its checks hold" if checks else f"{look.names[1]} serves nobody here, and has no checks")
    return after, replace(verdict, notes=limits.notes(checks, watched, look.names[1]))


def _verdict(gate: Gate, checks: Sequence[Check], evidence: Evidence, look: Look, step: Step) -> Verdict:
    numbers = words.numbers(gate, evidence, step)
    in_errors = next(_faults_in_errors(gate, evidence, look), None)
    otherwise = next(_other_faults(gate, checks, evidence, look), None)
    if otherwise is not None:
        return Fail(in_errors or otherwise, numbers)
    if in_errors is not None:
        return _blaming(in_errors, numbers, gate, evidence)
    unseen = _unseen(checks, evidence, look)
    if unseen and not _ignored(gate, evidence, look):
        return Blind(words.listed(unseen), numbers)
    seen = tuple(check for check in checks if not limits.blind((check,), evidence.watched))
    doubt = next(_doubts(gate, seen, evidence, look, step), None)
    if doubt is not None:
        return Inconclusive(doubt, numbers)
    shown = words.comparison(evidence, look, step)
    return Pass(f"{shown}; left out: {words.listed(unseen)}" if unseen else shown, numbers)


def blind_for_s(evidence: Evidence) -> float:
    """For how long data has been missing, 0 while it is all there."""
    return 0.0 if evidence.blind_s is None else evidence.looked_s - evidence.blind_s


def _seeing(evidence: Evidence, checks: Sequence[Check], look: Look) -> Evidence:
    if not _unseen(checks, evidence, look):
        return replace(evidence, blind_s=None)
    return replace(evidence, blind_s=look.at_s if evidence.blind_s is None else evidence.blind_s)


def _unseen(checks: Sequence[Check], evidence: Evidence, look: Look) -> tuple[str, ...]:
    envoys = look.blind or (() if look.strata else ("no Envoy reports",))
    return (*envoys, *limits.blind(checks, evidence.watched))


def _ignored(gate: Gate, evidence: Evidence, look: Look) -> bool:
    """Whether who cannot be read is left out: somebody else must be left."""
    overdue = blind_for_s(evidence) >= gate.blind_timeout_s > 0
    return gate.when_blind is WhenBlind.IGNORE and overdue and bool(look.strata)


def _held(gate: Gate, evidence: Evidence, look: Look, step: Step) -> Evidence:
    if next(_holds(gate, evidence, look, step), None) is None:
        return replace(evidence, held_s=None)
    return replace(evidence, held_s=look.at_s if evidence.held_s is None else evidence.held_s)


def _faults_in_errors(gate: Gate, evidence: Evidence, look: Look) -> Iterator[str]:
    """Why the candidate fails by its errors, which one of its backends may explain."""
    if _lost(gate, evidence) and evidence.rollback.strongest() is Metric.ERRORS:
        yield words.loss(gate, evidence, look)
    if gate.error_budget is not None and evidence.excess >= gate.error_budget:
        cost = f"it has cost {evidence.excess:.0f} bad answers more than {look.names[0]} would have"
        yield f"{cost}, and the error budget is {gate.error_budget}"
    if _lasts(gate.hold_timeout_s, evidence.slo.since_s, look) and not _better(gate, evidence):
        yield f"{_above_slo(gate, evidence, look)} for {gate.hold_timeout_s:g} s"
    if _lasts(gate.alone_timeout_s, evidence.alone.since_s, look):
        yield f"{words.errors(evidence, look)}, for {gate.alone_timeout_s:g} s"


def _other_faults(gate: Gate, checks: Sequence[Check], evidence: Evidence, look: Look) -> Iterator[str]:
    """Why the candidate fails by something else."""
    if _lost(gate, evidence) and evidence.rollback.strongest() is not Metric.ERRORS:
        yield words.loss(gate, evidence, look)
    if evidence.hang.alarm(gate):
        yield words.hang(evidence, look)
    broken = limits.failed(checks, evidence.watched, look.names[1])
    if broken is not None:
        yield broken
    if gate.when_blind is WhenBlind.ROLLBACK and blind_for_s(evidence) >= gate.blind_timeout_s > 0:
        unseen = words.listed(_unseen(checks, evidence, look))
        yield f"data has been missing for {blind_for_s(evidence):.0f} s: {unseen}"


def _lost(gate: Gate, evidence: Evidence) -> bool:
    return evidence.rollback.peak_ln_e >= -math.log(gate.alpha)


def _lasts(limit_s: float | None, since_s: float | None, look: Look) -> bool:
    """Whether it goes on for so long, and in this look too: no data is no reason to fail."""
    if limit_s is None or since_s is None or not any(each.candidate.requests for each in look.strata):
        return False
    return look.at_s - since_s >= limit_s


def _better(gate: Gate, evidence: Evidence) -> bool:
    """Whether the candidate has fewer errors than stable: then it is the cure, and nothing holds it."""
    return evidence.promotion.better >= -math.log(gate.beta)


def _above_slo(gate: Gate, evidence: Evidence, look: Look) -> str:
    return f"{words.errors(evidence, look)}; more than {words.percent(gate.slo_errors or 0.0)} (slo_errors)"


def _holds(gate: Gate, evidence: Evidence, look: Look, step: Step) -> Iterator[str]:
    """What keeps the weight as it is, whatever the comparison says."""
    if evidence.slo.since_s is not None and not _better(gate, evidence):
        yield _above_slo(gate, evidence, look)
    if evidence.alone.since_s is not None:
        limit = words.percent(evidence.limit_alone(look.past, step))
        yield f"{words.errors(evidence, look)}; it goes on below {limit}"
    if step.weight_bp < FULL_BP and not evidence.candidate.requests:
        stable = replace(evidence.stable, requests=words.beside_it(evidence))
        if gets_no_traffic(stable, evidence.candidate, step.weight_bp / FULL_BP):
            yield f"{look.names[1]} gets no traffic, or answers nothing, beside {stable.requests:,} of {look.names[0]}"


def _doubts(gate: Gate, checks: Sequence[Check], evidence: Evidence, look: Look, step: Step) -> Iterator[str]:
    """Why the candidate does not pass yet, the most basic doubt first."""
    weights = {stratum.weight_bp for stratum in look.strata} - {0}
    if not weights:
        yield f"no Envoy sends {look.names[1]} any requests"
    yield from _holds(gate, evidence, look, step)
    if evidence.hang.suspicion(gate):
        yield f"it looks as if {look.names[1]} hung, evidence {words.odds(evidence.hang.level)}"
    hanging = some_hang(look.strata) if gate.hang_guard else None
    if hanging is not None:
        yield f"{look.names[1]} may hang: {hanging}"
    if weights == {FULL_BP}:
        if not evidence.candidate.requests:
            yield f"{look.names[1]} has not answered anything at 100 % yet"
        silent = answers_nothing(total(each.candidate for each in look.strata)) if gate.hang_guard else None
        if silent is not None:
            yield f"{look.names[1]} {silent}"
    else:
        yield from _doubts_compared(gate, evidence, look, step)
    yield from limits.doubts(checks, evidence.watched, look.names[1])


def _doubts_compared(gate: Gate, evidence: Evidence, look: Look, step: Step) -> Iterator[str]:
    """Where both versions run."""
    if evidence.first_s is None:
        yield words.silence(gate, evidence, look)
    elif evidence.is_cold(gate, look.at_s):
        yield f"{look.names[1]} is cold: it is judged from {gate.warmup_s:g} s after its first answer on"
    if evidence.ln_e >= math.log(gate.doubt) and not _outweighed(gate, evidence):
        yield words.suspicion(gate, evidence, look)
    # Retries hide errors from clients and from upstream_rq_5xx, but a version that needs them is no good one.
    stable, candidate = evidence.retries.shares
    if candidate > stable + gate.max_retry_increase:
        shares = f"{words.percent(candidate)} against {words.percent(stable)}"
        yield f"retry share lately {shares} (limit {words.points(gate.max_retry_increase)} more)"
    if any(won < -math.log(gate.beta) for won in evidence.promotion.by_metric().values()):
        yield words.progress(gate, evidence, step)


def _outweighed(gate: Gate, evidence: Evidence) -> bool:
    """Whether more speaks for the candidate: where stable has no errors, the evidence of a stray one never falls."""
    return min(evidence.promotion.by_metric().values()) >= evidence.ln_e - math.log(gate.beta)


def _blaming(worse: str, numbers: Mapping[str, float], gate: Gate, evidence: Evidence) -> Fail:
    """With the backend that explains the errors, when there is one and errors are what failed it."""
    tolerable = evidence.stable.error_share * gate.tolerance + gate.margin
    blamed = blame(evidence.hosts, tolerable)
    if blamed is None:
        return Fail(worse, numbers)
    return Fail(f"{worse}; {attribution.words(blamed)}", numbers, host=blamed.address)
