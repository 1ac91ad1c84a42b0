"""What is seen of locations, and what people see of them: places, looks, the API's views, the screens."""

import itertools
import json
from pathlib import Path
from typing import Any

import pytest

from rollout.api.backstage import Moment
from rollout.api.views import dump_story, service_view
from rollout.errors import InvalidSpec
from rollout.places import AT_ONCE, LANE_LOOK_S
from rollout.screen import service_panel
from rollout.spec import parse_strategy
from rollout.state import Command, Phase
from rollout.story import story
from tests.rollout.proxies import Engine, Proxy, engine, proxy
from tests.rollout.test_screen import shown, words
from tests.rollout.test_waves_fleet import EU, US, at_wave, proxies, strategy
from xds.cache import Cache

ALL = [{"locations": "all"}]
SLOW = [{"weight": "10%", "hold": "1h", "timeout": "2h"}, "100%"]


def view(world: Engine) -> dict[str, Any]:
    moment = Moment(world.clock(), world.controller.users())
    found: dict[str, Any] = json.loads(json.dumps(service_view(world.controller, "checkout", moment)))
    return found


async def test_a_location_is_seen_by_its_own_envoys_only(tmp_path: Path) -> None:
    async with engine(tmp_path, proxies(3)) as world:
        await world.deploy(strategy(waves=ALL, stages=SLOW))
        await world.until(at_wave(0))
        world.proxies["us-us-1"].rate_rps, world.proxies["us-us-1"].errors = 40.0, 0.01
        for _ in range(4):
            await world.tick()
        world.proxies["eu-eu-1"].wire.session.close(world.clock())
        world.move(1.0)
        seen = world.controller.observer.observe(world.rollout, None, "")
        assert seen.places[EU].connected == 0
        assert seen.places[EU].fleet == 1
        assert set(seen.places[EU].lagging) == {"eu-eu-1"}
        assert seen.places[US].lagging == {}
        assert seen.lagging == {}
        look = seen.places[US].look
        assert look is not None
        assert (look.strata, look.blind) == ((), ())  # nothing was read since the last one
        look = seen.places[EU].look
        assert look is not None
        assert look.blind == ("eu-eu-1: is disconnected (waited for up to 30 s)",)


async def test_who_is_expected_after_a_restart_may_be_in_any_location(tmp_path: Path) -> None:
    async with engine(tmp_path, proxies(3)) as world:
        await world.deploy(strategy(waves=ALL, stages=SLOW))
        await world.until(at_wave(0))
        await world.tick()
    async with engine(tmp_path, lambda cache: {"us-us-1": proxies(3)(cache)["us-us-1"]}) as world:
        seen = world.controller.observer.observe(world.rollout, None, "")
        assert set(seen.places[US].lagging) == set(seen.places[EU].lagging) == {"eu-eu-1", "ap-ap-1"}


async def test_a_command_takes_no_look_of_any_location_away(tmp_path: Path) -> None:
    async with engine(tmp_path, proxies(3)) as world:
        await world.deploy(strategy(waves=ALL, stages=SLOW))
        await world.until(at_wave(0))
        for _ in range(4):
            await world.tick()
        world.move(1.0)
        seen = world.controller.observer.observe(world.rollout, Command.PAUSE, "ann")
        assert all(place.look is None for place in seen.places.values())
        seen = world.controller.observer.observe(world.rollout, None, "")
        assert all(place.look is not None for place in seen.places.values())


async def test_who_stays_away_fails_its_own_location_however_many_they_are(tmp_path: Path) -> None:
    def crowded(cache: Cache) -> dict[str, Proxy]:
        here = {f"eu-{number}": proxy(cache, f"eu-{number}", EU) for number in range(8)}
        return {**here, "us-1": proxy(cache, "us-1", US)}

    async with engine(tmp_path, crowded) as world:
        await world.deploy(strategy(waves=ALL, stages=SLOW, disconnected={"policy": "fail", "for": "1s"}))
        await world.until(at_wave(0))
        for number in range(7):
            world.proxies[f"eu-{number}"].wire.session.close(world.clock())
        world.move(2.0)
        seen = world.controller.observer.observe(world.rollout, None, "")
        assert seen.places[US].missing == ()
        assert seen.places[EU].missing == ("eu-0", "eu-1", "eu-2", "eu-3", "eu-4", "2 more")


