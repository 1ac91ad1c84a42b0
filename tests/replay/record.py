"""Writes the recordings of this folder anew, on real Envoys under load: python -m tests.replay.record (a minute)."""

import asyncio
import json
import tempfile
from pathlib import Path

from rollout.client import path_of
from rollout.demo.backend import Behaviour
from rollout.demo.load import LoadPlan, Tally, mix, run_load
from rollout.demo.processes import until
from rollout.demo.world import SERVICE, Cast, World
from rollout.replay import dump_recording, load_recording

FOLDER = Path(__file__).parent
CAST = Cast({"v1": 2, "v2": 2, "v3": 2}, {"v3": Behaviour(error_share=0.3)}, (("eu/eu-1", False), ("us/us-1", True)))
STRATEGY = {
    "stages": [{"weight": weight, "hold": "2s"} for weight in ("20%", "50%", "100%")],
    "gate": {"warmup": "2s", "margin": "3%"},
    "keep_stable": "1s",
}
WITHIN_S = 90.0


async def until_stage(world: World, stage: int) -> None:
    """Wait until something was judged at a stage."""

    async def reached() -> bool:
        rollout = (await world.service())["rollout"]
        return bool(rollout["phase"] == "shifting" and rollout["stage"] == stage and rollout["verdict"])

    await until(reached, within_s=WITHIN_S, what=f"stage {stage + 1}")


async def save(world: World, name: str) -> None:
    recording = await world.client.get(path_of("services", SERVICE, "rollouts", "last", "record"))
    (FOLDER / name).write_bytes(dump_recording(load_recording(json.dumps(recording).encode())))


async def record(world: World) -> None:
    """A rollout that completes, though it is paused and its server is killed; one of a bad version; one aborted."""
    await world.deploy("v2", STRATEGY)
    await until_stage(world, 0)
    await world.command("pause")
    await world.command("resume")
    await until_stage(world, 1)
    await world.kill_server()
    await world.start_server()
    await world.until_phase("completed", within_s=WITHIN_S)
    await save(world, "completed.json")
    await world.deploy("v3", STRATEGY)
    await world.until_phase("rolled_back", within_s=WITHIN_S)
    await save(world, "rolled_back.json")
    await world.deploy("v1", STRATEGY)
    await until_stage(world, 0)
    await world.command("promote")
    await until_stage(world, 1)
    await world.command("abort")
    await world.until_phase("rolled_back", within_s=WITHIN_S)
    await save(world, "aborted.json")


async def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        async with World(Path(folder), CAST) as world, asyncio.TaskGroup() as group:
            stop, tally = asyncio.Event(), Tally()
            fast = mix(slow_share=0.003, stream_share=0.003, slow_ms=300, stream_ms=300)
            group.create_task(run_load(LoadPlan(await world.targets(), 300, fast), tally.record, stop))
            try:
                await record(world)
            finally:
                stop.set()


if __name__ == "__main__":
    asyncio.run(main())
