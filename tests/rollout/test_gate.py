"""The judge: exact values, the bound on false alarms, quick detection, and what may pass."""

import json
import math
import random
from collections.abc import Iterator
from typing import assert_never

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from rollout.gate import (
    EFFECTS,
    Bet,
    Blind,
    Counts,
    Evidence,
    Fail,
    Gate,
    Histogram,
    Inconclusive,
    Look,
    Pass,
    Stratum,
    Trial,
    Verdict,
    judge,
    mixture_llr,
    rollback_llr,
    verdict_from_json,
    verdict_to_json,
)

GATE = Gate()
FAST = Histogram.of([(10.0, 1.0, 60), (12.0, 1.0, 38), (20.0, 1.0, 2)])


def compared(stable: Counts, candidate: Counts, weight_bp: int = 1_000, blind: tuple[str, ...] = ()) -> Look:
    return Look((Stratum(weight_bp, stable, candidate),), blind)


def healthy(requests: int = 100, errors: int = 0) -> Counts:
    return Counts(requests, errors, latency=FAST)


def judged(*looks: Look, gate: Gate = GATE, evidence: Evidence | None = None) -> tuple[Evidence, Verdict]:
    evidence = evidence or Evidence.start()
    for look in looks:
        evidence, verdict = judge(gate, evidence, look)
    return evidence, verdict


# The bets


@pytest.mark.parametrize(
    ("trial", "bet", "expected"),
    [
        (Trial(9900, 10, 100, 2), Bet(10, 1.0), 3.571037831),
        (Trial(9900, 10, 100, 2), Bet(10, 1.25), 3.328879889),
        (Trial(990, 0, 10, 1), Bet(1000, 1.0), 4.510769511),
        (Trial(500, 5, 500, 9), Bet(2, 1.0), 0.561813112),
        (Trial(500, 5, 500, 5), Bet(2, 1.0), -0.588915178),
        (Trial(500, 0, 500, 1), Bet(1000, 1.25), 0.586986985),
        (Trial(900, 1, 100, 3), Bet(4, 1.25, 0.001), 2.718907444),
        (Trial(900, 1, 100, 3), Bet(4, 1.25, 0.001, 3), 0.906302481),
        (Trial(0, 0, 10, 3), Bet(4, 1.25), 0.0),
        (Trial(900, 2, 0, 0), Bet(4, 1.25), 0.0),
    ],
)
def test_a_bet_wins_what_the_formula_says(trial: Trial, bet: Bet, expected: float) -> None:
    assert rollback_llr(trial, bet) == pytest.approx(expected, abs=5e-10)


@pytest.mark.parametrize(
    ("trial", "at_ratio_1", "at_ratio_125"),
    [
        (Trial(9900, 0, 100, 1), 3.157563, 3.009506),
        (Trial(9900, 0, 100, 2), 7.368443, 7.001208),
        (Trial(9900, 0, 100, 3), 11.790554, 11.205274),
        (Trial(9900, 10, 100, 2), 2.503120, 2.157995),
        (Trial(9900, 10, 100, 5), 11.821767, 10.697790),
        (Trial(9000, 9, 1000, 10), 9.178657, 7.482904),
        (Trial(5000, 5, 5000, 20), 3.550178, 2.162601),
        (Trial(5000, 5, 5000, 30), 8.400961, 5.925950),
    ],
)
def test_the_mixture_of_all_effects_has_its_known_values(trial: Trial, at_ratio_1: float, at_ratio_125: float) -> None:
    assert mixture_llr(trial, 1.0) == pytest.approx(at_ratio_1, abs=5e-7)
    assert mixture_llr(trial, 1.25) == pytest.approx(at_ratio_125, abs=5e-7)


@given(
    n0=st.integers(1, 5000),
    n1=st.integers(1, 5000),
    bad=st.integers(0, 30),
    r=st.floats(1.0, 4.0),
    rho=st.sampled_from(EFFECTS),
)
def test_given_the_bad_requests_a_bet_is_exactly_fair(n0: int, n1: int, bad: int, r: float, rho: float) -> None:
    share = r * n1 / (r * n1 + n0)
    mean = math.fsum(
        math.comb(bad, k)
        * share**k
        * (1 - share) ** (bad - k)
        * math.exp(rollback_llr(Trial(n0, bad - k, n1, k), Bet(rho, r)))
        for k in range(bad + 1)
    )
    assert mean == pytest.approx(1.0, abs=1e-11)


