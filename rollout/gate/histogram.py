"""A latency histogram in Envoy's own log-linear buckets: added over Envoys, subtracted over time."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Self


class Bucket(NamedTuple):
    """How many samples lie in [lower_ms, lower_ms + width_ms)."""

    lower_ms: float
    width_ms: float
    samples: int

    @property
    def upper_ms(self) -> float:
        """Where the next bucket begins, rounded as the lower bounds are, so that the two compare equal."""
        return round(self.lower_ms + self.width_ms, 6)


@dataclass(frozen=True, slots=True)
class Histogram:
    """Buckets in rising order, none of them empty. Build it with `of`, which puts any buckets into that form.

    Envoy's buckets have two significant digits, so they are at most 10 % wide and equal in every Envoy: histograms
    of a fleet add up bucket by bucket without any loss.
    """

    buckets: tuple[Bucket, ...] = ()

    @classmethod
    def of(cls, buckets: Iterable[tuple[float, float, int]]) -> Self:
        """From (lower bound, width, count) in any order; equal buckets are added, empty ones left out."""
        counts: dict[tuple[float, float], int] = {}
        for lower_ms, width_ms, count in buckets:
            key = (round(lower_ms, 6), round(width_ms, 6))
            counts[key] = counts.get(key, 0) + count
        return cls(tuple(Bucket(*key, count) for key, count in sorted(counts.items()) if count))

    @property
    def count(self) -> int:
        """All samples."""
        return sum(bucket.samples for bucket in self.buckets)

    def merge(self, other: Histogram) -> Histogram:
        """The samples of both."""
        if not other.buckets:
            return self
        return Histogram.of((*self.buckets, *other.buckets))

    def subtract(self, earlier: Histogram) -> Histogram | None:
        """The samples that came since `earlier`; None when a bucket went down, that is, when it was reset between."""
        rest = Histogram.of((*self.buckets, *(Bucket(b.lower_ms, b.width_ms, -b.samples) for b in earlier.buckets)))
        return None if any(bucket.samples < 0 for bucket in rest.buckets) else rest

    def quantile(self, q: float) -> float | None:
        """The latency in ms below which the share `q` lies, linear inside its bucket; None without samples."""
        found = self._bucket_of(q)
        if found is None:
            return None
        bucket, before = found
        return bucket.lower_ms + bucket.width_ms * min(1.0, max(0.0, (q * self.count - before) / bucket.samples))

    def edge(self, q: float) -> float | None:
        """The upper bound in ms of the bucket that holds the quantile, so `above(edge(q))` is at most 1 - q of all."""
        found = self._bucket_of(q)
        return None if found is None else found[0].upper_ms

    def above(self, edge_ms: float) -> int:
        """The samples in buckets that begin at `edge_ms` or later."""
        return sum(bucket.samples for bucket in self.buckets if bucket.lower_ms >= edge_ms)

    def to_json(self) -> list[list[float]]:
        """Lists of lower bound, width and count."""
        return [list(bucket) for bucket in self.buckets]

    @classmethod
    def from_json(cls, saved: Sequence[Sequence[Any]]) -> Self:
        """The histogram that `to_json` wrote."""
        return cls.of((lower_ms, width_ms, count) for lower_ms, width_ms, count in saved)

    def _bucket_of(self, q: float) -> tuple[Bucket, int] | None:
        """The bucket that holds the quantile, and the samples before it."""
        target, before = q * self.count, 0
        for bucket in self.buckets:
            if before + bucket.samples >= target:
                return bucket, before
            before += bucket.samples
        return None
