"""Clients that are slow, silent, greedy or gone are cut within a limit, and nobody else notices."""

import asyncio
import os
import time
from pathlib import Path

import grpc
import grpc.aio
import pytest

from tests.xds.client import PROTOCOLS, Reply, Wire, assignment, read, route, served, shop
from tests.xds.port import LIMIT_S, Client, Port, eventually, serving
from tests.xds.raw import DATA, GOAWAY, HEADERS, PATHS, RST_STREAM, Raw
from xds.cache import Cache
from xds.limits import Limits, Rate
from xds.resources import CLUSTERS, ENDPOINTS, ROUTES
from xds.snapshot import Snapshot

both = pytest.mark.parametrize("protocol", PROTOCOLS)
WIDE = 2**31 - 1


def large(mark: int, size: int) -> Snapshot:
    """Serve a route of so many bytes; it is not remembered, as `route` does by itself."""
    return served(*shop("a")[:3], route.__wrapped__("main", "a", mark=f"{mark}-" + "x" * size))


async def stalled(port: Port, protocol: str, window: int) -> Raw:
    """Connect a client that asks for routes; what it reads is up to the test."""
    raw = await Raw.connect(port.address)
    raw.greet(window=window)
    raw.open(PATHS[protocol])
    field = "resource_names" if protocol == "sotw" else "resource_names_subscribe"
    raw.send(Wire(Cache(), protocol, "stalled").encode({"type_url": ROUTES.url, field: ["main"]}))
    return raw


def writing(port: Port) -> bool:
    return bool(writing_since_s(port))


def writing_since_s(port: Port) -> list[float]:
    return [call.writing_since_s for call in port.edge._calls if call.writing_since_s is not None]


def memory_mib() -> float:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


@both
async def test_client_that_pings_but_takes_no_data_is_cut_within_the_limit(protocol: str) -> None:
    async with serving(Limits(write_s=0.5)) as port:
        port.cache.publish(large(0, 2_000_000))
        raw = await stalled(port, protocol, 65_535)
        await eventually(lambda: writing(port))
        (began_s,) = writing_since_s(port)
        while (await raw.polite()).kind is not None:
            pass
        assert 0.5 <= time.monotonic() - began_s < LIMIT_S
        await eventually(lambda: port.streams == 0)
        assert port.left == ["stalled"]
        await raw.close()


@both
async def test_client_that_reads_nothing_from_its_socket_is_cut_within_the_limit(protocol: str) -> None:
    async with serving(Limits(ping_s=0.2, ping_answer_s=0.5)) as port:
        port.cache.publish(large(0, 20_000_000))
        raw = await stalled(port, protocol, WIDE)
        await eventually(lambda: writing(port))
        await eventually(lambda: port.streams == 0)
        assert port.left == ["stalled"]
        await raw.close()


