"""Calendars of freezes: what they cover, at which time, and how bad ones are refused."""

from datetime import UTC, datetime

import pytest
from pydantic import ValidationError

from rollout.freeze import Freeze


def freeze(*windows: dict[str, object], timezone: str = "UTC") -> Freeze:
    return Freeze.model_validate({"timezone": timezone, "windows": list(windows)})


def at(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


FRIDAY: dict[str, object] = {"days": ["fri"], "from": "16:00", "to": "24:00"}


@pytest.mark.parametrize(
    ("window", "now", "frozen"),
    [
        (FRIDAY, "2026-11-20T15:59:59", False),
        (FRIDAY, "2026-11-20T16:00:00", True),
        (FRIDAY, "2026-11-20T23:59:59", True),
        (FRIDAY, "2026-11-21T00:00:00", False),
        (FRIDAY, "2026-11-19T17:00:00", False),
        ({"from": "22:00", "to": "06:00"}, "2026-11-19T05:59:59", True),
        ({"from": "22:00", "to": "06:00"}, "2026-11-19T06:00:00", False),
        ({"days": ["sun"], "from": "22:00", "to": "06:00"}, "2026-11-23T05:00:00", True),
        ({"days": ["sun"], "from": "22:00", "to": "06:00"}, "2026-11-22T05:00:00", False),
        ({"days": ["sat", "sun"]}, "2026-11-22T00:00:00", True),
        ({"days": ["sat", "sun"]}, "2026-11-23T00:00:00", False),
        ({"dates": ["2026-12-20", "2027-01-02"]}, "2026-12-19T23:59:59", False),
        ({"dates": ["2026-12-20", "2027-01-02"]}, "2026-12-20T00:00:00", True),
        ({"dates": ["2026-12-20", "2027-01-02"]}, "2027-01-02T23:59:59", True),
        ({"dates": ["2026-12-20", "2027-01-02"]}, "2027-01-03T00:00:00", False),
    ],
)
def test_a_window_covers_what_it_says(window: dict[str, object], now: str, frozen: bool) -> None:
    assert bool(freeze(window).why(at(now))) is frozen


def test_windows_are_in_their_time_zone_summer_and_winter() -> None:
    berlin = freeze(FRIDAY, timezone="Europe/Berlin")
    assert [bool(berlin.why(at(now))) for now in ("2026-11-20T14:59:59", "2026-11-20T15:00:00")] == [False, True]
    assert [bool(berlin.why(at(now))) for now in ("2026-07-10T13:59:59", "2026-07-10T14:00:00")] == [False, True]


def test_it_says_which_window_it_is_and_why() -> None:
    told = freeze({**FRIDAY, "reason": "nobody is here"}).why(at("2026-11-20T17:00:00"))
    assert told == "frozen fri 16:00-00:00 UTC until Sat 00:00: nobody is here"


WEEKEND: dict[str, object] = {"days": ["sat", "sun"]}
HOLIDAYS: dict[str, object] = {"dates": ["2026-12-21", "2027-01-01"]}


@pytest.mark.parametrize(
    ("windows", "now", "end"),
    [
        ((FRIDAY,), "2026-11-20T16:00:00", "Sat 00:00"),
        ((FRIDAY, WEEKEND), "2026-11-20T16:00:00", "Mon 00:00"),
        ((FRIDAY, WEEKEND, {"days": ["mon"], "to": "09:00"}), "2026-11-22T23:59:59", "Mon 09:00"),
        (({"from": "22:00", "to": "06:00"},), "2026-11-19T23:00:00", "Fri 06:00"),
        (({"from": "22:00", "to": "06:00"},), "2026-11-20T05:59:59", "Fri 06:00"),
        (({"from": "09:00", "to": "09:30"}, {"from": "09:00", "to": "17:00"}), "2026-11-20T09:00:00", "Fri 17:00"),
        (({"days": ["fri"], "from": "16:00", "to": "16:00"},), "2026-11-21T15:00:00", "Sat 16:00"),
        ((HOLIDAYS,), "2026-12-21T00:00:00", "2027-01-02 00:00"),
        ((HOLIDAYS, WEEKEND), "2026-12-19T10:00:00", "2027-01-04 00:00"),
        ((HOLIDAYS, WEEKEND), "2027-01-03T23:00:00", "2027-01-04 00:00"),  # the words are those of its first day
        (({"dates": ["2026-12-24", "2026-12-26"]},), "2026-12-24T00:00:00", "Sun 00:00"),
    ],
)
def test_it_says_until_when_over_all_windows_that_follow_each_other(
    windows: tuple[dict[str, object], ...], now: str, end: str
) -> None:
    assert freeze(*windows).why(at(now)).endswith(f" UTC until {end}")


@pytest.mark.parametrize("window", [{}, {"dates": ["2026-12-24", "9999-12-31"]}, {"days": ["fri"], "from": "16:00"}])
def test_its_words_are_the_same_for_as_long_as_it_lasts(window: dict[str, object]) -> None:
    given = freeze(window)
    told = {given.why(at(f"2026-12-25T{hour}:59:59")) for hour in range(16, 24)}
    assert len(told) == 1
    assert ("until" in told.pop()) is ("days" in window)


def test_the_end_is_in_its_time_zone() -> None:
    assert "Europe/Berlin until Sat 00:00" in freeze(FRIDAY, timezone="Europe/Berlin").why(at("2026-11-20T15:00:00"))


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"windows": []}, "at least 1 item"),
        ({"timezone": "Mars/Olympus", "windows": [FRIDAY]}, "there is no time zone 'Mars/Olympus'"),
        ({"windows": [{"from": "25:00"}]}, "'25:00' is no time of a day"),
        ({"windows": [{"from": 960}]}, "'960' is no time of a day; write it in quotes"),
        ({"windows": [{"days": ["friday"]}]}, "days.0"),
        ({"windows": [{"days": ["fri"], "dates": ["2026-12-20", "2026-12-21"]}]}, "give days or dates, not both"),
        ({"windows": [{"dates": ["2026-12-20", "2026-12-19"]}]}, "2026-12-19 comes before 2026-12-20"),
    ],
)
def test_a_bad_calendar_is_refused_with_what_is_wrong(given: dict[str, object], told: str) -> None:
    with pytest.raises(ValidationError, match=told):
        Freeze.model_validate(given)
