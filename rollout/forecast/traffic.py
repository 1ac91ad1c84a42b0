"""Made-up traffic of one service during a rollout, look by look, from a seed."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from random import Random
from statistics import NormalDist

from rollout.forecast.chance import arrivals, binomial
from rollout.gate.sample import LATE, USUAL_SLOW, Past, Quantile, Stratum, Tally

FULL_BP = 10_000
TAIL = 0.02
"""The share of requests that a candidate with a slow tail is slow in."""
TIMEOUT_S = 15
"""After which Envoy gives up on a request and answers 504, where a route sets no other timeout."""
LONGEST_CLUSTER = 3  # times their mean size
COLD_S = 10
_NORMAL = NormalDist()


@dataclass(frozen=True, slots=True)
class Incident:
    """A shared dependency that fails: `errors` of both versions' requests go wrong, `lasts_s` in each `every_s`."""

    errors: float
    lasts_s: int
    every_s: int

    @property
    def share(self) -> float:
        """What it adds to the error share in the long run."""
        return self.errors * self.lasts_s / self.every_s


@dataclass(frozen=True, slots=True)
class Service:
    """What stable does: requests a second, the share of errors, and lognormal latency (`sigma`: of its logarithm).

    Errors come in clusters of `cluster` requests on average, all of one version (1: one by one). A request counts as
    late from `late_by` times stable's quantile on, the gate's latency tolerance.
    """

    rate_rps: float
    errors: float = 0.001
    median_ms: float = 20.0
    sigma: float = 0.5
    cluster: float = 1.0
    incident: Incident | None = None
    late_by: float = 1.25

    def quantile_ms(self, share_above: float) -> float:
        """The latency that so large a share of requests exceeds."""
        return self.median_ms * math.exp(self.sigma * _NORMAL.inv_cdf(1 - share_above))

    @property
    def mean_ms(self) -> float:
        return self.median_ms * math.exp(self.sigma**2 / 2)

    def past(self) -> Past:
        """What a long history of it would say."""
        slow_ms = {quantile: self.quantile_ms(share) for quantile, share in USUAL_SLOW.items()}
        late_ms = {quantile: self.late_by * slow_ms[quantile] for quantile in LATE}
        return Past(
            errors=self.errors + (self.incident.share if self.incident else 0.0),
            slow=USUAL_SLOW,
            late={quantile: self.share_above(edge_ms) for quantile, edge_ms in late_ms.items()},
            phi=_dispersion(self.cluster),
            rate_rps=self.rate_rps,
            p99_ms=slow_ms[Quantile.P99],
            slow_ms=slow_ms,
            late_ms=late_ms,
        )

    def share_above(self, edge_ms: float) -> float:
        return _above(self._z(edge_ms))

    def _z(self, edge_ms: float) -> float:
        return math.log(edge_ms / self.median_ms) / self.sigma


@dataclass(frozen=True, slots=True)
class Change:
    """How a candidate differs from stable; without arguments it does not.

    `errors` is the share of its requests that go wrong besides those which go wrong anyway. All of its latencies are
    `slower` times stable's, or only those of its slowest requests are `tail` times. The share `hangs` of its requests
    is never answered. All this begins where it has a weight of `from_bp`. Its errors are `cold` times as many in the
    first ten seconds.
    """

    errors: float = 0.0
    slower: float = 1.0
    tail: float = 1.0
    hangs: float = 0.0
    from_bp: int = 0
    cold: float = 1.0

    def share_above(self, service: Service, edge_ms: float) -> float:
        """The share of its answers that take longer."""
        edge_ms /= self.slower
        plain = service.share_above(edge_ms)
        if plain >= TAIL:
            return plain  # all of the tail is beyond it anyway
        return min(TAIL, service.share_above(edge_ms / self.tail))


@dataclass(frozen=True, slots=True)
class _Slowness:
    """The edges one behind the other, each with the share of the requests beyond the edge before that are beyond it."""

    slow: Mapping[Quantile, float]
    late: Mapping[Quantile, float]
    chain: tuple[tuple[float, float], ...]  # edge in ms, share

    @classmethod
    def of(cls, service: Service, change: Change) -> _Slowness:
        past = service.past()
        chain, before = [], 1.0
        for edge_ms in sorted({*past.slow_ms.values(), *past.late_ms.values()}):
            above = change.share_above(service, edge_ms)
            chain.append((edge_ms, above / before if before else 0.0))
            before = above
        return cls(past.slow_ms, past.late_ms, tuple(chain))

    def counted(self, random: Random, timed: int, more: int) -> tuple[Mapping[Quantile, int], Mapping[Quantile, int]]:
        """How many of the timed requests are slow, and late; `more` others are both."""
        left, beyond = timed, {}
        for edge_ms, share in self.chain:
            left = binomial(random, left, share)
            beyond[edge_ms] = left + more
        slow = {quantile: beyond[edge_ms] for quantile, edge_ms in self.slow.items()}
        return slow, {quantile: beyond[edge_ms] for quantile, edge_ms in self.late.items()}


