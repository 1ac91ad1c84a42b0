"""The JSON schema of strategies: published as it is made, true to what the parser takes, and refusing what it can."""

import json
import re
from collections.abc import Iterator
from datetime import date
from pathlib import Path
from typing import Any

import pytest
import yaml
from jsonschema import Draft7Validator
from typer.testing import CliRunner

from rollout.cli import app
from rollout.errors import InvalidSpec
from rollout.meanings import MEANINGS
from rollout.schema import strategy_schema
from rollout.spec import Strategy, parse_strategy

ROOT = Path(__file__).parents[2]
SCHEMA = strategy_schema()
VALIDATOR = Draft7Validator(SCHEMA)
GOOD = (
    "",
    "stages: [0.01%, '33.33 %', 100.0%]",
    "stages: [{match: {headers: {x-beta: '1'}}}, 100%]",
    "stages: [{match: [{headers: {X-Team: {prefix: a}}}, {cookies: {beta: {present: true}}}], hold: 1m}, 100%]",
    "stages: [{mirror: 25%, approve: true}, {expose: false}, {weight: 100%, expose: true, on_timeout: rollback}]",
    "waves: [{locations: [eu-1, us/us-1]}, {locations: 10%, stages: [5%, 100%]}, {locations: all}]",
    "on_failure: location",
    "gate: {alpha: 1%, margin: 0.002, warmup: 10s, errors: grpc, hang_guard: false, alone_timeout: null, min_rps: 0}",
    "checks: [{metric: p99, max: 250ms, interval: 30s}, {metric: error_share, max: 0.02}, {metric: p50, max: 5s}]",
    "checks: [{command: [smoke.sh, $candidate]}, {web: {url: 'https://a/b', path: [data, 0]}, min: 1}]",
    "checks: [{prometheus: {url: 'http://p:9090', query: up, headers: {a: b}}, max: 0.8, outage: ignore, name: x}]",
    "hooks: [{at: event, url: 'https://a/b', secret: ROLLOUT_HOOK_KEY}, {at: pre-rollout, command: migrate}]",
    "hooks: [{at: confirm-promotion, command: [ask.sh, prod], reversible: false, retries: 0, backoff: 0s}]",
    "preview: off",
    "preview: {header: x-version, external: false}",
    "sticky: {header: x-user}",
    "sticky: {cookie: id, ttl: 24h}",
    "ready: 50%\nmin_healthy: 0.25\nprobe: {http: /healthz, port: 9000, host: a}",
    "probe: {grpc: ''}",
    "probe: {tcp: true, healthy: 2}",
    "disconnected: fail",
    "disconnected: {policy: wait, for: 2m}",
    'freeze: {timezone: Europe/Berlin, windows: [{days: [fri], from: "16:00", to: "24:00", reason: weekend}]}',
    "freeze: {windows: [{dates: [2026-12-20, 2027-01-02]}]}",
    "hold_back: 30m\nkeep_stable: 10m\nrollback_window: 2h\ndrain_timeout: 0s\nwarm_timeout: 5m\nprogress_deadline: 1h",
    "abort: gradual\npromote: gradual\ngradual_step: 500ms",
)
BAD = (
    "stage: [100%]",
    "stages: []",
    "stages: 100%",
    "stages: [0%, 100%]",
    "stages: [10, 100%]",
    "stages: [10%, 101%]",
    "stages: [0.001%, 100%]",
    "stages: [{hold: 5s}, 100%]",
    "stages: [{weight: 10%, mirror: 5%}, 100%]",
    "stages: [{weight: 10%, expose: false}, 100%]",
    "stages: [{mirror: 5%, match: {headers: {a: b}}}, 100%]",
    "stages: [{weight: 100%, hold: 5}]",
    "stages: [{weight: 100%, hold: 5 minutes}]",
    "stages: [{weight: 100%, timeout: 0s}]",
    "stages: [{weight: 100%, on_timeout: retry}]",
    "stages: [{match: {}}, 100%]",
    "stages: [{match: {headers: {a: {exact: b, prefix: c}}}}, 100%]",
    "stages: [{match: {headers: {a: {present: false}}}}, 100%]",
    "stages: [{match: {headers: {Host: b}}}, 100%]",
    "stages: [{match: {headers: {x-envoy-a: b}}}, 100%]",
    "waves: [{locations: eu-1}, {locations: all}]",
    "waves: [{locations: []}, {locations: all}]",
    "waves: [{locations: all}]\nstages: [{mirror: 5%}, 100%]",
    "gate: {alfa: 1%}",
    "gate: {alpha: 1 %%}",
    "gate: {warmup: 10}",
    "gate: {min_rps: yes}",
    "gate: {errors: tcp}",
    "gate: {tolerance: 0.5}",
    "checks: [{metric: p99, max: 5}]",
    "checks: [{metric: p99}]",
    "checks: [{metric: p99, command: [a], max: 5ms}]",
    "checks: [{command: smoke.sh}]",
    "checks: [{web: {url: 'ftp://a'}, max: 1}]",
    "hooks: [{at: sometimes, command: a}]",
    "hooks: [{at: event}]",
    "hooks: [{at: event, url: 'https://a', command: b}]",
    "hooks: [{at: event, command: b, reversible: false}]",
    "hooks: [{at: event, command: ../b}]",
    "hooks: [{at: event, url: 'https://a', secret: hunter2}]",
    "hooks: [{at: event, command: a, secret: ROLLOUT_HOOK_KEY}]",
    "preview: on",
    "sticky: {header: a, cookie: b}",
    "sticky: {}",
    "sticky: {header: a, ttl: 5m}",
    "ready: 200%",
    "probe: {}",
    "probe: {http: healthz}",
    "probe: {tcp: true, host: a}",
    "disconnected: {policy: panic}",
    "freeze: {windows: []}",
    "freeze: {windows: [{from: 16:30}]}",
    "freeze: {windows: [{days: [friday]}]}",
    "freeze: {windows: [{days: [fri], dates: [2026-12-20, 2027-01-02]}]}",
    "hold_back: soon",
    "abort: slowly",
    "progress_deadline: 0s",
)
BEYOND = (  # what JSON schema has no words for
    "stages: [10%, 5%, 100%]",
    "stages: [10%, 50%]",
    "stages: [10%, {mirror: 5%}, 100%]",
    "stages: [{weight: 100%, hold: 1000h}]",
    "waves: [{locations: [eu-1]}]",
    "gate: {alpha: 50%}",
    "gate: {warmup: 100h}",
    "checks: [{metric: p99, min: 5ms, max: 1ms}]",
    "checks: [{metric: p99, max: 5ms}, {metric: p99, max: 6ms}]",
    "checks: [{metric: p99, max: 5ms, interval: 10ms}]",
    "checks: [{command: [a, $nobody]}]",
    "hooks: [{at: event, command: a}, {at: event, command: a}]",
    "freeze: {timezone: Mars/Base, windows: [{}]}",
    "freeze: {windows: [{dates: [2027-01-02, 2026-12-20]}]}",
)


