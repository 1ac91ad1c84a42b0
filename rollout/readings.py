"""Readings of the candidate's stats in Envoys: what looks count, gathered over each check's interval."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from rollout import machine
from rollout.checks import CheckSpec, EnvoyMetric
from rollout.gate.checks import NO_ANSWER_MS, Reading
from rollout.metrics import Counts
from rollout.record import Rollout
from rollout.state import Phase

_QUANTILES: Mapping[EnvoyMetric, float] = {EnvoyMetric.P50: 0.5, EnvoyMetric.P95: 0.95, EnvoyMetric.P99: 0.99}


@dataclass(frozen=True, slots=True)
class Stage:
    """One stay of a rollout at a stage, from when every Envoy had its weight on: what is read belongs to it alone."""

    service: str
    rollout: int
    stage: int
    converged_s: float


@dataclass(slots=True)
class _Span:
    """What the candidate has done since a check's last reading, and when that was."""

    since_s: float
    counts: Counts = field(default_factory=Counts)

    def after(self, check: CheckSpec, counts: Counts, now_s: float) -> Reading | None:
        """Add a look; return the reading that it completes."""
        assert check.metric is not None, check
        self.counts = self.counts.merge(counts)
        elapsed_s = now_s - self.since_s
        if elapsed_s < check.interval.total_seconds():
            return None
        value = measured(check.metric, self.counts, elapsed_s)
        self.since_s, self.counts = now_s, Counts()
        return None if value is None else Reading(check.label, now_s, value)


@dataclass(slots=True)
class _Stay:
    """What is gathered during one stay at a stage, check by check."""

    stage: Stage
    spans: dict[str, _Span]


class Readings:
    """Hands each look its readings: of Envoy's stats, and those that `outside` has taken for a rollout's stage."""

    def __init__(self, outside: Callable[[Rollout], Iterable[Reading]]) -> None:
        self._outside = outside
        self._stays: dict[str, _Stay] = {}

    def after(self, rollout: Rollout, candidate: Counts, now_s: float) -> tuple[Reading, ...]:
        """Add what the candidate did since the look before; return the readings that are complete now."""
        return (*self._of_envoys(rollout, candidate, now_s), *self._outside(rollout))

    def forget(self, service: str) -> None:
        """Drop what was gathered for a rollout that is over."""
        self._stays.pop(service, None)

    def _of_envoys(self, rollout: Rollout, candidate: Counts, now_s: float) -> Iterator[Reading]:
        stage, known = stage_of(rollout), self._stays.get(rollout.service)
        checks = {check.label: check for check in checks_of(rollout) if check.metric is not None}
        if stage is None or not checks:
            self.forget(rollout.service)
        elif known is None or known.stage != stage:
            # What this look has counted began before the stage did.
            self._stays[rollout.service] = _Stay(stage, {label: _Span(now_s) for label in checks})
        else:
            for label, span in known.spans.items():
                reading = span.after(checks[label], candidate, now_s)
                if reading is not None:
                    yield reading


def stage_of(rollout: Rollout) -> Stage | None:
    """Return the stage that a rollout stands at, paused or not; None before every Envoy has its weight, and outside.

    Of a rollout in waves it is the wave: what is read outside of Envoys is of the whole service.
    """
    state = rollout.state
    if machine.in_waves(rollout.strategy, state):
        return Stage(rollout.service, rollout.id, state.wave, 0.0) if state.lanes else None
    if (state.resume or state.phase) is not Phase.SHIFTING or state.converged_s is None:
        return None
    return Stage(rollout.service, rollout.id, state.stage, state.converged_s)


def checks_of(rollout: Rollout) -> tuple[CheckSpec, ...]:
    """Return what is checked in the stage that a rollout stands at; in waves in those of all its locations."""
    if machine.in_waves(rollout.strategy, rollout.state):
        return _checks_of_lanes(rollout)
    stage = machine.stage_of(rollout.strategy, rollout.state)
    return () if stage is None else (*rollout.strategy.checks, *stage.checks)


def _checks_of_lanes(rollout: Rollout) -> tuple[CheckSpec, ...]:
    found = {check.label: check for check in rollout.strategy.checks}
    for lane in machine.undone(rollout.state).values():
        stage = machine.stage_of(machine.strategy_of(rollout.strategy, lane), lane)
        found |= {check.label: check for check in (stage.checks if stage else ())}
    return tuple(found.values())


def measured(metric: EnvoyMetric, counts: Counts, elapsed_s: float) -> float | None:
    """Return a metric's value in some span; None when nothing in it says anything of that.

    Requests that timed out or were refused have no latency: for the quantiles they are slower than any that has.
    """
    match metric:
        case EnvoyMetric.REQUESTS_PER_S:
            return counts.requests / elapsed_s
        case EnvoyMetric.P50 | EnvoyMetric.P95 | EnvoyMetric.P99:
            return _quantile_ms(counts, _QUANTILES[metric])
        case _:
            return _share(*_parts(metric, counts))


def _parts(metric: EnvoyMetric, counts: Counts) -> tuple[int, int]:
    """Return what a share is of, and of how many."""
    match metric:
        case EnvoyMetric.ERROR_SHARE:
            return counts.errors, counts.requests
        case EnvoyMetric.RETRY_SHARE:
            return counts.retries, counts.requests
        case EnvoyMetric.TIMEOUT_SHARE:
            return counts.timeouts, counts.requests
        case EnvoyMetric.GRPC_ERROR_SHARE:
            return counts.grpc_faults, counts.grpc_answers
        case EnvoyMetric.CONNECT_FAIL_SHARE:
            return counts.connect_fails, counts.connections
        case _:
            raise AssertionError(f"{metric} is no share")


def _share(part: int, whole: int) -> float | None:
    return part / whole if whole else None


def _quantile_ms(counts: Counts, quantile: float) -> float | None:
    if not counts.timed:
        return None
    below = quantile * counts.timed
    answered = counts.latency.count
    return NO_ANSWER_MS if below > answered else counts.latency.quantile(below / answered)
