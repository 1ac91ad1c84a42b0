"""`rollout simulate`: traces with known numbers, the ends of stages and rollouts, and lines that are wrong."""

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from rollout.cli import app

ROOT = Path(__file__).parents[2]
LIMIT_S = 60.0
HISTORY = {"history": {"errors": 0.001, "p95": 0.05, "p95_late": 0.018, "p99": 0.01, "p99_late": 0.003}}
Json = dict[str, Any]


def counts(requests: int, errors: int, slow: Sequence[int] = (), late: Sequence[int] = ()) -> Json:
    """One version's increments; without `slow` and `late` it has no such keys."""
    found: Json = {"requests": requests, "errors": errors}
    if slow:
        found["slow"] = dict(zip(("p75", "p95", "p99", "p999"), slow, strict=True))
    if late:
        found["late"] = dict(zip(("p95", "p99"), late, strict=True))
    return found


def look(t: float, stable: Json, candidate: Json, weight_bp: int = 100) -> Json:
    return {"t": t, "strata": [{"weight_bp": weight_bp, "stable": stable, "candidate": candidate}]}


HEALTHY = (counts(990, 1, (247, 50, 10, 1), (18, 3)), counts(10, 0, (2, 0, 0, 0), (0, 0)))


def healthy(t: float) -> Json:
    return look(t, *HEALTHY)


def simulate(tmp_path: Path, lines: Iterable[Json | str], strategy: str = "", *options: str) -> Result:
    samples, file = tmp_path / "looks.jsonl", tmp_path / "strategy.yaml"
    samples.write_text("".join(f"{line if isinstance(line, str) else json.dumps(line)}\n" for line in lines))
    file.write_text(strategy)
    return CliRunner().invoke(app, ["simulate", "--strategy", str(file), "--samples", str(samples), *options])


def decisions(tmp_path: Path, lines: Iterable[Json | str], strategy: str = "") -> list[Json]:
    result = simulate(tmp_path, lines, strategy, "--json")
    assert result.exit_code == 0, result.output
    return [json.loads(line) for line in result.stdout.splitlines()]


def verdicts(tmp_path: Path, lines: Iterable[Json | str], strategy: str = "") -> list[str]:
    return [decision["verdict"] for decision in decisions(tmp_path, lines, strategy)]


def test_a_healthy_candidate_is_promoted_at_its_seventh_look(tmp_path: Path) -> None:
    answers = decisions(tmp_path, [HISTORY, *(healthy(t) for t in range(1, 9))])
    assert [answer["verdict"] for answer in answers] == ["keep"] * 6 + ["promote", "keep"]
    assert [answer["stage"] for answer in answers] == [0] * 7 + [1]
    assert list(answers[0]) == ["t", "verdict", "stage", "log_e_rollback", "log_e_promote"]
    for number, against, passing in (
        (1, -1.244138, (0.484550, 0.817593, 0.565734)),
        (5, -1.629220, (2.422751, 4.094631, 2.837983)),
    ):
        assert answers[number - 1]["log_e_rollback"] == pytest.approx(against, abs=1e-6)
        named = dict(zip(("errors", "p95", "p99"), passing, strict=True))
        assert answers[number - 1]["log_e_promote"] == pytest.approx(named, abs=1e-6)
    assert answers[6]["log_e_rollback"] == pytest.approx(-1.065799, abs=1e-6)  # after the restart for the next stage


@pytest.mark.parametrize(
    ("stable", "candidate", "against"),
    [
        pytest.param(counts(990, 0), counts(10, 1), (0.956856, 3.640529, 6.563346), id="one error a look"),
        pytest.param(counts(990, 1), counts(10, 10), (1.662293, 4.616181), id="all of its requests fail"),
    ],
)
def test_a_bad_candidate_is_rolled_back(
    tmp_path: Path, stable: Json, candidate: Json, against: tuple[float, ...]
) -> None:
    answers = decisions(tmp_path, [HISTORY, *(look(t, stable, candidate) for t in range(1, len(against) + 1))])
    assert [answer["verdict"] for answer in answers] == ["keep"] * (len(against) - 1) + ["rollback"]
    assert [answer["log_e_rollback"] for answer in answers] == pytest.approx(against, abs=1e-6)


def test_an_outage_of_both_versions_decides_nothing(tmp_path: Path) -> None:
    answers = decisions(tmp_path, [HISTORY, *(look(t, counts(900, 450), counts(100, 50)) for t in range(1, 11))])
    assert {answer["verdict"] for answer in answers} == {"keep"}
    assert answers[-1]["log_e_rollback"] == pytest.approx(-1.386294, abs=1e-6)
    latencies = [answer["log_e_promote"]["p95"] for answer in answers]
    assert latencies == sorted(latencies)  # of one proof, though another has begun meanwhile
    assert answers[-1]["log_e_promote"]["errors"] < -90


def test_the_history_is_optional_and_the_usual_one_by_default(tmp_path: Path) -> None:
    looks = [healthy(t) for t in range(1, 8)]
    assert decisions(tmp_path, looks) == decisions(tmp_path, [HISTORY, *looks])


