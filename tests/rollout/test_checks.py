"""Checks beside the statistics: what users may write, what readings come to, and in which words."""

from datetime import UTC, datetime

import pytest

from rollout.checks import EnvoyMetric, Names, WebQuery
from rollout.errors import InvalidSpec
from rollout.gate.checks import (
    NO_ANSWER_MS,
    Check,
    Outage,
    Reading,
    Unit,
    Watched,
    blind,
    doubts,
    failed,
    notes,
    watch,
)
from rollout.gate.histogram import Histogram
from rollout.metrics import Counts
from rollout.readings import Readings, measured
from rollout.record import Rollout, dump_strategy, load_strategy
from rollout.spec import Strategy, parse_strategy
from rollout.state import Phase, State

P99 = Check("p99", 250.0, consecutive=3, critical=True, unit=Unit.MILLISECONDS, what="p99 of $candidate")
FULL = Check("saturation", 0.8, critical=True)
WRITTEN = """
checks:
- {metric: error_share, max: 2%, consecutive: 3, critical: true}
- {metric: p99, max: 250ms}
- {metric: requests_per_s, min: 5, interval: 30s}
- name: saturation
  prometheus:
    url: http://prometheus:9090
    query: max(cpu_used{version="$candidate"})
    headers: {Authorization: Bearer hush}
  max: 0.8
  timeout: 3s
  outage: ignore
  dry_run: true
- {web: {url: "https://user:hush@status/api?version=$candidate", path: data.0.value}, min: 1}
- {command: [smoke.sh, $candidate]}
"""


def readings(check: str, *values: float | None) -> tuple[Reading, ...]:
    return tuple(Reading(check, at_s, value) for at_s, value in enumerate(values, 1))


def seen(check: Check, *values: float | None, fault: str = "") -> dict[str, Watched]:
    found = watch([check], {}, readings(check.name, *values))
    return {
        name: Watched(Reading(check.name, each.last.at_s, each.last.value, fault), each.broken)
        for name, each in found.items()
    }


# --- what readings come to ---


def test_readings_in_a_row_beyond_the_limit_are_counted_from_look_to_look() -> None:
    first = watch([P99], {}, readings("p99", 100.0, 300.0))
    assert first == {"p99": Watched(Reading("p99", 2, 300.0), broken=1)}
    assert watch([P99], first, readings("p99", 301.0))["p99"].broken == 2
    assert watch([P99], first, readings("p99", 250.0))["p99"].broken == 0


def test_readings_of_checks_that_the_strategy_does_not_have_are_left_out() -> None:
    assert watch([P99], {"old": Watched(Reading("old", 1.0, 1.0))}, readings("other", 1.0)) == {}


def test_a_critical_check_fails_only_after_as_many_readings_in_a_row_as_it_says() -> None:
    assert failed([P99], seen(P99, 300.0, 300.0)) is None
    assert failed([P99], seen(P99, 300.0, 300.0, 100.0, 300.0)) is None
    told = "p99 of v2 was 312 ms (limit 250 ms), beyond its limit 3 times in a row"
    assert failed([P99], seen(P99, 300.0, 300.0, 312.0), "v2") == told


def test_a_check_may_have_a_least_value_too() -> None:
    check = Check("rate", 100.0, 5.0, critical=True, unit=Unit.PER_SECOND)
    assert failed([check], seen(check, 5.0)) is None
    assert failed([check], seen(check, 3.25)) == "rate was 3.25 a second (limit 100 a second, at least 5 a second)"


def test_a_check_that_is_not_critical_holds_the_stage_from_its_first_bad_reading() -> None:
    check = Check("errors", 0.02, consecutive=3, unit=Unit.SHARE)
    bad = seen(check, 0.025)
    assert failed([check], bad) is None
    assert list(doubts([check], bad)) == ["errors was 2.5 % (limit 2 %)"]
    assert list(doubts([check], seen(check, 0.025, 0.02))) == []


def test_no_data_is_never_a_pass() -> None:
    assert list(doubts([P99], {}, "v2")) == ["p99 of v2 has not been measured at this stage yet"]
    assert list(doubts([FULL], seen(FULL, None, fault="no answer"))) == ["saturation: no answer"]


