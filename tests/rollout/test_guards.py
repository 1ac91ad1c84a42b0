"""What holds or fails a candidate beside the comparison: hangs, limits, blindness, checks, one bad backend."""

from dataclasses import replace
from random import Random

import pytest

from rollout.forecast.chance import binomial
from rollout.gate import (
    Blind,
    Check,
    Errors,
    Evidence,
    Fail,
    Gate,
    Host,
    Inconclusive,
    Pass,
    Past,
    Reading,
    Step,
    Stratum,
    Tally,
    WhenBlind,
    blind_for_s,
)
from rollout.gate.guards import grace_s
from tests.rollout.judging import FIRST, HALF, LAST, TENTH, WARM, Bench, usual

FAST = Past(p99_ms=64.0)


def running(tally: Tally, started: int, active: int = 0) -> Tally:
    return replace(tally, started=started, active=active)


# --- requests that never end ---


@pytest.mark.parametrize(
    ("step", "rate", "slowest_s"),
    [(FIRST, 1_000, 4), (TENTH, 1_000, 2), (HALF, 1_000, 2), (TENTH, 100, 5), (HALF, 10, 14)],
)
def test_a_candidate_that_hangs_is_found_in_seconds(step: Step, rate: int, slowest_s: int) -> None:
    grace = 1 + grace_s(FAST)
    for seed in range(10):
        chance, bench = Random(seed), Bench(Gate(), step, past=FAST)
        took_s = 0
        while True:
            took_s += 1
            begun = binomial(chance, rate, step.weight_bp / 10_000)
            stable = running(usual(rate - begun), rate - begun)
            verdict = bench.see(stable, running(Tally(), begun, begun * took_s))
            if isinstance(verdict, Fail):
                break
            assert took_s < 30
        assert took_s <= slowest_s + grace + 1
        assert verdict.reason.startswith("the candidate hangs: 0 of its requests ended beside ")
        assert "beside 0" not in verdict.reason


def test_a_candidate_that_begins_to_hang_later_is_found_too() -> None:
    bench = Bench(Gate(), TENTH, past=FAST)
    bench.repeat(120, running(usual(900), 900), running(usual(100), 100))
    assert bench.until(Fail, running(usual(900), 900), running(Tally(), 100, 100)) <= 2


@pytest.mark.parametrize("step", [FIRST, TENTH, HALF])
@pytest.mark.parametrize("part", [1.0, 0.5], ids=["all", "half"])
def test_whoever_answers_half_of_its_requests_does_not_hang(step: Step, part: float) -> None:
    """Twice as slow, say: then half of what began has ended while the rate rises."""
    for seed in range(10):
        chance, bench = Random(seed), Bench(Gate(), step, past=FAST)
        for _ in range(60):
            begun = binomial(chance, 300, step.weight_bp / 10_000)
            ended = binomial(chance, begun, part)
            verdict = bench.see(running(usual(300 - begun), 300 - begun), running(usual(ended), begun))
            assert not isinstance(verdict, Fail)


def test_looks_of_the_time_in_which_no_request_could_end_say_nothing_of_a_hang() -> None:
    slow = Past(p99_ms=3_000.0)
    assert grace_s(slow) == 10.0
    bench = Bench(Gate(), HALF, past=slow)
    bench.repeat(11, running(usual(500), 500), running(Tally(), 500))
    assert bench.evidence.hang.level == 0.0
    bench.see(running(usual(500), 500), running(Tally(), 500))
    assert bench.evidence.hang.alarm(bench.gate)


def test_who_is_sent_nothing_does_not_hang() -> None:
    """An Envoy that routes otherwise than it has ACKed: it is held and told, but not the candidate's fault."""
    bench = Bench(Gate(), HALF, past=FAST)
    verdict = bench.repeat(60, running(usual(500), 500), Tally())
    assert isinstance(verdict, Inconclusive)
    assert verdict.reason == "the candidate gets no traffic, or answers nothing, beside 30,000 of stable"
    bench = Bench(WARM, HALF, past=FAST)
    assert not isinstance(bench.repeat(60, running(usual(990), 990), running(usual(10), 10)), Fail)


@pytest.mark.parametrize(
    ("gate", "expected"),
    [
        (Gate(), "the candidate has answered nothing yet, beside 9 requests of stable"),
        (
            Gate(errors=Errors.GRPC),
            "no answer of the candidate with a grpc-status has been counted yet, beside 9 of stable",
        ),
    ],
)
def test_who_has_not_answered_anything_yet_is_not_said_to_be_cold(gate: Gate, expected: str) -> None:
    bench = Bench(gate, HALF, past=FAST)
    verdict = bench.repeat(3, usual(3), Tally())
    assert isinstance(verdict, Inconclusive)
    assert verdict.reason.partition(":")[0] == expected


