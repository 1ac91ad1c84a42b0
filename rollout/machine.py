"""The life of a rollout as a pure function: advance(strategy, state, seen) -> (state', effects).

Level-triggered: what should be served follows from the state, and is asked for until it is seen. An equal
observation changes nothing twice, a lost effect is asked for again.
"""

from collections.abc import Callable
from dataclasses import replace

from rollout.drain import Drain, look
from rollout.errors import Conflict
from rollout.exposure import FULL_BP
from rollout.gate import (
    BadHost,
    Blind,
    Fail,
    Inconclusive,
    Pass,
    Past,
    Step,
    WhenBlind,
    blind_for_s,
    judge,
    steps,
)
from rollout.spec import Strategy
from rollout.state import (
    ENDED,
    SETTLE_S,
    TRANSITIONS,
    Command,
    Effect,
    LetGo,
    Phase,
    Retire,
    Role,
    Seen,
    Serve,
    Split,
    State,
)

RATE_WAIT_S = 5.0

_BEFORE_TRAFFIC = frozenset({Phase.PENDING, Phase.WARMING})
_AFTER_TRAFFIC = frozenset({Phase.DRAINING, Phase.REMOVING})


def advance(strategy: Strategy, state: State, seen: Seen) -> tuple[State, tuple[Effect, ...]]:
    """Return the next state and what to do for it. Raises Conflict for a command that the phase does not allow."""
    known = _judged(strategy, _converging(strategy, state, seen), seen)
    if _behind(known) is Phase.SHIFTING and isinstance(known.verdict, Fail) and seen.command is not Command.ABORT:
        # From a pause, too, which stops going forward only; and whatever else is asked for in this moment.
        following = _failed(strategy, known, seen, known.verdict)
    elif seen.command is None:
        following = _STEPS[known.phase](strategy, known, seen)
    else:
        following = _obey(strategy, known, seen, seen.command)
    assert following.phase is state.phase or following.phase in TRANSITIONS[state.phase], (state, following)
    following = _converging(strategy, following, seen)
    return following, effects(strategy, following, seen)


def effects(strategy: Strategy, state: State, seen: Seen) -> tuple[Effect, ...]:
    """Return what the state asks for and the observation does not show."""
    split = wanted(strategy, state)
    if seen.served != split:
        return (Serve(split),)
    if state.phase in ENDED and not seen.retired:
        return (Retire(_loser(state)),)
    if state.let_go and state.loser is None and state.let_go not in seen.leaving:
        return (LetGo(state.let_go),)
    return ()


def wanted(strategy: Strategy, state: State) -> Split:
    """Return what Envoys should be served in this state."""
    match _behind(state):
        case Phase.PENDING:
            present = frozenset({Role.STABLE})
        case Phase.REMOVING | Phase.COMPLETED | Phase.ROLLED_BACK:
            present = frozenset({_loser(state).other})
        case _:
            present = frozenset(Role)
    draining = _loser(state) if state.phase is Phase.DRAINING else None
    return Split(weight_bp(strategy, state), present, draining)


def weight_bp(strategy: Strategy, state: State) -> int:
    """Return the candidate's wanted share of traffic in basis points."""
    if _behind(state) is Phase.SHIFTING:
        return step_of(strategy, state).weight_bp
    return FULL_BP if state.loser is Role.STABLE else 0


def plan_of(strategy: Strategy, state: State) -> tuple[Step, ...]:
    """Return the stages as they will be; as they are written while nothing is known of the traffic."""
    return state.plan or plan(strategy, Past())


def plan(strategy: Strategy, past: Past) -> tuple[Step, ...]:
    """Return the stages as they will be with this traffic."""
    return steps([stage.weight_bp for stage in strategy.stages], strategy.gate, past)


def step_of(strategy: Strategy, state: State) -> Step:
    return plan_of(strategy, state)[state.stage]


def _behind(state: State) -> Phase:
    """Return the phase, in a pause the one to go back to: what is served is that one's."""
    return state.resume or state.phase


def _loser(state: State) -> Role:
    assert state.loser is not None, state
    return state.loser


def _converging(strategy: Strategy, state: State, seen: Seen) -> State:
    """Note since when every Envoy has what this state asks for; forget it while one has not."""
    if state.phase in ENDED or (state.phase is Phase.PAUSED and state.resume is not Phase.SHIFTING):
        return state
    if _converged(strategy, state, seen):
        return replace(state, converged_s=seen.now_s) if state.converged_s is None else state
    # A stage goes on holding while a restarted Envoy catches up; it is left only when that one has, too.
    return state if _behind(state) is Phase.SHIFTING else replace(state, converged_s=None)