def test_a_source_that_does_not_answer_makes_blind_and_leaves_the_count_where_it_was() -> None:
    out = seen(P99, 300.0, 300.0, None, fault="no answer from prometheus:9090")
    assert out["p99"].broken == 2
    assert blind([P99], out) == ("p99: no answer from prometheus:9090",)
    assert blind([P99], seen(P99, None, 1.0)) == ()


def test_a_limit_that_was_broken_stays_so_when_its_source_goes_away_in_the_same_look() -> None:
    told = "saturation was beyond its limit (limit 0.8), and cannot be read now"
    assert failed([FULL], seen(FULL, 0.9, None)) == told


def test_an_outage_may_count_as_a_broken_limit() -> None:
    check = Check("smoke", 0.0, consecutive=2, critical=True, outage=Outage.FAIL)
    out = seen(check, None, None, fault="no answer")
    assert (failed([check], out), blind([check], out)) == ("smoke: no answer, 2 times in a row", ())
    once = seen(check, None, fault="no answer")
    assert (failed([check], once), list(doubts([check], once))) == (None, ["smoke: no answer"])


def test_an_outage_may_be_ignored_and_is_told_all_the_same() -> None:
    check = Check("smoke", 0.0, outage=Outage.IGNORE)
    out = seen(check, None, fault="no answer")
    assert (failed([check], out), blind([check], out), list(doubts([check], out))) == (None, (), [])
    assert notes([check], out) == ("smoke does not count while its source does not answer: no answer",)
    assert list(doubts([check], {})) == ["smoke has not been measured at this stage yet"]


def test_a_dry_run_decides_nothing_and_says_what_it_would_have_done() -> None:
    check = Check("cpu", 0.8, critical=True, dry_run=True)
    bad, out = seen(check, 0.9), seen(check, None, fault="no answer")
    for found in ({}, bad, out):
        assert (failed([check], found), blind([check], found), list(doubts([check], found))) == (None, (), [])
    assert notes([check], bad) == ("cpu would have failed it: cpu was 0.9 (limit 0.8)",)
    assert notes([check], out) == ("cpu would have been blind: cpu: no answer",)
    assert notes([check], {}) == notes([check], seen(check, 0.1)) == ()
    holding = Check("cpu", 0.8, dry_run=True)
    assert notes([holding], seen(holding, 0.9)) == ("cpu would have held it: cpu was 0.9 (limit 0.8)",)


def test_what_a_command_said_stands_in_the_reason() -> None:
    check = Check("smoke.sh", 0.0, critical=True, unit=Unit.EXIT_CODE, what="the exit code of smoke.sh")
    told = "the exit code of smoke.sh was 3 (limit 0): /cart answers 500"
    assert failed([check], seen(check, 3.0, fault="/cart answers 500")) == told


def test_a_value_that_is_no_number_keeps_no_limit() -> None:
    assert failed([FULL], seen(FULL, float("nan"))) is not None


# --- what users write ---


def test_checks_come_back_as_they_were_saved_and_show_no_secret() -> None:
    strategy = parse_strategy(WRITTEN)
    assert load_strategy(dump_strategy(strategy)) == strategy
    assert "hush" not in repr(strategy)
    shown = strategy.model_dump_json(by_alias=True)
    assert "hush" not in shown
    assert load_strategy(shown).checks[4].web == WebQuery.model_validate(
        {"url": "https://status/api", "path": "data.0.value"}
    )


def test_limits_are_in_the_unit_of_what_is_measured() -> None:
    errors, p99, rate, saturation, web, smoke = (each.check for each in parse_strategy(WRITTEN).checks)
    assert errors == Check(
        "error_share", 0.02, consecutive=3, critical=True, unit=Unit.SHARE, what="error_share of $candidate"
    )
    assert (p99.maximum, p99.unit, rate.minimum, rate.unit) == (250.0, Unit.MILLISECONDS, 5.0, Unit.PER_SECOND)
    assert (saturation.name, saturation.maximum, saturation.outage) == ("saturation", 0.8, Outage.IGNORE)
    assert (web.name, web.minimum, web.maximum) == ("web", 1.0, None)
    assert (smoke.name, smoke.maximum, smoke.unit) == ("smoke.sh", 0.0, Unit.EXIT_CODE)


