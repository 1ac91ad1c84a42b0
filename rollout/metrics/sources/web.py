"""A web endpoint as a source: a GET of JSON, and the value at a path in it."""

from dataclasses import dataclass
from typing import Any

import aiohttp

from rollout.errors import Unavailable
from rollout.fetching import Question
from rollout.metrics.sources.answer import Answer, finite, get_json


@dataclass(frozen=True, slots=True)
class Web:
    """`path` has the keys of objects and positions in lists, from 0, that lead to the value; () is the document."""

    session: aiohttp.ClientSession
    question: Question
    path: tuple[str, ...]

    async def read(self) -> Answer:
        status, document = await get_json(self.session, self.question)
        try:
            return Answer(finite(_value(status, document, self.path)))
        except ValueError as error:
            raise Unavailable(f"no value from {self.question.where}: {error}") from error


def _value(status: int, document: Any, path: tuple[str, ...]) -> Any:
    if status != 200:
        raise ValueError(f"HTTP {status}")
    return _at(document, path)


def _at(document: Any, path: tuple[str, ...]) -> Any:
    """Follow a path. Raises ValueError with the place where it ends too early."""
    found = document
    for depth, step in enumerate(path):
        where = ".".join(path[:depth]) or "the top"
        if isinstance(found, dict) and step in found:
            found = found[step]
        elif isinstance(found, list) and step.isascii() and step.isdecimal() and len(step) < 10:
            if int(step) >= len(found):
                raise ValueError(f"no data: the list at {where} has {len(found)} items, none at position {step}")
            found = found[int(step)]
        else:
            raise ValueError(f"no data: there is no '{step}' at {where}")
    return found
