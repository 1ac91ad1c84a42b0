"""The server's process: the real server, or the floor, with a meter for what pushes and their ACKs cost.

Asked for a push (`{"push": ["weights", 3], "answers": 100, "timeout_s": 60}`), it answers with the CPU time of the
whole process until that many answers of proxies are read, and when they came; without "push" it only measures.
"""

import argparse
import asyncio
import cProfile
import gc
import io
import os
import pstats
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from prometheus_client import CollectorRegistry

from bench.floor import Floor, canned
from bench.pipe import answer, questions, raise_file_limit
from bench.served import Change, Size, changed, digest, digest_of, resources
from rollout.app import set_memory_aside
from rollout.signals import FleetSignals
from xds.cache import Cache
from xds.edge.grpcio import GrpcEdge
from xds.limits import Limits, Rate
from xds.node import Node
from xds.resources import Resource
from xds.session import ControlPlane, Events
from xds.snapshot import of_views, snapshot, view
from xds.stream import Answer

SETTLE_S = 0.03  # until what follows the last answer is done too
PROFILE_ROWS = 40


class Meter:
    """Notes when answers come in; `done` is set at the last one that is waited for."""

    def __init__(self) -> None:
        self.at_s: list[float] = []
        self.done = asyncio.Event()
        self._wanted = 0

    def start(self, wanted: int) -> None:
        self.at_s = []
        self.done.clear()
        self._wanted = wanted

    def answered(self) -> None:
        self.at_s.append(time.monotonic())
        if len(self.at_s) == self._wanted:
            self.done.set()


class Target(Protocol):
    """A server under measurement. `prepared` returns the push itself, ready to be made."""

    async def start(self) -> int: ...
    def prepared(self, resource: Resource) -> Callable[[], object]: ...


class Product:
    """The real server, built and counted as rollout/app.py does it."""

    def __init__(self, served: Sequence[Resource], answered: Callable[[], None]) -> None:
        self._cache = Cache()
        self._answered = answered
        self._signals = FleetSignals(CollectorRegistry(), self._cache, time.monotonic)
        events = Events(answered=self._count, responded=self._signals.responded)
        # New streams are let in at once: what is measured here is what they cost.
        limits = Limits(new_streams=Rate(per_s=1_000_000, burst=1_000_000))
        self._edge = GrpcEdge(ControlPlane(self._cache, events, limits=limits), time.monotonic)
        self._snapshot = snapshot(served)
        self._cache.publish(self._snapshot)
        set_memory_aside()

    async def start(self) -> int:
        return await self._edge.start("127.0.0.1:0")

    def prepared(self, resource: Resource) -> Callable[[], object]:
        return lambda: self._publish(resource)

    def _publish(self, resource: Resource) -> None:
        views = self._snapshot.views
        replaced = {**views[resource.type].resources, resource.name: resource}
        following = {**views, resource.type: view(resource.type, replaced.values())}
        self._snapshot = of_views(following.values())
        self._cache.publish(self._snapshot)

    def _count(self, node: Node, answer: Answer) -> None:
        assert not answer.rejected
        self._signals.answered(node, answer)
        self._answered()


class Canned:
    """The floor, which is given its bytes."""

    def __init__(self, protocol: str, served: Sequence[Resource], answered: Callable[[], None]) -> None:
        self._protocol = protocol
        self._floor = Floor(protocol, served, answered)
        self._pushes = 0

    async def start(self) -> int:
        return await self._floor.start()

    def prepared(self, resource: Resource) -> Callable[[], object]:
        self._pushes += 1
        body = canned(self._protocol, [resource], str(self._pushes))
        return lambda: self._floor.push(body)


class Serving:
    """Answers the questions of a measurement about one target; with a profile it watches the main thread too."""

    def __init__(self, target: Target, meter: Meter, size: Size, profile: cProfile.Profile | None) -> None:
        self._target = target
        self._meter = meter
        self._size = size
        self._served = {(each.type.url, each.name): each for each in resources(size)}
        self._profile = profile

    async def reply(self, question: Mapping[str, Any]) -> None:
        if "answers" in question:
            await self._measure(question)
        elif "memory" in question:
            gc.collect()
            answer({"bytes": resident_bytes()})
        elif "served" in question:
            answer({"digest": digest_of({key: digest(each.body) for key, each in self._served.items()})})
        else:
            answer({"profile": self._profiled()})

    async def _measure(self, question: Mapping[str, Any]) -> None:
        push, said = self._prepared(question)
        self._meter.start(question["answers"])
        if push is None:
            answer({"measuring": True})
        began_s, began_cpu_s = time.monotonic(), time.process_time()
        if self._profile is not None:
            self._profile.enable()
        if push is not None:
            push()
        try:
            async with asyncio.timeout(question["timeout_s"]):
                await self._meter.done.wait()
        except TimeoutError:
            said["late"] = question["answers"] - len(self._meter.at_s)
        await asyncio.sleep(SETTLE_S)
        cpu_s = time.process_time() - began_cpu_s
        if self._profile is not None:
            self._profile.disable()
        answer({**said, "cpu_s": cpu_s, "answered_s": [at_s - began_s for at_s in self._meter.at_s]})

    def _prepared(self, question: Mapping[str, Any]) -> tuple[Callable[[], object] | None, dict[str, object]]:
        if "push" not in question:
            return None, {}
        change, number = question["push"]
        replaced = changed(self._size, Change(change), number)
        self._served[replaced.type.url, replaced.name] = replaced
        said: dict[str, object] = {"changed": [replaced.type.url, replaced.name, digest(replaced.body)]}
        return self._target.prepared(replaced), {**said, "resource_bytes": len(replaced.body)}

    def _profiled(self) -> str:
        if self._profile is None:
            return ""
        text = io.StringIO()
        pstats.Stats(self._profile, stream=text).sort_stats("tottime").print_stats(PROFILE_ROWS)
        self._profile = cProfile.Profile()
        return text.getvalue()


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


async def serve(target: str, protocol: str, size: Size, profile: cProfile.Profile | None) -> None:
    meter = Meter()
    served = resources(size)
    server: Target = Canned(protocol, served, meter.answered) if target == "floor" else Product(served, meter.answered)
    serving = Serving(server, meter, size, profile)
    answer({"port": await server.start()})
    async for question in questions():
        await serving.reply(question)
    os._exit(0)  # nothing is left to save, and thousands of streams need not be ended one by one


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("target", choices=("server", "floor"))
    parser.add_argument("protocol", choices=("sotw", "delta"))
    parser.add_argument("clusters", type=int)
    parser.add_argument("endpoints", type=int)
    parser.add_argument("--profile", action="store_true")
    wanted = parser.parse_args()
    raise_file_limit()
    size = Size(wanted.clusters, wanted.endpoints)
    asyncio.run(serve(wanted.target, wanted.protocol, size, cProfile.Profile() if wanted.profile else None))


if __name__ == "__main__":
    main()