@pytest.mark.parametrize(
    ("check", "told"),
    [
        ("{max: 1}", "checks[0]: does not say what to measure; give one of metric, prometheus, web, command"),
        ("{metric: p50, command: [a], max: 1s}", "checks[0]: has metric and command; give one of"),
        ("{metric: p99}", "checks[0]: has no limit; give max or min"),
        ("{metric: p98, max: 1s}", "checks[0].metric: must be 'error_share', 'p50'"),
        ("{metric: p99, max: 250}", "checks[0].max: 250 has no unit; write '250ms'"),
        ("{metric: p99, max: 2%}", "checks[0].max: '2%' is no duration; write 500ms"),
        ("{metric: error_share, max: 2}", "checks[0].max: 2 is no share; write 2% or a part of 1, as 0.02"),
        ("{metric: error_share, max: 1s}", "checks[0].max: '1s' is no share"),
        ("{metric: requests_per_s, min: 5s}", "checks[0].min: '5s' is no number"),
        ("{metric: requests_per_s, min: true}", "checks[0].min: 'True' is no limit"),
        ("{metric: p50, max: 1s, min: 2s}", "checks[0]: min 2s is above max 1s; nothing keeps both"),
        ("{metric: p50, max: 1s, interval: 100ms}", "checks[0].interval: 0.1s is too short; write at least 1s"),
        ("{metric: p50, max: 1s, consecutive: 0}", "checks[0].consecutive: must be greater than or equal to 1"),
        ("{web: {url: 'ftp://me:hush@x'}, max: 1}", "checks[0].web.url: is no address to read; write http://"),
        ("{web: {url: 'http://me:hush@x:x'}, max: 1}", "checks[0].web.url: is no address to read; write http://"),
        ("{web: {url: 'http://$candidate/'}, max: 1}", "checks[0].web.url: has a placeholder in its host"),
        ("{web: 'http://me:hush@x', max: 1}", "checks[0].web: must be a mapping"),
        ("{prometheus: 'http://me:hush@x', max: 1}", "checks[0].prometheus: must be a mapping"),
        (
            "{web: {url: 'http://x', headers: 'Authorization: hush'}, max: 1}",
            "checks[0].web.headers: must be a mapping",
        ),
        ("{web: {url: 'http://x', headers: {X-Key: 5309}}, max: 1}", "web.headers.X-Key: must be a valid string"),
        (f"{{web: {{url: 'http://me:hush@x/{'x' * 10_000}'}}, max: 1}}", "checks[0].web.url: "),
        ("{web: {url: 'http://x/$version'}, max: 1}", "checks[0].web.url: $version stands for nothing; there are $"),
        ("{web: {url: 'http://x', path: {}}, max: 1}", "checks[0].web.path: '{}' is no path; write data.0.value"),
        ("{web: {url: 'http://x', headers: {'A b': c}}, max: 1}", "checks[0].web.headers: 'A b' is no header"),
        ("{web: {url: 'http://x', headers: {A: \"b\\nc\"}}, max: 1}", "or its value is more than one line of text"),
        ("{prometheus: {url: 'http://x'}, max: 1}", "checks[0].prometheus.query: is missing"),
        ("{prometheus: {url: 'http://x', query: 'a{b=\"$c\"}'}, max: 1}", "prometheus.query: $c stands for nothing"),
        ("{command: smoke.sh --fast}", "write a list, as ['smoke.sh', '--fast']: no shell reads it"),
        ("{command: [/bin/sh, -c, id]}", "checks[0].command: '/bin/sh' is no name of a file in the server's"),
        ("{command: [.., x]}", "checks[0].command: '..' is no name of a file"),
        ("{command: []}", "checks[0].command: is empty; give the name of a file"),
        ('{command: [a, "b\\0"]}', "checks[0].command: has a zero byte in it"),
        ("{metric: p50, max: 1s, outage: pass}", "checks[0].outage: must be 'blind', 'fail' or 'ignore'"),
        ("{metric: p50, max: 1s}\n- {metric: p50, max: 2s}", "checks: has two checks called 'p50'; give one of them"),
        ("{metric: p50, max: 1s}\n" * 21, "checks: has 21; 20 are the most"),
    ],
)
def test_a_bad_check_is_refused_with_path_and_remedy_and_without_secrets(check: str, told: str) -> None:
    with pytest.raises(InvalidSpec) as caught:
        parse_strategy("checks:\n- " + check.replace("}\n{", "}\n- {"))
    assert told in str(caught.value)
    assert "hush" not in str(caught.value)
    assert "5309" not in str(caught.value)


