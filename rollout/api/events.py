"""GET /v1/events: what has happened, page by page, or as a stream of server-sent events that loses nothing."""

import asyncio
import contextlib
import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web

from rollout.api.backstage import Backstage
from rollout.api.contract import Query, Route
from rollout.api.models import events as models
from rollout.api.queries import asked
from rollout.api.requests import identity, still_known
from rollout.api.sights import MOST_VIEWS, Sights
from rollout.api.streams import HEADERS, Pace, Places, Stream, heartbeat, message
from rollout.errors import InvalidSpec, RolloutError, Unavailable
from rollout.happenings import Event, EventKind, Severity, Wanted
from rollout.rights import Identity, Role

LIMIT, MOST = 100, 1_000
BATCH = 200
WAIT_S = 1.0  # at most, before a stream looks whether its reader is still there
EVENT_STREAM = "text/event-stream"
LAST_ID = "Last-Event-ID"
_TEXT = {"type": "string", "minLength": 1}
_ID = {"type": "integer", "minimum": 0, "maximum": 2**53}
QUERY = (
    Query("after", "Only later ones than this id; left out: the newest, and of a stream what comes from now on.", _ID),
    Query("before", "The last ones before this id; not of a stream.", {**_ID, "minimum": 1}),
    Query("limit", "How many at most.", {"type": "integer", "minimum": 1, "maximum": MOST, "default": LIMIT}),
    Query("service", "Only of these services, separated by commas.", _TEXT),
    Query("kind", "Only of these kinds, separated by commas; `rollout.*` are all that begin so.", _TEXT),
    Query("severity", "Only what matters at least as much.", {"enum": [*Severity]}),
    Query("views", "Of a stream: `services`, `service:NAME`, `fleet`, separated by commas.", _TEXT),
)


@dataclass(slots=True)
class _Reading:
    """Where a stream stands: the last id that was looked at, the last that was told, and what was shown of views."""

    cursor: int
    told: int
    views: tuple[str, ...]
    heard_s: float
    shown: dict[str, str] = field(default_factory=dict)


