"""A rollout in waves: locations that go their own way, and the rollout that they are together."""

from dataclasses import replace
from datetime import UTC, datetime

import pytest

from rollout.errors import Conflict
from rollout.hooks import Answer
from rollout.machine import calls, strategy_of, weight_bp
from rollout.record import (
    JournalEntry,
    dump_seen,
    dump_state,
    dump_step,
    dump_strategy,
    load_seen,
    load_state,
    load_strategy,
)
from rollout.replay import replay
from rollout.state import Awaited, Command, Phase, Role, start
from tests.rollout.fleet import GATE, Fleet, Site, fleet, phases

BOTH = frozenset(Role)
EU, US = "eu/eu-1", "us/us-1"


def at_wave(world: Fleet, number: int) -> Fleet:
    world.until(lambda state: state.wave == number and bool(state.lanes))
    return world


def test_waves_come_one_after_the_other_and_take_in_all_locations() -> None:
    world = fleet(20)
    at_wave(world, 0)
    assert set(world.state.lanes) == {EU}
    at_wave(world, 1)
    assert world.state.lanes[EU].phase is Phase.RETAINING
    assert len(world.state.lanes) == 2  # 10 % of 19, at least one
    at_wave(world, 2)
    assert len(world.state.lanes) == 20
    world.in_phase(Phase.COMPLETED)


def test_only_locations_in_a_wave_have_a_weight_and_the_end_is_the_same_everywhere() -> None:
    world = fleet(8)
    at_wave(world, 0)
    world.step()
    assert world.served.by_location == {EU: 1000}
    assert world.served.candidate_bp == weight_bp(world.strategy, world.state) == 0
    world.in_phase(Phase.RETAINING)
    assert world.served_before[-1].by_location == dict.fromkeys(world.sites, 10_000)
    assert (world.served.candidate_bp, world.served.by_location) == (10_000, {})


def test_no_weight_rises_before_its_location_has_the_one_before_and_a_pass() -> None:
    world = fleet(12)
    world.in_phase(Phase.COMPLETED)
    before = world.steps[0][0]
    for state, seen in world.steps:
        for name, lane in state.lanes.items():
            known = before.lanes.get(name)
            if known is not None and (known.phase, known.stage) != (lane.phase, lane.stage):
                assert not seen.places[name].lagging
                assert seen.served is not None
                assert seen.served.by_location[name] == known.plan[known.stage].weight_bp
                verdict = lane.passed or lane.verdict
                assert verdict is not None
                assert verdict.name == "pass"
        before = state


def test_a_wave_has_stages_of_its_own() -> None:
    waves = [{"locations": ["eu-1"], "stages": ["5%", "50%", "100%"]}, {"locations": "all"}]
    world = at_wave(fleet(4, waves=waves), 0)
    assert [step.weight_bp for step in world.state.lanes[EU].plan] == [500, 5000, 10_000]
    at_wave(world, 1)
    assert [step.weight_bp for step in world.state.lanes[US].plan] == [1000, 10_000]


def test_stages_are_planned_by_the_traffic_of_the_location() -> None:
    world = fleet(4, gate={"warmup": "0s", "min_rps": 5})
    world.rate_rps = 100.0  # 25 requests/s in each of four locations
    at_wave(world, 0)
    assert world.state.lanes[EU].plan[0].weight_bp == 2000


def test_locations_share_the_chance_of_a_false_alarm() -> None:
    world = at_wave(fleet(200), 2)
    lanes = world.state.lanes.values()
    gates = [strategy_of(world.strategy, lane).gate for lane in lanes]
    assert sum(gate.alpha for gate in gates) == pytest.approx(world.strategy.gate.alpha)
    assert sum(gate.hang_alarms for gate in gates) == pytest.approx(world.strategy.gate.hang_alarms)


def test_a_location_that_fails_takes_back_everything() -> None:
    world = at_wave(fleet(20), 1)
    other = next(name for name in world.state.lanes if name != EU)
    world.sites[other].errors = 0.5
    world.in_phase(Phase.ROLLING_BACK)
    assert world.state.reason.startswith(f"{other}: ")
    assert world.state.lanes == {}
    assert (world.served.candidate_bp, world.served.by_location) == (0, {})
    world.in_phase(Phase.ROLLED_BACK)


