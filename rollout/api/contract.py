"""What the API promises: each route with who may use it, what it takes and what it gives."""

from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from typing import Any

from aiohttp import web

from rollout.rights import Role

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
SERVICE = "/v1/services/{service}"
READING = frozenset({"GET", "HEAD"})


@dataclass(frozen=True, slots=True)
class Query:
    """One thing that a route takes in its query; `schema` is the JSON schema of its value."""

    name: str
    about: str
    schema: Any


@dataclass(frozen=True, slots=True)
class Route:
    """One thing that the API does. A path with `{service}` is about that service, else about the whole fleet.

    `need` is the least role, None for everybody, without any token. `takes` and `gives` are the models of the bodies,
    None where there is none or it is no JSON; `statuses` are those of success, `refuses` those of refusal that not
    every route has. `speaks` is the content type of the answer; one that `streams` speaks `text/event-stream` to who
    accepts that. `confidential`: it has a secret, shown once and kept nowhere.
    """

    method: str
    path: str
    handler: Handler
    about: str
    need: Role | None
    gives: Any = None
    takes: Any = None
    statuses: tuple[int, ...] = (200,)
    query: tuple[Query, ...] = ()
    refuses: tuple[int, ...] = ()
    speaks: str = "application/json"
    streams: bool = False
    confidential: bool = False
    headers: tuple[Query, ...] = ()

    @property
    def changes(self) -> bool:
        """Say whether it changes anything that those with a role may change; a login is no such change."""
        return self.method not in READING and self.need is not None


RULE = web.AppKey("rule", dict[tuple[str, str], Route])
"""The application's routes by method and path."""


def add_routes(app: web.Application, routes: Iterable[Route]) -> None:
    """Have an application answer these."""
    rules = {(each.method, each.path): each for each in routes}
    app[RULE] = rules
    app.add_routes([web.route(each.method, each.path, each.handler) for each in rules.values()])


def route_of(request: web.Request) -> Route | None:
    """Return the route that a request is for, None where there is none: then it is answered by 404 or 405."""
    resource = request.match_info.route.resource
    if resource is None:
        return None
    method = "GET" if request.method == "HEAD" else request.method
    return request.app[RULE].get((method, resource.canonical))
