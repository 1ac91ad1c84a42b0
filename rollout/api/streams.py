"""Server-sent events on the wire: one stream to one reader, which is cut when it does not read; so many at a time."""

import asyncio
import contextlib
import socket
import struct
import zlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

from aiohttp import hdrs, web

from rollout.errors import Unavailable
from rollout.rights import Identity, Via

BUFFER_BYTES = 64 * 1024  # that wait for a reader: in the server, and about as many in the kernel
CHUNK_BYTES = 32 * 1024
RECONNECT_MS = 2_000
GZIP_LEVEL, GZIP_WINDOW_BITS, GZIP_MEMORY = 1, 16 + 12, 4  # 24 KB for each reader; a larger window packs little more
_AT_ONCE = struct.pack("ii", 1, 0)
HEADERS = {"Content-Type": "text/event-stream", "Cache-Control": "no-store", "X-Accel-Buffering": "no"}


@dataclass(frozen=True, slots=True)
class Pace:
    """How streams live: a reader may take `write_s` for each piece, hears something each `heartbeat_s`.

    `most` streams there may be, and `most_each` of one identity.
    """

    write_s: float = 10.0
    heartbeat_s: float = 15.0
    most: int = 200
    most_each: int = 50


class Places:
    """Counts the streams that there are."""

    def __init__(self, pace: Pace) -> None:
        self._pace = pace
        self._taken: Counter[str] = Counter()

    @contextlib.contextmanager
    def taken(self, identity: Identity) -> Iterator[None]:
        """Take a place for as long as this is entered. Raises Unavailable when there is none."""
        who = f"{identity.via}/{identity.key or identity.name}"
        most_each = self._pace.most if identity.via is Via.LOOPBACK else self._pace.most_each
        if self._taken.total() >= self._pace.most:
            raise Unavailable(f"{self._pace.most} streams of events are open, which is the most; try again later")
        if self._taken[who] >= most_each:
            raise Unavailable(f"you have {most_each} streams of events open, which is the most; close one")
        self._taken[who] += 1
        try:
            yield
        finally:
            self._taken[who] -= 1
            self._taken += Counter()  # without those that have none


class Stream:
    """One reader. Each verb raises ConnectionError or TimeoutError when there is nobody who reads.

    For who unpacks that all is packed: views of many locations are a twentieth of their size then.
    """

    def __init__(self, request: web.Request, write_s: float) -> None:
        self._request = request
        self._write_s = write_s
        unpacks = "gzip" in request.headers.get(hdrs.ACCEPT_ENCODING, "")
        self._packer = zlib.compressobj(GZIP_LEVEL, zlib.DEFLATED, GZIP_WINDOW_BITS, GZIP_MEMORY) if unpacks else None
        self.response = web.StreamResponse(headers=HEADERS | ({hdrs.CONTENT_ENCODING: "gzip"} if unpacks else {}))

    async def open(self) -> None:
        """Begin the answer."""
        transport = self._request.transport
        if transport is None:
            raise ConnectionResetError("the reader has gone")
        transport.set_write_buffer_limits(high=BUFFER_BYTES)
        found = transport.get_extra_info("socket")
        if found is not None:
            found.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, BUFFER_BYTES)
        async with asyncio.timeout(self._write_s):
            await self.response.prepare(self._request)
        await self.send(f"retry: {RECONNECT_MS}\n\n")

    async def send(self, text: str) -> None:
        """Write, and wait until the reader has taken most of it."""
        data = text.encode()
        if self._packer is not None:
            data = self._packer.compress(data) + self._packer.flush(zlib.Z_SYNC_FLUSH)
        await self._write(data)

    async def end(self) -> None:
        """Say that nothing comes any more."""
        if self._packer is not None:
            await self._write(self._packer.flush())

    async def _write(self, data: bytes) -> None:
        for begin in range(0, len(data), CHUNK_BYTES):
            async with asyncio.timeout(self._write_s):
                await self.response.write(data[begin : begin + CHUNK_BYTES])

    @property
    def is_open(self) -> bool:
        transport = self._request.transport
        return transport is not None and not transport.is_closing()

    def cut(self) -> None:
        """Close the connection with what is still in it, in the kernel too."""
        transport = self._request.transport
        if transport is None:
            return
        found = transport.get_extra_info("socket")
        if found is not None:
            with contextlib.suppress(OSError):
                found.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _AT_ONCE)
        transport.abort()


def message(event: str, data: str, number: int | None = None) -> str:
    """Return one message; JSON has no line break in it."""
    name = "" if number is None else f"id: {number}\n"
    return f"event: {event}\n{name}data: {data}\n\n"


def heartbeat(number: int | None) -> str:
    """Return a comment; with a number, that is where the reader goes on when it comes again."""
    return ": still here\n" + ("" if number is None else f"id: {number}\n") + "\n"