def test_where_stable_was_never_seen_beside_it_its_history_is_what_is_named() -> None:
    bench = Bench(WARM, LAST, past=Past(errors=0.02))
    verdict = bench.see(Tally(), usual(1_000, 1))
    assert verdict.reason == "1 error in 1,000 requests of the candidate, where stable had 2 % before"


def test_the_hang_guard_can_be_left_out_for_long_streams() -> None:
    bench = Bench(Gate(hang_guard=False), HALF, past=FAST)
    verdict = bench.repeat(60, running(usual(500), 500), running(Tally(), 500, 9_000))
    assert not isinstance(verdict, Fail)


def test_where_a_part_hangs_it_does_not_pass() -> None:
    bench = Bench(step=HALF)
    stable = running(usual(500), 500, 10)
    verdict = bench.repeat(20, stable, running(usual(490), 500, 60))
    assert isinstance(verdict, Inconclusive)
    assert verdict.reason == (
        "the candidate may hang: 60 of its requests are running, where 10.0 would be usual (limit 36)"
    )
    assert isinstance(bench.see(stable, running(usual(500), 500, 12)), Pass)


def test_at_full_weight_too_a_candidate_that_stops_answering_does_not_pass() -> None:
    bench = Bench(step=LAST)
    assert isinstance(bench.see(Tally(), running(usual(500), 500)), Pass)
    verdict = bench.see(Tally(), running(Tally(), 500, 500))
    assert isinstance(verdict, Inconclusive)
    assert (
        verdict.reason == "the candidate has answered nothing since the last look, and 500 of its requests are running"
    )
    assert isinstance(bench.see(Tally(), Tally()), Pass)  # nobody asked


# --- limits that hold whatever stable does ---

SLO = replace(WARM, slo_errors=0.02)


def test_too_many_errors_of_both_hold_the_stage_and_let_it_go_on_when_they_are_over() -> None:
    bench = Bench(SLO, HALF)
    bench.repeat(3, usual(500), usual(500))
    verdict = bench.repeat(20, usual(500, 250), usual(500, 250))
    assert isinstance(verdict, Inconclusive)
    assert verdict.reason.endswith("; more than 2 % (slo_errors)")
    assert bench.evidence.held_s is not None
    held = 0
    while bench.evidence.slo.since_s is not None:
        bench.see(usual(500), usual(500))
        held += 1
    assert held <= 3
    assert bench.evidence.held_s is None


def test_a_candidate_that_meets_the_limit_is_not_held() -> None:
    for seed in range(10):
        chance, bench = Random(seed), Bench(SLO, HALF)
        for _ in range(60):
            bench.see(usual(500, binomial(chance, 500, 0.019)), usual(500, binomial(chance, 500, 0.019)))
            assert bench.evidence.slo.since_s is None


def test_after_hours_within_the_limit_errors_are_noticed_as_soon_as_in_the_first_minute() -> None:
    early, late = Bench(SLO, HALF), Bench(SLO, HALF)
    late.repeat(2_000, usual(5_000, 5), usual(5_000, 5))
    for bench in (early, late):
        bench.repeat(3, usual(500, 250), usual(500, 250))
        assert bench.evidence.slo.since_s is not None


def test_a_candidate_with_fewer_errors_than_stable_is_the_cure_and_not_held() -> None:
    bench = Bench(SLO, HALF)
    bench.repeat(20, usual(500, 250), usual(500, 50))
    assert bench.evidence.slo.since_s is not None
    assert isinstance(bench.see(usual(500, 250), usual(500, 50)), Pass)


def test_a_hold_fails_only_where_that_is_wanted() -> None:
    forever = Bench(SLO, HALF)
    assert not isinstance(forever.repeat(200, usual(500, 250), usual(500, 250)), Fail)
    limited = Bench(replace(SLO, hold_timeout_s=30.0), HALF)
    assert 30 < limited.until(Fail, usual(500, 250), usual(500, 250)) < 34


def test_a_hold_does_not_end_in_a_fail_while_nothing_can_be_read() -> None:
    bench = Bench(replace(SLO, hold_timeout_s=30.0), HALF)
    bench.repeat(10, usual(500, 250), usual(500, 250))
    for _ in range(100):
        assert isinstance(bench.judge(()), Blind)


# --- alone at 100 % ---


