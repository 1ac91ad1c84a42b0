"""The pages of strategies: examples are clean, do what their page says, and pictures are what the machine makes."""

import re
from collections.abc import Mapping
from datetime import timedelta
from itertools import groupby
from pathlib import Path

import pytest

from bench.course import Moment, Story, course, weights
from bench.pictures import PAGES, STORIES, picture, told
from rollout.linting import lint
from rollout.spec import Strategy
from rollout.state import Awaited, Phase

NAMES = sorted(page.stem for page in PAGES.glob("*.md") if page.stem != "README")


def blocks(page: Path) -> list[str]:
    return re.findall(r"```yaml\n(.*?)```", page.read_text(), re.DOTALL)


Told = Mapping[str, tuple[Strategy, tuple[Moment, ...]]]


@pytest.fixture(scope="module")
def courses() -> Told:
    return {name: told(name) for name in STORIES}


@pytest.mark.parametrize("page", sorted(PAGES.glob("*.md")), ids=lambda page: page.stem)
def test_every_example_is_a_strategy_without_a_warning(page: Path) -> None:
    found = blocks(page)
    assert found
    for block in found:
        linted = lint(block)
        assert (linted.faults, linted.warnings) == ((), ()), block


def test_every_page_is_in_the_index_and_has_a_picture() -> None:
    index = (PAGES / "README.md").read_text()
    for name in NAMES:
        assert f"]({name}.md)" in index
        assert f"]({name}.svg)" in (PAGES / f"{name}.md").read_text()
    assert {name.removesuffix("-failing") for name in STORIES} == set(NAMES)


def test_pictures_are_what_the_machine_makes_of_the_pages(courses: Told) -> None:
    for name, known in courses.items():
        assert (PAGES / f"{name}.svg").read_text() == picture(name, *known), "draw them anew: python -m bench.pictures"


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("canary", [0, 100, 1000, 5000, 10_000]),
        ("canary-failing", [0, 100, 1000, 0]),
        ("blue-green", [0, 10_000]),
        ("ab-test", [0, 1000, 10_000]),
        ("shadow", [0, 1000, 5000, 10_000]),
        ("sticky-canary", [0, 100, 1000, 5000, 10_000]),
        ("hold-back", [0, 100, 1000, 5000, 9500, 10_000]),
        ("hooks-and-approvals", [0, 500, 5000, 10_000]),
        ("gradual", [0, 100, 1000, 2500, 5000, 7500, 5000, 2500, 1000, 100, 0]),
        ("freeze", [0, 100, 1000, 5000, 10_000]),
    ],
)
def test_traffic_goes_as_the_page_says(name: str, expected: list[int], courses: Told) -> None:
    weights_of_all = [moment.split.candidate_bp for moment in courses[name][1]]
    assert [weight for weight, _ in groupby(weights_of_all)] == expected


def test_a_freeze_holds_the_weight_that_there_is_and_what_has_not_begun(courses: Told) -> None:
    strategy, moments = courses["freeze"]
    frozen = next(each for each in moments if each.state.awaited is Awaited.THAW)
    assert frozen.split.candidate_bp == 1000
    saturday = STORIES["freeze"].begins + timedelta(hours=12)
    assert course(strategy, Story(begins=saturday))[0].state.phase is Phase.PENDING


def test_a_bad_version_is_taken_back_in_a_freeze_too(courses: Told) -> None:
    strategy, _ = courses["freeze"]
    turns_bad = Story(begins=STORIES["freeze"].begins, bad_from_bp=1000, bad_after_s=60)
    last = course(strategy, turns_bad)[-1]
    assert last.state.phase is Phase.ROLLED_BACK
    assert 60 < last.at_s < 3600


def test_waves_begin_one_after_the_other_and_a_location_fails_alone(courses: Told) -> None:
    story, (strategy, moments) = STORIES["waves"], courses["waves"]
    first = next(each for each in moments if each.state.lanes)
    assert set(first.state.lanes) == {"eu/eu-1"}
    assert moments[-1].state.phase is Phase.COMPLETED
    bad = Story(locations=story.locations, bad_from_bp=5000, bad_location="us/us-1")
    last = course(strategy, bad)[-1]
    assert last.state.phase is Phase.PAUSED
    assert last.state.awaited is Awaited.DECISION
    assert {name: bp for name, bp in last.split.by_location.items() if bp} == {
        name: 10_000 for name in story.locations if name != "us/us-1"
    }
    assert weights(first, story.locations)["eu/eu-1"] == 1000
