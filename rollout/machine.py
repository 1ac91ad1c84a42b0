"""The life of a rollout as a pure function: advance(strategy, state, seen) -> (state', effects).

Level-triggered: what should be served follows from the state, and is asked for until it is seen. An equal
observation changes nothing twice, a lost effect is asked for again.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from types import MappingProxyType
from typing import Annotated

from pydantic import BeforeValidator, PlainSerializer

from rollout.drain import Active, Drain, look
from rollout.errors import Conflict
from rollout.gate import Evidence, Fail, Look, Pass, Verdict, judge, verdict_from_json, verdict_to_json
from rollout.spec import FULL_BP, Stage, Strategy

SETTLE_S = 0.1  # after the last ACK: Envoy's workers hear of a change by a posted callback


SavedVerdict = Annotated[
    Verdict,
    PlainSerializer(verdict_to_json),
    BeforeValidator(lambda saved: verdict_from_json(saved) if isinstance(saved, Mapping) else saved),
]


class Phase(StrEnum):
    PENDING = "pending"
    WARMING = "warming"
    SHIFTING = "shifting"
    PAUSED = "paused"
    RETAINING = "retaining"
    ROLLING_BACK = "rolling_back"
    DRAINING = "draining"
    REMOVING = "removing"
    COMPLETED = "completed"
    ROLLED_BACK = "rolled_back"


TRANSITIONS: Mapping[Phase, tuple[Phase, ...]] = MappingProxyType({
    Phase.PENDING: (Phase.WARMING, Phase.ROLLING_BACK),
    Phase.WARMING: (Phase.SHIFTING, Phase.PAUSED, Phase.ROLLING_BACK),
    Phase.SHIFTING: (Phase.SHIFTING, Phase.PAUSED, Phase.RETAINING, Phase.ROLLING_BACK),
    Phase.PAUSED: (Phase.WARMING, Phase.SHIFTING, Phase.RETAINING, Phase.ROLLING_BACK),
    Phase.RETAINING: (Phase.DRAINING, Phase.ROLLING_BACK),
    Phase.ROLLING_BACK: (Phase.DRAINING,),
    Phase.DRAINING: (Phase.REMOVING,),
    Phase.REMOVING: (Phase.COMPLETED, Phase.ROLLED_BACK),
    Phase.COMPLETED: (),
    Phase.ROLLED_BACK: (),
})
ENDED = frozenset({Phase.COMPLETED, Phase.ROLLED_BACK})


class Role(StrEnum):
    """The two versions of a rollout."""

    STABLE = "stable"
    CANDIDATE = "candidate"

    @property
    def other(self) -> "Role":
        return Role.CANDIDATE if self is Role.STABLE else Role.STABLE


class Command(StrEnum):
    """What an operator may ask of a rollout in progress."""

    PROMOTE = "promote"
    PROMOTE_FULL = "promote_full"
    PAUSE = "pause"
    RESUME = "resume"
    ABORT = "abort"


@dataclass(frozen=True, slots=True)
class Split:
    """What Envoys should be served for a service: the candidate's weight, and which versions are there.

    A version that is not `present` has no cluster; one that is `draining` has all its endpoints DRAINING.
    """

    candidate_bp: int
    present: frozenset[Role]
    draining: Role | None = None


@dataclass(frozen=True, slots=True)
class State:
    """Where a rollout stands. `since_s` is when the phase, or in SHIFTING the stage, began.

    `converged_s`: since when every Envoy has what the phase asks for, None before. `resume`: the phase behind a pause.
    `loser`: the version that goes, known from RETAINING or ROLLING_BACK on. `reason`: why it is in this phase.
    """

    phase: Phase
    since_s: float
    stage: int = 0
    converged_s: float | None = None
    looked_s: float = -1.0
    evidence: Evidence = field(default_factory=Evidence.start)
    verdict: SavedVerdict | None = None
    reason: str = ""
    resume: Phase | None = None
    loser: Role | None = None
    drain: Drain | None = None


@dataclass(frozen=True, slots=True)
class Seen:
    """One observation of the world, all that a decision may rest on.

    `connected` counts the Envoys on the line, `fleet` also those that were there and are remembered.
    `served` is the split now published, None before the first. `lagging` says why a node does not have it yet;
    `refused` those of them that NACKed. `unready` says what of the candidate is not healthy through which Envoy.
    `looked_s` stamps `look`, the increments since the look before. `retired`: the loser's record is gone.
    """

    now_s: float
    connected: int
    fleet: int = 0
    served: Split | None = None
    lagging: Mapping[str, str] = field(default_factory=dict)
    refused: Mapping[str, str] = field(default_factory=dict)
    unready: tuple[str, ...] = ()
    looked_s: float = -1.0
    look: Look | None = None
    active: Active | None = None
    retired: bool = False
    command: Command | None = None
    by: str = ""


@dataclass(frozen=True, slots=True)
class Serve:
    """Publish this split."""

    split: Split


@dataclass(frozen=True, slots=True)
class Retire:
    """Forget the losing version: nothing serves it any more, its backends may stop."""

    role: Role


Effect = Serve | Retire


def start(now_s: float, reason: str) -> State:
    """Return the state of a rollout that was just asked for."""
    return State(Phase.PENDING, now_s, reason=reason)


def advance(strategy: Strategy, state: State, seen: Seen) -> tuple[State, tuple[Effect, ...]]:
    """Return the next state and what to do for it. Raises Conflict for a command that the phase does not allow."""
    if seen.command is not None:
        following = _obey(strategy, state, seen, seen.command)
    else:
        following = _STEPS[state.phase](strategy, state, seen)
    assert following.phase is state.phase or following.phase in TRANSITIONS[state.phase], (state.phase, following.phase)
    return following, effects(strategy, following, seen)


def effects(strategy: Strategy, state: State, seen: Seen) -> tuple[Effect, ...]:
    """Return what the state asks for and the observation does not show."""
    split = wanted(strategy, state)
    if seen.served != split:
        return (Serve(split),)
    if state.phase in ENDED and state.loser is not None and not seen.retired:
        return (Retire(state.loser),)
    return ()


def wanted(strategy: Strategy, state: State) -> Split:
    """Return what Envoys should be served in this state."""
    both = frozenset(Role)
    match state.phase:
        case Phase.PENDING:
            return Split(0, frozenset({Role.STABLE}))
        case Phase.WARMING | Phase.ROLLING_BACK:
            return Split(0, both)
        case Phase.SHIFTING:
            return Split(strategy.stages[state.stage].weight_bp, both)
        case Phase.PAUSED:
            assert state.resume is not None
            return wanted(strategy, replace(state, phase=state.resume))
        case Phase.RETAINING:
            return Split(FULL_BP, both)
        case Phase.DRAINING:
            assert state.loser is not None
            return Split(_final_bp(state.loser), both, draining=state.loser)
        case Phase.REMOVING | Phase.COMPLETED | Phase.ROLLED_BACK:
            assert state.loser is not None
            return Split(_final_bp(state.loser), frozenset({state.loser.other}))


def _final_bp(loser: Role) -> int:
    return FULL_BP if loser is Role.STABLE else 0


def weight_bp(strategy: Strategy, state: State) -> int:
    """Return the candidate's wanted share of traffic in basis points."""
    return wanted(strategy, state).candidate_bp