def alone(bench: Bench) -> Bench:
    """Behind a stage in which stable had 1 % errors."""
    bench.step = HALF
    bench.repeat(20, usual(5_000, 50), usual(5_000, 50))
    bench.go_to(LAST)
    return bench


def test_alone_it_passes_with_about_as_many_errors_as_stable_had() -> None:
    bench = alone(Bench())
    verdict = bench.see(Tally(), Tally())
    assert verdict == Inconclusive("the candidate has not answered anything at 100 % yet", verdict.numbers)
    verdict = bench.see(Tally(), usual(1_000, 12))
    assert isinstance(verdict, Pass)
    assert verdict.reason.startswith("12 errors in 1,000 requests of the candidate, where stable had 1")


def test_alone_an_incident_holds_and_goes_by() -> None:
    bench = alone(Bench())
    bench.repeat(5, Tally(), usual(1_000, 10))
    verdict = bench.repeat(20, Tally(), usual(1_000, 500))
    assert isinstance(verdict, Inconclusive)
    assert "; it goes on below 1.97 %" in verdict.reason
    assert bench.until(Pass, Tally(), usual(1_000, 10)) <= 3


def test_alone_it_fails_when_errors_last() -> None:
    bench = alone(Bench())
    took_s = bench.until(Fail, Tally(), usual(1_000, 500))
    assert 30 < took_s < 34
    forever = alone(Bench(replace(WARM, alone_timeout_s=None)))
    assert not isinstance(forever.repeat(300, Tally(), usual(1_000, 500)), Fail)


def test_alone_nothing_fails_by_time_while_nothing_can_be_read() -> None:
    bench = alone(Bench())
    bench.repeat(10, Tally(), usual(1_000, 500))
    for _ in range(100):
        assert isinstance(bench.judge(()), Blind)


def test_alone_for_hours_errors_are_noticed_as_soon_as_at_first() -> None:
    bench = alone(Bench())
    bench.repeat(2_000, Tally(), usual(1_000, 10))
    verdict = bench.repeat(3, Tally(), usual(1_000, 500))
    assert isinstance(verdict, Inconclusive)
    assert bench.evidence.alone.since_s is not None


# --- blindness ---

SILENT = ("envoy-2: no answer",)


def test_blindness_is_timed_from_its_beginning_and_forgotten_with_its_end() -> None:
    bench = Bench()
    bench.see(usual(900), usual(100))
    assert blind_for_s(bench.evidence) == 0.0
    bench.repeat(5, usual(900), usual(100), blind=SILENT)
    assert blind_for_s(bench.evidence) == 4.0
    bench.see(usual(900), usual(100))
    assert (bench.evidence.blind_s, blind_for_s(bench.evidence)) == (None, 0.0)


def test_what_is_missing_for_too_long_may_be_a_reason_to_go_back() -> None:
    bench = Bench(replace(WARM, when_blind=WhenBlind.ROLLBACK), HALF)
    assert bench.until(Fail, usual(500), usual(500), blind=SILENT) == 61
    assert isinstance(Bench(step=HALF).repeat(200, usual(500), usual(500), blind=SILENT), Blind)


def test_who_is_missing_for_too_long_may_be_left_out_and_is_named() -> None:
    bench = Bench(replace(WARM, when_blind=WhenBlind.IGNORE), HALF)
    assert isinstance(bench.repeat(60, usual(500), usual(500), blind=SILENT), Blind)
    verdict = bench.see(usual(500), usual(500), blind=SILENT)
    assert isinstance(verdict, Pass)
    assert verdict.reason.endswith("; left out: envoy-2: no answer")


@pytest.mark.parametrize("when", WhenBlind)
def test_without_a_limit_data_may_be_missing_for_ever(when: WhenBlind) -> None:
    bench = Bench(replace(WARM, when_blind=when, blind_timeout_s=0.0), HALF)
    assert isinstance(bench.repeat(200, usual(500), usual(500), blind=SILENT), Blind)


def test_nobody_is_left_out_when_nobody_else_is_left() -> None:
    bench = Bench(replace(WARM, when_blind=WhenBlind.IGNORE), HALF)
    assert all(isinstance(bench.judge((), blind=SILENT), Blind) for _ in range(200))


# --- checks ---

QUEUE = Check("queue", maximum=10.0, what="the queue of $candidate")


