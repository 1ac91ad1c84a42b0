"""The judge on looks: known traces, what fails a candidate, and what it must show to pass."""

import json
import math
import re
from dataclasses import replace
from random import Random
from statistics import fmean

import pytest

from rollout.forecast.chance import binomial
from rollout.gate import (
    Blind,
    Evidence,
    Fail,
    Gate,
    Host,
    Inconclusive,
    Look,
    Pass,
    Past,
    Step,
    Stratum,
    Tally,
    judge,
    verdict_to_json,
)
from rollout.gate.promotion import PromoteEvidence, Shares, ShownMargin
from rollout.record import dump_state, load_state
from rollout.state import Phase, State
from tests.rollout.judging import FIRST, HALF, P95, P99, TENTH, WARM, Bench, tally, usual

SIX_DIGITS = 5e-7
LN_20, LN_100 = math.log(20), math.log(100)


# --- known traces ---

STABLE = tally(990, 1, (247, 50, 10, 1), (18, 3))


def test_a_healthy_candidate_passes_at_the_seventh_look() -> None:
    bench = Bench(step=FIRST)
    verdicts = [bench.see(STABLE, tally(10, 0, (2,)))]
    assert bench.evidence.ln_e == pytest.approx(-1.244138, abs=SIX_DIGITS)
    assert bench.passing() == pytest.approx({"errors": 0.484550, "p95": 0.817593, "p99": 0.565734}, abs=SIX_DIGITS)
    verdicts += [bench.see(STABLE, tally(10, 0, (2,))) for _ in range(4)]
    assert bench.evidence.ln_e == pytest.approx(-1.629220, abs=SIX_DIGITS)
    assert bench.passing() == pytest.approx({"errors": 2.422751, "p95": 4.094631, "p99": 2.837983}, abs=SIX_DIGITS)
    verdicts += [bench.see(STABLE, tally(10, 0, (2,))) for _ in range(2)]
    assert [verdict.name for verdict in verdicts] == ["inconclusive"] * 6 + ["pass"]
    assert bench.evidence.renew(7.0).ln_e == pytest.approx(-1.065799, abs=SIX_DIGITS)


@pytest.mark.parametrize(
    ("stable", "candidate", "expected"),
    [
        (tally(990), tally(10, 1), [0.956856, 3.640529, 6.563346]),
        (tally(990, 1), tally(10, 10), [1.662293, 4.616181]),
    ],
    ids=["an error a look", "all requests fail"],
)
def test_a_worse_candidate_fails_at_the_known_look(stable: Tally, candidate: Tally, expected: list[float]) -> None:
    bench = Bench(step=FIRST)
    for ln_e in expected:
        verdict = bench.see(stable, candidate)
        assert bench.evidence.ln_e == pytest.approx(ln_e, abs=SIX_DIGITS)
        assert isinstance(verdict, Fail) == (ln_e >= LN_100)


def test_an_outage_of_both_versions_fails_nobody() -> None:
    bench = Bench()
    verdict = bench.repeat(10, tally(900, 450), tally(100, 50))
    assert bench.evidence.ln_e == pytest.approx(math.log(0.25), abs=1e-6)
    assert isinstance(verdict, Inconclusive)


# --- failing ---


def test_a_fail_says_why_in_one_sentence_with_its_numbers() -> None:
    bench = Bench()
    verdict = bench.repeat(3, usual(900, 1), usual(100, 31), names=("v1", "v2"))
    assert isinstance(verdict, Fail)
    assert verdict.reason.startswith("93 errors in 300 requests of v2 against 3 in 2,700 of v1; evidence ")
    assert verdict.reason.endswith(", needed 100")
    assert verdict.numbers["candidate_errors"] == 93
    assert verdict.numbers["p_value"] < 0.01
    assert verdict.numbers["ln_limit"] == pytest.approx(LN_100)
    json.dumps(dict(verdict.numbers), allow_nan=False)


