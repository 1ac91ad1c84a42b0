"""The routes that list things, page by page and narrowed down: services, rollouts, operations, Envoys."""

from collections.abc import Mapping
from fnmatch import fnmatchcase
from typing import Any

from aiohttp import web

from rollout.api import models
from rollout.api.backstage import Backstage
from rollout.api.contract import SERVICE, Query, Route
from rollout.api.paging import PAGE, Page, cut, ended, page_of
from rollout.api.queries import asked
from rollout.api.requests import identity
from rollout.api.views import fleet_view, operation_view, service_view, summary, versions_view
from rollout.record import PastVersion, Rollout
from rollout.rights import Role
from rollout.standing import tag
from rollout.state import Phase
from rollout.store.filters import OperationFilter, RolloutFilter
from rollout.store.rows import to_text
from rollout.waves import is_in
from xds.cache import NodeStatus

TEXT = {"type": "string", "minLength": 1}
TRUTH = {"type": "boolean"}
OF_SERVICES = (
    Query("name", "Only services of this name, or of this pattern: `shop-*`.", TEXT),
    Query("phase", "Only those whose rollout, in progress or last, is in this phase.", {"enum": [*Phase]}),
    Query("in_progress", "Only those with a rollout in progress, or without one.", TRUTH),
)
OF_ROLLOUTS = (
    Query("outcome", "Only those that ended so.", {"enum": ["completed", "rolled_back", "in_progress"]}),
    Query("since", "Only those that began then or later.", {"type": "string", "format": "date-time"}),
)
OF_SERVICE = Query("service", "Only those of this service.", TEXT)
OF_OPERATIONS = (
    Query("verb", "Only those that asked for this.", TEXT),
    Query("by", "Only those of this person or program.", TEXT),
)
WHO = "who asked for what, and what came of it"
OF_FLEET = (
    Query("location", "Only Envoys there: `region/zone`, a region, or a zone.", TEXT),
    Query("cluster", "Only Envoys of this `node.cluster`.", TEXT),
    Query("connected", "Only those on the line, or those that are gone.", TRUTH),
    Query("nack", "Only those that refuse something that is served, or those that do not.", TRUTH),
)


