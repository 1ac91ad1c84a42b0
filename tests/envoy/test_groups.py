"""Envoys of two clusters with configurations of their own, through rollouts and a reload, under load."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import yaml

from rollout.bootstrap import Proxy, bootstrap
from rollout.client import path_of
from rollout.demo.load import Target
from rollout.demo.processes import Envoy, free_port, until
from rollout.demo.world import Cast, World, configuration
from tests.envoy.conftest import UnderLoad

pytestmark = pytest.mark.envoy

QUICK = {
    "stages": [{"weight": weight, "hold": "1s"} for weight in ("20%", "100%")],
    "gate": {"margin": "20%", "warmup": "0s"},
}
CAST = Cast({"v1": 2, "v2": 2}, {}, (("eu/eu-1", False),))


@contextlib.asynccontextmanager
async def inside(world: World, folder: Path) -> AsyncIterator[Envoy]:
    """Run an Envoy of the cluster `inside`."""
    proxy = Proxy("inside-1", "inside", "eu", "eu-1", world.xds, f"127.0.0.1:{free_port()}", delta=True)
    async with Envoy("inside-1", bootstrap(proxy), folder) as envoy:
        await envoy.until_ready()
        yield envoy


def own_files(world: World) -> dict[str, Any]:
    """Return what `inside` has otherwise: one backend of v1 only, a mark in each answer, and the service `search`."""
    files = configuration([world.backends["v1"][1].address])
    route = files["routes"][0]
    route["response_headers_to_add"] = [{"header": {"key": "x-group", "value": "inside"}}]
    route["virtual_hosts"][0]["routes"].insert(0, {"match": {"prefix": "/search"}, "route": {"cluster": "search"}})
    files["clusters"] = [{**files["clusters"][0], "name": "search"}]
    files["endpoints"].append({**files["endpoints"][0], "cluster_name": "search"})
    del files["listeners"]
    return files


async def marks(*targets: Target) -> list[str | None]:
    """Return the mark of the group in an answer of each Envoy."""
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=20)) as session:

        async def mark(target: Target) -> str | None:
            async with session.get(f"http://{target}/fast") as answer:
                return answer.headers.get("x-group")

        return list(await asyncio.gather(*map(mark, targets)))


async def test_one_rollout_shifts_the_proxies_of_two_groups_without_a_drop(
    tmp_path: Path, under_load: UnderLoad
) -> None:
    async with World(tmp_path, CAST) as world:
        (world.configs / "inside").mkdir()
        (world.configs / "inside" / "own.yaml").write_text(yaml.safe_dump(own_files(world)))
        await world.client.post(path_of("config", "reload"), {})
        async with inside(world, tmp_path) as envoy:
            targets = (*await world.targets(), Target.parse((await envoy.listeners())["edge"]))
            async with under_load(*targets) as tally:
                assert await marks(*targets) == [None, "inside"]
                await world.deploy("v2", QUICK)
                service = await world.until_phase("completed", within_s=120)
                assert service["rollout"]["drain"]["timed_out"] is False
                for backend in world.backends["v1"]:
                    await backend.kill()
                await roll_back_search(world)
                await leave_the_group(world)
                await until(lambda: unmarked(targets), within_s=90, what="the Envoy to have the common files")
    assert (tally.dropped, dict(tally.bad)) == (0, {}), tally.first_drops


async def roll_back_search(world: World) -> None:
    """Roll out the service that one group has, which waits for nobody else, and take it back."""
    path = path_of("services", "search", "rollouts")
    body = {"version": "v2", "endpoints": [world.backends["v2"][0].address], "strategy": QUICK}
    await world.client.post(path, body)

    async def reached(phase: str, versions: int) -> bool:
        service = await world.client.get(path_of("services", "search"))
        return service["rollout"]["phase"] == phase and len(service["versions"]) == versions

    await until(lambda: reached("shifting", 2), within_s=90, what="search to be warm in one group")
    await world.client.post(path_of("services", "search", "commands", "abort"), {})
    await until(lambda: reached("rolled_back", 1), within_s=120, what="search to be rolled back")


async def leave_the_group(world: World) -> None:
    (world.configs / "inside" / "own.yaml").unlink()
    await world.client.post(path_of("config", "reload"), {})


async def unmarked(targets: tuple[Target, ...]) -> bool:
    return await marks(*targets) == [None, None]
