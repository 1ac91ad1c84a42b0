"""One stream on grpc's wire: what it reads goes into its session, what the session says is written, and how it ends."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any as Context

import grpc
import grpc.aio

from xds.errors import Forbidden, InvalidRequest, NotReady, Overloaded
from xds.limits import TokenBucket
from xds.node import Peer
from xds.resources import ResourceType
from xds.session import ControlPlane, Session
from xds.stream import Response

CODES = {
    InvalidRequest: grpc.StatusCode.INVALID_ARGUMENT,
    Forbidden: grpc.StatusCode.PERMISSION_DENIED,
    Overloaded: grpc.StatusCode.RESOURCE_EXHAUSTED,
    NotReady: grpc.StatusCode.UNAVAILABLE,
}
GONE_S = 1.0
STATUS_CHARACTERS = 1_000  # of a status, which a client takes as a header; names in it may be the client's own


@dataclass(frozen=True, slots=True)
class Method:
    """How a stream of a method is spoken; `only` is its type when it is not aggregated."""

    protocol: str
    only: ResourceType | None = None


class Call:
    """A reader and a writer, which wait on nothing but the wire and each other.

    `writing_since_s` says since when something is being written, `heard` whether a request has come. Nothing that is
    being written is ever cancelled: grpc cannot end a call while a write is cut short but not finished.
    """

    def __init__(
        self, plane: ControlPlane, method: Method, peer: Peer, context: Context, clock: Callable[[], float]
    ) -> None:
        self.session = Session(plane, method.protocol, peer, self._wake, method.only)
        self.began_s = clock()
        self.heard = False
        self.writing_since_s: float | None = None
        self._plane = plane
        self._context = context
        self._clock = clock
        self._requests = TokenBucket()
        self._idle: asyncio.Future[None] | None = None  # what the writer waits for while there is nothing to say
        self._next: Response | None = None  # what it writes when it wakes, if that is known already
        self._status: tuple[grpc.StatusCode, str] | None = None  # None: it goes on, or ends as the client wants it

    async def run(self) -> None:
        """Serve until the client ends the stream, breaks a rule or goes, or until `end`."""
        try:
            async with asyncio.TaskGroup() as group:
                reader = group.create_task(self._read())
                await self._write()
                reader.cancel()
        finally:
            self.session.close(self._clock())
        if self._status is not None:
            self.writing_since_s = self._clock()
            try:
                await self._context.abort(*self._status)
            except grpc.aio.InternalError:
                await self._gone()

    def end(self, code: grpc.StatusCode, text: str) -> None:
        """Have it end with this status, when what is being written has been."""
        self._status = self._status or (code, text[:STATUS_CHARACTERS])
        self._close()

    def _close(self) -> None:
        self.session.close(self._clock())
        self._wake()

    def _wake(self) -> None:
        if self._idle is not None and not self._idle.done():
            self._idle.set_result(None)

    async def _read(self) -> None:
        session, clock, limits = self.session, self._clock, self._plane.limits
        try:
            while (raw := await self._context.read()) is not grpc.aio.EOF:
                now_s = clock()
                wait_s = self._requests.take(limits.requests, now_s, 1 + len(raw) // limits.request_piece_bytes)
                if wait_s > 0:
                    await asyncio.sleep(wait_s)  # reads no further: HTTP/2's flow control slows the client down
                    now_s = clock()
                session.receive(raw, now_s)
                self.heard = True
                self._answer(now_s)
        except (InvalidRequest, Forbidden, Overloaded, NotReady) as error:
            self._plane.events.refused(session.peer, error)
            self.end(CODES[type(error)], str(error))
        self._close()

    def _answer(self, now_s: float) -> None:
        """Wake the writer when a request allows another response; most are ACKs, after which nothing is to be said."""
        if self._idle is None or self._idle.done():
            return  # it is at work, and looks by itself what comes next
        self._next = self.session.respond(now_s)
        if self._next is not None or self.session.wake_at_s(now_s) is not None:
            self._wake()

    async def _write(self) -> None:
        """Write what there is to say until the session is closed; what comes next is of the newest snapshot then."""
        session, clock, write = self.session, self._clock, self._context.write
        while session.is_open:
            now_s = clock()
            response, self._next = self._next or session.respond(now_s), None
            if response is None:
                await self._sleep(now_s)
                continue
            self.writing_since_s = now_s
            try:
                await write(response.body)
            except grpc.aio.InternalError:
                await self._gone()
            self.writing_since_s = None

    async def _sleep(self, now_s: float) -> None:
        loop = asyncio.get_running_loop()
        self._idle = loop.create_future()
        at_s = self.session.wake_at_s(now_s) if self.heard else None
        if at_s is None:
            await self._idle
            return
        timer = loop.call_later(at_s - now_s, self._wake)
        try:
            await self._idle
        finally:
            timer.cancel()

    async def _gone(self) -> None:
        """Wait for grpc, which cancels this task as soon as it knows that the client has gone."""
        self._close()
        await asyncio.sleep(GONE_S)