@settings(deadline=None, max_examples=60)
@given(
    n0=st.integers(1, 30),
    n1=st.integers(1, 30),
    p0=st.floats(0.0, 1.0),
    r=st.sampled_from([1.0, 1.25, 2.0]),
    d=st.sampled_from([0.0, 0.01, 0.1]),
)
def test_no_bet_wins_on_average_while_the_candidate_is_no_worse(
    n0: int, n1: int, p0: float, r: float, d: float
) -> None:
    p1 = min(1.0, r * p0 + d)
    chances = [
        (Trial(n0, k0, n1, k1), binomial(n0, k0, p0) * binomial(n1, k1, p1))
        for k0 in range(n0 + 1)
        for k1 in range(n1 + 1)
    ]
    for rho in EFFECTS:
        mean = math.fsum(chance * math.exp(rollback_llr(trial, Bet(rho, r, d))) for trial, chance in chances)
        assert mean <= 1 + 1e-9


@given(n0=st.integers(1, 100), n1=st.integers(1, 100), parts=st.integers(1, 5), bad=st.integers(0, 20))
def test_how_an_interval_is_cut_makes_no_difference(n0: int, n1: int, parts: int, bad: int) -> None:
    whole = rollback_llr(Trial(n0 * (parts + 1), bad, n1 * (parts + 1), 1), Bet(10, 1.25, 0.01))
    first = rollback_llr(Trial(n0, 0, n1, 1), Bet(10, 1.25, 0.01))
    rest = rollback_llr(Trial(n0 * parts, bad, n1 * parts, 0), Bet(10, 1.25, 0.01))
    assert first + rest == pytest.approx(whole, abs=1e-9)


def binomial(n: int, k: int, p: float) -> float:
    return math.comb(n, k) * p**k * (1 - p) ** (n - k)


# Failing


def traces() -> Iterator[tuple[str, Stratum, list[float]]]:
    yield "an error a look", Stratum(100, Counts(990), Counts(10, 1)), [0.956856, 3.640529, 6.563346]
    yield "all requests fail", Stratum(100, Counts(990, 1), Counts(10, 10)), [1.662293, 4.616181]


@pytest.mark.parametrize(("stratum", "expected"), [t[1:] for t in traces()], ids=[t[0] for t in traces()])
def test_a_worse_candidate_fails_at_the_known_look(stratum: Stratum, expected: list[float]) -> None:
    evidence = Evidence.start()
    for ln_e in expected:
        evidence, verdict = judge(GATE, evidence, Look((stratum,)))
        assert evidence.ln_e == pytest.approx(ln_e, abs=5e-7)
        assert isinstance(verdict, Fail) == (ln_e >= math.log(100))


def test_an_outage_of_both_versions_fails_nobody() -> None:
    evidence, verdict = judged(*[compared(Counts(900, 450), Counts(100, 50))] * 10)
    assert evidence.ln_e == pytest.approx(math.log(0.25), abs=1e-6)
    assert isinstance(verdict, Inconclusive)


def test_a_fail_says_why_in_one_sentence_with_its_numbers() -> None:
    _, verdict = judged(*[compared(healthy(900, 1), healthy(100, 31))] * 3)
    assert isinstance(verdict, Fail)
    assert verdict.reason.startswith("error share 31 % against 0.111 % after 300 requests, evidence 1:")
    assert verdict.reason.endswith("(limit 1:100)")
    assert verdict.numbers["candidate_errors"] == 93
    assert verdict.numbers["p_value"] < 0.01
    assert verdict.numbers["ln_limit"] == pytest.approx(math.log(100))
    json.dumps(dict(verdict.numbers), allow_nan=False)


