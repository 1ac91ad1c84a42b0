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
    assert told == "frozen fri 16:00-00:00 UTC: nobody is here"


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
