"""Which locations are in which wave."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rollout.spec import Strategy, Wave
from rollout.waves import joining, unmet

FLEET = tuple(f"r{number % 10}/z{number:03}" for number in range(200))


def wave(locations: object) -> Wave:
    return Wave.model_validate({"locations": locations})


@pytest.mark.parametrize(
    ("named", "found"),
    [
        (["eu/eu-1"], ("eu/eu-1",)),
        (["eu-1"], ("eu/eu-1",)),
        (["eu"], ("eu", "eu/eu-1", "eu/eu-2")),
        (["us-1", "eu-2"], ("eu/eu-2", "us/us-1")),
        (["no location"], ("",)),
        (["eu-"], ()),
    ],
)
def test_a_name_is_that_of_a_location_a_region_or_a_zone(named: list[str], found: tuple[str, ...]) -> None:
    assert joining(wave(named), ("us/us-1", "eu/eu-2", "eu/eu-1", "eu", "")) == found


def test_names_that_no_location_has_are_told() -> None:
    assert unmet(wave(["eu-1", "eu-7"]), ("eu/eu-1",)) == ("eu-7",)
    assert unmet(wave("10%"), ()) == ()


@pytest.mark.parametrize(("share", "count"), [("0.01%", 1), ("10%", 20), ("33%", 66), ("100%", 200)])
def test_a_share_is_of_the_locations_that_are_left_and_at_least_one(share: str, count: int) -> None:
    assert len(joining(wave(share), FLEET)) == count


def test_a_share_is_spread_over_regions() -> None:
    found = joining(wave("20%"), FLEET)
    assert max(Counter(each.partition("/")[0] for each in found).values()) < 12
    assert found != FLEET[:40]


@given(st.permutations(FLEET), st.sampled_from(["10%", "all", ["r3", "z007"]]))
def test_the_order_in_which_locations_come_changes_nothing(fleet: list[str], locations: object) -> None:
    assert joining(wave(locations), fleet) == joining(wave(locations), FLEET)


def test_of_no_location_none_is_in_a_wave() -> None:
    assert joining(wave("10%"), ()) == joining(wave("all"), ()) == ()


def test_waves_are_saved_as_they_are_written() -> None:
    waves = [{"locations": ["eu-1"], "stages": ["5%", "100%"]}, {"locations": "10%"}, {"locations": "all"}]
    strategy = Strategy.model_validate({"waves": waves})
    assert Strategy.model_validate_json(strategy.model_dump_json(by_alias=True)) == strategy
    assert [each.locations for each in strategy.waves] == [("eu-1",), 1000, "all"]