def test_a_failed_candidate_does_not_recover() -> None:
    evidence, _ = judged(*[compared(Counts(900), Counts(100, 50))] * 3)
    _, verdict = judged(*[compared(healthy(9000), healthy(9000), 5_000)] * 20, evidence=evidence.renew())
    assert isinstance(verdict, Fail)


def test_one_burst_in_one_look_fails_nobody() -> None:
    _, verdict = judged(compared(Counts(100_000), Counts(100_000, 50_000), 5_000))
    assert isinstance(verdict, Inconclusive)


def test_a_slower_candidate_fails_by_its_slow_share() -> None:
    slow = Histogram.of([(30.0, 1.0, 60), (36.0, 1.0, 38), (60.0, 1.0, 2)])
    look = compared(healthy(), Counts(100, latency=slow), 5_000)
    _, verdict = judged(*[look] * 6)
    assert isinstance(verdict, Fail)
    assert "slower than" in verdict.reason


def test_timeouts_count_as_slow() -> None:
    look = compared(healthy(), Counts(100, 0, timeouts=30, latency=Histogram.of([(10.0, 1.0, 70)])), 5_000)
    _, verdict = judged(*[look] * 8)
    assert isinstance(verdict, Fail)
    assert verdict.reason.startswith("30 % slower than")


def test_the_latency_of_the_first_requests_is_not_judged() -> None:
    cold = Counts(10, latency=Histogram.of([(500.0, 10.0, 10)]))
    evidence, _ = judged(*[compared(healthy(), cold)] * 10, gate=Gate(warmup_requests=100))
    assert evidence.ln_e == pytest.approx(math.log(0.5), abs=1e-9)
    _, verdict = judged(*[compared(healthy(), cold)] * 10, gate=Gate(warmup_requests=0))
    assert isinstance(verdict, Fail)


def test_thirty_percent_errors_are_found_within_few_requests() -> None:
    needed = sorted(_requests_until_fail(random.Random(seed), 0.3) for seed in range(100))
    assert needed[50] <= 40
    assert needed[95] <= 90


def _requests_until_fail(chance: random.Random, share: float) -> int:
    evidence = Evidence.start()
    for look in range(1, 100):
        errors = sum(chance.random() < share for _ in range(10))
        evidence, verdict = judge(GATE, evidence, compared(Counts(990, _few(chance, 990, 0.001)), Counts(10, errors)))
        if isinstance(verdict, Fail):
            return 10 * look
    return 1000


def test_a_version_that_is_no_worse_than_tolerated_hardly_ever_fails() -> None:
    failed = sum(_null_fails(random.Random(seed)) for seed in range(2000))
    assert failed < 20


def _null_fails(chance: random.Random) -> bool:
    """A rollout of three stages, looked at all the time: equal latencies, and just as many errors as tolerated."""
    evidence, base = Evidence.start(), chance.choice([0.001, 0.01, 0.1])
    for weight_bp in (100, 1_000, 5_000):
        for _ in range(4):
            candidate = 400 * weight_bp // 10_000
            stable = _random(chance, 400 - candidate, base)
            look = compared(stable, _random(chance, candidate, 1.25 * base), weight_bp)
            evidence, verdict = judge(Gate(warmup_requests=0), evidence, look)
            if isinstance(verdict, Fail):
                return True
        evidence = evidence.renew()
    return False


def _random(chance: random.Random, requests: int, share: float) -> Counts:
    slower = _few(chance, requests, 0.06)
    slowest = _few(chance, slower, 0.2)
    latency = [(10.0, 1.0, requests - slower), (20.0, 1.0, slower - slowest), (50.0, 1.0, slowest)]
    return Counts(requests, _few(chance, requests, share), latency=Histogram.of(latency))


def _few(chance: random.Random, n: int, p: float) -> int:
    """A binomial number, by jumping from one success to the next."""
    found, at = 0, 0
    while True:
        at += 1 + int(math.log(1.0 - chance.random()) / math.log(1.0 - p))
        if at > n:
            return found
        found += 1