def _enter(state: State, phase: Phase, seen: Seen, reason: str) -> State:
    return replace(state, phase=phase, since_s=seen.now_s, converged_s=None, reason=reason, resume=None)


def _stage(strategy: Strategy, state: State) -> Stage:
    return strategy.stages[state.stage]


def _converging(strategy: Strategy, state: State, seen: Seen) -> State:
    """Note since when every Envoy has what this state asks for; forget it while one has not."""
    if _converged(strategy, state, seen):
        return replace(state, converged_s=seen.now_s) if state.converged_s is None else state
    # A stage goes on holding while a restarted Envoy catches up; it is left only when that one has, too.
    return state if state.phase is Phase.SHIFTING else replace(state, converged_s=None)


def _converged(strategy: Strategy, state: State, seen: Seen) -> bool:
    """Say whether every Envoy has what this state asks for; no Envoy at all proves nothing, unless there never was one."""
    somebody = seen.connected > 0 or (seen.fleet == 0 and state.loser is not None)
    return somebody and not seen.lagging and seen.served == wanted(strategy, state)


def _settled(strategy: Strategy, state: State, seen: Seen) -> bool:
    """Say whether every Envoy has had what this state asks for, for SETTLE_S."""
    held = state.converged_s is not None and seen.now_s - state.converged_s >= SETTLE_S
    return held and _converged(strategy, state, seen)


