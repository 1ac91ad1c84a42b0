"""What the judge says: its numbers in one sentence, for the log, the journal and people."""

import math
from collections.abc import Mapping, Sequence

from rollout.gate.evidence import Evidence
from rollout.gate.plan import Step
from rollout.gate.sample import Look, Quantile, Tally
from rollout.gate.settings import Errors, Gate


def loss(gate: Gate, evidence: Evidence, look: Look) -> str:
    """What speaks most against the candidate, in the counts of this stage."""
    found = evidence.rollback.peak_ln_e
    return f"{_worst(evidence, look)}; evidence {odds(found)}, needed {odds(-math.log(gate.alpha))}"


def suspicion(gate: Gate, evidence: Evidence, look: Look) -> str:
    """What speaks against the candidate, though it is not enough to fail it."""
    return f"{_worst(evidence, look)}; evidence {odds(evidence.ln_e)}, to pass it must be below {gate.doubt:g}"


def _worst(evidence: Evidence, look: Look) -> str:
    quantile = evidence.rollback.strongest().quantile
    return errors(evidence, look) if quantile is None else _slowness(evidence, look, quantile)


def errors(evidence: Evidence, look: Look) -> str:
    """The errors of both versions in this stage."""
    stable, candidate = look.names
    mine = f"{plural(evidence.candidate.errors, 'error')} in {evidence.candidate.requests:,} requests of {candidate}"
    if not evidence.stable.requests:
        seen = evidence.shares.stable
        return f"{mine}, where {stable} had {percent(seen.error_share if seen.requests else look.past.errors)} before"
    return f"{mine} against {evidence.stable.errors:,} in {evidence.stable.requests:,} of {stable}"


def silence(gate: Gate, evidence: Evidence, look: Look) -> str:
    """That the candidate has not answered anything in the whole rollout."""
    stable, candidate = look.names
    beside = beside_it(evidence)
    if gate.errors is Errors.GRPC:
        uncounted = f"no answer of {candidate} with a grpc-status has been counted yet, beside {beside:,} of {stable}"
        return f"{uncounted}: Envoy's filter grpc_stats counts them"
    return f"{candidate} has answered nothing yet, beside {plural(beside, 'request')} of {stable}"


def hang(evidence: Evidence, look: Look) -> str:
    """That the candidate's requests do not end."""
    stable, candidate = look.names
    counts = f"{evidence.candidate.requests:,} of its requests ended beside {beside_it(evidence):,} of {stable}"
    return f"{candidate} hangs: {counts}, evidence {odds(evidence.hang.level)}"


def beside_it(evidence: Evidence) -> int:
    """Stable's requests of this stage, those too that the candidate has finished none beside."""
    return evidence.stable.requests + sum(each.stable.requests for each in evidence.carried)


def _slowness(evidence: Evidence, look: Look, quantile: Quantile) -> str:
    stable, candidate = look.names
    edge_ms = look.past.slow_ms.get(quantile)
    than = f"took longer than {edge_ms:.4g} ms" if edge_ms else f"were slower than the usual {quantile}"
    mine, theirs = evidence.candidate, evidence.stable
    return (
        f"{mine.slow.get(quantile, 0):,} of {mine.timed:,} requests of {candidate} {than}, "
        f"against {theirs.slow.get(quantile, 0):,} of {theirs.timed:,} of {stable}"
    )


def progress(gate: Gate, evidence: Evidence, step: Step) -> str:
    """How much of the evidence to pass there is, gate by gate."""
    start, needed = -evidence.promotion.best.price, -math.log(gate.beta)
    parts = (f"{metric} {_part(won, start, needed)}" for metric, won in evidence.promotion.by_metric().items())
    shown = f"not yet shown to be at most {points(step.margin)} worse: {', '.join(parts)} of the evidence needed"
    unknown = evidence.promotion.unknown
    return f"{shown}; of {', '.join(unknown)} nothing is known yet that could be compared" if unknown else shown


def _part(won: float, start: float, needed: float) -> str:
    return f"{int(100 * min(1.0, max(0.0, (won - start) / (needed - start))))} %"


def comparison(evidence: Evidence, look: Look, step: Step) -> str:
    """What a passed stage has shown."""
    if not evidence.stable.requests:
        return errors(evidence, look)
    shown = evidence.shown.margin
    most = step.margin if shown is None else min(shown, step.margin)
    too = "" if look.past.untimed else ", in p95 and p99 too"
    return f"{errors(evidence, look)}; {look.names[1]} is at most {points(most)} worse{too}"


def numbers(gate: Gate, evidence: Evidence, step: Step) -> Mapping[str, float]:
    """The stage's figures for programs; `shown_margin` is left out until something is shown, `held_s` unless it holds.

    To pass, each `ln_pass_*` goes from `ln_pass_start` (0, below it for a later attempt) to `ln_pass_limit`.
    """
    shown = evidence.shown.margin
    passing = {f"ln_pass_{metric}": won for metric, won in evidence.promotion.by_metric().items()}
    return {
        "ln_e": evidence.ln_e,
        "ln_limit": -math.log(gate.alpha),
        "p_value": evidence.rollback.p_value,
        **passing,
        "ln_pass_start": 0.0 - evidence.promotion.best.price,  # not -0.0
        "ln_pass_limit": -math.log(gate.beta),
        "margin": step.margin,
        **({} if shown is None else {"shown_margin": shown}),
        **({} if evidence.held_s is None else {"held_s": evidence.looked_s - evidence.held_s}),
        "ln_hang": max(0.0, evidence.hang.level),
        "excess_errors": evidence.excess,
        "rollout_candidate_requests": evidence.candidate_before.requests + evidence.candidate.requests,
        **_figures("stable", evidence.stable),
        **_figures("candidate", evidence.candidate),
    }


def _figures(version: str, tally: Tally) -> Mapping[str, float]:
    return {
        f"{version}_requests": tally.requests,
        f"{version}_errors": tally.errors,
        f"{version}_error_share": tally.error_share,
        f"{version}_retries": tally.retries,
        f"{version}_timeouts": tally.timeouts,
        **{f"{version}_slow_{quantile}": count for quantile, count in tally.slow.items()},
    }


def listed(reasons: Sequence[str]) -> str:
    return "; ".join(reasons)


def plural(count: int, noun: str) -> str:
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"


def percent(share: float) -> str:
    return f"{100 * share:.3g} %"


def points(share: float) -> str:
    """A difference of shares."""
    return f"{100 * share:.3g} percentage point{'' if round(100 * share, 9) == 1 else 's'}"


def odds(ln_e: float) -> str:
    """Evidence as a number: 100, 3.1e4 or 10^28; it is as likely as one in so many when nothing is wrong."""
    if ln_e >= math.log(1e15):
        return f"10^{ln_e / math.log(10):.0f}"
    if ln_e >= math.log(999.5):
        mantissa, _, exponent = f"{math.exp(ln_e):.1e}".partition("e")
        return f"{mantissa}e{int(exponent)}"
    return f"{math.exp(ln_e):.3g}" if ln_e > math.log(0.001) else "0"
