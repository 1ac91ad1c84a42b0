"""What an Envoy's admin endpoint says of clusters: what to ask it for, and its answer."""

from __future__ import annotations

import functools
import math
import operator
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from urllib.parse import quote

from rollout.gate.histogram import Bucket, Histogram

NAMES_PER_QUERY = 100
NAMED_BACKENDS = 100  # with more of them an Envoy is asked for all that it knows: a path has at most 60 KiB

_FIELDS: Mapping[str, str] = {
    "upstream_rq_completed": "completed",
    "upstream_rq_5xx": "errors_5xx",
    "upstream_rq_retry": "retries",
    "upstream_rq_timeout": "timeouts",
    "upstream_rq_active": "rq_active",
    "upstream_rq_pending_active": "rq_pending_active",
    "membership_total": "membership_total",
    "membership_healthy": "membership_healthy",
    "upstream_rq_total": "attempts",
    "upstream_rq_502": "gateway_errors",
    "upstream_rq_503": "gateway_errors",
    "upstream_rq_504": "gateway_errors",
    "upstream_rq_pending_failure_eject": "unanswered",
    "upstream_rq_pending_overflow": "unanswered",
    "upstream_rq_active_overflow": "unanswered",
    "upstream_rq_per_try_timeout": "unanswered",
    "upstream_rq_rx_reset": "unanswered",
    "upstream_cx_none_healthy": "unanswered",
    "upstream_cx_destroy_remote_with_active_rq": "unanswered",
    "upstream_cx_total": "connections",
    "upstream_cx_connect_fail": "connect_fails",
}
"""Stat -> field of ClusterStats; those with the same field are added."""
_LATENCY = "upstream_rq_time"
_UPTIME = "server.uptime"
_BACKEND = ("rq_active", "rq_pending_active", "healthy", "rq_success", "rq_error", "rq_total", "cx_connect_fail")
_CLUSTER, _ENDPOINT, _GRPC = "cluster.", ".endpoint.", ".grpc"
_TOTALS = "  totals="


@dataclass(frozen=True, slots=True)
class BackendStats:
    """One backend as one Envoy sees it: the requests that run on it or wait for it, and whether it gets new ones.

    `requests` are attempts that ended, and `errors` those of them that failed: 5xx, a gRPC status of the same meaning,
    a timeout, a broken or refused connection. A retried request counts once for each attempt.
    """

    active: int
    healthy: bool
    requests: int = 0
    errors: int = 0


@dataclass(frozen=True, slots=True)
class Sessions:
    """What one Envoy's TCP proxies did with one backend since its start: connections `made`, attempts that `failed`.

    `waiting` are being made. How long they last and how they end Envoy does not count by backend.
    """

    made: int = 0
    failed: int = 0
    waiting: int = 0

    @property
    def attempts(self) -> int:
        return self.made + self.failed


