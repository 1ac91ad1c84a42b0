"""Whole rollouts on real Envoys under load, with the server killed in every phase."""

from pathlib import Path
from typing import Any

import aiohttp
import pytest

from rollout.demo.backend import Behaviour
from rollout.demo.processes import until
from rollout.demo.world import Cast, World
from tests.envoy.conftest import UnderLoad

pytestmark = pytest.mark.envoy

QUICK = {
    "stages": [{"weight": weight, "hold": hold} for weight, hold in (("10%", "1s"), ("50%", "1s"), ("100%", "3s"))],
    "gate": {"margin": "20%", "warmup": "0s"},
    "keep_stable": "3s",
    "drain_timeout": "5m",
}
"""Nothing but time ends the last stage and the keeping, so there is some."""
LONG = "/stream?ms=300000"
CAST = Cast({"v1": 2, "v2": 2, "v3": 2}, {"v3": Behaviour(error_share=0.5)}, (("eu/eu-1", False), ("us/us-1", True)))
PHASES = (
    ("warming", None),
    ("shifting", 0),
    ("shifting", 1),
    ("shifting", 2),
    ("retaining", None),
    ("draining", None),
)


async def until_step(world: World, phase: str, stage: int | None = None, *, within_s: float = 90) -> dict[str, Any]:
    found: dict[str, Any] = {}

    async def reached() -> bool:
        found.update(await world.service())
        rollout = found["rollout"]
        return bool(rollout["phase"] == phase and (stage is None or rollout["stage"] == stage))

    await until(reached, within_s=within_s, what=f"the rollout to be {phase} {stage if stage is not None else ''}")
    return found


async def kill_and_restart(world: World) -> tuple[dict[str, Any], dict[str, Any]]:
    """SIGKILL the server and start it again; return the service before and after."""
    before = await world.service()
    await world.kill_server()
    await world.start_server()
    return before, await world.service()


async def counters(world: World) -> list[dict[str, str]]:
    """Return what each Envoy has done to its configuration."""
    query = "/stats?filter=^(cluster_manager.cluster_|listener_manager.listener_)"
    texts = [await envoy.admin_get(query) for envoy in world.envoys]
    pairs = [[line.partition(": ") for line in text.splitlines()] for text in texts]
    return [{name: value for name, _, value in lines} for lines in pairs]


def whole_weight(service: dict[str, Any]) -> float:
    return float(service["rollout"]["weight_percent"])


def served_weight(service: dict[str, Any]) -> float:
    """Return what v2 is served with: that is saved, while a rollout's weight is told when it is decided."""
    return float(sum(each["weight_percent"] for each in service["versions"] if each["version"] == "v2"))


async def test_a_server_killed_in_every_phase_loses_nothing(tmp_path: Path, under_load: UnderLoad) -> None:
    async with World(tmp_path, CAST) as world, under_load(*await world.targets()) as tally:
        target, _ = await world.targets()
        async with aiohttp.ClientSession() as http, http.get(f"http://{target}{LONG}"):  # v1 drains until it ends
            await world.deploy("v2", QUICK)
            for phase, stage in PHASES:
                await until_step(world, phase, stage)
                before, after = await kill_and_restart(world)
                assert served_weight(after) >= served_weight(before)
        await world.until_phase("completed", within_s=120)
        for backend in world.backends["v1"]:
            await backend.kill()
        service = await world.service()
        assert (service["stable"], [each["version"] for each in service["versions"]]) == ("v2", ["v2"])

        await world.deploy("v3", QUICK)
        await world.until_phase("shifting", "rolling_back", within_s=120)
        await kill_and_restart(world)
        await world.until_phase("rolling_back", "draining", "removing", "rolled_back", within_s=120)
        await kill_and_restart(world)
        await world.until_phase("rolled_back", within_s=120)
        for backend in world.backends["v3"]:
            await backend.kill()
        service = await world.service()
        assert (service["stable"], [each["version"] for each in service["versions"]]) == ("v2", ["v2"])
    assert tally.dropped == 0, tally.first_drops
    assert set(tally.bad) <= {"v3"}


async def test_a_restart_of_the_server_changes_nothing_in_the_envoys(tmp_path: Path) -> None:
    async with World(tmp_path, CAST) as world:
        await world.deploy("v2", QUICK)
        await until_step(world, "shifting", 0)
        await world.command("pause")
        before = await counters(world)
        await kill_and_restart(world)

        async def connected_again() -> bool:
            nodes = (await world.client.get("/v1/fleet"))["nodes"]
            return len(nodes) == 2 and all(node["connected"] and len(node["types"]) == 4 for node in nodes)

        await until(connected_again, within_s=90, what="both Envoys to be back")
        assert await counters(world) == before
        assert (await world.service())["rollout"]["phase"] == "paused"
        await world.command("abort")
        await world.until_phase("rolled_back", within_s=90)


async def test_promote_and_abort_do_what_they_say(tmp_path: Path, under_load: UnderLoad) -> None:
    never = {"stages": [{"weight": "1%", "hold": "1h"}, {"weight": "50%", "hold": "1h"}, "100%"]}
    async with World(tmp_path, CAST) as world, under_load(*await world.targets()) as tally:
        await world.deploy("v2", never)
        await until_step(world, "shifting", 0)
        await world.command("promote")
        assert whole_weight(await world.service()) == 50
        await world.command("promote_full")
        assert whole_weight(await world.service()) == 100
        await world.command("abort")
        assert whole_weight(await world.service()) == 0
        service = await world.until_phase("rolled_back", within_s=120)
        assert service["rollout"]["reason"] == "aborted by demo"
        for backend in world.backends["v2"]:
            await backend.kill()
    assert (tally.dropped, dict(tally.bad)) == (0, {}), tally.first_drops
