"""Prometheus as a source: one instant query, which must give one value."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import aiohttp

from rollout.errors import Unavailable
from rollout.fetching import Question
from rollout.metrics.sources.answer import SAID_CHARACTERS, Answer, finite, get_json


@dataclass(frozen=True, slots=True)
class Prometheus:
    """Asks `/api/v1/query`, which Thanos, Mimir and VictoriaMetrics have as well."""

    session: aiohttp.ClientSession
    question: Question

    async def read(self) -> Answer:
        status, document = await get_json(self.session, self.question)
        try:
            return Answer(finite(_value(status, document)))
        except ValueError as error:
            raise Unavailable(f"no value from {self.question.where}: {error}") from error


def _value(status: int, document: Any) -> object:
    """Return the sample's value. Raises ValueError unless there is just one."""
    try:
        if status != 200 or document["status"] != "success":
            raise ValueError(f"HTTP {status}: {_said(document)}")
        found = document["data"]
        kind, result = found["resultType"], found["result"]
        if kind == "vector":
            if len(result) != 1:
                raise ValueError(_count(len(result)))
            return result[0]["value"][1]
        if kind == "scalar":
            return result[1]
    except (KeyError, IndexError, TypeError) as error:
        raise ValueError("it is not the answer of a Prometheus") from error
    raise ValueError(f"the query gives a {str(kind)[:40]}; make it give one value, as by `sum(...)` or `max(...)`")


def _count(samples: int) -> str:
    if not samples:
        return "no data: the query finds nothing"
    return f"the query finds {samples} samples; make them one, as by `sum(...)` or `max(...)`"


def _said(document: Any) -> str:
    said = document.get("error") if isinstance(document, Mapping) else None
    return str(said or "no reason given")[:SAID_CHARACTERS]
