"""Rollouts in waves on real Envoys of three locations, under load in each, with the server killed on the way."""

import contextlib
from pathlib import Path
from typing import Any

import pytest

from rollout.demo.backend import Behaviour
from rollout.demo.processes import until
from rollout.demo.world import Cast, World
from tests.envoy.conftest import UnderLoad

pytestmark = pytest.mark.envoy

PLACES = ("eu/eu-1", "us/us-1", "ap/ap-1")
CAST = Cast(
    {"v1": 2, "v2": 2, "v3": 2},
    {"v3": Behaviour(error_share=0.5)},
    tuple((place, place.startswith("us")) for place in PLACES),
)
STAGES = [{"weight": weight, "hold": hold} for weight, hold in (("50%", "2s"), ("100%", "0s"))]
QUICK = {
    "waves": [{"locations": ["eu-1"], "stages": STAGES}, {"locations": "all"}],
    "on_failure": "location",
    "stages": [{"weight": weight, "hold": hold} for weight, hold in (("49%", "5s"), ("100%", "1s"))],
    "gate": {"margin": "25%", "warmup": "0s", "latency_tolerance": 4.0},
}


def standing(service: dict[str, Any]) -> dict[str, tuple[str, float]]:
    return {each["location"]: (each["phase"], each["weight_percent"]) for each in service["rollout"]["locations"]}


async def until_standing(world: World, location: str, *phases: str) -> dict[str, Any]:
    found: dict[str, Any] = {}

    async def reached() -> bool:
        found.update(await world.service())
        return standing(found).get(location, ("", 0))[0] in phases

    await until(reached, within_s=90, what=f"{location} to be {' or '.join(phases)}")
    return found


async def test_locations_move_in_waves_and_one_that_fails_is_the_only_one_that_saw_it(
    tmp_path: Path, under_load: UnderLoad
) -> None:
    async with World(tmp_path, CAST) as world, contextlib.AsyncExitStack() as stack:
        targets = await world.targets()
        eu, us, ap = [await stack.enter_async_context(under_load(each, rate_per_s=80)) for each in targets]
        await world.deploy("v2", QUICK)
        service = await until_standing(world, "eu/eu-1", "shifting")
        assert standing(service) == {"eu/eu-1": ("shifting", 50), "us/us-1": ("later", 0), "ap/ap-1": ("later", 0)}
        assert service["rollout"]["wave"] == 0
        assert "v2" not in str((us.answers, ap.answers))
        service = await until_standing(world, "us/us-1", "shifting")
        assert standing(service)["eu/eu-1"] == ("retaining", 100)
        await world.kill_server()
        await world.start_server()
        assert standing(await world.service())["eu/eu-1"][1] == 100
        await until_standing(world, "us/us-1", "shifting")  # it may have been killed before that was saved
        path = "/v1/services/checkout/commands/promote"
        await world.client.post(path, {"location": "us-1"})
        await world.until_phase("completed", within_s=90)
        for backend in world.backends["v1"]:
            await backend.kill()

        await world.deploy("v3", QUICK)
        service = await until_standing(world, "eu/eu-1", "rolled_back")
        assert standing(service)["us/us-1"] == ("later", 0)
        service = await world.until_phase("paused", within_s=90)
        assert "went back: eu/eu-1: " in service["rollout"]["reason"]
        await world.command("abort")
        await world.until_phase("rolled_back", within_s=90)
        for backend in world.backends["v3"]:
            await backend.kill()
    assert [tally.dropped for tally in (eu, us, ap)] == [0, 0, 0], (eu.first_drops, us.first_drops, ap.first_drops)
    assert set(eu.bad) == {"v3"}
    assert "v3" in str(eu.answers)
    assert "v3" not in str((us.answers, ap.answers))
