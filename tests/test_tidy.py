"""Style as a test: what no other tool here checks."""

import ast
import re
from collections.abc import Iterator, Mapping
from dataclasses import fields
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import typer.main

from rollout.api.offline import offline_document
from rollout.api.tables import with_tables
from rollout.checks import PLACEHOLDERS, CheckSpec, EnvoyMetric, PrometheusQuery, WebQuery
from rollout.cli import app as cli
from rollout.gate import Gate
from rollout.gate.checks import Outage
from rollout.spec import Stage, Strategy
from rollout.state import Command, Phase

ROOT = Path(__file__).parents[1]
BUILDING = (ROOT / "hatch_build.py", ROOT / "build_page.py")
SOURCES = sorted([*ROOT.glob("xds/**/*.py"), *ROOT.glob("rollout/**/*.py"), *BUILDING])
TESTS = sorted(ROOT.glob("tests/**/*.py"))
REFERENCE = (ROOT / "docs" / "reference.md").read_text()
FUNCTION_LINES, MODULE_LINES = 70, 500
# Structured concurrency only: app.py starts what lives as long as the server, the others end what they start.
TASKS_ALLOWED = {
    "rollout/app.py",
    "xds/edge/call.py",
    "xds/edge/grpcio.py",
    "rollout/metrics/fleet.py",
    "rollout/messenger.py",
    "rollout/prober.py",
    "rollout/healthcheck.py",
    "rollout/discovering.py",
    "rollout/lookup/dns.py",
    "rollout/notify/notifier.py",
    "rollout/demo/load.py",
    "rollout/demo/__main__.py",
    "rollout/demo/rehearsal.py",
}


def name(path: Path) -> str:
    return str(path.relative_to(ROOT))


def functions(tree: ast.AST) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    return (node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))


@pytest.mark.parametrize("path", SOURCES, ids=name)
def test_module_is_small_and_says_what_lives_here(path: Path) -> None:
    text = path.read_text()
    assert len(text.splitlines()) <= MODULE_LINES
    assert not text or ast.get_docstring(ast.parse(text)), "begin with one sentence in a docstring"


@pytest.mark.parametrize("path", [*SOURCES, *TESTS], ids=name)
def test_functions_fit_on_a_screen_and_import_nothing(path: Path) -> None:
    tree = ast.parse(path.read_text())
    for function in functions(tree):
        assert (function.end_lineno or 0) - function.lineno < FUNCTION_LINES, function.name
        inside = [node for node in ast.walk(function) if isinstance(node, ast.Import | ast.ImportFrom)]
        assert not inside, f"{function.name} imports inside"


@pytest.mark.parametrize("path", SOURCES, ids=name)
def test_tasks_are_started_only_where_they_are_owned(path: Path) -> None:
    if name(path) not in TASKS_ALLOWED:
        assert not re.search(r"\b(create_task|ensure_future)\(", path.read_text())


@pytest.mark.parametrize("path", [*SOURCES, *TESTS], ids=name)
def test_nothing_is_patched_and_nothing_is_left_to_do(path: Path) -> None:
    if path != Path(__file__):
        assert not re.search(r"\b(mock\.patch|monkeypatch\.setattr|TODO|FIXME)\b", path.read_text())


@pytest.mark.parametrize("path", [path for path in TESTS if path.name.startswith("test_")], ids=name)
def test_tests_wait_for_something_not_for_a_time(path: Path) -> None:
    """A bare sleep of some length is a guess; sleep(0) and sleeps inside a polling loop are not."""
    tree = ast.parse(path.read_text())
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "time.sleep":
            raise AssertionError(f"line {node.lineno}")


def commands(group: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield every verb with its command, those of groups too."""
    for verb, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from commands(command, f"{prefix}{verb} ")
        else:
            yield f"{prefix}{verb}", command


def test_every_cli_verb_and_option_is_documented() -> None:
    verbs = dict(commands(typer.main.get_command(cli)))
    assert "config reload" in verbs
    for verb, command in verbs.items():
        assert f"rollout {verb}" in REFERENCE, verb
        for parameter in command.params:
            for option in parameter.opts:
                if option.startswith("--"):
                    assert option in REFERENCE, f"{verb} {option}"


def test_every_setting_is_documented() -> None:
    for model in (Strategy, Stage, CheckSpec, PrometheusQuery, WebQuery):
        for field, info in model.model_fields.items():
            assert f"`{info.alias or field}`" in REFERENCE, f"{model.__name__}.{field}"
    for word in (*EnvoyMetric, *Outage, *(f"${name}" for name in PLACEHOLDERS)):
        assert f"`{word}`" in REFERENCE, word


def test_every_setting_of_the_gate_is_documented_as_it_is() -> None:
    for setting in fields(Gate):
        name, known = setting.name.removesuffix("_s"), setting.metadata
        default = "none" if setting.default is None else f"`{written(known['unit'], setting.default)}`"
        assert f"| `{name}` | {default} | {limits(setting.type, known)} | {known['meaning']} |" in REFERENCE, name


def limits(type_: Any, known: Mapping[str, Any]) -> str:
    """What a value may be: one of some words, or from here to there."""
    if known["unit"] == "word":
        return " or ".join(f"`{word}`" for word in (("true", "false") if type_ is bool else type_))
    least = (
        f"above {written(known['unit'], known['above'])}"
        if "above" in known
        else written(known["unit"], known["least"])
    )
    return f"{least} to {written(known['unit'], known['to'])}"


def written(unit: str, value: Any) -> str:
    """A value as a strategy's file has it."""
    match unit:
        case "share":
            return f"{100 * value:.6g}%"
        case "duration" if value >= 3600:
            return f"{value / 3600:g}h"
        case "duration" if 0 < value < 1:
            return f"{1000 * value:g}ms"
        case "duration":
            return f"{value:g}s"
        case "word":
            return str(value).lower()
        case _:
            return f"{value:,.2f}".rstrip("0").rstrip(".")


def test_every_route_of_the_api_is_documented() -> None:
    document, page = offline_document(), (ROOT / "docs" / "api.md").read_text()
    routes = [(path, method) for path, operations in document["paths"].items() for method in operations]
    assert len(routes) > 20
    for path, method in routes:
        assert f"`{method.upper()} {path}`" in page, path
    assert page == with_tables(page, document), "make its tables again: rollout openapi --into docs"


def test_every_metric_is_documented() -> None:
    source = "".join(path.read_text() for path in (ROOT / "rollout" / "signals").glob("*.py"))
    metrics = re.findall(r'"(rollout_[a-z_]+)"', source)
    assert len(metrics) > 4
    for metric in metrics:
        assert metric in REFERENCE, metric


def test_every_phase_and_command_is_documented() -> None:
    for word in (*Phase, *Command):
        assert f"`{word}`" in REFERENCE, word


def test_readme_names_files_that_exist() -> None:
    text = (ROOT / "README.md").read_text()
    for target in re.findall(r"\]\((?!https?://|#)([^)#]+)", text):
        assert (ROOT / target).exists(), target


def test_changelog_begins_with_what_comes_next() -> None:
    headings = re.findall(r"^## (.+)$", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert headings
    assert headings[0] == "Unreleased"
    assert all(later != earlier for later, earlier in pairwise(headings))
