"""The verdict of one look: bets for rolling back, plain comparisons for going on."""

import math
from collections.abc import Iterator, Mapping

from rollout.gate.evidence import FULL_WEIGHT_BP, RESOLUTION_MS, Evidence
from rollout.gate.sample import Counts, Look
from rollout.gate.settings import Gate
from rollout.gate.verdict import Blind, Fail, Inconclusive, Pass, Verdict

SUSPICION = math.log(5.0)
"""From this evidence on nothing passes, though it is not enough to fail."""
EXCESS_ERRORS = 10
EXCESS_FACTOR = 5.0


def judge(gate: Gate, evidence: Evidence, look: Look) -> tuple[Evidence, Verdict]:
    """What is known after this look, and what follows from it. Call it for each look at a converged weight.

    Fail: the evidence has reached 1/alpha in this rollout (and stays so: a record that was lost is judged again). Where
    the candidate takes all requests there is nothing to compare it with at the same time; it fails there only by a
    clear excess over the error share that stable had before, which is outside alpha.
    Blind: an Envoy could not be read, or none reports. What could be read still counts, and may fail the candidate.
    Pass: enough requests, no suspicion, and neither errors, retries nor latency clearly higher than stable's.
    """
    after = evidence.after(gate, look.strata)
    numbers = _numbers(gate, after)
    worse = _worse(gate, after)
    if worse is not None:
        return after, Fail(worse, numbers)
    blind = look.blind or (() if look.strata else ("no Envoy reports",))
    if blind:
        return after, Blind("; ".join(blind), numbers)
    doubt = next(_doubts(gate, after, look), None)
    if doubt is not None:
        return after, Inconclusive(doubt, numbers)
    return after, Pass(_comparison(after), numbers)


def _worse(gate: Gate, evidence: Evidence) -> str | None:
    """Why the candidate fails; None when it does not."""
    if evidence.peak_ln_e >= -math.log(gate.alpha):
        return f"{_loss(evidence)}, evidence {_odds(evidence.peak_ln_e)} (limit {_odds(-math.log(gate.alpha))})"
    alone, before = evidence.stage_alone, evidence.stable.error_share
    excess = EXCESS_FACTOR * gate.max_error_increase
    if alone.errors >= EXCESS_ERRORS and alone.error_share > before + excess:
        return (
            f"error share {_percent(alone.error_share)} after {alone.requests} requests, all of them the candidate's, "
            f"against {_percent(before)} of stable before (limit {_percent(excess)} more)"
        )
    return None


def _doubts(gate: Gate, evidence: Evidence, look: Look) -> Iterator[str]:
    """Why the candidate does not pass yet, the most basic doubt first."""
    weights = {stratum.weight_bp for stratum in look.strata} - {0}
    if not weights:
        yield "no Envoy sends the candidate any requests"
    elif weights == {FULL_WEIGHT_BP}:
        yield from _doubts_alone(gate, evidence)
    else:
        yield from _doubts_compared(gate, evidence)


def _doubts_alone(gate: Gate, evidence: Evidence) -> Iterator[str]:
    """Where no stable runs beside it: its errors against stable's of the stages before, or against none at all."""
    alone, before = evidence.stage_alone, evidence.stable.error_share
    if alone.requests < gate.min_requests:
        yield f"{alone.requests} of {gate.min_requests} requests of the candidate so far"
    if alone.error_share > before + gate.max_error_increase:
        yield _too_high("error share", alone.error_share, before, gate.max_error_increase)


def _doubts_compared(gate: Gate, evidence: Evidence) -> Iterator[str]:
    """Where both versions run."""
    stable, candidate = evidence.stage_stable, evidence.stage_candidate
    if candidate.requests < gate.min_requests:
        yield f"{candidate.requests} of {gate.min_requests} requests of the candidate beside stable so far"
    if evidence.ln_e >= SUSPICION:
        yield f"{_loss(evidence)}, evidence {_odds(evidence.ln_e)} (it passes below {_odds(SUSPICION)})"
    if candidate.error_share > stable.error_share + gate.max_error_increase:
        yield _too_high("error share", candidate.error_share, stable.error_share, gate.max_error_increase)
    # Retries hide errors from clients and from upstream_rq_5xx, but a version that needs them is no good one.
    if candidate.retry_share > stable.retry_share + gate.max_error_increase:
        yield _too_high("retry share", candidate.retry_share, stable.retry_share, gate.max_error_increase)
    yield from _doubts_latency(gate, evidence)


