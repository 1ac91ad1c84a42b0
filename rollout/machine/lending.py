"""What a lane is lent of its rollout, and gives back: hooks that were called, and the backend that is let go.

A hook that is called at a stage is called once for each wave: its occasion is "wave.stage", in a lane only "stage".
"""

from collections.abc import Iterator
from dataclasses import replace

from rollout.exposure import FULL_BP
from rollout.hooks import Call, HookKind, at
from rollout.machine.planned import stages_of
from rollout.spec import Strategy
from rollout.state import State


def lent(state: State, lane: State) -> State:
    """Return a lane as its own step needs it."""
    called = frozenset(in_lane(key, lane.wave) for key in state.called)
    return replace(lane, called=called, point=state.point, let_go=state.let_go)


def kept(lane: State) -> State:
    """Return a lane without what it was lent: that is its rollout's, and is saved once."""
    return replace(lane, called=frozenset(), point="", let_go="")


def called_in(lane: State) -> frozenset[str]:
    """Return the keys of the hooks that a lane has called, as its rollout knows them."""
    return frozenset(_of_wave(key, lane.wave) for key in lane.called)


def in_lane(key: str, wave: int) -> str:
    """Return a call's key as a lane of this wave knows it."""
    number, _, occasion = key.partition("/")
    mine = f"{wave}."
    return f"{number}/{occasion.removeprefix(mine)}" if occasion.startswith(mine) else key


def of_wave(call: Call, wave: int) -> Call:
    """Return a lane's call as its rollout makes it."""
    return Call(call.number, f"{wave}.{call.occasion}") if call.occasion else call


def calls_into(strategy: Strategy, wave: int) -> Iterator[Call]:
    """Yield who must agree before a wave begins."""
    yield from (Call(number, f"{wave}.0") for number in at(strategy.hooks, HookKind.CONFIRM_TRAFFIC_INCREASE))
    if stages_of(strategy, wave)[0].weight_bp == FULL_BP:
        yield from (Call(number) for number in at(strategy.hooks, HookKind.CONFIRM_PROMOTION))


def _of_wave(key: str, wave: int) -> str:
    number, _, occasion = key.partition("/")
    return f"{number}/{wave}.{occasion}" if occasion and "." not in occasion else key
