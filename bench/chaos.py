"""A server that is killed with -9 again and again, under rollouts that succeed, fail and are aborted: is anything lost?

python bench/chaos.py [--seed 1] [--kills 50] [--rate 200] [--json]

Three real Envoys under a steady load by clients that never retry. From the seed follow the rollouts and what hits them
when: the server is killed, killed once more while it starts, or stopped for a while; the third Envoy is killed or
stopped. The backends of the version that goes are killed the moment they are reported safe. All the time each Envoy is
asked for the weights that it has. Exits with 1 when a request was dropped, a rollout ended otherwise than it should, an
Envoy had a weight that no saved step gave it, a weight rose without a pass, or a journal does not replay.
"""

import argparse
import asyncio
import contextlib
import json
import os
import signal
import statistics
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.blows import KILLS, Blow, Course, Hit, Plan, Step, plans
from bench.weights import Weights, differences
from rollout.client import ApiFault, path_of
from rollout.demo.backend import Behaviour
from rollout.demo.load import LoadPlan, Outcome, Tally, mix, run_load
from rollout.demo.processes import Envoy, until
from rollout.demo.world import SERVICE, Cast, World
from rollout.errors import Unavailable
from rollout.replay import Recording, load_recording

GROUPS = ("blue", "green")
USUAL = Behaviour(median_ms=10)
BROKEN = Behaviour(median_ms=10, error_share=0.3)
CAST = Cast(dict.fromkeys(GROUPS, 2), dict.fromkeys(GROUPS, USUAL))
ENDED = ("completed", "rolled_back")
ROLLOUT_S, BACK_S = 180.0, 60.0
LOOK_S = 0.02


@dataclass(frozen=True, slots=True)
class Landed:
    """One blow. Seconds until the server was ready again, and until it had all Envoys; None: the next came first."""

    hit: Hit
    phase: str
    ready_s: float
    back_s: float | None


@dataclass(frozen=True, slots=True)
class Result:
    """What became of one rollout, and what was not as it should be."""

    version: str
    course: Course
    seconds: float
    landed: tuple[Landed, ...]
    faults: tuple[str, ...]

    @property
    def kills(self) -> int:
        return sum(KILLS.get(each.hit, 0) for each in self.landed)


