"""Simulated admin endpoints: many in one process, each answers what a real Envoy has answered, and counts on.

Its first question is what to answer: `{"admins": 500, "text": ..., "json": ...}`; it says their ports. `{"hang": 10}`
makes the first ten of them take requests and answer no more, until another number is said.
"""

import asyncio
import random
import re
from collections.abc import AsyncIterator, Sequence
from functools import partial

from bench.pipe import answer, questions, raise_file_limit

HEAD = (
    b"HTTP/1.1 200 OK\r\ncontent-type: text/plain; charset=UTF-8\r\ncache-control: no-cache, max-age=0\r\n"
    b"x-content-type-options: nosniff\r\ndate: Sun, 22 Nov 2026 10:50:14 GMT\r\nserver: envoy\r\n"
    b"transfer-encoding: chunked\r\n\r\n"
)
LIVE = re.compile(r"active|healthy|membership|uptime")
BUCKET = re.compile(r"(?<=:)[0-9]+")


class Admin:
    """One of them: its own counters, which grow by what came since it was asked last."""

    def __init__(self, text: str, json: str) -> None:
        self.hangs = False
        self._lines = text.split("\n")
        self._json = chunked(json.encode())

    def answered(self, path: bytes) -> bytes:
        """The throw-away scrape has nothing in it; JSON is for the floor, which does not look at it."""
        if b"type=TextReadouts" in path:
            return chunked(b"")
        if b"format=json" in path:
            return self._json
        self._lines = list(map(grown, self._lines))
        return chunked("\n".join(self._lines).encode())


def grown(line: str) -> str:
    """A counter counts on by a thousandth, and in three of four buckets there is one sample more."""
    if line.startswith("  totals="):
        return BUCKET.sub(lambda count: str(int(count[0]) + (random.random() < 0.75)), line)
    name, separator, value = line.rpartition(": ")
    if not separator or LIVE.search(name):
        return line
    return f"{name}: {int(value) + 1 + int(value) // 1000}"


def chunked(body: bytes) -> bytes:
    return HEAD + (b"%x\r\n%s\r\n" % (len(body), body) if body else b"") + b"0\r\n\r\n"


class Connection(asyncio.Protocol):
    """Of a client that sends a GET when it has the answer before."""

    def __init__(self, admin: Admin) -> None:
        self._admin = admin
        self._read = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._read += data
        if self._read.endswith(b"\r\n\r\n") and not self._admin.hangs:
            self._transport.write(self._admin.answered(self._read))
            self._read = b""


async def main() -> None:
    raise_file_limit()
    asked = questions()
    what = await anext(asked)
    admins = [Admin(what["text"], what["json"]) for _ in range(what["admins"])]
    answer({"ports": [port async for port in listening(admins)]})
    async for question in asked:
        for number, admin in enumerate(admins):
            admin.hangs = number < question["hang"]
        answer(question)


async def listening(admins: Sequence[Admin]) -> AsyncIterator[int]:
    loop = asyncio.get_running_loop()
    for admin in admins:
        server = await loop.create_server(partial(Connection, admin), "127.0.0.1", 0)
        yield server.sockets[0].getsockname()[1]


if __name__ == "__main__":
    asyncio.run(main())
