"""Rollouts in waves through the whole engine, store and xDS, over 200 locations of proxies without I/O."""

from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path

from rollout.replay import replay
from rollout.spec import Strategy
from rollout.state import Command, Phase
from rollout.traffic.groups import Files
from tests.rollout.fleet import locations
from tests.rollout.proxies import Proxy, engine, proxy
from tests.rollout.test_observer import SHOP
from xds.cache import Cache

WAVES = [{"locations": ["eu-1"]}, {"locations": "10%"}, {"locations": "all"}]
STAGES = [{"weight": "10%", "hold": "1s"}, {"weight": "100%", "hold": "1s"}]
GATE = {"warmup": "0s", "margin": "10%", "min_rps": 0}
EU, US = "eu/eu-1", "us/us-1"


def strategy(**settings: object) -> Strategy:
    given = {"waves": WAVES, "stages": STAGES, "gate": GATE, "preview": False, "drain_timeout": "0s", **settings}
    return Strategy.model_validate(given)


def proxies(count: int) -> Callable[[Cache], dict[str, Proxy]]:
    names = {location.replace("/", "-"): location for location in locations(count)}
    return lambda cache: {name: proxy(cache, name, location) for name, location in names.items()}


def at_wave(number: int) -> Callable[[object], bool]:
    return lambda state: state.wave == number and bool(state.lanes)  # type: ignore[attr-defined]


async def test_200_locations_move_in_waves_and_their_journal_replays(tmp_path: Path) -> None:
    async with engine(tmp_path, proxies(200)) as world:
        await world.deploy(strategy())
        await world.until(at_wave(0))
        await world.tick()
        assert Counter(world.weights().values()) == {0: 199, 1000: 1}
        await world.until(at_wave(1))
        await world.tick()
        assert Counter(world.weights().values()) == {0: 180, 1000: 19, 10_000: 1}
        await world.until(at_wave(2))
        await world.tick()
        assert Counter(world.weights().values()) == {1000: 180, 10_000: 20}
        await world.until(lambda state: state.phase is Phase.COMPLETED)
        assert set(world.weights().values()) == {10_000}
        entries = await world.store.journal("checkout", 1)
        replayed = replay(world.rollout.strategy, entries)
        assert replayed.difference is None
        assert replayed.looks > 400


async def test_a_location_that_fails_is_at_0_at_once_and_the_others_stay(tmp_path: Path) -> None:
    async with engine(tmp_path, proxies(12)) as world:
        await world.deploy(strategy(on_failure="location", waves=[{"locations": "all"}]))
        world.proxies["us-us-1"].errors = 0.5
        await world.until(lambda state: US in state.lanes and state.lanes[US].phase is Phase.ROLLING_BACK)
        assert world.weights()[US] == 0
        assert world.weights()[EU] == 1000
        await world.until(lambda state: state.phase is Phase.PAUSED)
        assert world.weights() == {**dict.fromkeys(locations(12), 10_000), US: 0}
        assert world.state.reason.startswith("went back: us/us-1: ")


async def test_a_location_is_taken_back_while_the_disk_hangs_and_others_do_not_go_on(tmp_path: Path) -> None:
    async with engine(tmp_path, proxies(3)) as world:
        await world.deploy(strategy(on_failure="location", waves=[{"locations": "all"}]))
        await world.until(at_wave(0))
        await world.tick()
        world.proxies["us-us-1"].errors = 0.5
        world.saving.cancel()
        for _ in range(20):
            world.work(0.5)
            world.controller.reconcile()
            for each in world.proxies.values():
                each.take()
        assert world.state.lanes[EU].stage == 1
        assert world.weights() == {EU: 1000, US: 0, "ap/ap-1": 1000}


async def test_a_location_that_fails_takes_back_all_in_one_push(tmp_path: Path) -> None:
    async with engine(tmp_path, proxies(12)) as world:
        await world.deploy(strategy(waves=[{"locations": "all"}]))
        world.proxies["us-us-1"].errors = 0.5
        await world.until(lambda state: state.phase is Phase.ROLLING_BACK)
        assert set(world.weights().values()) == {0}
        await world.until(lambda state: state.phase is Phase.ROLLED_BACK)


async def test_a_nack_of_one_location_is_its_own(tmp_path: Path) -> None:
    async with engine(tmp_path, proxies(4)) as world:
        await world.deploy(strategy(waves=[{"locations": "all"}]))
        world.proxies["us-us-1"].refuses = True
        await world.until(lambda state: state.phase is Phase.PAUSED)
        assert world.state.lanes[EU].phase is Phase.RETAINING
        assert "us/us-1: us-us-1 refused" in world.state.reason


async def test_weights_by_location_outlive_a_reload_and_a_restart(tmp_path: Path) -> None:
    before: Mapping[str, int] = {}
    async with engine(tmp_path, proxies(8)) as world:
        await world.deploy(strategy())
        await world.until(at_wave(0))
        await world.obey(Command.PAUSE)
        await world.tick()
        before = world.weights()
        world.controller.reload(Files({"shop.yaml": SHOP}))
        await world.settle()
        assert world.weights() == before == {**dict.fromkeys(locations(8), 0), EU: 1000}
        await world.tick()
    async with engine(tmp_path, proxies(8)) as world:
        assert world.weights() == before
        await world.obey(Command.RESUME)
        await world.until(lambda state: state.phase is Phase.COMPLETED)


async def test_who_says_no_zone_or_no_location_is_a_location_too(tmp_path: Path) -> None:
    places = ("eu", "eu/eu-1", "")

    def some(cache: Cache) -> dict[str, Proxy]:
        return {f"envoy-{number}": proxy(cache, f"envoy-{number}", each) for number, each in enumerate(places)}

    waves = [{"locations": ["no location"]}, {"locations": ["eu-1"]}, {"locations": "all"}]
    async with engine(tmp_path, some) as world:
        await world.deploy(strategy(waves=waves))
        for number, weights in enumerate([(0, 0, 1000), (0, 1000, 10_000), (1000, 10_000, 10_000)]):
            await world.until(at_wave(number))
            await world.tick()
            assert tuple(world.weights()[each] for each in places) == weights


async def test_a_command_may_be_for_one_location(tmp_path: Path) -> None:
    async with engine(tmp_path, proxies(4)) as world:
        await world.deploy(strategy(waves=[{"locations": "all"}]))
        await world.until(at_wave(0))
        await world.obey(Command.PROMOTE, "us-1")
        await world.tick()
        assert world.weights() == {**dict.fromkeys(locations(4), 1000), US: 10_000}
