"""What the API says of a service, a rollout, the fleet: plain JSON values."""

import json
from collections.abc import Iterable, Iterator, Mapping

from rollout.api import models
from rollout.api.backstage import Moment
from rollout.api.health import unhealthy_view
from rollout.api.locations import judged, lane_steps, verdict_view, version_weight, waves_view, weight_view
from rollout.api.paging import Paged
from rollout.api.stages import stage_view
from rollout.books import name_of
from rollout.controller import Controller
from rollout.drain import Active
from rollout.gate import Errors, Look, Past
from rollout.history import History
from rollout.machine import plan_of, share_bp
from rollout.messenger import Report
from rollout.metrics import Counts, tally
from rollout.prospect import stages_note
from rollout.record import Backend, JournalEntry, Operation, PastVersion, Rollout
from rollout.spec import Strategy
from rollout.split import Route
from rollout.state import ENDED, Phase, Seen, State
from xds.cache import NodeStatus
from xds.resources import TYPES
from xds.subscription import Rejection

ENVOYS_SHOWN = 20
UNREADY_SHOWN = 3


def percent(basis_points: int) -> float:
    return basis_points / 100


def service_view(controller: Controller, service: str, at: Moment) -> models.Service:
    """A service: its stable version, its versions with their backends, and the rollout in progress or last."""
    rollout = controller.rollout(service)
    return {
        "service": service,
        "stable": controller.books.stable(service),
        "in_progress": controller.in_progress(service),
        "versions": [
            {
                "version": version.name,
                "weight_percent": version_weight(controller, service, version.name),
                "backends": list(controller.books.addresses(service, version.name)),
            }
            for version in controller.books.versions(service)
        ],
        "drains": [
            backend_view(each, None if each.removed else controller.observer.activity.on_backend(each))
            for each in controller.books.backends(service)
        ],
        "unhealthy": unhealthy_view(controller, service),
        "history": _history(controller.observer.historian.history(service, controller.books.stable(service))),
        "rollout": None if rollout is None else rollout_view(controller, rollout, at),
        "queued": queued_view(controller, service),
    }


def queued_view(controller: Controller, service: str) -> models.Queued | None:
    """The deployment that begins when the rollout in progress has ended; `fault` says why it could not."""
    queued = controller.books.queued.get(service)
    if queued is None:
        return None
    return {
        "version": queued.version.name,
        "backends": list(controller.books.placed(queued.version)),
        "by": queued.by,
        "at": queued.at.isoformat(),
        "fault": queued.fault or None,
    }


def versions_view(controller: Controller, service: str, now_s: float, past: Paged[PastVersion]) -> models.Versions:
    """The versions of a service: those that are there, and a page of those that were, newest first."""
    books = controller.books
    stable = books.stable(service)
    present: list[models.PresentVersion] = [
        {
            "version": version.name,
            "role": "stable" if version.name == stable else "candidate",
            "weight_percent": version_weight(controller, service, version.name),
            "backends": list(books.addresses(service, version.name)),
            "from_files": version.endpoints is None,
            "discovery": None if version.discovery is None else version.discovery.discover.label,
        }
        for version in books.versions(service)
    ]
    gone = [_past(each, now_s) for each in past.items]
    return {"service": service, "versions": present, "past": gone, "next": past.next}


def _past(past: PastVersion, now_s: float) -> models.PastVersion:
    """A version that was let go; `undo_seconds` is for how long `undo` brings it back without stages."""
    left_s = past.ended.engine_s + past.strategy.rollback_window.total_seconds() - now_s
    return {
        "version": past.name,
        "served": past.served,
        "ended_at": past.ended.at.isoformat(),
        "backends": list(past.addresses),
        "undo_seconds": round(max(0.0, left_s)) if past.served else 0,
    }


def operation_view(operation: Operation) -> models.Operation:
    """What somebody asked for, and what came of it; `service` "" is the whole configuration."""
    return {
        "id": operation.id,
        "at": operation.at.isoformat(),
        "service": operation.service,
        "verb": operation.verb,
        "by": operation.by,
        "detail": operation.detail,
        "result": operation.result,
    }


def _history(history: History | None) -> models.History | None:
    """What the stable version has done lately; of `requests` the older ones count less."""
    if history is None:
        return None
    return {
        "requests_per_s": _rounded(history.rate_rps),
        "error_share": history.error_share(),
        "p50_ms": _rounded(history.quantile_ms(0.5)),
        "p99_ms": _rounded(history.quantile_ms(0.99)),
        "phi": round(history.phi, 3),
        "requests": round(history.requests),
        "minutes": round(history.seconds / 60, 1),
    }


