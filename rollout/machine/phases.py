"""What each phase does with an observation when nobody asks for anything."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from types import MappingProxyType

from rollout.drain import look
from rollout.gate import BadHost, Blind, Fail, Inconclusive, Pass, WhenBlind, blind_for_s
from rollout.hooks import HookKind
from rollout.machine.asking import Asked, asked, demanding, going_up, of_kind, refusing, told, under_way, unheard
from rollout.machine.moves import (
    BEFORE_TRAFFIC,
    enter,
    lapse,
    next_stage,
    pause,
    take_back,
    thaw,
    to_drain,
    to_stage,
    wait,
)
from rollout.machine.planned import behind, loser_of, lower_bp, plan, step_of, wanted, weight_bp
from rollout.machine.seeing import held_s, percent, refusal, settled, undecided, waiting_for
from rollout.spec import OnTimeout, Stage, Strategy
from rollout.state import SETTLE_S, Awaited, Phase, Role, Seen, State

RATE_WAIT_S = 5.0
_UNHURRIED = frozenset({Awaited.OPERATOR, Awaited.APPROVAL, Awaited.THAW})


def step(strategy: Strategy, state: State, seen: Seen) -> State:
    """Return what follows when nobody asks for anything."""
    known = thaw(state, seen)
    back = _reason_to_go_back(strategy, known, seen)
    return take_back(known, seen, back) if back else _STEPS[known.phase](strategy, known, seen)


def failed(strategy: Strategy, state: State, seen: Seen, verdict: Fail) -> State:
    """Roll back; or, where that is wanted and one backend explains it all, let that one go and judge the others."""
    others = state.evidence.hosts.keys() - seen.leaving - {verdict.host}
    if not verdict.host or not others or state.let_go or strategy.gate.bad_host is not BadHost.DRAIN:
        return take_back(state, seen, verdict.reason)
    going_on = Inconclusive(f"{verdict.host} is let go, the others go on: {verdict.reason}", verdict.numbers)
    return replace(state, let_go=verdict.host, verdict=going_on, evidence=state.evidence.pardoned(seen.now_s))


def _reason_to_go_back(strategy: Strategy, state: State, seen: Seen) -> str:
    """Say why a rollout that has not decided its end yet is taken back whatever it shows, "" when it is not."""
    if behind(state) not in (*BEFORE_TRAFFIC, Phase.SHIFTING):
        return ""
    demanded = demanding(strategy, seen) if behind(state) is not Phase.PENDING else ""
    refused = refusing(strategy, seen) if state.phase is Phase.SHIFTING else ""
    dead = seen.dead if behind(state) is Phase.SHIFTING and weight_bp(strategy, state) else ""
    if demanded or refused or dead:
        return demanded or refused or dead
    if seen.missing:
        gone_s = strategy.disconnected.limit.total_seconds()
        return f"{', '.join(seen.missing)} stayed away for longer than {gone_s:g} s (disconnected: fail)"
    return overdue(strategy, state, seen)


def overdue(strategy: Strategy, state: State, seen: Seen) -> str:
    """Say that what has no excuse has taken for too long since it began, "" when it has not."""
    if strategy.progress_deadline is None or state.awaited in _UNHURRIED:
        return ""
    limit_s = strategy.progress_deadline.total_seconds()
    late = seen.now_s - state.since_s >= limit_s
    return f"no progress for {limit_s:g} s (progress_deadline): {state.waiting or state.reason}" if late else ""


def _pending(strategy: Strategy, state: State, seen: Seen) -> State:
    if seen.refused:
        return pause(state, seen, refusal(seen))
    if seen.frozen and not under_way(strategy, state, HookKind.PROVISION):
        return wait(state, Awaited.THAW, seen.frozen)
    confirming = asked(strategy, state, seen, *of_kind(strategy, HookKind.CONFIRM_ROLLOUT))
    if confirming.waiting:
        return wait(confirming.state, Awaited.HOOK, confirming.waiting)
    provided = asked(strategy, confirming.state, seen, *of_kind(strategy, HookKind.PROVISION))
    pushed = "the candidate is pushed to every Envoy"
    return _held_up(provided, seen) or enter(provided.state, Phase.WARMING, seen, pushed)


def _held_up(once: Asked, seen: Seen) -> State | None:
    """Return what follows while not all agree who are called once, and while it is frozen; None when it goes on."""
    if once.refused:
        return take_back(once.state, seen, once.refused)
    if once.waiting:
        return wait(once.state, Awaited.HOOK, once.waiting)
    return wait(once.state, Awaited.THAW, seen.frozen) if seen.frozen else None


def _warming(strategy: Strategy, state: State, seen: Seen) -> State:
    if seen.refused:
        return pause(state, seen, refusal(seen))
    if settled(strategy, state, seen) and seen.unready == ():
        return _begun(strategy, state, seen)
    if state.awaited is Awaited.THAW:
        return state  # it was ready, and has time to be so again
    state = lapse(state, seen)
    why, limit_s = waiting_for(strategy, state, seen), strategy.warm_timeout.total_seconds()
    if not why or _undecided_for_s(state, seen) < limit_s:
        return state
    return pause(state, seen, f"the candidate is not ready after {limit_s:g} s: {why}")


def _begun(strategy: Strategy, state: State, seen: Seen) -> State:
    """Begin the first stage, once the rate may be known, nothing is frozen and hooks agree."""
    if _rate_may_come(state, seen):
        return state
    if seen.frozen and not under_way(strategy, state, HookKind.PRE_ROLLOUT):
        return wait(state, Awaited.THAW, seen.frozen)
    prepared = asked(strategy, state, seen, *of_kind(strategy, HookKind.PRE_ROLLOUT))
    held_up = _held_up(prepared, seen)
    if held_up is not None:
        return held_up
    confirmed = asked(strategy, prepared.state, seen, *going_up(strategy, prepared.state, 0))
    if confirmed.waiting:
        return wait(confirmed.state, Awaited.HOOK, confirmed.waiting)
    known = confirmed.state if seen.past is None else replace(confirmed.state, plan=plan(strategy, seen.past))
    return to_stage(known, seen, 0, "the candidate is healthy through every Envoy")


def _rate_may_come(state: State, seen: Seen) -> bool:
    """Say whether the service's traffic, which the stages are planned by, may still become known: it takes seconds."""
    unknown = seen.past is not None and seen.past.rate_rps is None
    return unknown and seen.now_s - state.since_s < RATE_WAIT_S