def _pending(_strategy: Strategy, state: State, seen: Seen) -> State:
    return _enter(state, Phase.WARMING, seen, "the candidate is pushed to every Envoy")


def _warming(strategy: Strategy, state: State, seen: Seen) -> State:
    if seen.refused:
        return _pause(state, seen, _refusal(seen))
    state = _converging(strategy, state, seen)
    if _settled(strategy, state, seen) and not seen.unready:
        return _to_stage(strategy, state, seen, 0, "the candidate is healthy through every Envoy")
    if seen.now_s - state.since_s < strategy.warm_timeout.total_seconds():
        return state
    waited = f"after {strategy.warm_timeout.total_seconds():g} s"
    return _pause(state, seen, f"the candidate is not ready {waited}: {_waiting_for(seen)}")


def _shifting(strategy: Strategy, state: State, seen: Seen) -> State:
    state = _converging(strategy, _judged(strategy, state, seen), seen)
    if isinstance(state.verdict, Fail):
        return _roll_back(state, seen, state.verdict.reason)
    if seen.refused:
        return _pause(state, seen, _refusal(seen))
    stage = _stage(strategy, state)
    if _settled(strategy, state, seen) and isinstance(state.verdict, Pass):
        assert state.converged_s is not None
        if seen.now_s - state.converged_s >= stage.hold.total_seconds():
            return _next_stage(strategy, state, seen, state.verdict.reason)
    if seen.now_s - state.since_s < stage.timeout.total_seconds():
        return state
    why = _waiting_for(seen) if seen.lagging or not seen.connected else _undecided(state)
    return _pause(state, seen, f"no decision at {_percent(stage.weight_bp)} after {stage.timeout.total_seconds():g} s: {why}")


def _paused(strategy: Strategy, state: State, seen: Seen) -> State:
    """A pause stops going forward only: a candidate that proves worse is still taken back."""
    if state.resume is not Phase.SHIFTING:
        return state
    state = _judged(strategy, state, seen)
    return _roll_back(state, seen, state.verdict.reason) if isinstance(state.verdict, Fail) else state


def _retaining(strategy: Strategy, state: State, seen: Seen) -> State:
    state = _converging(strategy, state, seen)
    if not _settled(strategy, state, seen) or seen.now_s - state.since_s < strategy.keep_stable.total_seconds():
        return state
    return _to_drain(state, seen)


def _rolling_back(strategy: Strategy, state: State, seen: Seen) -> State:
    state = _converging(strategy, state, seen)
    return _to_drain(state, seen) if _settled(strategy, state, seen) else state


def _draining(strategy: Strategy, state: State, seen: Seen) -> State:
    assert state.drain is not None
    state = _converging(strategy, state, seen)
    drain = look(
        state.drain,
        now_s=seen.now_s,
        acked=_settled(strategy, state, seen),
        active=seen.active,
        limit_s=strategy.drain_timeout.total_seconds(),
    )
    state = replace(state, drain=drain)
    if not drain.done:
        return state
    if not drain.timed_out:
        return _enter(state, Phase.REMOVING, seen, "nothing runs on it any more, on any Envoy")
    cut = ", ".join(f"{node}: {'unknown' if count < 0 else count}" for node, count in sorted(drain.cut.items()))
    limit = f"{strategy.drain_timeout.total_seconds():g} s"
    return _enter(state, Phase.REMOVING, seen, f"the drain timeout of {limit} is over; requests still running: {cut or 'none seen'}")


def _removing(strategy: Strategy, state: State, seen: Seen) -> State:
    state = _converging(strategy, state, seen)
    if not _settled(strategy, state, seen):
        return state
    ended = Phase.COMPLETED if state.loser is Role.STABLE else Phase.ROLLED_BACK
    return _enter(state, ended, seen, state.reason)


def _ended(_strategy: Strategy, state: State, _seen: Seen) -> State:
    return state


_STEPS: Mapping[Phase, Callable[[Strategy, State, Seen], State]] = MappingProxyType({
    Phase.PENDING: _pending,
    Phase.WARMING: _warming,
    Phase.SHIFTING: _shifting,
    Phase.PAUSED: _paused,
    Phase.RETAINING: _retaining,
    Phase.ROLLING_BACK: _rolling_back,
    Phase.DRAINING: _draining,
    Phase.REMOVING: _removing,
    Phase.COMPLETED: _ended,
    Phase.ROLLED_BACK: _ended,
})


