"""What an operator may ask of a rollout in progress, and what becomes of it."""

from collections.abc import Mapping
from dataclasses import replace

from rollout.errors import Conflict
from rollout.machine.moves import (
    BEFORE_TRAFFIC,
    drop,
    enter,
    next_stage,
    of_stage,
    pause,
    roll_back,
    roll_back_gradually,
    to_stage,
)
from rollout.machine.planned import behind, lower_bp, plan_of, stage_of
from rollout.spec import Pace, Strategy
from rollout.state import Awaited, Command, Phase, Role, Seen, State

_WORDS: Mapping[Command, str] = {
    Command.PROMOTE_FULL: "fully promote a rollout",
    Command.SKIP_STAGE: "skip a stage of a rollout",
}


def obey(strategy: Strategy, state: State, seen: Seen, command: Command) -> State:
    """Return what follows from a command. Raises Conflict for one that the phase does not allow."""
    who = seen.by or "an operator"
    match command:
        case Command.ABORT:
            following = _aborted(strategy, state, seen, seen.why or f"aborted by {who}")
        case Command.REJECT:
            following = _aborted(strategy, state, seen, f"rejected by {who}")
        case Command.PAUSE:
            following = _paused(state, seen, f"paused by {who}")
        case Command.RESUME:
            following = _resumed(state, seen, f"resumed by {who}")
        case Command.APPROVE:
            following = _approved(strategy, state, seen)
        case Command.PROMOTE:
            following = _promoted(strategy, state, seen, f"promoted by {who}")
        case Command.SKIP_STAGE:
            following = _promoted(strategy, state, seen, f"the stage was skipped by {who}")
        case Command.PROMOTE_FULL:
            following = _promoted_full(strategy, state, seen, f"promoted to 100 % by {who}")
    if following is None:
        what, phase = _WORDS.get(command, f"{command} a rollout"), state.phase.replace("_", " ")
        raise Conflict(f"cannot {what} that is {phase}{_remedy(state, command)}")
    return following


def _aborted(strategy: Strategy, state: State, seen: Seen, reason: str) -> State | None:
    if state.loser is Role.CANDIDATE:
        # Asked again on a gradual way back: at once.
        return replace(state, back_bp=0, since_s=seen.now_s, converged_s=None) if state.back_bp else state
    if behind(state) in BEFORE_TRAFFIC:
        return drop(state, seen, reason)
    if behind(state) not in (Phase.SHIFTING, Phase.RETAINING):
        return None
    if strategy.abort is Pace.GRADUAL and lower_bp(strategy, state):
        return roll_back_gradually(strategy, state, seen, reason)
    return roll_back(state, seen, reason)


def _paused(state: State, seen: Seen, reason: str) -> State | None:
    if state.phase is Phase.PAUSED:
        return replace(state, awaited=Awaited.OPERATOR)
    going_forward = state.phase in BEFORE_TRAFFIC or state.phase is Phase.SHIFTING
    return replace(pause(state, seen, reason), awaited=Awaited.OPERATOR) if going_forward else None


def _resumed(state: State, seen: Seen, reason: str) -> State | None:
    """Go back to where the pause began: with what the stage has shown, but only a new look decides."""
    if state.resume is None:
        return None
    following = enter(_looked_into(state), state.resume, seen, reason)
    return replace(following, verdict=None, converged_s=of_stage(state))


def _approved(strategy: Strategy, state: State, seen: Seen) -> State | None:
    """Note that a person agrees to leave this stage: before it has passed, too."""
    stage = stage_of(strategy, state)
    if stage is None or not stage.approve:
        return None
    if state.approved == state.stage:
        return state
    # Its time limit begins anew: a person's time is no time without a decision.
    following = replace(state, approved=state.stage, since_s=seen.now_s)
    return replace(following, awaited=None, waiting="") if state.awaited is Awaited.APPROVAL else following


def _promoted(strategy: Strategy, state: State, seen: Seen, reason: str) -> State | None:
    return next_stage(strategy, _looked_into(state), seen, reason) if behind(state) is Phase.SHIFTING else None


def _promoted_full(strategy: Strategy, state: State, seen: Seen, reason: str) -> State | None:
    if state.hurried and state.phase is Phase.SHIFTING:
        return state  # it is on its way, and asked again goes no faster
    last = len(plan_of(strategy, state)) - 1
    if behind(state) is not Phase.SHIFTING or state.stage == last:
        return _promoted(strategy, state, seen, reason)
    if strategy.promote is Pace.GRADUAL:
        following = next_stage(strategy, _looked_into(state), seen, reason)
        return replace(following, hurried=True)
    return to_stage(_looked_into(state), seen, last, reason)


def _looked_into(state: State) -> State:
    """Where data is missing, somebody knows of it now, and its time begins anew."""
    return replace(state, evidence=replace(state.evidence, blind_s=None))


def _remedy(state: State, command: Command) -> str:
    if command is Command.RESUME and state.loser is None:
        return "; it is not paused"
    if command is Command.APPROVE and behind(state) is Phase.SHIFTING:
        return ", in a stage that needs no approval; promote goes on to the next one"
    if state.phase is Phase.RETAINING:
        return "; all traffic is on its candidate, and abort takes it back"
    if state.loser is Role.STABLE:
        return "; its old version is being let go, and `rollout undo` goes back to it when this has ended"
    if state.loser is Role.CANDIDATE:
        return "; `rollout retry` begins it anew when this has ended"
    return "; the candidate has had no traffic yet" if behind(state) in BEFORE_TRAFFIC else ""