def test_a_failed_candidate_does_not_recover() -> None:
    bench = Bench()
    bench.until(Fail, usual(900), usual(100, 50))
    bench.go_to(HALF)
    assert isinstance(bench.repeat(20, usual(9_000), usual(9_000)), Fail)


def test_one_burst_in_one_look_fails_nobody() -> None:
    bench = Bench(step=HALF)
    assert isinstance(bench.see(tally(100_000), tally(100_000, 50_000)), Inconclusive)
    assert bench.evidence.ln_e <= WARM.cap_nats


def test_strata_add_up_before_the_cap() -> None:
    """A burst that reaches many Envoys is one burst."""
    bench = Bench()
    bench.judge([Stratum(1_000, tally(900), tally(100, 50), f"envoy-{number}") for number in range(9)])
    assert bench.evidence.ln_e <= WARM.cap_nats


@pytest.mark.parametrize("slower", [(60, 30, 5), (27, 5, 20)], ids=["all", "the tail"])
def test_a_slower_candidate_fails_by_its_slow_requests(slower: tuple[int, ...]) -> None:
    bench = Bench(step=HALF, past=Past(slow_ms={P95: 45.0, P99: 64.0}))
    while not isinstance(verdict := bench.see(usual(100), tally(100, 0, slower)), Fail):
        assert bench.at_s < 20
    metric = r"(took longer than (45|64) ms|were slower than the usual p(75|999))"
    counts = r"\d+ of \d+ requests of the candidate {}, against \d+ of \d+ of stable; evidence .*, needed 100"
    assert re.fullmatch(counts.format(metric), verdict.reason)
    assert verdict.host == ""


def test_envoys_that_hang_on_an_old_weight_do_not_mislead() -> None:
    """Pooled, the candidate would have 0.92 % errors against stable's 0.1 %: Simpson's paradox."""
    noisy = Stratum(5_000, usual(1_000, 10), usual(1_000, 10))
    quiet = Stratum(100, usual(9_900, 1), usual(100))
    bench = Bench()
    assert not any(isinstance(bench.judge((noisy, quiet)), Fail) for _ in range(30))
    assert bench.evidence.ln_e < 0


def test_counts_are_carried_until_both_versions_have_requests() -> None:
    together, apart = Bench(), Bench()
    together.see(tally(99), tally(10, 2))
    verdict = apart.see(tally(40), Tally())
    assert isinstance(verdict, Inconclusive)
    assert apart.evidence.stable == Tally()
    apart.judge((Stratum(500, Tally(), tally(10, 2)),))
    assert apart.evidence.ln_e == pytest.approx(math.log(0.5), abs=1e-9)
    apart.see(tally(59), tally(10, 2))
    assert apart.evidence.rollback.sums == together.evidence.rollback.sums
    assert apart.evidence.candidate.requests == 10
    assert [stratum.weight_bp for stratum in apart.evidence.carried] == [500]


def test_what_was_carried_ends_with_the_stage_but_what_stable_has_shown_stays() -> None:
    bench = Bench()
    bench.see(tally(400, 4), tally(10))
    bench.see(tally(40, 4), Tally())
    bench.go_to(HALF)
    assert bench.evidence.carried == ()
    assert (bench.evidence.shares.stable.requests, bench.evidence.shares.stable.errors) == (400, 4)


def test_a_late_regression_is_found_by_the_restarts() -> None:
    """An hour of health must not have to be won back first."""
    bench = Bench(step=HALF)
    bench.repeat(600, usual(500, 5), usual(500, 5))
    assert bench.until(Fail, usual(500, 5), usual(500, 20)) <= 8
    without = Bench(replace(WARM, restart_s=86_400.0), HALF)
    without.repeat(600, usual(500, 5), usual(500, 5))
    assert without.until(Fail, usual(500, 5), usual(500, 20)) > 50