def _converged(strategy: Strategy, state: State, seen: Seen) -> bool:
    """Say whether every Envoy has what this state asks for.

    No Envoy at all proves nothing: those that we lost may still send by the old weights. Only where these gave the
    loser nothing is it enough that there is none.
    """
    nobody_sends = seen.fleet == 0 and state.phase in _AFTER_TRAFFIC
    return (seen.connected > 0 or nobody_sends) and not seen.lagging and seen.served == wanted(strategy, state)


def _held_s(strategy: Strategy, state: State, seen: Seen) -> float:
    """Return for how long every Envoy has had what this state asks for, 0 while one has not."""
    if state.converged_s is None or not _converged(strategy, state, seen):
        return 0.0
    return seen.now_s - state.converged_s


def _settled(strategy: Strategy, state: State, seen: Seen) -> bool:
    return _held_s(strategy, state, seen) >= SETTLE_S


def _judged(strategy: Strategy, state: State, seen: Seen) -> State:
    """Judge a look that was not judged yet. Any may fail the candidate; one passes it if all of it is from converged.

    What a stage has to show is counted from its first look on that began with every Envoy at its weight.
    """
    if _behind(state) is not Phase.SHIFTING or seen.look is None or seen.looked_s <= state.looked_s:
        return state
    checks = tuple(each.check for each in strategy.checks)
    counts = state.converged_s is not None and state.looked_s > state.converged_s
    evidence = state.evidence if counts else state.evidence.converging(seen.look.at_s)
    evidence, verdict = judge(strategy.gate, checks, evidence, seen.look, step_of(strategy, state))
    if state.converged_s is not None and not counts:
        evidence = evidence.renew(seen.look.at_s)
    if isinstance(verdict, Pass) and not (counts and _converged(strategy, state, seen)):
        weight = _percent(weight_bp(strategy, state))
        verdict = Inconclusive(f"not every Envoy has had {weight} for the whole of this look", verdict.numbers)
    return replace(state, evidence=evidence, verdict=verdict, passed=None, looked_s=seen.looked_s)


def _pending(_strategy: Strategy, state: State, seen: Seen) -> State:
    if seen.refused:
        return _pause(state, seen, _refusal(seen))
    return _enter(state, Phase.WARMING, seen, "the candidate is pushed to every Envoy")


def _warming(strategy: Strategy, state: State, seen: Seen) -> State:
    if seen.refused:
        return _pause(state, seen, _refusal(seen))
    if _settled(strategy, state, seen) and seen.unready == ():
        if _rate_may_come(state, seen):
            return state
        known = state if seen.past is None else replace(state, plan=plan(strategy, seen.past))
        return _to_stage(known, seen, 0, "the candidate is healthy through every Envoy")
    why, limit_s = _waiting_for(strategy, state, seen), strategy.warm_timeout.total_seconds()
    if not why or seen.now_s - state.since_s < limit_s:
        return state
    return _pause(state, seen, f"the candidate is not ready after {limit_s:g} s: {why}")


def _rate_may_come(state: State, seen: Seen) -> bool:
    """Say whether the service's traffic, which the stages are planned by, may still become known: it takes seconds."""
    unknown = seen.past is not None and seen.past.rate_rps is None
    return unknown and seen.now_s - state.since_s < RATE_WAIT_S


def _shifting(strategy: Strategy, state: State, seen: Seen) -> State:
    if seen.refused:
        return _pause(state, seen, _refusal(seen))
    step = step_of(strategy, state)
    stage = strategy.stages[step.stage]
    if isinstance(state.verdict, Pass) and _settled(strategy, state, seen):
        held = _held_s(strategy, state, seen) >= stage.hold.total_seconds()
        return _next_stage(strategy, state, seen, state.verdict.reason) if held else state
    blind_s = blind_for_s(state.evidence) if isinstance(state.verdict, Blind) else 0.0
    if strategy.gate.when_blind is WhenBlind.PAUSE and blind_s >= strategy.gate.blind_timeout_s > 0:
        return _pause(state, seen, f"data has been missing for {blind_s:.0f} s: {_undecided(state)}")
    if seen.now_s - state.since_s < stage.limit_s:
        return state
    why = _waiting_for(strategy, state, seen) or _undecided(state)
    return _pause(state, seen, f"no decision at {_percent(step.weight_bp)} after {stage.limit_s:g} s: {why}")


