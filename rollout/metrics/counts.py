"""What one cluster of one Envoy did between two scrapes: counts, which add up over time and over Envoys."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from rollout.gate.histogram import Histogram
from rollout.metrics.envoy import ClusterStats, Scrape, Sessions

GRPC_FAULTS = frozenset({2, 4, 12, 13, 14, 15})
"""The gRPC statuses that are the server's fault: UNKNOWN, DEADLINE_EXCEEDED, UNIMPLEMENTED, INTERNAL, UNAVAILABLE and
DATA_LOSS. They are the ones that Envoy translates to 5xx, and that OpenTelemetry calls a server's errors; the others
depend on what the client asked for or on how much (RESOURCE_EXHAUSTED is a 429)."""


@dataclass(frozen=True, slots=True)
class Counts:
    """What one version did in some span of time.

    `requests` are finished ones, each counted once however often it was retried; `errors` those of them that ended
    in 5xx for the client; `retries` attempts that Envoy repeated; `timeouts` requests that the route's timeout ended,
    `refused` those that Envoy answered for the backend: no connection, one that broke, no healthy backend, a circuit
    breaker, a try's timeout. Neither of these two has a sample in `latency`. `grpc` has the answers by gRPC status.
    `started` are requests that began, `active` those that run at the end of the span. `connections` to backends were
    begun, `connect_fails` of them failed.

    A connection of a TCP proxy is a request that ends as soon as it is made, or could not be made, which is an error:
    Envoy tells no more of it by backend, and one that lasts for days must not look as if it hung.
    """

    requests: int = 0
    errors: int = 0
    retries: int = 0
    timeouts: int = 0
    refused: int = 0
    started: int = 0
    active: int = 0
    grpc: Mapping[int, int] = field(default_factory=dict)
    latency: Histogram = field(default_factory=Histogram)
    connections: int = 0
    connect_fails: int = 0

    def merge(self, other: Counts) -> Counts:
        """The sum of two Envoys, or of two spans; of spans that follow each other `active` is no sum, so set it."""
        return Counts(
            requests=self.requests + other.requests,
            errors=self.errors + other.errors,
            retries=self.retries + other.retries,
            timeouts=self.timeouts + other.timeouts,
            refused=self.refused + other.refused,
            started=self.started + other.started,
            active=self.active + other.active,
            grpc=_added(self.grpc, other.grpc),
            latency=self.latency.merge(other.latency),
            connections=self.connections + other.connections,
            connect_fails=self.connect_fails + other.connect_fails,
        )

    @property
    def timed(self) -> int:
        """The requests whose slowness is known: those with a latency sample, the timed out and the refused ones."""
        return self.latency.count + self.timeouts + self.refused

    @property
    def grpc_answers(self) -> int:
        """The answers that had a gRPC status."""
        return sum(self.grpc.values())

    @property
    def grpc_faults(self) -> int:
        """The answers whose gRPC status is the server's fault."""
        return sum(count for status, count in self.grpc.items() if status in GRPC_FAULTS)


def _added(one: Mapping[int, int], other: Mapping[int, int]) -> Mapping[int, int]:
    if not one or not other:
        return one or other
    return {status: one.get(status, 0) + other.get(status, 0) for status in sorted(one.keys() | other.keys())}


def increments(before: Scrape, after: Scrape, stat_name: str) -> Counts | None:
    """What happened between two scrapes of one Envoy.

    None when there is nothing to count from: the cluster was not asked for before, or Envoy restarted, or the cluster
    was removed and added, so that a counter went down; then `after` is the new baseline. A changed cluster (CDS)
    restarts its histogram alone: all of the new one came since then, and the samples between `before` and the change
    are lost: they are in `requests`, but neither in `timed` nor slow.
    """
    earlier, later = before.clusters.get(stat_name), after.clusters.get(stat_name)
    if earlier is None or later is None or restarted(before, after):
        return None
    grown = tuple(new - old for new, old in zip(_counters(later), _counters(earlier), strict=True))
    requests, errors, retries, timeouts, attempts, gateway_errors, unanswered, connections, connect_fails = grown
    statuses = _grown(earlier.grpc, later.grpc)
    if min(grown) < 0 or statuses is None:
        return None
    latency = later.latency.subtract(earlier.latency)
    sessions = sessions_between(earlier, later)
    return Counts(
        requests=requests + sessions.attempts,
        errors=errors + sessions.failed,
        retries=retries,
        timeouts=timeouts,
        # An attempt without an answer may have been retried, and a backend may send a 503 itself: neither is too many.
        refused=max(0, min(unanswered, gateway_errors - timeouts)),
        # Requests that their clients gave up are not in the first, those that got no connection not in the second.
        started=max(0, requests + _running(later) - _running(earlier), attempts - retries) + begun(sessions),
        active=_running(later) + sum(each.waiting for each in later.sessions.values()),
        grpc=statuses,
        latency=later.latency if latency is None else latency,
        connections=connections + sessions.attempts,
        connect_fails=connect_fails + sessions.failed,
    )


def sessions_between(earlier: ClusterStats, later: ClusterStats) -> Sessions:
    """What TCP proxies did in between with the backends that were there before; `waiting` is how many more wait.

    One that an Envoy has anew counts from nothing again, and so not at all.
    """
    if not later.sessions:
        return Sessions()
    grown = [
        Sessions(new.made - old.made, new.failed - old.failed, new.waiting - old.waiting)
        for address, new in later.sessions.items()
        if (old := earlier.sessions.get(address)) is not None
    ]
    known = [each for each in grown if min(each.made, each.failed) >= 0]
    return Sessions(*(sum(getattr(each, name) for each in known) for name in ("made", "failed", "waiting")))


def begun(sessions: Sessions) -> int:
    """How many connections were begun in a span: what its end found waiting was, what its beginning found was not."""
    return max(0, sessions.attempts + sessions.waiting)


def restarted(before: Scrape, after: Scrape) -> bool:
    """Whether it is another process that answered: its counters may be past the old ones already."""
    if before.address != after.address:
        return True
    return before.uptime_s is not None and after.uptime_s is not None and after.uptime_s < before.uptime_s


def _counters(stats: ClusterStats) -> tuple[int, ...]:
    return (
        stats.completed,
        stats.errors_5xx,
        stats.retries,
        stats.timeouts,
        stats.attempts,
        stats.gateway_errors,
        stats.unanswered,
        stats.connections,
        stats.connect_fails,
    )


def _running(stats: ClusterStats) -> int:
    return stats.rq_active + stats.rq_pending_active


def _grown(earlier: Mapping[int, int], later: Mapping[int, int]) -> Mapping[int, int] | None:
    """None when one went down; those that stayed as they were are left out."""
    grown = {status: count - earlier.get(status, 0) for status, count in later.items()}
    if earlier.keys() - later.keys() or any(count < 0 for count in grown.values()):
        return None
    return {status: count for status, count in grown.items() if count}
