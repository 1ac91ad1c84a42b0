"""A network that swallows everything between the Envoys and their control plane, in a namespace of its own.

unshare --user --map-root-user --net python -m tests.chaos.blackhole FOLDER

Prints JSON: what was seen. Nothing of it can be felt outside of the namespace.
"""

import asyncio
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from bench.weights import Weights, watched
from rollout.demo.load import LoadPlan, Tally, mix, run_load
from rollout.demo.processes import until
from rollout.demo.world import Cast, World

CAST = Cast({"v1": 2, "v2": 2}, {}, (("eu/eu-1", False), ("us/us-1", True)))
HALF = {
    "stages": [{"weight": "50%", "hold": "1h"}, "100%"],
    "gate": {"margin": "20%", "warmup": "0s"},
    "drain_timeout": "10s",
}


def run(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True, timeout=10)


def each_way(verb: str, port: str) -> None:
    """Add (-A) or delete (-D) the rules that drop every packet to and from a port."""
    for side in ("--dport", "--sport"):
        run("iptables", verb, "INPUT", "-p", "tcp", side, port, "-j", "DROP")


def all_have(weights: Weights, percent: float) -> bool:
    found = weights.of("v2")
    return len(found) == len(CAST.envoys) and all(changes[-1][1] == percent for changes in found.values())


async def seen(folder: Path) -> dict[str, Any]:
    run("ip", "link", "set", "lo", "up")
    tally, stop = Tally(), asyncio.Event()
    async with World(folder, CAST) as world, asyncio.TaskGroup() as group:
        port = world.xds.rpartition(":")[2]
        plan = LoadPlan(await world.targets(), rate_per_s=200, paths=mix(slow_ms=400, stream_ms=700))
        group.create_task(run_load(plan, tally.record, stop))
        async with watched(world) as weights:
            await world.deploy("v2", HALF)
            await until(lambda: all_have(weights, 50), within_s=30, what="the Envoys to have 50 %")
            each_way("-A", port)
            asked_s = time.monotonic()
            await world.command("abort")
            answered_s = time.monotonic() - asked_s

            async def missed() -> bool:
                rollout = (await world.service())["rollout"]
                return rollout["phase"] == "rolling_back" and len(rollout["waiting_for"]) == len(CAST.envoys)

            await until(missed, within_s=60, what="the Envoys to be waited for")
            await until(lambda: time.monotonic() > asked_s + 5, within_s=30, what="the hole to last for a while")
            during = [changes[-1][1] for changes in weights.of("v2").values()]
            each_way("-D", port)
            healed_s = time.monotonic()
            await until(lambda: all_have(weights, 0), within_s=90, what="the Envoys to have it back")
            back_s = time.monotonic() - healed_s
            service = await world.until_phase("rolled_back", within_s=60)
        for backend in world.backends["v2"]:
            await backend.kill()
        stop.set()
    reason = service["rollout"]["reason"]
    return {
        "answered_s": answered_s,
        "during": during,
        "back_s": back_s,
        "reason": reason,
        "requests": tally.requests,
        "dropped": tally.dropped,
    }


if __name__ == "__main__":
    sys.stdout.write(json.dumps(asyncio.run(seen(Path(sys.argv[1])))))
