"""A server that is killed with -9 in the middle of rollouts: nothing is dropped, each ends as it should."""

from pathlib import Path

import pytest

from bench.blows import Blow, Course, Hit, Plan, plans
from bench.chaos import run

pytestmark = pytest.mark.envoy

# Between what was decided and its record, in the middle of a proof, and while something is let go.
PLANS = (
    Plan(Course.FAILS, (Blow(Hit.KILL, ("rolling_back", 0), 0.0, 0.0),)),
    Plan(Course.SUCCEEDS, (Blow(Hit.KILL, ("shifting", 1), 0.3, 0.0), Blow(Hit.KILL_TWICE, ("draining", 0), 0.0, 0.8))),
    Plan(Course.IS_ABORTED, (Blow(Hit.KILL, ("rolling_back", 0), 0.0, 0.0),), abort=("shifting", 0)),
)


async def test_kills_at_any_moment_lose_nothing_and_change_no_end(tmp_path: Path) -> None:
    report = await run(tmp_path, PLANS)
    assert report.faults == ()
    assert (report.dropped, len(report.results), sum(each.kills for each in report.results)) == (0, 3, 5)
    assert report.requests > 1000


def test_the_same_seed_gives_the_same_blows() -> None:
    assert tuple(plans(7, 50)) == tuple(plans(7, 50)) != tuple(plans(8, 50))
    assert sum(plan.kills for plan in plans(7, 50)) >= 50
