"""A server, three Envoys and a steady load, through many changes of weights and clusters and many killed servers.

python bench/soak.py [--weights 1000] [--clusters 200] [--kills 50] [--rate 300] [--json]

Weights change by rollouts in many stages; beside them clusters are added, edited and removed by `reload`. Then the
server is killed with -9, each time in the middle of a push. Nothing may be lost, no cluster may wait for its
endpoints, and no Envoy may see a cluster removed that is served.
"""

import argparse
import asyncio
import contextlib
import json
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rollout.client import path_of
from rollout.demo.load import LoadPlan, Tally, mix, run_load
from rollout.demo.processes import until
from rollout.demo.world import Cast, World, configuration
from rollout.errors import RolloutError

STAGES = 20
SERVICES = tuple(f"shop-{number}" for number in range(10))  # that move at the same time
WITHIN_S = 60.0
COUNTERS = ("cluster_added", "cluster_modified", "cluster_removed", "warming_clusters")


class Soak:
    def __init__(self, world: World) -> None:
        self.world = world
        self.warm_ms: list[float] = []
        self.weights = 0
        self.resources = shops(configuration([backend.address for backend in world.backends["v1"]]))

    def say(self, text: str) -> None:
        print(f"{time.strftime('%H:%M:%S')} {text}", file=sys.stderr, flush=True)

    async def prepare(self) -> None:
        self.world.write_configs(self.resources)
        await self.world.client.post("/v1/config/reload", {})

    async def shift(self, changes: int) -> None:
        """Move the traffic of all services to and fro until weights have changed so often."""
        async with asyncio.TaskGroup() as group:
            for service in SERVICES:
                group.create_task(self._shift(service, changes))

    async def _shift(self, service: str, changes: int) -> None:
        weights = [f"{100 * (number + 1) / STAGES:g}%" for number in range(STAGES)]
        stages = [{"weight": weight, "hold": "0s"} for weight in weights]
        names = tuple(self.world.backends)
        number = 0
        while self.weights < changes:
            number += 1
            endpoints = [backend.address for backend in self.world.backends[names[number % len(names)]]]
            strategy = {"stages": stages, "gate": {"margin": 0.5, "warmup": "0s", "min_rps": 0}}  # changes, fast
            body = {"version": f"r{number}", "endpoints": endpoints, "strategy": strategy}

            async def deployed(body: Mapping[str, Any] = body) -> bool:
                with contextlib.suppress(RolloutError):  # the one before is over when its old version is gone
                    await self.world.client.post(path_of("services", service, "rollouts"), dict(body))
                    return True
                return False

            await until(deployed, within_s=WITHIN_S, what=f"{service} to take its next version")

            async def completed() -> bool:
                rollout = (await self.world.client.get(path_of("services", service)))["rollout"]
                assert rollout["phase"] not in ("paused", "rolled_back"), rollout
                return bool(rollout["phase"] == "completed")

            await until(completed, within_s=STAGES * 20, what=f"{service} on its next version")
            self.weights += STAGES
            self.say(f"{self.weights} changes of weights")

    async def edit(self, changes: int) -> None:
        """Add, edit and remove clusters, so many times in all, and wait each time until they are warm everywhere."""
        for number in range(changes):
            name = f"extra-{number // 3}"
            kept = {
                kind: [each for each in self.resources[kind] if each.get("name", each.get("cluster_name")) != name]
                for kind in ("clusters", "endpoints")
            }
            if number % 3 < 2:
                cluster = {**self.resources["clusters"][0], "name": name, "connect_timeout": f"{1 + number % 3}s"}
                assignment = {**self.resources["endpoints"][0], "cluster_name": name}
                kept = {
                    "clusters": [*kept["clusters"], cluster],
                    "endpoints": [*kept["endpoints"], assignment],
                }
            self.resources |= kept
            await self._reload(("cluster_added", "cluster_modified", "cluster_removed")[number % 3])
            if number % 30 == 29:
                self.say(f"{number + 1} changes of clusters")

    async def _reload(self, counter: str) -> None:
        before = [await stats(envoy) for envoy in self.world.envoys]
        self.world.write_configs(self.resources)
        await self.world.client.post("/v1/config/reload", {})
        began_s = time.monotonic()

        async def warm() -> bool:
            now = [await stats(envoy) for envoy in self.world.envoys]
            return all(
                each[counter] > old[counter] and each["warming_clusters"] == 0
                for each, old in zip(now, before, strict=True)
            )

        await until(warm, within_s=WITHIN_S, what=f"{counter} on every Envoy")
        self.warm_ms.append((time.monotonic() - began_s) * 1000)

    async def kill(self, times: int) -> int:
        """Kill the server so often in the middle of a push; return how many clusters Envoys saw removed."""
        removed = sum([(await stats(envoy))["cluster_removed"] for envoy in self.world.envoys])
        for number in range(times):
            # A change of every cluster, so that the push is as long as it gets.
            for cluster in self.resources["clusters"]:
                cluster["connect_timeout"] = f"{number % 7 + 1}s"
            self.world.write_configs(self.resources)
            task = asyncio.create_task(self._post_reload())
            await asyncio.sleep(random.uniform(0.0, 0.15))
            await self.world.kill_server()
            await task
            await self.world.start_server()
            await until(self._all_connected, within_s=WITHIN_S, what="the Envoys to be back")
            if number % 10 == 9:
                self.say(f"{number + 1} servers killed")
        return sum([(await stats(envoy))["cluster_removed"] for envoy in self.world.envoys]) - removed

    async def _post_reload(self) -> None:
        with contextlib.suppress(RolloutError):
            await self.world.client.post("/v1/config/reload", {})

    async def _all_connected(self) -> bool:
        fleet = await self.world.client.get("/v1/fleet")
        return sum(1 for node in fleet["nodes"] if node["connected"]) == len(self.world.envoys)


