"""The moves from one state to another, each with what it takes along and what it forgets."""

from dataclasses import replace

from rollout.drain import Drain
from rollout.gate import Pass
from rollout.machine.planned import behind, lower_bp, plan_of
from rollout.spec import Strategy
from rollout.state import Awaited, Phase, Role, Seen, State

BEFORE_TRAFFIC = frozenset({Phase.PENDING, Phase.WARMING})


def enter(state: State, phase: Phase, seen: Seen, reason: str) -> State:
    following = replace(state, phase=phase, since_s=seen.now_s, converged_s=None, reason=reason, resume=None)
    return replace(following, awaited=None, waiting="", lapsed_s=None)


def to_stage(state: State, seen: Seen, stage: int, reason: str) -> State:
    looked_s = max(state.looked_s, seen.looked_s)
    passed = state.verdict if isinstance(state.verdict, Pass) else None
    following = replace(enter(state, Phase.SHIFTING, seen, reason), stage=stage, verdict=None, passed=passed)
    return replace(following, looked_s=looked_s)


def next_stage(strategy: Strategy, state: State, seen: Seen, reason: str) -> State:
    if state.stage + 1 < len(plan_of(strategy, state)):
        return to_stage(state, seen, state.stage + 1, reason)
    return replace(enter(state, Phase.RETAINING, seen, reason), loser=Role.STABLE)


def pause(state: State, seen: Seen, reason: str) -> State:
    """Stop going forward, for somebody to decide; what is served, and how long it has been, stays."""
    following = replace(enter(state, Phase.PAUSED, seen, reason), resume=state.phase, converged_s=of_stage(state))
    return replace(following, awaited=Awaited.DECISION)


def of_stage(state: State) -> float | None:
    """Return since when every Envoy has the stage's weight: it is served in a pause, too."""
    return state.converged_s if behind(state) is Phase.SHIFTING else None


def wait(state: State, awaited: Awaited, why: str) -> State:
    """Stay, and say what for. Equal when nothing else is waited for than before."""
    return replace(state, awaited=awaited, waiting=why, lapsed_s=None)


def lapse(state: State, seen: Seen) -> State:
    """Note when what waits for a hook is not ready to go on any more: its time limit begins anew then."""
    waited = state.awaited is Awaited.HOOK and state.lapsed_s is None
    return replace(state, lapsed_s=seen.now_s) if waited else state


def thaw(state: State, seen: Seen) -> State:
    """Leave a freeze that is over: no limit counts its time. A version that is kept warm was kept in it, too."""
    if state.awaited is not Awaited.THAW or seen.frozen:
        return state
    since_s = state.since_s if state.phase is Phase.RETAINING else seen.now_s
    return replace(state, awaited=None, waiting="", since_s=since_s)


def roll_back(state: State, seen: Seen, reason: str) -> State:
    return replace(enter(state, Phase.ROLLING_BACK, seen, reason), loser=Role.CANDIDATE)


def roll_back_gradually(strategy: Strategy, state: State, seen: Seen, reason: str) -> State:
    return replace(roll_back(state, seen, reason), back_bp=lower_bp(strategy, state))


def take_back(state: State, seen: Seen, reason: str) -> State:
    """What the engine does by itself about a bad end: nothing but ask, where something cannot be undone."""
    if state.point:
        return _ask_instead(state, seen, reason)
    return drop(state, seen, reason) if behind(state) in BEFORE_TRAFFIC else roll_back(state, seen, reason)


def _ask_instead(state: State, seen: Seen, reason: str) -> State:
    choices = (
        "abort all the same, or resume" if behind(state) in BEFORE_TRAFFIC else "abort all the same, promote, or resume"
    )
    asked = f"'{state.point}' cannot be undone, so somebody must decide: {choices}"
    if state.phase is not Phase.PAUSED:
        return pause(state, seen, f"{reason}; {asked}")
    if asked in state.reason:
        return state
    return replace(state, reason=f"{state.reason}; {reason}; {asked}", awaited=Awaited.DECISION)


def drop(state: State, seen: Seen, reason: str) -> State:
    """Remove a candidate that had no traffic: nothing to take back or to drain.

    An Envoy that refuses its cluster need not take it.
    """
    return replace(enter(state, Phase.REMOVING, seen, reason), loser=Role.CANDIDATE)


def to_drain(state: State, seen: Seen) -> State:
    return replace(enter(state, Phase.DRAINING, seen, state.reason), drain=Drain(seen.now_s))
