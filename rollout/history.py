"""What one version of a service has done lately: sums that fade, from which the judge's Past is made."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from rollout.gate import Bucket, Gate, Histogram
from rollout.gate.betting import dispersion_of
from rollout.gate.sample import LATE, USUAL_LATE, USUAL_SLOW, Host, Past, Quantile
from rollout.gate.settings import Errors

WINDOW_S = 10.0
HALF_LIFE_S = 1800.0  # of time with requests: what a service did before a quiet night is still known in the morning
RATE_HALF_LIFE_S = 30.0
RATE_LEAST_S = 3.0
PHI_LEAST_S = 600.0
PHI_MOST = 30.0  # one host that failed alone for a while must not blind the judge for hours
BUCKETS_LIMIT = 300
LEAST_TIMED: Mapping[Quantile, float] = {
    Quantile.P75: 20.0,
    Quantile.P95: 20.0,
    Quantile.P99: 100.0,
    Quantile.P999: 2000.0,
}
"""So many requests must have been timed before a quantile is known."""
USUAL_REQUESTS = 100.0
"""So many requests of a usual service count beside those seen: 1 error in 5 requests does not make 20 %."""
RAREST = 1e-5  # an edge with less beyond it tells nothing that a lower one does not

_PARTS = 1000  # a request is so many parts, so that a histogram of whole numbers can fade
_USUAL_ERRORS = Past().errors


@dataclass(frozen=True, slots=True)
class Window:
    """What one version did in about WINDOW_S, over all Envoys that were read.

    `seconds` is how long each of these was watched. `fleet` is how many Envoys have the service for each that was
    read. `lost` are requests that timed out or were refused: they have no sample in `latency`. `hosts` is by
    backend, where Envoys keep stats of them. `grpc_answers` had a gRPC status, `grpc_faults` a bad one.
    """

    seconds: float
    requests: int = 0
    errors: int = 0
    lost: int = 0
    latency: Histogram = field(default_factory=Histogram)
    hosts: Mapping[str, Host] = field(default_factory=dict)
    grpc_answers: int = 0
    grpc_faults: int = 0
    fleet: float = 1.0


@dataclass(frozen=True, slots=True)
class History:
    """Sums over windows. Each counts half after HALF_LIFE_S more seconds with requests; only `seconds` do not fade.

    `latency` is in thousandths of a request. `spread` and `expected` are phi's numerator and denominator.
    `recent_requests` and `recent_s` are the requests of the whole fleet, and the seconds, of about the last minute.
    """

    seconds: float = 0.0
    requests: float = 0.0
    errors: float = 0.0
    grpc_answers: float = 0.0
    grpc_faults: float = 0.0
    lost: float = 0.0
    latency: Histogram = field(default_factory=Histogram)
    spread: float = 0.0
    expected: float = 0.0
    recent_requests: float = 0.0
    recent_s: float = 0.0

    def after(self, window: Window) -> "History":
        """With one more window. One without requests tells the rate only: a quiet service does not forget itself."""
        following = self._grown(window) if window.requests or window.grpc_answers else self
        kept = 0.5 ** (window.seconds / RATE_HALF_LIFE_S)
        return replace(
            following,
            recent_requests=self.recent_requests * kept + window.requests * window.fleet,
            recent_s=self.recent_s * kept + window.seconds,
        )

    def with_rate_of(self, other: "History") -> "History":
        """With the other's traffic beside its own: from now on it takes both."""
        if not self.recent_s:
            return replace(self, recent_requests=other.recent_requests, recent_s=other.recent_s)
        return replace(self, recent_requests=self.recent_requests + (other.rate_rps or 0.0) * self.recent_s)

    def _grown(self, window: Window) -> "History":
        kept = 0.5 ** (window.seconds / HALF_LIFE_S)
        spread, expected = dispersion_of([(host.requests, host.errors) for host in window.hosts.values()])
        return replace(
            self,
            seconds=self.seconds + window.seconds,
            requests=self.requests * kept + window.requests,
            errors=self.errors * kept + min(window.errors, window.requests),
            grpc_answers=self.grpc_answers * kept + window.grpc_answers,
            grpc_faults=self.grpc_faults * kept + min(window.grpc_faults, window.grpc_answers),
            lost=self.lost * kept + window.lost,
            latency=_bounded(_faded(self.latency, kept, window.latency)),
            spread=self.spread * kept + spread,
            expected=self.expected * kept + expected,
        )

    # --- what it says ---

    @property
    def rate_rps(self) -> float | None:
        """Requests a second in all Envoys, of the last minute or so; None until it was watched for RATE_LEAST_S."""
        return self.recent_requests / self.recent_s if self.recent_s >= RATE_LEAST_S else None

    @property
    def timed(self) -> float:
        """The requests whose slowness is known."""
        return self.latency.count / _PARTS + self.lost

    @property
    def phi(self) -> float:
        """The size of the clusters in which errors come (GATES 5), 1 until it was watched for PHI_LEAST_S."""
        if self.seconds < PHI_LEAST_S or self.expected <= 0:
            return 1.0
        return min(PHI_MOST, max(1.0, self.spread / self.expected))

    def error_share(self, kind: Errors = Errors.HTTP) -> float | None:
        """Errors by requests as they were seen; None without requests."""
        requests, errors = self._counted(kind)
        return errors / requests if requests else None

    def quantile_ms(self, q: float) -> float | None:
        """The latency below which the share `q` of the answered requests lies; None without any."""
        return self.latency.quantile(q)

    def past(self, gate: Gate) -> Past:
        """What the judge may know of it before a stage begins."""
        slow_ms, late_ms = self._edges_ms(gate)
        requests, errors = self._counted(gate.errors)
        return Past(
            errors=_expected(errors, requests, _USUAL_ERRORS),
            slow={each: _expected(self._beyond(ms), self.timed, USUAL_SLOW[each]) for each, ms in slow_ms.items()},
            late={each: _expected(self._beyond(ms), self.timed, USUAL_LATE[each]) for each, ms in late_ms.items()},
            phi=self.phi,
            slow_phi=max(self.phi, gate.slow_cluster),
            rate_rps=self.rate_rps,
            p99_ms=self.quantile_ms(0.99) or 0.0,
            slow_ms=slow_ms,
            late_ms=late_ms,
        )

    def _counted(self, kind: Errors) -> tuple[float, float]:
        grpc = kind is Errors.GRPC
        return (self.grpc_answers, self.grpc_faults) if grpc else (self.requests, self.errors)

    def _edges_ms(self, gate: Gate) -> tuple[dict[Quantile, float], dict[Quantile, float]]:
        """Where slow and late begin.

        p95 and p99 have both as soon as they are known, for passing needs them, however little lies beyond. Another
        quantile is left out where it would count the same as one of these, or hardly anything.
        """
        known = {quantile: self._edge_ms(quantile, gate) for quantile in Quantile}
        slow_ms: dict[Quantile, float] = {}
        for quantile, edge_ms in known.items():
            if edge_ms is None:
                continue
            twin = edge_ms in (known[each] for each in LATE)
            if quantile in LATE or not (twin or self._beyond(edge_ms) < RAREST * self.timed):
                slow_ms[quantile] = edge_ms
        return slow_ms, {each: _later(slow_ms[each], gate) for each in LATE if each in slow_ms}

    def _edge_ms(self, quantile: Quantile, gate: Gate) -> float | None:
        """The smallest bound with no more than the quantile's share beyond it, and what gate.resolution_s adds to it.

        Where more than that share timed out, all that was answered lies below the edge. None while it is not known.
        """
        if self.timed < LEAST_TIMED[quantile] or not self.latency.buckets:
            return None
        allowed = USUAL_SLOW[quantile] * self.timed * _PARTS * (1 + 1e-9)
        beyond = self.lost * _PARTS
        edge_ms = 0.0
        for bucket in reversed(self.latency.buckets):
            beyond += bucket.samples
            if beyond > allowed:
                edge_ms = bucket.upper_ms
                break
        return _bound(edge_ms + _ms(gate.resolution_s))

    def _beyond(self, edge_ms: float) -> float:
        return self.latency.above(edge_ms) / _PARTS + self.lost


