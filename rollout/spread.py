"""How long many things took: counted in buckets, for histograms of Prometheus."""

from bisect import bisect_left
from collections.abc import Sequence
from itertools import accumulate

QUICK_S = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0)
"""For what takes from a millisecond to some seconds."""
LONG_S = (5.0, 10.0, 20.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1_800.0, 3_600.0, 14_400.0, 86_400.0)
"""For what takes from seconds to a day."""


class Spread:
    """Durations in seconds; `bounds` are the upper ends of the buckets, rising."""

    __slots__ = ("_bounds", "_counts", "total_s")

    def __init__(self, bounds: Sequence[float]) -> None:
        self._bounds = bounds
        self._counts = [0] * (len(bounds) + 1)
        self.total_s = 0.0

    def add(self, seconds: float) -> None:
        self._counts[bisect_left(self._bounds, seconds)] += 1
        self.total_s += seconds

    def buckets(self) -> list[tuple[str, float]]:
        """Return by upper end, as Prometheus writes it, how many took at most so long."""
        names = [*(f"{bound:g}" for bound in self._bounds), "+Inf"]
        return [(name, float(count)) for name, count in zip(names, accumulate(self._counts), strict=True)]
