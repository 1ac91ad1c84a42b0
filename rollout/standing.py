"""Where a service stands, as people decide by it: what differs when somebody else has changed it, and its tag."""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from rollout.controller import Controller
from rollout.record import Rollout
from rollout.state import State

TAG_CHARACTERS = 20


def standing(controller: Controller, service: str) -> Mapping[str, Any]:
    """Return what people decide by: no measurement, and nothing that moves by itself but phases and stages."""
    books = controller.books
    rollout, queued = books.rollouts.get(service), books.queued.get(service)
    return {
        "stable": books.stable(service),
        "versions": [[each.name, list(books.endpoints(service, each.name))] for each in books.versions(service)],
        "past": sorted(each.name for each in books.past_versions(service)),
        "rollout": rollout and _rollout(rollout),
        "in_progress": controller.in_progress(service),
        "queued": queued and [queued.version.name, list(books.placed(queued.version)), queued.fault],
        "drains": [[each.version, each.address, each.removed, each.leaves] for each in books.backends(service)],
        "marks": sorted(books.marked(service)),
    }


def tag(controller: Controller, service: str) -> str:
    """Return what tells this standing of a service from all others."""
    text = json.dumps(standing(controller, service), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:TAG_CHARACTERS]


def _rollout(rollout: Rollout) -> list[Any]:
    state = rollout.state
    lanes = [[location, *_state(lane)] for location, lane in sorted(state.lanes.items())]
    # Two rollouts with one number: the first ones of a service that was forgotten and is there again.
    return [rollout.id, rollout.started_at.isoformat(), rollout.candidate, state.wave, *_state(state), lanes]


def _state(state: State) -> list[Any]:
    # The weight follows from phase, stage and plan; but for a gradual way back.
    weights = [step.weight_bp for step in state.plan]
    return [state.phase, state.resume, state.stage, weights, state.back_bp, state.awaited, state.approved, state.loser]
