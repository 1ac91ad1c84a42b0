"""GET /v1/events: pages and streams, whose readers come again, do not read, or may not any more."""

import asyncio
import contextlib
import errno
import random
import socket
import zlib
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from rollout.api.contract import add_routes
from rollout.api.events import Events
from rollout.api.requests import IDENTITY, STANDING
from rollout.api.streams import Pace
from rollout.demo.processes import until
from rollout.errors import RolloutError
from rollout.feed import Feed
from rollout.happenings import Event, EventKind, Severity
from rollout.record import PutEvent
from rollout.rights import Grant, Identity, Role, Via
from rollout.store.chronicle import SqliteChronicle
from rollout.store.sqlite import SqliteStore, open_store
from tests.rollout.listening import STREAM, Reader, first
from tests.rollout.waiting import eventually

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
PACE = Pace(write_s=10, heartbeat_s=0.1, most=120, most_each=110)
WHOLE = Identity("ann", Grant(Role.VIEWER), Via.TOKEN, "1")
CART_ONLY = Identity("bob", Grant(Role.VIEWER, ("cart",)), Via.TOKEN, "2")
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@dataclass
class Door:
    """The API's events alone. Who asks is whom a test says, and knows whom it says it still knows."""

    store: SqliteStore
    feed: Feed
    http: aiohttp.ClientSession
    url: str = ""
    who: Identity = WHOLE
    known: bool = True
    app: web.Application = field(default_factory=web.Application)

    async def happens(self, *services: str, text: str = "something", severity: Severity = Severity.INFO) -> None:
        """Save an event of each of these services."""
        changes = [PutEvent(Event(NOON, EventKind.ROLLOUT_PHASE, severity, each, 1, text)) for each in services]
        await self.store.save(changes, engine_s=1.0)
        self.feed.saved(changes)

    async def page(self, query: str) -> tuple[int, dict[str, Any]]:
        async with self.http.get(f"{self.url}?{query}") as answer:
            return answer.status, await answer.json()

    @contextlib.asynccontextmanager
    async def stream(self, query: str = "", **headers: str) -> AsyncIterator[aiohttp.ClientResponse]:
        async with self.http.get(f"{self.url}?{query}", headers={**STREAM, **headers}) as response:
            yield response


@contextlib.asynccontextmanager
async def opened(folder: Path, pace: Pace = PACE) -> AsyncIterator[Door]:
    store = await open_store(folder)
    feed = Feed(SqliteChronicle(folder))
    await feed.open()
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as http, asyncio.TaskGroup() as group:
        door = Door(store, feed, http)

        @web.middleware
        async def known(request: web.Request, handler: Handler) -> web.StreamResponse:
            request[IDENTITY], request[STANDING] = door.who, lambda: door.known
            try:
                return await handler(request)
            except RolloutError as error:
                return web.json_response({"title": type(error).__name__, "detail": str(error)}, status=400)

        backstage: Any = SimpleNamespace(feed=feed, chronicle=feed._chronicle)
        door.app = web.Application(middlewares=[known])
        add_routes(door.app, Events(backstage, pace).routes())
        runner = web.AppRunner(door.app, access_log=None, shutdown_timeout=1)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        host, port = runner.addresses[0]
        door.url = f"http://{host}:{port}/v1/events"
        following = group.create_task(feed.run())
        try:
            yield door
        finally:
            feed.end()
            await runner.cleanup()
            following.cancel()
    await store.close()