def test_names_take_the_place_of_placeholders() -> None:
    names = Names("checkout", "v1", "v2", "checkout@v1", "checkout@v2")
    assert names.fill("$service $stable ${candidate}_x $stable_cluster $candidate_cluster $$ 5$") == (
        "checkout v1 v2_x checkout@v1 checkout@v2 $ 5$"
    )


# --- what Envoys' stats say ---

COUNTS = Counts(
    requests=200,
    errors=3,
    retries=10,
    timeouts=1,
    refused=1,
    grpc={0: 90, 13: 10},
    connections=50,
    connect_fails=2,
    latency=Histogram.of([(10, 1, 198)]),
)


@pytest.mark.parametrize(
    ("metric", "value"),
    [
        (EnvoyMetric.ERROR_SHARE, 0.015),
        (EnvoyMetric.RETRY_SHARE, 0.05),
        (EnvoyMetric.TIMEOUT_SHARE, 0.005),
        (EnvoyMetric.GRPC_ERROR_SHARE, 0.1),
        (EnvoyMetric.CONNECT_FAIL_SHARE, 0.04),
        (EnvoyMetric.REQUESTS_PER_S, 20.0),
        (EnvoyMetric.P50, pytest.approx(10 + 100 / 198)),
        (EnvoyMetric.P99, 11.0),
    ],
)
def test_a_metric_is_measured_over_its_span(metric: EnvoyMetric, value: float) -> None:
    assert measured(metric, COUNTS, 10.0) == value


def test_where_nothing_was_requested_nothing_is_measured_but_the_rate() -> None:
    found = {metric: measured(metric, Counts(), 10.0) for metric in EnvoyMetric}
    assert found == dict.fromkeys(EnvoyMetric) | {EnvoyMetric.REQUESTS_PER_S: 0.0}


def test_requests_that_were_never_answered_are_slower_than_any_other() -> None:
    value = measured(EnvoyMetric.P99, Counts(requests=100, timeouts=2, latency=Histogram.of([(1, 1, 98)])), 10.0)
    assert value == NO_ANSWER_MS
    assert failed([P99], seen(P99, value, value, value), "v2") == (
        "p99 of v2 was no answer (limit 250 ms), beyond its limit 3 times in a row"
    )


def rollout(phase: Phase = Phase.SHIFTING, stage: int = 0, converged_s: float | None = 100.0) -> Rollout:
    strategy = Strategy.model_validate(
        {
            "checks": [
                {"metric": "error_share", "max": "2%"},
                {"metric": "requests_per_s", "min": 5, "interval": "5s"},
                {"command": ["smoke"]},
            ]
        }
    )
    at = datetime(2025, 1, 1, tzinfo=UTC)
    state = State(phase, 99.0, stage, converged_s)
    return Rollout("checkout", 1, "v1", "v2", strategy, state, 1, at, at)


def test_a_reading_of_envoys_stats_covers_its_interval_and_nothing_before_the_stage() -> None:
    known = Readings(lambda _: ())
    found = {at_s: known.after(rollout(), Counts(requests=10, errors=1), 100.0 + at_s) for at_s in range(11)}
    rate = Reading("requests_per_s", 105.0, 10.0)
    assert {at_s: each for at_s, each in found.items() if each} == {
        5: (rate,),
        10: (Reading("error_share", 110.0, 0.1), Reading("requests_per_s", 110.0, 10.0)),
    }


def test_a_new_stage_begins_with_nothing_and_a_pause_goes_on() -> None:
    known = Readings(lambda _: ())
    for at_s in range(4):
        assert known.after(rollout(), Counts(requests=1), 100.0 + at_s) == ()
    assert known.after(rollout(stage=1, converged_s=104.0), Counts(requests=1), 105.0) == ()
    assert known.after(rollout(stage=1, converged_s=104.0), Counts(requests=1), 109.0) == ()
    assert known.after(rollout(stage=1, converged_s=104.0), Counts(requests=14), 110.0) == (
        Reading("requests_per_s", 110.0, 3.0),
    )
    assert known.after(rollout(converged_s=None), Counts(requests=1), 120.0) == ()


def test_readings_from_outside_go_into_the_look() -> None:
    one = Reading("smoke", 101.0, 0.0)
    assert Readings(lambda _: (one,)).after(rollout(), Counts(), 101.0) == (one,)
