"""`rollout lint FILE` of strategies: every fault with its path and line, and what is allowed but unwise."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from rollout.cli import app
from rollout.linting import lint

WRONG = """\
stages:
- weight: 10%
  hold: 5
- { weight: 100%, aprove: true }
gate:
  alfa: 1%
  warmup: soon
hold_back: later
hooks:
- { at: event }
stages: [100%]
"""


def rollout(*words: str) -> Result:
    return CliRunner().invoke(app, [*words])


def test_all_faults_are_told_at_once_each_with_its_line() -> None:
    found = {(each.path, each.line) for each in lint(WRONG.removesuffix("stages: [100%]\n")).faults}
    assert found == {
        ("stages[0].hold", 3),
        ("stages[1].aprove", 4),
        ("gate.alfa", 6),
        ("gate.warmup", 7),
        ("hold_back", 8),
        ("hooks[0]", 10),
    }


def test_a_setting_that_stands_twice_is_a_fault() -> None:
    found = lint("stages: [10%, 100%]\ngate: { alpha: 1%, alpha: 2% }\nstages: [100%]\n").faults
    assert [(each.path, each.line, each.what) for each in found] == [
        ("gate.alpha", 2, "stands twice; leave one out"),
        ("stages", 3, "stands twice; leave one out"),
    ]


@pytest.mark.parametrize(
    ("text", "line", "what"),
    [
        ("stages: [10%\nready: 1", 2, "is no YAML"),
        ("- 10%\n- 100%", 1, "must be a mapping, but is a list"),
        ("stages: [10%, 5%, 100%]", 1, "5% comes after 10%"),
        ("stages: [96%, 100%]\nhold_back: 5m", 1, "95% comes after 96%"),
        ("stages: 5\nhold_back: 5m", 1, "must be a list"),
        ("\nwaves: [{locations: 5}]", 2, "'5' is no list of locations"),
        ("gate: 5", 1, "must be"),
    ],
)
def test_a_fault_has_the_line_of_what_is_wrong(text: str, line: int, what: str) -> None:
    faults = lint(text).faults
    assert [each.line for each in faults] == [line]
    assert what in faults[0].what


@pytest.mark.parametrize(
    ("text", "path", "what"),
    [
        ("stages: [100%]", "stages", "all traffic moves in one push"),
        ("stages: [{weight: 10%, hold: 0s}, 100%]", "stages[0].hold", "a few looks may end this stage"),
        ("stages: [{expose: false, approve: true}, 100%]\npreview: off\nkeep_stable: 5m", "stages[0].expose", "nobody"),
        ("stages: [{mirror: 25%}, 10%, 100%]", "stages[0]", "nothing judges it"),
        ("stages: [{weight: 10%, timeout: 5s}, 100%]", "stages[0].timeout", "before the gate's warmup of 10s"),
        (
            "checks: [{metric: p99, max: 1s, interval: 10m}]",
            "stages[0].timeout",
            "the check 'p99' has a reading, after 600s",
        ),
        ("stages: [{weight: 10%, hold: 2h}, 100%]\nprogress_deadline: 1h", "stages[0].hold", "progress_deadline"),
        ("stages: [{expose: false, approve: true}, 100%]", "keep_stable", "nothing is left to go back to"),
        ("drain_timeout: 0s", "drain_timeout", "cuts every request"),
        ("ready: 30%", "min_healthy", "50% is above ready (30%)"),
        ("gradual_step: 10s", "gradual_step", "has no effect"),
        ("freeze: {windows: [{}]}", "freeze", "covers the whole week"),
        ("waves: [{locations: all}]", "waves", "all locations at the same time"),
        ("on_failure: location", "on_failure", "without waves"),
        ("preview: {external: true}", "preview.external", "anybody on the internet"),
        ("sticky: {header: a}\nstages: [{match: {headers: {a: b}}}, 100%]\nkeep_stable: 1m", "sticky", "no effect"),
        ("hold_back: 2h\nprogress_deadline: 1h", "hold_back", "not shorter than progress_deadline"),
    ],
)
def test_what_is_allowed_but_unwise_is_a_warning(text: str, path: str, what: str) -> None:
    linted = lint(text)
    assert linted.faults == ()
    found = {each.path: each.what for each in linted.warnings}
    assert what in found[path]


@pytest.mark.parametrize("text", ["", "stages: [1%, 10%, 50%, 100%]", "hold_back: 10m", "abort: gradual"])
def test_the_usual_has_no_warning(text: str) -> None:
    assert lint(text).warnings == ()


def test_lint_of_files_tells_each_and_exits_by_the_worst(tmp_path: Path) -> None:
    good, bad, unwise = (tmp_path / f"{name}.yaml" for name in ("good", "bad", "unwise"))
    good.write_text("stages: [{mirror: 5%, approve: true}, 10%, 100%]\n")
    bad.write_text("stages: [10%]\nready: 200%\n")
    unwise.write_text("stages: [100%]\n")
    result = rollout("lint", str(good), str(unwise))
    assert result.exit_code == 0
    assert f"{good} is fine; stages: mirror 5 %, 10 %, 100 %" in result.stdout
    assert f"warning: {unwise}:1: stages: all traffic" in result.stdout
    result = rollout("lint", str(good), str(bad))
    assert result.exit_code == 1
    assert f"error: {bad}:1: stages: the last weight is 10%; add a stage of 100% behind it" in result.stdout
    assert f"error: {bad}:2: ready: 200% is above 100%" in result.stdout
    answer = json.loads(rollout("lint", str(bad), "--json").stdout)["strategies"][0]
    assert answer["problems"][1] == {"path": "ready", "line": 2, "what": "200% is above 100%"}


def test_a_file_of_envoy_configs_is_known_as_one(tmp_path: Path) -> None:
    file = tmp_path / "shop.yaml"
    file.write_text("clusters: []\n")
    result = rollout("lint", str(file))
    assert result.exit_code == 1
    assert f"is a file of envoy-configs, not a strategy; give its folder: rollout lint {tmp_path}" in result.stdout


def test_a_folder_beside_files_is_wrong_usage(tmp_path: Path) -> None:
    file = tmp_path / "a.yaml"
    file.write_text("")
    assert rollout("lint", str(tmp_path), str(file)).exit_code == 2
    assert rollout("lint", str(tmp_path / "nothing")).exit_code == 2