async def test_a_page_has_what_is_asked_for_and_where_to_go_on(tmp_path: Path) -> None:
    async with opened(tmp_path) as door:
        await door.happens("cart", "checkout", "cart", "")
        await door.happens("cart", severity=Severity.CRITICAL)
        await eventually(lambda: door.feed.last == 5)
        for query, ids, following in (
            ("", [1, 2, 3, 4, 5], 5),
            ("limit=2", [4, 5], 5),
            ("after=0&limit=2", [1, 2], 2),
            ("after=2", [3, 4, 5], 5),
            ("after=5", [], 5),
            ("before=3", [1, 2], 2),
            ("after=0&service=cart", [1, 3, 5], 5),
            ("after=0&service=cart,checkout&limit=2", [1, 2], 2),
            ("after=0&severity=critical", [5], 5),
            ("after=0&kind=rollout.*", [1, 2, 3, 4, 5], 5),
            ("after=0&kind=rollout.completed,proxy.*", [], 5),
        ):
            _, page = await door.page(query)
            assert ([each["id"] for each in page["events"]], page["next"], page["reset"]) == (ids, following, None), (
                query
            )
        assert page["events"] == []
        for query, says in (
            ("kind=other", "kind: 'other'"),
            ("after=1&before=2", "before:"),
            ("views=fleet", "views:"),
        ):
            status, fault = await door.page(query)
            assert (status, fault["detail"].startswith(says)) == (400, True)


async def test_who_may_not_see_a_service_hears_nothing_of_it(tmp_path: Path) -> None:
    async with opened(tmp_path) as door:
        await door.happens("cart", "checkout", "", "checkout", "cart")
        await eventually(lambda: door.feed.last == 5)
        door.who = CART_ONLY
        _, page = await door.page("after=0")
        assert [each["service"] for each in page["events"]] == ["cart", "", "cart"]
        async with door.stream("after=0") as response:
            assert [each.id for each in await first(response, 3)] == ["1", "3", "5"]
        assert (await door.page("after=0&service=checkout"))[1]["events"] == []


async def test_a_stream_goes_on_where_its_reader_was(tmp_path: Path) -> None:
    async with opened(tmp_path) as door:
        await door.happens("cart", "cart", "cart")
        await eventually(lambda: door.feed.last == 3)
        async with door.stream("after=0", **{"Last-Event-ID": "1"}) as response:
            assert response.headers["Content-Type"] == "text/event-stream"
            assert [each.id for each in await first(response, 2)] == ["2", "3"]
            await door.happens("checkout")
            (told,) = await first(response, 1)
        assert (told.id, told.data["id"], told.data["service"]) == ("4", 4, "checkout")
        async with door.stream() as response:  # without either: what comes from now on
            await door.happens("now")
            assert [each.data["service"] for each in await first(response, 1)] == ["now"]


async def test_what_is_gone_is_said_and_the_stream_begins_anew(tmp_path: Path) -> None:
    async with opened(tmp_path) as door:
        await door.happens("cart", "cart")
        await eventually(lambda: door.feed.last == 2)
        async with door.stream(**{"Last-Event-ID": "900"}) as response:
            assert [each.data for each in await first(response, 1, "reset")] == [{"oldest": 1}]
            assert [each.id for each in await first(response, 2)] == ["1", "2"]
        _, page = await door.page("after=900")
        assert (page["reset"], [each["id"] for each in page["events"]]) == ({"oldest": 1}, [1, 2])


async def test_heartbeats_take_a_reader_past_what_it_does_not_want(tmp_path: Path) -> None:
    async with opened(tmp_path) as door, door.stream("service=cart&after=0") as response:
        await door.happens("checkout", "checkout")
        async with asyncio.timeout(20):
            lines = [line async for line in _until(response, b"id: 2\n")]
        assert b": still here\n" in lines
        assert not any(line.startswith(b"data") for line in lines)


async def _until(response: aiohttp.ClientResponse, last: bytes) -> AsyncIterator[bytes]:
    async for line in response.content:
        yield line
        if line == last:
            return


async def test_a_hundred_readers_hear_each_event_once_and_in_order(tmp_path: Path) -> None:
    async with opened(tmp_path) as door:
        readers = [Reader(f"{door.url}?after=0") for _ in range(100)]
        async with asyncio.timeout(20), asyncio.TaskGroup() as group:
            for reader in readers:
                group.create_task(reader.follow(lambda reader=reader: len(reader.told) == 60))  # type: ignore[misc]
            for _ in range(20):
                await door.happens("cart", "checkout", "")
        assert {tuple(each.id for each in reader.told) for reader in readers} == {tuple(map(str, range(1, 61)))}