def _doubts_latency(gate: Gate, evidence: Evidence) -> Iterator[str]:
    """The p99, or with fewer samples the highest quantile that has at least one sample above it."""
    compared = _compared_quantiles(evidence)
    if compared is None:
        yield "no latency samples of both versions yet"
        return
    quantile, stable_ms, candidate_ms = compared
    if candidate_ms > gate.max_p99_ratio * stable_ms + RESOLUTION_MS:
        yield f"{quantile} {candidate_ms:.1f} ms against {stable_ms:.1f} ms (limit {gate.max_p99_ratio:g} times)"


def _compared_quantiles(evidence: Evidence) -> tuple[str, float, float] | None:
    """Name, stable's and the candidate's value in ms; None while one of them has no samples."""
    stable, candidate = evidence.stage_stable.latency, evidence.stage_candidate.latency
    fewest = min(stable.count, candidate.count)
    q = 0.99 if fewest >= 100 else 0.95 if fewest >= 20 else 0.5
    stable_ms, candidate_ms = stable.quantile(q), candidate.quantile(q)
    if stable_ms is None or candidate_ms is None:
        return None
    return f"p{100 * q:.0f}", stable_ms, candidate_ms


def _loss(evidence: Evidence) -> str:
    """What speaks most against the candidate, in the counts of this stage."""
    stable, candidate, metric = evidence.stage_stable, evidence.stage_candidate, evidence.strongest()
    edge_ms = evidence.edge_ms(metric)
    if edge_ms is None:
        shares, after = (candidate.error_share, stable.error_share), candidate.requests
        return f"error share {_percent(shares[0])} against {_percent(shares[1])} after {after} requests"
    slow, slow_stable = (_share(counts.slow(edge_ms), counts.timed) for counts in (candidate, stable))
    return (
        f"{_percent(slow)} slower than {edge_ms:g} ms against {_percent(slow_stable)} after {candidate.timed} requests"
    )


def _comparison(evidence: Evidence) -> str:
    """What a passed stage has shown."""
    if not evidence.stage_candidate.requests:
        shares, after = (evidence.stage_alone.error_share, evidence.stable.error_share), evidence.stage_alone.requests
        return f"error share {_percent(shares[0])} against {_percent(shares[1])} before, after {after} requests"
    stable, candidate = evidence.stage_stable, evidence.stage_candidate
    latency, compared = "", _compared_quantiles(evidence)
    if compared is not None:
        latency = f", {compared[0]} {compared[2]:.1f} ms against {compared[1]:.1f} ms"
    shares, after = (candidate.error_share, stable.error_share), candidate.requests
    return f"error share {_percent(shares[0])} against {_percent(shares[1])}{latency}, after {after} requests"


def _numbers(gate: Gate, evidence: Evidence) -> Mapping[str, float]:
    """The stage's figures; a quantile without samples is left out."""
    numbers = {"ln_e": evidence.ln_e, "ln_limit": -math.log(gate.alpha), "p_value": evidence.p_value}
    candidate = evidence.stage_candidate.merge(evidence.stage_alone)
    for version, counts in (("stable", evidence.stage_stable), ("candidate", candidate)):
        numbers |= {f"{version}_{name}": value for name, value in _figures(counts).items()}
    return numbers


def _figures(counts: Counts) -> Mapping[str, float]:
    quantiles = {"p50_ms": counts.latency.quantile(0.5), "p99_ms": counts.latency.quantile(0.99)}
    return {
        "requests": counts.requests,
        "errors": counts.errors,
        "error_share": counts.error_share,
        "retries": counts.retries,
        "timeouts": counts.timeouts,
        **{name: value for name, value in quantiles.items() if value is not None},
    }


def _too_high(what: str, candidate: float, stable: float, margin: float) -> str:
    return f"{what} {_percent(candidate)} against {_percent(stable)} (limit {_percent(margin)} more)"


def _share(part: int, whole: int) -> float:
    return part / whole if whole else 0.0


def _percent(share: float) -> str:
    return f"{100 * share:.3g} %"


def _odds(ln_e: float) -> str:
    """Evidence as a bet: 1:3,400 is as likely as one in 3,400 when nothing is wrong."""
    if ln_e >= math.log(1e7):
        return f"1:10^{ln_e / math.log(10):.0f}"
    return f"1:{math.exp(ln_e):,.0f}" if ln_e >= math.log(10) else f"1:{math.exp(ln_e):.2g}"
