"""What sources of checks answer: JSON that was got, and the number that is made of it."""

import json
import math
from dataclasses import dataclass
from typing import Any

import aiohttp

from rollout.errors import Unavailable
from rollout.fetching import Question, get

SAID_CHARACTERS = 200


@dataclass(frozen=True, slots=True)
class Answer:
    """A measured value; `said` is what a command that ended badly had to say, else ""."""

    value: float
    said: str = ""


async def get_json(session: aiohttp.ClientSession, question: Question) -> tuple[int, Any]:
    """Return the HTTP status and the JSON. Raises Unavailable."""
    page = await get(session, question)
    try:
        return page.status, json.loads(page.body)
    except (ValueError, RecursionError) as error:
        what = "what it answers is no JSON" if page.status == 200 else f"HTTP {page.status}"
        raise Unavailable(f"no value from {question.where}: {what}") from error


def plain_line(text: str) -> str:
    """Return a text as one line that a terminal may be shown."""
    return " ".join("".join(each if each.isprintable() else " " for each in text).split())


def finite(value: object) -> float:
    """Return what a source gave as a number. Raises ValueError with what it is instead."""
    if isinstance(value, str | int | float):
        try:
            number = float(value)
        except (ValueError, OverflowError):
            number = math.nan
        if math.isfinite(number):
            return number
    if value is None or str(value).lower() == "nan":
        raise ValueError(f"no data: the value is {'null' if value is None else 'NaN'}")
    raise ValueError(f"{str(value)[:40]!r} is no number")
