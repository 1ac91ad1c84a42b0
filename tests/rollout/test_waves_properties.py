"""Rollouts in waves under random faults and commands: what always holds, and that each ends."""

import contextlib

from hypothesis import given, settings
from hypothesis import strategies as st

from rollout.errors import Conflict
from rollout.machine import by_location, in_waves
from rollout.record import dump_seen, dump_state, load_seen, load_state
from rollout.state import ENDED, Command, Phase, Role, State
from tests.rollout.fleet import Fleet, Site, fleet, locations, summary

NAMES = locations(5)
COMMANDS = st.sampled_from(list(Command))
FAULTS = st.sampled_from(["errors", "slow", "away", "refuses", "heals", "joins"])
WHERE = st.sampled_from(NAMES)
EVENTS = st.lists(
    st.tuples(
        st.integers(1, 25), st.one_of(st.tuples(FAULTS, WHERE), st.tuples(COMMANDS, st.one_of(WHERE, st.just(""))))
    ),
    max_size=12,
)


def inject(world: Fleet, fault: str, name: str) -> None:
    site = world.sites[name]
    match fault:
        case "errors":
            site.errors = 0.5
        case "slow":
            site.slow_s = 3.0
        case "away":
            site.away = True
        case "refuses":
            site.refuses = True
        case "joins":
            world.sites.setdefault(f"new/{name}", Site())
        case _:
            world.sites[name] = Site(has_bp=site.has_bp, offered_bp=site.offered_bp, looked_s=site.looked_s)


def check(world: Fleet, before: State) -> None:
    state = world.state
    assert load_state(dump_state(state)) == state
    if in_waves(world.strategy, state):
        assert by_location(state).keys() <= state.lanes.keys()
        assert world.served.candidate_bp == 0
    else:
        assert not state.lanes
        assert not world.served.by_location
    if state.phase is Phase.ROLLING_BACK and before.phase is not Phase.ROLLING_BACK:
        assert (world.served.candidate_bp, world.served.by_location) == (0, {})
    seen = world.steps[-1][1] if world.steps else None
    assert seen is None or load_seen(dump_seen(seen)) == seen
    gone_back = {name for name, lane in before.lanes.items() if lane.loser is Role.CANDIDATE}
    if seen is not None and seen.command is None:
        assert not by_location(state).keys() & gone_back or not in_waves(world.strategy, state)
        assert state.phase is not Phase.RETAINING or not gone_back, summary(before)
    for name, lane in state.lanes.items():
        known = before.lanes.get(name)
        rises = known is not None and lane.stage > known.stage and lane.phase is Phase.SHIFTING
        if rises and seen is not None and seen.command is None:
            assert lane.passed is not None, summary(state)
            assert not seen.places[name].lagging


def step(world: Fleet, command: Command | None = None, location: str = "") -> None:
    before = world.state
    with contextlib.suppress(Conflict):
        world.step(0.2, command, location)
    check(world, before)


@settings(max_examples=40, deadline=None)
@given(EVENTS, st.sampled_from(["all", "location"]), st.sampled_from([Command.ABORT, Command.RESUME]))
def test_weights_follow_verdicts_and_every_rollout_can_be_brought_to_an_end(
    events: list[tuple[int, tuple[str, str]]], on_failure: str, ending: Command
) -> None:
    waves = [{"locations": ["eu-1"]}, {"locations": "40%"}, {"locations": "all"}]
    world = fleet(len(NAMES), waves=waves, on_failure=on_failure)
    for ticks, (what, where) in events:
        for _ in range(ticks):
            step(world)
        if what in list(Command):
            step(world, Command(what), where)
        else:
            inject(world, what, where)
    for name in tuple(world.sites):
        inject(world, "heals", name)
    if ending is Command.ABORT:
        with contextlib.suppress(Conflict):
            world.step(0.2, Command.ABORT)
    for number in range(1200):
        if world.state.phase in ENDED:
            return
        step(world, ending if number % 40 == 0 and world.state.phase is Phase.PAUSED else None)
    raise AssertionError(summary(world.state))
