"""How others decide about a rollout, written from what their documents and sources say they do; for gates.py.

Each is fed with the same looks as this project's judge, one a second, and has settings that are fast and still
sensible. Their limits on the candidate's latency are set with what nobody has: exact knowledge of stable's p99.
"""

import math
from collections import deque
from collections.abc import Iterator, Sequence
from itertools import groupby, product
from statistics import NormalDist, fmean, median

from rollout.forecast.course import Act
from rollout.gate.sample import Quantile, Stratum, Tally

LEAST_SUCCESS = 0.99  # the threshold in the documents' examples
ONE_IN_A_HUNDRED = NormalDist().inv_cdf(0.99)


def meets_limits(tally: Tally) -> bool | None:
    """Whether a metric window is within static limits: success share, and p99 below 1.25 times stable's usual one.

    None when nobody asked anything.
    """
    if not tally.requests:
        return None
    return tally.error_share <= 1 - LEAST_SUCCESS and tally.late[Quantile.P99] <= 0.01 * tally.timed


class Window:
    """The candidate's last seconds."""

    def __init__(self, length_s: int) -> None:
        self._seconds: deque[Tally] = deque(maxlen=length_s)

    def add(self, tally: Tally) -> None:
        self._seconds.append(tally)

    @property
    def total(self) -> Tally:
        return merged(self._seconds)


def merged(tallies: Sequence[Tally] | deque[Tally]) -> Tally:
    total = Tally()
    for tally in tallies:
        total = total.merge(tally)
    return total


class Flagger:
    """A counter of failed checks over the whole analysis; every interval that is not failed is a step up.

    The number of failures is looked at before the check, so the last one acts an interval later. No data is a failure.
    """

    def __init__(self, interval_s: int, threshold: int) -> None:
        self._interval_s, self._threshold = interval_s, threshold
        self._window = Window(interval_s)
        self._began_s, self._failed = 0, 0

    def begin(self, stage: int, at_s: int) -> None:  # noqa: ARG002 - all stages are alike
        self._began_s = at_s

    def look(self, at_s: int, stratum: Stratum) -> Act:
        self._window.add(stratum.candidate)
        if (at_s - self._began_s) % self._interval_s:
            return Act.KEEP
        if self._failed >= self._threshold:
            return Act.ROLLBACK
        if meets_limits(self._window.total):
            return Act.PROMOTE
        self._failed += 1
        return Act.KEEP


class ArgoRollouts:
    """An analysis run for each stage: so many measurements, of which so many may fail."""

    def __init__(self, interval_s: int, count: int, failure_limit: int) -> None:
        self._interval_s, self._count, self._limit = interval_s, count, failure_limit
        self._window = Window(interval_s)
        self._began_s, self._measured, self._failed, self._errors = 0, 0, 0, 0

    def begin(self, stage: int, at_s: int) -> None:  # noqa: ARG002 - all stages are alike
        self._began_s, self._measured, self._failed, self._errors = at_s, 0, 0, 0

    def look(self, at_s: int, stratum: Stratum) -> Act:
        self._window.add(stratum.candidate)
        if (at_s - self._began_s) % self._interval_s:
            return Act.KEEP
        met = meets_limits(self._window.total)
        if met is None:  # a measurement that is none; four in a row may be
            self._errors += 1
            return Act.ROLLBACK if self._errors > 4 else Act.KEEP
        self._errors = 0
        self._measured += 1
        self._failed += not met
        if self._failed > self._limit:
            return Act.ROLLBACK
        return Act.PROMOTE if self._measured >= self._count else Act.KEEP


class PeekedZ:
    """A one-sided z-test at 1 % for errors and for requests beyond stable's p95 and p99, looked at every second."""

    def __init__(self, stage_s: int) -> None:
        self._stage_s = stage_s
        self._began_s = 0
        self._stable, self._candidate = Tally(), Tally()

    def begin(self, stage: int, at_s: int) -> None:  # noqa: ARG002 - all stages are alike
        self._began_s = at_s
        self._stable, self._candidate = Tally(), Tally()

    def look(self, at_s: int, stratum: Stratum) -> Act:
        self._stable = self._stable.merge(stratum.stable)
        self._candidate = self._candidate.merge(stratum.candidate)
        if any(z > ONE_IN_A_HUNDRED for z in self._scores()):
            return Act.ROLLBACK
        return Act.PROMOTE if at_s - self._began_s >= self._stage_s else Act.KEEP

    def _scores(self) -> Iterator[float]:
        stable, candidate = self._stable, self._candidate
        sizes = (stable.requests, candidate.requests)
        yield z_score((stable.errors, candidate.errors), sizes)
        for quantile in (Quantile.P95, Quantile.P99):
            if quantile in stable.slow and quantile in candidate.slow:
                yield z_score((stable.slow[quantile], candidate.slow[quantile]), sizes)


