"""A rollout judged on given looks: what the judge would have done at each, stage after stage."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import StrEnum

from rollout.gate.evidence import Evidence
from rollout.gate.judge import judge
from rollout.gate.plan import Step, steps
from rollout.gate.rollback import Metric
from rollout.gate.sample import Look, Past
from rollout.gate.settings import Gate
from rollout.gate.verdict import Blind, Fail, Pass, Verdict
from rollout.spec import Stage, Strategy

LOOK_S = 1.0  # so long the first look is taken to last: a stage begins where its first look begins


class Move(StrEnum):
    """What a rollout does after a look."""

    KEEP = "keep"
    PROMOTE = "promote"
    ROLLBACK = "rollback"
    HOLD = "hold"
    TIMEOUT = "timeout"


@dataclass(frozen=True, slots=True)
class Decision:
    """What follows from one look; the logarithms are natural ones.

    `log_e_rollback` is the evidence against the candidate that goes on to the next look: after a promotion, that with
    which the next stage begins. `log_e_promote` is what the stage of this look has shown for it in its first proof, or
    in a later one where that promotes; `progress` is that of the proof which is nearest to its end, as a part of 1.
    """

    at_s: float
    move: Move
    stage: int
    log_e_rollback: float
    log_e_promote: Mapping[Metric, float]
    progress: Mapping[Metric, float]
    reason: str


@dataclass(frozen=True, slots=True)
class Simulation:
    """Where a rollout stands. `over`: nothing follows.

    `began_s`: when the stage began, `looked_s`: when the last look was; None before the first one.
    """

    gate: Gate
    past: Past
    stages: tuple[Stage, ...]
    plan: tuple[Step, ...]
    evidence: Evidence
    stage: int = 0
    began_s: float | None = None
    looked_s: float | None = None
    over: bool = False

    @property
    def weight_bp(self) -> int:
        """The candidate's weight in the present stage."""
        return self.plan[self.stage].weight_bp


def start(strategy: Strategy, past: Past) -> Simulation:
    """Before the first look. Counts are taken as given: no warm-up is skipped, and weights are the strategy's.

    Stages without a weight compare nothing: there are none in a simulation.
    """
    gate = replace(strategy.gate, warmup_s=0.0, min_rps=0.0)
    stages = tuple(stage for stage in strategy.stages if stage.weight_bp)
    plan = steps([stage.weight_bp for stage in stages], gate, past)
    return Simulation(gate, past, stages, plan, Evidence.start())


def take(simulation: Simulation, look: Look) -> tuple[Simulation, Decision]:
    """Judge one look of a rollout that is not over."""
    began_s = look.at_s - LOOK_S if simulation.began_s is None else simulation.began_s
    stage, step = simulation.stages[simulation.stage], simulation.plan[simulation.stage]
    evidence, verdict = judge(simulation.gate, (), simulation.evidence, look, step)
    move = _move(stage, evidence, verdict, look.at_s - began_s)
    known = replace(simulation, evidence=evidence, began_s=began_s, looked_s=look.at_s)
    following = _following(known, move, look.at_s)
    best = evidence.promotion.by_metric()
    shown = best if move is Move.PROMOTE else dict(zip(best, evidence.promotion.first.net, strict=True))
    progress = {metric: min(1.0, max(0.0, won / -math.log(known.gate.beta))) for metric, won in best.items()}
    ln_e = following.evidence.ln_e
    return following, Decision(look.at_s, move, known.stage, ln_e, shown, progress, verdict.reason)


def _move(stage: Stage, evidence: Evidence, verdict: Verdict, seconds: float) -> Move:
    """What follows from a verdict so long after the stage began: after its timeout, nothing is promoted any more."""
    if isinstance(verdict, Fail):
        return Move.ROLLBACK
    if isinstance(verdict, Pass) and stage.hold.total_seconds() <= seconds <= stage.limit_s:
        return Move.PROMOTE
    if seconds >= stage.limit_s:
        return Move.TIMEOUT
    return Move.HOLD if isinstance(verdict, Blind) or evidence.held_s is not None else Move.KEEP


def _following(simulation: Simulation, move: Move, at_s: float) -> Simulation:
    last = simulation.stage + 1 == len(simulation.plan)
    if move is Move.ROLLBACK or (move is Move.PROMOTE and last):
        return replace(simulation, over=True)
    if move is not Move.PROMOTE:
        return simulation
    evidence = simulation.evidence.renew(at_s)
    return replace(simulation, evidence=evidence, stage=simulation.stage + 1, began_s=at_s)
