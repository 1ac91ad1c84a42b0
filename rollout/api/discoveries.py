"""The routes that say where the backends of versions are found, and how those sources stand."""

from datetime import datetime
from typing import Annotated, Any, Literal

from aiohttp import web
from pydantic import Field
from typing_extensions import TypedDict

from rollout.api.backstage import Backstage
from rollout.api.contract import SERVICE, Query, Route
from rollout.api.models.values import Instant
from rollout.api.paging import PAGE, cut, page_of
from rollout.api.queries import asked
from rollout.api.requests import body_of, caller, sees
from rollout.discovering import Discovering, Report
from rollout.discovery.kept import Discovery
from rollout.discovery.source import Discover, parse_discover, shown_discover
from rollout.errors import InvalidSpec
from rollout.rights import Role

DISCOVERY = SERVICE + "/versions/{version}/discovery"
OF_SERVICE = Query("service", "Only those of this service.", {"type": "string", "minLength": 1})
OF_STATUS = Query("status", "Only those that stand so.", {"enum": ["unasked", "fresh", "stale"]})


class Missing(TypedDict):
    """A backend that the source does not name any more, while the version still has it."""

    backend: str
    """Its address."""
    looks: int
    """In how many answers in a row it was missing."""


class Discovered(TypedDict):
    """Where the backends of a version are found, and how that stands."""

    service: str
    """The service."""
    version: str
    """Its version."""
    source: dict[str, Any]
    """What was asked for, with all that counts; URLs without their queries."""
    label: str
    """The source in short, as records call it: `dns checkout.internal`."""
    status: Literal["unasked", "fresh", "stale"]
    """`fresh`: it is followed. `stale`: it is not now, and nothing is changed by it. `unasked`: it was just set."""
    fault: str | None
    """Why it is stale."""
    warning: str | None
    """What is unwise in what the version has by it: backends without a location, where others have one."""
    backends: list[str]
    """Its last answer, as `HOST:PORT@region/zone`."""
    answered_at: Instant | None
    """When that was."""
    missing: list[Missing]
    """Those that will be let go when more answers agree."""
    next_seconds: Annotated[float, Field(ge=0)] | None
    """In how many seconds it is asked next; null while it is asked."""
    by: str
    """Who has set it."""
    at: Instant | None
    """When that was."""


class Discoveries(TypedDict):
    """Every version whose backends are found by a source."""

    discoveries: list[Discovered]
    """By service and version."""
    next: str | None
    """The cursor of the next page, null on the last."""


class Sources:
    """Handlers: each checks the request's form and leaves the rest to the engine."""

    def __init__(self, backstage: Backstage) -> None:
        self._is = backstage

    def routes(self) -> tuple[Route, ...]:
        viewer, operator, query = Role.VIEWER, Role.OPERATOR, (*PAGE, OF_SERVICE, OF_STATUS)
        found = "where backends are found"
        return (
            Route("GET", "/v1/discoveries", self.every, found, viewer, Discoveries, query=query),
            Route("GET", DISCOVERY, self.one, "where its backends are found", viewer, Discovered),
            Route("PUT", DISCOVERY, self.put, "has its backends found there", operator, Discovered, Discover),
            Route("DELETE", DISCOVERY, self.remove, "leaves its backends as they are", operator, Discoveries),
        )

    async def every(self, request: web.Request) -> web.Response:
        given = asked(request)
        reports = [each for each in self._is.discovering.reports() if sees(request, each.service)]
        for name in ("service", "status"):
            reports = [each for each in reports if name not in given or str(getattr(each, name)) == given[name]]
        page = cut(reports, page_of(request, str, str), lambda each: (each.service, each.version))
        views = [discovery_view(each, self._is.clock()) for each in page.items]
        return web.json_response(Discoveries(discoveries=views, next=page.next))

    async def one(self, request: web.Request) -> web.Response:
        return self._view(request)

    async def put(self, request: web.Request) -> web.Response:
        discover = parse_discover(await body_of(request))
        await self._is.discovering.set(*_version(request), discover, caller(request))
        return self._view(request)

    async def remove(self, request: web.Request) -> web.Response:
        service, version = _version(request)
        await self._is.discovering.remove(service, version, caller(request))
        left = [each for each in self._is.discovering.reports() if each.service == service]
        views = [discovery_view(each, self._is.clock()) for each in left]
        return web.json_response(Discoveries(discoveries=views, next=None))

    def _view(self, request: web.Request) -> web.Response:
        report = self._is.discovering.report(*_version(request))
        return web.json_response(discovery_view(report, self._is.clock()))


async def found_by(discovering: Discovering, body: dict[str, Any], by: str) -> tuple[dict[str, Any], Discovery | None]:
    """Return a deployment with the endpoints that its source, `discover`, names now, and that source.

    Raises InvalidSpec, Unknown, or Unavailable where the source names none.
    """
    if "discover" not in body:
        return body, None
    if body.get("endpoints"):
        raise InvalidSpec("discover: stands beside endpoints; give one of them")
    try:
        discover = parse_discover(body["discover"])
    except InvalidSpec as error:
        raise InvalidSpec(f"discover: {error}") from error
    found = await discovering.first(discover)
    rest = {name: value for name, value in body.items() if name != "discover"}
    return {**rest, "endpoints": [each.model_dump() for each in found]}, discovering.said(discover, by)


def _version(request: web.Request) -> tuple[str, str]:
    return request.match_info["service"], request.match_info["version"]


def discovery_view(report: Report, now_s: float) -> Discovered:
    """How a source stands; nothing in it is secret."""
    discovery = report.discovery
    return {
        "service": report.service,
        "version": report.version,
        "source": shown_discover(discovery.discover),
        "label": discovery.discover.label,
        "status": report.status.value,
        "fault": report.fault or None,
        "warning": report.warning or None,
        "backends": [str(each) for each in report.endpoints],
        "answered_at": _text(report.answered_at),
        "missing": [{"backend": address, "looks": looks} for address, looks in sorted(report.missing.items())],
        "next_seconds": None if report.next_s is None else round(max(0.0, report.next_s - now_s), 1),
        "by": discovery.by,
        "at": _text(discovery.at),
    }


def _text(at: datetime | None) -> str | None:
    return None if at is None else at.isoformat()
