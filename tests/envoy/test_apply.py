"""Documents applied to real Envoys under load: from the first version to the next, twice, and nothing is dropped."""

from pathlib import Path
from typing import Any

import pytest

from rollout.demo.load import Tally
from rollout.demo.processes import until
from rollout.demo.world import SERVICE, Cast, World
from tests.envoy.conftest import UnderLoad

pytestmark = pytest.mark.envoy

CAST = Cast({"v1": 1, "v2": 2}, {}, (("eu/eu-1", False), ("us/us-1", True)))
QUICK = {
    "stages": [{"weight": "50%", "hold": "500ms"}, {"weight": "100%", "hold": "500ms"}],
    "gate": {"margin": "20%", "warmup": "0s", "alone_timeout": "0s"},
    "drain_timeout": "5s",
}
WITHIN_S = 90.0


def documents(world: World, version: str, count: int) -> dict[str, Any]:
    endpoints = [backend.address for backend in world.backends[version][:count]]
    service = {"kind": "service", "name": SERVICE, "version": version, "endpoints": endpoints, "strategy": "quick"}
    return {"documents": [{"kind": "strategy", "name": "quick", **QUICK}, service]}


async def applied(world: World, body: dict[str, Any], *actions: str) -> dict[str, Any]:
    """Apply documents once, then again: nothing is left to do."""
    answer = await world.client.post("/v1/apply", body)
    assert [step["action"] for step in answer["steps"]] == list(actions), answer
    again = await world.client.post("/v1/apply", body)
    assert (again["changes"], {step["action"] for step in again["steps"]}) == (0, {"none"}), again
    return answer


async def test_documents_are_applied_twice_and_no_request_is_lost(tmp_path: Path, under_load: UnderLoad) -> None:
    async with World(tmp_path, CAST) as world, under_load(*await world.targets()) as tally:
        await applied(world, documents(world, "v1", 1), "create", "adopt")
        await answered(tally, "v1", 200)
        await applied(world, documents(world, "v2", 1), "none", "rollout")
        await world.kill_server()  # whoever applies need not know how far it came
        await world.start_server()
        assert (await world.client.post("/v1/apply", documents(world, "v2", 1)))["changes"] == 0
        await world.until_phase("completed", within_s=WITHIN_S)
        await settled(world)
        await applied(world, documents(world, "v2", 2), "none", "backends")
        await answered(tally, "v2", tally.answers[200, "v2"] + 100)
        await applied(world, documents(world, "v2", 1), "none", "backends")
        assert (await world.client.post("/v1/plan", documents(world, "v2", 1)))["changes"] == 0
    assert (tally.requests > 500, tally.dropped, tally.first_drops) == (True, 0, [])
    assert {status for status, _ in tally.answers} == {200}


async def answered(tally: Tally, version: str, count: int) -> None:
    async def enough() -> bool:
        return tally.answers[200, version] >= count

    await until(enough, within_s=WITHIN_S, what=f"{count} answers by {version}")


async def settled(world: World) -> None:
    async def free() -> bool:
        return not (await world.service())["in_progress"]

    await until(free, within_s=WITHIN_S, what="the service to be free")
