"""What the API says of a service, a rollout, the fleet: plain JSON values."""

from collections.abc import Iterable, Mapping
from typing import Any

from rollout.books import name_of
from rollout.controller import Controller
from rollout.gate import Counts, verdict_to_json
from rollout.machine import ENDED, Phase, weight_bp
from rollout.record import Backend, JournalEntry, Rollout
from rollout.spec import Strategy
from xds.cache import NodeStatus
from xds.resources import TYPES
from xds.subscription import Rejection


def percent(basis_points: int) -> float:
    return basis_points / 100


def service_view(controller: Controller, service: str, now_s: float) -> dict[str, Any]:
    """A service: its stable version, its versions with their backends, and the rollout in progress or last."""
    rollout = controller.rollout(service)
    return {
        "service": service,
        "stable": controller.books.stable(service),
        "in_progress": controller.in_progress(service),
        "versions": [
            {
                "version": version.name,
                "weight_percent": percent(controller.books.weight_bp(service, version.name)),
                "backends": list(controller.books.addresses(service, version.name)),
            }
            for version in controller.books.versions(service)
        ],
        "drains": [backend_view(each) for each in controller.books.backends(service)],
        "rollout": rollout and rollout_view(controller, rollout, now_s),
    }


def rollout_view(controller: Controller, rollout: Rollout, now_s: float) -> dict[str, Any]:
    """A rollout as it stands; `measured` is what the last look saw while traffic is shifted, else None."""
    state, strategy = rollout.state, rollout.strategy
    in_progress = controller.in_progress(rollout.service)
    shifting = state.phase in (Phase.SHIFTING, Phase.PAUSED)
    return {
        **summary(rollout),
        "in_progress": in_progress,
        "phase_seconds": round(max(0.0, now_s - state.since_s), 1),
        "stage": state.stage,
        "stages": [percent(stage.weight_bp) for stage in strategy.stages],
        "weight_percent": percent(weight_bp(strategy, state)),
        "measured": _measured(controller.observer.recent(rollout.service)) if shifting else None,
        "verdict": state.verdict and verdict_to_json(state.verdict),
        "waiting_for": _waiting(controller, rollout.service) if in_progress else {},
        "resume": state.resume,
        "loser": state.loser and name_of(rollout, state.loser),
        "drain": _drain(rollout),
    }


def _waiting(controller: Controller, service: str) -> dict[str, str]:
    unsaved = controller.unsaved(service)
    disk = {"the disk": f"has not saved the last steps: {unsaved}"} if unsaved else {}
    return {**disk, **controller.observer.lagging(service)}


def summary(rollout: Rollout) -> dict[str, Any]:
    """A rollout in one line of a table."""
    return {
        "service": rollout.service,
        "id": rollout.id,
        "stable": rollout.stable,
        "candidate": rollout.candidate,
        "phase": rollout.state.phase,
        "outcome": outcome(rollout),
        "reason": rollout.state.reason,
        "started_at": rollout.started_at.isoformat(),
        "changed_at": rollout.changed_at.isoformat(),
    }


def outcome(rollout: Rollout) -> str:
    """Say how a rollout ended, or that it goes on: completed, rolled_back, in_progress."""
    return rollout.state.phase.value if rollout.state.phase in ENDED else "in_progress"


def _measured(recent: tuple[Counts, Counts]) -> dict[str, Any] | None:
    stable, candidate = recent
    requests = stable.requests + candidate.requests
    if not requests:
        return None
    return {
        "weight_percent": round(100 * candidate.requests / requests, 2),
        "stable": _counts(stable),
        "candidate": _counts(candidate),
    }


def _counts(counts: Counts) -> dict[str, Any]:
    return {
        "requests": counts.requests,
        "errors": counts.errors,
        "error_share": counts.error_share,
        "p50_ms": _rounded(counts.latency.quantile(0.5)),
        "p99_ms": _rounded(counts.latency.quantile(0.99)),
    }


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 3)


def _drain(rollout: Rollout) -> dict[str, Any] | None:
    state = rollout.state
    if state.drain is None or state.loser is None:
        return None
    return {
        "version": name_of(rollout, state.loser),
        "running": state.drain.running,
        "idle_looks": state.drain.idle_looks,
        "timed_out": state.drain.timed_out,
        "cut": dict(state.drain.cut),
        "safe_to_stop": state.phase in ENDED,
    }


def backend_view(backend: Backend) -> dict[str, Any]:
    """A single backend that is let go; it is `removed` once no Envoy sends it anything any more."""
    return {
        "version": backend.version,
        "backend": backend.address,
        "running": backend.drain.running,
        "idle_looks": backend.drain.idle_looks,
        "timed_out": backend.drain.timed_out,
        "cut": dict(backend.drain.cut),
        "removed": backend.removed,
    }


def story_view(rollout: Rollout, entries: Iterable[JournalEntry]) -> dict[str, Any]:
    """A rollout's story: each saved step with its phase, its weight, why, and what was seen."""
    stages = [percent(stage.weight_bp) for stage in rollout.strategy.stages]
    return {**summary(rollout), "stages": stages, "journal": _journal(entries, rollout.strategy)}


def _journal(entries: Iterable[JournalEntry], strategy: Strategy) -> list[dict[str, Any]]:
    return [
        {
            "revision": entry.revision,
            "at": entry.at.isoformat(),
            "phase": entry.state.phase,
            "stage": entry.state.stage,
            "weight_percent": percent(weight_bp(strategy, entry.state)),
            "reason": entry.state.reason,
            "verdict": entry.state.verdict and verdict_to_json(entry.state.verdict),
            "converged": entry.state.converged_s is not None,
            "waiting_for": dict(entry.because.lagging) if entry.because else {},
            "by": entry.because.by if entry.because and entry.because.command else "",
        }
        for entry in entries
    ]


def fleet_view(
    connected: Iterable[NodeStatus], gone: Iterable[NodeStatus], now_s: float, failures: Mapping[str, str]
) -> list[dict[str, Any]]:
    """Every Envoy that is or was connected: who, where, what it ACKed of each type, and its NACK with Envoy's words."""
    return [_node(status, now_s, failures.get(status.node.id)) for status in (*connected, *gone)]


def _node(status: NodeStatus, now_s: float, failure: str | None) -> dict[str, Any]:
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
                "nack": each.rejection and _nack(each.rejection, now_s),
            }
            for type_ in TYPES
            if (each := status.types.get(type_)) is not None
        },
    }


def _nack(rejection: Rejection, now_s: float) -> dict[str, Any]:
    return {"code": rejection.code, "text": rejection.text, "seconds": round(now_s - rejection.at_s, 1)}
