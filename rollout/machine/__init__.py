"""The life of a rollout as a pure function: advance(strategy, state, seen) -> (state', effects)."""

from rollout.machine.advance import advance, effects
from rollout.machine.lanes import calls, due, taken_back, told_lanes, turned_back, undone
from rollout.machine.meant import check_stage
from rollout.machine.planned import (
    by_location,
    in_waves,
    lane_bp,
    plan,
    plan_of,
    share_bp,
    stage_of,
    step_of,
    strategy_of,
    wanted,
    weight_bp,
)

__all__ = [
    "advance",
    "by_location",
    "calls",
    "check_stage",
    "due",
    "effects",
    "in_waves",
    "lane_bp",
    "plan",
    "plan_of",
    "share_bp",
    "stage_of",
    "step_of",
    "strategy_of",
    "taken_back",
    "told_lanes",
    "turned_back",
    "undone",
    "wanted",
    "weight_bp",
]
