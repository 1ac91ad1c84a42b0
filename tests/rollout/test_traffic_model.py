"""Made-up traffic: what it is made of is exact, and a seed has one course whoever judges it."""

import math
from random import Random
from statistics import fmean, pvariance

import pytest

from rollout.forecast.chance import arrivals, binomial
from rollout.forecast.course import Act, travel
from rollout.forecast.traffic import TIMEOUT_S, Change, Incident, Service, Traffic, either
from rollout.gate import Quantile, Stratum, Tally
from rollout.gate.sample import USUAL_LATE, USUAL_SLOW

DRAWS = 4_000


def total(looks: list[Stratum]) -> tuple[Tally, Tally]:
    stable, candidate = Tally(), Tally()
    for look in looks:
        stable, candidate = stable.merge(look.stable), candidate.merge(look.candidate)
    return stable, candidate


def looks(service: Service, change: Change, seconds: int, weight_bp: int = 5_000) -> list[Stratum]:
    traffic = Traffic(service, change, 1)
    return [traffic.look(at_s, weight_bp) for at_s in range(seconds)]


def near(share: float, requests: int) -> object:
    """Within four standard deviations of what chance gives."""
    return pytest.approx(share, abs=4 * math.sqrt(share * (1 - share) / requests))


@pytest.mark.parametrize(("trials", "share"), [(12, 0.3), (990, 0.001), (990, 0.25), (9_000, 0.04), (500, 0.9)])
def test_binomial_counts_have_the_mean_and_variance_of_binomial_counts(trials: int, share: float) -> None:
    random = Random(7)
    drawn = [binomial(random, trials, share) for _ in range(DRAWS)]
    mean, variance = trials * share, trials * share * (1 - share)
    assert 0 <= min(drawn) <= max(drawn) <= trials
    assert fmean(drawn) == pytest.approx(mean, abs=4 * math.sqrt(variance / DRAWS))
    assert pvariance(drawn) == pytest.approx(variance, rel=0.15)


def test_binomial_counts_are_exact_far_out_too() -> None:
    random = Random(7)
    chance = sum(math.comb(100, k) * 0.4**k * 0.6 ** (100 - k) for k in range(52, 101))
    found = sum(binomial(random, 100, 0.4) >= 52 for _ in range(10 * DRAWS))
    assert found == pytest.approx(10 * DRAWS * chance, abs=4 * math.sqrt(10 * DRAWS * chance))


def test_binomial_counts_of_nothing_and_of_everything() -> None:
    random = Random(7)
    assert [binomial(random, 10, share) for share in (0.0, 1.0)] == [0, 10]
    assert binomial(random, 0, 0.5) == 0


def test_arrivals_have_the_variance_of_arrivals() -> None:
    random = Random(7)
    drawn = [arrivals(random, 300) for _ in range(DRAWS)]
    assert fmean(drawn) == pytest.approx(300, abs=4 * math.sqrt(300 / DRAWS))
    assert pvariance(drawn) == pytest.approx(300, rel=0.1)


def test_a_healthy_candidate_does_as_stable_and_as_the_past_says() -> None:
    service = Service(2_000, errors=0.01)
    for tally in total(looks(service, Change(), 60)):
        assert tally.requests == near_count(60_000)
        assert tally.error_share == near(0.01, tally.requests)
        for quantile, share in USUAL_SLOW.items():
            assert tally.slow[quantile] / tally.timed == near(share, tally.timed)
        for quantile, share in USUAL_LATE.items():
            assert tally.late[quantile] / tally.timed == pytest.approx(share, rel=0.2)
    past = service.past()
    assert past.errors == pytest.approx(0.01)
    assert past.late == pytest.approx(USUAL_LATE, rel=0.1)


def near_count(mean: float) -> object:
    return pytest.approx(mean, abs=5 * math.sqrt(mean))


def test_the_same_seed_has_the_same_arrivals_whatever_the_weight() -> None:
    one, other = Traffic(Service(100), Change(), 3), Traffic(Service(100), Change(errors=0.5), 3)
    for at_s in range(20):
        few, many = one.look(at_s, 100), other.look(at_s, 5_000)
        assert few.stable.requests + few.candidate.requests == many.stable.requests + many.candidate.requests


