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
from rollout.demo.load import LoadPlan, Outcome, PathShare, Tally, run_load
from rollout.demo.processes import until
from rollout.demo.world import SERVICE, Cast, World
from rollout.errors import RolloutError

GROUPS = ("blue", "green")
"""Two sets of backends: one has the stable version, the other one the next candidate."""

RATE_PER_S = 300.0
PAST_S = 20.0
"""So long a service should have been watched before its first release, in which its latencies get known."""

LEAST_KNOWN = 2000
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
        """Why it ended so."""
        return str(self.told["reason"])

    @property
    def bad(self) -> int:
        """The bad answers of its backends."""
        return self.tally.bad[self.group]

    @property
    def verdicts(self) -> tuple[Mapping[str, Any], ...]:
        """Every verdict in the order of looks, each with the step of the journal that it belongs to."""
        return tuple(each for each in self.told["journal"] if each["verdict"] is not None)

    def seconds_until(self, *phases: str) -> float:
        """From the deployment until one of these phases first began; NaN if none did."""
        return self.at_s(lambda step: step["phase"] in phases) - self.deployed_s

    def at_s(self, condition: Callable[[Mapping[str, Any]], bool]) -> float:
        """When the journal first has such a step; NaN if it has none."""
        steps = (step for step in self.told["journal"] if condition(step))
        return next((datetime.fromisoformat(step["at"]).timestamp() for step in steps), float("nan"))

    @property
    def weight_at_end(self) -> float:
        """The weight in percent of the last stage that it had traffic at."""
        return next((step["weight_percent"] for step in reversed(self.told["journal"]) if _shifts(step)), 0.0)

    @property
    def seconds_of_stages(self) -> Mapping[float, float]:
        """How long each weight in percent lasted."""
        changes: list[tuple[float | None, float]] = []
        for step in self.told["journal"]:
            weight = step["weight_percent"] if _shifts(step) or step["phase"] == "paused" else None
            if not changes or changes[-1][0] != weight:
                changes.append((weight, datetime.fromisoformat(step["at"]).timestamp()))
        pairs = zip(changes, changes[1:], strict=False)
        return {weight: after - at for (weight, at), (_, after) in pairs if weight is not None}

    @property
    def seconds_from_first_bad_to_back(self) -> float:
        """From its first bad answer until every Envoy had ACKed the rollback; NaN without either."""
        back_s = self.at_s(lambda step: step["phase"] == "rolling_back" and bool(step["converged"]))
        return back_s - self.tally.first_bad_at_s.get(self.group, float("nan"))

    @property
    def seconds_from_first_weight_to_back(self) -> float:
        """From when Envoys were given its first weight until every Envoy had ACKed the rollback; NaN without either."""
        back_s = self.at_s(lambda step: step["phase"] == "rolling_back" and bool(step["converged"]))
        return back_s - self.at_s(_shifts)


def _shifts(step: Mapping[str, Any]) -> bool:
    return bool(step["phase"] == "shifting")


@dataclass(slots=True)
class Rehearsal:
    """A world whose load goes on; `usual` is how stable behaves. Make it with `rehearsal`."""

    world: World
    usual: Behaviour
    stable: str = GROUPS[0]
    tally: Tally = field(default_factory=Tally)
    _numbers: int = 0
    _version: str = ""
    _deployed_s: float = 0.0

    @property
    def spare(self) -> str:
        """The set of backends that the next candidate gets."""
        return GROUPS[1 - GROUPS.index(self.stable)]

    def record(self, outcome: Outcome) -> None:
        self.tally.record(outcome)

    async def deploy(
        self,
        behaviour: Behaviour | None = None,
        *,
        hosts: Mapping[int, Behaviour] | None = None,
        strategy: Mapping[str, Any] | None = None,
    ) -> None:
        """Deploy a candidate that behaves so, as stable does unless given; of some of its backends by their number."""
        backends = self.world.backends[self.spare]
        each = {number: behaviour or self.usual for number in range(len(backends))} | dict(hosts or {})
        await asyncio.gather(*(backends[number].behave(how) for number, how in each.items()))
        self._numbers += 1
        self._version, self.tally, self._deployed_s = f"r{self._numbers}", Tally(), time.time()
        await self.world.deploy(self._version, strategy, on=self.spare)

    async def rollout(self) -> dict[str, Any]:
        """The rollout as it stands."""
        return dict((await self.world.service())["rollout"])

    async def story(self) -> Mapping[str, Any]:
        """The rollout with its journal."""
        rollout = await self.rollout()
        return await self.world.client.get(path_of("services", SERVICE, "rollouts", rollout["id"]))

    async def until_weight(self, percent: float, *, within_s: float = RELEASE_S) -> None:
        """Wait until the candidate has at least this weight; what ends the rollout before ends the waiting, too."""

        async def reached() -> bool:
            rollout = await self.rollout()
            assert rollout["phase"] not in ENDED, f"it ended before {percent:g} %: {rollout['reason']}"
            return bool(rollout["phase"] == "shifting" and rollout["weight_percent"] >= percent)

        await until(reached, within_s=within_s, what=f"the candidate to have {percent:g} %")

    async def ended(self, *, within_s: float = RELEASE_S) -> Release:
        """Wait for the end; the backends of the version that goes are free for the next candidate then."""
        await self.world.until_phase(*ENDED, within_s=within_s)
        release = await self.left()
        if release.outcome == "completed":
            self.stable = self.spare
        await until(self._over, within_s=within_s, what="the version that goes to be forgotten")
        return release

    async def left(self) -> Release:
        """What became of it up to now."""
        return Release(self._version, self.spare, self._deployed_s, await self.story(), self.tally)

    async def _over(self) -> bool:
        return not (await self.world.service())["in_progress"]

    async def until_known(self, *, within_s: float = 60.0) -> None:
        """Wait until enough is known of stable for its latencies to count."""

        async def known() -> bool:
            history = (await self.world.service())["history"]
            return history is not None and history["requests"] >= LEAST_KNOWN

        await until(known, within_s=within_s, what="the history of stable")


@contextlib.asynccontextmanager
async def rehearsal(
    folder: Path, usual: Behaviour, *, rate_per_s: float = RATE_PER_S, cast: Cast | None = None
) -> AsyncIterator[Rehearsal]:
    """A world of three Envoys and two times three backends, with fast requests only, from clients that never retry."""
    everyone = cast or Cast(dict.fromkeys(GROUPS, 3), dict.fromkeys(GROUPS, usual))
    async with World(folder, everyone) as world:
        plan = LoadPlan(await world.targets(), rate_per_s=rate_per_s, paths=(PathShare("/fast", 1.0),))
        scene, stop = Rehearsal(world, usual), asyncio.Event()
        async with asyncio.TaskGroup() as group:
            group.create_task(run_load(plan, scene.record, stop))
            try:
                await scene.until_known()
                yield scene
            finally:
                stop.set()
