"""What an Envoy's admin endpoint says of clusters: the query, its answer, and the increments between two answers."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote

from rollout.gate import Counts, Histogram

NAMES_PER_QUERY = 100

_COUNTERS: Mapping[str, str] = {
    "upstream_rq_completed": "completed",
    "upstream_rq_5xx": "errors_5xx",
    "upstream_rq_retry": "retries",
    "upstream_rq_timeout": "timeouts",
    "upstream_rq_active": "rq_active",
    "upstream_rq_pending_active": "rq_pending_active",
    "membership_total": "membership_total",
    "membership_healthy": "membership_healthy",
}
_LATENCY = "upstream_rq_time"
_BACKEND = ("rq_active", "rq_pending_active", "healthy")


@dataclass(frozen=True, slots=True)
class BackendStats:
    """One backend as one Envoy sees it: the requests that run on it or wait for it, and whether it gets new ones."""

    active: int
    healthy: bool


@dataclass(frozen=True, slots=True)
class ClusterStats:
    """One cluster in one Envoy: counters since its start, gauges as they are.

    `completed` counts each request of a client once, `errors_5xx` its final answers only (attempts that a retry has
    hidden are in `retries`). `backends` has those that were asked for, by address. Neither timeouts nor refused
    connections have a sample in `latency`. A cluster which that
    Envoy does not have, or never used, is all zeros.
    """

    completed: int = 0
    errors_5xx: int = 0
    retries: int = 0
    timeouts: int = 0
    rq_active: int = 0
    rq_pending_active: int = 0
    membership_total: int = 0
    membership_healthy: int = 0
    latency: Histogram = field(default_factory=Histogram)
    backends: Mapping[str, BackendStats] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Query:
    """What to ask each Envoy for: clusters by stat name, and backends (HOST:PORT) whose activity matters."""

    stat_names: tuple[str, ...]
    backends: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Scrape:
    """All asked clusters of one Envoy, by stat name, read between two moments of the scraper's clock."""

    started_s: float
    finished_s: float
    clusters: Mapping[str, ClusterStats]


def chunks(stat_names: Sequence[str]) -> tuple[tuple[str, ...], ...]:
    """The names, each once, in groups that one query can ask for."""
    distinct = sorted(set(stat_names))
    return tuple(tuple(distinct[at : at + NAMES_PER_QUERY]) for at in range(0, len(distinct), NAMES_PER_QUERY))


def stats_query(stat_names: Sequence[str], backends: Sequence[str] = ()) -> str:
    """The URL-encoded query string that asks for these clusters: unused stats left out, native buckets."""
    # RE2 takes every escape that re.escape writes.
    names = "|".join(map(re.escape, stat_names))
    stats = "|".join((*_COUNTERS, _LATENCY))
    if backends:
        addresses = "|".join(re.escape(_backend_stat(each)) for each in backends)
        stats += rf"|endpoint\.({addresses})\.({'|'.join(_BACKEND)})"
    wanted = quote(rf"^cluster\.({names})\.({stats})$", safe="")
    return f"format=json&usedonly&histogram_buckets=detailed&filter={wanted}"


def _backend_stat(address: str) -> str:
    """Envoy writes a colon in a stat's name as an underscore."""
    return address.replace(":", "_")


def parse_stats(text: bytes, stat_names: Sequence[str], backends: Sequence[str] = ()) -> Mapping[str, ClusterStats]:
    """The answer to a `stats_query`, for each of the names; ValueError when it is none."""
    try:
        found = dict(_stats(json.loads(text)))
        return {name: _cluster_stats(found, name, backends) for name in stat_names}
    except (KeyError, TypeError, AttributeError, OverflowError, RecursionError) as error:
        raise ValueError(f"not the form of Envoy's stats ({type(error).__name__}: {error})") from error


def increments(before: Scrape, after: Scrape, stat_name: str) -> Counts | None:
    """What happened between two scrapes of one Envoy.

    None when there is nothing to count from: the cluster was not asked for before, or a counter went down, for Envoy
    restarted or the cluster was removed and added; then `after` is the new baseline. A changed cluster (CDS) restarts
    its histogram alone: all of the new one came since then, and the samples between `before` and the change are lost.
    """
    earlier, later = before.clusters.get(stat_name), after.clusters.get(stat_name)
    if earlier is None or later is None:
        return None
    grown = (
        later.completed - earlier.completed,
        later.errors_5xx - earlier.errors_5xx,
        later.retries - earlier.retries,
        later.timeouts - earlier.timeouts,
    )
    if min(grown) < 0:
        return None
    latency = later.latency.subtract(earlier.latency)
    return Counts(*grown, latency=later.latency if latency is None else latency)


def _stats(answer: Any) -> Iterator[tuple[str, Any]]:
    """All stats of an answer by full name: numbers, and histograms."""
    for stat in answer["stats"]:
        if "histograms" in stat:
            yield from ((histogram["name"], _histogram(histogram)) for histogram in stat["histograms"]["details"])
        else:
            yield stat["name"], _number(stat["value"])


def _number(value: Any) -> int:
    """A counter or gauge as Envoy has it, 64 bits; whoever answers is not to be trusted with more."""
    if isinstance(value, int) and 0 <= value < 2**64:
        return value
    raise ValueError(f"{str(value)[:40]} is no counter of Envoy's")


def _bound(value: Any) -> float:
    bound = float(value)
    if math.isfinite(bound) and bound >= 0:
        return bound
    raise ValueError(f"{bound} is no bound of a bucket")


def _histogram(stat: Mapping[str, Any]) -> Histogram:
    """`totals` is since the start; `intervals` is since the last flush, whoever caused it."""
    return Histogram.of((_bound(b["lower_bound"]), _bound(b["width"]), _number(b["count"])) for b in stat["totals"])


def _cluster_stats(found: Mapping[str, Any], name: str, backends: Sequence[str]) -> ClusterStats:
    """Looked up by full names, so that dots in a cluster's name do no harm."""
    counters = {field_name: found.get(f"cluster.{name}.{stat}", 0) for stat, field_name in _COUNTERS.items()}
    latency = found.get(f"cluster.{name}.{_LATENCY}", Histogram())
    if not isinstance(latency, Histogram) or not all(isinstance(value, int) for value in counters.values()):
        raise TypeError(f"the stats of {name} are of other kinds")
    seen = {address: _backend_stats(found, f"cluster.{name}.endpoint.{_backend_stat(address)}") for address in backends}
    known = {address: stats for address, stats in seen.items() if stats is not None}
    return ClusterStats(**counters, latency=latency, backends=known)


def _backend_stats(found: Mapping[str, Any], prefix: str) -> BackendStats | None:
    """None when the Envoy does not know the backend, or its cluster keeps no stats by endpoint."""
    active, waiting, healthy = (found.get(f"{prefix}.{stat}") for stat in _BACKEND)
    if active is None or waiting is None or healthy is None:
        return None
    return BackendStats(active + waiting, healthy > 0)
