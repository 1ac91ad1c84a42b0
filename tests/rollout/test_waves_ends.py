"""Rollouts in waves where locations vanish, hang or are held: what may end, what may not, and who is asked before."""

from dataclasses import replace

import pytest

from rollout.errors import Conflict
from rollout.hooks import Answer
from rollout.machine import calls
from rollout.state import Awaited, Command, Phase, Place, Role, Seen, State
from tests.rollout.fleet import GATE, Fleet, fleet, phases

EU, US = "eu/eu-1", "us/us-1"
ALL = [{"locations": "all"}]
TWO: list[dict[str, object]] = [{"locations": ["eu-1"]}, {"locations": "all"}]
URL = "http://127.0.0.1/"


def seeing(world: Fleet, **others: object) -> Fleet:
    """From now on, this is seen of the whole rollout, too."""
    observe = world.observe
    world.observe = lambda command, location: replace(observe(command, location), **others)  # type: ignore[method-assign, arg-type]
    return world


def seeing_at(world: Fleet, name: str, **others: object) -> Fleet:
    """From now on, this is seen of a location, too."""
    observe = world.observe

    def observed(command: Command | None, location: str) -> Seen:
        seen = observe(command, location)
        place: Place = replace(seen.places.get(name, Place(0)), **others)  # type: ignore[arg-type]
        return replace(seen, places={**seen.places, name: place}) if name in seen.places else seen

    world.observe = observed  # type: ignore[method-assign]
    return world


def test_a_location_that_fails_and_vanishes_does_not_count_as_passed() -> None:
    world = fleet(4, waves=ALL, on_failure="location")
    world.sites[US].errors = 0.5
    world.until(lambda state: US in state.lanes and state.lanes[US].phase is Phase.ROLLING_BACK)
    world.sites[US].away = True
    world.in_phase(Phase.PAUSED, Phase.RETAINING, Phase.COMPLETED)
    assert world.state.phase is Phase.PAUSED
    assert world.state.reason.startswith("went back: us/us-1: ")
    assert world.served.by_location == dict.fromkeys(world.sites.keys() - {US}, 10_000)


def test_after_a_wave_of_one_location_that_fails_and_vanishes_comes_none() -> None:
    world = fleet(4, waves=TWO, on_failure="location")
    world.sites[EU].errors = 0.5
    world.until(lambda state: EU in state.lanes and state.lanes[EU].phase is Phase.ROLLING_BACK)
    world.sites[EU].away = True
    world.until(lambda state: state.phase is Phase.PAUSED or state.wave == 1)
    assert (world.state.phase, world.state.wave) == (Phase.PAUSED, 0)


def test_after_a_wave_whose_envoys_all_vanish_comes_none_unasked() -> None:
    world = fleet(4, waves=TWO)
    world.until(lambda state: EU in state.lanes)
    world.sites[EU].away = True
    world.in_phase(Phase.PAUSED)
    assert world.state.reason == "wave 1 has shown nothing: eu/eu-1: no Envoy is there; resume goes on without it"
    world.sites[EU].away = False
    assert world.step().phase is Phase.SHIFTING
    world.sites[EU].away = True
    world.in_phase(Phase.PAUSED)
    assert world.step(command=Command.RESUME).wave == 1
    world.in_phase(Phase.COMPLETED)


def test_a_location_whose_envoys_all_stay_away_fails_where_that_is_wanted() -> None:
    world = fleet(4, waves=ALL, disconnected="fail")
    world.until(lambda state: US in state.lanes)
    world.sites[US].away = True
    seeing_at(world, US, missing=("us-1",))
    world.in_phase(Phase.ROLLING_BACK)
    assert world.state.reason == "us/us-1: us-1 stayed away for longer than 30 s (disconnected: fail)"


def test_a_rollout_whose_envoys_all_stay_away_fails_where_that_is_wanted() -> None:
    world = fleet(4, waves=ALL, disconnected="fail")
    world.until(lambda state: US in state.lanes)
    for site in world.sites.values():
        site.away = True
    seeing_at(world, US, missing=("us-1",))
    world.in_phase(Phase.ROLLING_BACK)


@pytest.mark.parametrize("why", ["hook", "nobody", "went back"])
def test_the_deadline_holds_between_waves(why: str) -> None:
    hooks = [{"at": "confirm-traffic-increase", "url": URL, "name": "rise"}] if why == "hook" else []
    first = ["mars-1"] if why == "nobody" else ["eu-1"]
    waves = [{"locations": first}, {"locations": "all"}]
    world = fleet(4, waves=waves, hooks=hooks, on_failure="location", progress_deadline="30s")
    world.answers = {key: Answer(True, 0.0) for key in ("0/0", "0/0.1")}
    world.sites[EU].errors = 0.5 if why == "went back" else 0.0
    world.in_phase(Phase.ROLLING_BACK)
    assert world.state.reason.startswith("no progress for 30 s (progress_deadline): ")
    assert 30 < world.now_s < 45


