"""What an event says: pure functions that make the events of a rollout's step, an operation, a backend's drain."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from rollout.gate import Verdict, verdict_to_json
from rollout.gate.verdict import VerdictName
from rollout.happenings import Event, EventKind, Severity
from rollout.machine import plan_of, share_bp, told_lanes
from rollout.record import Backend, Operation, Rollout
from rollout.state import Awaited, Command, Phase, Role, Seen

TEXT_LIMIT = 1_000
LANES_TOLD = 20  # of one step; in a wave of hundreds of locations they differ in their reasons
VERDICT_EVERY_S = 10.0  # of one rollout: where data comes and goes, the verdict changes at each look
_DONE = ("done", "no change", "queued", "taken back")
_ASKED = frozenset({Awaited.APPROVAL, Awaited.DECISION})


def of_start(rollout: Rollout) -> Event:
    """Return the event of a rollout that begins."""
    what = f"{_name(rollout)} begins: {rollout.stable} -> {rollout.candidate}; {rollout.state.reason}"
    more = {"origin": rollout.origin.value}
    return _event(rollout, EventKind.ROLLOUT_STARTED, Severity.NOTICE, what, more)


def of_step(before: Rollout, after: Rollout, because: Seen) -> tuple[Event, ...]:
    """Return the events of one step, in the order in which one follows from the other."""
    by = {"command": because.command.value, "by": because.by} if because.command is not None else {}
    return tuple(_of_step(before, after, by))


def _of_step(before: Rollout, after: Rollout, by: Mapping[str, Any]) -> Iterator[Event]:
    yield from _verdicts(before, after)
    yield from _turns(before, after, by)
    old, new = before.state, after.state
    if (old.stage, old.wave) != (new.stage, new.wave) and new.loser is None:
        yield _event(after, EventKind.ROLLOUT_STAGE, Severity.INFO, _stage(after), by)
    elif old.phase is not new.phase:
        yield from _phases(after, by)
    if new.awaited in _ASKED and old.awaited is not new.awaited:
        severity = Severity.WARNING if new.awaited is Awaited.DECISION else Severity.NOTICE
        what = f"{_name(after)} waits for {_whom(new.awaited)}: {new.waiting or new.reason}"
        yield _event(after, EventKind.ROLLOUT_AWAITING, severity, what, by)
    for what in told_lanes(old.lanes, new)[:LANES_TOLD]:
        yield _event(after, EventKind.ROLLOUT_LOCATION, Severity.INFO, f"{_name(after)}: {what}", by)


def _verdicts(before: Rollout, after: Rollout) -> Iterator[Event]:
    """Yield what the gate says anew: that there is not enough evidence yet goes without saying."""
    old, new = before.state.verdict, after.state.verdict
    passed = after.state.passed
    if passed is not None and before.state.passed is None and old != passed:
        yield _said(after, passed)
    said = VerdictName.INCONCLUSIVE if old is None else old.name
    if new is not None and new.name is not said:
        yield _said(after, new)


def _said(rollout: Rollout, verdict: Verdict) -> Event:
    bad = verdict.name in (VerdictName.FAIL, VerdictName.BLIND)
    what = f"{_name(rollout)}: the gate says {verdict.name}: {verdict.reason}"
    more = {"verdict": verdict_to_json(verdict)}
    return _event(rollout, EventKind.ROLLOUT_VERDICT, Severity.WARNING if bad else Severity.INFO, what, more)


def _turns(before: Rollout, after: Rollout, by: Mapping[str, Any]) -> Iterator[Event]:
    """Yield that it goes back, and that it waits."""
    old, new = before.state, after.state
    if new.loser is Role.CANDIDATE and old.loser is not Role.CANDIDATE:
        severity = Severity.WARNING if by else Severity.CRITICAL
        what = f"{_name(after)}: all traffic goes back to {after.stable}: {new.reason}"
        verdict = {} if new.verdict is None else {"verdict": verdict_to_json(new.verdict)}
        yield _event(after, EventKind.ROLLING_BACK, severity, what, {**by, **verdict})
    if new.phase is Phase.PAUSED and old.phase is not Phase.PAUSED:
        severity = Severity.NOTICE if by.get("command") == Command.PAUSE else Severity.WARNING
        what = f"{_name(after)} is paused at {_weight(after)}: {new.waiting or new.reason}"
        yield _event(after, EventKind.ROLLOUT_PAUSED, severity, what, by)


def _phases(after: Rollout, by: Mapping[str, Any]) -> Iterator[Event]:
    state = after.state
    match state.phase:
        case Phase.COMPLETED:
            what = f"{_name(after)} is complete: {after.candidate} has all traffic, {after.stable} is gone"
            yield _event(after, EventKind.COMPLETED, Severity.NOTICE, what, by)
        case Phase.ROLLED_BACK:
            what = f"{_name(after)} was rolled back to {after.stable}: {state.reason}"
            yield _event(after, EventKind.ROLLED_BACK, Severity.WARNING, what, by)
        case Phase.PAUSED | Phase.ROLLING_BACK:
            return
        case Phase.SHIFTING:
            yield _event(after, EventKind.ROLLOUT_STAGE, Severity.INFO, _stage(after), by)
        case _:
            what = f"{_name(after)} is {state.phase.replace('_', ' ')}: {state.reason}"
            yield _event(after, EventKind.ROLLOUT_PHASE, Severity.INFO, what, by)


def _stage(rollout: Rollout) -> str:
    state, stages = rollout.state, len(plan_of(rollout.strategy, rollout.state))
    if state.wave >= 0:
        return f"{_name(rollout)}: wave {state.wave + 1} of {len(rollout.strategy.waves)}: {state.reason}"
    place = f"stage {state.stage + 1} of {stages}"
    return f"{_name(rollout)}: {rollout.candidate} gets {_weight(rollout)} ({place}): {state.reason}"


def _whom(awaited: Awaited | None) -> str:
    return "a decision" if awaited is Awaited.DECISION else "an approval"


def _name(rollout: Rollout) -> str:
    return f"{rollout.service}: rollout {rollout.id}"


def _weight(rollout: Rollout) -> str:
    return f"{share_bp(rollout.strategy, rollout.state) / 100:.4g} %"


def _event(rollout: Rollout, kind: EventKind, severity: Severity, text: str, more: Mapping[str, Any]) -> Event:
    state = rollout.state
    detail: dict[str, Any] = {
        "stable": rollout.stable,
        "candidate": rollout.candidate,
        "revision": rollout.revision,
        "phase": state.phase.value,
        "stage": state.stage,
        "weight_percent": round(share_bp(rollout.strategy, state) / 100, 2),
        "reason": state.reason[:TEXT_LIMIT],
        **({"wave": state.wave} if state.wave >= 0 else {}),
        **({"awaiting": state.awaited.value, "waiting": state.waiting[:TEXT_LIMIT]} if state.awaited else {}),
        **more,
    }
    return Event(rollout.changed_at, kind, severity, rollout.service, rollout.id, text[:TEXT_LIMIT], detail)


@dataclass(slots=True)
class Rhythm:
    """How often verdicts are told: what speaks for or against the candidate always, the rest not at each look."""

    _told_s: dict[tuple[str, int], float] = field(default_factory=dict)

    def kept(self, events: tuple[Event, ...], now_s: float) -> tuple[Event, ...]:
        """Return those that are told."""
        return tuple(each for each in events if self._is_kept(each, now_s))

    def _is_kept(self, event: Event, now_s: float) -> bool:
        if event.kind is not EventKind.ROLLOUT_VERDICT:
            return True
        said = event.detail["verdict"]["verdict"]
        key = (event.service, event.rollout or 0)
        soon = now_s - self._told_s.get(key, -VERDICT_EVERY_S) < VERDICT_EVERY_S
        if soon and said in (VerdictName.INCONCLUSIVE, VerdictName.BLIND):
            return False
        self._told_s = {other: told for other, told in self._told_s.items() if other[0] != event.service}
        self._told_s[key] = now_s
        return True


def of_operation(done: Operation) -> Event:
    """Return the event of something that somebody has asked for, and got or not."""
    refused = _is_refused(done.result)
    about = f"{done.service}: " if done.service else ""
    detail = f" {done.detail}" if done.detail else ""
    text = f"{about}{done.by} asked for {done.verb}{detail}: {done.result}"
    more = {"verb": done.verb, "by": done.by, "origin": done.origin, "detail": done.detail, "result": done.result}
    severity = Severity.NOTICE if refused else Severity.INFO
    said = {name: value[:TEXT_LIMIT] for name, value in more.items()}
    return Event(done.at, EventKind.OPERATION, severity, done.service, None, text[:TEXT_LIMIT], said)


def _is_refused(result: str) -> bool:
    """Say whether a result is an error's: its class, a colon, and what is wrong."""
    kind, colon, _ = result.partition(": ")
    return bool(colon) and kind.isidentifier() and kind[0].isupper() and result not in _DONE


def of_backend(backend: Backend, at: datetime) -> Event:
    """Return the event of a backend that is let go from now on, or is gone."""
    drain, name = backend.drain, f"{backend.service}: {backend.address} of {backend.version}"
    detail = {"version": backend.version, "backend": backend.address, "leaves": backend.leaves}
    if not drain.done:
        return Event(at, EventKind.BACKEND_DRAINING, Severity.INFO, backend.service, None, f"{name} is drained", detail)
    cut = dict(drain.cut)
    more = {**detail, "timed_out": drain.timed_out, "cut": cut}
    if not drain.timed_out:
        text = f"{name} is idle on every Envoy and may stop"
        return Event(at, EventKind.BACKEND_REMOVED, Severity.INFO, backend.service, None, text, more)
    text = f"{name} may stop: its drain has timed out while something ran on it"
    return Event(at, EventKind.BACKEND_REMOVED, Severity.WARNING, backend.service, None, text, more)
