"""A server that is killed with -9 in mid-rollout: each event is heard once, in order, as in the journal."""

import asyncio
import json
import sys
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from rollout.demo.processes import until
from rollout.demo.world import Cast, World
from tests.rollout.listening import Reader, Told

pytestmark = pytest.mark.envoy

CAST = Cast({"v1": 1, "v2": 1}, envoys=(("eu/eu-1", False),))
SLOWLY = {"stages": [{"weight": "50%", "hold": "60s"}, "100%"], "drain_timeout": "1s", "keep_stable": "0s"}
ROOT = Path(__file__).parents[2]


async def test_nothing_is_lost_or_told_twice_over_a_kill(tmp_path: Path) -> None:
    async with World(tmp_path, CAST) as world:
        reader = Reader(f"http://{world.admin}/v1/events?after=0")
        async with asyncio.timeout(60), asyncio.TaskGroup() as group:
            group.create_task(reader.follow(lambda: _has(reader, "rollout.rolled_back")))
            await world.deploy("v2", SLOWLY)
            await world.until_phase("shifting", within_s=60)
            await until(lambda: _points(world), within_s=60, what="points of its chart")
            await world.kill_server()
            await world.start_server()
            await world.command("abort")
        assert reader.connections >= 2
        ids = [int(each.id) for each in reader.told]
        assert ids == list(range(1, len(ids) + 1))
        page = await world.client.get("/v1/events?after=0&limit=1000")
        assert [each.data for each in reader.told] == page["events"][: len(ids)]
        assert [each["kind"] for each in page["events"]].count("server.started") == 2
        _agree(reader.told, await world.client.get("/v1/services/checkout/rollouts/1"))
        assert (await world.client.get("/v1/audit/verify"))["broken"] is None
        assert await _points(world)
        assert await _listed(world) == [each["id"] for each in page["events"]][: len(ids)]


def _has(reader: Reader, kind: str) -> bool:
    return any(each.data["kind"] == kind for each in reader.told)


async def _points(world: World) -> bool:
    found = await world.client.get("/v1/services/checkout/rollouts/last/points")
    assert len(found["at"]) == len(found["wanted_percent"]) == len(found["candidate"]["p99_ms"])
    return bool(found["at"])


def _agree(told: list[Told], story: Mapping[str, Any]) -> None:
    """Each change of phase in the journal has its event, and each event its step."""
    steps = {each["revision"]: each for each in story["journal"]}
    mine = [each.data for each in told if each.data["rollout"] == 1]
    for event in mine:
        step = steps[event["detail"]["revision"]]
        assert (event["detail"]["phase"], event["detail"]["stage"]) == (step["phase"], step["stage"])
    ordered = [steps[number] for number in sorted(steps)]
    changed = {after["revision"] for before, after in pairwise(ordered) if before["phase"] != after["phase"]}
    assert changed <= {event["detail"]["revision"] for event in mine}


async def _listed(world: World) -> list[int]:
    """Return the ids that the command line prints."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "rollout.cli", "--server", f"http://{world.admin}", "events", "--after", "0", "--json"),
        cwd=ROOT,
        stdout=asyncio.subprocess.PIPE,
    )
    out, _ = await asyncio.wait_for(process.communicate(), 30)
    assert process.returncode == 0
    lines = out.decode().splitlines()
    return [int(json.loads(line)["id"]) for line in lines]