def shops(resources: Mapping[str, Any]) -> dict[str, Any]:
    """Return the configuration with its one service made many, which share its traffic."""
    text = json.dumps({kind: resources[kind] for kind in ("clusters", "endpoints")})
    copies = [json.loads(text.replace('"checkout"', json.dumps(name))) for name in SERVICES]
    split = {"weighted_clusters": {"clusters": [{"name": name, "weight": 1} for name in SERVICES]}}
    routes = json.dumps(resources["routes"]).replace('"cluster": "checkout"', json.dumps(split)[1:-1])
    return {
        **resources,
        "routes": json.loads(routes),
        "clusters": [each for copy in copies for each in copy["clusters"]],
        "endpoints": [each for copy in copies for each in copy["endpoints"]],
    }


async def stats(envoy: Any) -> Mapping[str, int]:
    text = await envoy.admin_get(f"/stats?filter=^cluster_manager.({'|'.join(COUNTERS)})$")
    pairs = (line.split(": ", 1) for line in text.splitlines())
    return {name.rpartition(".")[2]: int(value) for name, value in pairs}


async def timeouts(envoy: Any) -> int:
    text = await envoy.admin_get("/stats?filter=init_fetch_timeout$")
    return sum(int(line.rpartition(": ")[2]) for line in text.splitlines())


async def run(wanted: argparse.Namespace) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        async with World(Path(folder), Cast({"v1": 2, "v2": 2}, {})) as world:
            soak, tally, stop = Soak(world), Tally(), asyncio.Event()
            plan = LoadPlan(await world.targets(), wanted.rate, mix(slow_share=0.02, stream_share=0.01))
            await soak.prepare()
            load = asyncio.create_task(run_load(plan, tally.record, stop))
            await asyncio.gather(soak.shift(wanted.weights), soak.edit(wanted.clusters))
            removed = await soak.kill(wanted.kills)
            stop.set()
            await load
            nacks = sum([int(await rejected(envoy)) for envoy in world.envoys])
            return {
                "requests": tally.requests,
                "dropped": tally.dropped,
                "weight_changes": soak.weights,
                "cluster_changes": len(soak.warm_ms),
                "warm_ms_median": round(statistics.median(soak.warm_ms or [0.0]), 1),
                "warm_ms_max": round(max(soak.warm_ms or [0.0]), 1),
                "init_fetch_timeouts": sum([await timeouts(envoy) for envoy in world.envoys]),
                "nacks": nacks,
                "kills": wanted.kills,
                "clusters_removed_by_kills": removed,
            }


async def rejected(envoy: Any) -> int:
    text = await envoy.admin_get("/stats?filter=update_rejected$")
    return sum(int(line.rpartition(": ")[2]) for line in text.splitlines())


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", type=int, default=1000)
    parser.add_argument("--clusters", type=int, default=200)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--rate", type=float, default=300.0)
    parser.add_argument("--json", action="store_true")
    wanted = parser.parse_args()
    found = asyncio.run(run(wanted))
    if wanted.json:
        print(json.dumps(found))
    else:
        for name, value in found.items():
            print(f"  {name:26} {value:>10}")
    return 1 if found["dropped"] or found["init_fetch_timeouts"] or found["clusters_removed_by_kills"] else 0


if __name__ == "__main__":
    sys.exit(main())