@both
async def test_stalled_client_costs_no_memory_holds_nobody_up_and_gets_the_newest_when_it_reads(protocol: str) -> None:
    async with serving() as port, grpc.aio.insecure_channel(port.address) as channel:
        port.cache.publish(large(0, 200_000))
        raw = await stalled(port, protocol, 65_535)
        await eventually(lambda: writing(port))
        quick = Client(channel, protocol, "quick")
        await quick.ask(ROUTES.url, "main")
        await quick.ack(await quick.reply(), "main")
        before_mib = memory_mib()
        for mark in range(1, 1_001):
            port.cache.publish(large(mark, 100_000))
            if mark % 50 == 0:
                newest = await quick.reply()
                await quick.ack(newest, "main")
        while newest.versions["main"] != port.cache.fleet.common.get(ROUTES, "main").version:  # type: ignore[union-attr]  # published
            newest = await quick.reply()
            await quick.ack(newest, "main")
        assert memory_mib() - before_mib < 40, "1,000 versions are 100 MB"
        raw.widen(WIDE // 2)
        came = [await message(raw, protocol)]
        while came[-1].versions != newest.versions:
            came.append(await message(raw, protocol))
        assert len(came) == 2
        quick.call.cancel()
        await raw.close()


async def message(raw: Raw, protocol: str) -> Reply:
    """Read frames up to the end of one message."""
    body = b""
    while len(body) < 5 or len(body) < 5 + int.from_bytes(body[1:5], "big"):
        body += (await raw.until(DATA)).payload
    return read(protocol, body[5:])


async def test_connection_without_http2_is_closed() -> None:
    async with serving(Limits(handshake_s=0.3)) as port:
        raw = await Raw.connect(port.address)
        while (await raw.frame()).kind is not None:
            pass
        await raw.close()


async def test_connection_without_a_stream_is_closed() -> None:
    async with serving(Limits(idle_connection_s=0.3)) as port:
        raw = await Raw.connect(port.address)
        raw.greet()
        assert b"idle" in (await raw.until(GOAWAY)).payload
        while (await raw.polite()).kind is not None:
            pass
        await raw.close()


@both
async def test_stream_without_a_request_counts_and_is_ended(protocol: str) -> None:
    async with serving(Limits(first_request_s=1.5, streams=1)) as port:
        port.cache.publish(served(*shop("a")))
        raw = await Raw.connect(port.address)
        raw.greet()
        async with grpc.aio.insecure_channel(port.address) as channel:
            await channel.channel_ready()
            raw.open(PATHS[protocol])
            await eventually(lambda: port.streams == 1)
            refused = Client(channel, protocol)
            assert (await refused.end())[0] is grpc.StatusCode.UNAVAILABLE
            assert b"no request came within 1.5 s" in (await raw.until(HEADERS)).payload
            await eventually(lambda: port.streams == 0)
            admitted = Client(channel, protocol)
            await admitted.ask(CLUSTERS.url)
            assert str(await admitted.reply()) == "clusters a"
            admitted.call.cancel()
        await raw.close()


@both
async def test_stream_that_has_asked_once_may_be_silent(protocol: str) -> None:
    async with serving(Limits(first_request_s=1)) as port, grpc.aio.insecure_channel(port.address) as channel:
        port.cache.publish(served(*shop("a")))
        client = Client(channel, protocol)
        await client.ask(ENDPOINTS.url, "a")
        await client.reply()
        began_s = time.monotonic()
        await eventually(lambda: time.monotonic() - began_s > 1.5)
        port.cache.publish(served(assignment("a", 81)))
        assert (await client.reply()).versions == {"a": assignment("a", 81).version}
        client.call.cancel()


@both
async def test_streams_beyond_the_rate_are_told_to_come_back_and_do(protocol: str) -> None:
    limits = Limits(new_streams=Rate(per_s=0.7, burst=2))
    async with serving(limits) as port, grpc.aio.insecure_channel(port.address) as channel:
        port.cache.publish(served(*shop("a")))
        clients = [Client(channel, protocol, f"edge-{number}") for number in range(2)]
        for client in clients:
            await client.ask(CLUSTERS.url)
            await client.reply()
        code, text = await Client(channel, protocol).end()
        assert code is grpc.StatusCode.UNAVAILABLE
        assert "more than 0.7 streams a second" in text
        async with asyncio.timeout(LIMIT_S):
            while port.streams < 3:
                again = Client(channel, protocol)
                await asyncio.wait([asyncio.ensure_future(again.end())], timeout=0.05)
        for client in (*clients, again):
            client.call.cancel()


async def test_connection_may_have_so_many_streams_and_the_server_so_many_connections() -> None:
    async with serving(Limits(streams_per_connection=1, connections=2)) as port:
        first, second = await Raw.connect(port.address), await Raw.connect(port.address)
        for raw in (first, second):
            raw.greet()
            raw.open(PATHS["sotw"])
        await eventually(lambda: port.streams == 2)
        first.open(PATHS["sotw"], stream=3)
        assert (await first.until(RST_STREAM)).stream == 3
        third = await Raw.connect(port.address)
        assert (await third.frame()).kind is None
        assert port.streams == 2
        for raw in (first, second, third):
            await raw.close()


@both
async def test_requests_beyond_the_rate_are_read_later_and_all_are_answered(protocol: str) -> None:
    limits = Limits(requests=Rate(per_s=40, burst=10))
    async with serving(limits) as port, grpc.aio.insecure_channel(port.address) as channel:
        port.cache.publish(served(*shop("a")))
        hasty, other = Client(channel, protocol, "hasty"), Client(channel, protocol, "other")
        began_s = time.monotonic()
        for _ in range(60):
            await hasty.ask("type.googleapis.com/envoy.config.none.v3.Nothing")
        await hasty.ask(ENDPOINTS.url, "a")
        await other.ask(ENDPOINTS.url, "a")
        later = asyncio.create_task(hasty.reply())
        await other.reply()
        assert not later.done()
        await later
        assert time.monotonic() - began_s > 50 / 40
        for client in (hasty, other):
            client.call.cancel()


@both
@pytest.mark.parametrize(
    ("limits", "text"),
    [(Limits(request_bytes=20_000), "Received message larger"), (Limits(response_bytes=20_000), "Sent message larger")],
)
async def test_message_beyond_its_limit_ends_the_stream_and_says_so(protocol: str, limits: Limits, text: str) -> None:
    async with serving(limits) as port, grpc.aio.insecure_channel(port.address) as channel:
        port.cache.publish(large(0, 30_000))
        client = Client(channel, protocol)
        await client.ask(ROUTES.url, "main", *([] if "Sent" in text else [f"{number:0100}" for number in range(1000)]))
        code, details = await client.end()
        assert code is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert text in details
        await eventually(lambda: port.streams == 0)


async def test_connection_ends_at_its_age_and_its_stream_a_grace_later() -> None:
    async with serving(Limits(connection_age_s=0.5, connection_grace_s=0.3)) as port:
        port.cache.publish(large(0, 10))
        raw = await stalled(port, "sotw", WIDE)
        assert b"max_age" in (await raw.until(GOAWAY)).payload
        assert port.sessions == 1
        while (await raw.polite()).kind is not None:
            pass
        await eventually(lambda: port.left == ["stalled"])
        await raw.close()


@pytest.mark.parametrize("window", [65_535, WIDE])
async def test_stop_is_over_in_time_though_a_client_reads_nothing(window: int) -> None:
    running = Port()
    await running.start()
    running.cache.publish(large(0, 20_000_000))
    raw = await stalled(running, "delta", window)
    await eventually(lambda: writing(running))
    async with asyncio.timeout(10):
        await running.edge.stop(0.5)
    await eventually(lambda: running.left == ["stalled"])
    await raw.close()
