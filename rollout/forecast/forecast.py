"""What a strategy would do to a service: times and requests of its stages, and what it would catch, by simulation."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import count
from statistics import fmean
from typing import Any

from rollout.forecast.course import Act, Course, Judged, Planned, travel
from rollout.forecast.traffic import Change, Service, Traffic
from rollout.gate.plan import steps
from rollout.gate.settings import Gate
from rollout.spec import Strategy

HEALTHY_LOOKS, CASE_LOOKS = 4_000, 1_000
"""Simulated looks, of about 0.3 ms each: as many rollouts are led as they are enough for."""
LEAST_RUNS = 20
PATIENCE = 4
"""There are at least LEAST_RUNS, unless they would take so many times the looks: then stages are long."""


@dataclass(frozen=True, slots=True)
class Case:
    """Something that may be wrong with a candidate."""

    name: str
    change: Change


@dataclass(frozen=True, slots=True)
class Times:
    """Mean and 95th percentile of what some simulated rollouts took; None where none of them got so far."""

    mean: float | None
    p95: float | None

    @classmethod
    def of(cls, values: Sequence[float]) -> Times:
        if not values:
            return cls(None, None)
        ordered = sorted(values)
        return cls(fmean(ordered), float(ordered[math.ceil(0.95 * len(ordered)) - 1]))


@dataclass(frozen=True, slots=True)
class StageForecast:
    """One stage of a healthy rollout; `written_bp` is its weight in the strategy. `requests` are the candidate's."""

    stage: int
    written_bp: int
    weight_bp: int
    margin: float
    candidate_rps: float
    seconds: Times
    requests: Times


@dataclass(frozen=True, slots=True)
class CaseForecast:
    """What becomes of a candidate that is no good; times and bad answers are those of rollouts that are taken back."""

    name: str
    runs: int
    rolled_back: float
    paused: float
    promoted: float
    weight_bp: int | None  # where it is found most often, None if never
    seconds: Times
    bad: Times


@dataclass(frozen=True, slots=True)
class Forecast:
    """`to_full` is the time until the candidate has all traffic, `seconds` the whole, of rollouts that got there."""

    service: Service
    runs: int
    rolled_back: float
    paused: float
    stages: tuple[StageForecast, ...]
    to_full: Times
    seconds: Times
    cases: tuple[CaseForecast, ...]
    notes: tuple[str, ...]


def forecast(strategy: Strategy, service: Service, tell: Callable[[str], None]) -> Forecast:
    """Simulate healthy rollouts and bad ones; `tell` hears what is being simulated. Equal arguments, equal forecast."""
    plan = planned(strategy, service)
    tell("a healthy version")
    healthy = _courses(strategy.gate, plan, (service, Change()), HEALTHY_LOOKS)
    cases = []
    for case in _cases(service):
        tell(case.name)
        cases.append(_case(case.name, _courses(strategy.gate, plan, (service, case.change), CASE_LOOKS)))
    done = [course for course in healthy if course.end is Act.PROMOTE]
    return Forecast(
        service=service,
        runs=len(healthy),
        rolled_back=_share(healthy, Act.ROLLBACK),
        paused=_share(healthy, Act.PAUSE),
        stages=tuple(_stage(strategy, service, index, plan, healthy) for index in range(len(plan))),
        to_full=Times.of(
            [sum(lap.seconds for lap in course.laps[:-1]) for course in _past_stage(healthy, len(plan) - 2)]
        ),
        seconds=Times.of([course.seconds for course in done]),
        cases=tuple(cases),
        notes=tuple(notes(strategy, service)),
    )


def planned(strategy: Strategy, service: Service) -> tuple[Planned, ...]:
    """The stages as they will be at this service's traffic; how much those without a weight get, nobody knows."""
    return tuple(
        Planned(
            step,
            strategy.stages[step.stage].hold.total_seconds(),
            strategy.stages[step.stage].timeout.total_seconds(),
        )
        for step in steps([stage.weight_bp for stage in strategy.stages], strategy.gate, service.past())
        if step.weight_bp
    )


def _cases(service: Service) -> Iterator[Case]:
    errors = service.errors
    for factor in (10, 2):
        worse = min(1.0, factor * errors)
        if errors < worse:
            yield Case(f"errors x{factor}: {worse:.2%}", Change(errors=(worse - errors) / (1 - errors)))
    yield Case("5 % more errors", Change(errors=0.05))
    yield Case("every request fails", Change(errors=1.0))
    yield Case("latency x1.2", Change(slower=1.2))
    yield Case("latency x2", Change(slower=2.0))
    yield Case("every request hangs", Change(hangs=1.0))


