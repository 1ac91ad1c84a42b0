"""A server that is killed with -9 in the middle of rollouts: nothing is dropped, each ends as it should."""

from pathlib import Path

import pytest

from bench.chaos import Course, plans, run

pytestmark = pytest.mark.envoy

SEED, KILLS = 20, 5  # one rollout of each course, and among the kills one between a verdict and its record


async def test_kills_at_any_moment_lose_nothing_and_change_no_end(tmp_path: Path) -> None:
    wanted = tuple(plans(SEED, KILLS))
    assert {plan.course for plan in wanted} == set(Course)
    report = await run(tmp_path, wanted)
    assert report.faults == ()
    assert (report.dropped, len(report.results), sum(each.kills for each in report.results)) == (0, 3, KILLS)
    assert report.requests > 1000


def test_the_same_seed_gives_the_same_blows() -> None:
    assert tuple(plans(7, 50)) == tuple(plans(7, 50)) != tuple(plans(8, 50))
    assert sum(plan.kills for plan in plans(7, 50)) >= 50
