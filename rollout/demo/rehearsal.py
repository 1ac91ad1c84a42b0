"""Releases in a small world under steady load, one after the other: what each of them did, and what it cost."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from rollout.client import path_of
from rollout.demo.backend import Behaviour
from rollout.demo.load import LoadPlan, Outcome, PathShare, Tally, Target, run_load
from rollout.demo.processes import Envoy, until
from rollout.demo.world import SERVICE, Cast, World

GROUPS = ("blue", "green")
"""Two sets of backends: one has the stable version, the other one the next candidate."""

PATHS = (PathShare("/fast", 1.0),)
LEAST_KNOWN = 2000
KNOWN_WITHIN_S = 60.0
RELEASE_S = 300.0
ENDED = ("completed", "rolled_back")


@dataclass(frozen=True, slots=True)
class Release:
    """What became of one candidate: the rollout as the API tells it, with its journal, and what clients got.

    Times are Unix seconds. `group` is the set of backends that it ran on, by whose name `tally` counts its answers.
    """

    version: str
    group: str
    deployed_s: float
    told: Mapping[str, Any]
    tally: Tally

    @property
    def outcome(self) -> str:
        """`completed` or `rolled_back`; `in_progress` if it was left before."""
        return str(self.told["outcome"])

    @property
    def reason(self) -> str:
        """Why it is where it is."""
        return str(self.told["reason"])

    @property
    def bad(self) -> int:
        """The bad answers of its backends."""
        return self.tally.bad[self.group]

    @property
    def verdicts(self) -> tuple[tuple[str, str], ...]:
        """What each look came to, and why."""
        steps = (step["verdict"] for step in self.told["journal"])
        return tuple((verdict["verdict"], verdict["reason"]) for verdict in steps if verdict is not None)

    @property
    def last_weight(self) -> float:
        """The weight in percent of the last stage that it had traffic at."""
        return next((step["weight_percent"] for step in reversed(self.told["journal"]) if _shifts(step)), 0.0)

    @property
    def weighted_s(self) -> float:
        """When Envoys were given its first weight; NaN if they never were."""
        return self.at_s(_shifts)

    @property
    def back_s(self) -> float:
        """When every Envoy had ACKed the rollback; NaN if there was none."""
        return self.at_s(lambda step: step["phase"] == "rolling_back" and bool(step["converged"]))

    @property
    def first_bad_s(self) -> float:
        """When the first bad answer of its backends had arrived; NaN if none did."""
        return self.tally.first_bad_at_s.get(self.group, float("nan"))

    def at_s(self, condition: Callable[[Mapping[str, Any]], bool]) -> float:
        """When the journal first has such a step; NaN if it has none."""
        steps = (step for step in self.told["journal"] if condition(step))
        return next((_unix_s(step) for step in steps), float("nan"))

    def seconds_until(self, *phases: str) -> float:
        """From the deployment until one of these phases first began; NaN if none did."""
        return self.at_s(lambda step: step["phase"] in phases) - self.deployed_s

    def seconds_by_weight(self) -> Mapping[float, float]:
        """How long each weight in percent lasted."""
        spans: dict[float, float] = {}
        for step, after in zip(self.told["journal"], self.told["journal"][1:], strict=False):
            if _shifts(step):
                weight = step["weight_percent"]
                spans[weight] = spans.get(weight, 0.0) + _unix_s(after) - _unix_s(step)
        return spans


def _shifts(step: Mapping[str, Any]) -> bool:
    return bool(step["phase"] == "shifting")


def _unix_s(step: Mapping[str, Any]) -> float:
    return datetime.fromisoformat(step["at"]).timestamp()


@dataclass(slots=True)
class Rehearsal:
    """A world whose load goes on. `usual` is how a version behaves unless something else is said."""

    world: World
    usual: Behaviour
    group: asyncio.TaskGroup
    rate_per_s: float
    stable: str = GROUPS[0]
    tally: Tally = field(default_factory=Tally)
    killed: Tally = field(default_factory=Tally)
    """What the clients of an Envoy got that was killed, from then on until it is back."""

    _stops: dict[str, asyncio.Event] = field(default_factory=dict)
    _targets: dict[str, str] = field(default_factory=dict)
    _numbers: int = 0
    _version: str = ""
    _deployed_s: float = 0.0

    @property
    def spare(self) -> str:
        """The set of backends that the next candidate gets."""
        return GROUPS[1 - GROUPS.index(self.stable)]

    # --- clients ---

    async def load(self, envoy: Envoy) -> None:
        """Have clients send to this Envoy: an equal share of all requests."""
        target = Target.parse((await envoy.listeners())["edge"])
        plan = LoadPlan((target,), rate_per_s=self.rate_per_s / len(self.world.envoys), paths=PATHS)
        stop = self._stops[envoy.name] = asyncio.Event()
        self._targets[envoy.name] = str(target)
        self.group.create_task(run_load(plan, self._record, stop))

    def silence(self) -> None:
        """Have no client send any more."""
        for stop in self._stops.values():
            stop.set()

    async def kill(self, envoy: Envoy) -> None:
        """SIGKILL it under load; what its own clients lose is told apart."""
        del self._targets[envoy.name]
        await envoy.kill()
        self._stops[envoy.name].set()

    async def revive(self, envoy: Envoy) -> None:
        """Start it again as the same node; its clients come back when it is ready."""
        await envoy.start()
        await envoy.until_ready()
        await self.load(envoy)

    def _record(self, outcome: Outcome) -> None:
        (self.tally if outcome.target in self._targets.values() else self.killed).record(outcome)

    # --- releases ---

    async def deploy(
        self,
        behaviour: Behaviour | None = None,
        *,
        hosts: Mapping[int, Behaviour] | None = None,
        strategy: Mapping[str, Any] | None = None,
    ) -> None:
        """Deploy a candidate that behaves so, or as usual; `hosts` are backends of it that do not, by their number."""
        await self.behave(self.spare, behaviour or self.usual)
        for number, otherwise in (hosts or {}).items():
            await self.world.backends[self.spare][number].behave(otherwise)
        self._numbers += 1
        self._version, self.tally, self._deployed_s = f"r{self._numbers}", Tally(), time.time()
        await self.world.deploy(self._version, strategy, on=self.spare)

    async def behave(self, group: str, behaviour: Behaviour) -> None:
        """Have all backends of a set behave so from now on."""
        await asyncio.gather(*(backend.behave(behaviour) for backend in self.world.backends[group]))

    async def rollout(self) -> Mapping[str, Any]:
        """The rollout as it stands."""
        return dict((await self.world.service())["rollout"])

    async def until_weight(self, percent: float, *, within_s: float = RELEASE_S) -> None:
        """Wait until every Envoy gives the candidate at least this weight. Raises Unavailable after `within_s`."""

        async def reached() -> bool:
            rollout = await self.rollout()
            assert rollout["phase"] not in ENDED, f"it ended before {percent:g} %: {rollout['reason']}"
            return bool(rollout["weight_percent"] >= percent and not rollout["waiting_for"])

        await until(reached, within_s=within_s, what=f"the candidate to have {percent:g} %")

    async def until_verdict(self, verdict: str, word: str, *, within_s: float) -> None:
        """Wait for such a verdict, whose reason has that word in it. Raises Unavailable after `within_s`."""

        async def given() -> bool:
            found = (await self.rollout())["verdict"]
            return found is not None and found["verdict"] == verdict and word in found["reason"]

        await until(given, within_s=within_s, what=f"the verdict {verdict} because of {word}")

    async def ended(self, *, within_s: float = RELEASE_S) -> Release:
        """Wait for the end, when the backends of the version that goes are free for the next candidate."""
        await self.world.until_phase(*ENDED, within_s=within_s)

        async def over() -> bool:
            return not (await self.world.service())["in_progress"]

        await until(over, within_s=within_s, what="the version that goes to be forgotten")
        release = await self.release()
        if release.outcome == "completed":
            self.stable = self.spare
        return release

    async def release(self) -> Release:
        """What became of it up to now."""
        path = path_of("services", SERVICE, "rollouts", (await self.rollout())["id"])
        return Release(self._version, self.spare, self._deployed_s, await self.world.client.get(path), self.tally)

    async def until_known(self) -> None:
        """Wait until enough is known of stable for its latencies to count."""

        async def known() -> bool:
            history = (await self.world.service())["history"]
            return history is not None and history["requests"] >= LEAST_KNOWN

        await until(known, within_s=KNOWN_WITHIN_S, what="the history of stable")


@contextlib.asynccontextmanager
async def rehearsal(folder: Path, usual: Behaviour, *, rate_per_s: float = 300.0) -> AsyncIterator[Rehearsal]:
    """Three Envoys, two times three backends, and fast requests only, from clients that never retry."""
    cast = Cast(dict.fromkeys(GROUPS, 3), dict.fromkeys(GROUPS, usual))
    async with World(folder, cast) as world, asyncio.TaskGroup() as group:
        scene = Rehearsal(world, usual, group, rate_per_s)
        for envoy in world.envoys:
            await scene.load(envoy)
        try:
            await scene.until_known()
            yield scene
        finally:
            scene.silence()
