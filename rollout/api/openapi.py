"""What the API promises as an OpenAPI 3.1 document: made of the routes, and of models of what they take and give."""

import asyncio
import json
import re
from collections.abc import Iterable, Mapping
from typing import Any

from aiohttp import web

from rollout.api import models
from rollout.api.contract import RULE, Query, Route
from rollout.api.described import PLACE, schemas
from rollout.rights import Role
from rollout.state import Command

Json = dict[str, Any]
VERSION = "1"
"""Of the contract, as in the paths: it stays as long as nothing is taken out."""
JSON = "application/json"
PROBLEM = "application/problem+json"
EVENTS = "text/event-stream"
DOCUMENT_PATH = "/v1/openapi.json"
PROBES = ("/healthz", "/readyz", "/metrics")
ABOUT = (
    "Progressive delivery for Envoy fleets: services, versions, rollouts, and the Envoys themselves. Weights are in "
    "percent; times are texts of RFC 3339, or seconds. docs/api.md says what holds for all routes."
)
TAGS: Mapping[str, str] = {
    "services": "Services and their backends.",
    "versions": "The versions of a service.",
    "rollouts": "Moves of traffic from one version to another.",
    "operations": "What was asked for, and by whom.",
    "fleet": "The Envoys.",
    "config": "The configuration that is served.",
    "overview": "All services at a glance.",
    "events": "What happens, as it happens.",
    "audit": "Who did what.",
    "access": "Who somebody is, and what they may do.",
    "strategies": "Strategies by name.",
    "documents": "Services, versions and strategies as documents: what they would change, and having all be so.",
    "discoveries": "Where endpoints come from.",
    "notifications": "Who is told of what.",
    "server": "Whether the server runs, what it measures of itself, and this document.",
}
AREAS: Mapping[str, str] = {
    **dict.fromkeys(("commands", "undo", "retry", "queue"), "rollouts"),
    **dict.fromkeys(("drains", "undrains", "health"), "services"),
    "adopt": "versions",
    **dict.fromkeys(("plan", "apply"), "documents"),
    "discovery": "discoveries",
    "notify": "notifications",
    **dict.fromkeys(("me", "session", "tokens"), "access"),
    **dict.fromkeys(("healthz", "readyz", "metrics", "openapi.json"), "server"),
}
"""The tag of what is not called as its area."""
PARAMETERS: Mapping[str, tuple[str, Json]] = {
    "service": ("The service's name: an EDS cluster of envoy-configs.", {"type": "string", "minLength": 1}),
    "version": ("The version's name.", {"type": "string", "minLength": 1}),
    "id": ("Its id.", {"type": "string", "minLength": 1}),
    "command": ("What is asked of the rollout in progress.", {"enum": [*Command]}),
    "name": ("Its name.", {"type": "string", "minLength": 1}),
}
ROLLOUT_ID = ("The rollout's number, or `last`.", {"type": "string", "pattern": "^([0-9]{1,18}|last)$"})
SECURITY: Mapping[str, Json] = {
    "bearer": {"type": "http", "scheme": "bearer", "description": "A token: `Authorization: Bearer TOKEN`."},
    "cookie": {
        "type": "apiKey",
        "in": "cookie",
        "name": "rollout_session",
        "description": "A login of the web page; changes need the header `X-CSRF-Token` too.",
    },
    "mutualTLS": {"type": "mutualTLS", "description": "A client certificate of the authority that the server trusts."},
}
REFUSALS: Mapping[int, tuple[str, str]] = {
    400: ("Wrong", "What was sent is wrong in itself; `detail` says what, where, and what to do."),
    401: ("Unauthorized", "Nobody has shown who asks."),
    403: ("Forbidden", "Who asks may not do this."),
    404: ("Unknown", "What is named does not exist."),
    409: ("Conflict", "Right in itself, but not in the present state, which is left as it is."),
    412: ("Changed", "It is not as `If-Match` says any more."),
    413: ("TooLarge", "The body is larger than 1 MiB."),
    422: ("Refused", "The configuration is refused; `detail` has every problem in it."),
    428: ("Unconditional", "`If-Match` is needed here."),
    429: ("TooMany", "Too many attempts; `Retry-After` says when to try again."),
    500: ("Bug", "A bug of the server; its log has more."),
    503: ("Unavailable", "Something that is needed does not answer, as the disk; try again."),
}


class Document:
    """Hands out the document of all routes of its application."""

    def __init__(self) -> None:
        self._made: bytes | None = None

    def routes(self) -> tuple[Route, ...]:
        about = "this document"
        return (Route("GET", DOCUMENT_PATH, self.document, about, Role.VIEWER, gives=dict[str, Any]),)

    async def document(self, request: web.Request) -> web.Response:
        if self._made is None:
            self._made = await asyncio.to_thread(_dumped, tuple(request.app[RULE].values()))
        return web.Response(body=self._made, content_type=JSON)


def _dumped(routes: Iterable[Route]) -> bytes:
    return dump(document(routes)).encode()


