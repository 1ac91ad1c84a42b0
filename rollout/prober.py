"""Reads what strategies watch outside of Envoy, for as long as a rollout stands at a stage."""

import asyncio
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

from rollout.checks import CheckSpec, Names
from rollout.errors import Unavailable
from rollout.gate.checks import Reading
from rollout.metrics.sources import Source
from rollout.readings import Stage, stage_of
from rollout.record import Rollout

TICK_S = 0.2
KEPT = 100  # readings that nobody has taken, of one stage; the oldest go first
FAULT_CHARACTERS = 300


@dataclass(frozen=True, slots=True)
class World:
    """What the prober is given: the rollouts in progress, their names, how a check is read, and the engine's clock."""

    rollouts: Callable[[], Iterable[Rollout]]
    names: Callable[[Rollout], Names]
    source: Callable[[CheckSpec, Names], Source | None]
    clock: Callable[[], float]


@dataclass(slots=True)
class _Probes:
    """What runs for a stage, and what it has read."""

    tasks: tuple[asyncio.Task[None], ...] = ()
    readings: deque[Reading] = field(default_factory=lambda: deque(maxlen=KEPT))


class Prober:
    """Each check has a task of its own, so a source that hangs delays no other; it is asked again once it has answered.

    The first reading comes an interval after the stage has begun: what is read before is of the weight before.
    """

    def __init__(self, world: World) -> None:
        self._world = world
        self._probes: dict[Stage, _Probes] = {}

    async def run(self) -> None:
        """Until cancelled."""
        async with asyncio.TaskGroup() as group:
            while True:
                self._follow(group)
                await asyncio.sleep(TICK_S)

    def take(self, rollout: Rollout) -> tuple[Reading, ...]:
        """Return what was read for the stage that a rollout stands at, and forget it."""
        stage = stage_of(rollout)
        known = self._probes.get(stage) if stage else None
        if known is None:
            return ()
        readings = tuple(known.readings)
        known.readings.clear()
        return readings

    def _follow(self, group: asyncio.TaskGroup) -> None:
        """Start what the rollouts ask for now and end what they do not."""
        wanted = self._wanted()
        for stage in self._probes.keys() - wanted.keys():
            for task in self._probes.pop(stage).tasks:
                task.cancel()
        for stage in wanted.keys() - self._probes.keys():
            probes = self._probes[stage] = _Probes()
            probes.tasks = tuple(self._start(group, wanted[stage], probes))

    def _wanted(self) -> Mapping[Stage, Rollout]:
        stages = ((stage_of(rollout), rollout) for rollout in self._world.rollouts() if rollout.strategy.checks)
        return {stage: rollout for stage, rollout in stages if stage is not None}

    def _start(self, group: asyncio.TaskGroup, rollout: Rollout, probes: _Probes) -> Iterable[asyncio.Task[None]]:
        names = self._world.names(rollout)
        for check in rollout.strategy.checks:
            source = self._world.source(check, names)
            if source is not None:
                probing = self._probe(check, source, probes.readings)
                yield group.create_task(probing, name=f"check {check.label} of {rollout.service}")

    async def _probe(self, check: CheckSpec, source: Source, readings: deque[Reading]) -> None:
        every_s = check.interval.total_seconds()
        due_s = self._world.clock() + every_s
        while True:
            await asyncio.sleep(due_s - self._world.clock())
            readings.append(await self._read(check, source))
            due_s = max(due_s + every_s, self._world.clock())

    async def _read(self, check: CheckSpec, source: Source) -> Reading:
        try:
            answer = await source.read()
        except Unavailable as error:
            return Reading(check.label, self._world.clock(), fault=str(error)[:FAULT_CHARACTERS])
        except Exception as error:  # noqa: BLE001 - what no source foresaw must not end the fleet's control plane
            return Reading(check.label, self._world.clock(), fault=f"a bug of the server: {type(error).__name__}")
        return Reading(check.label, self._world.clock(), answer.value, answer.said)