class Chaos:
    """Rollouts one after the other in one world, and what hits them."""

    def __init__(self, world: World, say: Any = print) -> None:
        self.world = world
        self.say = say
        self.tally = Tally()
        self.mortal = Tally()
        """What clients of the Envoy got that is killed now and then."""
        self.weights = Weights(world)
        self._stable = GROUPS[0]
        self._number = 0

    @property
    def _spare(self) -> str:
        return GROUPS[1 - GROUPS.index(self._stable)]

    # --- load ---

    @contextlib.asynccontextmanager
    async def loaded(self, rate_per_s: float) -> AsyncIterator[None]:
        """Keep clients at every Envoy, and look at the Envoys' weights."""
        stop = asyncio.Event()
        *steady, mortal = await self.world.targets()
        third = rate_per_s / (len(steady) + 1)
        paths = mix(slow_ms=400, stream_ms=700)

        def record(outcome: Outcome) -> None:
            (self.mortal if outcome.target == str(mortal) else self.tally).record(outcome)

        async with asyncio.TaskGroup() as group:
            group.create_task(run_load(LoadPlan(tuple(steady), third * len(steady), paths), record, stop))
            group.create_task(run_load(LoadPlan((mortal,), third, paths, timeout_s=5.0), record, stop))
            watch = group.create_task(self.weights.watch())
            try:
                yield
            finally:
                stop.set()
                watch.cancel()

    # --- rollouts ---

    async def play(self, plan: Plan) -> Result:
        """Lead one rollout to its end, and hit it as planned. Raises Unavailable when it does not end."""
        self._number += 1
        version = f"r{self._number}"
        group = self._spare
        behaviour = BROKEN if plan.course is Course.FAILS else USUAL
        await asyncio.gather(*(backend.behave(behaviour) for backend in self.world.backends[group]))
        began_s = time.monotonic()
        landed: list[Landed] = []
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._operate(plan, version, group))
            tasks.create_task(self._hit(plan, version, landed))
            ended_s = await self._stop_the_loser(version, group)
        service = await self._until(version, lambda service: not service["in_progress"])
        faults = [*self._ended_otherwise(plan, service["rollout"])]
        recording = await self._recording(service["rollout"]["id"])
        faults += differences(recording, self.weights.of(version))
        if service["rollout"]["outcome"] == "completed":
            self._stable = group
        await asyncio.gather(*(backend.start() for backend in self.world.backends[self._spare]))
        result = Result(version, plan.course, ended_s - began_s, tuple(landed), tuple(faults))
        self.say(_line(result))
        return result

    async def _operate(self, plan: Plan, version: str, group: str) -> None:
        """Deploy, and abort where it is planned; ask until it is answered, whatever happens to the server."""

        async def deployed() -> bool:
            with contextlib.suppress(Unavailable, ApiFault):
                await self.world.deploy(version, plan.course.strategy, on=group)
                return True
            return False

        async def aborted() -> bool:
            with contextlib.suppress(Unavailable):
                await self.world.command("abort")
                return True
            return False

        await until(deployed, within_s=ROLLOUT_S, what=f"{version} to be deployed")
        if plan.course is Course.IS_ABORTED:
            await self._reach(plan.course, version, plan.abort)
            await until(aborted, within_s=ROLLOUT_S, what=f"{version} to be aborted")

    async def _hit(self, plan: Plan, version: str, landed: list[Landed]) -> None:
        async with asyncio.TaskGroup() as tasks:
            back: asyncio.Task[float] | None = None
            for blow in plan.blows:
                if blow.step is not None:
                    await self._reach(plan.course, version, blow.step)
                await asyncio.sleep(blow.wait_s)
                phase = await self._phase()
                began_s = time.monotonic()
                if back is not None and not back.done():
                    back.cancel()
                await self._land(blow)
                ready_s = time.monotonic() - began_s
                landed.append(Landed(blow.hit, phase, ready_s, None))
                back = tasks.create_task(self._back(landed, began_s))

    async def _land(self, blow: Blow) -> None:
        match blow.hit:
            case Hit.KILL:
                await self.world.kill_server()
                await self.world.start_server()
            case Hit.KILL_TWICE:
                await self.world.kill_server()
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(blow.lasts_s / 2):
                        await self.world.start_server()
                await self.world.kill_server()
                await self.world.start_server()
            case Hit.STALL:
                await stop_for(self.world.server.pid, blow.lasts_s)
            case Hit.ENVOY:
                await revived(self.world.envoys[-1], blow.lasts_s)
            case Hit.FREEZE:
                await stop_for(self.world.envoys[-1].process.pid, blow.lasts_s)

    async def _back(self, landed: list[Landed], began_s: float) -> float:
        """Wait until every Envoy is on the line again, and note how long that took."""
        number = len(landed) - 1

        async def all_back() -> bool:
            with contextlib.suppress(Unavailable):
                nodes = (await self.world.client.get(path_of("fleet")))["nodes"]
                return sum(1 for node in nodes if node["connected"]) == len(self.world.envoys)
            return False

        await until(all_back, within_s=BACK_S, what="all Envoys to be back")
        seconds = time.monotonic() - began_s
        before = landed[number]
        landed[number] = Landed(before.hit, before.phase, before.ready_s, seconds)
        return seconds

    async def _phase(self) -> str:
        try:
            rollout = (await self.world.service())["rollout"]
        except Unavailable:
            return "unknown"
        stage = f" {rollout['weight_percent']:g} %" if rollout and rollout["phase"] == "shifting" else ""
        return f"{rollout['phase']}{stage}" if rollout else "before the first"

    async def _reach(self, course: Course, version: str, step: Step) -> None:
        """Wait until the rollout is at this step or beyond it."""
        steps = course.steps

        def reached(service: Mapping[str, Any]) -> bool:
            rollout = service["rollout"]
            found = (rollout["phase"], rollout["stage"] if rollout["phase"] == "shifting" else 0)
            assert rollout["phase"] != "paused", rollout["reason"]
            return found in steps and steps.index(found) >= steps.index(step)

        await self._until(version, reached)

    async def _stop_the_loser(self, version: str, group: str) -> float:
        """Kill the backends of the version that goes, as soon as they are reported safe; return when that was."""

        def safe(service: Mapping[str, Any]) -> bool:
            rollout = service["rollout"]
            return bool(rollout["phase"] in ENDED or (rollout["drain"] and rollout["drain"]["safe_to_stop"]))

        service = await self._until(version, safe)
        safe_s = time.monotonic()
        loser = group if service["rollout"]["phase"] == "rolled_back" else self._stable
        await asyncio.gather(*(backend.kill() for backend in self.world.backends[loser]))
        return safe_s

    async def _until(self, version: str, holds: Any) -> dict[str, Any]:
        """Wait until something holds of the service while this is its rollout's candidate; return the service."""
        found: dict[str, Any] = {}

        async def reached() -> bool:
            try:
                service = await self.world.service()
            except Unavailable:
                return False
            found.update(service)
            rollout = service["rollout"]
            return rollout is not None and rollout["candidate"] == version and bool(holds(service))

        try:
            await until(reached, within_s=ROLLOUT_S, what=version)
        except Unavailable as error:
            rollout = found.get("rollout") or {}
            raise Unavailable(f"{error}: {rollout.get('phase')}: {rollout.get('reason')}, {rollout}") from error
        return found

    def _ended_otherwise(self, plan: Plan, rollout: Mapping[str, Any]) -> Iterator[str]:
        if rollout["outcome"] != plan.course.outcome:
            yield f"it should have {plan.course}, but ended {rollout['outcome']}: {rollout['reason']}"

    async def _recording(self, number: int) -> Recording:
        found: dict[str, Any] = {}

        async def told() -> bool:
            with contextlib.suppress(Unavailable):
                found.update(await self.world.client.get(path_of("services", SERVICE, "rollouts", number, "record")))
            return bool(found)

        await until(told, within_s=BACK_S, what="the recording")
        return load_recording(json.dumps(found).encode())


