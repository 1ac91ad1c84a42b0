"""The HTTP admin API: JSON in and out, faults as problem documents (RFC 9457)."""

import asyncio
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass

import structlog
from aiohttp import hdrs, web
from prometheus_client.core import Metric
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest

from rollout.api import models
from rollout.api.answers import Repeats, Reused
from rollout.api.audit import Audit
from rollout.api.backstage import Backstage
from rollout.api.careful import careful, rehearsals, requests_logged
from rollout.api.changes import Changes
from rollout.api.config import Configuration
from rollout.api.contract import SERVICE, Handler, Route, add_routes
from rollout.api.declared import DocumentRoutes
from rollout.api.discoveries import Sources
from rollout.api.events import Events
from rollout.api.guard import add_headers, guard
from rollout.api.lists import Lists
from rollout.api.notify import Notifications
from rollout.api.openapi import Document
from rollout.api.overview import Overview
from rollout.api.packing import packed
from rollout.api.page import Page, read_bundle
from rollout.api.points import Points
from rollout.api.queries import known_query
from rollout.api.requests import NOTED
from rollout.api.sessions import Sessions
from rollout.api.strategies import StrategyRoutes
from rollout.api.tokens import Tokens
from rollout.api.views import dump_story, service_view
from rollout.api.waiting import UNTIL_CHANGED, UNTIL_ENDED, WAITING, Waiting, times_known
from rollout.errors import (
    Conflict,
    InvalidSpec,
    NotAllowed,
    NotIdentified,
    Outdated,
    RolloutError,
    TooMany,
    Unavailable,
    Unknown,
)
from rollout.record import JournalEntry, Rollout
from rollout.replay import dump_recording, recording
from rollout.rights import Role
from rollout.standing import tag
from rollout.store.filters import RolloutFilter
from xds.errors import InvalidConfig

BODY_LIMIT = 1024 * 1024
_NUMBER = re.compile(r"[0-9]{1,18}")
STATUS: Mapping[type[RolloutError], int] = {
    InvalidSpec: 400,
    NotIdentified: 401,
    NotAllowed: 403,
    Unknown: 404,
    Conflict: 409,
    Outdated: 412,
    Reused: 422,
    TooMany: 429,
    Unavailable: 503,
}


def application(backstage: Backstage) -> web.Application:
    """Return the API as an aiohttp application."""
    controller = backstage.controller
    repeats = Repeats(backstage.answers, controller.saver, controller.outside.wall)
    # What is answered to a change with a key is kept, refusals too: so errors become answers on both sides of that.
    asking = (packed, requests_logged, _problems, guard(backstage), known_query, times_known)
    doing = (repeats.middleware(), _problems, rehearsals)
    app = web.Application(middlewares=[*asking, *doing], client_max_size=BODY_LIMIT)
    app[WAITING] = Waiting(controller)
    app.on_shutdown.append(app[WAITING].close)
    add_routes(app, all_routes(backstage))
    app.on_response_prepare.append(add_headers)
    return app


def all_routes(backstage: Backstage) -> tuple[Route, ...]:
    """Return every route, in the order of the reference. Nothing is asked of the backstage before a request comes."""
    resources = (
        _Api(backstage),
        Lists(backstage),
        Changes(backstage),
        Configuration(backstage),
        Sources(backstage),
        StrategyRoutes(backstage),
        DocumentRoutes(backstage),
        Sessions(backstage),
        Tokens(backstage),
        Notifications(backstage),
        Events(backstage),
        Overview(backstage),
        Points(backstage),
        Audit(backstage),
        Document(),
        Page(read_bundle()),
    )
    return tuple(careful(route) for resource in resources for route in resource.routes())


@dataclass(frozen=True, slots=True)
class _Collected:
    """Metrics as they were at one moment, so that a thread may write them out."""

    families: tuple[Metric, ...]

    def collect(self) -> tuple[Metric, ...]:
        return self.families


