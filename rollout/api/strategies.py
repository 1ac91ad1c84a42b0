"""The routes of strategies that have names."""

from aiohttp import web

from rollout.api import models
from rollout.api.backstage import Backstage
from rollout.api.contract import Route
from rollout.api.paging import PAGE, cut, page_of
from rollout.api.requests import body_of, caller, known_fields
from rollout.declared.planning import content_of
from rollout.declared.secrets import concealed
from rollout.errors import InvalidSpec
from rollout.linting import lint_document
from rollout.record import NamedStrategy
from rollout.rights import Role

NAMED = "/v1/strategies/{name}"


class StrategyRoutes:
    """Handlers: each checks the request's form and leaves the rest to the engine."""

    def __init__(self, backstage: Backstage) -> None:
        self._is = backstage

    def routes(self) -> tuple[Route, ...]:
        viewer, operator, one = Role.VIEWER, Role.OPERATOR, models.NamedStrategy
        return (
            Route("GET", "/v1/strategies", self.list, "strategies", viewer, models.NamedStrategies, query=PAGE),
            Route("GET", NAMED, self.get, "one strategy", viewer, one),
            Route("PUT", NAMED, self.put, "saves one", operator, one, models.StrategyBody, (200, 201), refuses=(412,)),
            Route("DELETE", NAMED, self.remove, "removes one", operator, models.RemovedStrategy, refuses=(412,)),
        )

    async def list(self, request: web.Request) -> web.Response:
        page = cut(self._is.declaring.strategies.all(), page_of(request, str), lambda each: (each.name,))
        found = models.NamedStrategies(strategies=[strategy_view(each) for each in page.items], next=page.next)
        return web.json_response(found)

    async def get(self, request: web.Request) -> web.Response:
        name, strategies = request.match_info["name"], self._is.declaring.strategies
        return web.json_response(strategy_view(strategies.get(name)), headers={"ETag": f'"{strategies.tag(name)}"'})

    async def put(self, request: web.Request) -> web.Response:
        body, name = await body_of(request), request.match_info["name"]
        known_fields(body, "strategy")
        content = body.get("strategy")
        if not isinstance(content, dict):
            raise InvalidSpec("strategy: must be a mapping, as in a strategy's file")
        saved = await self._is.declaring.strategies.put(name, content, caller(request))
        return web.json_response(strategy_view(saved), status=201 if saved.revision == 1 else 200)

    async def remove(self, request: web.Request) -> web.Response:
        name = request.match_info["name"]
        await self._is.declaring.strategies.remove(name, caller(request))
        return web.json_response(models.RemovedStrategy(name=name))


def strategy_view(named: NamedStrategy) -> models.NamedStrategy:
    """A strategy as it was written, without its secrets."""
    content = content_of(named)
    linted = lint_document(content, None)
    stages = () if linted.strategy is None else linted.strategy.stages
    unwise = (*linted.faults, *linted.warnings)
    return {
        "name": named.name,
        "revision": named.revision,
        "by": named.by,
        "at": named.at.isoformat(),
        "strategy": concealed(content),
        "stages": [stage.weight_bp / 100 for stage in stages],
        "warnings": [f"{each.path}: {each.what}" if each.path else each.what for each in unwise],
    }