def test_errors_that_come_in_clusters_say_less(tmp_path: Path) -> None:
    looks = [look(t, counts(990, 0), counts(10, 1)) for t in range(1, 4)]
    assert verdicts(tmp_path, [{"history": {"phi": 4}}, *looks]) == ["keep"] * 3


def test_a_whole_rollout_ends_after_its_last_stage_and_says_what_it_left_out(tmp_path: Path) -> None:
    stages = "stages: [{weight: 1%, hold: 2s}, {weight: 100%, hold: 1s}]\n"
    alone = look(10, counts(0, 0), counts(1000, 1), 10_000)
    lines = [healthy(1), *(look(t, counts(9900, 9), counts(1000, 1)) for t in (2, 3, 4)), alone, alone | {"t": 11}]
    result = simulate(tmp_path, lines, stages, "--json")
    answers = [json.loads(line) for line in result.stdout.splitlines()]
    assert [(answer["verdict"], answer["stage"]) for answer in answers][-2:] == [("promote", 0), ("promote", 1)]
    left = len(lines) - len(answers)
    assert left > 0
    assert (
        result.stderr
        == f"note: {tmp_path}/looks.jsonl: the rollout is over, so {left} more line{'s' * (left > 1)} did not count\n"
    )


def test_a_stage_lasts_at_least_its_hold_from_the_look_that_promoted_into_it(tmp_path: Path) -> None:
    plenty = [look(t, counts(99_000, 10), counts(1000, 0)) for t in (100, 103, 104, 105, 108, 109)]
    answers = decisions(tmp_path, plenty)
    assert [(answer["verdict"], answer["stage"]) for answer in answers] == [
        ("keep", 0),
        ("keep", 0),
        ("promote", 0),  # the stage began a second before its first look
        ("keep", 1),
        ("keep", 1),
        ("promote", 1),
    ]


def test_nothing_is_promoted_when_the_time_is_over_but_a_bad_one_is_still_taken_back(tmp_path: Path) -> None:
    quiet = [look(t, counts(99, 0), counts(1, 0)) for t in (1, 10, 299, 300)]
    plenty = [look(t, counts(99_000, 10), counts(1000, 0)) for t in (301, 302)]
    broken = [look(t, counts(990, 0), counts(10, 10)) for t in range(303, 310)]
    found = verdicts(tmp_path, [*quiet, *plenty, *broken])
    assert found[:6] == ["keep"] * 3 + ["timeout"] * 3
    assert found[-1] == "rollback"
    assert set(found[6:-1]) <= {"timeout"}
    quick = verdicts(tmp_path, quiet, "stages: [{weight: 1%, timeout: 8s}, 100%]\n")
    assert quick == ["keep", "timeout", "timeout", "timeout"]


def test_a_candidate_above_its_service_level_holds_while_stable_is_as_ill(tmp_path: Path) -> None:
    ill = [look(t, counts(500, 100), counts(500, 100), 5000) for t in range(1, 6)]
    found = verdicts(tmp_path, ill, "gate: {slo_errors: 1%}\n")
    assert found[-1] == "hold"
    assert "rollback" not in found


def test_a_candidate_that_gets_no_traffic_holds(tmp_path: Path) -> None:
    nothing = [look(t, counts(50_000, 5), counts(0, 0)) for t in (1, 2)]
    assert verdicts(tmp_path, nothing, "gate: {hang_guard: false}\n") == ["hold", "hold"]
    assert verdicts(tmp_path, [{"t": 1, "strata": []}]) == ["hold"]


def test_envoys_that_send_one_version_only_compare_nothing(tmp_path: Path) -> None:
    for weight_bp, stable, candidate in ((0, 1000, 0), (10_000, 0, 1000)):
        [answer] = decisions(tmp_path, [look(1, counts(stable, stable), counts(candidate, candidate), weight_bp)])
        assert answer["log_e_rollback"] == pytest.approx(-0.693147, abs=1e-6)
        assert answer["log_e_promote"] == {"errors": 0, "p95": 0, "p99": 0}
        assert answer["verdict"] in ("keep", "hold")


def test_people_get_a_table_with_the_reasons(tmp_path: Path) -> None:
    result = simulate(tmp_path, [look(t, counts(990, 0), counts(10, 1)) for t in range(1, 4)])
    header, *rows = result.stdout.splitlines()
    assert header.split()[:3] == ["t", "stage", "weight"]
    assert rows[-1].split()[:6] == ["3", "1", "1", "%", "rollback", "709"]
    assert "3 errors in 30 requests of the candidate against 0 in 2,970 of stable" in rows[-1]


def test_checks_are_left_out_and_it_says_so(tmp_path: Path) -> None:
    result = simulate(tmp_path, [healthy(1)], "checks: [{name: errors, metric: error_share, max: 1%}]\n", "--json")
    assert (result.exit_code, len(result.stdout.splitlines())) == (0, 1)
    assert result.stderr == f"note: the checks of {tmp_path}/strategy.yaml are not measured here\n"