def test_clusters_of_errors_weigh_less_where_stable_has_them_too() -> None:
    single, clustered = Bench(), Bench(past=Past(phi=5.0))
    assert single.until(Fail, tally(900, 1), tally(100, 4)) < clustered.until(Fail, tally(900, 1), tally(100, 4))


def test_the_error_budget_ends_it_whatever_the_evidence_is() -> None:
    """1.2 times stable's errors are tolerated by the statistics, but they add up."""
    bench = Bench(replace(WARM, error_budget=100), HALF)
    while not isinstance(verdict := bench.see(usual(5_000, 50), usual(5_000, 60)), Fail):
        assert bench.at_s < 11
    assert bench.at_s == 10
    assert bench.evidence.ln_e < LN_100
    assert verdict.reason == "it has cost 100 bad answers more than stable would have, and the error budget is 100"
    assert verdict.numbers["excess_errors"] == pytest.approx(100)


def test_the_error_budget_goes_on_over_stages() -> None:
    bench = Bench(replace(WARM, error_budget=100), TENTH)
    bench.repeat(6, usual(5_000, 50), usual(5_000, 60))
    bench.go_to(HALF)
    assert bench.until(Fail, usual(5_000, 50), usual(5_000, 60)) == 4


# --- cold backends ---


def test_a_cold_start_with_five_times_the_errors_fails_nobody() -> None:
    chance = Random(7)
    for _ in range(20):
        bench = Bench(Gate())
        for second in range(60):
            share = 0.005 if second < 10 else 0.001
            verdict = bench.see(usual(900, binomial(chance, 900, 0.001)), usual(100, binomial(chance, 100, share)))
            assert not isinstance(verdict, Fail)
            if second < 10:
                assert verdict.reason == "the candidate is cold: it is judged from 10 s after its first answer on"


@pytest.mark.parametrize("failing", [100, 50, 30])
def test_gross_errors_fail_a_cold_candidate_within_three_looks(failing: int) -> None:
    assert Bench(Gate()).until(Fail, usual(900, 1), usual(100, failing)) <= 3


def test_a_cold_candidate_that_fails_three_times_in_ten_costs_few_bad_answers() -> None:
    chance, bad = Random(7), []
    for _ in range(50):
        bench, served, verdict = Bench(Gate()), 0, None
        while not isinstance(verdict, Fail):
            errors = binomial(chance, 10, 0.3)
            served += errors
            verdict = bench.see(usual(290, 0), usual(10, errors))
        bad.append(served)
    assert fmean(bad) < 13


def test_slowness_of_a_cold_candidate_is_not_judged_but_later_it_is() -> None:
    bench = Bench(Gate())
    slow = tally(100, 0, (100, 100, 100, 100), (100, 100))
    assert not isinstance(bench.repeat(10, usual(900), slow), Fail)
    assert isinstance(bench.repeat(4, usual(900), slow), Fail)


def test_the_warmup_counts_from_the_first_answer() -> None:
    bench = Bench(Gate())
    bench.repeat(30, usual(9), Tally())
    cold = bench.see(usual(900), usual(100))
    assert "is cold" in cold.reason
    bench.repeat(9, usual(900), usual(100))
    assert "is cold" not in bench.see(usual(900), usual(100)).reason


def test_what_began_cold_is_not_carried_into_the_time_after() -> None:
    bench = Bench(Gate())
    bench.see(usual(900), usual(100))
    bench.repeat(9, Tally(), tally(1, 1))
    assert bench.evidence.carried[0].candidate.errors == 9
    bench.see(usual(90), usual(10))
    assert bench.evidence.candidate.errors == 0


# --- passing ---


def test_a_pass_tells_what_was_shown() -> None:
    bench = Bench(step=HALF)
    while not isinstance(verdict := bench.see(usual(500), usual(500), names=("v1", "v2")), Pass):
        assert bench.at_s < 10
    shown = verdict.numbers["shown_margin"]
    requests = 500 * int(bench.at_s)
    assert verdict.reason == (
        f"0 errors in {requests:,} requests of v2 against 0 in {requests:,} of v1; "
        f"v2 is at most {100 * shown:.3g} percentage points worse, in p95 and p99 too"
    )


