"""As much of HTTP/2 and gRPC as the client of one stream needs; canned frames, so that it costs next to nothing."""

import asyncio
from collections import deque
from collections.abc import Callable, Iterable

DATA, HEADERS, RST_STREAM, SETTINGS, PING, GOAWAY, WINDOW_UPDATE = 0, 1, 3, 4, 6, 7, 8
ACK, END_STREAM, END_HEADERS = 0x1, 0x1, 0x4
INITIAL_WINDOW_SIZE = 4  # a setting
FRAME_LIMIT = 16_384
WINDOW, WINDOW_LIMIT = 65_535, 2**31 - 1
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"


def frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    return len(payload).to_bytes(3, "big") + bytes((kind, flags)) + stream.to_bytes(4, "big") + payload


def message_frames(message: bytes) -> tuple[bytes, ...]:
    """Return the DATA frames of one gRPC message."""
    framed = b"\0" + len(message).to_bytes(4, "big") + message
    return tuple(frame(DATA, 0, 1, framed[start : start + FRAME_LIMIT]) for start in range(0, len(framed), FRAME_LIMIT))


def opening(path: str) -> bytes:
    """Return all that a client sends before its first message. It opens its windows so wide that they last."""
    headers = {
        ":method": "POST",
        ":scheme": "http",
        ":path": path,
        ":authority": "xds",
        "te": "trailers",
        "content-type": "application/grpc",
        "x-envoy-internal": "true",
        "x-forwarded-for": "127.0.0.1",
    }
    window = INITIAL_WINDOW_SIZE.to_bytes(2, "big") + WINDOW_LIMIT.to_bytes(4, "big")
    return b"".join(
        (
            PREFACE,
            frame(SETTINGS, 0, 0, window),
            frame(WINDOW_UPDATE, 0, 0, (WINDOW_LIMIT - WINDOW).to_bytes(4, "big")),
            frame(HEADERS, END_HEADERS, 1, b"".join(_header(name, value) for name, value in headers.items())),
        )
    )


def _header(name: str, value: str) -> bytes:
    """Encode a header as HPACK's literal without indexing; both texts are shorter than 127 bytes."""
    return b"\0" + bytes((len(name),)) + name.encode() + bytes((len(value),)) + value.encode()


class Connection(asyncio.Protocol):
    """One stream on one connection: `received` gets each message, `ended` says why no more will come."""

    def __init__(self, received: Callable[[bytes], None]) -> None:
        self.ended: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self._received = received
        self._rest = b""  # the beginning of a frame
        self._body = bytearray()  # the beginning of a message
        self._queued: deque[bytes] = deque()  # frames for which the server has no window yet
        self._windows = [WINDOW, WINDOW]  # of the connection, of the stream
        self._initial_window = WINDOW

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def connection_lost(self, error: Exception | None) -> None:
        self._end(f"connection lost: {error}")

    def open(self, path: str, frames: Iterable[bytes]) -> None:
        self._transport.write(opening(path))
        self.send(frames)

    def send(self, frames: Iterable[bytes]) -> None:
        """Send DATA frames as far as the server's windows allow."""
        self._queued.extend(frames)
        ready = []
        while self._queued and len(self._queued[0]) - 9 <= min(self._windows):
            following = self._queued.popleft()
            self._windows[0] -= len(following) - 9
            self._windows[1] -= len(following) - 9
            ready.append(following)
        if ready:
            self._transport.write(b"".join(ready) if len(ready) > 1 else ready[0])

    def data_received(self, data: bytes) -> None:
        if self._rest:
            data = self._rest + data
        at, end = 0, len(data)
        while end - at >= 9:
            size = int.from_bytes(data[at : at + 3], "big")
            if end - at < 9 + size:
                break
            payload = data[at + 9 : at + 9 + size]
            if data[at + 3] == DATA:
                self._data(payload)
            else:
                self._control(data[at + 3], data[at + 4], data[at + 5 : at + 9], payload)
            at += 9 + size
        self._rest = data[at:]

    def _data(self, payload: bytes) -> None:
        if not self._body and len(payload) >= 5 and len(payload) == 5 + int.from_bytes(payload[1:5], "big"):
            self._received(payload[5:])
            return
        self._body += payload
        while len(self._body) >= 5 and len(self._body) >= (end := 5 + int.from_bytes(self._body[1:5], "big")):
            message = bytes(self._body[5:end])
            del self._body[:end]
            self._received(message)

    def _control(self, kind: int, flags: int, stream: bytes, payload: bytes) -> None:
        if kind == SETTINGS and not flags & ACK:
            self._settings(payload)
            self._transport.write(frame(SETTINGS, ACK, 0, b""))
        elif kind == PING and not flags & ACK:
            self._transport.write(frame(PING, ACK, 0, payload))
        elif kind == WINDOW_UPDATE:
            self._windows[any(stream)] += int.from_bytes(payload, "big")
        elif kind in (RST_STREAM, GOAWAY) or (kind == HEADERS and flags & END_STREAM):
            self._end(f"the server ended the stream: {payload!r}")
        if self._queued:
            self.send(())

    def _settings(self, payload: bytes) -> None:
        for at in range(0, len(payload), 6):
            if int.from_bytes(payload[at : at + 2], "big") == INITIAL_WINDOW_SIZE:
                size = int.from_bytes(payload[at + 2 : at + 6], "big")
                self._windows[1] += size - self._initial_window
                self._initial_window = size

    def _end(self, why: str) -> None:
        if not self.ended.done():
            self.ended.set_result(why)
            self._transport.abort()
