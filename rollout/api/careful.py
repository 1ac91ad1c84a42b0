"""Changes that can be tried before they are made: what every route that changes something takes and says of it."""

import time
from dataclasses import replace

import structlog
from aiohttp import web
from typing_extensions import TypedDict

from rollout.api.contract import READING, Handler, Query, Route, route_of
from rollout.api.requests import IDENTITY, caller
from rollout.credentials import without_secrets
from rollout.errors import Rehearsed

DRY_RUN = Query("dry_run", "Only says what would happen: nothing is changed.", {"type": "boolean", "default": False})
KEY = Query(
    "Idempotency-Key",
    "A text of your own for this change, the same when you ask for it again: it is not done twice.",
    {"type": "string", "minLength": 1, "maxLength": 255},
)
IF_MATCH = Query("If-Match", "Only if the ETag is still this one.", {"type": "string"})


class Rehearsal(TypedDict):
    """What would happen; nothing was changed."""

    dry_run: bool
    """Always true."""
    would: str
    """What would be done, in words for people."""
    changes: bool
    """Whether anything would change."""


def careful(route: Route) -> Route:
    """Return a route with what it takes because it changes something."""
    if not route.changes:
        return route
    tagged = "{service}" in route.path or 412 in route.refuses
    return replace(
        route,
        gives=Rehearsal if route.gives is None else route.gives | Rehearsal,
        statuses=tuple(sorted({*route.statuses, 200})),
        query=(*route.query, DRY_RUN),
        headers=(*route.headers, KEY, *((IF_MATCH,) if tagged else ())),
        refuses=tuple(sorted({*route.refuses, 422, *((412,) if tagged else ())})),
    )


@web.middleware
async def rehearsals(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Answer those who only want to know what would happen."""
    try:
        return await handler(request)
    except Rehearsed as told:
        answer: Rehearsal = {"dry_run": True, "would": str(told), "changes": told.changes}
        return web.json_response(answer)


@web.middleware
async def requests_logged(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Write a line for each change that is asked for: never what was sent, for it may hold secrets."""
    route = route_of(request)
    if request.method in READING or route is None:
        return await handler(request)
    began_s = time.monotonic()
    response = await handler(request)
    who = request.get(IDENTITY)
    # Who is not known may ask as often as they like; those who showed something wrong are in the log already.
    tell = structlog.get_logger().debug if who is None and response.status >= 400 else structlog.get_logger().info
    tell(
        "request",
        method=request.method,
        path=without_secrets(request.path[:200]),
        by="" if who is None else who.name or caller(request).name,
        status=response.status,
        **({"dry_run": True} if request.query.get("dry_run") == "true" else {}),
        ms=round(1000 * (time.monotonic() - began_s), 1),
    )
    return response
