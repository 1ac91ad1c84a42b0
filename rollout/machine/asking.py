"""Hooks: which are wanted in a state, and what their answers mean for it."""

from collections.abc import Iterator
from dataclasses import replace
from typing import NamedTuple

from rollout.exposure import FULL_BP
from rollout.hooks import Answer, Call, HookKind, at
from rollout.machine.planned import behind, plan_of, stages_of
from rollout.spec import Strategy
from rollout.state import Awaited, Phase, Seen, State

_LATER = (HookKind.TERMINATE, HookKind.POST_ROLLOUT)


class Asked(NamedTuple):
    """A state with what hooks have said: `waiting` for whom, "" when all agree; `refused`: one that will not."""

    state: State
    waiting: str = ""
    refused: str = ""


def calls(strategy: Strategy, state: State) -> tuple[Call, ...]:
    """Return the hooks that are wanted now; one that has agreed already, and is not asked again, is not."""
    return tuple(call for call in _wanted(strategy, state) if call.key not in state.called)


def _wanted(strategy: Strategy, state: State) -> Iterator[Call]:
    if behind(state) in (Phase.WARMING, Phase.SHIFTING):
        yield from _each(strategy, HookKind.ROLLBACK)
    match state.phase:
        case Phase.PENDING if state.awaited is Awaited.HOOK:
            confirming = tuple(_each(strategy, HookKind.CONFIRM_ROLLOUT))
            open_ones = [call for call in confirming if call.key not in state.called]
            yield from open_ones or _each(strategy, HookKind.PROVISION)
        case Phase.WARMING if state.awaited is Awaited.HOOK:
            before = tuple(_each(strategy, HookKind.PRE_ROLLOUT))
            open_ones = [call for call in before if call.key not in state.called]
            yield from open_ones or going_up(strategy, state, 0)
        case Phase.SHIFTING:
            yield from _each(strategy, HookKind.ROLLOUT)
            if state.awaited is Awaited.HOOK:
                yield from going_up(strategy, state, state.stage + 1)
        case Phase.REMOVING if state.awaited is Awaited.HOOK:
            ending = (tuple(_each(strategy, kind)) for kind in _LATER)
            yield from next((each for each in ending if any(call.key not in state.called for call in each)), ())
        case _:
            pass


def _each(strategy: Strategy, kind: HookKind, occasion: str = "") -> Iterator[Call]:
    return (Call(number, occasion) for number in at(strategy.hooks, kind))


def going_up(strategy: Strategy, state: State, stage: int) -> Iterator[Call]:
    """Yield who must agree before a stage of the plan begins; no stage is behind the last."""
    # In waves this is asked of the whole rollout before the first one only.
    following = stages_of(strategy, 0) if strategy.waves else plan_of(strategy, state)
    if stage < len(following):
        yield from _each(strategy, HookKind.CONFIRM_TRAFFIC_INCREASE, str(stage))
        if following[stage].weight_bp == FULL_BP:
            yield from _each(strategy, HookKind.CONFIRM_PROMOTION)


def asked(strategy: Strategy, state: State, seen: Seen, *wanted: Call) -> Asked:
    """Take in what these hooks have said. One that has not said anything yet is waited for."""
    waiting = refused = ""
    for call in wanted:
        answer = seen.answers.get(call.key)
        if call.key in state.called:
            continue
        if answer is not None and answer.agreed:
            state = _agreed(strategy, state, call)
        else:
            words = _words(strategy, call, answer)
            waiting = waiting or words
            refused = refused or (words if answer is not None else "")
            state = _perhaps_done(strategy, state, call)
    return Asked(state, waiting, refused)


def told(strategy: Strategy, state: State, seen: Seen, *wanted: Call) -> Asked:
    """Take in what hooks have said that hold nothing up: who refuses is named in the reason, and not waited for."""
    for call in wanted:
        answer = seen.answers.get(call.key)
        if answer is not None and not answer.agreed and call.key not in state.called:
            reason = f"{state.reason}; {_words(strategy, call, answer)}"
            state = replace(state, reason=reason, called=state.called | {call.key})
    return asked(strategy, state, seen, *wanted)


def under_way(strategy: Strategy, state: State, kind: HookKind) -> bool:
    """Say whether hooks of a kind may have been called, and have not all agreed: they are not to be cut off."""
    return any(strategy.hooks[call.number].at is kind for call in calls(strategy, state))


def irrevocable(strategy: Strategy, state: State, seen: Seen) -> State:
    """Take in who has agreed and cannot be undone: before all else, for a way back rests on it."""
    for call in calls(strategy, state):
        answer = seen.answers.get(call.key)
        if answer is not None and answer.agreed and not strategy.hooks[call.number].reversible:
            state = _agreed(strategy, state, call)
    return state


def of_kind(strategy: Strategy, *kinds: HookKind) -> tuple[Call, ...]:
    """Return the calls of hooks that are called once in a rollout."""
    return tuple(call for kind in kinds for call in _each(strategy, kind))


def refusing(strategy: Strategy, seen: Seen) -> str:
    """Say which `rollout` hook does not agree, "" when none."""
    refused = (_refusal(strategy, seen, call) for call in _each(strategy, HookKind.ROLLOUT))
    return next(filter(None, refused), "")


def unheard(strategy: Strategy, seen: Seen) -> str:
    """Say which `rollout` hook has not said anything yet, "" when all have."""
    silent = (call for call in _each(strategy, HookKind.ROLLOUT) if call.key not in seen.answers)
    return next((_words(strategy, call, None) for call in silent), "")


def demanding(strategy: Strategy, seen: Seen) -> str:
    """Say which `rollback` hook asks to go back, "" when none."""
    for call in _each(strategy, HookKind.ROLLBACK):
        answer = seen.answers.get(call.key)
        if answer is not None and answer.agreed:
            return f"the rollback hook '{strategy.hooks[call.number].label}' asks for it"
    return ""


def _refusal(strategy: Strategy, seen: Seen, call: Call) -> str:
    answer = seen.answers.get(call.key)
    return "" if answer is None or answer.agreed else _words(strategy, call, answer)


def _agreed(strategy: Strategy, state: State, call: Call) -> State:
    hook = strategy.hooks[call.number]
    return replace(state, called=state.called | {call.key}, point=state.point if hook.reversible else hook.label)


def _perhaps_done(strategy: Strategy, state: State, call: Call) -> State:
    """Who is called may do its work, and never come to say so."""
    hook = strategy.hooks[call.number]
    return state if hook.reversible or hook.asked_again else replace(state, point=hook.label)


def _words(strategy: Strategy, call: Call, answer: Answer | None) -> str:
    hook = strategy.hooks[call.number]
    said = "has not answered yet" if answer is None else answer.words or "does not agree"
    return f"the {hook.at} hook '{hook.label}': {said}"
