"""One rollout on made-up traffic: what decides, which stage took how long, how it ended, and what it cost."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Protocol, assert_never

from rollout.forecast.traffic import Traffic
from rollout.gate.evidence import Evidence
from rollout.gate.judge import judge
from rollout.gate.plan import Step
from rollout.gate.sample import Look, Past, Stratum
from rollout.gate.settings import Gate
from rollout.gate.verdict import Blind, Fail, Inconclusive, Pass

EFFECT_S = 1
"""From a decision until the looks see nothing but the new weight: the Envoys' ACKs, and the rest of a look."""
FINE_S = 300
"""So long into a stage there is a look each second; later they get rarer in proportion, to keep the sums short."""


class Act(StrEnum):
    """What a decider wants after a look."""

    KEEP = "keep"
    PROMOTE = "promote"
    ROLLBACK = "rollback"
    PAUSE = "pause"


class Decider(Protocol):
    """What leads a rollout through its stages: this project's judge, or one that it is compared with."""

    def begin(self, stage: int, at_s: int) -> None:
        """Take note that all traffic has a stage's weight now."""

    def look(self, at_s: int, stratum: Stratum) -> Act:
        """Take what both versions did in the second that ended at `at_s`, and say what follows."""


@dataclass(frozen=True, slots=True)
class Planned:
    """A stage as it will be: `timeout_s` counts from the end of its `hold_s`."""

    step: Step
    hold_s: float
    timeout_s: float


class Judged:
    """The engine's judge, with the times that the machine adds to it."""

    def __init__(self, gate: Gate, stages: Sequence[Planned], past: Past) -> None:
        self._gate, self._stages = gate, stages
        self._past = replace(past, slow_phi=max(past.phi, gate.slow_cluster))  # as History has it
        self._evidence = Evidence.start()
        self._stage, self._began_s = stages[0], 0

    def begin(self, stage: int, at_s: int) -> None:
        self._stage, self._began_s = self._stages[stage], at_s
        if stage:
            self._evidence = self._evidence.renew(at_s)

    def look(self, at_s: int, stratum: Stratum) -> Act:
        look = Look(at_s, (stratum,), self._past)
        self._evidence, verdict = judge(self._gate, (), self._evidence, look, self._stage.step)
        held_s = at_s - self._began_s
        match verdict:
            case Fail():
                return Act.ROLLBACK
            case Pass() if held_s >= self._stage.hold_s:
                return Act.PROMOTE
            case Pass() | Inconclusive() | Blind():
                overdue = held_s >= self._stage.hold_s + self._stage.timeout_s
                return Act.PAUSE if overdue else Act.KEEP
            case _:
                assert_never(verdict)


@dataclass(frozen=True, slots=True)
class Lap:
    """What one stage took, from the decision that began it to the one that ended it; `requests` are the candidate's."""

    weight_bp: int
    seconds: int
    requests: int


@dataclass(frozen=True, slots=True)
class Course:
    """A rollout from beginning to end: PROMOTE, ROLLBACK or PAUSE; the last of the laps is where it ended.

    `bad` are the candidate's requests without a good answer until its traffic was gone.
    """

    end: Act
    laps: tuple[Lap, ...]
    bad: int
    looks: int

    @property
    def seconds(self) -> int:
        return sum(lap.seconds for lap in self.laps)


def travel(decider: Decider, weights_bp: Sequence[int], traffic: Traffic, most_s: float = math.inf) -> Course:
    """Lead a rollout through the stages; what is undecided after `most_s` counts as a pause."""
    at_s, weight_bp, bad, looks = 0, 0, 0, 0
    act, laps = Act.PROMOTE, []
    for index, next_bp in enumerate(weights_bp):
        began_s, requests = at_s, 0
        bad += traffic.look(at_s, weight_bp, EFFECT_S).candidate.errors
        at_s, weight_bp = at_s + EFFECT_S, next_bp
        decider.begin(index, at_s)
        act = Act.KEEP
        while act is Act.KEEP:
            span_s = max(1, (at_s - began_s) // FINE_S)
            stratum = traffic.look(at_s, weight_bp, span_s)
            at_s, looks = at_s + span_s, looks + 1
            bad += stratum.candidate.errors
            requests += stratum.candidate.started
            act = decider.look(at_s, stratum) if at_s < most_s else Act.PAUSE
        laps.append(Lap(weight_bp, at_s - began_s, requests))
        if act is not Act.PROMOTE:
            break
    if act is Act.ROLLBACK:
        bad += traffic.look(at_s, weight_bp, EFFECT_S).candidate.errors
    return Course(act, tuple(laps), bad + traffic.hanging, looks)