def failed_at_the_end() -> Fleet:
    world = fleet(8, on_failure="location", waves=[{"locations": ["eu-1"]}, {"locations": "all"}])
    world.sites["us/us-2"].errors = 0.5
    world.in_phase(Phase.PAUSED)
    return world


def test_a_location_that_fails_takes_back_itself_and_the_others_go_on() -> None:
    world = failed_at_the_end()
    assert phases(world.state)["us/us-2"] is Phase.ROLLED_BACK
    assert list(phases(world.state).values()).count(Phase.RETAINING) == 7
    assert world.served.by_location == dict.fromkeys(world.sites.keys() - {"us/us-2"}, 10_000)
    assert world.state.reason.startswith("went back: us/us-2: ")
    assert world.state.awaited is Awaited.DECISION


def test_resume_tries_those_again_that_went_back() -> None:
    world = failed_at_the_end()
    world.sites["us/us-2"].errors = 0.0
    assert world.step(command=Command.RESUME).lanes["us/us-2"].stage == 0
    world.in_phase(Phase.COMPLETED)


def test_promote_goes_everywhere_though_one_went_back() -> None:
    world = failed_at_the_end()
    assert world.step(command=Command.PROMOTE).phase is Phase.RETAINING
    assert (world.served.candidate_bp, world.served.by_location) == (10_000, {})


def test_abort_takes_back_all_in_one_push() -> None:
    world = failed_at_the_end()
    pushes = len(world.served_before)
    assert world.step(command=Command.ABORT).phase is Phase.ROLLING_BACK
    assert (world.served.candidate_bp, world.served.by_location, world.served.present) == (0, {}, BOTH)
    assert len(world.served_before) == pushes + 1


def test_after_a_wave_in_which_all_went_back_comes_none() -> None:
    world = fleet(8, on_failure="location")
    world.sites[EU].errors = 0.5
    world.in_phase(Phase.PAUSED)
    assert (world.state.wave, set(world.state.lanes)) == (0, {EU})
    assert "promote begins the next wave" in world.state.reason
    assert world.step(command=Command.PROMOTE).wave == 1


def test_a_wave_of_names_that_no_location_has_asks() -> None:
    world = fleet(4, waves=[{"locations": ["mars-1"]}, {"locations": "all"}])
    world.in_phase(Phase.PAUSED)
    assert world.state.reason == "wave 1 has no Envoy: none is in mars-1; resume goes on without it"
    world.step(command=Command.RESUME)
    at_wave(world, 1)
    world.in_phase(Phase.COMPLETED)


def test_a_wave_that_waits_for_a_location_begins_when_it_comes() -> None:
    world = fleet(4, waves=[{"locations": ["mars-1"]}, {"locations": "all"}])
    world.in_phase(Phase.PAUSED)
    world.sites["space/mars-1"] = Site()
    world.step()
    assert (world.state.phase, set(world.state.lanes)) == (Phase.SHIFTING, {"space/mars-1"})


def test_a_location_that_comes_in_the_last_wave_joins_it() -> None:
    world = at_wave(fleet(4), 2)
    world.sites["eu/eu-9"] = Site()
    world.step()
    assert world.state.lanes["eu/eu-9"].stage == 0
    world.in_phase(Phase.COMPLETED)
    assert "eu/eu-9" in {name for state, _ in world.steps for name in state.lanes}


def test_a_location_that_is_gone_is_not_waited_for() -> None:
    world = at_wave(fleet(8), 2)
    world.sites[US].away = True
    world.in_phase(Phase.COMPLETED)
    assert world.state.reason == "the candidate has passed in every location but us/us-1: no Envoy is there"
    assert {name for state, _ in world.steps for name, lane in state.lanes.items() if lane.waiting} == {US}


