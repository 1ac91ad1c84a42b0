"""The routes by which admins give out tokens, and take them back."""

from typing import Any

from aiohttp import web

from rollout.api import models
from rollout.api.backstage import Backstage
from rollout.api.contract import Route
from rollout.api.requests import body_of, caller, known_fields, maybe_text, text
from rollout.credentials import Token, Wanted, parse_lifetime, parse_role
from rollout.errors import InvalidSpec
from rollout.rights import Grant, Role


class Tokens:
    """Handlers of tokens; the secret of one is in one answer only."""

    def __init__(self, backstage: Backstage) -> None:
        self._is = backstage

    def routes(self) -> tuple[Route, ...]:
        create = "gives out a token, whose secret is in this answer only"
        return (
            Route("GET", "/v1/tokens", self.list_tokens, "the tokens, without secrets", Role.ADMIN, models.Tokens),
            Route(
                "POST",
                "/v1/tokens",
                self.create,
                create,
                Role.ADMIN,
                gives=models.NewToken,
                takes=models.TokenBody,
                statuses=(201,),
                confidential=True,
            ),
            Route("DELETE", "/v1/tokens/{id}", self.revoke, "takes a token back", Role.ADMIN, models.Token),
        )

    async def list_tokens(self, _request: web.Request) -> web.Response:
        return web.json_response({"tokens": [self._view(each) for each in self._is.doorkeeper.tokens.all()]})

    async def create(self, request: web.Request) -> web.Response:
        body = await body_of(request)
        known_fields(body, "name", "role", "services", "expires")
        expires = maybe_text(body, "expires")
        grant = Grant(parse_role(text(body, "role")), _services(body))
        wanted = Wanted(text(body, "name"), grant, parse_lifetime(expires) if expires else None)
        token, secret = await self._is.doorkeeper.tokens.create(wanted, caller(request))
        return web.json_response({**self._view(token), "token": secret}, status=201)

    async def revoke(self, request: web.Request) -> web.Response:
        token = await self._is.doorkeeper.tokens.revoke(request.match_info["id"], caller(request))
        return web.json_response(self._view(token))

    def _view(self, token: Token) -> models.Token:
        used_at = self._is.doorkeeper.tokens.used_at(token)
        return {
            "id": token.key,
            "name": token.name,
            "role": token.grant.role,
            "services": list(token.grant.services),
            "created_at": token.created_at.isoformat(),
            "created_by": token.created_by,
            "expires_at": None if token.expires_at is None else token.expires_at.isoformat(),
            "expired": self._is.doorkeeper.tokens.has_expired(token),
            "last_used_at": None if used_at is None else used_at.isoformat(),
        }


def _services(body: dict[str, Any]) -> tuple[str, ...]:
    given = body.get("services") or []
    if not isinstance(given, list) or not all(isinstance(each, str) for each in given):
        raise InvalidSpec('services: is no list of texts; give it as ["shop", "cart-*"], or leave it out for all')
    return tuple(dict.fromkeys(given))