@dataclass(frozen=True, slots=True)
class ClusterStats:
    """One cluster in one Envoy: counters since its start, gauges as they are.

    `completed` counts each request of a client once, `errors_5xx` its final answers only (attempts that a retry has
    hidden are in `retries`), `timeouts` those that the route's timeout ended. `attempts` are requests that got a
    connection, `gateway_errors` the final 502, 503 and 504, `unanswered` the attempts that no backend answered, the
    route's timeouts aside. `grpc` counts final answers by gRPC status, where there is a `grpc_stats` filter. `backends`
    has those that were asked for, by address. `connections` are those that were begun to the backends, `connect_fails`
    the ones of them that failed. `sessions` are of TCP proxies, by address: see Shared. A cluster which that Envoy does
    not have, or never used, is all zeros.
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
    attempts: int = 0
    gateway_errors: int = 0
    unanswered: int = 0
    grpc: Mapping[int, int] = field(default_factory=dict)
    connections: int = 0
    connect_fails: int = 0
    sessions: Mapping[str, Sessions] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Shared:
    """A cluster that versions share, as TCP proxies have it, and the backends (HOST:PORT) whose connections in it are
    those of one version: `version` is the stat name of that one's own cluster, `cluster` the shared one's."""

    version: str
    cluster: str
    backends: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Query:
    """What to ask each Envoy for: clusters by stat name, and backends (HOST:PORT) whose activity matters.

    `shared` says which connections in other clusters belong to these.
    """

    stat_names: tuple[str, ...]
    backends: tuple[str, ...] = ()
    shared: tuple[Shared, ...] = ()

    def clusters(self) -> tuple[str, ...]:
        """Return all stat names that are needed."""
        return tuple(dict.fromkeys((*self.stat_names, *(each.cluster for each in self.shared))))

    def addresses(self) -> tuple[str, ...]:
        """Return all backends that are needed."""
        return tuple(dict.fromkeys((*self.backends, *(one for each in self.shared for one in each.backends))))


@dataclass(frozen=True, slots=True)
class Scrape:
    """All asked clusters of one Envoy, by stat name, read between two moments of the scraper's clock.

    `uptime_s` is how long it had been running, None when it keeps no such stat; `address` is where it was asked.
    """

    started_s: float
    finished_s: float
    clusters: Mapping[str, ClusterStats]
    uptime_s: int | None = None
    address: str = ""


@functools.lru_cache(maxsize=1024)
def stats_paths(query: Query) -> tuple[str, ...]:
    """What to GET: unused stats left out, native buckets.

    As text, which has a quarter of the size that JSON has, and is as exact.
    """
    names, backends = sorted(query.clusters()), query.addresses()
    chunks = (names[at : at + NAMES_PER_QUERY] for at in range(0, len(names), NAMES_PER_QUERY))
    return tuple(f"/stats?usedonly&histogram_buckets=detailed&filter={_filter(each, backends)}" for each in chunks)


def _filter(stat_names: Sequence[str], backends: Sequence[str]) -> str:
    # RE2 takes every escape that re.escape writes.
    stats = [*_FIELDS, _LATENCY, r"grpc\.(?:.+\.)?[0-9]+"]
    if backends:
        few = len(backends) <= NAMED_BACKENDS
        addresses = "|".join(re.escape(_in_stat(each)) for each in backends) if few else ".+"
        stats.append(rf"endpoint\.(?:{addresses})\.(?:{'|'.join(_BACKEND)})")
    names = "|".join(map(re.escape, stat_names))
    return quote(rf"^(?:{re.escape(_UPTIME)}|cluster\.(?:{names})\.(?:{'|'.join(stats)}))$", safe="")


def _in_stat(address: str) -> str:
    """Envoy writes a colon in a stat's name as an underscore."""
    return address.replace(":", "_")


@dataclass(slots=True)
class _Found:
    """What an answer has of one cluster so far."""

    fields: dict[str, int] = field(default_factory=dict)
    latency: Histogram = field(default_factory=Histogram)
    grpc: dict[int, int] = field(default_factory=dict)
    backends: dict[str, dict[str, int]] = field(default_factory=dict)


def parse_stats(answers: Sequence[bytes], query: Query) -> tuple[int | None, Mapping[str, ClusterStats]]:
    """The answers to `stats_paths`: the Envoy's uptime, and each of the clusters; ValueError when it is none."""
    uptime_s: int | None = None
    found = {name: _Found() for name in query.clusters()}
    for answer in answers:
        if not answer:
            raise ValueError("an empty answer; is it an Envoy's admin endpoint?")
        numbers, histograms = _stats(answer)
        for name, histogram in histograms.items():
            cluster = found.get(name.removeprefix(_CLUSTER).removesuffix(f".{_LATENCY}"))
            if cluster is not None:
                cluster.latency = histogram
        uptime_s = numbers.pop(_UPTIME, uptime_s)
        _put(numbers, found)
    asked = {_in_stat(address): address for address in query.backends}
    clusters = {name: _cluster_stats(cluster, asked) for name, cluster in found.items()}
    for each in query.shared:
        clusters[each.version] = _with_sessions(clusters[each.version], found[each.cluster], each.backends)
    return uptime_s, clusters


def _stats(answer: bytes) -> tuple[dict[str, int], dict[str, Histogram]]:
    """All stats of an answer by full name: a line for a number, four for a histogram, of which the second counts."""
    numbers: dict[str, int] = {}
    histograms: dict[str, Histogram] = {}
    lines = iter(answer.decode().removesuffix("\n").split("\n"))
    for line in lines:
        name, separator, value = line.rpartition(": ")
        if separator:
            numbers[name] = int(value)
            continue
        totals = next(lines, "")
        if not line.endswith(":") or not totals.startswith(_TOTALS):
            raise ValueError(f"not a stat of Envoy's: {line[:40]!r}")
        histograms[line[:-1]] = _histogram(totals.removeprefix(_TOTALS))
        _skip(lines, "  intervals=", "  summary=")
    _check(numbers.values())
    return numbers, histograms


def _skip(lines: Iterator[str], *starts: str) -> None:
    """`intervals` is since the last flush, whoever caused it, and `summary` has quantiles, which do not add up."""
    for start in starts:
        line = next(lines, "")
        if not line.startswith(start):
            raise ValueError(f"not a histogram of Envoy's: {line[:40]!r}")


