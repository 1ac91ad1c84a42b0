"""One step of a rollout's life.

Level-triggered: what should be served follows from the state, and is asked for until it is seen. An equal
observation changes nothing twice, a lost effect is asked for again.
"""

from rollout.gate import Fail
from rollout.machine.orders import obey
from rollout.machine.phases import failed, step
from rollout.machine.planned import behind, loser_of, wanted
from rollout.machine.seeing import converging, judged
from rollout.spec import Strategy
from rollout.state import ENDED, TRANSITIONS, Command, Effect, LetGo, Phase, Retire, Seen, Serve, State

_GOING_BACK = (Command.ABORT, Command.REJECT)


def advance(strategy: Strategy, state: State, seen: Seen) -> tuple[State, tuple[Effect, ...]]:
    """Return the next state and what to do for it. Raises Conflict for a command that the phase does not allow."""
    known = judged(strategy, converging(strategy, state, seen), seen)
    fails = behind(known) is Phase.SHIFTING and isinstance(known.verdict, Fail) and seen.command not in _GOING_BACK
    if fails and isinstance(known.verdict, Fail) and not (known.point and seen.command):
        # From a pause, too, which stops going forward only; and whatever else is asked for in this moment.
        following = failed(strategy, known, seen, known.verdict)
    elif seen.command is None:
        following = step(strategy, known, seen)
    else:
        following = obey(strategy, known, seen, seen.command)
    assert following.phase is state.phase or following.phase in TRANSITIONS[state.phase], (state, following)
    following = converging(strategy, following, seen)
    return following, effects(strategy, following, seen)


def effects(strategy: Strategy, state: State, seen: Seen) -> tuple[Effect, ...]:
    """Return what the state asks for and the observation does not show."""
    split = wanted(strategy, state)
    if seen.served != split:
        return (Serve(split),)
    if state.phase in ENDED and not seen.retired:
        return (Retire(loser_of(state)),)
    if state.let_go and state.loser is None and state.let_go not in seen.leaving:
        return (LetGo(state.let_go),)
    return ()
