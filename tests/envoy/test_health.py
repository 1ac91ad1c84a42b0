"""Health on real Envoys: readiness without health checks, marks of operators, too few healthy backends."""

import asyncio
import time
from pathlib import Path
from typing import Any

import pytest

from rollout.client import path_of
from rollout.demo.load import Tally
from rollout.demo.processes import until
from rollout.demo.world import SERVICE, Cast, World, configuration
from tests.envoy.conftest import UnderLoad

pytestmark = pytest.mark.envoy

HELD = {"stages": [{"weight": "50%", "hold": "1h"}, "100%"], "gate": {"margin": "20%", "warmup": "0s"}}
CAST = Cast({"v1": 3, "v2": 2}, envoys=(("eu/eu-1", False), ("us/us-1", True)))


def unchecked(world: World) -> None:
    """Serve the shop without health checks, as the server has it from its next reload."""
    resources = configuration([backend.address for backend in world.backends["v1"]])
    for cluster in resources["clusters"]:
        cluster.pop("health_checks", None)
    world.write_configs(resources)


async def mark(world: World, address: str, health: str, reason: str = "") -> dict[str, Any]:
    body = {"backend": address, "health": health, "reason": reason}
    return await world.client.post(path_of("services", SERVICE, "health"), body)


async def taken(world: World, address: str) -> int:
    """How many requests a backend of v1 has got from all Envoys."""
    query = f"/stats?filter=endpoint\\.{address.replace(':', '_')}\\.rq_total$"
    texts = [await envoy.admin_get(query) for envoy in world.envoys]
    return sum(int(line.rpartition(":")[2]) for text in texts for line in text.splitlines() if "@" in line)


async def test_a_candidate_without_health_checks_gets_traffic_when_its_ports_answer(
    tmp_path: Path, under_load: UnderLoad
) -> None:
    async with World(tmp_path, CAST) as world:
        unchecked(world)
        await world.client.post("/v1/config/reload", {})
        late = world.backends["v2"][1]
        await late.kill()
        async with under_load(*await world.targets()) as tally:
            await world.deploy("v2", HELD)

            async def told() -> bool:
                rollout = (await world.service())["rollout"]
                return rollout["phase"] == "warming" and late.address in rollout["waiting_for"].get("the candidate", "")

            await until(told, within_s=120, what="the backend that does not answer to be named")
            assert "v2" not in {version for _, version in tally.answers}
            await late.start()
            await world.until_phase("shifting", within_s=120)
        await world.command("abort")
        await world.until_phase("rolled_back", within_s=90)
    assert tally.dropped == 0, tally.first_drops


async def test_an_operators_mark_empties_a_backend_everywhere_and_drops_nothing(
    tmp_path: Path, under_load: UnderLoad
) -> None:
    async with World(tmp_path, CAST) as world, under_load(*await world.targets()) as tally:
        one, two, three = (backend.address for backend in world.backends["v1"])
        await until_served(world, tally, one)
        began_s = time.monotonic()
        view = await mark(world, one, "unhealthy", "its disk is full")
        [found] = view["unhealthy"]
        assert (found["backend"], found["why"], found["used"]) == (one, "marked by demo: its disk is full", False)
        await emptied(world, one)
        assert time.monotonic() - began_s < 20  # half a second where the machine is not busy
        assert (await mark(world, one, "unhealthy"))["unhealthy"] == [found]
        await mark(world, two, "unhealthy")
        with pytest.raises(Exception, match="last healthy backend"):
            await mark(world, three, "unhealthy")
        await world.kill_server()
        await world.start_server()
        assert [each["backend"] for each in (await world.service())["unhealthy"]] == sorted([one, two])
        assert (await mark(world, one, "healthy"))["unhealthy"][0]["backend"] == two
        await until_served(world, tally, one)
    assert (tally.dropped, dict(tally.bad)) == (0, {}), tally.first_drops


async def until_served(world: World, tally: Tally, address: str) -> None:
    before = await taken(world, address)

    async def more() -> bool:
        return await taken(world, address) > before + 20

    await until(more, within_s=120, what=f"{address} to get requests")


async def emptied(world: World, address: str) -> None:
    """Wait until a backend gets no more: two readings apart, with requests on the others between, are the same."""
    last = -1

    async def still() -> bool:
        nonlocal last
        await asyncio.sleep(0.2)
        now = await taken(world, address)
        same, last = now == last, now
        return same

    await until(still, within_s=120, what=f"{address} to get nothing")


async def test_a_rollout_pauses_when_too_few_backends_are_healthy(tmp_path: Path, under_load: UnderLoad) -> None:
    strategy = {**HELD, "min_healthy": "75%"}
    async with World(tmp_path, CAST) as world, under_load(*await world.targets()) as tally:
        await world.deploy("v2", strategy)
        await world.until_phase("shifting", within_s=90)
        ill = world.backends["v1"][0].address
        await mark(world, ill, "unhealthy")
        service = await world.until_phase("paused", within_s=120)
        assert service["rollout"]["reason"] == "initial: 2 of 3 backends healthy (min_healthy 75%)"
    assert (tally.dropped, dict(tally.bad)) == (0, {}), tally.first_drops