def test_a_check_that_cannot_be_read_is_blind_and_may_be_left_out() -> None:
    silent = (Reading("queue", 1.0, None, "http://127.0.0.1:9: refused"),)
    for when, name in ((WhenBlind.PAUSE, Blind), (WhenBlind.IGNORE, Pass)):
        bench = Bench(replace(WARM, when_blind=when), HALF, (QUEUE,))
        verdict = bench.repeat(70, usual(500), usual(500), readings=silent)
        assert isinstance(verdict, name)
        assert verdict.reason.endswith("queue: http://127.0.0.1:9: refused")


def test_a_check_beyond_its_limit_holds_or_where_it_is_critical_fails() -> None:
    high = (Reading("queue", 1.0, 11.0),)
    bench = Bench(step=HALF, checks=(QUEUE,))
    verdict = bench.repeat(20, usual(500), usual(500), readings=high)
    assert isinstance(verdict, Inconclusive)
    assert verdict.reason.startswith("the queue of the candidate was 11 (limit 10)")
    assert isinstance(bench.see(usual(500), usual(500), readings=(Reading("queue", 1.0, 3.0),)), Pass)
    critical = Bench(step=HALF, checks=(replace(QUEUE, critical=True),))
    assert isinstance(critical.see(usual(500), usual(500), readings=high), Fail)


def test_a_check_that_was_not_measured_in_this_stage_does_not_let_it_pass() -> None:
    bench = Bench(step=HALF, checks=(QUEUE,))
    bench.repeat(20, usual(500), usual(500), readings=(Reading("queue", 1.0, 3.0),))
    bench.go_to(HALF)
    verdict = bench.repeat(20, usual(500), usual(500))
    assert verdict == Inconclusive(
        "the queue of the candidate has not been measured at this stage yet", verdict.numbers
    )


# --- one bad backend ---

ONE_BAD = {"10.0.0.7:80": Host(20, 20), "10.0.0.8:80": Host(40, 0), "10.0.0.9:80": Host(40, 0)}


def test_the_one_backend_that_has_all_errors_is_named() -> None:
    bench = Bench()
    verdict = bench.repeat(3, usual(900), usual(100, 20), hosts=ONE_BAD)
    assert isinstance(verdict, Fail)
    assert verdict.host == "10.0.0.7:80"
    assert verdict.reason.endswith("; all 60 errors are from 10.0.0.7:80 (2 of 3 backends have none in 240 requests)")
    assert [host.errors for host in bench.evidence.hosts.values()] == [60, 0, 0]


def test_a_backend_is_not_blamed_for_what_is_no_error() -> None:
    """The errors are tolerable, and something else fails it: without that backend it would do so, too."""
    few = {"10.0.0.7:80": Host(1, 1), "10.0.0.8:80": Host(500, 0)}
    broken = Bench(step=HALF, checks=(replace(QUEUE, critical=True),))
    broken.repeat(5, usual(500), usual(500), hosts=few)
    verdict = broken.see(usual(500), usual(500), readings=(Reading("queue", 1.0, 11.0),))
    assert isinstance(verdict, Fail)
    assert verdict.host == ""
    blind = Bench(replace(WARM, when_blind=WhenBlind.ROLLBACK), HALF)
    verdict = blind.repeat(70, usual(500), usual(500), hosts=few, blind=SILENT)
    assert isinstance(verdict, Fail)
    assert verdict.host == ""


def test_a_backend_is_not_let_go_where_something_else_fails_it_as_well() -> None:
    bench = Bench(checks=(replace(QUEUE, critical=True),))
    high = (Reading("queue", 1.0, 11.0),)
    verdict = bench.repeat(3, usual(900), usual(100, 20), hosts=ONE_BAD, readings=high)
    assert isinstance(verdict, Fail)
    assert verdict.host == ""


def test_going_on_without_a_backend_begins_anew_but_knows_stable() -> None:
    bench = Bench()
    bench.repeat(3, usual(900), usual(100, 20), hosts=ONE_BAD)
    pardoned = bench.evidence.pardoned(3.0)
    assert (pardoned.rollback, pardoned.hosts, pardoned.excess) == (Evidence.start().rollback, {}, 0.0)
    assert (pardoned.shares, pardoned.first_s) == (bench.evidence.shares, bench.evidence.first_s)
    bench.evidence = pardoned
    assert isinstance(bench.repeat(20, usual(900), usual(100)), Pass)


def test_strata_without_the_other_version_say_nothing_of_a_hang() -> None:
    bench = Bench(Gate(), HALF, past=FAST)
    for _ in range(20):
        bench.judge((Stratum(0, usual(900), Tally()), Stratum(10_000, Tally(), usual(9))))
    assert bench.evidence.hang.level == 0.0