def test_a_new_stage_asks_for_new_evidence() -> None:
    bench = Bench(step=HALF)
    bench.until(Pass, usual(500), usual(500))
    bench.go_to(HALF)
    verdict = bench.see(usual(50), usual(50))
    assert isinstance(verdict, Inconclusive)
    assert verdict.reason.startswith("not yet shown to be at most 0.5 percentage points worse: errors ")


@pytest.mark.parametrize("missing", [P95, P99])
@pytest.mark.parametrize("side", ["stable", "candidate"])
def test_without_latencies_of_both_versions_nothing_passes(missing: str, side: str) -> None:
    known = usual(500)
    blind = replace(
        known,
        slow={quantile: count for quantile, count in known.slow.items() if quantile != missing},
        late={quantile: count for quantile, count in known.late.items() if quantile != missing},
    )
    stable, candidate = (blind, known) if side == "stable" else (known, blind)
    verdict = Bench(step=HALF).repeat(500, stable, candidate)
    assert isinstance(verdict, Inconclusive)
    assert f"{missing} 0 %" in verdict.reason


def test_where_stable_is_late_often_the_margin_in_latency_is_wider() -> None:
    """As in a service with two kinds of requests, one of which is always late."""
    mixed = tally(500, 0, (125, 100, 100, 0), (100, 100))
    known = Past(slow={P95: 0.2, P99: 0.2}, late={P95: 0.2, P99: 0.2})
    assert Bench(step=HALF, past=known).until(Pass, mixed, mixed) < 60
    assert HALF.margin_of(0.2, WARM) == 0.05
    assert HALF.margin_of(0.003, WARM) == HALF.margin
    assert FIRST.margin_of(0.9, WARM) == 1.0


def test_without_any_timed_request_nothing_passes() -> None:
    verdict = Bench(step=HALF).repeat(100, Tally(500), Tally(500))
    assert isinstance(verdict, Inconclusive)
    assert verdict.reason.endswith(
        "p95 0 %, p99 0 % of the evidence needed; of p95, p99 nothing is known yet that could be compared"
    )


def test_more_retries_than_stable_has_are_a_doubt() -> None:
    """They hide errors from clients and from the counters, but a version that needs them is no good one."""
    bench = Bench(step=HALF)
    retried = replace(usual(500), retries=150)
    verdict = bench.repeat(20, usual(500), retried)
    assert isinstance(verdict, Inconclusive)
    assert verdict.reason == "retry share lately 30 % against 0 % (limit 1 percentage point more)"
    assert isinstance(Bench(step=HALF).repeat(20, retried, retried), Pass)


def test_retries_that_are_over_are_forgotten() -> None:
    bench = Bench(step=HALF)
    bench.repeat(100, usual(500), replace(usual(500), retries=150))
    assert 40 < bench.until(Pass, usual(500), usual(500)) < 60


def test_a_suspicion_keeps_it_from_passing() -> None:
    bench = Bench(step=replace(FIRST, margin=0.5))
    bench.repeat(2, usual(990), usual(10, 1))
    assert math.log(5) <= bench.evidence.ln_e < LN_100
    verdict = bench.see(tally(0), tally(0))
    assert isinstance(verdict, Inconclusive)
    assert verdict.reason.endswith("to pass it must be below 5")


def test_a_stray_error_is_outweighed_by_good_requests_though_stable_has_no_errors() -> None:
    bench = Bench()
    bench.see(usual(270), usual(30, 1))
    bench.see(usual(270), usual(30, 1))
    assert bench.until(Pass, usual(270), usual(30), 300) < 120
    assert bench.evidence.ln_e > math.log(5)