def test_a_slower_candidate_is_slow_everywhere_and_one_with_a_slow_tail_only_there() -> None:
    stable, slower = total(looks(Service(1_000), Change(slower=2.0), 30))
    assert slower.slow[Quantile.P75] > 2 * stable.slow[Quantile.P75]
    assert slower.slow[Quantile.P99] > 10 * stable.slow[Quantile.P99]
    _, tail = total(looks(Service(1_000), Change(tail=2.0), 30))
    assert tail.slow[Quantile.P75] / tail.timed == near(0.25, tail.timed)
    assert tail.slow[Quantile.P99] / tail.timed == near(0.02, tail.timed)


def test_a_late_regression_shows_at_its_weight_only() -> None:
    change = Change(errors=0.5, from_bp=5_000)
    assert total(looks(Service(1_000, errors=0.0), change, 10, 1_000))[1].errors == 0
    _, candidate = total(looks(Service(1_000, errors=0.0), change, 10, 5_000))
    assert candidate.error_share == near(0.5, candidate.requests)


def test_requests_that_hang_are_given_up_on_after_the_timeout_as_slow_errors() -> None:
    seen = looks(Service(100), Change(hangs=1.0), TIMEOUT_S + 5)
    assert all(look.candidate.requests == 0 for look in seen[:TIMEOUT_S])
    ended = seen[TIMEOUT_S].candidate
    assert ended.requests == ended.errors == ended.timeouts == ended.slow[Quantile.P999] == seen[0].candidate.started
    assert seen[TIMEOUT_S - 1].candidate.active == sum(look.candidate.started for look in seen[:TIMEOUT_S])


def test_an_incident_hits_both_versions_for_its_time() -> None:
    incident = Incident(errors=0.5, lasts_s=5, every_s=20)
    seen = looks(Service(1_000, errors=0.0, incident=incident), Change(), 40)
    hit = [look for look in seen if look.stable.errors]
    assert len(hit) == 10
    assert all(look.candidate.errors for look in hit)


def test_errors_in_clusters_have_the_dispersion_that_the_past_tells() -> None:
    service = Service(2_000, errors=0.01, cluster=3.0)
    counts = [look.stable.errors for look in looks(service, Change(), 600)]
    assert service.past().phi == pytest.approx(4.6, abs=0.1)
    assert pvariance(counts) / fmean(counts) == pytest.approx(service.past().phi, rel=0.25)


def test_a_cold_candidate_has_more_errors_at_first() -> None:
    seen = looks(Service(1_000, errors=0.01), Change(cold=5.0), 30)
    cold, warm = total(seen[:10])[1], total(seen[10:])[1]
    assert cold.error_share == near(0.05, cold.requests)
    assert warm.error_share == near(0.01, warm.requests)


def test_either_of_two_is_never_more_than_certain() -> None:
    assert either(0.5, 0.5) == 0.75
    assert either(1.0, 1.0) == 1.0


class Waits:
    """Says the same at the third look of each stage."""

    def __init__(self, then: Act) -> None:
        self.then = then
        self.began: list[tuple[int, int]] = []
        self.looks = 0

    def begin(self, stage: int, at_s: int) -> None:
        self.began.append((stage, at_s))
        self.looks = 0

    def look(self, at_s: int, stratum: Stratum) -> Act:
        self.looks += 1
        return self.then if self.looks == 3 else Act.KEEP


def test_a_course_has_a_second_until_each_weight_shows_and_adds_up_its_stages() -> None:
    decider = Waits(Act.PROMOTE)
    course = travel(decider, (100, 5_000), Traffic(Service(100), Change(), 1))
    assert (course.end, course.seconds, course.looks) == (Act.PROMOTE, 8, 6)
    assert decider.began == [(0, 1), (1, 5)]
    assert [lap.weight_bp for lap in course.laps] == [100, 5_000]


def test_a_course_counts_bad_answers_until_the_rollback_has_reached_the_traffic() -> None:
    course = travel(Waits(Act.ROLLBACK), (5_000, 10_000), Traffic(Service(100, errors=0.0), Change(errors=1.0), 1))
    traffic = Traffic(Service(100, errors=0.0), Change(errors=1.0), 1)
    assert course.end is Act.ROLLBACK
    assert course.bad == sum(traffic.look(at_s, 5_000).candidate.requests for at_s in range(1, 5))


def test_a_course_that_nobody_ends_is_paused() -> None:
    assert travel(Waits(Act.KEEP), (100,), Traffic(Service(1), Change(), 1), 100).end is Act.PAUSE
