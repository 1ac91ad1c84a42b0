"""What hangs, refuses or stands still in the middle of a stage: it is waited for or named, and nothing is dropped."""

import contextlib
from pathlib import Path
from typing import Any

import pytest

from bench.chaos import stop_for
from rollout.bootstrap import Proxy, bootstrap
from rollout.demo.load import Target
from rollout.demo.processes import Envoy, free_port, until
from rollout.demo.world import Cast, World
from tests.chaos.relay import Relay
from tests.envoy.conftest import UnderLoad

pytestmark = pytest.mark.envoy

CAST = Cast({"v1": 2, "v2": 2}, {}, (("eu/eu-1", False),))
HELD = {
    "stages": [{"weight": "20%", "hold": "1s"}, {"weight": "100%", "hold": "1h"}],
    "gate": {"margin": "20%", "warmup": "0s"},
    "drain_timeout": "10s",
}


class Apart:
    """An Envoy whose control plane and whose admin endpoint are reached through relays."""

    def __init__(self, world: World, control: Relay, admin: Relay) -> None:
        self.world = world
        self.control = control
        self.admin = admin
        config: dict[str, Any] = bootstrap(
            Proxy("apart", "edge", "us", "us-1", control.address, f"127.0.0.1:{free_port()}", delta=True)
        )
        config["node"]["metadata"]["rollout.admin"] = admin.address
        self.envoy = Envoy("apart", config, world.folder)

    async def start(self) -> Target:
        self.control.target = self.world.xds
        await self.envoy.start()
        self.admin.target = self.envoy.admin_address
        await self.envoy.until_ready()
        return Target.parse((await self.envoy.listeners())["edge"])


async def blind_to(world: World, node: str) -> bool:
    verdict = (await world.service())["rollout"]["verdict"]
    return verdict is not None and verdict["verdict"] == "blind" and node in verdict["reason"]


async def waits_for(world: World, *nodes: str) -> bool:
    return set((await world.service())["rollout"]["waiting_for"]) == set(nodes)


async def at(world: World, percent: float) -> bool:
    rollout = (await world.service())["rollout"]
    assert rollout["phase"] in ("pending", "warming", "shifting"), rollout["reason"]
    return bool(rollout["phase"] == "shifting" and rollout["weight_percent"] == percent)


async def test_what_hangs_in_mid_stage_holds_it_and_nothing_else(tmp_path: Path, under_load: UnderLoad) -> None:
    """One Envoy's admin hangs, then refuses; the server stands still; one Envoy's control plane is cut, then hangs."""
    async with contextlib.AsyncExitStack() as stack:
        world = await stack.enter_async_context(World(tmp_path, CAST))
        control, admin = Relay(world.xds), Relay()
        await stack.enter_async_context(control)
        await stack.enter_async_context(admin)
        apart = Apart(world, control, admin)
        stack.push_async_callback(apart.envoy.kill)
        tally = await stack.enter_async_context(under_load(*await world.targets(), await apart.start()))

        await world.deploy("v2", HELD)
        await until(lambda: at(world, 20), within_s=30, what="the first weight")
        admin.stall()
        await until(lambda: blind_to(world, "apart"), within_s=20, what="a hanging admin to be named")
        await admin.refuse()
        await until(lambda: blind_to(world, "apart"), within_s=20, what="a refusing admin to be named")
        assert await at(world, 20)
        admin.go_on()
        await admin.listen()
        await until(lambda: at(world, 100), within_s=40, what="the next weight")

        await stop_for(world.server.pid, 2.0)
        await control.refuse()
        await until(lambda: waits_for(world, "apart"), within_s=20, what="the Envoy to be missed")
        await control.listen()
        await until(lambda: waits_for(world), within_s=40, what="the Envoy to be back")

        control.stall()
        await world.command("abort")
        await until(lambda: waits_for(world, "apart"), within_s=20, what="the others to be back on stable")
        assert (await world.service())["rollout"]["phase"] == "rolling_back"
        control.go_on()
        await world.until_phase("rolled_back", within_s=60)
        for backend in world.backends["v2"]:
            await backend.kill()
    assert (tally.dropped, dict(tally.bad)) == (0, {}), tally.first_drops
