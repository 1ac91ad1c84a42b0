"""Times in which nothing starts or advances: a calendar with a time zone, and what it says now."""

import re
from datetime import date, datetime, time, timedelta
from enum import StrEnum
from typing import Annotated
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from pydantic import BeforeValidator, Field, PlainSerializer, WithJsonSchema, field_validator, model_validator

from rollout.fields import Spec

_CLOCK = re.compile(r"([01][0-9]|2[0-4]):([0-5][0-9])")
MIDNIGHT = time(0)
MOST_WINDOWS = 100
MOST_JOINED = 50  # windows that follow each other, each day one: a freeze that goes on beyond has no end in sight
WEEK = timedelta(days=7)
NEVER = datetime.combine(date.max, time.max)


class Day(StrEnum):
    MON = "mon"
    TUE = "tue"
    WED = "wed"
    THU = "thu"
    FRI = "fri"
    SAT = "sat"
    SUN = "sun"


def _clock(value: object) -> object:
    """Parse 16:30; 24:00 is the midnight at a day's end, which as a time is 00:00."""
    match = _CLOCK.fullmatch(value) if isinstance(value, str) else None
    if match is None or (match[1] == "24" and match[2] != "00"):
        raise ValueError(f"'{value}' is no time of a day; write it in quotes, as \"16:30\"")
    return time(int(match[1]) % 24, int(match[2]))


Clock = Annotated[
    time,
    BeforeValidator(_clock),
    PlainSerializer(lambda value: f"{value:%H:%M}"),
    WithJsonSchema({"type": "string", "pattern": r"^(([01][0-9]|2[0-3]):[0-5][0-9]|24:00)$"}),
]


class Window(Spec):
    """A span that is frozen: from `from` to `to` on these `days`, all of them if none is named; or whole `dates`.

    `dates` has the first and the last day. A span whose end is not after its start goes on into the next day.
    """

    days: tuple[Day, ...] = ()
    start: Clock = Field(default=MIDNIGHT, alias="from")
    end: Clock = Field(default=MIDNIGHT, alias="to")
    dates: tuple[date, date] | None = None
    reason: str = ""

    @model_validator(mode="after")
    def _some(self) -> "Window":
        if self.dates is not None:
            if self.days:
                raise ValueError("give days or dates, not both")
            if self.dates[0] > self.dates[1]:
                raise ValueError(f"dates: {self.dates[1]} comes before {self.dates[0]}")
        return self

    def begins_on(self, day: date) -> bool:
        if self.dates is not None:
            return self.dates[0] <= day <= self.dates[1]
        return not self.days or tuple(Day)[day.weekday()] in self.days

    def ends(self, now: datetime) -> datetime:
        """Return when the span ends that a local time is inside of."""
        if self.dates is not None and self.start == self.end:  # one span of whole days, not one for each day
            last = self.dates[1]
            return NEVER if last == date.max else datetime.combine(last + timedelta(days=1), self.end)
        began_today = self.begins_on(now.date()) and now.time() >= self.start
        goes_on = self.end <= self.start and began_today
        return datetime.combine(now.date() + timedelta(days=goes_on), self.end)

    def covers(self, now: datetime) -> bool:
        """Say whether a local time is inside."""
        clock = now.time()
        if self.start < self.end:
            return self.begins_on(now.date()) and self.start <= clock < self.end
        if self.begins_on(now.date()) and clock >= self.start:
            return True
        return self.begins_on(now.date() - timedelta(days=1)) and clock < self.end


class Freeze(Spec):
    """Windows in the time of `timezone`, a name as Europe/Berlin."""

    timezone: str = "UTC"
    windows: tuple[Window, ...] = Field(min_length=1, max_length=MOST_WINDOWS)

    @field_validator("timezone")
    @classmethod
    def _known(cls, value: str) -> str:
        try:
            ZoneInfo(value)
        except (ZoneInfoNotFoundError, ValueError, OSError) as error:
            raise ValueError(f"there is no time zone '{value}'; write one as Europe/Berlin, or UTC") from error
        return value

    def why(self, now: datetime) -> str:
        """Return why nothing may advance at this time, and until when; "" when it may.

        It is the same text for as long as a window lasts, for each other one is a step of the journal.
        """
        local = now.astimezone(ZoneInfo(self.timezone)).replace(tzinfo=None)
        window = next((each for each in self.windows if each.covers(local)), None)
        if window is None:
            return ""
        days = " ".join(window.days) or "every day"
        when = f"{window.dates[0]} to {window.dates[1]}" if window.dates else days
        span = "" if window.start == window.end == MIDNIGHT else f" {window.start:%H:%M}-{window.end:%H:%M}"
        frozen = f"frozen {when}{span} {self.timezone}{self._until(local)}"
        return f"{frozen}: {window.reason}" if window.reason else frozen

    def _until(self, local: datetime) -> str:
        """Say when a freeze ends: by the day, or the date where it lasts for a week or more; "" for no end in sight."""
        end = self._thaw(local)
        if end is None:
            return ""
        lasts_long = self._thaw(end - WEEK) == end  # asked from its end, so that the words do not change in it
        day = f"{end:%Y-%m-%d}" if lasts_long else tuple(Day)[end.weekday()].capitalize()
        return f" until {day} {end:%H:%M}"

    def _thaw(self, local: datetime) -> datetime | None:
        """Return when it is not frozen any more: windows without a gap between them are one. None: not in sight."""
        for _ in range(MOST_JOINED):
            ends = [each.ends(local) for each in self.windows if each.covers(local)]
            if not ends:
                return local
            local = max(ends)
            if local == NEVER:
                break
        return None
