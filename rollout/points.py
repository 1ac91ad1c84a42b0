"""Points of a rollout's charts: what was wanted and measured in a second, and how they are written as columns."""

from collections.abc import Iterable, Sequence
from dataclasses import astuple, dataclass
from typing import Any

POINTS_LIMIT = 2_000  # of one rollout; beyond, every other one of the older half goes
THINNED = POINTS_LIMIT // 2


@dataclass(frozen=True, slots=True)
class Side:
    """What one version did in the time of a point; None where there were no requests to tell it by."""

    requests: int = 0
    error_share: float | None = None
    p50_ms: float | None = None
    p99_ms: float | None = None


@dataclass(frozen=True, slots=True)
class Point:
    """One point in time: `at_s` since 1970, and the `seconds` before it that were measured.

    `measured_percent` is the candidate's share of the requests, None where there were none.
    """

    at_s: float
    seconds: float
    wanted_percent: float
    measured_percent: float | None
    stable: Side
    candidate: Side


def point(at_s: float, seconds: float, wanted_percent: float, stable: Side, candidate: Side) -> Point:
    """Return a point; what is measured follows from the requests of both versions."""
    requests = stable.requests + candidate.requests
    measured = round(100 * candidate.requests / requests, 2) if requests else None
    return Point(round(at_s, 3), round(seconds, 3), round(wanted_percent, 2), measured, stable, candidate)


def to_row(of: Point) -> list[Any]:
    """Return a point as plain values, for a row of JSON."""
    return [of.seconds, of.wanted_percent, of.measured_percent, *astuple(of.stable), *astuple(of.candidate)]


def from_row(at_s: float, row: Sequence[Any]) -> Point:
    """Return the point that `to_row` wrote."""
    return Point(at_s, row[0], row[1], row[2], Side(*row[3:7]), Side(*row[7:11]))


def columns(points: Iterable[Point]) -> dict[str, Any]:
    """Return points in the order of time as columns, each time once."""
    rows = sorted({each.at_s: each for each in points}.values(), key=lambda each: each.at_s)
    return {
        "at": [each.at_s for each in rows],
        "seconds": [each.seconds for each in rows],
        "wanted_percent": [each.wanted_percent for each in rows],
        "measured_percent": [each.measured_percent for each in rows],
        "stable": _columns([each.stable for each in rows]),
        "candidate": _columns([each.candidate for each in rows]),
    }


def _columns(sides: Sequence[Side]) -> dict[str, Any]:
    return {
        "requests": [each.requests for each in sides],
        "error_share": [each.error_share for each in sides],
        "p50_ms": [each.p50_ms for each in sides],
        "p99_ms": [each.p99_ms for each in sides],
    }
