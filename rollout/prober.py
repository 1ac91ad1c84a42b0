"""Reads what strategies watch outside of Envoy, for as long as a rollout stands at a stage."""

import asyncio
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

from rollout.checks import CheckSpec, Names
from rollout.errors import Unavailable
from rollout.gate.checks import Reading
from rollout.metrics.sources import Source
from rollout.readings import Stage, checks_of, stage_of
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
class _Probe:
    """One check at one stage: when it is read next, and the task that reads it, None while none does."""

    check: CheckSpec
    source: Source
    due_s: float
    task: asyncio.Task[None] | None = None


@dataclass(slots=True)
class _Stay:
    """A rollout's stay at a stage: what is read there, and what nobody has taken yet."""

    probes: tuple[_Probe, ...]
    readings: deque[Reading] = field(default_factory=lambda: deque(maxlen=KEPT))


class Prober:
    """Each reading is a task of its own, so a source that hangs delays no other; none is asked while it owes an answer.

    The first reading comes an interval after the stage has begun: what is read before is of the weight before.
    """

    def __init__(self, world: World, *, tick_s: float = TICK_S) -> None:
        self._world = world
        self._tick_s = tick_s
        self._stays: dict[Stage, _Stay] = {}

    async def run(self) -> None:
        """Until cancelled."""
        async with asyncio.TaskGroup() as group:
            while True:
                self._follow()
                self._start_due(group)
                await asyncio.sleep(self._tick_s)

    def take(self, rollout: Rollout) -> tuple[Reading, ...]:
        """Return what was read for the stage that a rollout stands at, and forget it."""
        stage = stage_of(rollout)
        stay = self._stays.get(stage) if stage else None
        if stay is None:
            return ()
        readings = tuple(stay.readings)
        stay.readings.clear()
        return readings

    def _follow(self) -> None:
        """End what belongs to stages that were left; begin with those that rollouts stand at now."""
        stages = ((stage_of(rollout), rollout) for rollout in self._world.rollouts() if checks_of(rollout))
        wanted = {stage: rollout for stage, rollout in stages if stage is not None}
        for stage in self._stays.keys() - wanted.keys():
            for probe in self._stays.pop(stage).probes:
                if probe.task is not None:
                    probe.task.cancel()
        for stage in wanted.keys() - self._stays.keys():
            self._stays[stage] = _Stay(tuple(self._probes(wanted[stage])))

    def _probes(self, rollout: Rollout) -> Iterator[_Probe]:
        now_s, names = self._world.clock(), self._world.names(rollout)
        for check in checks_of(rollout):
            source = self._world.source(check, names)
            if source is not None:
                yield _Probe(check, source, now_s + check.interval.total_seconds())

    def _start_due(self, group: asyncio.TaskGroup) -> None:
        now_s = self._world.clock()
        for stay in self._stays.values():
            for probe in stay.probes:
                if probe.task is None and probe.due_s <= now_s:
                    probe.due_s = _next(probe, now_s)
                    probe.task = group.create_task(self._read(probe, stay.readings), name=f"check {probe.check.label}")

    async def _read(self, probe: _Probe, readings: deque[Reading]) -> None:
        readings.append(await self._reading(probe.check.label, probe.source))
        probe.task = None

    async def _reading(self, check: str, source: Source) -> Reading:
        try:
            answer = await source.read()
        except Unavailable as error:
            return Reading(check, self._world.clock(), fault=str(error)[:FAULT_CHARACTERS])
        except Exception as error:  # noqa: BLE001 - what no source foresaw must not end the fleet's control plane
            return Reading(check, self._world.clock(), fault=f"a bug of the server: {type(error).__name__}")
        return Reading(check, self._world.clock(), answer.value, answer.said)


def _next(probe: _Probe, now_s: float) -> float:
    """Return when a probe that is read now is due again; what came too late is not made up for."""
    interval_s = probe.check.interval.total_seconds()
    following_s = probe.due_s + interval_s
    return following_s if following_s > now_s else now_s + interval_s