def _courses(
    gate: Gate, plan: Sequence[Planned], traffic: tuple[Service, Change], most_looks: int
) -> tuple[Course, ...]:
    weights_bp = [stage.step.weight_bp for stage in plan]
    courses: list[Course] = []
    looks = 0
    for seed in count():
        made = Traffic(*traffic, seed)
        courses.append(travel(Judged(gate, plan, made.past), weights_bp, made))
        looks += courses[-1].looks
        if looks >= most_looks and (len(courses) >= LEAST_RUNS or looks >= PATIENCE * most_looks):
            break
    return tuple(courses)


def _stage(
    strategy: Strategy, service: Service, index: int, plan: Sequence[Planned], healthy: Sequence[Course]
) -> StageForecast:
    step = plan[index].step
    laps = [course.laps[index] for course in _past_stage(healthy, index)]
    return StageForecast(
        stage=step.stage,
        written_bp=strategy.stages[step.stage].weight_bp,
        weight_bp=step.weight_bp,
        margin=step.margin,
        candidate_rps=service.rate_rps * step.weight_bp / 10_000,
        seconds=Times.of([lap.seconds for lap in laps]),
        requests=Times.of([lap.requests for lap in laps]),
    )


def _past_stage(courses: Sequence[Course], index: int) -> tuple[Course, ...]:
    """Those that have left this stage for the next, or the last one for good."""
    return tuple(
        course
        for course in courses
        if len(course.laps) > index + 1 or (course.laps[index:] and course.end is Act.PROMOTE)
    )


def _case(name: str, courses: Sequence[Course]) -> CaseForecast:
    found = [course for course in courses if course.end is Act.ROLLBACK]
    weights = Counter(course.laps[-1].weight_bp for course in found)
    return CaseForecast(
        name=name,
        runs=len(courses),
        rolled_back=_share(courses, Act.ROLLBACK),
        paused=_share(courses, Act.PAUSE),
        promoted=_share(courses, Act.PROMOTE),
        weight_bp=weights.most_common(1)[0][0] if weights else None,
        seconds=Times.of([course.seconds for course in found]),
        bad=Times.of([course.bad for course in found]),
    )


def _share(courses: Sequence[Course], end: Act) -> float:
    return sum(course.end is end for course in courses) / len(courses)


def notes(strategy: Strategy, service: Service) -> Iterator[str]:
    """What becomes of the strategy as it is written, at this traffic, and why."""
    gate, rate_rps = strategy.gate, service.rate_rps
    kept = {stage.step.stage: stage.step for stage in planned(strategy, service)}
    for index, stage in enumerate(strategy.stages):
        written = f"{stage.weight_bp / 100:g}%"
        if not stage.weight_bp:
            yield f"stage {index + 1} has no weight, so it is not part of this forecast"
            continue
        few = f"of {rate_rps:g} requests a second it is {rate_rps * stage.weight_bp / 10_000:g}"
        if index not in kept:
            yield f"the stage of {written} is left out, for a stage before it has been raised to as much"
        elif kept[index].weight_bp != stage.weight_bp:
            raised = f"{kept[index].weight_bp / 100:g}%"
            yield f"{written} becomes {raised}: {few}, and min_rps asks for {gate.min_rps:g} (up to 50%)"
    past = service.past()
    by_rate, by_errors = gate.bad_rps / rate_rps, gate.margin_ratio * past.errors
    if by_rate > max(gate.margin, by_errors):
        yield (
            f"the margin is {100 * by_rate:.3g}% of all requests instead of {100 * gate.margin:g}%: "
            f"bad_rps allows {gate.bad_rps:g} a second of {rate_rps:g}"
        )
    elif by_errors > gate.margin:
        yield (
            f"the margin is {100 * by_errors:.3g}% of all requests instead of {100 * gate.margin:g}%: "
            f"margin_ratio allows {gate.margin_ratio:g} times the usual errors"
        )


def to_json(told: Forecast) -> Mapping[str, Any]:
    """Plain values for a JSON document."""
    return {
        "rate_rps": told.service.rate_rps,
        "errors": told.service.errors,
        "healthy": {
            "runs": told.runs,
            "rolled_back": told.rolled_back,
            "paused": told.paused,
            "seconds_to_full": _spread(told.to_full),
            "seconds": _spread(told.seconds),
            "stages": [
                {
                    "stage": stage.stage,
                    "written_bp": stage.written_bp,
                    "weight_bp": stage.weight_bp,
                    "margin": stage.margin,
                    "candidate_rps": stage.candidate_rps,
                    "seconds": _spread(stage.seconds),
                    "requests": _spread(stage.requests),
                }
                for stage in told.stages
            ],
        },
        "regressions": [
            {
                "name": case.name,
                "runs": case.runs,
                "rolled_back": case.rolled_back,
                "paused": case.paused,
                "promoted": case.promoted,
                "weight_bp": case.weight_bp,
                "seconds": _spread(case.seconds),
                "bad_answers": _spread(case.bad),
            }
            for case in told.cases
        ],
        "notes": list(told.notes),
    }


def _spread(times: Times) -> Mapping[str, float | None]:
    return {"mean": None if times.mean is None else round(times.mean, 1), "p95": times.p95}