def rollout_view(controller: Controller, rollout: Rollout, at: Moment) -> models.Rollout:
    """A rollout as it stands; `measured` is what the last look saw while traffic is shifted, else None."""
    state = rollout.state
    in_progress = controller.in_progress(rollout.service)
    shifting = state.phase in (Phase.SHIFTING, Phase.PAUSED)
    return {
        **summary(rollout),
        "in_progress": in_progress,
        "phase_seconds": round(max(0.0, at.now_s - state.since_s), 1),
        "stage": state.stage,
        **_stages(rollout),
        "weight_percent": weight_view(controller, rollout),
        **waves_view(controller, rollout),
        "measured": _measured(controller, rollout) if shifting else None,
        "verdict": verdict_view(rollout),
        "waiting_for": _waiting(controller, rollout.service) if in_progress else {},
        "resume": state.resume,
        "awaiting": state.awaited,
        "waiting": state.waiting,
        "approved": shifting and state.approved == state.stage,
        "point_of_no_return": state.point,
        "hooks": [_hook(each) for each in controller.outside.hooks(rollout)],
        "loser": None if state.loser is None else name_of(rollout, state.loser),
        "drain": _drain(controller, rollout, at),
    }


def _hook(report: Report) -> models.HookReport:
    return {
        "name": report.hook.label,
        "at": report.hook.at,
        "state": report.progress,
        "words": report.words,
        "attempts": report.attempts,
    }


def _waiting(controller: Controller, service: str) -> dict[str, str]:
    unsaved = controller.unsaved(service)
    disk = {"the disk": f"has not saved the last steps: {unsaved}"} if unsaved else {}
    unready = "; ".join(controller.observer.unready(service)[:UNREADY_SHOWN])
    candidate = {"the candidate": f"is not healthy yet: {unready}"} if unready else {}
    return {**disk, **candidate, **controller.observer.lagging(service)}


def summary(rollout: Rollout) -> models.RolloutSummary:
    """A rollout in one line of a table."""
    return {
        "service": rollout.service,
        "id": rollout.id,
        "stable": rollout.stable,
        "candidate": rollout.candidate,
        "phase": rollout.state.phase,
        "outcome": outcome(rollout),
        "reason": rollout.state.reason,
        "origin": rollout.origin,
        "started_at": rollout.started_at.isoformat(),
        "changed_at": rollout.changed_at.isoformat(),
    }


def outcome(rollout: Rollout) -> models.Outcome:
    """Say how a rollout ended, or that it goes on."""
    match rollout.state.phase:
        case Phase.COMPLETED:
            return "completed"
        case Phase.ROLLED_BACK:
            return "rolled_back"
        case _:
            return "in_progress"


def _measured(controller: Controller, rollout: Rollout) -> models.Measured | None:
    """What the last look saw, and how Envoys have split requests since they have this weight, the worst first."""
    service, errors = rollout.service, rollout.strategy.gate.errors
    sides = controller.observer.recent(service)
    requests = sides.stable.requests + sides.candidate.requests
    if not requests:
        return None
    return {
        "weight_percent": round(100 * sides.candidate.requests / requests, 2),
        "stable": _counts(sides.stable, errors),
        "candidate": _counts(sides.candidate, errors),
        "envoys": [_route(route) for route in controller.observer.routes(service, ENVOYS_SHOWN)],
    }


def _route(route: Route) -> models.EnvoySplit:
    return {
        "node": route.node,
        "weight_percent": round(100 * route.sent.share, 2),
        "acked_percent": percent(route.weight_bp),
        "requests": route.sent.requests,
        "astray": route.astray,
    }


def _counts(counts: Counts, errors: Errors) -> models.Counts:
    judged = tally(counts, Past(), errors)
    return {
        "requests": judged.requests,
        "errors": judged.errors,
        "error_share": judged.error_share,
        "p50_ms": _rounded(counts.latency.quantile(0.5)),
        "p99_ms": _rounded(counts.latency.quantile(0.99)),
    }


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 3)


def _drain(controller: Controller, rollout: Rollout, at: Moment) -> models.Drain | None:
    state = rollout.state
    if state.drain is None or state.loser is None:
        return None
    version, draining = name_of(rollout, state.loser), state.phase is Phase.DRAINING
    still_used = controller.books.still_used(rollout, at.users)
    active = controller.observer.activity.on_version(rollout.service, version) if draining else None
    return {
        "version": version,
        "running_on": _running_on(active),
        "running": state.drain.running,
        "idle_looks": state.drain.idle_looks,
        "timed_out": state.drain.timed_out,
        "cut": dict(state.drain.cut),
        "still_used": {address: list(others) for address, others in still_used.items()},
        "safe_to_stop": state.phase in ENDED and not still_used,
    }


def _running_on(active: Active | None) -> dict[str, int | None]:
    """On which Envoys something still runs, those with most first; null where one cannot be asked."""
    busy = [(node, count) for node, count in active.by_node.items() if count != 0] if active else []
    return dict(sorted(busy, key=lambda each: (each[1] is not None, -(each[1] or 0), each[0]))[:ENVOYS_SHOWN])