GOOD = json.dumps(healthy(1))


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        ([GOOD, "{"], "looks.jsonl:2: is no JSON: "),
        (["7"], "looks.jsonl:1: must be a JSON object, but is 7"),
        ([GOOD, "", GOOD.replace('"t": 1', '"t": 0.5')], "looks.jsonl:3: t: 0.5 comes after 1; looks must be in"),
        ([GOOD.replace('"t": 1', '"t": NaN')], "looks.jsonl:1: t: must be a finite number, but is nan"),
        ([GOOD.replace('"t": 1', '"t": "1"')], "looks.jsonl:1: t: must be a valid number, but is '1'"),
        ([GOOD.replace('"t": 1, ', "")], "looks.jsonl:1: t: is missing"),
        ([GOOD.replace('"t"', '"time": 1, "t"')], "looks.jsonl:1: time: is nothing that is known here"),
        (
            [GOOD.replace('"requests": 10,', '"requests": -1,')],
            "strata[0].candidate.requests: must be greater than or equal to 0, but is -1",
        ),
        ([GOOD.replace('"requests": 10,', '"requests": 1.5,')], "strata[0].candidate.requests: must be a whole number"),
        (
            [GOOD.replace('"requests": 10,', '"requests": true,')],
            "strata[0].candidate.requests: must be a whole number",
        ),
        (
            [GOOD.replace('"weight_bp": 100', '"weight_bp": 10001')],
            "strata[0].weight_bp: must be less than or equal to",
        ),
        (
            [look(1, counts(5, 7), counts(1, 0))],
            "looks.jsonl:1: strata[0].stable.errors: 7 is more than its 5 requests",
        ),
        (
            [look(1, counts(5, 0), counts(1, 0, (2, 0, 0, 0)))],
            "strata[0].candidate.slow.p75: 2 is more than its 1 requests",
        ),
        ([{"history": {"errors": 2}}], "looks.jsonl:1: history.errors: must be less than or equal to 1, but is 2"),
        ([GOOD, HISTORY], "looks.jsonl:2: history: it may stand in the first line only"),
        ([HISTORY], "there is no look in the samples"),
        (["\udcff"], "looks.jsonl:1: "),
        ([" " * 1024 * 1024 + GOOD], "looks.jsonl:1: is longer than"),
    ],
)
def test_a_wrong_line_is_named(tmp_path: Path, lines: Sequence[Json | str], expected: str) -> None:
    text = "".join(f"{line if isinstance(line, str) else json.dumps(line)}\n" for line in lines)
    samples, strategy = tmp_path / "looks.jsonl", tmp_path / "strategy.yaml"
    samples.write_bytes(text.encode("utf-8", "surrogateescape"))
    strategy.write_text("")
    result = CliRunner().invoke(app, ["simulate", "--strategy", str(strategy), "--samples", str(samples), "--json"])
    assert result.exit_code == 1
    assert result.stderr.startswith("error: ")
    assert expected in result.stderr
    assert len(result.stderr.splitlines()) == 1


def test_a_whole_number_may_be_written_as_a_fraction(tmp_path: Path) -> None:
    fraction = GOOD.replace("990", "990.0").replace(": 10,", ": 10.0,").replace(": 100,", ": 1e2,")
    assert fraction != GOOD
    assert decisions(tmp_path, [fraction]) == decisions(tmp_path, [GOOD])


def test_what_was_judged_before_a_wrong_line_is_told(tmp_path: Path) -> None:
    result = simulate(tmp_path, [healthy(1), "nonsense"], "", "--json")
    assert (result.exit_code, len(result.stdout.splitlines())) == (1, 1)


def test_wrong_usage_and_a_wrong_strategy_are_told_apart(tmp_path: Path) -> None:
    assert simulate(tmp_path, [healthy(1)], "", "--nonsense").exit_code == 2
    assert CliRunner().invoke(app, ["simulate", "--strategy", str(tmp_path / "none"), "--samples", "-"]).exit_code == 2
    wrong = simulate(tmp_path, [healthy(1)], "stages: [10%, 5%, 100%]\n")
    assert (wrong.exit_code, "strategy.yaml: stages" in wrong.stderr) == (1, True)


def test_a_pipe_is_answered_line_by_line(tmp_path: Path) -> None:
    strategy = tmp_path / "strategy.yaml"
    strategy.write_text("")
    process = subprocess.Popen(
        [sys.executable, "-m", "rollout.cli", "simulate", "--strategy", strategy, "--samples", "-", "--json"],
        cwd=ROOT,
        env=dict(os.environ),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    watchdog = threading.Timer(LIMIT_S, process.kill)
    watchdog.start()
    with process:
        assert process.stdin is not None
        assert process.stdout is not None
        for t in range(1, 4):
            process.stdin.write(f"{json.dumps(look(t, counts(990, 0), counts(10, 1)))}\n")
            process.stdin.flush()
            assert json.loads(process.stdout.readline())["t"] == t
        assert process.stdout.read() == ""  # rolled back: it ends though the pipe goes on
    watchdog.cancel()
    watchdog.join()
    assert process.returncode == 0
