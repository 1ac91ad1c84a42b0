"""Rollouts of every course and what is to hit them when, from a seed."""

import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

Step = tuple[str, int]
"""A phase, and the stage where the phase is shifting, else 0."""

WARM: tuple[Step, ...] = (("pending", 0), ("warming", 0), ("shifting", 0))
GOING: tuple[Step, ...] = (("draining", 0), ("removing", 0))


class Course(StrEnum):
    """How a rollout goes when nothing hits it."""

    SUCCEEDS = "succeeded"
    FAILS = "failed"
    IS_ABORTED = "aborted"

    @property
    def steps(self) -> tuple[Step, ...]:
        """The steps that it takes, in order; those after an abort may follow on any."""
        match self:
            case Course.SUCCEEDS:
                return (*WARM, ("shifting", 1), ("shifting", 2), ("retaining", 0), *GOING, ("completed", 0))
            case Course.FAILS:
                return (*WARM, ("rolling_back", 0), *GOING, ("rolled_back", 0))
            case Course.IS_ABORTED:
                return (*WARM, ("shifting", 1), ("rolling_back", 0), *GOING, ("rolled_back", 0))

    @property
    def outcome(self) -> str:
        return self.steps[-1][0]

    @property
    def strategy(self) -> Mapping[str, Any]:
        holds = ("1s", "1h" if self is Course.IS_ABORTED else "1s", "1s")
        stages = [{"weight": weight, "hold": hold} for weight, hold in zip(("10%", "50%", "100%"), holds, strict=True)]
        gate = {"margin": "20%", "warmup": "0s"}
        return {"stages": stages, "gate": gate, "keep_stable": "1s", "drain_timeout": "15s"}


class Hit(StrEnum):
    """What is done to somebody."""

    KILL = "server killed"
    KILL_TWICE = "server killed, and again as it starts"
    STALL = "server stopped for a while"
    ENVOY = "an Envoy killed"
    FREEZE = "an Envoy stopped for a while"


KILLS: Mapping[Hit, int] = {Hit.KILL: 1, Hit.KILL_TWICE: 2}


@dataclass(frozen=True, slots=True)
class Blow:
    """What hits whom, and when: `wait_s` after the step has been reached, `step` None: after the blow before.

    `lasts_s`: how long something is stopped, or is let start before it is killed again.
    """

    hit: Hit
    step: Step | None
    wait_s: float
    lasts_s: float


@dataclass(frozen=True, slots=True)
class Plan:
    """One rollout. `abort` is the step at which it is aborted, where it is."""

    course: Course
    blows: tuple[Blow, ...] = ()
    abort: Step = ("shifting", 1)

    @property
    def kills(self) -> int:
        return sum(KILLS.get(blow.hit, 0) for blow in self.blows)


def plans(seed: int, kills: int) -> Iterator[Plan]:
    """Yield rollouts of every course, with at least so many kills among them; the same for the same seed."""
    dice, left = random.Random(seed), kills
    while left > 0:
        for course in dice.sample(list(Course), len(Course)):
            if left > 0:
                aborts = dice.choices((*WARM[1:], ("shifting", 1)), (1, 2, 3))[0]
                plan = Plan(course, tuple(_blows(dice, course, left)), aborts)
                left -= plan.kills
                yield plan


def _blows(dice: random.Random, course: Course, most: int) -> Iterator[Blow]:
    """Yield between two and five kills, at most so many, and now and then something else, in the order of the steps."""
    left = min(most, dice.randint(2, 5))
    hits = []
    while left > 0:
        hit = dice.choices(list(Hit), (6, 1, 1, 1, 1))[0]
        if KILLS.get(hit, 0) <= left:
            hits.append(hit)
            left -= KILLS.get(hit, 0)
    steps = sorted((dice.choice(course.steps) for _ in hits), key=course.steps.index)
    for hit, step in zip(hits, steps, strict=True):
        plain = dice.random() < 0.3
        soon_s = dice.choice((0.0, dice.uniform(0.0, 0.05), dice.uniform(0.0, 1.0)))
        wait_s = dice.uniform(0.0, 4.0) if plain else soon_s
        yield Blow(hit, None if plain else step, wait_s, dice.uniform(0.3, 3.0))