async def test_a_stream_is_packed_for_who_unpacks_it_and_each_message_comes_whole(tmp_path: Path) -> None:
    async with (
        opened(tmp_path) as door,
        door.http.get(door.url, headers={**STREAM, "Accept-Encoding": "gzip"}, auto_decompress=False) as packed,
        door.stream(**{"Accept-Encoding": "identity"}) as plain,
    ):
        unpacker, text = zlib.decompressobj(16 + zlib.MAX_WBITS), b""
        async with asyncio.timeout(20):
            for number in range(3):
                await door.happens("cart", text=f"number {number}")
                while not (lines := journal(text)) or f"number {number}".encode() not in lines[-1]:
                    text += unpacker.decompress(await packed.content.readany())
            door.feed.end()
            text += unpacker.decompress(await packed.content.read())
            assert journal(await plain.read()) == journal(text)
        assert unpacker.eof
        assert (packed.headers["Content-Encoding"], plain.headers.get("Content-Encoding")) == ("gzip", None)


def journal(text: bytes) -> list[bytes]:
    return [line for line in text.splitlines() if line.startswith(b"data")]


@pytest.mark.parametrize("unpacks", ["", "Accept-Encoding: gzip\r\n"])
async def test_who_does_not_read_is_cut_and_others_go_on(tmp_path: Path, unpacks: str) -> None:
    noise = random.Random(1)
    async with opened(tmp_path, replace(PACE, write_s=3)) as door:
        host, port = door.url.removeprefix("http://").split("/")[0].split(":")
        with socket.socket() as slow:
            slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            slow.connect((host, int(port)))
            asks = f"GET /v1/events?after=0 HTTP/1.1\r\nHost: a\r\nAccept: text/event-stream\r\n{unpacks}\r\n"
            slow.sendall(asks.encode())
            reader = Reader(f"{door.url}?after=0")
            async with asyncio.timeout(20), asyncio.TaskGroup() as group:
                group.create_task(reader.follow(lambda: len(reader.told) == 600))
                for _ in range(60):
                    await door.happens(*["cart"] * 10, text=noise.randbytes(2_500).hex())  # more than is packed at once
            assert reader.connections == 1
            await eventually(lambda: slow.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == errno.ECONNRESET)


async def test_a_stream_ends_when_its_reader_may_not_read_any_more(tmp_path: Path) -> None:
    async with opened(tmp_path) as door, door.stream() as response:
        door.known = False
        async with asyncio.timeout(20):
            await response.read()


async def test_streams_are_limited_in_number_for_each_and_for_all(tmp_path: Path) -> None:
    async with opened(tmp_path, replace(PACE, most=3, most_each=2)) as door, contextlib.AsyncExitStack() as stack:
        for _ in range(2):
            assert (await stack.enter_async_context(door.stream())).status == 200
        async with door.stream() as response:
            assert "you have 2 streams" in (await response.json())["detail"]
        door.who = CART_ONLY
        await stack.enter_async_context(door.stream())
        async with door.stream() as response:
            assert "3 streams" in (await response.json())["detail"]
        await stack.aclose()

        async def free() -> bool:
            async with door.stream() as response:
                return response.status == 200

        await until(free, within_s=60, what="a place to be free")


async def test_all_streams_end_at_once_when_the_server_stops(tmp_path: Path) -> None:
    async with opened(tmp_path) as door, contextlib.AsyncExitStack() as stack:
        responses = [await stack.enter_async_context(door.stream()) for _ in range(20)]
        door.feed.end()
        async with asyncio.timeout(20):
            await asyncio.gather(*(each.read() for each in responses))
        async with door.stream() as response:
            assert "about to stop" in (await response.json())["detail"]
