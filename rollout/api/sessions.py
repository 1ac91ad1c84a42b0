"""The routes by which the page logs in and out, and by which everybody learns who they are here."""

from aiohttp import web

from rollout.api import models
from rollout.api.backstage import Backstage
from rollout.api.contract import Route
from rollout.api.guard import COOKIE, by_tls, cookie_of, shown
from rollout.api.requests import IDENTITY, body_of, caller, identity, known_fields, text, whence
from rollout.credentials import SESSION_LIMIT
from rollout.errors import InvalidSpec
from rollout.rights import Asker, Identity, Role, Via

SECRET_LIMIT = 1_000


class Sessions:
    """Handlers of who is who."""

    def __init__(self, backstage: Backstage) -> None:
        self._is = backstage

    def routes(self) -> tuple[Route, ...]:
        return (
            Route("GET", "/v1/me", self.me, "who you are here, and what you may do", Role.VIEWER, models.Me),
            Route(
                "POST",
                "/v1/session",
                self.log_in,
                "logs the page in with a token",
                None,
                gives=models.Me,
                takes=models.Login,
                statuses=(201,),
                refuses=(401, 429),
                confidential=True,
            ),
            Route("DELETE", "/v1/session", self.log_out, "logs the page out", None, models.LoggedOut),
        )

    async def me(self, request: web.Request) -> web.Response:
        return web.json_response(self._view(identity(request), cookie_of(request)))

    async def log_in(self, request: web.Request) -> web.Response:
        body = await body_of(request)
        known_fields(body, "token")
        secret, origin = text(body, "token").strip(), f"{Via.SESSION} from {whence(request)}"
        if len(secret) > SECRET_LIMIT or not secret.isascii():
            raise InvalidSpec("token: is none; paste it whole, as `rollout token create` has told it")
        found, cookie = await self._is.doorkeeper.log_in(secret, lambda name: Asker(name, origin), shown(request))
        answer = web.json_response(self._view(found, cookie), status=201)
        answer.set_cookie(
            COOKIE,
            cookie,
            max_age=int(SESSION_LIMIT.total_seconds()),
            httponly=True,
            samesite="Strict",
            secure=by_tls(request),
        )
        return answer

    async def log_out(self, request: web.Request) -> web.Response:
        if IDENTITY in request and identity(request).via is Via.SESSION:
            await self._is.doorkeeper.sessions.close(cookie_of(request), caller(request))
        answer = web.json_response(models.LoggedOut())
        answer.del_cookie(COOKIE, httponly=True, samesite="Strict", secure=by_tls(request))
        return answer

    def _view(self, who: Identity, cookie: str) -> models.Me:
        return {
            "name": who.name,
            "role": who.grant.role,
            "services": list(who.grant.services),
            "via": who.via,
            "authentication": self._is.doorkeeper.is_on(),
            "csrf": self._is.doorkeeper.csrf(who, cookie),
        }