def dump(document: Json) -> str:
    """Write a document as docs/openapi.json has it."""
    return json.dumps(document, indent=1, ensure_ascii=False) + "\n"


def document(routes: Iterable[Route]) -> Json:
    """Return the document of the routes that are for programs."""
    promised = sorted((each for each in routes if is_promised(each)), key=lambda each: (each.path, each.method))
    takes = [each.takes for each in promised if each.takes is not None]
    gives = [each.gives for each in promised if each.gives is not None]
    shapes, parts = schemas(takes, [*gives, models.Problem])
    paths: dict[str, Json] = {}
    for route in promised:
        paths.setdefault(route.path, {})[route.method.lower()] = _operation(route, shapes)
    used = {tag_of(each) for each in promised}
    return {
        "openapi": "3.1.0",
        "info": {"title": "rollout", "version": VERSION, "description": ABOUT, "license": {"name": "MIT"}},
        "servers": [{"url": "/", "description": "The address of `rollout serve --admin`."}],
        "tags": [{"name": tag, "description": about} for tag, about in TAGS.items() if tag in used],
        "paths": paths,
        "components": {
            "schemas": dict(sorted(parts.items())),
            "responses": {name: _refusal(about) for name, about in REFUSALS.values()},
            "securitySchemes": dict(SECURITY),
        },
    }


def is_promised(route: Route) -> bool:
    """Say whether a route is for programs; the others are files of the web page."""
    return route.path.startswith("/v1/") or route.path in PROBES


def _operation(route: Route, shapes: Mapping[Any, Json]) -> Json:
    content = None if route.takes is None else {JSON: {"schema": shapes[route.takes]}}
    body = {} if content is None else {"requestBody": {"required": True, "content": content}}
    return {
        "operationId": operation_id(route),
        "summary": route.about[:1].upper() + route.about[1:],
        "tags": [tag_of(route)],
        "x-role": route.need,
        "security": [] if route.need is None else [{each: []} for each in SECURITY],
        "parameters": [*_path_parameters(route), *_given("query", route.query), *_given("header", route.headers)],
        **body,
        "responses": _answers(route, shapes),
    }


def tag_of(route: Route) -> str:
    """Return the resource that a route is about."""
    words = [word for word in route.path.split("/") if word not in ("", "v1") and not word.startswith("{")]
    word = words[1] if words[0] == "services" and len(words) > 1 else words[0]
    return AREAS.get(word, word if word in TAGS else words[0])


def operation_id(route: Route) -> str:
    """Return a name for programs: a place that a parameter follows is one of its kind, `get_service_rollout`."""
    words = route.path.removeprefix("/v1/").replace("strategies/{name}", "strategy")
    words = re.sub(r"s/\{\w+\}", "", words)
    return f"{route.method.lower()}_{re.sub('[^a-z]+', '_', words).strip('_')}"


def _path_parameters(route: Route) -> list[Json]:
    names = re.findall(r"\{(\w+)\}", route.path)
    return [_path_parameter(name, route.path) for name in names]


def _path_parameter(name: str, path: str) -> Json:
    about, schema = ROLLOUT_ID if name == "id" and "/rollouts/" in path else PARAMETERS[name]
    return {"name": name, "in": "path", "required": True, "description": about, "schema": schema}


def _given(place: str, known: Iterable[Query]) -> list[Json]:
    return [
        {"name": each.name, "in": place, "required": False, "description": each.about, "schema": each.schema}
        for each in known
    ]


def _answers(route: Route, shapes: Mapping[Any, Json]) -> Json:
    answers = {str(status): _answer(status, route, shapes) for status in route.statuses}
    refused = {str(status): {"$ref": f"#/components/responses/{REFUSALS[status][0]}"} for status in refusals(route)}
    return {**answers, **refused}


def _answer(status: int, route: Route, shapes: Mapping[Any, Json]) -> Json:
    words = {200: "Done.", 201: "Begun.", 202: "Taken, and begins later.", 204: "Done; there is nothing to say."}
    about = {"description": words.get(status, "Done.")}
    if status == 204:
        return about
    shape = {"type": "string"} if route.gives is None else shapes[route.gives]
    stream = {EVENTS: {"schema": {"type": "string"}}} if route.streams else {}
    return {**about, "content": {route.speaks: {"schema": shape}, **stream}}


def refusals(route: Route) -> tuple[int, ...]:
    """Return the statuses by which a route may refuse."""
    if route.path in PROBES:
        usual = {403, 503} if route.need is None else {401, 403, 429}
    else:
        usual = {400, 401, 403, 429, 500, 503}
    if "{" in route.path:
        usual.add(404)
    if route.method != "GET":
        usual |= {409}
    if route.takes is not None:
        usual |= {413}
    return tuple(sorted(usual | set(route.refuses)))


def _refusal(about: str) -> Json:
    return {"description": about, "content": {PROBLEM: {"schema": {"$ref": f"{PLACE}{models.Problem.__name__}"}}}}
