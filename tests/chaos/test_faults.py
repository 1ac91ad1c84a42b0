"""What hangs, refuses or stands still in the middle of a stage: it is waited for or named, and nothing is dropped."""

import contextlib
import json
import resource
import time
from pathlib import Path
from typing import Any

import pytest

from bench.chaos import stop_for
from bench.weights import watched
from rollout.bootstrap import Proxy, bootstrap
from rollout.client import ApiFault, path_of
from rollout.demo.load import Target
from rollout.demo.processes import Envoy, free_port, until
from rollout.demo.world import SERVICE, Cast, World
from rollout.replay import load_recording, replay
from rollout.store.reserve import SLOT_BYTES, SLOTS
from tests.chaos.relay import Relay
from tests.envoy.conftest import UnderLoad

pytestmark = pytest.mark.envoy

CAST = Cast({"v1": 2, "v2": 2}, {}, (("eu/eu-1", False),))
HELD = {
    "stages": [{"weight": "20%", "hold": "1s"}, {"weight": "100%", "hold": "1h"}],
    "gate": {"margin": "20%", "warmup": "0s"},
    "drain_timeout": "10s",
}
FULL_BYTES = SLOTS * SLOT_BYTES


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


def fill_the_disk(world: World) -> None:
    """Let no file of the server grow beyond what it has reserved already."""
    pid = world.server.pid
    assert pid is not None
    resource.prlimit(pid, resource.RLIMIT_FSIZE, (FULL_BYTES, resource.RLIM_INFINITY))


async def test_what_hangs_in_mid_stage_holds_it_and_nothing_else(tmp_path: Path, under_load: UnderLoad) -> None:
    """An admin hangs; the server stands still; a line is cut and hangs; the disk is full and the server is killed."""
    async with contextlib.AsyncExitStack() as stack:
        world = await stack.enter_async_context(World(tmp_path, CAST))
        control, admin = Relay(world.xds), Relay()
        await stack.enter_async_context(control)
        await stack.enter_async_context(admin)
        apart = Apart(world, control, admin)
        stack.push_async_callback(apart.envoy.kill)
        tally = await stack.enter_async_context(under_load(*await world.targets(), await apart.start()))
        weights = await stack.enter_async_context(watched(world))
        await world.deploy("v2", HELD)
        await until(lambda: at(world, 100), within_s=30, what="the last weight")
        admin.stall()
        await until(lambda: blind_to(world, "apart"), within_s=60, what="a hanging admin to be named")
        admin.go_on()
        await stop_for(world.server.pid, 2.0)
        await control.refuse()
        await until(lambda: waits_for(world, "apart"), within_s=60, what="the Envoy to be missed")
        await control.listen()
        await until(lambda: waits_for(world), within_s=90, what="the Envoy to be back")
        back_s = await abort_with_control_stalled_and_no_disk(world, control)
        await world.kill_server()
        await world.start_server()
        control.go_on()
        service = await world.until_phase("rolled_back", within_s=60)
        assert "could not save it: aborted by demo" in service["rollout"]["reason"]
        risen = [change for change in weights.of("v2")["envoy-1"] if change[0] > back_s and change[1]]
        assert risen == []
        text = await world.client.get(path_of("services", SERVICE, "rollouts", "last", "record"))
        recording = load_recording(json.dumps(text).encode())
        assert replay(recording.strategy, recording.entries).difference is None
        for backend in world.backends["v2"]:
            await backend.kill()
    assert (tally.dropped, dict(tally.bad)) == (0, {}), tally.first_drops


async def abort_with_control_stalled_and_no_disk(world: World, control: Relay) -> float:
    """Return when the others had the stable version back, Unix seconds."""
    control.stall()
    fill_the_disk(world)
    await until(lambda: waits_for_disk(world), within_s=60, what="the full disk to be told")
    with pytest.raises(ApiFault, match="all traffic is on the stable version, but this is not saved"):
        await world.command("abort")
    await until(lambda: waits_for(world, "apart", "the disk"), within_s=60, what="the others to be back on stable")
    assert (await world.service())["rollout"]["phase"] == "rolling_back"
    return time.time()


async def waits_for_disk(world: World) -> bool:
    return "the disk" in (await world.service())["rollout"]["waiting_for"]
