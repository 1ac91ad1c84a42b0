"""`rollout forecast`: how long a strategy takes, what it catches, and what low traffic makes of it."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from rollout.cli import app
from rollout.forecast.forecast import Times, notes, planned
from rollout.forecast.traffic import Service
from rollout.spec import parse_strategy

SHORT = "stages: [{weight: 50%, hold: 2s, timeout: 40s}, {weight: 100%, hold: 1s}]\ngate: {warmup: 0s}\n"


def run(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["forecast", *arguments])


@pytest.fixture(scope="module")
def short(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("forecast") / "short.yaml"
    file.write_text(SHORT)
    return file


@pytest.fixture(scope="module")
def told(short: Path) -> Mapping[str, Any]:
    result = run("--strategy", str(short), "--rate", "300", "--errors", "0.1%", "--json")
    assert result.exit_code == 0, result.output
    view: Mapping[str, Any] = json.loads(result.stdout)
    return view


def test_a_healthy_version_goes_through_each_stage_in_a_time_and_with_requests(told: Mapping[str, Any]) -> None:
    healthy = told["healthy"]
    assert (told["rate_rps"], told["errors"]) == (300, 0.001)
    assert healthy["rolled_back"] == 0
    half, full = healthy["stages"]
    assert (half["weight_bp"], half["margin"], half["candidate_rps"]) == (5_000, 0.005, 150)
    assert full["weight_bp"] == 10_000
    for stage in (half, full):
        assert 0 < stage["seconds"]["mean"] <= stage["seconds"]["p95"]
        assert stage["requests"]["mean"] == pytest.approx(stage["candidate_rps"] * stage["seconds"]["mean"], rel=0.5)
    assert half["seconds"]["mean"] < healthy["seconds"]["mean"]


def test_what_is_no_good_is_found_the_sooner_the_worse_it_is(told: Mapping[str, Any]) -> None:
    cases = {case["name"]: case for case in told["regressions"]}
    assert set(cases) == {
        "errors x10: 1.00%",
        "errors x2: 0.20%",
        "5 % more errors",
        "every request fails",
        "latency x1.2",
        "latency x2",
        "every request hangs",
    }
    for name in ("5 % more errors", "every request fails", "latency x2", "every request hangs"):
        assert cases[name]["rolled_back"] == 1, name
        assert cases[name]["weight_bp"] == 5_000
    assert cases["every request fails"]["seconds"]["mean"] <= cases["errors x10: 1.00%"]["seconds"]["mean"]
    assert cases["errors x2: 0.20%"]["promoted"] > 0.5  # it is within the margin
    for case in cases.values():
        assert case["rolled_back"] + case["paused"] + case["promoted"] == pytest.approx(1)


def test_the_same_question_has_the_same_answer_as_tables_for_people(short: Path, told: Mapping[str, Any]) -> None:
    result = run("--strategy", str(short), "--rate", "300")
    assert result.exit_code == 0, result.output
    assert "A healthy version, at 300 requests/s of which 0.1 % fail anyway" in result.stdout
    for stage in told["healthy"]["stages"]:
        assert f"{stage['seconds']['mean']:,.0f} ({stage['seconds']['p95']:,.0f})" in result.stdout
    for case in told["regressions"]:
        assert case["name"] in result.stdout
        if case["rolled_back"]:
            assert f"{case['bad_answers']['mean']:,.0f} ({case['bad_answers']['p95']:,.0f})" in result.stdout


def test_what_low_traffic_changes_is_said_with_its_reason() -> None:
    strategy = parse_strategy("")
    assert list(notes(strategy, Service(10))) == [
        "1% becomes 50%: of 10 requests a second it is 0.1, and min_rps asks for 10 (up to 50%)",
        "the stage of 10% is left out, for a stage before it has been raised to as much",
        "the stage of 50% is left out, for a stage before it has been raised to as much",
        "the margin is 2% of all requests instead of 0.5%: bad_rps allows 0.2 a second of 10",
    ]
    assert list(notes(strategy, Service(1_000))) == []
    assert "margin_ratio allows 0.25 times the usual errors" in next(notes(strategy, Service(1_000, errors=0.05)))


def test_weights_are_raised_until_they_can_be_judged_and_equal_ones_become_one() -> None:
    strategy = parse_strategy("")
    plan = planned(strategy, Service(100))
    assert [stage.step.weight_bp for stage in plan] == [1_000, 5_000, 10_000]
    assert [(stage.hold_s, stage.timeout_s) for stage in plan] == [(5, 300)] * 3


def test_an_average_of_nothing_is_none() -> None:
    assert Times.of([]) == Times(None, None)
    assert Times.of([1, 2, 3]) == Times(2, 3)
    assert Times.of(range(100)) == Times(49.5, 94)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ((), "--rate"),
        (("--rate", "0"), "above 0"),
        (("--rate", "-5"), "above 0"),
        (("--rate", "nan"), "above 0"),
        (("--rate", "many"), "'many' is no rate"),
        (("--rate", "1e8"), "at most 10,000,000"),
        (("--rate", "5", "--errors", "2"), "'2' is no share; write 0.001 or 0.1%"),
        (("--rate", "5", "--errors", "100%"), "leaves nothing to judge"),
        (("--rate", "5", "--strategy", "/no/such/file"), "does not exist"),
    ],
)
def test_wrong_usage_says_what_to_write(arguments: tuple[str, ...], told: str) -> None:
    result = run(*arguments)
    assert result.exit_code == 2
    assert told in result.stderr


def test_a_strategy_with_a_fault_is_no_traceback(tmp_path: Path) -> None:
    file = tmp_path / "bad.yaml"
    file.write_text("stages: [50%]\n")
    result = run("--rate", "5", "--strategy", str(file))
    assert result.exit_code == 1
    assert "the last weight is 50%; add a stage of 100% behind it" in result.stderr