def _shifting(strategy: Strategy, state: State, seen: Seen) -> State:
    if seen.refused:
        return pause(state, seen, refusal(seen))
    if seen.unhealthy:
        return pause(state, seen, seen.unhealthy)
    stage = strategy.stages[step_of(strategy, state).stage]
    if settled(strategy, state, seen):
        lasted_s = held_s(strategy, state, seen)
        if state.hurried and lasted_s >= strategy.gradual_step.total_seconds():
            return next_stage(strategy, state, seen, state.reason)
        if isinstance(state.verdict, Pass) and not unheard(strategy, seen):
            held = lasted_s >= stage.hold.total_seconds()
            return _passed(strategy, state, seen, stage, state.verdict) if held else state
    return _undecided(strategy, state, seen, stage)


def _passed(strategy: Strategy, state: State, seen: Seen, stage: Stage, verdict: Pass) -> State:
    """Leave a stage, once nothing is frozen, and hooks and the person agree who must."""
    if stage.approve and state.approved != state.stage:
        return wait(state, Awaited.APPROVAL, "somebody must approve it (`rollout approve`)")
    if seen.frozen:
        return wait(state, Awaited.THAW, seen.frozen)
    confirmed = asked(strategy, state, seen, *going_up(strategy, state, state.stage + 1))
    if confirmed.waiting:
        return wait(confirmed.state, Awaited.HOOK, confirmed.waiting)
    return next_stage(strategy, confirmed.state, seen, verdict.reason)