def _check(counts: Collection[int]) -> None:
    """Envoy counts in 64 bits, without a sign; whoever answers is not to be trusted with more."""
    if counts and not (min(counts) >= 0 and max(counts) < 2**64):
        raise ValueError("more than Envoy can count, or less than nothing")


@functools.lru_cache(maxsize=4096)
def _bounds(text: str) -> tuple[float, float]:
    """Of a bucket, as `1.1,0.1`."""
    lower, _, width = text.partition(",")
    bounds = round(float(lower), 6), round(float(width), 6)
    if all(math.isfinite(bound) and bound >= 0 for bound in bounds):
        return bounds
    raise ValueError(f"{text[:40]!r} are no bounds of a bucket")


_bucket: Callable[[tuple[float, float, int]], Bucket] = functools.partial(tuple.__new__, Bucket)
"""Half of the time to read an answer goes into buckets; this is how a NamedTuple is made without its constructor."""


def _histogram(totals: str) -> Histogram:
    """`totals` is since the start: `1.1,0.1:60, 20,1:40`, in rising order and none empty, as a Histogram has them."""
    if not totals:
        return Histogram()
    parts = totals.replace(":", ", ").split(", ")
    bounds, samples = list(map(_bounds, parts[::2])), list(map(int, parts[1::2]))
    _check(samples)
    buckets = map(_bucket, [(*each, count) for each, count in zip(bounds, samples, strict=True)])
    in_order = all(map(operator.lt, bounds, bounds[1:])) and all(samples)
    return Histogram(tuple(buckets)) if in_order else Histogram.of(buckets)


def _put(numbers: Mapping[str, int], found: Mapping[str, _Found]) -> None:
    """Stats to their clusters, by whole names, so that dots in a cluster's name do no harm; others are none of ours."""
    for name, value in numbers.items():
        prefix, _, stat = name.removeprefix(_CLUSTER).rpartition(".")
        field_name = _FIELDS.get(stat)
        if field_name is not None:
            if prefix in found:
                fields = found[prefix].fields
                fields[field_name] = fields.get(field_name, 0) + value
        elif stat in _BACKEND:
            of, _, address = prefix.rpartition(_ENDPOINT)
            if of in found:
                found[of].backends.setdefault(address, {})[stat] = value
        elif stat.isdigit() and len(stat) < 10:
            cluster = _with_grpc(found, prefix)
            if cluster is not None:
                cluster.grpc[int(stat)] = cluster.grpc.get(int(stat), 0) + value


def _with_grpc(found: Mapping[str, _Found], prefix: str) -> _Found | None:
    """The cluster of `NAME.grpc` or `NAME.grpc.SERVICE.METHOD`, where either name may have `.grpc` in it as well."""
    end = len(prefix)
    while (end := prefix.rfind(_GRPC, 0, end)) >= 0:
        rest = prefix[end + len(_GRPC) :]
        if prefix[:end] in found and (not rest or rest.startswith(".")):
            return found[prefix[:end]]
    return None


def _cluster_stats(found: _Found, asked: Mapping[str, str]) -> ClusterStats:
    backends = {
        asked[address]: known
        for address, stats in found.backends.items()
        if address in asked and (known := _backend_stats(stats)) is not None
    }
    return ClusterStats(**found.fields, latency=found.latency, backends=backends, grpc=found.grpc, sessions={})


def _backend_stats(stats: Mapping[str, int]) -> BackendStats | None:
    """None when the Envoy does not say all that matters of a backend."""
    if not all(stat in stats for stat in _BACKEND[:3]):
        return None
    errors = stats.get("rq_error", 0)
    active = stats["rq_active"] + stats["rq_pending_active"]
    return BackendStats(active, stats["healthy"] > 0, stats.get("rq_success", 0) + errors, errors)


def _with_sessions(stats: ClusterStats, shared: _Found, backends: Iterable[str]) -> ClusterStats:
    """A version's stats with its backends' connections in a cluster that it shares; they are attempts like others."""
    sessions = {
        address: Sessions(known.get("rq_total", 0), known.get("cx_connect_fail", 0), known["rq_pending_active"])
        for address in backends
        if "rq_pending_active" in (known := shared.backends.get(_in_stat(address), {}))
    }
    own = {
        address: replace(
            known, requests=known.requests + sessions[address].attempts, errors=known.errors + sessions[address].failed
        )
        for address, known in stats.backends.items()
        if address in sessions
    }
    return replace(stats, sessions={**stats.sessions, **sessions}, backends={**stats.backends, **own})