async def stop_for(pid: int | None, seconds: float) -> None:
    """SIGSTOP a process, and let it go on after a while."""
    assert pid is not None
    os.kill(pid, signal.SIGSTOP)
    try:
        await asyncio.sleep(seconds)
    finally:
        os.kill(pid, signal.SIGCONT)


async def revived(envoy: Envoy, seconds: float) -> None:
    """SIGKILL an Envoy, and start it again after a while."""
    await envoy.kill()
    await asyncio.sleep(seconds)
    await envoy.start()


def _line(result: Result) -> str:
    hits = ", ".join(f"{each.hit} ({each.phase})" for each in result.landed)
    marks = "".join(f"\n    FAULT: {fault}" for fault in result.faults)
    return f"{result.version} {result.course} in {result.seconds:.1f} s; {hits or 'nothing hit it'}{marks}"


@dataclass(frozen=True, slots=True)
class Report:
    """What a run came to."""

    results: tuple[Result, ...]
    requests: int
    dropped: int
    first_drops: tuple[str, ...]

    @property
    def faults(self) -> tuple[str, ...]:
        drops = tuple(f"dropped: {drop}" for drop in self.first_drops)
        return (*(f"{each.version}: {fault}" for each in self.results for fault in each.faults), *drops)

    def figures(self) -> dict[str, float]:
        """The sums, and what a kill costs; by how much rollouts take longer only where some were not hit."""
        landed = [each for result in self.results for each in result.landed]
        killed = [each for each in landed if each.hit is Hit.KILL]
        back = [each.back_s for each in killed if each.back_s is not None]
        courses = [each.course for each in self.results]
        return {
            "rollouts": len(courses),
            **{f"rollouts, {course}": courses.count(course) for course in Course},
            "kills": sum(result.kills for result in self.results),
            **{str(hit): sum(1 for each in landed if each.hit is hit) for hit in Hit if hit not in KILLS},
            "requests": self.requests,
            "dropped": self.dropped,
            "ended otherwise, or unexplained": sum(len(each.faults) for each in self.results),
            **_spread("from a kill to ready, s", [each.ready_s for each in killed]),
            **_spread("from a kill to all Envoys back, s", back),
            **_spread("lost of a rollout by each hit, s", list(self._lost_s())),
        }

    def _lost_s(self) -> Iterator[float]:
        unhurt = {each.course: each.seconds for each in self.results if not each.landed}
        for each in self.results:
            if each.landed and each.course in unhurt:
                yield (each.seconds - unhurt[each.course]) / len(each.landed)


def _spread(name: str, values: Sequence[float]) -> Mapping[str, float]:
    if not values:
        return {}
    return {f"{name}, median": round(statistics.median(values), 2), f"{name}, most": round(max(values), 2)}


async def run(folder: Path, wanted: Sequence[Plan], rate_per_s: float = 200.0, say: Any = print) -> Report:
    """Lead all of the rollouts; an end that never comes is a fault of its own, and ends the run."""
    results: list[Result] = []
    async with World(folder, CAST) as world:
        chaos = Chaos(world, say)
        async with chaos.loaded(rate_per_s):
            for plan in wanted:
                try:
                    results.append(await chaos.play(plan))
                except* (Unavailable, AssertionError) as group:
                    fault = "; ".join(map(str, _flat(group)))
                    results.append(Result(f"after {len(results)}", plan.course, ROLLOUT_S, (), (fault,)))
                    break_off = True
                else:
                    break_off = False
                if break_off:
                    break
        drops = tuple(map(str, chaos.tally.first_drops))
        return Report(tuple(results), chaos.tally.requests, chaos.tally.dropped, drops)


def _flat(group: BaseExceptionGroup[Any]) -> Iterator[BaseException]:
    for error in group.exceptions:
        if isinstance(error, BaseExceptionGroup):
            yield from _flat(error)
        else:
            yield error


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--rate", type=float, default=200.0, help="requests per second")
    parser.add_argument("--json", action="store_true")
    wanted = parser.parse_args()

    def say(text: str) -> None:
        print(f"{time.strftime('%H:%M:%S')} {text}", file=sys.stderr, flush=True)

    unhurt = [Plan(course) for course in Course]
    with tempfile.TemporaryDirectory(prefix="chaos-") as folder:
        chosen = [*unhurt, *plans(wanted.seed, wanted.kills)]
        report = asyncio.run(run(Path(folder), chosen, wanted.rate, say))
    figures = {"seed": wanted.seed, **report.figures()}
    if wanted.json:
        print(json.dumps({**figures, "faults": report.faults}))
    else:
        print("\n".join(f"  {name:44} {value:>10,}" for name, value in figures.items()))
    print(*report.faults, sep="\n", file=sys.stderr)
    return 1 if report.faults or report.dropped else 0


if __name__ == "__main__":
    sys.exit(main())
