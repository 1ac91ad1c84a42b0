"""One step of a rollout's life.

Level-triggered: what should be served follows from the state, and is asked for until it is seen. An equal
observation changes nothing twice, a lost effect is asked for again.
"""

from rollout.errors import Conflict
from rollout.machine import alone
from rollout.machine.lanes import stepped
from rollout.machine.planned import in_waves, loser_of, wanted
from rollout.machine.seeing import converging
from rollout.machine.wave_orders import obeyed
from rollout.spec import Strategy
from rollout.state import ENDED, TRANSITIONS, Effect, LetGo, Retire, Seen, Serve, State


def advance(strategy: Strategy, state: State, seen: Seen) -> tuple[State, tuple[Effect, ...]]:
    """Return the next state and what to do for it. Raises Conflict for a command that the phase does not allow."""
    if in_waves(strategy, state):
        following = _in_waves(strategy, converging(strategy, state, seen), seen)
    elif seen.location:
        raise Conflict(f"no location moves by itself now, so nothing can be done for '{seen.location}' alone")
    else:
        following = alone.moved(strategy, state, seen)
    return following, effects(strategy, following, seen)


def _in_waves(strategy: Strategy, state: State, seen: Seen) -> State:
    following = stepped(strategy, state, seen) if seen.command is None else obeyed(strategy, state, seen, seen.command)
    assert following.phase is state.phase or following.phase in TRANSITIONS[state.phase], (state, following)
    return converging(strategy, following, seen)


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
