"""What the API promises as an OpenAPI 3.1 document: made of the routes and of the models of what they take and give."""

import re
from collections.abc import Iterable, Mapping, Sequence
from http import HTTPStatus
from typing import Any

from pydantic import TypeAdapter
from pydantic.json_schema import JsonSchemaMode

from rollout.api import models
from rollout.api.contract import Query, Route
from rollout.api.described import Described
from rollout.schema import strategy_schema
from rollout.state import Command

Json = dict[str, Any]
VERSION = "1"
"""Of the contract, as in the paths; it stays as long as nothing is taken out."""
PROBES = ("/healthz", "/readyz", "/metrics")
PLACE = "#/components/schemas/"
ABOUT = (
    "Progressive delivery for Envoy fleets: services, versions, rollouts, and the Envoys themselves. Weights are in "
    "percent; times are RFC 3339 texts or seconds, as the fields' names say. docs/api.md tells what holds for all routes."
)
TAGS: Mapping[str, str] = {
    "server": "whether it runs, and its metrics",
    "services": "services and their backends",
    "versions": "the versions of a service",
    "rollouts": "moves of traffic from one version to another",
    "operations": "what was asked for, and by whom",
    "fleet": "the Envoys",
    "config": "the configuration that is served",
    "events": "what happens",
    "audit": "who did what",
    "access": "who somebody is, and what they may do",
    "strategies": "strategies by name",
    "discovery": "where endpoints come from",
    "overview": "all services at a glance",
    "openapi": "this document",
}
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
REFUSED: Mapping[int, str] = {
    400: "What was sent is wrong in itself; `detail` says what, where, and what to do.",
    401: "Nobody has shown who asks.",
    403: "Who asks may not do this.",
    404: "What the path names does not exist.",
    409: "Right in itself, but not in the present state, which is left as it is.",
    412: "It is not any more what `If-Match` says.",
    413: "The body is larger than 1 MiB.",
    422: "The configuration is refused; `detail` has every problem in it.",
    429: "Too many attempts; `Retry-After` says when to try again.",
    500: "A bug of the server; its log has more.",
    503: "Something that is needed did not answer in time, as the disk; try again.",
}


def document(routes: Iterable[Route]) -> Json:
    """Return the document of those routes that programs use."""
    promised = sorted((each for each in routes if is_promised(each)), key=lambda each: (each.path, each.method))
    shapes = _shapes(promised)
    paths: dict[str, Json] = {}
    for route in promised:
        paths.setdefault(route.path, {})[route.method.lower()] = _operation(route, shapes)
    tags = [{"name": tag, "description": about} for tag, about in TAGS.items() if any(tag_of(r) == tag for r in promised)]
    return {
        "openapi": "3.1.0",
        "info": {"title": "rollout", "version": VERSION, "description": ABOUT, "license": {"name": "MIT", "identifier": "MIT"}},
        "servers": [{"url": "/", "description": "the address of `rollout serve --admin`"}],
        "tags": tags,
        "paths": paths,
        "components": {
            "schemas": {**dict(sorted(shapes.parts.items()))},
            "responses": {_name_of(status): _refusal(about) for status, about in REFUSED.items()},
            "securitySchemes": dict(SECURITY),
        },
    }


def is_promised(route: Route) -> bool:
    """Say whether a route is for programs; the others are the web page's files."""
    return route.path.startswith("/v1/") or route.path in PROBES
