"""The routes by which operators change something, and the one that tells what they did."""

from typing import Any

from aiohttp import web

from rollout.api.backstage import Backstage
from rollout.api.contract import SERVICE, Route
from rollout.api.requests import body_of, caller, endpoints, known_fields, maybe_text, text
from rollout.api.views import operation_view, queued_view, rollout_view, service_view, versions_view
from rollout.backends import Scaling
from rollout.controller import Order
from rollout.errors import InvalidSpec, Unknown
from rollout.health import Health
from rollout.marking import Marking
from rollout.record import Rollout
from rollout.rights import Role
from rollout.spec import parse_deployment, parse_endpoint
from rollout.state import Command

OPERATIONS_LIMIT = 1_000


class Changes:
    """Handlers: each checks the request's form and leaves the rest to the engine."""

    def __init__(self, backstage: Backstage) -> None:
        self._is = backstage
        self._marking = Marking(backstage.controller, backstage.ledger)

    def routes(self) -> tuple[Route, ...]:
        version, operator = SERVICE + "/versions/{version}", Role.OPERATOR
        return (
            Route("POST", SERVICE + "/rollouts", self.deploy, "starts a rollout", operator, statuses=(201, 202)),
            Route("POST", SERVICE + "/undo", self.undo, "goes back", operator, statuses=(200, 201)),
            Route("POST", SERVICE + "/retry", self.retry, "begins the last one again", operator, statuses=(201,)),
            Route("DELETE", SERVICE + "/queue", self.dequeue, "takes out what waits", operator),
            Route("POST", SERVICE + "/commands/{command}", self.command, "steers a rollout in progress", operator),
            Route("POST", SERVICE + "/drains", self.drain, "lets backends go", operator, statuses=(201,)),
            Route("POST", SERVICE + "/undrains", self.undrain, "takes backends back", operator),
            Route("POST", SERVICE + "/health", self.mark, "marks a backend", operator),
            Route("POST", SERVICE + "/adopt", self.adopt, "names the version of envoy-configs", operator),
            Route("GET", SERVICE + "/versions", self.versions, "its versions, past ones too", Role.VIEWER),
            Route("PUT", version, self.place, "has a version run just there", operator),
            Route("PATCH", version, self.scale, "adds and removes backends", operator),
            Route("DELETE", version, self.forget, "forgets a past version", operator),
            Route("GET", SERVICE + "/operations", self.service_operations, "who asked for what", Role.VIEWER),
            Route("GET", "/v1/operations", self.operations, "who asked for what", Role.VIEWER),
            Route("POST", "/v1/config/reload", self.reload, "reads envoy-configs again", Role.ADMIN),
        )

    async def deploy(self, request: web.Request) -> web.Response:
        body = await body_of(request)
        supersede = body.pop("supersede", False)
        if not isinstance(supersede, bool):
            raise InvalidSpec("supersede: is neither true nor false")
        if body.get("service", _service(request)) != _service(request):
            raise InvalidSpec(f"service: is not '{_service(request)}', which the path names; leave it out")
        deployment = parse_deployment({**body, "service": _service(request)})
        ask = self._is.operations.supersede if supersede else self._is.operations.deploy
        return self._rollout(await ask(deployment, caller(request)), status=201)

    async def undo(self, request: web.Request) -> web.Response:
        body = await body_of(request)
        known_fields(body, "to", "endpoints")
        to, given = maybe_text(body, "to"), endpoints(body, "endpoints")
        unchanged = self._is.operations.nothing_to_undo(_service(request), to)
        rollout = await self._is.operations.undo(_service(request), caller(request), to, given)
        return self._rollout(rollout, status=200 if unchanged else 201, unchanged=unchanged)

    async def retry(self, request: web.Request) -> web.Response:
        known_fields(await body_of(request))
        return self._rollout(await self._is.operations.retry(_service(request), caller(request)), status=201)

    async def dequeue(self, request: web.Request) -> web.Response:
        await self._is.operations.dequeue(_service(request), caller(request))
        return self._view(request)

    async def command(self, request: web.Request) -> web.Response:
        body = await body_of(request)
        known_fields(body, "location")
        word = request.match_info["command"]
        if word not in list(Command):
            raise Unknown(f"there is no command '{word}'; there are {', '.join(Command)}")
        order = Order(Command(word), caller(request), maybe_text(body, "location"))
        return self._rollout(await self._is.operations.command(_service(request), order), status=200)

    async def drain(self, request: web.Request) -> web.Response:
        body, backends = await body_of(request), self._is.backends
        if body.get("location") is not None:
            known_fields(body, "location")
            await backends.drain_location(_service(request), text(body, "location"), caller(request))
        else:
            await backends.drain(_service(request), _address(body), caller(request))
        return self._view(request, status=201)

    async def undrain(self, request: web.Request) -> web.Response:
        body, backends = await body_of(request), self._is.backends
        if body.get("location") is not None:
            known_fields(body, "location")
            await backends.undrain_location(_service(request), text(body, "location"), caller(request))
        else:
            await backends.undrain(_service(request), _address(body), caller(request))
        return self._view(request)

    async def mark(self, request: web.Request) -> web.Response:
        body, service = await body_of(request), _service(request)
        known_fields(body, "backend", "health", "reason")
        address, word = parse_endpoint(text(body, "backend")).address, text(body, "health")
        match word:
            case Health.UNHEALTHY:
                reason = text(body, "reason") if body.get("reason") else ""
                await self._marking.unhealthy(service, address, reason, caller(request))
            case Health.HEALTHY:
                await self._marking.healthy(service, address, caller(request))
            case _:
                raise InvalidSpec(f"health: '{word}' is neither healthy nor unhealthy")
        return self._view(request)

    async def adopt(self, request: web.Request) -> web.Response:
        body = await body_of(request)
        known_fields(body, "version")
        version = text(body, "version")
        await self._is.operations.adopt(_service(request), version, caller(request))
        return self._view(request)

    async def versions(self, request: web.Request) -> web.Response:
        self._is.controller.check_service(_service(request))
        return web.json_response(versions_view(self._is.controller, _service(request), self._is.clock()))

    async def place(self, request: web.Request) -> web.Response:
        body = await body_of(request)
        known_fields(body, "endpoints")
        given = endpoints(body, "endpoints")
        if not given:
            raise InvalidSpec("endpoints: is empty; give at least one as HOST:PORT")
        await self._is.backends.place(_service(request), request.match_info["version"], given, caller(request))
        return self._view(request)

    async def scale(self, request: web.Request) -> web.Response:
        body = await body_of(request)
        known_fields(body, "add", "remove")
        gone = frozenset(each.address for each in endpoints(body, "remove"))
        wanted = Scaling(endpoints(body, "add"), gone)
        if wanted == Scaling():
            raise InvalidSpec("add: or remove: is missing; give one as a list of HOST:PORT")
        await self._is.backends.scale(_service(request), request.match_info["version"], wanted, caller(request))
        return self._view(request)

    async def forget(self, request: web.Request) -> web.Response:
        await self._is.operations.forget(_service(request), request.match_info["version"], caller(request))
        return self._view(request)

    async def service_operations(self, request: web.Request) -> web.Response:
        self._is.controller.check_service(_service(request))
        return await self._operations(_service(request))

    async def operations(self, _request: web.Request) -> web.Response:
        return await self._operations(None)

    async def reload(self, request: web.Request) -> web.Response:
        known_fields(await body_of(request))
        return web.json_response({"warnings": list(await self._is.reload(caller(request)))})

    async def _operations(self, service: str | None) -> web.Response:
        found = await self._is.store.operations(service, OPERATIONS_LIMIT)
        return web.json_response({"operations": [operation_view(each) for each in found]})

    def _rollout(self, rollout: Rollout, status: int, **more: str) -> web.Response:
        view = rollout_view(self._is.controller, rollout, self._is.moment())
        queued = queued_view(self._is.controller, rollout.service)
        answer = {**view, "queued": queued, **more}
        return web.json_response(answer, status=202 if queued and status == 201 else status)

    def _view(self, request: web.Request, status: int = 200) -> web.Response:
        view = service_view(self._is.controller, _service(request), self._is.moment())
        return web.json_response(view, status=status)


def _service(request: web.Request) -> str:
    return request.match_info["service"]


def _address(body: dict[str, Any]) -> str:
    known_fields(body, "backend", "location")
    return parse_endpoint(text(body, "backend")).address
