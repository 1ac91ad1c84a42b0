"""The routes by which documents of what shall be are planned, applied and written."""

from collections.abc import Mapping
from typing import Any

from aiohttp import web

from rollout.api import models
from rollout.api.backstage import Backstage
from rollout.api.contract import Query, Route
from rollout.api.queries import asked
from rollout.api.requests import body_of, caller, check_known, demand, known_fields, maybe_text, sees
from rollout.declared.steps import Step, Wishes, step_view
from rollout.declaring import Planned, at_stake, check_fingerprint
from rollout.errors import InvalidSpec
from rollout.rights import Role

OPTIONS = ("retry", "supersede", "prune")
SERVICES = Query("services", "Only these services, with commas between them.", {"type": "string", "minLength": 1})


class DocumentRoutes:
    """Handlers: each checks the request's form and who asks, and leaves the rest to the engine.

    Who may change what is asked for each document: a route of the whole fleet could not be used by who has some
    services only.
    """

    def __init__(self, backstage: Backstage) -> None:
        self._is = backstage

    def routes(self) -> tuple[Route, ...]:
        plan, viewer = models.Plan, Role.VIEWER
        return (
            Route("POST", "/v1/plan", self.plan, "says what applying would do", viewer, plan, models.Documents),
            Route("POST", "/v1/apply", self.apply, "has all be as documents say", viewer, plan, models.Appliance),
            Route(
                "GET",
                "/v1/documents",
                self.export,
                "how all stands",
                viewer,
                models.Export,
                query=(SERVICES,),
                refuses=(404,),
            ),
        )

    async def plan(self, request: web.Request) -> web.Response:
        body = await body_of(request)
        known_fields(body, "documents", *OPTIONS)
        return web.json_response(plan_view(self._planned(request, body)))

    async def apply(self, request: web.Request) -> web.Response:
        body = await body_of(request)
        known_fields(body, "documents", "fingerprint", *OPTIONS)
        planned = self._planned(request, body)
        for service in at_stake(planned):
            demand(request, Role.OPERATOR, service)
        check_fingerprint(planned, maybe_text(body, "fingerprint"))
        by = caller(request)
        if by.only_if:  # each step changes what the next one would be compared with
            raise InvalidSpec("If-Match: documents have no ETag; give `fingerprint`, as the plan says it")
        return web.json_response(plan_view(await self._is.declaring.apply(planned, by)))

    async def export(self, request: web.Request) -> web.Response:
        known = [each for each in self._is.controller.services() if sees(request, each)]
        named = asked(request).get("services")
        services = known if named is None else named.split(",")
        for service in services:
            demand(request, Role.VIEWER, service)
            check_known(request, service, self._is.controller.services())
            self._is.controller.check_service(service)
        declaring = self._is.declaring
        documents = declaring.export(services) if named is None else declaring.export_only(services)
        return web.json_response(models.Export(documents=list(documents)))

    def _planned(self, request: web.Request, body: Mapping[str, Any]) -> Planned:
        documents = body.get("documents")
        if not isinstance(documents, list):
            raise InvalidSpec("documents: must be a list, of documents as in a file")
        services = frozenset(each for each in self._is.controller.services() if sees(request, each))
        return self._is.declaring.plan(documents, Wishes(*(_truth(body, name) for name in OPTIONS)), services)


def _truth(body: Mapping[str, Any], name: str) -> bool:
    given = body.get(name, False)
    if not isinstance(given, bool):
        raise InvalidSpec(f"{name}: is neither true nor false")
    return given


def _step(step: Step) -> models.PlanStep:
    view: Any = step_view(step)
    found: models.PlanStep = view
    return found


def plan_view(planned: Planned) -> models.Plan:
    return {
        "steps": [_step(step) for step in planned.steps],
        "changes": planned.changes,
        "warnings": list(planned.warnings),
        "fingerprint": planned.fingerprint,
    }