def as_an_editor_sees_it(value: Any) -> Any:
    """YAML 1.1 of Python has dates, which are texts to editors and to JSON."""
    match value:
        case dict():
            return {key: as_an_editor_sees_it(each) for key, each in value.items()}
        case list():
            return [as_an_editor_sees_it(each) for each in value]
        case date():
            return value.isoformat()
        case _:
            return value


def refusals(text: str) -> list[str]:
    document = as_an_editor_sees_it(yaml.safe_load(text) or {})
    return [error.message for error in VALIDATOR.iter_errors(document)]


def examples() -> Iterator[tuple[str, str]]:
    """Yield every strategy that the docs show: YAML that does not begin with a list of envoy-configs."""
    for page in (ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))):
        for number, block in enumerate(re.findall(r"```yaml\n(.*?)```", page.read_text(), re.DOTALL)):
            first, *others = yaml.safe_load_all(block)
            if others or not isinstance(first, dict) or "kind" in first:  # documents, which have a schema of their own
                continue
            if first.keys() & {*Strategy.model_fields, "hold_back"}:
                yield f"{page.relative_to(ROOT)}[{number}]", block


def test_the_published_schema_is_the_one_that_the_code_makes() -> None:
    published = ROOT / "docs" / "strategy.schema.json"
    assert published.read_text() == json.dumps(SCHEMA, indent=2) + "\n", (
        "write it anew: rollout schema > docs/strategy.schema.json"
    )
    assert CliRunner().invoke(app, ["schema"]).stdout == published.read_text()


def test_the_schema_is_one() -> None:
    Draft7Validator.check_schema(SCHEMA)


@pytest.mark.parametrize("text", GOOD)
def test_what_the_parser_takes_the_schema_takes(text: str) -> None:
    parse_strategy(text)
    assert refusals(text) == []


@pytest.mark.parametrize(("name", "text"), [*examples()])
def test_examples_in_the_docs_validate(name: str, text: str) -> None:
    parse_strategy(text, name)
    assert refusals(text) == []


@pytest.mark.parametrize("text", BAD)
def test_what_the_parser_refuses_the_schema_refuses(text: str) -> None:
    with pytest.raises(InvalidSpec):
        parse_strategy(text)
    assert refusals(text)


@pytest.mark.parametrize("text", BEYOND)
def test_what_only_the_parser_refuses_is_known(text: str) -> None:
    with pytest.raises(InvalidSpec):
        parse_strategy(text)
    assert refusals(text) == []


def settings(part: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = part.get("properties") or part.get("anyOf", [{}])[-1].get("properties", {})
    return found


def test_every_setting_has_a_meaning_and_every_meaning_a_setting() -> None:
    parts = {"Strategy": SCHEMA, **SCHEMA["$defs"]}
    known = {(name, setting) for name, part in parts.items() for setting in settings(part)}
    assert all(shape.get("description") for part in parts.values() for shape in settings(part).values())
    assert {(name, setting) for name, each in MEANINGS.items() for setting in each} == {
        (name, setting) for name, setting in known if name != "Gate"
    }


def test_defaults_are_shown_as_they_are_written() -> None:
    strategy, stage = settings(SCHEMA), settings(SCHEMA["$defs"]["Stage"])
    assert (strategy["warm_timeout"]["default"], stage["hold"]["default"]) == ("2m", "5s")
    assert settings(SCHEMA["$defs"]["Gate"])["warmup"]["default"] == "10s"
    written = {name: shape["default"] for name, shape in strategy.items() if "default" in shape}
    assert parse_strategy(yaml.safe_dump(written)) == Strategy()