def _expected(bad: float, requests: float, usual: float) -> float:
    return (bad + USUAL_REQUESTS * usual) / (requests + USUAL_REQUESTS)


def _later(slow_ms: float, gate: Gate) -> float:
    return _bound(max(gate.latency_tolerance * slow_ms, slow_ms + _ms(gate.resolution_s)))


def _ms(seconds: float) -> float:
    return 1000 * seconds


def _bound(ms: float) -> float:
    """The bound of one of Envoy's buckets at `ms`, or the next: two significant digits, and none below 1 ms."""
    if ms <= 1.0:
        return 1.0
    step = 10.0 ** (math.floor(math.log10(ms)) - 1)
    return round(math.ceil(round(ms / step, 6)) * step, 6)


def _faded(known: Histogram, kept: float, more: Histogram) -> Histogram:
    """What is kept, rounded down so that what hardly counts any more goes, and more requests."""
    old = (Bucket(lower, width, int(samples * kept)) for lower, width, samples in known.buckets)
    new = (Bucket(lower, width, samples * _PARTS) for lower, width, samples in more.buckets)
    return Histogram.of((*old, *new))


def _bounded(histogram: Histogram) -> Histogram:
    """With at most BUCKETS_LIMIT buckets: the emptiest ones are added to the bucket below them."""
    buckets = list(histogram.buckets)
    while len(buckets) > BUCKETS_LIMIT:
        emptiest = min(range(1, len(buckets)), key=lambda at: buckets[at].samples)
        below = buckets[emptiest - 1]
        buckets[emptiest - 1] = below._replace(samples=below.samples + buckets.pop(emptiest).samples)
    return histogram if len(buckets) == len(histogram.buckets) else Histogram(tuple(buckets))
