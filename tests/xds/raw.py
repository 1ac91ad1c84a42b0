"""An HTTP/2 client that does only what a test has it do: it may leave frames, pings and windows unanswered."""

import asyncio
import contextlib
from dataclasses import dataclass
from typing import Self

from bench.http2 import (
    ACK,
    DATA,
    END_HEADERS,
    GOAWAY,
    HEADERS,
    INITIAL_WINDOW_SIZE,
    PING,
    PREFACE,
    RST_STREAM,
    SETTINGS,
    WINDOW,
    WINDOW_LIMIT,
    WINDOW_UPDATE,
    frame,
    message_frames,
)
from xds.edge.grpcio import METHODS, SERVICE

__all__ = ["DATA", "GOAWAY", "HEADERS", "PING", "RST_STREAM", "Frame", "Raw"]
PATHS = {protocol: f"/{SERVICE}/{name}" for name, protocol in METHODS.items()}
LIMIT_S = 20.0


@dataclass(frozen=True, slots=True)
class Frame:
    """One frame; kind None: the server has closed the connection."""

    kind: int | None
    flags: int = 0
    stream: int = 0
    payload: bytes = b""


class Raw:
    """One connection; its stream is number 1."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    @classmethod
    async def connect(cls, address: str) -> Self:
        host, _, port = address.rpartition(":")
        return cls(*await asyncio.open_connection(host, int(port), limit=2**12))

    def greet(self, *, window: int = WINDOW) -> None:
        """Begin HTTP/2, with this window for what the server sends on a stream, and the widest for the connection."""
        self._writer.write(PREFACE)
        self._writer.write(frame(SETTINGS, 0, 0, INITIAL_WINDOW_SIZE.to_bytes(2, "big") + window.to_bytes(4, "big")))
        self.widen(WINDOW_LIMIT - WINDOW, stream=0)

    def open(self, path: str, *, stream: int = 1) -> None:
        """Send a stream's headers."""
        headers = {":method": "POST", ":scheme": "http", ":path": path, ":authority": "xds", "te": "trailers"}
        headers["content-type"] = "application/grpc"
        encoded = (b"\0" + _text(name) + _text(value) for name, value in headers.items())
        self._writer.write(frame(HEADERS, END_HEADERS, stream, b"".join(encoded)))

    def send(self, message: bytes) -> None:
        self._writer.writelines(message_frames(message))

    def widen(self, size: int, *, stream: int = 1) -> None:
        self._writer.write(frame(WINDOW_UPDATE, 0, stream, size.to_bytes(4, "big")))

    async def frame(self) -> Frame:
        """Read one frame, and answer nothing."""
        try:
            async with asyncio.timeout(LIMIT_S):
                head = await self._reader.readexactly(9)
                payload = await self._reader.readexactly(int.from_bytes(head[:3], "big"))
        except (asyncio.IncompleteReadError, ConnectionError):
            return Frame(None)
        return Frame(head[3], head[4], int.from_bytes(head[5:], "big"), payload)

    async def polite(self) -> Frame:
        """Read one frame; answer it when it is a ping or a setting, as an HTTP/2 library does by itself."""
        found = await self.frame()
        if found.kind in (PING, SETTINGS) and not found.flags & ACK:
            self._writer.write(frame(found.kind, ACK, 0, found.payload if found.kind == PING else b""))
        return found

    async def until(self, *kinds: int | None) -> Frame:
        """Read politely up to a frame of one of these kinds."""
        while (found := await self.polite()).kind not in (*kinds, None):
            pass
        assert found.kind in kinds, "the server closed the connection"
        return found

    async def close(self) -> None:
        self._writer.transport.abort()
        with contextlib.suppress(OSError):
            await self._writer.wait_closed()


def _text(text: str) -> bytes:
    """Encode a text of a literal header field; it is shorter than 127 bytes."""
    return bytes((len(text),)) + text.encode()