def backend_view(backend: Backend, active: Active | None) -> models.DrainingBackend:
    """A single backend that is let go; it is `removed` once no Envoy sends it anything any more."""
    return {
        "version": backend.version,
        "backend": backend.address,
        "running": backend.drain.running,
        "idle_looks": backend.drain.idle_looks,
        "timed_out": backend.drain.timed_out,
        "cut": dict(backend.drain.cut),
        "removed": backend.removed,
        "leaves": backend.leaves,
        "running_on": _running_on(active),
    }


def dump_story(rollout: Rollout, entries: Iterable[JournalEntry]) -> bytes:
    """A rollout's story as JSON: each saved step with its phase, its weight, why, and what was seen.

    It may be long: step by step, so that a thread which writes it leaves others their turn.
    """
    head = json.dumps({**summary(rollout), **_stages(rollout)})
    steps = (json.dumps(step) for step in _journal(entries, rollout.strategy))
    return f'{head[:-1]}, "journal": [{", ".join(steps)}]}}'.encode()


def _stages(rollout: Rollout) -> models.Staged:
    """The stages as they will be, and what was changed of them as they are written because of little traffic."""
    strategy = rollout.strategy
    steps = plan_of(strategy, rollout.state)
    return {
        "stages": [percent(step.weight_bp) for step in steps],
        "track": [stage_view(strategy.stages[step.stage], step.weight_bp) for step in steps],
        "keep_stable_seconds": strategy.keep_stable.total_seconds(),
        "stages_note": stages_note(strategy, rollout.state),
    }


def _journal(entries: Iterable[JournalEntry], strategy: Strategy) -> Iterator[models.Step]:
    heard: dict[str, tuple[bool, str]] = {}
    lanes: Mapping[str, State] = {}
    for entry in entries:
        look = entry.because.look if entry.because else None
        steps, lanes = lane_steps(lanes, entry.state, entry.because), entry.state.lanes
        yield {
            "wave": entry.state.wave,
            "locations": steps,
            "revision": entry.revision,
            "at": entry.at.isoformat(),
            "phase": entry.state.phase,
            "stage": entry.state.stage,
            "weight_percent": round(share_bp(strategy, entry.state) / 100, 2),
            "reason": entry.state.reason,
            "verdict": judged(entry.state.verdict),
            "passed": judged(entry.state.passed),
            "converged": entry.state.converged_s is not None,
            "waiting_for": dict(entry.because.lagging) if entry.because else {},
            "by": entry.because.by if entry.because and entry.because.command else "",
            "command": (entry.because.command or "") if entry.because else "",
            "awaiting": entry.state.awaited,
            "waiting": entry.state.waiting,
            "answers": _answers(entry.because, strategy, heard),
            "let_go": entry.state.let_go,
            "astray": list(look.astray) if look else [],
            "readings": _readings(look),
        }


def _answers(because: Seen | None, strategy: Strategy, heard: dict[str, tuple[bool, str]]) -> list[models.HookAnswer]:
    """What hooks say that they did not say before; `heard` keeps that."""
    said = because.answers if because else {}
    told: list[models.HookAnswer] = []
    for key, answer in said.items():
        if heard.get(key) == (answer.agreed, answer.words):
            continue
        heard[key] = (answer.agreed, answer.words)
        hook = strategy.hooks[int(key.partition("/")[0])]
        told.append({"hook": hook.label, "at": hook.at, "agreed": answer.agreed, "words": answer.words})
    return told


def _readings(look: Look | None) -> list[models.Reading]:
    """What a look's checks have measured."""
    readings = () if look is None else look.readings
    return [{"check": each.check, "value": each.value, "fault": each.fault} for each in readings]


def fleet_view(nodes: Iterable[NodeStatus], now_s: float, failures: Mapping[str, str]) -> list[models.Node]:
    """Envoys that are or were connected: who, where, what each ACKed of each type, and its NACK with Envoy's words."""
    return [_node(status, now_s, failures.get(status.node.id)) for status in nodes]


def _node(status: NodeStatus, now_s: float, failure: str | None) -> models.Node:
    node = status.node
    return {
        "node": node.id,
        "cluster": node.cluster,
        "location": node.location,
        "address": status.peer,
        "protocol": status.protocol,
        "envoy": node.version,
        "connected": status.connected,
        "seconds": round(now_s - status.since_s, 1),
        "stats": failure or "ok",
        "types": {
            type_.word: {
                "acked": each.acked_version,
                "waiting": each.waiting,
                "nack": None if each.rejection is None else _nack(each.rejection, now_s),
            }
            for type_ in TYPES
            if (each := status.types.get(type_)) is not None
        },
    }


def _nack(rejection: Rejection, now_s: float) -> models.Nack:
    return {"code": rejection.code, "text": rejection.text, "seconds": round(now_s - rejection.at_s, 1)}
