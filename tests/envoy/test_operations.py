"""What operators do outside of a rollout's stages, on real Envoys under load: nobody's request is lost by it."""

import asyncio
import re
from pathlib import Path
from typing import Any

import pytest

from rollout.client import path_of
from rollout.demo.load import Tally
from rollout.demo.processes import until
from rollout.demo.world import SERVICE, Cast, World
from tests.envoy.conftest import UnderLoad

pytestmark = pytest.mark.envoy

CAST = Cast({"v1": 2, "more": 1, "v2": 1, "v3": 1}, {}, (("eu/eu-1", False), ("us/us-1", True)))
HELD = {
    "stages": [{"weight": "50%", "hold": "1h"}, {"weight": "100%", "hold": "0s"}],
    "keep_stable": "1h",
    "gate": {"margin": "20%", "warmup": "0s", "alone_timeout": "0s"},
}
QUICK = {
    "stages": [{"weight": "100%", "hold": "500ms"}],
    "gate": {"margin": "20%", "warmup": "0s", "alone_timeout": "0s"},
}
WITHIN_S = 90.0
VERSIONS = path_of("services", SERVICE, "versions")


def address(world: World, version: str, number: int = 0) -> str:
    return world.backends[version][number].address


async def answers(world: World, tally: Tally, version: str) -> None:
    """Wait until a version's backends answer."""
    before = tally.answers[200, version]

    async def more() -> bool:
        return tally.answers[200, version] > before

    await until(more, within_s=WITHIN_S, what=f"answers by {version}")


async def pushes(world: World) -> list[tuple[int, str]]:
    """Return how many routes each Envoy has taken, and what it has done to clusters."""
    routes = [await envoy.admin_get("/stats?filter=rds.*update_success") for envoy in world.envoys]
    clusters = [await envoy.admin_get("/stats?filter=^cluster_manager.cluster_") for envoy in world.envoys]
    counts = [sum(int(each) for each in re.findall(r"rds\S*update_success: (\d+)", text)) for text in routes]
    return list(zip(counts, clusters, strict=True))


async def service_when(world: World, reached: Any, what: str) -> dict[str, Any]:
    found: dict[str, Any] = {}

    async def there() -> bool:
        found.update(await world.service())
        return bool(reached(found))

    await until(there, within_s=WITHIN_S, what=what)
    return found


async def test_scale_undo_and_supersede_drop_nothing(tmp_path: Path, under_load: UnderLoad) -> None:
    async with World(tmp_path, CAST) as world, under_load(*await world.targets()) as tally:
        await answers(world, tally, "v1")
        await world.client.patch(f"{VERSIONS}/initial", {"add": [address(world, "more")]})
        await answers(world, tally, "more")
        await world.client.patch(f"{VERSIONS}/initial", {"remove": [address(world, "v1")]})
        gone = await service_when(world, lambda view: not view["drains"], "the backend to be let go")
        assert set(gone["versions"][0]["backends"]) == {address(world, "v1", 1), address(world, "more")}
        await world.backends["v1"][0].kill()

        await world.deploy("v2", HELD)
        await world.until_phase("shifting", within_s=WITHIN_S)
        await answers(world, tally, "v2")
        await world.command("promote_full")
        await world.until_phase("retaining", within_s=WITHIN_S)
        await service_when(world, lambda view: not view["rollout"]["waiting_for"], "every Envoy to have 100 %")
        before = await pushes(world)
        await world.client.post(path_of("services", SERVICE, "undo"), {})

        async def taken() -> bool:
            return all(after[0] > first[0] for first, after in zip(before, await pushes(world), strict=True))

        await until(taken, within_s=WITHIN_S, what="both Envoys to take the way back")
        assert [(routes + 1, clusters) for routes, clusters in before] == await pushes(world)
        await service_when(world, lambda view: not view["in_progress"], "the rollout to end")

        await world.deploy("v2", HELD)
        await world.until_phase("shifting", within_s=WITHIN_S)
        await answers(world, tally, "v2")
        body = {"version": "v3", "endpoints": [address(world, "v3")], "strategy": QUICK, "supersede": True}
        first = await world.client.post(path_of("services", SERVICE, "rollouts"), body)
        assert (first["id"], first["weight_percent"], first["queued"]["version"]) == (2, 0, "v3")
        await service_when(world, lambda view: view["rollout"]["id"] == 3, "the next rollout to begin")
        await world.backends["v2"][0].kill()
        await answers(world, tally, "v3")
        await asyncio.gather(*(world.command("promote") for _ in range(1)))
        await world.until_phase("completed", within_s=WITHIN_S)
    assert (tally.dropped, dict(tally.bad)) == (0, {}), tally.first_drops
