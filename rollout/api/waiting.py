"""Answers that wait: until what was begun has ended or settled, or until something has changed."""

import asyncio
import contextlib
from collections.abc import Callable, Collection
from dataclasses import replace

from aiohttp import web

from rollout.api.contract import Handler, Query, Route
from rollout.controller import Controller
from rollout.errors import InvalidSpec
from rollout.fields import duration
from rollout.machine import wanted
from rollout.record import Rollout
from rollout.standing import tag
from rollout.state import Command

LONGEST_S = 600.0
LOOK_EVERY_S = 1.0  # what changes rings the bell; but for the little that does not
WAITERS = 256  # beyond, what stands now is answered at once
WAIT = Query(
    "wait",
    "Answers when what was begun has ended or settled, but after this time at the latest, as 30s or 5m: then with 202.",
    {"type": "string", "pattern": "^[0-9]+(\\.[0-9]+)?(ms|s|m)$"},
)
UNTIL_ENDED = Query("wait", "Answers when the rollout has ended, but after this time at the latest.", WAIT.schema)
UNTIL_CHANGED = (
    Query("wait", "Answers when the ETag is another one, but after this time at the latest.", WAIT.schema),
    Query("etag", "The ETag that is known; left out: the present one.", {"type": "string", "minLength": 1}),
)
_ENDING = (Command.ABORT, Command.REJECT, Command.PROMOTE_FULL)


class Waiting:
    """Holds up answers. Whoever waits is woken by changes, and all of them when the server ends."""

    def __init__(self, controller: Controller) -> None:
        self._controller = controller
        self._waiters = 0
        self._closed = False
        self._tags: dict[str, tuple[tuple[int, float], str]] = {}  # by service, with when each was worked out

    async def until(self, request: web.Request, settled: Callable[[], bool]) -> bool:
        """Return whether it is so, at the latest when a request's time is over; True where it does not wait.

        What is no time is refused by `times_known`, before anything is changed.
        """
        limit_s = wait_s(request)
        if limit_s is None:
            return True
        if self._waiters >= WAITERS:
            return settled()
        self._waiters += 1
        try:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(limit_s):
                    while not settled() and not self._closed and request.transport is not None:
                        await self._rung()
        finally:
            self._waiters -= 1
        return settled()

    async def close(self, _app: object) -> None:
        """Let everybody have their answer now."""
        self._closed = True
        self._controller.bell.ring()

    async def _rung(self) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(LOOK_EVERY_S):
                await self._controller.bell.heard()

    # --- what is waited for ---

    async def ended(self, request: web.Request, rollout: Rollout) -> bool:
        """Wait until a rollout is over."""
        return await self.until(request, lambda: self._is_over(rollout))

    async def next_ended(self, request: web.Request, rollout: Rollout) -> bool:
        """Wait until the rollout that is queued behind this one is over, or cannot begin."""
        books = self._controller.books

        def over() -> bool:
            now, queued = books.rollouts.get(rollout.service), books.queued.get(rollout.service)
            if now is None or now.id > rollout.id:
                return now is None or now.id > rollout.id + 1 or books.over(now)
            return queued is None or bool(queued.fault)

        return await self.until(request, over)

    async def obeyed(self, request: web.Request, rollout: Rollout, command: Command) -> bool:
        """Wait until a rollout is over, or, where it goes on, until every Envoy has what a command has led to."""
        service, controller = rollout.service, self._controller

        def settled() -> bool:
            if self._is_over(rollout) or command in _ENDING:
                return self._is_over(rollout)
            now = controller.books.rollouts[service]
            served = controller.books.splits.get(service) == wanted(now.strategy, now.state)
            return served and controller.saved(service) and not controller.observer.lagging(service)

        return await self.until(request, settled)

    async def gone(self, request: web.Request, service: str, addresses: Collection[str]) -> bool:
        """Wait until nothing runs on backends that are let go."""
        books = self._controller.books
        return await self.until(
            request, lambda: all(each.removed for each in books.backends(service) if each.address in addresses)
        )

    async def changed(self, request: web.Request, service: str) -> None:
        """Wait until a service's tag is another one than the one that is known."""
        known = request.query.get("etag", "").strip('"') or self._tag(service)
        await self.until(request, lambda: self._tag(service) != known)

    def _tag(self, service: str) -> str:
        """Return a service's tag; all who wait for it look at each ring, and it is worked out once for them."""
        moment = self._controller.bell.rings, asyncio.get_running_loop().time() // LOOK_EVERY_S
        known = self._tags.get(service)
        if known is None or known[0] != moment:
            self._tags[service] = known = moment, tag(self._controller, service)
        return known[1]

    def _is_over(self, rollout: Rollout) -> bool:
        books = self._controller.books
        now = books.rollouts.get(rollout.service)
        return now is None or now.id != rollout.id or books.over(now)


WAITING = web.AppKey("waiting", Waiting)
"""Who holds up an application's answers."""


def waiting(route: Route) -> Route:
    """Return a route that answers at once, or waits."""
    return replace(route, statuses=tuple(sorted({*route.statuses, 202})), query=(*route.query, WAIT))


@web.middleware
async def times_known(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Refuse to wait for what is no time, before anything is done."""
    wait_s(request)
    return await handler(request)


def wait_s(request: web.Request) -> float | None:
    """Return for how long an answer may wait, None where it does not. Raises InvalidSpec."""
    given = request.query.get("wait")
    if given is None:
        return None
    try:
        seconds = duration(given).total_seconds()
    except ValueError as error:
        raise InvalidSpec(f"wait: {error}") from error
    if seconds > LONGEST_S:
        raise InvalidSpec(f"wait: {given} is too long; {LONGEST_S / 60:g}m is the most, and one may wait again")
    return seconds
