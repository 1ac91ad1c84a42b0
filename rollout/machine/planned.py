"""What follows from a state: the stages as they will be, and what Envoys should be served."""

from dataclasses import replace
from functools import lru_cache

from rollout.exposure import FULL_BP
from rollout.gate import Gate, Past, Step, steps
from rollout.spec import Stage, Strategy
from rollout.state import Phase, Role, Split, State

DONE = frozenset({Phase.RETAINING, Phase.ROLLED_BACK})
"""Where a lane ends, until all of them do."""
# Not while warming: a route to a cluster that an Envoy does not have yet would hold up another service's way back.
_PREVIEWED = frozenset({Phase.SHIFTING, Phase.RETAINING})


def wanted(strategy: Strategy, state: State) -> Split:
    """Return what Envoys should be served in this state."""
    match behind(state):
        case Phase.PENDING:
            present = frozenset({Role.STABLE})
        case Phase.REMOVING | Phase.COMPLETED | Phase.ROLLED_BACK:
            present = frozenset({loser_of(state).other})
        case _:
            present = frozenset(Role)
    draining = loser_of(state) if state.phase is Phase.DRAINING else None
    stage = stage_of(strategy, state)
    return Split(
        weight_bp(strategy, state),
        present,
        draining,
        match=stage.match if stage else (),
        mirror_bp=(stage.mirror_bp or 0) if stage else 0,
        preview=strategy.preview is not None and behind(state) in _PREVIEWED,
        by_location=by_location(state) if in_waves(strategy, state) else {},
    )


def in_waves(strategy: Strategy, state: State) -> bool:
    """Say whether each location goes its own way now."""
    return bool(strategy.waves) and behind(state) is Phase.SHIFTING


def by_location(state: State) -> dict[str, int]:
    """Return the candidate's weight in each location that gives it any."""
    weights = {location: lane_bp(lane) for location, lane in sorted(state.lanes.items())}
    return {location: bp for location, bp in weights.items() if bp}


def lane_bp(lane: State) -> int:
    """Return the candidate's wanted share of a location's traffic."""
    if behind(lane) is Phase.SHIFTING:
        return lane.plan[lane.stage].weight_bp
    if lane.phase is Phase.ROLLING_BACK:
        return lane.back_bp
    return FULL_BP if lane.loser is Role.STABLE else 0


def strategy_of(strategy: Strategy, lane: State) -> Strategy:
    """Return a location's own strategy, as if there were no other."""
    gate = _gate_of(strategy.gate, lane.peers)
    return strategy.model_copy(update={"stages": stages_of(strategy, lane.wave), "waves": (), "gate": gate})


def stages_of(strategy: Strategy, wave: int) -> tuple[Stage, ...]:
    return strategy.waves[wave].stages or strategy.stages


@lru_cache(maxsize=64)
def _gate_of(gate: Gate, peers: int) -> Gate:
    """Return the gate of one of so many locations: that any of them is taken back wrongly is as likely as with one."""
    alpha, slo_alpha, hang_alarms = (chance / peers for chance in (gate.alpha, gate.slo_alpha, gate.hang_alarms))
    return replace(gate, alpha=alpha, slo_alpha=slo_alpha, hang_alarms=hang_alarms)


def weight_bp(strategy: Strategy, state: State) -> int:
    """Return the candidate's wanted share of traffic in basis points; in waves that of who is in none yet."""
    if in_waves(strategy, state):
        return 0
    if behind(state) is Phase.SHIFTING:
        return step_of(strategy, state).weight_bp
    if state.phase is Phase.ROLLING_BACK:
        return state.back_bp
    return FULL_BP if state.loser is Role.STABLE else 0


def share_bp(strategy: Strategy, state: State) -> float:
    """Return the candidate's wanted share of all traffic in basis points; in waves as if locations were alike."""
    if not in_waves(strategy, state):
        return weight_bp(strategy, state)
    return sum(map(lane_bp, state.lanes.values())) / max((lane.peers for lane in state.lanes.values()), default=1)


def plan_of(strategy: Strategy, state: State) -> tuple[Step, ...]:
    """Return the stages as they will be; as they are written while nothing is known of the traffic."""
    return state.plan or plan(strategy, Past())


def plan(strategy: Strategy, past: Past) -> tuple[Step, ...]:
    """Return the stages as they will be with this traffic."""
    return steps([stage.weight_bp for stage in strategy.stages], strategy.gate, past)


def step_of(strategy: Strategy, state: State) -> Step:
    return plan_of(strategy, state)[state.stage]


def stage_of(strategy: Strategy, state: State) -> Stage | None:
    """Return the stage that traffic is in, paused or not; None outside of the stages."""
    if behind(state) is not Phase.SHIFTING or in_waves(strategy, state):
        return None
    return strategy.stages[step_of(strategy, state).stage]


def lower_bp(strategy: Strategy, state: State) -> int:
    """Return the weight of the stage below the present weight, 0 under the first."""
    present = weight_bp(strategy, state)
    return max((step.weight_bp for step in plan_of(strategy, state) if step.weight_bp < present), default=0)


def behind(state: State) -> Phase:
    """Return the phase, in a pause the one to go back to: what is served is that one's."""
    return state.resume or state.phase


def loser_of(state: State) -> Role:
    assert state.loser is not None, state
    return state.loser
