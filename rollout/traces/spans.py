"""A rollout as a trace: a span for each phase and stage, for each push to its last answer, and one for all of it."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from rollout.machine import plan_of, share_bp, told_lanes
from rollout.pushes import Push
from rollout.record import Rollout
from rollout.state import ENDED, Phase, Role

MOMENTS_LIMIT = 100  # of one span; a gate that goes to and fro for a day says no more with the rest
WORDS_CHARACTERS = 500
SAME = timedelta(milliseconds=100)  # a way back is pushed before it is a step
STAGES_KEPT = 50  # a push is told of some seconds after it is over: to which stage did it belong?

Value = str | int | float | bool
Attributes = Mapping[str, Value]


@dataclass(frozen=True, slots=True)
class Moment:
    """What happened at one time within a span."""

    name: str
    at: datetime
    attributes: Attributes


@dataclass(frozen=True, slots=True)
class Span:
    """One part of a trace. `parent` None is the whole rollout; `fault` is why it ended badly, "" where it did not."""

    trace: int
    id: int
    parent: int | None
    name: str
    began: datetime
    ended: datetime
    attributes: Attributes
    moments: tuple[Moment, ...] = ()
    fault: str = ""


@dataclass(frozen=True, slots=True)
class Track:
    """Where a rollout's trace stands: since when its present phase or stage lasts, and what has happened in it.

    `stages` has the beginnings of the last ones, the present one included, with their spans.
    """

    began: datetime
    moments: tuple[Moment, ...] = ()
    stages: tuple[tuple[datetime, int], ...] = ()


def trace_id(rollout: Rollout) -> int:
    """Return the id of a rollout's trace, which is the same after a restart."""
    return int.from_bytes(_digest(rollout)[:16], "big")


def begun(rollout: Rollout) -> Track:
    """Return the track of a rollout that is first seen as it stands."""
    at = rollout.changed_at
    return Track(at, (), ((at, _stage_id(rollout, at)),))


def stepped(track: Track, before: Rollout, after: Rollout) -> tuple[Track, tuple[Span, ...]]:
    """Return the track after a step, and the spans that have ended with it."""
    track = replace(track, moments=(*track.moments, *_moments(before, after))[:MOMENTS_LIMIT])
    if place(before) == place(after):
        return track, ()
    ended = _stage(track, before, after.changed_at)
    following = begun(after)
    following = replace(following, stages=(*track.stages, *following.stages)[-STAGES_KEPT:])
    return following, (ended, whole(after)) if after.state.phase in ENDED else (ended,)


def whole(rollout: Rollout) -> Span:
    """Return the span of a whole rollout, which has ended."""
    state = rollout.state
    attributes: Attributes = {
        **_attributes(rollout),
        "rollout.stable": rollout.stable,
        "rollout.origin": rollout.origin.value,
        "rollout.outcome": state.phase.value,
        "rollout.reason": state.reason[:WORDS_CHARACTERS],
    }
    fault = state.reason[:WORDS_CHARACTERS] if state.loser is Role.CANDIDATE else ""
    span_id = _span_id(rollout, "rollout")
    began, ended = rollout.started_at, rollout.changed_at
    return Span(trace_id(rollout), span_id, None, "rollout", began, ended, attributes, fault=fault)


def pushed(track: Track, rollout: Rollout, push: Push, began: datetime, ended: datetime) -> Span:
    """Return the span of a push, from its publish to the last answer."""
    parent = next((span for at, span in reversed(track.stages) if at <= began + SAME), _span_id(rollout, "rollout"))
    types: dict[str, Value] = {}
    for type_, reach in push.types.items():
        if not reach.sent:
            continue
        types[f"xds.{type_.word}.responses"] = reach.sent
        types[f"xds.{type_.word}.nacks"] = reach.refused
        if reach.last_s is not None:
            types[f"xds.{type_.word}.last_answer_s"] = round(reach.last_s - push.began_s, 6)
    nacks = sum(reach.refused for reach in push.types.values())
    attributes = {**_attributes(rollout), **types, "xds.nacks": nacks, "xds.unanswered": push.waiting}
    fault = f"{nacks} refused" if nacks else f"{push.waiting} did not answer" if push.waiting else ""
    number = _span_id(rollout, "push", began.isoformat(), str(push.number))
    return Span(trace_id(rollout), number, parent, "push", began, ended, attributes, fault=fault)


def traceparent(track: Track, rollout: Rollout) -> str:
    """Return what makes spans of others children of the present phase or stage: the header of W3C Trace Context."""
    parent = _span_id(rollout, "rollout") if rollout.state.phase in ENDED else track.stages[-1][1]
    return f"00-{trace_id(rollout):032x}-{parent:016x}-01"


def _stage(track: Track, before: Rollout, ended: datetime) -> Span:
    state = before.state
    attributes: dict[str, Value] = {
        **_attributes(before),
        "rollout.phase": state.phase.value,
        "rollout.stage": state.stage + 1,
        "rollout.stages": len(plan_of(before.strategy, state)),
        "rollout.weight_percent": round(share_bp(before.strategy, state) / 100, 2),
        "rollout.reason": state.reason[:WORDS_CHARACTERS],
    }
    if state.wave >= 0:
        attributes["rollout.wave"] = state.wave + 1
    if state.converged_s is not None:
        attributes["rollout.converged_s"] = round(max(0.0, state.converged_s - state.since_s), 3)
    name = "stage" if state.phase is Phase.SHIFTING else state.phase.value
    span_id = _stage_id(before, track.began)
    root = _span_id(before, "rollout")
    return Span(trace_id(before), span_id, root, name, track.began, ended, attributes, track.moments)


def _moments(before: Rollout, after: Rollout) -> tuple[Moment, ...]:
    """Return what has changed within a phase: the verdict, and locations of a wave."""
    old, new, at = before.state.verdict, after.state.verdict, after.changed_at
    found = []
    if new is not None and (old is None or old.name is not new.name):
        said = {"gate.verdict": new.name.value, "gate.reason": new.reason[:WORDS_CHARACTERS]}
        found.append(Moment("verdict", at, said))
    lanes = told_lanes(before.state.lanes, after.state)
    found += [Moment("locations", at, {"rollout.locations": what[:WORDS_CHARACTERS]}) for what in lanes]
    return tuple(found)


def _attributes(rollout: Rollout) -> dict[str, Value]:
    return {"rollout.service": rollout.service, "rollout.id": rollout.id, "rollout.candidate": rollout.candidate}


def place(rollout: Rollout) -> tuple[object, ...]:
    """Return what makes the phases and stages of a rollout differ."""
    return rollout.state.phase, rollout.state.stage, rollout.state.wave


def _stage_id(rollout: Rollout, began: datetime) -> int:
    return _span_id(rollout, rollout.state.phase, str(rollout.state.stage), began.isoformat())


def _span_id(rollout: Rollout, *parts: str) -> int:
    return int.from_bytes(_digest(rollout, *parts)[:8], "big")


def _digest(rollout: Rollout, *parts: str) -> bytes:
    words = (rollout.service, rollout.id, rollout.started_at.isoformat(), *parts)
    return hashlib.sha256(json.dumps(words).encode()).digest()