def test_an_operators_pause_between_waves_has_no_deadline() -> None:
    world = fleet(4, waves=[{"locations": ["mars-1"]}, {"locations": "all"}], progress_deadline="30s")
    world.in_phase(Phase.PAUSED)
    world.step(command=Command.PAUSE)
    for _ in range(10):
        world.step(10.0)
    assert world.state.awaited is Awaited.OPERATOR


def test_later_waves_are_planned_by_their_traffic_too() -> None:
    world = fleet(4, waves=TWO, gate={"warmup": "0s", "min_rps": 5})
    world.rate_rps = 100.0  # 25 requests/s in each of four locations
    world.until(lambda state: US in state.lanes)
    assert world.state.lanes[US].plan[0].weight_bp == 2000


def test_envoys_that_come_back_end_no_operators_pause() -> None:
    world = fleet(4, waves=ALL)
    world.until(lambda state: US in state.lanes)
    world.sites[US].away = True
    world.step()
    world.step(command=Command.PAUSE)
    assert world.state.phase is Phase.PAUSED
    world.sites[US].away = False
    for _ in range(50):
        world.step()
    assert (world.state.phase, world.state.awaited) == (Phase.PAUSED, Awaited.OPERATOR)
    assert world.served.by_location[US] == 1000
    world.step(command=Command.RESUME)
    world.in_phase(Phase.COMPLETED)


def point(on_failure: str) -> Fleet:
    """A rollout beyond its point of no return, of which one location fails."""
    hooks = [{"at": "pre-rollout", "url": URL, "name": "contract", "reversible": False}]
    world = fleet(4, waves=ALL, hooks=hooks, on_failure=on_failure)
    world.answers = {"0": Answer(True, 0.0)}
    world.sites[US].errors = 0.5
    world.until(lambda state: US in state.lanes and state.lanes[US].phase is Phase.PAUSED)
    return world


def test_beyond_the_point_of_no_return_one_that_fails_stops_all() -> None:
    world = point("all")
    assert world.state.phase is Phase.PAUSED
    assert "us/us-1: " in world.state.reason
    assert "'contract' cannot be undone" in world.state.reason
    assert set(phases(world.state).values()) == {Phase.PAUSED}
    assert world.state.lanes[US].verdict is not None
    assert world.step(command=Command.RESUME).phase is Phase.SHIFTING
    assert world.step(command=Command.ABORT).phase is Phase.ROLLING_BACK


def test_beyond_the_point_of_no_return_a_location_that_fails_stops_itself() -> None:
    world = point("location")
    assert world.state.phase is Phase.SHIFTING
    world.in_phase(Phase.PAUSED)
    assert list(phases(world.state).values()).count(Phase.RETAINING) == 3


@pytest.mark.parametrize("number", [0, 1])
def test_a_wave_that_begins_at_100_percent_is_confirmed_as_a_promotion(number: int) -> None:
    hooks = [{"at": "confirm-promotion", "url": URL, "name": "all"}]
    waves = [{**wave, "stages": ["100%"] if number == at else []} for at, wave in enumerate(TWO)]
    world = fleet(4, waves=waves, hooks=hooks)
    for _ in range(200):
        world.step()
    assert 10_000 not in world.served.by_location.values()
    assert [call.key for call in calls(world.strategy, world.state)] == ["0"]
    world.answers = {"0": Answer(True, world.now_s)}
    world.in_phase(Phase.COMPLETED)


@pytest.mark.parametrize("on_failure", ["all", "location"])
def test_the_error_budget_is_that_of_all_locations_together(on_failure: str) -> None:
    world = fleet(
        12, waves=[{"locations": "20%"}, {"locations": "all"}], gate={**GATE, "error_budget": 60}, on_failure=on_failure
    )
    for site in world.sites.values():
        site.errors = 0.0005  # of 2,000 requests a look
    world.in_phase(Phase.ROLLING_BACK)
    assert world.state.reason.startswith("all locations together have had ")
    assert world.state.reason.endswith(" bad answers too many, and the error budget is 60")
    before = world.steps[-2][0]
    assert before.wave == 1
    assert max(lane.evidence.excess for lane in before.lanes.values()) < 40


