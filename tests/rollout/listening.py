"""Who listens to a server's events: blocks of a stream as they come, and a reader that comes again where it was."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Any

import aiohttp

STREAM = {"Accept": "text/event-stream"}


@dataclass(frozen=True, slots=True)
class Told:
    """One block of a stream: its event's name, its id ("" for none) and its data, None for a comment."""

    event: str
    id: str
    data: Any


async def blocks(response: aiohttp.ClientResponse) -> AsyncIterator[Told]:
    """Yield what a stream says until it ends."""
    fields: dict[str, str] = {}
    async for raw in response.content:
        line = raw.decode().rstrip("\n")
        if line:
            name, _, value = line.partition(":")
            fields[name] = value.strip()
        elif fields:
            data = fields.get("data")
            yield Told(fields.get("event", ""), fields.get("id", ""), None if data is None else json.loads(data))
            fields = {}


async def first(response: aiohttp.ClientResponse, number: int, event: str = "journal") -> list[Told]:
    """Return so many of one event's messages."""
    found: list[Told] = []
    async with asyncio.timeout(20):
        async for told in blocks(response):
            found += [told] if told.event == event else []
            if len(found) == number:
                return found
    raise AssertionError(f"the stream has ended after {found}")


@dataclass
class Reader:
    """Follows a server that dies and comes again, as a browser does: by the last id that it was told."""

    url: str
    last: str = ""
    told: list[Told] = field(default_factory=list)
    connections: int = 0

    async def follow(self, done: Callable[[], bool]) -> None:
        """Read until that is so."""
        async with aiohttp.ClientSession() as http:
            while not done():
                with contextlib.suppress(aiohttp.ClientError, TimeoutError):
                    await self._read(http, done)
                await asyncio.sleep(0.02)

    async def _read(self, http: aiohttp.ClientSession, done: Callable[[], bool]) -> None:
        headers = {**STREAM, **({"Last-Event-ID": self.last} if self.last else {})}
        timeout = aiohttp.ClientTimeout(total=None, sock_read=20)
        async with http.get(self.url, headers=headers, timeout=timeout) as response:
            if response.status != 200:
                return
            self.connections += 1
            async for told in blocks(response):
                self.last = told.id or self.last
                if told.event == "journal":
                    self.told.append(told)
                if done():
                    return
