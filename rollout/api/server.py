"""The HTTP admin API: JSON in and out, faults as problem documents (RFC 9457)."""

import asyncio
import hmac
import re
from collections.abc import Mapping
from typing import Any

import structlog
from aiohttp import web
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest

from rollout.api.backstage import Backstage
from rollout.api.changes import Changes
from rollout.api.contract import SERVICE, Handler, Route, add_routes
from rollout.api.page import Page, read_bundle
from rollout.api.views import dump_story, fleet_view, service_view, summary
from rollout.bootstrap import is_loopback
from rollout.errors import Conflict, InvalidSpec, RolloutError, Unavailable, Unknown
from rollout.record import JournalEntry, Rollout
from rollout.replay import dump_recording, recording
from rollout.rights import Role
from xds.errors import InvalidConfig

BODY_LIMIT = 1024 * 1024
HISTORY_LIMIT = 100
_NUMBER = re.compile(r"[0-9]{1,18}")
STATUS: Mapping[type[RolloutError], int] = {InvalidSpec: 400, Unknown: 404, Conflict: 409, Unavailable: 503}


def application(backstage: Backstage) -> web.Application:
    """Return the API as an aiohttp application."""
    api = _Api(backstage)
    app = web.Application(middlewares=[_problems, _guard(backstage.token)], client_max_size=BODY_LIMIT)
    add_routes(app, [*api.routes(), *Changes(backstage).routes(), *Page(read_bundle()).routes()])
    return app


class _Api:
    def __init__(self, backstage: Backstage) -> None:
        self._is = backstage

    def routes(self) -> tuple[Route, ...]:
        number, viewer = SERVICE + "/rollouts/{id}", Role.VIEWER
        return (
            Route("GET", "/healthz", self.healthy, "says that the server runs", None),
            Route("GET", "/readyz", self.ready, "says whether a configuration is loaded", None),
            Route("GET", "/metrics", self.metrics, "the server's own metrics, for Prometheus", viewer),
            Route("GET", "/v1/services", self.list_services, "the services", viewer),
            Route("GET", SERVICE, self.get_service, "one service", viewer),
            Route("GET", SERVICE + "/rollouts", self.history, "its rollouts, newest first", viewer),
            Route("GET", number, self.explain, "a rollout's story", viewer),
            Route("GET", number + "/record", self.record, "what a rollout is decided again by", viewer),
            Route("GET", "/v1/rollouts", self.list_rollouts, "all rollouts, newest first", viewer),
            Route("GET", "/v1/fleet", self.fleet, "every Envoy", viewer),
        )

    async def healthy(self, _request: web.Request) -> web.Response:
        return web.json_response({"status": "ok"})

    async def ready(self, _request: web.Request) -> web.Response:
        if self._is.cache.fleet is None:
            raise Unavailable("no configuration is loaded yet")
        return web.json_response({"status": "ok", "snapshot": self._is.cache.fleet.common.version})

    async def metrics(self, _request: web.Request) -> web.Response:
        return web.Response(body=generate_latest(self._is.registry), headers={"Content-Type": CONTENT_TYPE_LATEST})

    async def list_services(self, _request: web.Request) -> web.Response:
        controller, now = self._is.controller, self._is.moment()
        return web.json_response({"services": [service_view(controller, each, now) for each in controller.services()]})

    async def get_service(self, request: web.Request) -> web.Response:
        return web.json_response(self._service(request))

    async def history(self, request: web.Request) -> web.Response:
        self._is.controller.rollout(request.match_info["service"])
        rollouts = await self._is.store.rollouts(request.match_info["service"], HISTORY_LIMIT)
        return web.json_response({"rollouts": [summary(each) for each in rollouts]})

    async def list_rollouts(self, _request: web.Request) -> web.Response:
        rollouts = await self._is.store.rollouts(None, HISTORY_LIMIT)
        return web.json_response({"rollouts": [summary(each) for each in rollouts]})

    async def explain(self, request: web.Request) -> web.Response:
        rollout, entries = await self._journal(request)
        text = await asyncio.to_thread(dump_story, rollout, entries)
        return web.Response(body=text, content_type="application/json")

    async def record(self, request: web.Request) -> web.Response:
        rollout, entries = await self._journal(request)
        text = await asyncio.to_thread(dump_recording, recording(rollout, entries))
        return web.Response(body=text, content_type="application/json")

    async def fleet(self, _request: web.Request) -> web.Response:
        failures = {node: failure.why for node, failure in self._is.failures().items()}
        nodes = fleet_view(self._is.cache.connected(), self._is.cache.gone(), self._is.clock(), failures)
        return web.json_response({"nodes": nodes})

    async def _journal(self, request: web.Request) -> tuple[Rollout, tuple[JournalEntry, ...]]:
        """Return the rollout that is asked for, or the last, and its steps."""
        service, wanted = request.match_info["service"], request.match_info["id"]
        last = self._is.controller.rollout(service)
        if last is None:
            raise Unknown(f"'{service}' has had no rollout")
        if wanted != "last" and not _NUMBER.fullmatch(wanted):
            raise InvalidSpec(f"'{wanted}' is no rollout's id; give a number, or `last`")
        number = last.id if wanted == "last" else int(wanted)
        rollouts = await self._is.store.rollouts(service, HISTORY_LIMIT)
        rollout = next((each for each in rollouts if each.id == number), None)
        if rollout is None:
            raise Unknown(f"'{service}' has no rollout {number}; see `rollout history {service}`")
        return rollout, await self._is.store.journal(service, number)

    def _service(self, request: web.Request) -> dict[str, Any]:
        return service_view(self._is.controller, request.match_info["service"], self._is.moment())


