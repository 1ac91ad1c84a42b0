"""GET .../rollouts/{id}/points: what was wanted and measured over a rollout's time, for charts."""

import re

from aiohttp import web

from rollout.api.backstage import Backstage
from rollout.api.contract import SERVICE, Route
from rollout.api.models import events as models
from rollout.errors import InvalidSpec, Unknown
from rollout.points import columns
from rollout.rights import Role

_NUMBER = re.compile(r"[0-9]{1,18}")


class Points:
    """The handler."""

    def __init__(self, backstage: Backstage) -> None:
        self._is = backstage

    def routes(self) -> tuple[Route, ...]:
        about = "a rollout over time, for charts"
        return (Route("GET", SERVICE + "/rollouts/{id}/points", self.points, about, Role.VIEWER, models.Points),)

    async def points(self, request: web.Request) -> web.Response:
        service = request.match_info["service"]
        number = self._number(service, request.match_info["id"])
        unsaved = self._is.charts.unsaved(service, number)  # first: what is saved meanwhile is there twice, not never
        saved = await self._is.chronicle.points(service, number)
        return web.json_response(columns((*saved, *unsaved)))

    def _number(self, service: str, wanted: str) -> int:
        last = self._is.controller.rollout(service)
        if last is None:
            raise Unknown(f"'{service}' has had no rollout")
        if wanted == "last":
            return last.id
        if not _NUMBER.fullmatch(wanted):
            raise InvalidSpec(f"'{wanted}' is no rollout's id; give a number, or `last`")
        if not 1 <= int(wanted) <= last.id:
            raise Unknown(f"'{service}' has no rollout {wanted}; see `rollout history {service}`")
        return int(wanted)
