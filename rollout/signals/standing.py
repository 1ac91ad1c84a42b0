"""Metrics of where every service stands now: its rollout, the evidence, its checks and its backends."""

from collections import Counter
from collections.abc import Iterator, Sequence

from prometheus_client.core import Metric

from rollout.controller import Controller
from rollout.gate.checks import Check, Watched
from rollout.machine import undone
from rollout.readings import checks_of
from rollout.record import Rollout
from rollout.signals.families import Labels, gauges
from rollout.state import ENDED, Phase, State

ROLLOUT = ("service", "candidate")
_LIMITS = {"ln_e": "ln_limit", "ln_hang": "ln_limit"}
_PASSES, _PASS_LIMIT = "ln_pass_", "ln_pass_limit"
_NO_TEST = ("ln_pass_start", _PASS_LIMIT)


def standing(controller: Controller, now_s: float) -> Iterator[Metric]:
    """Yield what is known of each service's newest rollout, and of its backends."""
    services = controller.services()
    rollouts = [rollout for service in services if (rollout := controller.rollout(service)) is not None]
    moving = [rollout for rollout in rollouts if rollout.state.phase not in ENDED]
    yield gauges("rollout_services", "Services that are served.", (), [((), len(services))])
    phases = Counter(rollout.state.phase for rollout in rollouts)
    text = "Services whose newest rollout is in this phase."
    yield gauges("rollout_rollouts", text, ("phase",), [((phase.value,), phases[phase]) for phase in Phase])
    yield from _places(rollouts, moving, now_s)
    yield from _weights(controller, moving)
    yield from _evidence(moving)
    yield from _answers(rollouts)
    yield from _checks(moving)
    yield from _backends(controller, services)


def _places(rollouts: Sequence[Rollout], moving: Sequence[Rollout], now_s: float) -> Iterator[Metric]:
    text = "1 for the phase that the service's rollout is in."
    phases = [((*_of(each), each.state.phase.value), 1.0) for each in rollouts]
    yield gauges("rollout_phase_info", text, (*ROLLOUT, "phase"), phases)
    text = "How long the rollout has been in its phase or stage."
    since = [(_of(each), max(0.0, now_s - each.state.since_s)) for each in moving]
    yield gauges("rollout_phase_seconds", text, ROLLOUT, since)
    text = "1 where somebody has to agree before the rollout goes on."
    awaited = [((*_of(each), each.state.awaited.value), 1.0) for each in moving if each.state.awaited is not None]
    yield gauges("rollout_awaiting_info", text, (*ROLLOUT, "who"), awaited)


def _weights(controller: Controller, moving: Sequence[Rollout]) -> Iterator[Metric]:
    text = "Wanted share of the service's traffic on the candidate."
    wanted = [(_of(each), controller.weight_bp(each) / 10_000) for each in moving]
    yield gauges("rollout_candidate_weight_ratio", text, ROLLOUT, wanted)
    measured = []
    for each in moving:
        sides = controller.observer.recent(each.service)
        requests = sides.stable.requests + sides.candidate.requests
        if requests:
            measured.append((_of(each), sides.candidate.requests / requests))
    text = "Share of the service's requests that the candidate had in the last look."
    yield gauges("rollout_candidate_measured_ratio", text, ROLLOUT, measured)


def _evidence(moving: Sequence[Rollout]) -> Iterator[Metric]:
    """In waves the location that has most against the candidate stands for all."""
    judged = [(each, worst) for each in moving if (worst := _worst(each)).verdict is not None]
    text = "1 for the verdict of the last look."
    said = [((*_of(each), state.verdict.name.value), 1.0) for each, state in judged if state.verdict is not None]
    yield gauges("rollout_verdict_info", text, (*ROLLOUT, "verdict"), said)
    evidence: list[tuple[Labels, float]] = []
    limits: list[tuple[Labels, float]] = []
    for each, state in judged:
        numbers = state.verdict.numbers if state.verdict is not None else {}
        for name, value in numbers.items():
            limit = _PASS_LIMIT if name.startswith(_PASSES) and name not in _NO_TEST else _LIMITS.get(name)
            if limit is not None:
                labels = (*_of(each), name.removeprefix("ln_"))
                evidence.append((labels, value))
                limits.append((labels, numbers[limit]))
    text = "Evidence of the gate's tests, as natural logarithms: e and hang against the candidate, pass_* for it."
    yield gauges("rollout_evidence", text, (*ROLLOUT, "test"), evidence)
    yield gauges("rollout_evidence_limit", "Where a test's evidence decides.", (*ROLLOUT, "test"), limits)


