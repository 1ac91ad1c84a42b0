"""The deciders that bench/gates.py compares with do what their documents and sources say."""

import pytest

from bench.rivals import ArgoRollouts, Flagger, Kayenta, PeekedZ, is_high, z_score
from rollout.forecast.course import Act, Decider
from rollout.gate import Quantile, Stratum, Tally


def tally(requests: int, errors: int = 0, slow: int = 0) -> Tally:
    counts = {Quantile.P95: slow, Quantile.P99: slow}
    return Tally(requests, errors, requests, slow=counts, late=counts)


def acts(decider: Decider, candidate: Tally, seconds: int, stable: Tally | None = None) -> list[Act]:
    """What it says in the seconds of one stage, up to the first that is no KEEP."""
    said = []
    decider.begin(0, 0)
    for at_s in range(1, seconds + 1):
        said.append(decider.look(at_s, Stratum(5_000, stable or tally(100), candidate)))
        if said[-1] is not Act.KEEP:
            break
    return said


@pytest.mark.parametrize("candidate", [tally(100), tally(100, errors=1)], ids=["perfect", "at the limit"])
def test_flagger_steps_up_at_the_first_good_interval(candidate: Tally) -> None:
    said = acts(Flagger(10, threshold=2), candidate, 60)
    assert (len(said), said[-1]) == (10, Act.PROMOTE)


@pytest.mark.parametrize(
    "candidate", [tally(100, errors=2), tally(100, slow=2), tally(0)], ids=["bad", "slow", "no data"]
)
def test_flagger_rolls_back_an_interval_after_the_last_failure_that_it_bears(candidate: Tally) -> None:
    said = acts(Flagger(10, threshold=2), candidate, 60)
    assert (len(said), said[-1]) == (30, Act.ROLLBACK)


def test_flagger_remembers_failures_through_all_stages() -> None:
    decider = Flagger(10, threshold=2)
    acts(decider, tally(100, errors=50), 10)
    assert acts(decider, tally(100), 20)[-1] is Act.PROMOTE
    acts(decider, tally(100, errors=50), 10)
    assert acts(decider, tally(100), 10)[-1] is Act.ROLLBACK


def test_argo_wants_all_measurements_of_a_stage_and_bears_some_that_fail() -> None:
    assert len(acts(ArgoRollouts(10, count=3, failure_limit=1), tally(100), 90)) == 30
    said = acts(ArgoRollouts(10, count=3, failure_limit=1), tally(100, errors=2), 90)
    assert (len(said), said[-1]) == (20, Act.ROLLBACK)


def test_argo_takes_no_data_for_an_error_of_the_measurement_five_of_which_are_too_many() -> None:
    said = acts(ArgoRollouts(10, count=3, failure_limit=1), tally(0), 90)
    assert (len(said), said[-1]) == (50, Act.ROLLBACK)


def test_the_peeked_z_test_promotes_in_time_unless_it_has_seen_a_difference() -> None:
    said = acts(PeekedZ(10), tally(100), 60)
    assert (len(said), said[-1]) == (10, Act.PROMOTE)
    assert acts(PeekedZ(10), tally(100, errors=6), 60) == [Act.ROLLBACK]
    assert acts(PeekedZ(10), tally(100, slow=6), 60) == [Act.ROLLBACK]


def test_the_z_score_is_the_textbooks() -> None:
    assert z_score((10, 30), (1_000, 1_000)) == pytest.approx(3.1944, abs=1e-4)
    assert z_score((0, 0), (10, 10)) == 0
    assert z_score((0, 0), (10, 0)) == 0


def test_kayenta_judges_once_at_the_end_of_a_stage() -> None:
    said = acts(Kayenta(10, points=6), tally(100), 90)
    assert (len(said), said[-1]) == (60, Act.PROMOTE)
    said = acts(Kayenta(10, points=6), tally(100, errors=5), 90)
    assert (len(said), said[-1]) == (60, Act.ROLLBACK)
    assert acts(Kayenta(10, points=6), tally(0), 90)[-1] is Act.ROLLBACK


CONTROL = (0.010, 0.012, 0.011, 0.009, 0.013, 0.008)


@pytest.mark.parametrize(
    ("experiment", "high"),
    [
        (CONTROL, False),
        (tuple(reversed(CONTROL)), False),
        (tuple(3 * value for value in CONTROL), True),
        (tuple(0.3 * value for value in CONTROL), False),
        ((0.011, 0.013, 0.010, 0.012, 0.009, 0.014), False),
        ((0.0,) * 5 + (0.5,), False),  # one outlier moves no rank
    ],
)
def test_ranks_tell_whether_a_series_lies_higher(experiment: tuple[float, ...], high: bool) -> None:
    assert is_high(CONTROL, experiment) is high