def test_a_location_that_comes_back_goes_on_where_it_was() -> None:
    world = at_wave(fleet(8), 2)
    world.until(lambda state: state.lanes[US].stage == 1)
    world.sites[US].away = True
    world.until(lambda state: bool(state.lanes[US].waiting))
    world.sites[US].away = False
    lane = world.step().lanes[US]
    assert (lane.stage, lane.phase, lane.since_s, lane.waiting) == (1, Phase.SHIFTING, world.now_s, "")
    world.in_phase(Phase.COMPLETED)


def test_nothing_begins_or_ends_while_no_envoy_is_on_the_line() -> None:
    world = at_wave(fleet(8), 1)
    for site in world.sites.values():
        site.away = True
    before = world.state
    for _ in range(100):
        world.step()
    assert phases(world.state) == phases(before)
    assert world.state.wave == 1


def test_a_location_that_lags_holds_up_itself_alone() -> None:
    world = fleet(8, waves=[{"locations": "all"}])
    world.sites[US].slow_s = 4.0
    at_wave(world, 0)
    world.until(lambda state: state.lanes[EU].phase is Phase.RETAINING)
    assert world.state.lanes[US].stage == 0
    world.in_phase(Phase.COMPLETED)


def test_a_nack_pauses_its_location_and_the_rollout_when_none_moves() -> None:
    world = fleet(4, waves=[{"locations": "all"}])
    world.sites[US].refuses = True
    at_wave(world, 0)
    world.until(lambda state: state.lanes[US].phase is Phase.PAUSED)
    assert world.state.phase is Phase.SHIFTING
    world.in_phase(Phase.PAUSED)
    assert world.state.reason == "us/us-1: us/us-1 refused it: no"
    world.sites[US].refuses = False
    world.step(command=Command.RESUME)
    world.in_phase(Phase.COMPLETED)


def test_a_location_that_is_paused_still_fails() -> None:
    world = at_wave(fleet(8), 0)
    world.step(2.0)
    world.step(command=Command.PAUSE)
    assert world.state.phase is Phase.PAUSED
    assert world.state.awaited is Awaited.OPERATOR
    world.sites[EU].errors = 0.5
    world.in_phase(Phase.ROLLED_BACK)


def test_commands_are_for_all_locations_of_the_wave_or_for_one() -> None:
    world = fleet(8, waves=[{"locations": "all"}])
    at_wave(world, 0)
    world.step(command=Command.PROMOTE, location="us-1")
    assert {name for name, lane in world.state.lanes.items() if lane.stage == 1} == {US}
    world.step(command=Command.PAUSE, location="eu")
    assert {name for name, lane in world.state.lanes.items() if lane.phase is Phase.PAUSED} == {EU, "eu/eu-2"}
    assert world.state.phase is Phase.SHIFTING
    assert world.step(command=Command.PAUSE).phase is Phase.PAUSED
    assert world.step(command=Command.RESUME, location="eu-2").phase is Phase.SHIFTING
    world.step(command=Command.ABORT, location="sa-1")
    assert world.state.lanes["sa/sa-1"].phase is Phase.ROLLING_BACK
    assert world.state.lanes[US].phase is Phase.PAUSED
    world.step(command=Command.RESUME)
    world.until(lambda state: state.phase is Phase.PAUSED)
    assert world.state.reason.startswith("went back: sa/sa-1: aborted by an operator")


@pytest.mark.parametrize("location", ["mars", "us-1"])
def test_a_command_for_a_location_that_is_in_no_wave_yet_is_refused(location: str) -> None:
    world = at_wave(fleet(8), 0)
    with pytest.raises(Conflict, match=f"no location '{location}' is in a wave"):
        world.step(command=Command.PROMOTE, location=location)


def test_a_command_that_no_location_allows_says_why() -> None:
    world = at_wave(fleet(8), 0)
    with pytest.raises(Conflict, match="eu/eu-1: cannot resume a rollout that is shifting; it is not paused"):
        world.step(command=Command.RESUME)


def test_promote_full_goes_to_100_percent_in_the_wave_only() -> None:
    world = at_wave(fleet(8), 0)
    world.step(command=Command.PROMOTE_FULL)
    world.step()
    assert world.served.by_location == {EU: 10_000}