class Traffic:
    """Ask for its looks in their order. The same seed has the same arrivals, whatever weights they are asked with.

    Each request goes to a version by itself, at random, as Envoy's weighted clusters do it.
    """

    def __init__(self, service: Service, change: Change, seed: int) -> None:
        self.service, self.change, self.past = service, change, service.past()
        self._seed = seed
        self._random = Random(seed)  # noqa: S311 - no secrets
        self._began_s = self._random.randrange(min(60, service.incident.every_s)) if service.incident else 0
        self._stable = _Slowness.of(service, Change())
        self._same, self._changed = self._stable, _Slowness.of(service, change)
        self._warm_s: int | None = None  # when the candidate has left its cold start
        self._hung: deque[tuple[int, int]] = deque()  # since when, and how many requests wait for nothing

    def look(self, at_s: int, weight_bp: int, span_s: int = 1) -> Stratum:
        """What both versions did in the seconds that begin at `at_s`."""
        self._random.seed(self._seed * 1_000_003 + at_s)
        all_requests = arrivals(self._random, self.service.rate_rps * span_s)
        candidate_requests = binomial(self._random, all_requests, weight_bp / FULL_BP)
        shared = self._shared_errors(at_s)
        stable = self._stable_tally(all_requests - candidate_requests, shared)
        candidate = self._candidate_tally(at_s, weight_bp, candidate_requests, shared)
        return Stratum(weight_bp, stable, candidate)

    def _shared_errors(self, at_s: int) -> float:
        """The share of all requests that go wrong in this second, whoever answers."""
        incident = self.service.incident
        if incident is None or (at_s - self._began_s) % incident.every_s >= incident.lasts_s:
            return self.service.errors
        return either(self.service.errors, incident.errors)

    def _stable_tally(self, requests: int, errors: float) -> Tally:
        slow, late = self._stable.counted(self._random, requests, 0)
        bad = self._bad(requests, errors)
        active = round(requests * self.service.mean_ms / 1000)
        return Tally(requests, bad, requests, slow, late, started=requests, active=active)

    def _candidate_tally(self, at_s: int, weight_bp: int, started: int, errors: float) -> Tally:
        if started and self._warm_s is None:
            self._warm_s = at_s + COLD_S
        cold = self._warm_s is not None and at_s < self._warm_s
        change = self.change if weight_bp >= self.change.from_bp else Change()
        slowness = self._changed if change is self.change else self._same
        hung = binomial(self._random, started, change.hangs)
        given_up = self._given_up(at_s, hung)
        answered = started - hung
        share = either(errors * (change.cold if cold else 1.0), change.errors)
        slow, late = slowness.counted(self._random, answered, given_up)
        return Tally(
            requests=answered + given_up,
            errors=self._bad(answered, share) + given_up,
            timed=answered + given_up,
            slow=slow,
            late=late,
            timeouts=given_up,
            started=started,
            active=round(answered * change.slower * self.service.mean_ms / 1000) + self.hanging,
        )

    def _given_up(self, at_s: int, hung: int) -> int:
        """How many requests Envoy gives up on now, when so many more begin to hang."""
        given_up = 0
        while self._hung and self._hung[0][0] <= at_s - TIMEOUT_S:
            given_up += self._hung.popleft()[1]
        if hung:
            self._hung.append((at_s, hung))
        return given_up

    def _bad(self, requests: int, share: float) -> int:
        mean = self.service.cluster
        if mean <= 1:
            return binomial(self._random, requests, min(1.0, share))
        clusters = binomial(self._random, requests, min(1.0, share / mean))
        return min(requests, sum(self._cluster(mean) for _ in range(clusters)))

    def _cluster(self, mean: float) -> int:
        """A geometric size."""
        size = 1 + int(math.log(1 - self._random.random()) / math.log(1 - 1 / mean))
        return min(size, round(LONGEST_CLUSTER * mean))

    @property
    def hanging(self) -> int:
        """The candidate's requests that wait in vain."""
        return sum(hung for _, hung in self._hung)


def either(one: float, other: float) -> float:
    """The probability that at least one of two independent things happens."""
    return min(1.0, one + other - one * other)


def candidate_errors(service: Service, change: Change) -> float:
    """The share of the candidate's requests that do not get a good answer, where its change shows."""
    return either(either(service.errors, change.errors), change.hangs)


def _above(z: float) -> float:
    return math.erfc(z / math.sqrt(2)) / 2


def _dispersion(mean: float) -> float:
    """The mean size of the cluster that an error finds itself in: E[size^2] / E[size] of `Traffic._cluster`."""
    if mean <= 1:
        return 1.0
    longest = round(LONGEST_CLUSTER * mean)
    sizes = range(1, longest + 1)
    chances = [(1 - 1 / mean) ** (size - 1) / mean for size in sizes]
    chances[-1] = (1 - 1 / mean) ** (longest - 1)
    of_power = {
        power: sum(size**power * chance for size, chance in zip(sizes, chances, strict=True)) for power in (1, 2)
    }
    return of_power[2] / of_power[1]