def z_score(bad: tuple[int, int], sizes: tuple[int, int]) -> float:
    """How many standard deviations the second share is above the first; 0 while there is nothing to divide by."""
    if not all(sizes):
        return 0.0
    share = sum(bad) / sum(sizes)
    deviation = math.sqrt(share * (1 - share) * (1 / sizes[0] + 1 / sizes[1]))
    return (bad[1] / sizes[1] - bad[0] / sizes[0]) / deviation if deviation else 0.0


class Kayenta:
    """Points of both versions, taken at intervals, compared by Mann and Whitney's test once, at the end of a stage."""

    def __init__(self, interval_s: int, points: int) -> None:
        self._interval_s, self._points = interval_s, points
        self._began_s = 0
        self._stable, self._candidate = Tally(), Tally()
        self._series: list[tuple[Tally, Tally]] = []

    def begin(self, stage: int, at_s: int) -> None:  # noqa: ARG002 - all stages are alike
        self._began_s = at_s
        self._series = []
        self._stable, self._candidate = Tally(), Tally()

    def look(self, at_s: int, stratum: Stratum) -> Act:
        self._stable = self._stable.merge(stratum.stable)
        self._candidate = self._candidate.merge(stratum.candidate)
        if (at_s - self._began_s) % self._interval_s:
            return Act.KEEP
        self._series.append((self._stable, self._candidate))
        self._stable, self._candidate = Tally(), Tally()
        if len(self._series) < self._points:
            return Act.KEEP
        return Act.ROLLBACK if any(self._worse()) else Act.PROMOTE

    def _worse(self) -> Iterator[bool]:
        known = [(stable, candidate) for stable, candidate in self._series if stable.requests and candidate.requests]
        if 2 * len(known) <= self._points:
            yield True  # half of it is no data
            return
        for share in (_error_share, _beyond_p95, _beyond_p99):
            yield is_high([share(stable) for stable, _ in known], [share(candidate) for _, candidate in known])


def _error_share(tally: Tally) -> float:
    return tally.error_share


def _beyond_p95(tally: Tally) -> float:
    """It stands for the p95, of which the looks say only how many requests exceed stable's."""
    return tally.slow[Quantile.P95] / tally.timed


def _beyond_p99(tally: Tally) -> float:
    return tally.slow[Quantile.P99] / tally.timed


def is_high(control: Sequence[float], experiment: Sequence[float]) -> bool:
    """Whether the second sample lies higher: the lower end of the shift's 98 % interval exceeds a tolerance.

    The tolerance is a quarter of the shift's estimate, and the second mean must not be below the first.
    """
    if list(control) == list(experiment):
        return False
    estimate = median(after - before for before, after in product(control, experiment))
    return _lower_end(control, experiment) > 0.25 * abs(estimate) and fmean(experiment) >= fmean(control)


def _lower_end(control: Sequence[float], experiment: Sequence[float]) -> float:
    """The shift at which the test would no longer see a difference, by bisection."""
    shifts = [after - before for before, after in product(control, experiment)]
    low, high = min(shifts), max(shifts)
    for _ in range(40):
        middle = (low + high) / 2
        if _score(control, [value - middle for value in experiment]) > ONE_IN_A_HUNDRED:
            low = middle
        else:
            high = middle
    return low


def _score(control: Sequence[float], experiment: Sequence[float]) -> float:
    """The standardised rank-sum statistic, with corrections for ties and for continuity."""
    pairs = list(product(control, experiment))
    wins = sum(after > before for before, after in pairs) + sum(after == before for before, after in pairs) / 2
    everybody = len(control) + len(experiment)
    ties = sum(n**3 - n for n in (len(list(same)) for _, same in groupby(sorted([*control, *experiment]))))
    variance = len(pairs) / 12 * (everybody + 1 - ties / (everybody * (everybody - 1)))
    above = wins - len(pairs) / 2
    return (above - math.copysign(0.5, above)) / math.sqrt(variance) if variance > 0 else 0.0