def _failed(strategy: Strategy, state: State, seen: Seen, verdict: Fail) -> State:
    """Roll back; or, where that is wanted and one backend explains it all, let that one go and judge the others."""
    others = state.evidence.hosts.keys() - seen.leaving - {verdict.host}
    if not verdict.host or not others or state.let_go or strategy.gate.bad_host is not BadHost.DRAIN:
        return _roll_back(state, seen, verdict.reason)
    going_on = Inconclusive(f"{verdict.host} is let go, the others go on: {verdict.reason}", verdict.numbers)
    return replace(state, let_go=verdict.host, verdict=going_on, evidence=state.evidence.pardoned(seen.now_s))


def _retaining(strategy: Strategy, state: State, seen: Seen) -> State:
    kept = seen.now_s - state.since_s >= strategy.keep_stable.total_seconds()
    return _to_drain(state, seen) if kept and _settled(strategy, state, seen) else state


def _rolling_back(strategy: Strategy, state: State, seen: Seen) -> State:
    if _settled(strategy, state, seen):
        return _to_drain(state, seen)
    refused = seen.served == wanted(strategy, state) and seen.lagging and seen.lagging.keys() <= seen.refused.keys()
    if not refused or seen.now_s - state.since_s < max(SETTLE_S, strategy.drain_timeout.total_seconds()):
        return state
    # It may be the candidate's own cluster that an Envoy cannot take: it will never have this split, but may have
    # one without. Removing ends only when every Envoy has that, so nothing is let go too early.
    return _enter(state, Phase.REMOVING, seen, f"{state.reason}; not drained: {_refusal(seen)}")


def _draining(strategy: Strategy, state: State, seen: Seen) -> State:
    assert state.drain is not None, state
    limit_s = strategy.drain_timeout.total_seconds()
    acked = _settled(strategy, state, seen)
    drain = look(state.drain, now_s=seen.now_s, acked=acked, active=seen.active, limit_s=limit_s)
    state = replace(state, drain=drain)
    if not drain.done:
        return state
    if not drain.timed_out:
        return _enter(state, Phase.REMOVING, seen, state.reason)
    cut = ", ".join(f"{node}: {'unknown' if count < 0 else count}" for node, count in sorted(drain.cut.items()))
    running = cut or ("none seen" if seen.active else "unknown, no Envoy could be asked")
    reason = f"{state.reason}; the drain timeout of {limit_s:g} s is over, requests still running: {running}"
    return _enter(state, Phase.REMOVING, seen, reason)


def _removing(strategy: Strategy, state: State, seen: Seen) -> State:
    if not _settled(strategy, state, seen):
        return state
    ended = Phase.COMPLETED if _loser(state) is Role.STABLE else Phase.ROLLED_BACK
    return _enter(state, ended, seen, state.reason)


def _stay(_strategy: Strategy, state: State, _seen: Seen) -> State:
    return state


_STEPS: dict[Phase, Callable[[Strategy, State, Seen], State]] = {
    Phase.PENDING: _pending,
    Phase.WARMING: _warming,
    Phase.SHIFTING: _shifting,
    Phase.PAUSED: _stay,
    Phase.RETAINING: _retaining,
    Phase.ROLLING_BACK: _rolling_back,
    Phase.DRAINING: _draining,
    Phase.REMOVING: _removing,
    Phase.COMPLETED: _stay,
    Phase.ROLLED_BACK: _stay,
}


def _obey(strategy: Strategy, state: State, seen: Seen, command: Command) -> State:
    who = seen.by or "an operator"
    match command:
        case Command.ABORT:
            following = _aborted(state, seen, f"aborted by {who}")
        case Command.PAUSE:
            following = _paused(state, seen, f"paused by {who}")
        case Command.RESUME:
            following = _resumed(state, seen, f"resumed by {who}")
        case Command.PROMOTE:
            following = _promoted(strategy, state, seen, f"promoted by {who}")
        case Command.PROMOTE_FULL:
            following = _promoted_full(strategy, state, seen, f"promoted to 100 % by {who}")
    if following is None:
        word, phase = command.replace("_", " "), state.phase.replace("_", " ")
        raise Conflict(f"cannot {word} a rollout that is {phase}{_remedy(state, command)}")
    return following


def _aborted(state: State, seen: Seen, reason: str) -> State | None:
    if state.loser is Role.CANDIDATE:
        return state
    if _behind(state) in _BEFORE_TRAFFIC:
        # Nothing to take back or to drain; and an Envoy that refuses the candidate's cluster need not take it.
        return replace(_enter(state, Phase.REMOVING, seen, reason), loser=Role.CANDIDATE)
    if _behind(state) in (Phase.SHIFTING, Phase.RETAINING):
        return _roll_back(state, seen, reason)
    return None