async def test_of_very_many_locations_some_are_looked_at_at_a_time_each_in_its_turn(tmp_path: Path) -> None:
    async with engine(tmp_path, proxies(AT_ONCE + 50)) as world:
        await world.deploy(strategy(waves=ALL, stages=SLOW))
        await world.until(at_wave(0))
        looks: list[set[str]] = []
        for _ in range(16):
            before = world.state.lanes
            await world.tick()
            looked = {name for name, lane in world.state.lanes.items() if lane.looked_s > before[name].looked_s}
            looks += [looked] if looked else []
        assert max(map(len, looks)) <= AT_ONCE
        assert all(one | other == world.state.lanes.keys() for one, other in itertools.pairwise(looks))


async def test_with_many_locations_looks_are_rarer_and_all_at_once(tmp_path: Path) -> None:
    async with engine(tmp_path, proxies(100)) as world:
        await world.deploy(strategy(waves=ALL, stages=SLOW))
        await world.until(at_wave(0))
        looked: list[float] = []
        for _ in range(24):
            await world.tick()
            seen_s = {lane.looked_s for lane in world.state.lanes.values()}
            looked += [each for each in seen_s if each not in looked and each > 0]
        assert all(after - before >= 100 * LANE_LOOK_S for before, after in itertools.pairwise(looked))
        assert 3 <= len(looked) <= 8


async def test_the_api_has_each_location_the_worst_first(tmp_path: Path) -> None:
    async with engine(tmp_path, proxies(12)) as world:
        await world.deploy(strategy(on_failure="location", waves=[{"locations": ["eu", "us"]}, *ALL]))
        world.proxies["us-us-1"].errors = 0.5
        await world.until(lambda state: US in state.lanes and state.lanes[US].phase is Phase.ROLLED_BACK)
        found = view(world)["rollout"]
        assert (found["wave"], found["waves"]) == (0, ["eu, us", "all"])
        first, last = found["locations"][0], found["locations"][-1]
        assert (first["location"], first["phase"], first["weight_percent"]) == (US, "rolled_back", 0.0)
        assert first["verdict"]["verdict"] == "fail"
        assert (last["phase"], last["wave"], last["envoys"]) == ("later", None, 1)
        assert len(found["locations"]) == 12
        weights = [each["weight_percent"] for each in found["locations"]]
        assert found["weight_percent"] == pytest.approx(sum(weights) / 12, abs=0.01)


async def test_screens_tell_of_the_worst_locations_and_how_many_more_there_are(tmp_path: Path) -> None:
    async with engine(tmp_path, proxies(40)) as world:
        await world.deploy(strategy(on_failure="location"))
        world.proxies["us-us-9"].refuses = True
        await world.until(lambda state: state.phase is Phase.PAUSED)
        text = words(service_panel(view(world)))
        assert "us/us-9 3 paused 10 %" in text
        assert "and 28 more locations as they should: 28 done" in text
        assert "▶ [wave 3: all]" in text
        shown(service_panel(view(world)))  # no line is wider than 80 columns
        told = words(story(json.loads(dump_story(world.rollout, await world.store.journal("checkout", 1)))))
        assert "wave 2 of 3 has begun" in told
        assert "us/us-9: paused, us-us-9 refused routes 'main': no good" in told


@pytest.mark.parametrize(
    ("waves", "says"),
    [
        ("[{locations: [eu]}]", "the last one must have `locations: all`"),
        ("[{locations: eu}, {locations: all}]", "'eu' is no list of locations; write a list of names"),
        ("[{locations: all, stages: [{mirror: 10%}, 100%]}]", "waves\\[0\\].stages: a stage without a weight"),
    ],
)
def test_wrong_waves_are_refused(waves: str, says: str) -> None:
    with pytest.raises(InvalidSpec, match=says):
        parse_strategy(f"waves: {waves}")
