"""A disk without room in the middle of a rollout, and a server that is killed then: what was taken back stays back."""

import json
import resource
import time
from pathlib import Path

import pytest

from bench.chaos import Weights, watched
from rollout.client import ApiFault, path_of
from rollout.demo.processes import until
from rollout.demo.world import SERVICE, Cast, World
from rollout.replay import load_recording, replay
from rollout.store.reserve import SLOT_BYTES, SLOTS
from tests.envoy.conftest import UnderLoad

pytestmark = pytest.mark.envoy

HALF = {
    "stages": [{"weight": "50%", "hold": "1h"}, "100%"],
    "gate": {"margin": "20%", "warmup": "0s"},
    "drain_timeout": "10s",
}
CAST = Cast({"v1": 2, "v2": 2}, {}, (("eu/eu-1", False), ("us/us-1", True)))
FULL_BYTES = SLOTS * SLOT_BYTES  # no file grows beyond what is reserved already


async def served(weights: Weights, percent: float) -> bool:
    """Whether every Envoy gives the candidate this weight now."""
    found = weights.of("v2")
    return len(found) == len(CAST.envoys) and all(changes[-1][1] == percent for changes in found.values())


def fill_the_disk(world: World) -> None:
    pid = world.server.pid
    assert pid is not None
    resource.prlimit(pid, resource.RLIMIT_FSIZE, (FULL_BYTES, resource.RLIM_INFINITY))


async def test_an_abort_on_a_full_disk_outlasts_a_kill(tmp_path: Path, under_load: UnderLoad) -> None:
    log = tmp_path / "data" / "rollout.db-wal"
    async with World(tmp_path, CAST) as world, under_load(*await world.targets()) as tally:
        async with watched(world) as weights:
            await world.deploy("v2", HALF)
            await until(lambda: served(weights, 50), within_s=30, what="the Envoys to have 50 %")
            await until(lambda: log.stat().st_size > 2 * FULL_BYTES, within_s=30, what="a log longer than the limit")
            fill_the_disk(world)

            async def noticed() -> bool:
                return "the disk" in (await world.service())["rollout"]["waiting_for"]

            await until(noticed, within_s=20, what="the full disk to be told")
            with pytest.raises(ApiFault, match="all traffic is on the stable version, but this is not saved"):
                await world.command("abort")
            await until(lambda: served(weights, 0), within_s=10, what="the Envoys to have it back")
            back_s = time.time()
            await world.kill_server()
            await world.start_server()
            service = await world.until_phase("rolled_back", within_s=60)
        risen = [change for changes in weights.of("v2").values() for change in changes if change[0] > back_s]
        assert [weight for _, weight in risen if weight] == []
        assert "could not save it: aborted by demo" in service["rollout"]["reason"]
        text = await world.client.get(path_of("services", SERVICE, "rollouts", "last", "record"))
        recording = load_recording(json.dumps(text).encode())
        assert replay(recording.strategy, recording.entries).difference is None
        for backend in world.backends["v2"]:
            await backend.kill()
    assert (tally.dropped, dict(tally.bad)) == (0, {}), tally.first_drops