class _Api:
    def __init__(self, backstage: Backstage) -> None:
        self._is = backstage

    def routes(self) -> tuple[Route, ...]:
        number, viewer, story = SERVICE + "/rollouts/{id}", Role.VIEWER, "a rollout with its journal"
        return (
            Route("GET", "/healthz", self.healthy, "says that the server runs", None, models.Status),
            Route("GET", "/readyz", self.ready, "says whether a configuration is served", None, models.Ready),
            Route("GET", "/metrics", self.metrics, "its own metrics, for Prometheus", viewer, speaks="text/plain"),
            Route("GET", SERVICE, self.get_service, "one service", viewer, models.Service, query=UNTIL_CHANGED),
            Route("GET", number, self.explain, story, viewer, models.Story, query=(UNTIL_ENDED,)),
            Route("GET", number + "/record", self.record, "what replays a rollout", viewer, models.Recording),
        )

    async def healthy(self, _request: web.Request) -> web.Response:
        return web.json_response(models.Status(status="ok"))

    async def ready(self, _request: web.Request) -> web.Response:
        if self._is.cache.fleet is None:
            raise Unavailable("no configuration is loaded yet")
        saving = not self._is.controller.saver.fault  # Envoys are served all the same
        return web.json_response(models.Ready(status="ok", snapshot=self._is.cache.fleet.common.version, saving=saving))

    async def metrics(self, _request: web.Request) -> web.Response:
        collected = _Collected(tuple(self._is.registry.collect()))
        text = await asyncio.to_thread(generate_latest, collected)  # of 2,000 services it is a megabyte
        return web.Response(body=text, headers={"Content-Type": CONTENT_TYPE_LATEST})

    async def get_service(self, request: web.Request) -> web.Response:
        controller, service = self._is.controller, request.match_info["service"]
        controller.check_service(service)
        await request.app[WAITING].changed(request, service)
        return web.json_response(self._service(request), headers={"ETag": f'"{tag(controller, service)}"'})

    async def explain(self, request: web.Request) -> web.Response:
        rollout, entries = await self._journal(request)
        if "wait" in request.query:
            await request.app[WAITING].ended(request, rollout)
            rollout, entries = await self._journal(request)
        text = await asyncio.to_thread(dump_story, rollout, entries)
        return web.Response(body=text, content_type="application/json")

    async def record(self, request: web.Request) -> web.Response:
        rollout, entries = await self._journal(request)
        text = await asyncio.to_thread(dump_recording, recording(rollout, entries))
        return web.Response(body=text, content_type="application/json")

    async def _journal(self, request: web.Request) -> tuple[Rollout, tuple[JournalEntry, ...]]:
        """Return the rollout that is asked for, or the last, and its steps."""
        service, wanted = request.match_info["service"], request.match_info["id"]
        last = self._is.controller.rollout(service)
        if last is None:
            raise Unknown(f"'{service}' has had no rollout")
        if wanted != "last" and not _NUMBER.fullmatch(wanted):
            raise InvalidSpec(f"'{wanted}' is no rollout's id; give a number, or `last`")
        number = last.id if wanted == "last" else int(wanted)
        found = await self._is.store.rollouts(service, 1, RolloutFilter(before=("", number + 1, "")))
        rollout = next((each for each in found if each.id == number), None)
        if rollout is None:
            raise Unknown(f"'{service}' has no rollout {number}; see `rollout history {service}`")
        return rollout, await self._is.store.journal(service, number)

    def _service(self, request: web.Request) -> models.Service:
        return service_view(self._is.controller, request.match_info["service"], self._is.moment())


def problem(status: int, title: str, detail: str) -> web.Response:
    """Return a refusal as a problem document."""
    document = {"type": "about:blank", "title": title, "status": status, "detail": detail}
    return web.json_response(document, status=status, content_type="application/problem+json")


def _remedies(error: RolloutError) -> Mapping[str, str]:
    """Return the headers that tell programs what to do."""
    match error:
        case NotIdentified():
            return {"WWW-Authenticate": 'Bearer realm="rollout"'}
        case TooMany():
            return {"Retry-After": str(math.ceil(error.wait_s))}
        case _:
            return {}


@web.middleware
async def _problems(request: web.Request, handler: Handler) -> web.StreamResponse:
    try:
        return await handler(request)
    except InvalidConfig as error:
        answer = problem(422, "configuration refused", str(error))
        answer[NOTED] = True  # envoy-configs is read by a verb only
        return answer
    except RolloutError as error:
        answer = problem(STATUS[type(error)], type(error).__name__, str(error))
        answer.headers.update(_remedies(error))
        if error.noted:
            answer[NOTED] = True
        return answer
    except web.HTTPException as error:
        answer = problem(error.status, error.reason, f"{request.method} {request.path}: {error.reason}")
        answer.headers.update({name: value for name, value in error.headers.items() if name == hdrs.ALLOW})
        return answer
    except Exception:  # noqa: BLE001 - our own bug: told in the log, and the answer stays a problem document
        structlog.get_logger().exception("bug", method=request.method, path=request.path)
        return problem(500, "Internal Server Error", "a bug of the server; its log has the traceback")