def _obey(strategy: Strategy, state: State, seen: Seen, command: Command) -> State:
    who = seen.by or "an operator"
    going_forward = state.phase in (Phase.WARMING, Phase.SHIFTING, Phase.PAUSED)
    match command:
        case Command.ABORT if going_forward or state.phase in (Phase.PENDING, Phase.RETAINING):
            return _roll_back(state, seen, f"aborted by {who}")
        case Command.ABORT if state.phase is Phase.ROLLING_BACK or state.loser is Role.CANDIDATE:
            return state
        case Command.PAUSE if state.phase is Phase.PAUSED:
            return state
        case Command.PAUSE if going_forward:
            return _pause(state, seen, f"paused by {who}")
        case Command.RESUME if state.phase is Phase.PAUSED and state.resume is not None:
            return _enter(state, state.resume, seen, f"resumed by {who}")
        case Command.PROMOTE if _stands_at_stage(state):
            return _next_stage(strategy, state, seen, f"promoted by {who}")
        case Command.PROMOTE_FULL if _stands_at_stage(state):
            last = len(strategy.stages) - 1
            if state.stage == last:
                return _next_stage(strategy, state, seen, f"promoted by {who}")
            return _to_stage(strategy, state, seen, last, f"promoted to 100 % by {who}")
        case _:
            word = command.replace("_", " ")
            raise Conflict(f"cannot {word} a rollout that is {state.phase.replace('_', ' ')}{_remedy(state)}")


def _stands_at_stage(state: State) -> bool:
    return state.phase is Phase.SHIFTING or (state.phase is Phase.PAUSED and state.resume is Phase.SHIFTING)


def _remedy(state: State) -> str:
    if state.loser is Role.STABLE:
        return "; its old version is being let go: deploy that version again to go back"
    if state.phase is Phase.PAUSED or state.phase is Phase.WARMING:
        return "; the candidate has had no traffic yet"
    return ""


def _judged(strategy: Strategy, state: State, seen: Seen) -> State:
    """Judge a look that was not judged yet."""
    if seen.look is None or seen.looked_s <= state.looked_s:
        return state
    evidence, verdict = judge(strategy.gate, state.evidence, seen.look)
    return replace(state, evidence=evidence, verdict=verdict, looked_s=seen.looked_s)


def _to_stage(strategy: Strategy, state: State, seen: Seen, stage: int, reason: str) -> State:
    evidence = state.evidence.renew() if state.phase in (Phase.SHIFTING, Phase.PAUSED) else state.evidence
    following = _enter(state, Phase.SHIFTING, seen, reason)
    return replace(following, stage=stage, evidence=evidence, verdict=None, looked_s=max(state.looked_s, seen.looked_s))


def _next_stage(strategy: Strategy, state: State, seen: Seen, reason: str) -> State:
    if state.stage + 1 < len(strategy.stages):
        return _to_stage(strategy, state, seen, state.stage + 1, reason)
    return replace(_enter(state, Phase.RETAINING, seen, reason), loser=Role.STABLE)


def _pause(state: State, seen: Seen, reason: str) -> State:
    resume = state.resume if state.phase is Phase.PAUSED else state.phase
    return replace(_enter(state, Phase.PAUSED, seen, reason), resume=resume)


def _roll_back(state: State, seen: Seen, reason: str) -> State:
    return replace(_enter(state, Phase.ROLLING_BACK, seen, reason), loser=Role.CANDIDATE)


def _to_drain(state: State, seen: Seen) -> State:
    return replace(_enter(state, Phase.DRAINING, seen, state.reason), drain=Drain(seen.now_s))


def _refusal(seen: Seen) -> str:
    return "; ".join(f"{node} {why}" for node, why in sorted(seen.refused.items()))


def _waiting_for(seen: Seen) -> str:
    if not seen.connected:
        return "no Envoy is connected"
    reasons = [f"{node} {why}" for node, why in sorted(seen.lagging.items())] or list(seen.unready)
    return "; ".join(reasons[:3]) + (f" and {len(reasons) - 3} more" if len(reasons) > 3 else "")


def _undecided(state: State) -> str:
    return state.verdict.reason if state.verdict is not None else "no request was seen"


def _percent(basis_points: int) -> str:
    return f"{basis_points / 100:g} %"