def test_an_outage_that_both_share_costs_time_but_not_the_stage() -> None:
    """All fails for 20 s; a new attempt, which knows nothing of it, passes within the stage's 300 s."""
    bench = Bench(step=HALF)
    bench.repeat(2, usual(50), usual(50))
    for _ in range(20):
        assert isinstance(bench.see(usual(50, 50), usual(50, 50)), Inconclusive)
    verdict = bench.repeat(30, usual(50), usual(50))
    assert isinstance(verdict, Inconclusive)
    assert "errors 0 %" not in verdict.reason, "the new attempt shows how far it is"
    assert bench.until(Pass, usual(50), usual(50), 300) < 120


def test_new_attempts_cost_so_little_that_all_together_have_a_tenth() -> None:
    bench = Bench(step=HALF)
    prices: list[tuple[int, float]] = []
    for _ in range(200):
        bench.repeat(10, usual(50), usual(50, 25))
        attempt = bench.evidence.promotion.again
        if attempt is not None and (not prices or prices[-1][0] != attempt.number):
            prices.append((attempt.number, math.exp(-attempt.price)))
    assert [number for number, _ in prices] == list(range(1, len(prices) + 1))
    assert math.fsum(share for _, share in prices) == pytest.approx(0.1 * (1 - 1 / (len(prices) + 1)))


@pytest.mark.parametrize(("worse", "most"), [(1, 0.055), (2, 0.002)], ids=["at the margin", "at twice the margin"])
def test_a_candidate_that_is_worse_by_the_margin_seldom_passes(worse: int, most: float) -> None:
    rollouts = 500
    passed = sum(_passes(Random(seed), 0.01, 0.01 + worse * TENTH.margin) for seed in range(rollouts))
    assert passed <= most * rollouts


def _passes(chance: Random, p0: float, p1: float) -> bool:
    """Whether 40 s with 5,000 requests a second show enough for it, at whatever look, in any attempt."""
    shown, past = PromoteEvidence.start(Shares(), 0.0), Past(errors=p0)
    for second in range(40):
        stable, candidate = usual(4_500, binomial(chance, 4_500, p0)), usual(500, binomial(chance, 500, p1))
        strata = (Stratum(TENTH.weight_bp, stable, candidate),)
        shown = shown.after(WARM, strata, Look(float(second), strata, past), TENTH)
        if min(shown.by_metric().values()) >= LN_20:
            return True
    return False


def test_the_margin_shown_is_an_upper_bound() -> None:
    """Whatever is shown at any look of a stage, it holds with 95 %."""
    wrong, shares, past = 0, Shares(), Past(errors=0.01)
    for seed in range(200):
        chance, shown = Random(seed), ShownMargin()
        for _ in range(30):
            stable, candidate = (tally(2_000, binomial(chance, 2_000, share)) for share in (0.01, 0.012))
            shown = shown.after(WARM, (Stratum(5_000, stable, candidate),), shares, past)
        assert shown.margin is not None
        wrong += shown.margin < 0.002
    assert wrong <= 10


def test_a_margin_is_shown_only_when_every_larger_one_is() -> None:
    bench = Bench(step=HALF)
    bench.repeat(30, usual(1_000), usual(1_000))
    assert bench.evidence.shown.margin == 0.0005
    gap = replace(bench.evidence.shown, shown=(True, True, True, False, True, True, True, True))
    assert gap.margin == 0.01
    assert replace(gap, shown=(True,) * 7 + (False,)).margin is None


# --- missing data ---


def test_missing_data_is_never_a_pass() -> None:
    why = "envoy-2: no answer from 10.0.0.1:9901 for 6 s"
    bench = Bench(step=HALF)
    verdict = bench.repeat(20, usual(500), usual(500), blind=(why,))
    assert isinstance(verdict, Blind)
    assert verdict.reason == why
    assert bench.evidence.candidate.requests == 10_000
    assert isinstance(bench.see(usual(500), usual(500)), Pass)


def test_a_look_at_nothing_is_blind() -> None:
    verdict = Bench().judge(())
    assert isinstance(verdict, Blind)
    assert verdict.reason == "no Envoy reports"


