"""One step of what moves by itself: a rollout without waves, or one location of a wave."""

from rollout.gate import Fail
from rollout.machine.asking import irrevocable
from rollout.machine.orders import obey
from rollout.machine.phases import failed, step
from rollout.machine.planned import behind
from rollout.machine.seeing import converging, judged
from rollout.spec import Strategy
from rollout.state import TRANSITIONS, Command, Phase, Seen, State

_GOING_BACK = (Command.ABORT, Command.REJECT)


def moved(strategy: Strategy, state: State, seen: Seen) -> State:
    """Return the next state. Raises Conflict for a command that the phase does not allow."""
    known = judged(strategy, converging(strategy, irrevocable(strategy, state, seen), seen), seen)
    fails = behind(known) is Phase.SHIFTING and isinstance(known.verdict, Fail) and seen.command not in _GOING_BACK
    if fails and isinstance(known.verdict, Fail) and not (known.point and seen.command):
        # From a pause, too, which stops going forward only; and whatever else is asked for in this moment.
        following = failed(strategy, known, seen, known.verdict)
    elif seen.command is None:
        following = step(strategy, known, seen)
    else:
        following = obey(strategy, known, seen, seen.command)
    assert following.phase is state.phase or following.phase in TRANSITIONS[state.phase], (state, following)
    return converging(strategy, following, seen)