def _paused(state: State, seen: Seen, reason: str) -> State | None:
    if state.phase is Phase.PAUSED:
        return state
    going_forward = state.phase in _BEFORE_TRAFFIC or state.phase is Phase.SHIFTING
    return _pause(state, seen, reason) if going_forward else None


def _resumed(state: State, seen: Seen, reason: str) -> State | None:
    """Go back to where the pause began: with what the stage has shown, but only a new look decides."""
    if state.resume is None:
        return None
    following = _enter(_looked_into(state), state.resume, seen, reason)
    return replace(following, verdict=None, converged_s=_of_stage(state))


def _promoted(strategy: Strategy, state: State, seen: Seen, reason: str) -> State | None:
    return _next_stage(strategy, _looked_into(state), seen, reason) if _behind(state) is Phase.SHIFTING else None


def _promoted_full(strategy: Strategy, state: State, seen: Seen, reason: str) -> State | None:
    last = len(plan_of(strategy, state)) - 1
    if _behind(state) is not Phase.SHIFTING or state.stage == last:
        return _promoted(strategy, state, seen, reason)
    return _to_stage(_looked_into(state), seen, last, reason)


def _looked_into(state: State) -> State:
    """Where data is missing, somebody knows of it now, and its time begins anew."""
    return replace(state, evidence=replace(state.evidence, blind_s=None))


def _remedy(state: State, command: Command) -> str:
    if command is Command.RESUME:
        return "; it is not paused"
    if state.phase is Phase.RETAINING:
        return "; all traffic is on its candidate, and abort takes it back"
    if state.loser is Role.STABLE:
        return "; its old version is being let go: deploy that version again to go back"
    return "; the candidate has had no traffic yet" if _behind(state) in _BEFORE_TRAFFIC else ""


def _enter(state: State, phase: Phase, seen: Seen, reason: str) -> State:
    return replace(state, phase=phase, since_s=seen.now_s, converged_s=None, reason=reason, resume=None)


def _to_stage(state: State, seen: Seen, stage: int, reason: str) -> State:
    looked_s = max(state.looked_s, seen.looked_s)
    passed = state.verdict if isinstance(state.verdict, Pass) else None
    following = replace(_enter(state, Phase.SHIFTING, seen, reason), stage=stage, verdict=None, passed=passed)
    return replace(following, looked_s=looked_s)


def _next_stage(strategy: Strategy, state: State, seen: Seen, reason: str) -> State:
    if state.stage + 1 < len(plan_of(strategy, state)):
        return _to_stage(state, seen, state.stage + 1, reason)
    return replace(_enter(state, Phase.RETAINING, seen, reason), loser=Role.STABLE)


def _pause(state: State, seen: Seen, reason: str) -> State:
    return replace(_enter(state, Phase.PAUSED, seen, reason), resume=state.phase, converged_s=_of_stage(state))


def _of_stage(state: State) -> float | None:
    """Return since when every Envoy has the stage's weight: it is served in a pause, too."""
    return state.converged_s if _behind(state) is Phase.SHIFTING else None


def _roll_back(state: State, seen: Seen, reason: str) -> State:
    return replace(_enter(state, Phase.ROLLING_BACK, seen, reason), loser=Role.CANDIDATE)


def _to_drain(state: State, seen: Seen) -> State:
    return replace(_enter(state, Phase.DRAINING, seen, state.reason), drain=Drain(seen.now_s))


def _refusal(seen: Seen) -> str:
    return "; ".join(f"{node} {why}" for node, why in sorted(seen.refused.items()))


def _waiting_for(strategy: Strategy, state: State, seen: Seen) -> str:
    """Say why not every Envoy has what this state asks for, or else why the candidate is not ready."""
    if not seen.connected:
        return "no Envoy is connected"
    reasons = [f"{node} {why}" for node, why in sorted(seen.lagging.items())] or list(seen.unready or ())
    if seen.served != wanted(strategy, state):
        reasons = ["it is not published yet"]
    elif not reasons and state.phase is Phase.WARMING and seen.unready is None:
        reasons = ["its health was not seen yet"]
    return "; ".join(reasons[:3]) + (f" and {len(reasons) - 3} more" if len(reasons) > 3 else "")


def _undecided(state: State) -> str:
    return state.verdict.reason if state.verdict is not None else "nothing was measured yet"


def _percent(basis_points: int) -> str:
    return f"{basis_points / 100:g} %"
