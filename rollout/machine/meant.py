"""Which stage an operator means: what is asked for twice must not go on by two stages."""

from rollout.errors import Conflict
from rollout.machine.lanes import undone
from rollout.machine.planned import behind, in_waves, plan_of
from rollout.spec import Strategy
from rollout.state import Phase, State
from rollout.waves import is_in, words


def check_stage(strategy: Strategy, state: State, location: str, stage: int) -> None:
    """Raise Conflict when the rollout, or one of the locations that are meant, is in another stage than this.

    What is in no stage at all is left to the command itself.
    """
    if behind(state) is not Phase.SHIFTING:
        return
    if not in_waves(strategy, state):
        if state.stage != stage:
            raise Conflict(f"{_where('the rollout', state, len(plan_of(strategy, state)))}{_not(stage)}")
        return
    open_ones = {name: lane for name, lane in undone(state).items() if not location or is_in(name, location)}
    if not open_ones:
        raise Conflict(f"no location that is meant is in a stage now{_not(stage)}")
    for name, lane in sorted(open_ones.items()):
        if lane.stage != stage:
            raise Conflict(f"{_where(words(name), lane, len(lane.plan))}{_not(stage)}")


def _where(who: str, state: State, stages: int) -> str:
    return f"{who} is in stage {state.stage + 1} of {stages} now"


def _not(stage: int) -> str:
    return f", and this is for stage {stage + 1}; look again, and ask anew if it is still what you want"
