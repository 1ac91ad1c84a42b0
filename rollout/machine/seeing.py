"""What an observation says of a state: who has what it asks for, what its looks show, what it waits for."""

from dataclasses import replace

from rollout.gate import Inconclusive, Pass, judge, judge_aside
from rollout.machine.planned import behind, stage_of, step_of, wanted, weight_bp
from rollout.spec import Strategy
from rollout.state import ENDED, SETTLE_S, Phase, Seen, State

_AFTER_TRAFFIC = frozenset({Phase.DRAINING, Phase.REMOVING})
REASONS_TOLD = 3


def converging(strategy: Strategy, state: State, seen: Seen) -> State:
    """Note since when every Envoy has what this state asks for; forget it while one has not."""
    if state.phase in ENDED or (state.phase is Phase.PAUSED and state.resume is not Phase.SHIFTING):
        return state
    if converged(strategy, state, seen):
        return replace(state, converged_s=seen.now_s) if state.converged_s is None else state
    # A stage goes on holding while a restarted Envoy catches up; it is left only when that one has, too.
    return state if behind(state) is Phase.SHIFTING else replace(state, converged_s=None)


def converged(strategy: Strategy, state: State, seen: Seen) -> bool:
    """Say whether every Envoy has what this state asks for.

    No Envoy at all proves nothing: those that we lost may still send by the old weights. Only where these gave the
    loser nothing is it enough that there is none.
    """
    nobody_sends = seen.fleet == 0 and state.phase in _AFTER_TRAFFIC
    return (seen.connected > 0 or nobody_sends) and not seen.lagging and seen.served == wanted(strategy, state)


def held_s(strategy: Strategy, state: State, seen: Seen) -> float:
    """Return for how long every Envoy has had what this state asks for, 0 while one has not."""
    if state.converged_s is None or not converged(strategy, state, seen):
        return 0.0
    return seen.now_s - state.converged_s


def settled(strategy: Strategy, state: State, seen: Seen) -> bool:
    return held_s(strategy, state, seen) >= SETTLE_S


def judged(strategy: Strategy, state: State, seen: Seen) -> State:
    """Judge a look that was not judged yet. Any may fail the candidate; one passes it if all of it is from converged.

    What a stage has to show is counted from its first look on that began with every Envoy at its weight.
    """
    stage = stage_of(strategy, state)
    if stage is None or seen.look is None or seen.looked_s <= state.looked_s:
        return state
    step = step_of(strategy, state)
    checks = tuple(each.check for each in strategy.checks_in(step.stage))
    counts = state.converged_s is not None and state.looked_s > state.converged_s
    evidence = state.evidence if counts else state.evidence.converging(seen.look.at_s)
    if stage.weight_bp or stage.match:
        evidence, verdict = judge(strategy.gate, checks, evidence, seen.look, step)
    else:
        evidence, verdict = judge_aside(checks, evidence, seen.look)
    if state.converged_s is not None and not counts:
        evidence = evidence.renew(seen.look.at_s)
    if isinstance(verdict, Pass) and not (counts and converged(strategy, state, seen)):
        what = percent(weight_bp(strategy, state)) if stage.weight_bp else "this stage"
        verdict = Inconclusive(f"not every Envoy has had {what} for the whole of this look", verdict.numbers)
    return replace(state, evidence=evidence, verdict=verdict, passed=None, looked_s=seen.looked_s)


def refusal(seen: Seen) -> str:
    return "; ".join(f"{node} {why}" for node, why in sorted(seen.refused.items()))


def waiting_for(strategy: Strategy, state: State, seen: Seen) -> str:
    """Say why not every Envoy has what this state asks for, or else why the candidate is not ready."""
    if not seen.connected:
        return "no Envoy is connected"
    reasons = [f"{node} {why}" for node, why in sorted(seen.lagging.items())] or list(seen.unready or ())
    if seen.served != wanted(strategy, state):
        reasons = ["it is not published yet"]
    elif not reasons and state.phase is Phase.WARMING and seen.unready is None:
        reasons = ["its health was not seen yet"]
    more = len(reasons) - REASONS_TOLD
    return "; ".join(reasons[:REASONS_TOLD]) + (f" and {more} more" if more > 0 else "")


def undecided(state: State) -> str:
    return state.verdict.reason if state.verdict is not None else "nothing was measured yet"


def percent(basis_points: int) -> str:
    return f"{basis_points / 100:g} %"
