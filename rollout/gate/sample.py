"""What one look sees: the increments of both versions, by groups of Envoys that route alike."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Self

from rollout.gate.histogram import Histogram


@dataclass(frozen=True, slots=True)
class Counts:
    """What one version did in some span of time.

    `requests` are finished ones, each counted once however often it was retried; `errors` those of them that ended
    in 5xx for the client; `retries` attempts that Envoy repeated; `timeouts` requests that the route's timeout ended.
    Timeouts and refused connections have no sample in `latency`.
    """

    requests: int = 0
    errors: int = 0
    retries: int = 0
    timeouts: int = 0
    latency: Histogram = field(default_factory=Histogram)

    def merge(self, other: Counts) -> Counts:
        """The sum of two spans, or of two Envoys."""
        return Counts(
            requests=self.requests + other.requests,
            errors=self.errors + other.errors,
            retries=self.retries + other.retries,
            timeouts=self.timeouts + other.timeouts,
            latency=self.latency.merge(other.latency),
        )

    @property
    def error_share(self) -> float:
        """Errors by requests, 0 without requests."""
        return self.errors / self.requests if self.requests else 0.0

    @property
    def retry_share(self) -> float:
        """Retries by requests, 0 without requests; may exceed 1."""
        return self.retries / self.requests if self.requests else 0.0

    @property
    def timed(self) -> int:
        """The requests whose slowness is known: those with a latency sample, and the timed out ones."""
        return self.latency.count + self.timeouts

    def slow(self, edge_ms: float) -> int:
        """The timed requests that took `edge_ms` or longer; a timeout is slow whatever the edge."""
        return self.latency.above(edge_ms) + self.timeouts

    def to_json(self) -> dict[str, Any]:
        """Plain values for a JSON document."""
        return {
            "requests": self.requests,
            "errors": self.errors,
            "retries": self.retries,
            "timeouts": self.timeouts,
            "latency": self.latency.to_json(),
        }

    @classmethod
    def from_json(cls, saved: Mapping[str, Any]) -> Self:
        """The counts that `to_json` wrote."""
        return cls(
            requests=saved["requests"],
            errors=saved["errors"],
            retries=saved["retries"],
            timeouts=saved["timeouts"],
            latency=Histogram.from_json(saved["latency"]),
        )


@dataclass(frozen=True, slots=True)
class Stratum:
    """The Envoys that have ACKed the same candidate weight, in basis points: only within it do versions compare.

    Sums over Envoys with different weights would compare the places, not the versions (Simpson's paradox).
    """

    weight_bp: int
    stable: Counts
    candidate: Counts

    def merge(self, other: Stratum) -> Stratum:
        """Two spans of the same group, which is the caller's to see to."""
        return Stratum(self.weight_bp, self.stable.merge(other.stable), self.candidate.merge(other.candidate))

    def to_json(self) -> dict[str, Any]:
        """Plain values for a JSON document."""
        return {
            "weight_bp": self.weight_bp,
            "stable": self.stable.to_json(),
            "candidate": self.candidate.to_json(),
        }

    @classmethod
    def from_json(cls, saved: Mapping[str, Any]) -> Self:
        """The stratum that `to_json` wrote."""
        return cls(saved["weight_bp"], Counts.from_json(saved["stable"]), Counts.from_json(saved["candidate"]))


@dataclass(frozen=True, slots=True)
class Look:
    """All increments since the look before; a weight may be absent, or come more than once.

    `blind` says for each Envoy that could not be read why: "envoy-2: no answer from 10.0.0.1:9901 for 6 s".
    """

    strata: tuple[Stratum, ...]
    blind: tuple[str, ...] = ()
