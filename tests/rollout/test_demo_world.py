"""The demo's world: who waits in it hears of what will never come."""

import sys
from pathlib import Path

import pytest

from rollout.client import connect
from rollout.demo.world import Cast, World
from rollout.errors import Unavailable


async def test_who_waits_for_a_rollout_is_told_that_the_server_has_ended(tmp_path: Path) -> None:
    world = World(tmp_path, Cast({}))
    async with connect(f"http://{world.admin}", token=None, user="demo") as world.client:
        await world.server.start(sys.executable, "-c", "raise SystemExit('no room in this house')")
        with pytest.raises(Unavailable, match=r"(?s)to be completed: it ended with status 1.*no room in this house"):
            await world.until_phase("completed", within_s=60)