def test_an_approval_is_waited_for_in_each_location() -> None:
    stages = [{"weight": "10%", "hold": "0s", "approve": True}, "100%"]
    world = at_wave(fleet(4, stages=stages, waves=[{"locations": "all"}]), 0)
    world.until(lambda state: state.awaited is Awaited.APPROVAL)
    assert "us/us-1: somebody must approve" in world.state.waiting or "and 1 more" in world.state.waiting
    world.step(command=Command.APPROVE, location="us-1")
    world.until(lambda state: state.lanes[US].stage == 1)
    assert world.state.lanes[EU].stage == 0
    world.step(command=Command.APPROVE)
    world.in_phase(Phase.COMPLETED)


def test_a_freeze_holds_the_next_wave_and_the_next_stage() -> None:
    world = at_wave(fleet(8), 0)
    observe = world.observe
    world.observe = lambda command, location: replace(observe(command, location), frozen="it is Friday")  # type: ignore[method-assign]
    world.until(lambda state: state.awaited is Awaited.THAW)
    assert world.state.waiting == "eu/eu-1: it is Friday"
    for _ in range(50):
        world.step()
    assert world.state.lanes[EU].stage == 0
    world.observe = observe  # type: ignore[method-assign]
    world.in_phase(Phase.COMPLETED)


def test_a_backend_that_is_let_go_is_let_go_in_all_locations() -> None:
    world = fleet(4, waves=[{"locations": "all"}], gate={**GATE, "bad_host": "drain"})
    at_wave(world, 0)
    world.sites[US].bad_host = "10.0.0.7:80"
    world.until(lambda state: bool(state.let_go))
    assert world.state.let_go == "10.0.0.7:80"
    assert {lane.phase for lane in world.state.lanes.values()} == {Phase.SHIFTING}
    assert {lane.let_go for lane in world.state.lanes.values()} == {""}
    assert all(not lane.evidence.hosts for lane in world.state.lanes.values())
    world.sites[US].bad_host = ""
    world.in_phase(Phase.COMPLETED)


def test_hooks_are_called_once_for_a_stage_of_a_wave() -> None:
    hooks = [
        {"at": "confirm-traffic-increase", "name": "rise", "url": "http://127.0.0.1/"},
        {"at": "rollback", "name": "worse", "url": "http://127.0.0.1/"},
    ]
    waves = [{"locations": ["eu-1"]}, {"locations": "all"}]
    world = fleet(4, waves=waves, hooks=hooks)
    asked: list[str] = []
    while world.state.phase is not Phase.COMPLETED:
        wanted = [call.key for call in calls(world.strategy, world.state) if call.number == 0]
        asked += [key for key in wanted if key not in asked]
        world.answers = {key: Answer(True, world.now_s) for key in wanted}
        world.step()
        assert world.now_s < 100
    assert asked == ["0/0", "0/0.1", "0/1.0", "0/1.1"]


def test_a_hook_that_asks_for_it_takes_back_all_locations() -> None:
    world = fleet(4, hooks=[{"at": "rollback", "url": "http://127.0.0.1/"}], on_failure="location")
    at_wave(world, 2)
    assert [call.key for call in calls(world.strategy, world.state)] == ["0"]
    world.answers = {"0": Answer(True, world.now_s)}
    assert world.step().phase is Phase.ROLLING_BACK


def test_states_and_observations_of_200_locations_are_saved_and_replay() -> None:
    world = fleet(200, on_failure="location")
    world.sites["us/us-7"].errors = 0.5
    world.in_phase(Phase.PAUSED)
    world.step(command=Command.PROMOTE)
    world.in_phase(Phase.COMPLETED)
    at = datetime(2026, 1, 1, tzinfo=UTC)
    first = JournalEntry(1, at, start(0.0, "deployed"), None)
    rest = (
        JournalEntry(number, at, load_state(dump_step(state)), load_seen(dump_seen(seen)))
        for number, (state, seen) in enumerate(world.steps, 2)
    )
    replayed = replay(load_strategy(dump_strategy(world.strategy)), (first, *rest))
    assert replayed.difference is None
    assert replayed.looks > 500
    assert replayed.decisions > 400
    moving = next(state for state, _ in world.steps if len(state.lanes) == 200)
    assert load_state(dump_state(moving)) == moving