def _answers(rollouts: Sequence[Rollout]) -> Iterator[Metric]:
    """Of ended rollouts, too: one that goes back at once would be gone before the next scrape."""
    text = "Bad answers that the candidate gave in the service's newest rollout."
    bad = [(_of(each), float(sum(_errors(state) for state in _states(each)))) for each in rollouts]
    yield gauges("rollout_candidate_errors", text, ROLLOUT, bad)
    text = "Answers that the candidate gave in the service's newest rollout."
    requests = [(_of(each), float(sum(_requests(state) for state in _states(each)))) for each in rollouts]
    yield gauges("rollout_candidate_requests", text, ROLLOUT, requests)


def _checks(moving: Sequence[Rollout]) -> Iterator[Metric]:
    labels = (*ROLLOUT, "check")
    values: list[tuple[Labels, float]] = []
    limits: list[tuple[Labels, float]] = []
    broken: list[tuple[Labels, float]] = []
    for each in moving:
        for check, watched in _watched(each):
            of = (*_of(each), check.name)
            if watched.last.value is not None:
                values.append((of, watched.last.value))
            limits += [((*of, bound), limit) for bound, limit in _bounds(check)]
            broken.append((of, float(watched.broken >= check.consecutive)))
    yield gauges("rollout_check_value", "What a check has measured last.", labels, values)
    yield gauges("rollout_check_limit", "A check's limits.", (*labels, "bound"), limits)
    yield gauges("rollout_check_broken", "1 where a check's limit is broken.", labels, broken)


def _bounds(check: Check) -> Iterator[tuple[str, float]]:
    if check.maximum is not None:
        yield "max", check.maximum
    if check.minimum is not None:
        yield "min", check.minimum


def _watched(rollout: Rollout) -> Iterator[tuple[Check, Watched]]:
    watched = rollout.state.evidence.watched
    for spec in checks_of(rollout):
        if spec.label in watched:
            yield spec.check, watched[spec.label]


def _backends(controller: Controller, services: Sequence[str]) -> Iterator[Metric]:
    counts: list[tuple[Labels, float]] = []
    running: list[tuple[Labels, float]] = []
    for service in services:
        let_go = controller.books.backends(service)
        for version in controller.books.versions(service):
            unhealthy = controller.books.unhealthy(service, version.name)
            mine = [each for each in let_go if each.version == version.name]
            gone = {each.address for each in mine}
            known = controller.books.addresses(service, version.name)
            states = {
                "serving": len(set(known) - gone - unhealthy),
                "unhealthy": len(unhealthy - gone),
                "draining": sum(not each.removed for each in mine),
                "removed": sum(each.removed for each in mine),
            }
            counts += [((service, version.name, state), float(count)) for state, count in states.items()]
        running.append(((service,), float(sum(each.drain.running or 0 for each in let_go if not each.removed))))
    yield gauges("rollout_backends", "Backends of a version.", ("service", "version", "state"), counts)
    yield gauges("rollout_drain_running", "Requests that run on single backends in drain.", ("service",), running)


def _of(rollout: Rollout) -> Labels:
    return rollout.service, rollout.candidate


def _states(rollout: Rollout) -> tuple[State, ...]:
    return tuple(rollout.state.lanes.values()) or (rollout.state,)


def _worst(rollout: Rollout) -> State:
    lanes = [lane for lane in undone(rollout.state).values() if lane.verdict is not None]
    return max(lanes, key=lambda lane: lane.evidence.ln_e, default=rollout.state)


def _errors(state: State) -> int:
    return state.evidence.candidate_before.errors + state.evidence.candidate.errors


def _requests(state: State) -> int:
    return state.evidence.candidate_before.requests + state.evidence.candidate.requests
