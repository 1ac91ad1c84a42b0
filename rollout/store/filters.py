"""Which rollouts and operations a reader wants, and the SQL that finds them, the newest first."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from rollout.store.rows import to_text

Found = tuple[str, list[object]]
"""The condition of a query, and its values."""


@dataclass(frozen=True, slots=True)
class RolloutFilter:
    """Each narrows down what is found, None does not. `services` are patterns of those that the reader may see.

    `before` is where a page before this one ended: when a rollout began, as it is saved, its id and its service.
    """

    services: tuple[str, ...] | None = None
    outcome: Literal["completed", "rolled_back", "in_progress"] | None = None
    since: datetime | None = None
    before: tuple[str, int, str] | None = None


@dataclass(frozen=True, slots=True)
class OperationFilter:
    """Each narrows down what is found, None does not. `services` are patterns of those that the reader may see, beside
    what is about the whole fleet. `before` is the id at which a page before this one ended.
    """

    services: tuple[str, ...] | None = None
    verb: str | None = None
    by: str | None = None
    before: int | None = None


EVERY_ROLLOUT = RolloutFilter()
EVERY_OPERATION = OperationFilter()


def rollouts_where(service: str | None, wanted: RolloutFilter) -> Found:
    """Return the condition of the rollouts that are wanted, of one service or of all."""
    parts = [*_of(service), *_seen(wanted.services)]
    match wanted.outcome:
        case "in_progress":
            parts.append(("ended = 0", []))
        case str():
            parts.append(("ended = 1 AND json_extract(state, '$.phase') = ?", [wanted.outcome]))
        case None:
            pass
    if wanted.since is not None:
        parts.append(("started_at >= ?", [to_text(wanted.since)]))
    if wanted.before is not None:
        # In one service they are by number: clocks of people may be set back.
        where = ("(started_at, id, service) < (?, ?, ?)", [*wanted.before])
        parts.append(where if service is None else ("id < ?", [wanted.before[1]]))
    return _together(parts)


def operations_where(service: str | None, wanted: OperationFilter) -> Found:
    """Return the condition of the operations that are wanted, of one service or of all and of the configuration."""
    given = {"verb": wanted.verb, "who": wanted.by}
    parts = [*_of(service), *_seen(None if wanted.services is None else ("", *wanted.services))]
    parts += [(f"{column} = ?", [value]) for column, value in given.items() if value is not None]
    if wanted.before is not None:
        parts.append(("id < ?", [wanted.before]))
    return _together(parts)


def _of(service: str | None) -> Sequence[Found]:
    return () if service is None else [("service = ?", [service])]


def _seen(patterns: tuple[str, ...] | None) -> Sequence[Found]:
    if patterns is None:
        return ()
    # As fnmatch has them, but for this: what a set is not, is written by ^ in SQL.
    words: list[object] = [pattern.replace("[!", "[^") for pattern in patterns]
    return [(f"({' OR '.join(['service GLOB ?'] * len(words))})", words)]


def _together(parts: Sequence[Found]) -> Found:
    return " AND ".join(part for part, _ in parts) or "1", [value for _, values in parts for value in values]