def test_envoys_that_hang_on_an_old_weight_do_not_mislead() -> None:
    """Pooled, the candidate would have 0.92 % errors against stable's 0.09 %: Simpson's paradox."""
    noisy = Stratum(5_000, Counts(1_000, 10), Counts(1_000, 10))
    quiet = Stratum(100, Counts(9_900, 1), Counts(100, 0))
    evidence, verdict = judged(*[Look((noisy, quiet))] * 30)
    assert not isinstance(verdict, Fail)
    assert evidence.ln_e < 0


def test_increments_are_carried_until_both_versions_have_requests() -> None:
    together, _ = judged(compared(Counts(99), Counts(10, 2)))
    apart, verdict = judged(
        compared(Counts(40), Counts()), compared(Counts(), Counts(10, 2), 500), compared(Counts(59), Counts(10, 2))
    )
    assert apart.ln_e == pytest.approx(together.ln_e)
    assert apart.stage_candidate.requests == 10
    assert [stratum.weight_bp for stratum in apart.carried] == [500]
    assert isinstance(verdict, Inconclusive)


def test_what_was_carried_ends_with_the_stage_but_stable_s_share_stays_known() -> None:
    evidence, _ = judged(compared(Counts(40, 4), Counts()))
    assert evidence.stable.requests == 0
    renewed = evidence.renew()
    assert renewed.carried == ()
    assert renewed.stable == Counts(40, 4)


# Passing


def test_a_healthy_candidate_passes_with_enough_requests() -> None:
    look = compared(healthy(), Counts(10, latency=Histogram.of([(10.0, 1.0, 6), (12.0, 1.0, 4)])))
    evidence, verdict = judged(look, look)
    assert verdict.reason == "20 of 30 requests of the candidate beside stable so far"
    assert isinstance(verdict, Inconclusive)
    _, verdict = judged(look, evidence=evidence)
    assert isinstance(verdict, Pass)
    assert verdict.reason == "error share 0 % against 0 %, p95 12.9 ms against 12.9 ms, after 30 requests"


def test_a_new_stage_asks_for_new_requests() -> None:
    evidence, verdict = judged(compared(healthy(), healthy()))
    assert isinstance(verdict, Pass)
    _, verdict = judged(compared(Counts(10), Counts(10)), evidence=evidence.renew())
    assert isinstance(verdict, Inconclusive)


@pytest.mark.parametrize(
    ("candidate", "why"),
    [
        (healthy(100, 2), "error share 2 % against 0 % (limit 1 % more)"),
        (Counts(100, retries=30, latency=FAST), "retry share 30 % against 0 % (limit 1 % more)"),
        (Counts(100), "no latency samples of both versions yet"),
        (Counts(100, latency=Histogram.of([(40.0, 1.0, 100)])), "p99 41.0 ms against 20.5 ms (limit 1.5 times)"),
        (Counts(0), "0 of 30 requests of the candidate beside stable so far"),
    ],
)
def test_a_doubt_keeps_it_from_passing(candidate: Counts, why: str) -> None:
    _, verdict = judged(compared(healthy(), candidate))
    assert isinstance(verdict, Inconclusive)
    assert verdict.reason == why


def test_a_suspicion_keeps_it_from_passing() -> None:
    gate = Gate(max_error_increase=1.0, min_requests=1)
    evidence, verdict = judged(*[compared(healthy(900), healthy(100, 1))] * 2, gate=gate)
    assert math.log(5) <= evidence.ln_e < math.log(100)
    assert isinstance(verdict, Inconclusive)
    assert "it passes below 1:5" in verdict.reason


def test_a_single_millisecond_is_no_difference_to_envoy() -> None:
    at_once = Counts(100, latency=Histogram.of([(0.0, 0.0, 100)]))
    later = Counts(100, latency=Histogram.of([(1.0, 0.1, 100)]))
    assert isinstance(judged(*[compared(at_once, later)] * 20)[1], Pass)
    much_later = Counts(100, latency=Histogram.of([(2.0, 0.1, 100)]))
    assert isinstance(judged(compared(at_once, much_later))[1], Inconclusive)
    assert isinstance(judged(*[compared(at_once, much_later)] * 20)[1], Fail)


# At 100 % there is no stable beside it