class Events:
    """Handlers."""

    def __init__(self, backstage: Backstage, pace: Pace | None = None) -> None:
        self._is = backstage
        self._pace = pace or Pace()
        self._places = Places(self._pace)
        self._sights = Sights(backstage)

    def routes(self) -> tuple[Route, ...]:
        about = "what has happened, in its order; as a stream, what happens"
        return (Route("GET", "/v1/events", self.events, about, Role.VIEWER, models.Events, query=QUERY, streams=True),)

    async def events(self, request: web.Request) -> web.StreamResponse:
        given = asked(request)
        wanted = wanted_of(given, identity(request))
        if EVENT_STREAM in request.headers.get("Accept", ""):
            if request.method == "HEAD":  # aiohttp would send what a stream has behind its head, as the next answer
                return web.Response(headers=HEADERS)
            return await self._stream(request, given, wanted)
        if "views" in given:
            raise InvalidSpec(f"views: is for streams; send `Accept: {EVENT_STREAM}`")
        return web.json_response(await self._page(given, wanted))

    async def _page(self, given: Mapping[str, Any], wanted: Wanted) -> models.Events:
        feed, limit = self._is.feed, given.get("limit", LIMIT)
        if "after" in given and "before" in given:
            raise InvalidSpec("before: does not go with after; leave one out")
        if "after" not in given:
            page = await feed.page_before(given.get("before", feed.last + 1), limit, wanted)
            return {"events": list(map(event_view, page.events)), "next": page.next, "reset": None}
        oldest = await feed.gone(given["after"])
        after = given["after"] if oldest is None else oldest - 1
        page = await feed.page(after, limit, wanted)
        reset: models.Reset | None = None if oldest is None else {"oldest": oldest}
        return {"events": list(map(event_view, page.events)), "next": page.next, "reset": reset}

    # --- streams ---

    async def _stream(self, request: web.Request, given: Mapping[str, Any], wanted: Wanted) -> web.StreamResponse:
        who, after = identity(request), _after(request, given)
        views = _words(given.get("views", ""))
        if len(views) > MOST_VIEWS:
            raise InvalidSpec(f"views: are {len(views)}; {MOST_VIEWS} are the most")
        for view in views:
            self._sights.check(view, who.grant)
        if self._is.feed.ended:
            raise Unavailable("the server is about to stop; try again when it has started anew")
        oldest = None if after is None else await self._is.feed.gone(after)
        start = self._is.feed.last if after is None else after if oldest is None else oldest - 1
        stream = Stream(request, self._pace.write_s)
        reading = _Reading(start, start, views, _now_s())
        with self._places.taken(who):
            try:
                await stream.open()
                if oldest is not None:
                    await stream.send(message("reset", json.dumps({"oldest": oldest})))
                await self._follow(stream, reading, wanted, (who, lambda: still_known(request)))
                await stream.end()
            except (ConnectionError, TimeoutError):
                stream.cut()  # it does not read, or has gone: others go on
            except RolloutError:  # what cannot be read now is asked for again by who comes again
                stream.cut()
        return stream.response

    async def _follow(
        self, stream: Stream, reading: _Reading, wanted: Wanted, who: tuple[Identity, Callable[[], bool]]
    ) -> None:
        """Tell what is new until the reader goes, may not read any more, or the server stops."""
        identity, holds = who
        while stream.is_open and not self._is.feed.ended and holds():
            page = await self._is.feed.page(reading.cursor, BATCH, wanted)
            if page.events:
                await stream.send("".join(map(_journal, page.events)))
                reading.told, reading.heard_s = page.events[-1].id, _now_s()
            reading.cursor = page.next
            await self._show(stream, reading, identity)
            if _now_s() - reading.heard_s >= self._pace.heartbeat_s:
                # What was left out need not be looked at again by who comes again.
                await stream.send(heartbeat(reading.cursor if reading.cursor > reading.told else None))
                reading.told, reading.heard_s = reading.cursor, _now_s()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(min(WAIT_S, self._pace.heartbeat_s)):
                    await self._is.feed.changed(reading.cursor)

    async def _show(self, stream: Stream, reading: _Reading, identity: Identity) -> None:
        """Send the views that differ from what was sent."""
        for view in reading.views:
            sight = self._sights.look(view, identity.grant)
            if sight is None or reading.shown.get(view) == sight.steady:
                continue
            reading.shown[view] = sight.steady
            await stream.send(message(sight.event, sight.data))
            reading.heard_s = _now_s()
        if reading.views:
            self._sights.forget_old()


def wanted_of(given: Mapping[str, Any], who: Identity) -> Wanted:
    """Return which events a query asks for, of those that somebody may see. Raises InvalidSpec."""
    kinds = [kind for word in _words(given.get("kind", "")) for kind in _kinds(word)]
    least = Severity(given.get("severity", Severity.INFO))
    return Wanted(_words(given.get("service", "")), tuple(kinds), least, who.grant.sees)


def event_view(event: Event) -> models.Event:
    """An event as JSON."""
    return {
        "id": event.id,
        "at": event.at.isoformat(),
        "kind": event.kind,
        "severity": event.severity,
        "service": event.service,
        "rollout": event.rollout,
        "text": event.text,
        "detail": dict(event.detail),
    }


def _kinds(word: str) -> Iterable[EventKind]:
    found = [each for each in EventKind if word in (each, f"{each.partition('.')[0]}.*")]
    if not found:
        raise InvalidSpec(f"kind: '{word}' is none; there are {', '.join(EventKind)}")
    return found


def _words(text: str) -> tuple[str, ...]:
    return tuple(dict.fromkeys(each.strip() for each in text.split(",") if each.strip()))


def _after(request: web.Request, given: Mapping[str, Any]) -> int | None:
    """Return where a stream goes on, None for now: what it heard last counts more than what it asked first."""
    last = request.headers.get(LAST_ID, "")
    if not last:
        return given.get("after")
    if not (last.isascii() and last.isdigit() and len(last) < 16):
        raise InvalidSpec(f"{LAST_ID}: '{last[:80]}' is no event's id; leave it out, or give a number")
    return int(last)


def _journal(event: Event) -> str:
    return message("journal", json.dumps(event_view(event)), event.id)


def _now_s() -> float:
    return asyncio.get_running_loop().time()
