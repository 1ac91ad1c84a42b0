"""How a user writes the values of a specification: durations and shares, with their units."""

import re
from datetime import timedelta
from typing import Annotated

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, PlainSerializer, WithJsonSchema

LONGEST = timedelta(days=30)
_DURATION = re.compile(r"([0-9]+(?:\.[0-9]+)?)(ms|s|m|h)")
_SHARE = re.compile(r"([0-9]+(?:\.[0-9]+)?)\s*%")
_DURATION_SHAPE = r"[0-9]+(\.[0-9]+)?(ms|s|m|h)\s*$"
DURATION_SCHEMA = {"type": "string", "pattern": rf"^\s*{_DURATION_SHAPE}"}
LIMIT_SCHEMA = {"type": "string", "pattern": rf"^\s*(?!0+(\.0+)?[a-z]){_DURATION_SHAPE}"}
SHARE_SCHEMA = {
    "anyOf": [
        {"type": "string", "pattern": r"^\s*(0*[0-9]{1,2}(\.[0-9]+)?|0*100(\.0+)?)\s*%\s*$"},
        {"type": "number", "minimum": 0, "maximum": 1},
    ]
}
_UNIT_S = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}


class Spec(BaseModel):
    """What a user wrote: never changed, and an unknown setting in it is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid")


def duration(value: object) -> timedelta:
    """Parse 500ms, 30s, 5m or 1h. Raises ValueError."""
    if isinstance(value, timedelta):
        return value
    if isinstance(value, int | float) and not isinstance(value, bool):
        raise ValueError(f"{value} has no unit; write '{abs(value)}s'")  # noqa: TRY004 - pydantic wants a ValueError
    match = _DURATION.fullmatch(value.strip()) if isinstance(value, str) else None
    if match is None:
        raise ValueError(f"'{value}' is no duration; write 500ms, 30s, 5m or 1h")
    seconds = float(match[1]) * _UNIT_S[match[2]]
    if seconds > LONGEST.total_seconds():
        raise ValueError(f"{value} is too long; write up to {LONGEST.days * 24}h")
    return timedelta(seconds=seconds)


def share(value: object) -> float:
    """Parse 2% or 0.02, a part of 1. Raises ValueError."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        if not 0 <= value <= 1:
            raise ValueError(f"{value:g} is no share; write {value:g}% or a part of 1, as 0.02")
        return float(value)
    match = _SHARE.fullmatch(value.strip()) if isinstance(value, str) else None
    if match is None:
        raise ValueError(f"'{value}' is no share; write it as 2% or 0.02")
    if float(match[1]) > 100:
        raise ValueError(f"{value} is above 100%")
    return float(f"{match[1]}e-2")


def _some_time(value: timedelta) -> timedelta:
    if value <= timedelta():
        raise ValueError("0s leaves no time at all; write a longer one, like 30s")
    return value


def _seconds(value: timedelta) -> str:
    return f"{value / timedelta(seconds=1):.6f}".rstrip("0").rstrip(".") + "s"


Duration = Annotated[
    timedelta, BeforeValidator(duration), PlainSerializer(_seconds), WithJsonSchema({**DURATION_SCHEMA})
]
Limit = Annotated[Duration, AfterValidator(_some_time), WithJsonSchema({**LIMIT_SCHEMA})]
Share = Annotated[float, BeforeValidator(share), WithJsonSchema({**SHARE_SCHEMA})]
