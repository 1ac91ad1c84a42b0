"""What one look sees: the increments of both versions, by groups of Envoys that route alike."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from rollout.gate.checks import Reading


class Quantile(StrEnum):
    """Of stable's latency in the past: a request beyond it is slow."""

    P75 = "p75"
    P95 = "p95"
    P99 = "p99"
    P999 = "p999"


LATE = (Quantile.P95, Quantile.P99)
"""Beyond these times the latency tolerance a request is late, which is what passing looks at."""
USUAL_SLOW: Mapping[Quantile, float] = {
    Quantile.P75: 0.25,
    Quantile.P95: 0.05,
    Quantile.P99: 0.01,
    Quantile.P999: 0.001,
}
USUAL_LATE: Mapping[Quantile, float] = {Quantile.P95: 0.018, Quantile.P99: 0.003}


@dataclass(frozen=True, slots=True)
class Past:
    """What is known of stable from before a stage: it sets the stakes, and where slow begins.

    `errors`, `slow` and `late` are shares of its requests; they are guesses that bets are placed by, so a wrong one
    costs time and no validity. `slow_ms` and `late_ms` say from which latency on a request counts as slow or late; a
    quantile without one is not judged. `p99_ms` is its latency, 0 while unknown. `rate_rps` are the requests a second
    of the whole service, None while unknown. `phi` is the size of the clusters in which its errors come, 1: one by one;
    `slow_phi` that of its slow requests. `untimed`: its requests have no latencies, as connections of TCP proxies, so
    there is none to judge.
    """

    errors: float = 0.001
    slow: Mapping[Quantile, float] = field(default_factory=lambda: dict(USUAL_SLOW))
    late: Mapping[Quantile, float] = field(default_factory=lambda: dict(USUAL_LATE))
    phi: float = 1.0
    slow_phi: float = 1.0
    rate_rps: float | None = None
    p99_ms: float = 0.0
    slow_ms: Mapping[Quantile, float] = field(default_factory=dict)
    late_ms: Mapping[Quantile, float] = field(default_factory=dict)
    untimed: bool = False


@dataclass(frozen=True, slots=True)
class Tally:
    """What one version did in some span of time, as the tests count it.

    `requests` are finished ones, each counted once however often it was retried, and `errors` the bad ones of them.
    `timed` are those whose slowness is known: with a latency, or timed out, or refused. `slow` and `late` count those
    of them beyond stable's quantiles; a quantile that has no edge is missing. `started` are requests that began,
    `active` those that run at the end of the span.
    """

    requests: int = 0
    errors: int = 0
    timed: int = 0
    slow: Mapping[Quantile, int] = field(default_factory=dict)
    late: Mapping[Quantile, int] = field(default_factory=dict)
    retries: int = 0
    timeouts: int = 0
    started: int = 0
    active: int = 0

    def merge(self, other: Tally) -> Tally:
        """The sum of two spans, or of two Envoys; a quantile that one of them lacks while it had requests is lost."""
        return Tally(
            requests=self.requests + other.requests,
            errors=self.errors + other.errors,
            timed=self.timed + other.timed,
            slow=_merged(self, other, self.slow, other.slow),
            late=_merged(self, other, self.late, other.late),
            retries=self.retries + other.retries,
            timeouts=self.timeouts + other.timeouts,
            started=self.started + other.started,
            active=self.active + other.active,
        )

    @property
    def error_share(self) -> float:
        """Errors by requests, 0 without requests."""
        return self.errors / self.requests if self.requests else 0.0

    @property
    def retry_share(self) -> float:
        """Retries by requests, 0 without requests; may exceed 1."""
        return self.retries / self.requests if self.requests else 0.0


def _merged(
    one: Tally, other: Tally, ours: Mapping[Quantile, int], theirs: Mapping[Quantile, int]
) -> dict[Quantile, int]:
    if not one.timed and not ours:
        return dict(theirs)
    if not other.timed and not theirs:
        return dict(ours)
    return {quantile: count + theirs[quantile] for quantile, count in ours.items() if quantile in theirs}


@dataclass(frozen=True, slots=True)
class Stratum:
    """The Envoys that route alike: only within it do versions compare.

    `weight_bp` is the candidate's weight that they have ACKed, in basis points. An Envoy whose measured split is
    another one is a group of its own, by its node id; "" is the group of those that do as they should. Sums over
    Envoys with different weights would compare the places, not the versions (Simpson's paradox).
    """

    weight_bp: int
    stable: Tally
    candidate: Tally
    group: str = ""

    def merge(self, other: Stratum) -> Stratum:
        """Two spans of the same group, which is the caller's to see to."""
        stable, candidate = self.stable.merge(other.stable), self.candidate.merge(other.candidate)
        return Stratum(self.weight_bp, stable, candidate, self.group)


@dataclass(frozen=True, slots=True)
class Host:
    """What one backend of the candidate answered, over all Envoys: attempts, and the failed ones of them."""

    requests: int
    errors: int


@dataclass(frozen=True, slots=True)
class Look:
    """All increments since the look before; a group may be absent, or come more than once.

    `at_s` is the engine's time. `past` was fixed before these increments began. `blind` says for each Envoy that could
    not be read why: "envoy-2: no answer from 10.0.0.1:9901 for 6 s"; `astray` names each that routes otherwise than it
    has ACKed. `hosts` has the candidate's backends by address, where Envoys keep stats of them. `readings` are what
    checks have measured since the look before. `names` are the two versions', for words.
    """

    at_s: float
    strata: tuple[Stratum, ...]
    past: Past = field(default_factory=Past)
    blind: tuple[str, ...] = ()
    astray: tuple[str, ...] = ()
    hosts: Mapping[str, Host] = field(default_factory=dict)
    readings: tuple[Reading, ...] = ()
    names: tuple[str, str] = ("stable", "the candidate")