def test_what_can_be_read_may_fail_it_though_an_envoy_is_silent() -> None:
    assert isinstance(Bench().repeat(3, usual(900), usual(100, 50), blind=("envoy-2: silent",)), Fail)


def test_envoys_without_the_candidate_say_nothing_of_it() -> None:
    bench = Bench()
    verdict = bench.judge((Stratum(0, tally(1_000, 500), Tally()),))
    assert verdict == Inconclusive("no Envoy sends the candidate any requests", verdict.numbers)
    assert bench.evidence.stable == Tally()


# --- values ---


def test_evidence_goes_on_after_it_was_saved_as_if_nothing_had_happened() -> None:
    chance, bench = Random(3), Bench(Gate(slo_errors=0.02))
    kept = Bench(Gate(slo_errors=0.02))
    for look in range(200):
        stable = usual(chance.randrange(1000), chance.randrange(3))
        candidate = usual(chance.randrange(100), chance.randrange(2)) if look % 3 else Tally()
        assert bench.see(stable, candidate) == kept.see(stable, candidate)
        kept.evidence = load_state(dump_state(State(Phase.SHIFTING, 1.0, evidence=kept.evidence))).evidence
        assert kept.evidence == bench.evidence
        if look == 100:
            bench.go_to(HALF)
            kept.go_to(HALF)


def test_evidence_stays_small_however_long_it_takes() -> None:
    bench = Bench(Gate(slo_errors=0.02))
    hosts = {f"[2001:db8::{number:x}]:8080": Host(1_000 + number, number) for number in range(100)}
    astray = tuple(Stratum(1_000, usual(90_000), Tally(), f"envoy-edge-{number}.eu-west-1") for number in range(20))
    for _ in range(500):
        bench.judge((Stratum(1_000, usual(900_000, 1_000), usual(100_000, 2)), *astray), hosts=hosts)
    assert len(dump_state(State(Phase.SHIFTING, 1.0, evidence=bench.evidence))) < 16_384


@pytest.mark.parametrize("stable", [Tally(), usual(10**9, 10**9), tally(10**9, 0), tally(1, 5), Tally(5, 9, 3)])
@pytest.mark.parametrize("candidate", [Tally(), usual(10**9, 10**9), tally(10**9, 0), tally(1, 5), Tally(5, 9, 3)])
@pytest.mark.parametrize("weight_bp", [0, 1, 5_000, 9_999, 10_000])
def test_no_count_is_too_large_too_small_or_too_odd(stable: Tally, candidate: Tally, weight_bp: int) -> None:
    gate, past = Gate(slo_errors=0.01, warmup_s=1.0), Past(errors=0.0, slow={}, late={})
    evidence, step = Evidence.start(), Step(0, weight_bp, None, 0.005)
    for second in range(5):
        stratum = Stratum(weight_bp, stable, candidate)
        evidence, verdict = judge(gate, (), evidence, Look(float(second), (stratum,), past), step)
        json.dumps(verdict_to_json(verdict), allow_nan=False)
        evidence = evidence.renew(float(second)) if second == 3 else evidence
    saved = load_state(dump_state(State(Phase.SHIFTING, 1.0, evidence=evidence)))
    assert saved.evidence == evidence


def test_a_few_slow_requests_in_a_row_decide_nothing_where_they_come_in_clusters() -> None:
    """A backend that pauses makes all slow that it holds: six of 147 beside twelve of 4,600, in three looks."""
    stable, pause = tally(1_500, slow=(375, 75, 15, 4)), tally(16, slow=(4, 2, 2, 2))
    alone, in_clusters = (Bench(step=FIRST, past=Past(slow_phi=phi)) for phi in (1.0, 2.0))
    assert isinstance(alone.repeat(3, stable, pause), Fail)
    assert not isinstance(in_clusters.repeat(3, stable, pause), Fail)