def test_alone_it_is_measured_by_stable_s_share_of_the_stages_before() -> None:
    evidence, _ = judged(compared(healthy(1000, 20), healthy(100, 2)))
    evidence = evidence.renew()
    _, verdict = judged(compared(Counts(), Counts(29), 10_000), evidence=evidence)
    assert isinstance(verdict, Inconclusive)
    _, verdict = judged(compared(Counts(2), Counts(100, 3), 10_000), evidence=evidence)
    assert isinstance(verdict, Pass)
    _, verdict = judged(compared(Counts(), Counts(100, 4), 10_000), evidence=evidence)
    assert isinstance(verdict, Inconclusive)
    _, verdict = judged(compared(Counts(), Counts(100, 8), 10_000), evidence=evidence)
    assert isinstance(verdict, Inconclusive)
    _, verdict = judged(compared(Counts(), Counts(200, 16), 10_000), evidence=evidence)
    assert isinstance(verdict, Fail)
    assert "all of them the candidate's" in verdict.reason


def test_without_any_stable_seen_it_must_have_hardly_any_errors() -> None:
    assert isinstance(judged(compared(Counts(), Counts(100, 1), 10_000))[1], Pass)
    assert isinstance(judged(compared(Counts(), Counts(100, 2), 10_000))[1], Inconclusive)


def test_envoys_without_the_candidate_say_nothing_of_it() -> None:
    evidence, verdict = judged(compared(Counts(1000, 500), Counts(), 0))
    assert verdict == Inconclusive("no Envoy sends the candidate any requests", verdict.numbers)
    assert evidence.stable == Counts()


# Missing data


def test_missing_data_is_never_a_pass() -> None:
    why = "envoy-2: no answer from 10.0.0.1:9901 for 6 s"
    evidence, verdict = judged(compared(healthy(), healthy(), blind=(why,)))
    assert isinstance(verdict, Blind)
    assert verdict.reason == why
    assert evidence.stage_candidate.requests == 100
    assert isinstance(judged(Look(()))[1], Blind)


def test_what_can_be_read_may_fail_it_though_an_envoy_is_silent() -> None:
    _, verdict = judged(*[compared(Counts(900), Counts(100, 50), blind=("envoy-2: silent",))] * 3)
    assert isinstance(verdict, Fail)


# Values


def test_evidence_goes_on_after_json_as_if_nothing_had_happened() -> None:
    look = compared(healthy(900, 3), healthy(100, 1))
    evidence, _ = judged(*[look] * 5, compared(Counts(5), Counts()))
    evidence = evidence.renew()
    restored = Evidence.from_json(json.loads(json.dumps(evidence.to_json(), allow_nan=False)))
    assert restored == evidence
    assert judged(look, evidence=restored) == judged(look, evidence=evidence)


@pytest.mark.parametrize("verdict", [Pass("a"), Fail("b", {"ln_e": 7.5}), Inconclusive("c"), Blind("d", {"x": 1})])
def test_verdicts_survive_json(verdict: Verdict) -> None:
    assert verdict_from_json(json.loads(json.dumps(verdict_to_json(verdict)))) == verdict
    assert described(verdict) == verdict.name


def described(verdict: Verdict) -> str:
    match verdict:
        case Pass():
            return "pass"
        case Fail():
            return "fail"
        case Inconclusive():
            return "inconclusive"
        case Blind():
            return "blind"
        case _:
            assert_never(verdict)


def test_an_unknown_verdict_is_an_error() -> None:
    with pytest.raises(ValueError, match="perhaps"):
        verdict_from_json({"verdict": "perhaps", "reason": "", "numbers": {}})


@pytest.mark.parametrize("wrong", [{"alpha": 0.0}, {"alpha": 1.0}, {"min_requests": 0}, {"max_p99": 2.0}])
def test_wrong_settings_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValidationError):
        Gate.model_validate(wrong)


def test_a_late_regression_is_found_by_the_restarts() -> None:
    """An hour of health must not have to be won back first."""
    evidence, _ = judged(*[compared(Counts(500, 5), Counts(500, 5), 5_000)] * 600)
    _, verdict = judged(*[compared(Counts(500, 5), Counts(500, 20), 5_000)] * 8, evidence=evidence)
    assert isinstance(verdict, Fail)