def _problem(status: int, title: str, detail: str) -> web.Response:
    document = {"type": "about:blank", "title": title, "status": status, "detail": detail}
    return web.json_response(document, status=status, content_type="application/problem+json")


@web.middleware
async def _problems(request: web.Request, handler: Handler) -> web.StreamResponse:
    try:
        return await handler(request)
    except InvalidConfig as error:
        return _problem(422, "configuration refused", str(error))
    except RolloutError as error:
        return _problem(STATUS[type(error)], type(error).__name__, str(error))
    except web.HTTPException as error:
        return _problem(error.status, error.reason, f"{request.method} {request.path}: {error.reason}")
    except Exception:  # noqa: BLE001 - our own bug: told in the log, and the answer stays a problem document
        structlog.get_logger().exception("bug", method=request.method, path=request.path)
        return _problem(500, "Internal Server Error", "a bug of the server; its log has the traceback")


def _guard(token: str | None) -> Any:
    """With a token, every change must bring it; without one the API is on loopback, and only for programs there."""

    @web.middleware
    async def guard(request: web.Request, handler: Handler) -> web.StreamResponse:
        if token is None and not is_loopback(request.url.host or ""):
            # Else a page of any host that is made to resolve to 127.0.0.1 could deploy.
            return _problem(403, "Forbidden", f"this API is for loopback, not for '{request.host}'")
        if request.method in ("GET", "HEAD"):
            return await handler(request)
        if token is not None and not _has_token(request, token):
            return _problem(401, "Unauthorized", "changes need `Authorization: Bearer TOKEN` (CLI: ROLLOUT_TOKEN)")
        origin = request.headers.get("Origin")
        if origin is not None and origin.partition("://")[2] != request.host:
            return _problem(403, "Forbidden", f"changes are not taken from pages of {origin}")
        return await handler(request)

    return guard


def _has_token(request: web.Request, token: str) -> bool:
    scheme, _, given = request.headers.get("Authorization", "").partition(" ")
    return scheme.lower() == "bearer" and hmac.compare_digest(given.strip().encode(), token.encode())
