"""What the API says of a rollout in waves: each location as it stands, and what they are together."""

from collections.abc import Iterator, Mapping
from typing import Literal

from rollout.api import models
from rollout.controller import Controller
from rollout.gate import Fail, Verdict, VerdictName
from rollout.machine import in_waves, lane_bp, undone
from rollout.record import Rollout
from rollout.spec import Wave
from rollout.state import Phase, Seen, State
from rollout.waves import words

LATER: Literal["later"] = "later"
"""The phase of a location that is in no wave yet."""
_WORST = (Phase.ROLLING_BACK, Phase.ROLLED_BACK, Phase.PAUSED, Phase.SHIFTING, Phase.RETAINING)
_VERDICTS = (VerdictName.FAIL, VerdictName.BLIND, VerdictName.INCONCLUSIVE, VerdictName.PASS)


def waves_view(controller: Controller, rollout: Rollout) -> models.Waving:
    """Its waves, the number of the present one from 0, and its locations, the worst first; nothing without waves."""
    state, waves = rollout.state, rollout.strategy.waves
    names = [_wave_words(wave) for wave in waves]
    moving = in_waves(rollout.strategy, state)
    locations = list(_locations(controller, rollout)) if moving else []
    return {"waves": names, "wave": state.wave if waves and state.wave >= 0 else None, "locations": locations}


def weight_view(controller: Controller, rollout: Rollout) -> float:
    """The candidate's wanted share of the service's traffic in percent."""
    return round(controller.weight_bp(rollout) / 100, 2)


def version_weight(controller: Controller, service: str, version: str) -> float:
    """A version's wanted share of a service's traffic, in percent."""
    rollout = controller.books.rollouts.get(service)
    if rollout is None or not in_waves(rollout.strategy, rollout.state):
        return controller.books.weight_bp(service, version) / 100
    candidate = weight_view(controller, rollout)
    return candidate if version == rollout.candidate else round(100 - candidate, 2)


def verdict_view(rollout: Rollout) -> models.Verdict | None:
    """The last verdict; in waves the worst of the locations that move, with its name."""
    if not in_waves(rollout.strategy, rollout.state):
        return judged(rollout.state.verdict)
    found = [(location, lane.verdict) for location, lane in undone(rollout.state).items() if lane.verdict is not None]
    if not found:
        return None
    location, verdict = min(found, key=lambda each: (_VERDICTS.index(each[1].name), each[0]))
    return _told(verdict, f"{words(location)}: {verdict.reason}")


def judged(verdict: Verdict | None) -> models.Verdict | None:
    """Return what the gate says, on which evidence."""
    return None if verdict is None else _told(verdict, verdict.reason)


def _told(verdict: Verdict, reason: str) -> models.Verdict:
    told: models.Verdict = {
        "verdict": verdict.name,
        "reason": reason,
        "numbers": dict(verdict.numbers),
        "notes": list(verdict.notes),
    }
    return {**told, "host": verdict.host} if isinstance(verdict, Fail) else told


def lane_steps(before: Mapping[str, State], state: State, because: Seen | None) -> list[models.LocationStep]:
    """What has become of locations in one step: those that are in another phase or stage than before."""
    return [
        _step(location, lane, because)
        for location, lane in sorted(state.lanes.items())
        if location not in before or _standing(before[location]) != _standing(lane)
    ]


def _standing(lane: State) -> tuple[object, ...]:
    return lane.phase, lane.stage, lane.awaited


def _step(location: str, lane: State, because: Seen | None) -> models.LocationStep:
    place = because.places.get(location) if because else None
    return {
        "location": words(location),
        "wave": lane.wave,
        "phase": lane.phase,
        "stage": lane.stage,
        "stages": [step.weight_bp / 100 for step in lane.plan],
        "weight_percent": lane_bp(lane) / 100,
        "reason": lane.reason,
        "waiting": lane.waiting,
        "awaiting": lane.awaited,
        "passed": None if lane.passed is None else lane.passed.reason,
        "waiting_for": dict(place.lagging) if place else {},
    }


def _locations(controller: Controller, rollout: Rollout) -> Iterator[models.Location]:
    envoys = controller.observer.whereabouts(rollout.service)
    lagging = controller.observer.lagging_by_location(rollout.service)
    lanes = rollout.state.lanes
    for location, lane in sorted(lanes.items(), key=lambda each: (_badness(each[1]), each[0])):
        yield {
            "location": words(location),
            "wave": lane.wave,
            "phase": lane.phase,
            "stage": lane.stage,
            "stages": [step.weight_bp / 100 for step in lane.plan],
            "weight_percent": lane_bp(lane) / 100,
            "envoys": envoys.get(location, 0),
            "verdict": _short(lane.verdict),
            "waiting_for": dict(lagging.get(location, {})),
            "waiting": lane.waiting,
            "awaiting": lane.awaited,
            "reason": lane.reason,
        }
    for location in sorted(envoys.keys() - lanes.keys()):
        yield {**_LATER, "location": words(location), "envoys": envoys[location]}


_LATER: models.Location = {
    "location": "",
    "wave": None,
    "phase": LATER,
    "stage": 0,
    "stages": [],
    "weight_percent": 0.0,
    "envoys": 0,
    "verdict": None,
    "waiting_for": {},
    "waiting": "",
    "awaiting": None,
    "reason": "",
}


def _badness(lane: State) -> tuple[int, int, int]:
    verdict = _VERDICTS.index(lane.verdict.name) if lane.verdict is not None else len(_VERDICTS)
    return _WORST.index(lane.phase), int(lane.awaited is None and not lane.waiting), verdict


def _short(verdict: Verdict | None) -> models.VerdictReason | None:
    return None if verdict is None else {"verdict": verdict.name, "reason": verdict.reason}


def _wave_words(wave: Wave) -> str:
    match wave.locations:
        case "all":
            return "all"
        case int(share_bp):
            return f"{share_bp / 100:g}%"
        case names:
            return ", ".join(names)
