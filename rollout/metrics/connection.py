"""One kept HTTP/1.1 connection to an admin endpoint: GET, one at a time, with bounded answers.

A general client costs four times as much for each answer, which for a fleet read every second is most of what reading
it costs; this one knows just what Envoy's admin endpoint and its proxied view send.
"""

from __future__ import annotations

import asyncio
import re
from typing import Self

MAX_ANSWER_BYTES = 4 * 1024 * 1024
MAX_HEAD_BYTES = 16 * 1024
MAX_CHUNKS = 16 * 1024  # of one answer; what is buffered is read without a pause, so this bounds how long others wait

_ADDRESS = re.compile(r"(?P<host>[A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\]):(?P<port>[0-9]{1,5})")
_STATUS = re.compile(rb"HTTP/1\.[01] ([0-9]{3})( [^\r\n]*)?\Z")


class Connection:
    """Every error leaves it in the middle of an answer: close it then."""

    def __init__(self, address: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._address = address
        self._reader = reader
        self._writer = writer
        self._last = False

    @classmethod
    async def open(cls, address: str) -> Self:
        """To `host:port` and nothing else; ValueError for what is no such address, OSError when nobody listens."""
        match = _ADDRESS.fullmatch(address)
        if match is None or not 0 < int(match["port"]) < 65536:
            raise ValueError("not an address of the form HOST:PORT")
        host = match["host"].strip("[]")
        return cls(address, *await asyncio.open_connection(host, int(match["port"]), limit=MAX_HEAD_BYTES))

    @property
    def kept(self) -> bool:
        """Whether another GET may be tried."""
        return not self._last and not self._reader.at_eof() and not self._writer.is_closing()

    def close(self) -> None:
        """At once; nobody waits for the rest of an answer."""
        self._writer.transport.abort()

    async def get(self, path: str) -> bytes:
        """The body of a 200; ConnectionError when the connection ended, ValueError for any other answer."""
        self._writer.write(f"GET {path} HTTP/1.1\r\nHost: {self._address}\r\n\r\n".encode("ascii"))
        try:
            return await self._body(await self._headers())
        except asyncio.IncompleteReadError as error:
            raise ConnectionError("it closed the connection before its answer was complete") from error
        except asyncio.LimitOverrunError as error:
            raise ValueError("not an answer in HTTP: a line of it is too long") from error

    async def _headers(self) -> dict[bytes, bytes]:
        first, *lines = (await self._reader.readuntil(b"\r\n\r\n"))[:-4].split(b"\r\n")
        status = _STATUS.match(first)
        if status is None:
            raise ValueError("not an answer in HTTP/1.1")
        if status[1] != b"200":
            raise ValueError(f"HTTP {status[1].decode()} from its admin endpoint")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(b":") for line in lines)}
        self._last = headers.get(b"connection", b"").lower() == b"close"
        return headers

    async def _body(self, headers: dict[bytes, bytes]) -> bytes:
        if headers.get(b"transfer-encoding", b"").lower() == b"chunked":
            return await self._chunks()
        length = headers.get(b"content-length", b"")
        if not length.isdigit() or b"transfer-encoding" in headers:
            raise ValueError("its answer has no length")
        return await self._reader.readexactly(_bounded(int(length[:20])))

    async def _chunks(self) -> bytes:
        body = bytearray()
        for _ in range(MAX_CHUNKS):
            size = int((await self._reader.readuntil(b"\r\n")).partition(b";")[0], 16)
            if size < 0:
                raise ValueError("a chunk of its answer has a negative size")
            _bounded(len(body) + size)
            body += await self._reader.readexactly(size)
            if await self._reader.readexactly(2) != b"\r\n":
                raise ValueError("a chunk of its answer has no end")
            if not size:
                return bytes(body)
        raise ValueError(f"its answer has more than {MAX_CHUNKS} chunks")


def _bounded(size: int) -> int:
    if size > MAX_ANSWER_BYTES:
        raise ValueError(f"its answer is longer than {MAX_ANSWER_BYTES} bytes")
    return size
