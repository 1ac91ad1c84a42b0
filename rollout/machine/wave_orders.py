"""What an operator may ask of a rollout in waves: of all locations of the wave, or of one."""

from collections.abc import Collection
from dataclasses import replace

from rollout.errors import Conflict
from rollout.machine.lanes import (
    again,
    begun,
    everywhere,
    following_wave,
    gone_back,
    step_of_lane,
    stopped_for,
    summed_up,
    undone,
    with_lanes,
)
from rollout.machine.moves import enter
from rollout.machine.orders import obey
from rollout.spec import Strategy
from rollout.state import Awaited, Command, Phase, Role, Seen, State
from rollout.waves import is_in, words

_BACK = (Command.ABORT, Command.REJECT)
_ON = (Command.RESUME, Command.PROMOTE, Command.PROMOTE_FULL, Command.SKIP_STAGE)


def obeyed(strategy: Strategy, state: State, seen: Seen, command: Command) -> State:
    """Return what follows from a command. Raises Conflict for one that no location it is for allows."""
    if seen.location:
        return _each(strategy, state, seen, _named(state, seen.location))
    if command in _BACK:
        return replace(obey(strategy, state, seen, command), lanes={})
    open_ones = undone(state)
    failed = gone_back(state)
    asked_about = state.phase is Phase.PAUSED and state.awaited is not Awaited.OPERATOR
    if not open_ones and command is Command.RESUME and failed and asked_about:
        return _each(strategy, state, seen, failed)
    return _each(strategy, state, seen, open_ones) if open_ones else _between_waves(strategy, state, seen, command)


def _named(state: State, name: str) -> tuple[str, ...]:
    found = tuple(location for location in state.lanes if is_in(location, name))
    if not found:
        known = ", ".join(sorted(map(words, state.lanes))[:20]) or "none yet"
        raise Conflict(f"no location '{name}' is in a wave of this rollout that has begun; there are {known}")
    return found


def _each(strategy: Strategy, state: State, seen: Seen, locations: Collection[str]) -> State:
    following, refused = dict(state.lanes), []
    for location in sorted(locations):
        try:
            following[location] = _one(strategy, state, location, seen)
        except Conflict as error:
            refused.append(f"{words(location)}: {error}")
    if len(refused) == len(locations):
        raise Conflict("; ".join(refused[:3]) + (f"; and {len(refused) - 3} more" if len(refused) > 3 else ""))
    return summed_up(strategy, with_lanes(state, following, seen), seen)


def _one(strategy: Strategy, state: State, location: str, seen: Seen) -> State:
    lane = state.lanes[location]
    if lane.loser is not Role.CANDIDATE or seen.command in _BACK:
        return step_of_lane(strategy, state, location, seen)
    if seen.command is Command.RESUME and location in gone_back(state):
        return again(lane, seen, f"tried again by {_who(seen)}")
    when = "" if location in gone_back(state) else " once its Envoys have that"
    raise Conflict(f"it went back, and `rollout resume --location '{words(location)}'` tries it again{when}")


def _between_waves(strategy: Strategy, state: State, seen: Seen, command: Command) -> State:
    """No location moves: a hook, a freeze or somebody is waited for, or the next wave has nobody."""
    number, found = following_wave(strategy, state, seen.locations)
    if command is Command.PAUSE:
        return stopped_for(state, seen, Awaited.OPERATOR, f"paused by {_who(seen)}")
    if command is Command.RESUME and state.awaited is Awaited.OPERATOR:
        return enter(state, Phase.SHIFTING, seen, f"resumed by {_who(seen)}")
    if command not in _ON:
        raise Conflict(f"cannot {command.replace('_', ' ')} a rollout between two waves")
    if found:
        return begun(strategy, state, seen, number, found)
    if number > state.wave:
        return replace(
            enter(state, Phase.SHIFTING, seen, f"wave {number + 1} was left out by {_who(seen)}"), wave=number
        )
    return everywhere(state, seen, f"promoted to every location by {_who(seen)}")


def _who(seen: Seen) -> str:
    return seen.by or "an operator"
