"""The routes by which operators change something, and the one that tells what they did."""

from typing import Any

from aiohttp import web

from rollout.api import models
from rollout.api.backstage import Backstage
from rollout.api.contract import SERVICE, Handler, Route
from rollout.api.discoveries import found_by
from rollout.api.requests import body_of, caller, endpoints, known_fields, maybe_text, text
from rollout.api.views import queued_view, rollout_view, service_view
from rollout.api.waiting import WAITING, waiting
from rollout.backends import Scaling
from rollout.controller import Order
from rollout.errors import InvalidSpec, Unknown
from rollout.health import Health
from rollout.marking import Marking
from rollout.record import Rollout
from rollout.rights import Role
from rollout.spec import parse_deployment, parse_endpoint
from rollout.state import Command

OF_A_STAGE = (Command.PROMOTE, Command.PROMOTE_FULL, Command.SKIP_STAGE, Command.APPROVE)


class Changes:
    """Handlers: each checks the request's form and leaves the rest to the engine."""

    def __init__(self, backstage: Backstage) -> None:
        self._is = backstage
        self._marking = Marking(backstage.controller, backstage.ledger)

    def routes(self) -> tuple[Route, ...]:
        version, drains, again = SERVICE + "/versions/{version}", SERVICE + "/drains", "reads envoy-configs again"
        return (
            _about_rollout("/rollouts", self.deploy, "starts a rollout", models.Deployment, (201, 202)),
            _about_rollout("/undo", self.undo, "goes back", models.Undo, (200, 201, 202)),
            _about_rollout("/retry", self.retry, "begins the last one again", models.Nothing, (201, 202)),
            _about_rollout("/commands/{command}", self.command, "steers a rollout", models.Command, (200,)),
            waiting(_about_service("POST", drains, self.drain, "lets backends go", models.Drained, (201,))),
            _about_service("POST", SERVICE + "/undrains", self.undrain, "takes backends back", models.Drained),
            _about_service("POST", SERVICE + "/health", self.mark, "marks a backend", models.Mark),
            _about_service("POST", SERVICE + "/adopt", self.adopt, "names what envoy-configs has", models.Adoption),
            _about_service("DELETE", SERVICE + "/queue", self.dequeue, "takes out what waits"),
            waiting(_about_service("PUT", version, self.place, "has a version run just there", models.Endpoints)),
            waiting(_about_service("PATCH", version, self.scale, "adds and removes backends", models.Scaling)),
            _about_service("DELETE", version, self.forget, "forgets a past version"),
            Route("POST", "/v1/config/reload", self.reload, again, Role.ADMIN, models.Reloaded, models.Nothing),
        )

    async def deploy(self, request: web.Request) -> web.Response:
        body = await body_of(request)
        supersede = body.pop("supersede", False)
        if not isinstance(supersede, bool):
            raise InvalidSpec("supersede: is neither true nor false")
        if body.get("service", _service(request)) != _service(request):
            raise InvalidSpec(f"service: is not '{_service(request)}', which the path names; leave it out")
        if isinstance(body.get("strategy"), str):
            body["strategy"] = self._is.declaring.strategies.meaning(body["strategy"])
        by = caller(request)
        body, discovery = await found_by(self._is.discovering, body, str(by))
        deployment = parse_deployment({**body, "service": _service(request)})
        ask = self._is.operations.supersede if supersede else self._is.operations.deploy
        return await self._begun(request, await ask(deployment, by, discovery), 201)

    async def undo(self, request: web.Request) -> web.Response:
        body = await body_of(request)
        known_fields(body, "to", "endpoints")
        to, given = maybe_text(body, "to"), endpoints(body, "endpoints")
        unchanged = self._is.operations.nothing_to_undo(_service(request), to)
        rollout = await self._is.operations.undo(_service(request), caller(request), to, given)
        return await self._begun(request, rollout, 200 if unchanged else 201, unchanged)

    async def retry(self, request: web.Request) -> web.Response:
        known_fields(await body_of(request))
        return await self._begun(request, await self._is.operations.retry(_service(request), caller(request)), 201)

    async def dequeue(self, request: web.Request) -> web.Response:
        await self._is.operations.dequeue(_service(request), caller(request))
        return self._view(request)

    async def command(self, request: web.Request) -> web.Response:
        body = await body_of(request)
        word = request.match_info["command"]
        if word not in list(Command):
            raise Unknown(f"there is no command '{word}'; there are {', '.join(Command)}")
        command = Command(word)
        known_fields(body, "location", *(["stage"] if command in OF_A_STAGE else []))
        order = Order(command, caller(request), maybe_text(body, "location"), stage=_stage(body))
        rollout = await self._is.operations.command(_service(request), order)
        settled = await request.app[WAITING].obeyed(request, rollout, command)
        return self._rollout(self._latest(rollout), 200 if settled else 202)

    async def drain(self, request: web.Request) -> web.Response:
        body, backends = await body_of(request), self._is.backends
        if body.get("location") is not None:
            known_fields(body, "location")
            await backends.drain_location(_service(request), text(body, "location"), caller(request))
        else:
            await backends.drain(_service(request), _address(body), caller(request))
        return await self._let_go(request, 201)

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

    async def place(self, request: web.Request) -> web.Response:
        body = await body_of(request)
        known_fields(body, "endpoints")
        given = endpoints(body, "endpoints")
        if not given:
            raise InvalidSpec("endpoints: is empty; give at least one as HOST:PORT")
        await self._is.backends.place(_service(request), request.match_info["version"], given, caller(request))
        return await self._let_go(request, 200)

    async def scale(self, request: web.Request) -> web.Response:
        body = await body_of(request)
        known_fields(body, "add", "remove")
        gone = frozenset(each.address for each in endpoints(body, "remove"))
        wanted = Scaling(endpoints(body, "add"), gone)
        if wanted == Scaling():
            raise InvalidSpec("add: or remove: is missing; give one as a list of HOST:PORT")
        await self._is.backends.scale(_service(request), request.match_info["version"], wanted, caller(request))
        return await self._let_go(request, 200)

    async def forget(self, request: web.Request) -> web.Response:
        await self._is.operations.forget(_service(request), request.match_info["version"], caller(request))
        return self._view(request)

    async def reload(self, request: web.Request) -> web.Response:
        known_fields(await body_of(request))
        return web.json_response(models.Reloaded(warnings=list(await self._is.reload(caller(request)))))

    async def _begun(self, request: web.Request, rollout: Rollout, status: int, unchanged: str = "") -> web.Response:
        """Answer where a rollout stands; who waits is answered when it has ended, and what is queued behind it."""
        waits = request.app[WAITING]
        behind = rollout.service in self._is.controller.books.queued
        settled = await (waits.next_ended(request, rollout) if behind else waits.ended(request, rollout))
        return self._rollout(self._latest(rollout), status if settled else 202, unchanged)

    async def _let_go(self, request: web.Request, status: int) -> web.Response:
        """Answer where a service stands; who waits is answered when nothing runs any more on what is let go now."""
        service, books = _service(request), self._is.controller.books
        going = {each.address for each in books.backends(service) if not each.removed}
        settled = await request.app[WAITING].gone(request, service, going)
        return self._view(request, status if settled else 202)

    def _latest(self, rollout: Rollout) -> Rollout:
        """Return where a rollout stands now, or the one behind it, which somebody has waited for."""
        return self._is.controller.books.rollouts.get(rollout.service) or rollout

    def _rollout(self, rollout: Rollout, status: int, unchanged: str = "") -> web.Response:
        view = rollout_view(self._is.controller, rollout, self._is.moment())
        queued = queued_view(self._is.controller, rollout.service)
        answer: models.Begun = {**view, "queued": queued, "unchanged": unchanged or None}
        return web.json_response(answer, status=202 if queued and status == 201 else status)

    def _view(self, request: web.Request, status: int = 200) -> web.Response:
        view = service_view(self._is.controller, _service(request), self._is.moment())
        return web.json_response(view, status=status)


def _about_rollout(below: str, handler: Handler, about: str, takes: Any, statuses: tuple[int, ...]) -> Route:
    return waiting(Route("POST", SERVICE + below, handler, about, Role.OPERATOR, models.Begun, takes, statuses))


def _about_service(
    method: str, path: str, handler: Handler, about: str, takes: Any = None, statuses: tuple[int, ...] = (200,)
) -> Route:
    return Route(method, path, handler, about, Role.OPERATOR, models.Service, takes, statuses)


def _service(request: web.Request) -> str:
    return request.match_info["service"]


def _stage(body: dict[str, Any]) -> int | None:
    stage = body.get("stage")
    if stage is not None and (not isinstance(stage, int) or isinstance(stage, bool) or stage < 0):
        raise InvalidSpec("stage: is no whole number from 0 on; give the `stage` that the rollout was in")
    return stage


def _address(body: dict[str, Any]) -> str:
    known_fields(body, "backend", "location")
    return parse_endpoint(text(body, "backend")).address