def test_no_wave_begins_while_a_version_has_too_few_healthy_backends() -> None:
    world = fleet(4, waves=TWO)
    world.until(lambda state: EU in state.lanes)
    world.step(command=Command.PROMOTE_FULL)
    world.step()
    world.step(command=Command.PROMOTE)
    observe = world.observe
    seeing(world, unhealthy="v2 has 1 healthy backend of 4")
    for _ in range(20):
        world.step()
    assert (set(world.state.lanes), world.state.waiting) == ({EU}, "v2 has 1 healthy backend of 4")
    world.observe = observe  # type: ignore[method-assign]
    world.in_phase(Phase.COMPLETED)


def test_a_name_of_a_wave_that_no_location_has_is_told() -> None:
    world = fleet(4, waves=[{"locations": ["eu-1", "mars-1"]}, {"locations": "all"}])
    world.until(lambda state: EU in state.lanes)
    assert world.state.reason == "wave 1 of 2 has begun: eu/eu-1; no Envoy is in mars-1"


def test_resume_after_an_operators_pause_tries_nothing_again() -> None:
    world = fleet(6, waves=[{"locations": ["eu"]}, {"locations": "all"}], on_failure="location")
    world.sites[EU].errors = 0.5
    world.until(lambda state: "eu/eu-2" in state.lanes and state.lanes[EU].phase is Phase.ROLLED_BACK)
    seeing(world, frozen="it is Friday")
    world.step(command=Command.PROMOTE_FULL)
    world.until(
        lambda state: (
            state.awaited is Awaited.THAW and not any(phase is Phase.SHIFTING for phase in phases(state).values())
        )
    )
    world.step(command=Command.PAUSE)
    world.step(command=Command.RESUME)
    assert world.state.lanes[EU].phase is Phase.ROLLED_BACK


def test_to_approve_again_is_harmless_while_another_location_needs_none() -> None:
    stages = [{"weight": "10%", "hold": "1h", "approve": True, "timeout": "2h"}, "100%"]
    world = fleet(4, stages=stages, waves=ALL)
    world.until(lambda state: US in state.lanes)
    world.step(command=Command.PROMOTE, location=US)
    world.step(command=Command.APPROVE)
    before = world.state
    assert world.step(command=Command.APPROVE).lanes == before.lanes


def test_a_command_for_a_location_that_went_back_names_what_tries_it_again() -> None:
    world = fleet(4, waves=ALL, on_failure="location", gate=GATE)
    world.sites[US].errors = 0.5
    world.until(lambda state: US in state.lanes and state.lanes[US].phase is Phase.ROLLED_BACK)
    with pytest.raises(Conflict, match=r"us/us-1: .*resume --location 'us/us-1'"):
        world.step(command=Command.PROMOTE, location=US)


def _left(state: State) -> bool:
    """Say whether the first location, or all of them, go back."""
    return state.phase is Phase.ROLLING_BACK or (EU in state.lanes and state.lanes[EU].loser is Role.CANDIDATE)


@pytest.mark.parametrize("on_failure", ["location", "all"])
def test_a_location_that_is_done_and_goes_bad_while_others_move_goes_back(on_failure: str) -> None:
    slow = [{"weight": "10%", "hold": "5m", "timeout": "10m"}, "100%"]
    waves = [{"locations": ["eu-1"]}, {"locations": "all", "stages": slow}]
    world = fleet(2, waves=waves, on_failure=on_failure, gate={**GATE, "alone_timeout": "10s"})
    world.until(lambda state: state.wave == 1)
    assert phases(world.state)[EU] is Phase.RETAINING
    world.sites[EU].errors = 0.4
    world.until(_left)
    world.step()
    assert EU not in world.served.by_location
    assert (world.state.phase is Phase.ROLLING_BACK) == (on_failure == "all")


def test_a_location_that_is_done_and_stays_good_stays_done() -> None:
    waves = [{"locations": ["eu-1"]}, {"locations": "all", "stages": [{"weight": "10%", "hold": "60s"}, "100%"]}]
    world = fleet(2, waves=waves)
    world.until(lambda state: state.wave == 1)
    assert world.in_phase(Phase.COMPLETED, Phase.ROLLED_BACK).phase is Phase.COMPLETED


def test_a_candidate_without_a_healthy_backend_goes_back_everywhere() -> None:
    world = fleet(4, waves=ALL)
    world.until(lambda state: US in state.lanes)
    seeing(world, dead="no backend of v2 is healthy, and v1 has 2 of 2")
    assert world.step().phase is Phase.ROLLING_BACK
