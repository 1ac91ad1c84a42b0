"""A latency histogram in Envoy's own log-linear buckets: added over Envoys, subtracted over time."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple, Self


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

    @classmethod
    def total(cls, histograms: Iterable[Histogram]) -> Self:
        """The samples of all of them."""
        counts: dict[tuple[float, float], int] = {}
        for histogram in histograms:
            for lower_ms, width_ms, samples in histogram.buckets:
                counts[lower_ms, width_ms] = counts.get((lower_ms, width_ms), 0) + samples
        return cls(tuple(Bucket(*bounds, samples) for bounds, samples in sorted(counts.items())))

    def merge(self, other: Histogram) -> Histogram:
        """The samples of both."""
        return Histogram.total((self, other)) if other.buckets else self

    def subtract(self, earlier: Histogram) -> Histogram | None:
        """The samples that came since `earlier`; None when a bucket went down, that is, when it was reset between."""
        left = {(lower_ms, width_ms): samples for lower_ms, width_ms, samples in earlier.buckets}
        rest = []
        for lower_ms, width_ms, samples in self.buckets:
            more = samples - left.pop((lower_ms, width_ms), 0)
            if more < 0:
                return None
            if more:
                rest.append(Bucket(lower_ms, width_ms, more))
        return None if left else Histogram(tuple(rest))

    def quantile(self, q: float) -> float | None:
        """The latency in ms below which the share `q` lies, linear inside its bucket; None without samples."""
        target, before = q * self.count, 0
        for bucket in self.buckets:
            if before + bucket.samples >= target:
                return bucket.lower_ms + bucket.width_ms * min(1.0, max(0.0, (target - before) / bucket.samples))
            before += bucket.samples
        return None

    def above(self, edge_ms: float) -> int:
        """The samples in buckets that begin at `edge_ms` or later."""
        return sum(bucket.samples for bucket in self.buckets if bucket.lower_ms >= edge_ms)
