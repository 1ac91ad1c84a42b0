"""The stages as they will be: weights at low traffic, and the margin of each."""

import pytest

from rollout.gate import Gate, Past, Step, steps
from rollout.gate.betting import provable_margin

WEIGHTS_BP = (100, 1_000, 5_000, 10_000)
GATE = Gate()


def planned(gate: Gate = GATE, **past: float) -> tuple[Step, ...]:
    return steps(WEIGHTS_BP, gate, Past(**past))  # type: ignore[arg-type]  # the numbers among Past's own fields


def weights_bp(plan: tuple[Step, ...]) -> list[int]:
    return [step.weight_bp for step in plan]


def test_the_margin_of_a_step_bounds_what_the_next_one_wagers() -> None:
    assert planned() == (
        Step(0, 100, 1_000, 0.05),
        Step(1, 1_000, 5_000, 0.01),
        Step(2, 5_000, 10_000, 0.005),
        Step(3, 10_000, None, 0.005),
    )


def test_enough_traffic_changes_nothing() -> None:
    assert planned(rate_rps=1_000.0) == planned(rate_rps=1e6) == planned()


def test_a_rate_that_has_faded_to_almost_nothing_is_the_lowest_traffic() -> None:
    """So a rate looks after a night without a request."""
    assert (
        planned(rate_rps=1e-310) == planned(rate_rps=1e-3) == (Step(0, 5_000, 10_000, 1.0), Step(3, 10_000, None, 1.0))
    )


@pytest.mark.parametrize(
    ("rate_rps", "expected"),
    [
        (1_000.0, [(0, 100), (1, 1_000), (2, 5_000), (3, 10_000)]),
        (500.0, [(0, 200), (1, 1_000), (2, 5_000), (3, 10_000)]),
        (100.0, [(0, 1_000), (2, 5_000), (3, 10_000)]),
        (30.0, [(0, 3_333), (2, 5_000), (3, 10_000)]),
        (10.0, [(0, 5_000), (3, 10_000)]),
        (0.001, [(0, 5_000), (3, 10_000)]),
        (0.0, [(0, 100), (1, 1_000), (2, 5_000), (3, 10_000)]),
    ],
)
def test_at_low_traffic_weights_rise_and_equal_stages_are_one(rate_rps: float, expected: list[tuple[int, int]]) -> None:
    assert [(step.stage, step.weight_bp) for step in planned(rate_rps=rate_rps)] == expected


def test_weights_from_half_of_the_traffic_on_stay_as_they_are_written() -> None:
    plan = steps((6_000, 9_000, 10_000), GATE, Past(rate_rps=0.5))
    assert weights_bp(plan) == [6_000, 9_000, 10_000]


def test_weights_stay_as_they_are_written_where_no_least_traffic_is_wanted() -> None:
    assert weights_bp(planned(Gate(min_rps=0.0), rate_rps=1.0)) == list(WEIGHTS_BP)


def test_at_low_traffic_the_margin_allows_a_failure_every_few_seconds() -> None:
    plan = planned(rate_rps=10.0)
    assert [step.margin for step in plan] == [pytest.approx(0.02)] * 2
    three = planned(rate_rps=3.0)
    assert three[0].margin == pytest.approx(0.2 / 3)


def test_a_service_with_many_errors_is_held_to_a_part_of_them() -> None:
    assert planned(errors=0.1)[-1].margin == pytest.approx(0.025)
    assert planned(errors=0.1)[0].margin == pytest.approx(0.25)
    assert planned(errors=0.02)[-1].margin == 0.005


def test_no_margin_is_above_one() -> None:
    assert {step.margin for step in planned(errors=1.0, rate_rps=0.0001)} == {1.0}


def test_a_budget_of_time_tightens_margins_to_what_can_be_shown_in_it() -> None:
    plan = planned(Gate(margin_budget_s=10.0), rate_rps=1_000.0)
    assert [step.margin for step in plan] == [
        0.05,
        pytest.approx(provable_margin(0.001, 1 / 9, 1_000)),
        pytest.approx(provable_margin(0.001, 1.0, 5_000)),
        0.005,
    ]
    assert plan[1].margin == pytest.approx(0.007128, abs=5e-7)
    assert plan[2].margin == pytest.approx(0.002380, abs=5e-7)


def test_a_budget_of_time_asks_for_no_less_than_a_tenth_of_the_margin() -> None:
    plan = planned(Gate(margin_budget_s=3_600.0), rate_rps=1e6)
    assert [step.margin for step in plan] == pytest.approx([0.005, 0.001, 0.0005, 0.005])


def test_a_budget_of_time_does_nothing_while_the_traffic_is_unknown() -> None:
    assert planned(Gate(margin_budget_s=10.0)) == planned()


def test_a_single_stage_has_a_plan_too() -> None:
    assert steps((10_000,), GATE, Past()) == (Step(0, 10_000, None, 0.005),)
