"""The gate's settings: their ranges, how they are written, and what is told when they are wrong."""

import dataclasses
import math
from dataclasses import fields, replace

import pytest
from hypothesis import given
from hypothesis import strategies as some

from rollout.errors import InvalidSpec
from rollout.gate import BadHost, Errors, Gate, WhenBlind
from rollout.record import dump_strategy, load_strategy
from rollout.spec import Strategy, parse_strategy

SETTINGS = {setting.name: setting for setting in fields(Gate)}
NUMBERS = [name for name, setting in SETTINGS.items() if setting.metadata["unit"] != "word"]
WRITTEN = """
gate:
  alpha: 2%
  beta: 0.1
  margin: 0.2%
  margin_ratio: 0
  margin_budget: 10s
  tolerance: 1.5
  slow_cluster: 3
  latency_tolerance: 2
  resolution: 500ms
  max_retry_increase: 5%
  errors: grpc
  doubt: 3
  cap_nats: 4.5
  restart: 2m
  warmup: 0s
  warmup_errors: 20%
  hang_alarms: 0.001%
  hang_guard: false
  slo_errors: 2%
  slo_alpha: 0.1%
  hold_timeout: 5m
  alone_timeout: null
  min_rps: 0
  bad_rps: 0.5
  error_budget: 100
  bad_host: drain
  blind_timeout: 1h
  when_blind: ignore
"""


def test_every_setting_can_be_written() -> None:
    gate = parse_strategy(WRITTEN).gate
    assert gate == Gate(
        alpha=0.02,
        beta=0.1,
        margin=0.002,
        margin_ratio=0.0,
        margin_budget_s=10.0,
        tolerance=1.5,
        slow_cluster=3.0,
        latency_tolerance=2.0,
        resolution_s=0.5,
        max_retry_increase=0.05,
        errors=Errors.GRPC,
        doubt=3.0,
        cap_nats=4.5,
        restart_s=120.0,
        warmup_s=0.0,
        warmup_errors=0.2,
        hang_alarms=1e-5,
        hang_guard=False,
        slo_errors=0.02,
        slo_alpha=0.001,
        hold_timeout_s=300.0,
        alone_timeout_s=None,
        min_rps=0.0,
        bad_rps=0.5,
        error_budget=100,
        bad_host=BadHost.DRAIN,
        blind_timeout_s=3600.0,
        when_blind=WhenBlind.IGNORE,
    )
    for name in SETTINGS:
        assert f"  {name.removesuffix('_s')}:" in WRITTEN


def test_every_setting_says_what_it_means_in_which_unit() -> None:
    for name, setting in SETTINGS.items():
        assert setting.metadata["unit"] in ("share", "number", "duration", "word")
        assert (setting.metadata["unit"] == "duration") == name.endswith("_s")
        assert setting.metadata["meaning"][0].isupper()
        assert setting.metadata["meaning"].endswith(".")


@pytest.mark.parametrize("name", NUMBERS)
def test_both_ends_of_a_range_are_what_they_say(name: str) -> None:
    known = SETTINGS[name].metadata
    assert getattr(with_value(name, known["to"]), name) == known["to"]
    beyond = [math.nextafter(known["to"], math.inf), math.inf, math.nan, -1.0]
    if "above" in known:
        with_value(name, math.nextafter(known["above"], 1.0))
        beyond.append(known["above"])
    else:
        with_value(name, known["least"])
        beyond.append(math.nextafter(known["least"], -math.inf))
    for wrong in beyond:
        with pytest.raises(ValueError, match=rf"^{name.removesuffix('_s')} must be (above|at least) .* and at most "):
            with_value(name, wrong)


def with_value(name: str, value: float) -> Gate:
    return replace(Gate(), **{name: value})  # type: ignore[arg-type]  # a number, and none of the words


@pytest.mark.parametrize(
    ("gate", "told"),
    [
        ("{alpha: 7}", "gate: alpha: 7 is no share; write 7% or a part of 1, as 0.02"),
        ("{alpha: 0%}", "gate: alpha must be above 0 and at most 0.2, but is 0"),
        ("{alpha: true}", "gate: alpha: 'True' is no share; write it as 2% or 0.02"),
        ("{alpha: null}", "gate: alpha is empty; leave it out for 0.01"),
        ("{warmup: null}", "gate: warmup is empty; leave it out for 10.0"),
        ("{errors: null}", "gate: errors is empty; leave it out for http"),
        ("{warmup: 10}", "gate: warmup: 10 has no unit; write '10s'"),
        ("{warmup: soon}", "gate: warmup: 'soon' is no duration; write 500ms, 30s, 5m or 1h"),
        ("{warmup: 2h}", "gate: warmup must be at least 0 and at most 3600, but is 7200"),
        ("{tolerance: 0.5}", "gate: tolerance must be at least 1 and at most 10, but is 0.5"),
        ("{tolerance: .nan}", "gate: tolerance must be at least 1 and at most 10, but is nan"),
        ("{tolerance: true}", "gate: tolerance: 'True' is no number; write one, as 2"),
        ("{error_budget: yes}", "gate: error_budget: 'True' is no number; write one, as 2"),
        ("{errors: http2}", "gate.errors: must be 'http' or 'grpc', but is 'http2'"),
        ("{bad_host: keep}", "gate.bad_host: must be 'rollback' or 'drain', but is 'keep'"),
        ("{error_budget: 0}", "gate: error_budget must be at least 1 and at most 1e+09, but is 0"),
        ("{slo_errors: 101%}", "gate: slo_errors: 101% is above 100%"),
        ("strict", "gate: must be a mapping, but is 'strict'"),
        ("[strict]", "gate: must be a mapping"),
    ],
)
def test_a_wrong_setting_is_told_with_its_written_name(gate: str, told: str) -> None:
    with pytest.raises(InvalidSpec) as refused:
        parse_strategy(f"gate: {gate}", "s.yaml")
    assert str(refused.value) == f"s.yaml: {told}"


@pytest.mark.parametrize("unknown", ["min_requests", "marginn", "warmup_s", "1"])
def test_an_unknown_setting_is_told_with_those_there_are(unknown: str) -> None:
    with pytest.raises(InvalidSpec) as refused:
        parse_strategy(f"gate: {{{unknown}: 1}}")
    assert str(refused.value).startswith(f"strategy: gate: {unknown} is no setting; there are alpha, beta, margin, ")
    assert "warmup" in str(refused.value)


def test_a_written_strategy_comes_back_as_it_was() -> None:
    strategy = parse_strategy(WRITTEN)
    assert load_strategy(dump_strategy(strategy)) == strategy
    assert load_strategy(dump_strategy(Strategy())) == Strategy()


@given(
    alpha=some.floats(1e-9, 0.2),
    margin=some.floats(1e-9, 0.5),
    tolerance=some.floats(1, 10),
    milliseconds=some.integers(1_000, 86_400_000),
    budget=some.none() | some.integers(1, 10**9),
)
def test_every_value_comes_back_exactly(
    alpha: float, margin: float, tolerance: float, milliseconds: int, budget: int | None
) -> None:
    gate = Gate(alpha=alpha, margin=margin, tolerance=tolerance, restart_s=milliseconds / 1000, error_budget=budget)
    assert load_strategy(dump_strategy(Strategy(gate=gate))).gate == gate


def test_defaults_are_saved_too_so_that_a_later_release_changes_no_rollout_in_progress() -> None:
    for name in SETTINGS:
        assert f'"{name.removesuffix("_s")}":' in dump_strategy(Strategy())


def test_settings_do_not_change() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        Gate().alpha = 0.5  # type: ignore[misc]  # that is the point
