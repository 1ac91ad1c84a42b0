"""GET /v1/overview: every service at a glance, cheap enough to be asked for each second."""

from collections.abc import Iterable

from aiohttp import web

from rollout.api.backstage import Backstage
from rollout.api.contract import Route
from rollout.api.locations import verdict_view, weight_view
from rollout.api.models import events as models
from rollout.api.requests import identity
from rollout.api.views import outcome, percent
from rollout.controller import Controller
from rollout.machine import plan_of
from rollout.rights import Role


class Overview:
    """The handler."""

    def __init__(self, backstage: Backstage) -> None:
        self._is = backstage

    def routes(self) -> tuple[Route, ...]:
        about = "all services at a glance"
        return (Route("GET", "/v1/overview", self.overview, about, Role.VIEWER, models.Overview),)

    async def overview(self, request: web.Request) -> web.Response:
        controller = self._is.controller
        seen = identity(request).grant.seen(controller.services())
        return web.json_response(overview_view(controller, seen))


def overview_view(controller: Controller, services: Iterable[str]) -> models.Overview:
    """Services at a glance; nothing of it needs a look at the fleet's stats."""
    return {"services": [_row(controller, each) for each in services]}


def _row(controller: Controller, service: str) -> models.Glance:
    rollout, books = controller.rollout(service), controller.books
    marked = {address for owner, address in books.marks if owner == service}
    state = None if rollout is None else rollout.state
    verdict = None if rollout is None else verdict_view(rollout)
    return {
        "service": service,
        "stable": books.stable(service),
        "rollout": None if rollout is None else rollout.id,
        "candidate": None if rollout is None else rollout.candidate,
        "in_progress": controller.in_progress(service),
        "phase": None if state is None else state.phase,
        "outcome": None if rollout is None else outcome(rollout),
        "stage": None if state is None else state.stage,
        "stages": []
        if rollout is None
        else [percent(step.weight_bp) for step in plan_of(rollout.strategy, rollout.state)],
        "weight_percent": None if rollout is None else weight_view(controller, rollout),
        "verdict": None if verdict is None else verdict["verdict"],
        "reason": "" if state is None else state.reason,
        "waiting": "" if state is None else state.waiting,
        "awaiting": None if state is None else state.awaited,
        "unhealthy": len(marked.union(each.address for each in controller.ailing.findings(service))),
        "draining": sum(not each.removed for each in books.backends(service)),
        "changed_at": None if rollout is None else rollout.changed_at.isoformat(),
    }