class Lists:
    """Handlers of lists. What somebody may not see is left out."""

    def __init__(self, backstage: Backstage) -> None:
        self._is = backstage

    def routes(self) -> tuple[Route, ...]:
        viewer = Role.VIEWER
        rollouts, asked_for, fleet = PAGE + OF_ROLLOUTS, PAGE + OF_OPERATIONS, PAGE + OF_FLEET
        past = "its versions, past ones too"
        every = (*rollouts, OF_SERVICE)
        m = models
        return (
            Route("GET", "/v1/services", self.services, "the services", viewer, m.Services, query=PAGE + OF_SERVICES),
            Route("GET", SERVICE + "/rollouts", self.history, "its rollouts", viewer, m.Rollouts, query=rollouts),
            Route("GET", "/v1/rollouts", self.rollouts, "all rollouts", viewer, m.Rollouts, query=every),
            Route("GET", SERVICE + "/versions", self.versions, past, viewer, m.Versions, query=PAGE),
            Route("GET", SERVICE + "/operations", self.its_operations, WHO, viewer, m.Operations, query=asked_for),
            Route("GET", "/v1/operations", self.operations, WHO, viewer, m.Operations, query=asked_for),
            Route("GET", "/v1/fleet", self.fleet, "every Envoy", viewer, m.Fleet, query=fleet),
        )

    async def services(self, request: web.Request) -> web.Response:
        controller, given = self._is.controller, asked(request)
        seen = identity(request).grant.seen(controller.services())
        page = cut([each for each in seen if self._is_wanted(each, given)], page_of(request, str), _name)
        now = self._is.moment()
        views = [service_view(controller, each, now) for each in page.items]
        return web.json_response(models.Services(services=views, next=page.next))

    def _is_wanted(self, service: str, given: Mapping[str, Any]) -> bool:
        controller, phase, in_progress = self._is.controller, given.get("phase"), given.get("in_progress")
        rollout = controller.rollout(service)
        return (
            fnmatchcase(service, given.get("name", "*"))
            and (phase is None or (rollout is not None and rollout.state.phase == phase))
            and in_progress in (None, controller.in_progress(service))
        )

    async def history(self, request: web.Request) -> web.Response:
        service = request.match_info["service"]
        self._is.controller.check_service(service)
        return await self._rollouts(request, service)

    async def rollouts(self, request: web.Request) -> web.Response:
        return await self._rollouts(request, None)

    async def _rollouts(self, request: web.Request, service: str | None) -> web.Response:
        given, page = asked(request), page_of(request, str, int, str)
        wanted = RolloutFilter(_limits(request), given.get("outcome"), given.get("since"), _began(page))
        found = await self._is.store.rollouts(service or given.get("service"), page.limit + 1, wanted)
        shown = ended(found, page, _rollout_key)
        return web.json_response(models.Rollouts(rollouts=[summary(each) for each in shown.items], next=shown.next))

    async def versions(self, request: web.Request) -> web.Response:
        controller, service = self._is.controller, request.match_info["service"]
        controller.check_service(service)
        past = cut(controller.books.past_versions(service), page_of(request, float, str), _past_key)
        view = versions_view(controller, service, self._is.clock(), past)
        return web.json_response(view, headers={"ETag": f'"{tag(controller, service)}"'})

    async def its_operations(self, request: web.Request) -> web.Response:
        self._is.controller.check_service(request.match_info["service"])
        return await self._operations(request, request.match_info["service"])

    async def operations(self, request: web.Request) -> web.Response:
        return await self._operations(request, None)

    async def _operations(self, request: web.Request, service: str | None) -> web.Response:
        given, page = asked(request), page_of(request, int)
        before = None if page.after is None else int(page.after[0])
        wanted = OperationFilter(_limits(request), given.get("verb"), given.get("by"), before)
        found = await self._is.store.operations(service, page.limit + 1, wanted)
        shown = ended(found, page, lambda each: (each.id,))
        views = [operation_view(each) for each in shown.items]
        return web.json_response(models.Operations(operations=views, next=shown.next))

    async def fleet(self, request: web.Request) -> web.Response:
        given = asked(request)
        nodes = [each for each in (*self._is.cache.connected(), *self._is.cache.gone()) if _is_of(each, given)]
        shown = cut(nodes, page_of(request, str), lambda each: (each.node.id,))
        failures = {node: failure.why for node, failure in self._is.failures().items()}
        views = fleet_view(shown.items, self._is.clock(), failures)
        return web.json_response(models.Fleet(nodes=views, next=shown.next))


def _limits(request: web.Request) -> tuple[str, ...] | None:
    """Return the patterns of the services that somebody may see, None for all of them."""
    return identity(request).grant.services or None


def _began(page: Page) -> tuple[str, int, str] | None:
    if page.after is None:
        return None
    at, number, service = page.after
    return str(at), int(number), str(service)


def _rollout_key(rollout: Rollout) -> tuple[str, int, str]:
    return to_text(rollout.started_at), rollout.id, rollout.service


def _name(service: str) -> tuple[str]:
    return (service,)


def _past_key(past: PastVersion) -> tuple[float, str]:
    """The newest first."""
    return -past.ended.engine_s, past.name


def _is_of(node: NodeStatus, given: Mapping[str, Any]) -> bool:
    refuses = any(each.rejection is not None for each in node.types.values())
    return (
        ("location" not in given or is_in(node.node.location, given["location"]))
        and given.get("cluster") in (None, node.node.cluster)
        and given.get("connected") in (None, node.connected)
        and given.get("nack") in (None, refuses)
    )