def _undecided(strategy: Strategy, state: State, seen: Seen, stage: Stage) -> State:
    if state.awaited in (Awaited.APPROVAL, Awaited.THAW):
        return state  # it had passed, and takes its time
    state = lapse(state, seen)
    if state.awaited is not None and not isinstance(state.verdict, Pass):
        state = replace(state, awaited=None, waiting="")
    blind_s = blind_for_s(state.evidence) if isinstance(state.verdict, Blind) else 0.0
    if strategy.gate.when_blind is WhenBlind.PAUSE and blind_s >= strategy.gate.blind_timeout_s > 0:
        return pause(state, seen, f"data has been missing for {blind_s:.0f} s: {undecided(state)}")
    if _undecided_for_s(state, seen) < stage.limit_s:
        return state
    unanswered = unheard(strategy, seen) if isinstance(state.verdict, Pass) else ""
    why = waiting_for(strategy, state, seen) or unanswered or undecided(state)
    where = f"at {percent(step_of(strategy, state).weight_bp)}" if stage.weight_bp else "in this stage"
    reason = f"no decision {where} after {stage.limit_s:g} s: {why}"
    return take_back(state, seen, reason) if stage.on_timeout is OnTimeout.ROLLBACK else pause(state, seen, reason)


def _undecided_for_s(state: State, seen: Seen) -> float:
    return seen.now_s - (state.since_s if state.lapsed_s is None else state.lapsed_s)


def _retaining(strategy: Strategy, state: State, seen: Seen) -> State:
    kept = seen.now_s - state.since_s >= strategy.keep_stable.total_seconds()
    if not kept or not settled(strategy, state, seen):
        return state
    return wait(state, Awaited.THAW, seen.frozen) if seen.frozen else to_drain(state, seen)


def _rolling_back(strategy: Strategy, state: State, seen: Seen) -> State:
    if state.back_bp:
        # An Envoy that refuses or hangs must not keep the others at this weight: going down needs no barrier.
        if seen.now_s - state.since_s < max(SETTLE_S, strategy.gradual_step.total_seconds()):
            return state
        return replace(state, back_bp=lower_bp(strategy, state), since_s=seen.now_s, converged_s=None)
    if settled(strategy, state, seen):
        return to_drain(state, seen)
    refused = seen.served == wanted(strategy, state) and seen.lagging and seen.lagging.keys() <= seen.refused.keys()
    if not refused or seen.now_s - state.since_s < max(SETTLE_S, strategy.drain_timeout.total_seconds()):
        return state
    # It may be the candidate's own cluster that an Envoy cannot take: it will never have this split, but may have
    # one without. Removing ends only when every Envoy has that, so nothing is let go too early.
    return enter(state, Phase.REMOVING, seen, f"{state.reason}; not drained: {refusal(seen)}")


def _draining(strategy: Strategy, state: State, seen: Seen) -> State:
    assert state.drain is not None, state
    limit_s = strategy.drain_timeout.total_seconds()
    acked = settled(strategy, state, seen)
    drain = look(state.drain, now_s=seen.now_s, acked=acked, active=seen.active, limit_s=limit_s)
    state = replace(state, drain=drain)
    if not drain.done:
        return state
    if not drain.timed_out:
        return enter(state, Phase.REMOVING, seen, state.reason)
    cut = ", ".join(f"{node}: {'unknown' if count < 0 else count}" for node, count in sorted(drain.cut.items()))
    running = cut or ("none seen" if seen.active else "unknown, no Envoy could be asked")
    reason = f"{state.reason}; the drain timeout of {limit_s:g} s is over, requests still running: {running}"
    return enter(state, Phase.REMOVING, seen, reason)


def _removing(strategy: Strategy, state: State, seen: Seen) -> State:
    if not settled(strategy, state, seen):
        return state
    for kind in (HookKind.TERMINATE, HookKind.POST_ROLLOUT):
        ending = told(strategy, state, seen, *of_kind(strategy, kind))
        state = ending.state
        if ending.waiting:
            return wait(state, Awaited.HOOK, ending.waiting)
    ended = Phase.COMPLETED if loser_of(state) is Role.STABLE else Phase.ROLLED_BACK
    return enter(state, ended, seen, state.reason)


def _stay(_strategy: Strategy, state: State, _seen: Seen) -> State:
    return state


_STEPS: Mapping[Phase, Callable[[Strategy, State, Seen], State]] = MappingProxyType(
    {
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
)
