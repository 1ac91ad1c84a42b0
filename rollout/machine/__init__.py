"""The life of a rollout as a pure function: advance(strategy, state, seen) -> (state', effects)."""

from rollout.machine.advance import advance, effects
from rollout.machine.asking import calls
from rollout.machine.planned import plan, plan_of, stage_of, step_of, wanted, weight_bp

__all__ = ["advance", "calls", "effects", "plan", "plan_of", "stage_of", "step_of", "wanted", "weight_bp"]
