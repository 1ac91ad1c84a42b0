"""Probes of real servers over HTTP, gRPC and TCP: healthy ones, ill ones, and ones that hang."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from dataclasses import dataclass, field

import aiohttp
import grpc
import pytest
from aiohttp import web
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from rollout.health import Probed, Ward
from rollout.healthcheck import ANSWER_LIMIT, AT_ONCE, DOUBTFUL_AT_ONCE, HealthChecker, probe
from rollout.probe import ProbeSpec
from tests.rollout.waiting import eventually

LIMIT_S = 20.0
Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@contextlib.asynccontextmanager
async def listening(handler: Handler, port: int = 0) -> AsyncIterator[str]:
    """Serve raw connections, each until its client goes; yield HOST:PORT."""
    tasks: set[asyncio.Task[None]] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        try:
            with contextlib.suppress(ConnectionError):
                await handler(reader, writer)
        finally:
            writer.transport.abort()
            tasks.discard(task)

    server = await asyncio.start_server(serve, "127.0.0.1", port)
    try:
        yield f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()
        for task in tuple(tasks):
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def hang(reader: asyncio.StreamReader, _writer: asyncio.StreamWriter) -> None:
    while await reader.read(1024):
        pass


def saying(*pieces: bytes, then: Handler | None = None) -> Handler:
    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        for piece in pieces:
            writer.write(piece)
        await writer.drain()
        if then is not None:
            await then(reader, writer)

    return handler


async def endless(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while not writer.is_closing():
        writer.write(b"x" * ANSWER_LIMIT)
        await writer.drain()


@pytest.fixture
async def session() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession() as found:
        yield found


@contextlib.asynccontextmanager
async def http_server(requests: list[web.Request]) -> AsyncIterator[str]:
    async def answer(request: web.Request) -> web.Response:
        requests.append(request)
        return web.Response(status=int(request.path.strip("/")), headers={"Location": "/200"})

    app = web.Application()
    app.router.add_get("/{status}", answer)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        yield f"127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


@contextlib.asynccontextmanager
async def grpc_server(**statuses: str) -> AsyncIterator[str]:
    server, servicer = grpc.aio.server(), health.aio.HealthServicer()
    health_pb2_grpc.add_HealthServicer_to_server(servicer, server)
    for service, status in statuses.items():
        number = health_pb2.HealthCheckResponse.ServingStatus.Value(status)
        await servicer.set("" if service == "overall" else service, number)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        await server.stop(None)


async def unused() -> str:
    """Return an address that nobody listens at."""
    async with listening(hang) as address:
        return address


def http(path: str, **more: object) -> ProbeSpec:
    return ProbeSpec.model_validate({"http": path, **more})


async def test_http_of_2xx_is_healthy_and_nothing_else(session: aiohttp.ClientSession) -> None:
    requests: list[web.Request] = []
    async with http_server(requests) as address:
        assert await probe(http("/200", host="shop.internal"), address, session) == ""
        assert await probe(http("/204"), address, session) == ""
        for status in (301, 404, 500, 503):
            assert await probe(http(f"/{status}"), address, session) == f"HTTP {status} from /{status}"
    assert [each.headers["Host"] for each in requests[:2]] == ["shop.internal", address]
    assert len(requests) == 6  # the redirect was not followed


async def test_tcp_is_healthy_when_it_connects(session: aiohttp.ClientSession) -> None:
    async with listening(hang) as address:
        assert await probe(ProbeSpec(tcp=True), address, session) == ""
    assert await probe(ProbeSpec(tcp=True), address, session) == "connection refused"


async def test_grpc_health_serves_or_says_what_it_does(session: aiohttp.ClientSession) -> None:
    async with grpc_server(overall="SERVING", shop="NOT_SERVING") as address:
        assert await probe(ProbeSpec(grpc=""), address, session) == ""
        assert await probe(ProbeSpec(grpc="shop"), address, session) == "it says NOT_SERVING"
        assert (await probe(ProbeSpec(grpc="other"), address, session)).startswith("gRPC NOT_FOUND")
    assert (await probe(ProbeSpec(grpc=""), address, session)).startswith("gRPC UNAVAILABLE")


async def test_a_probe_may_ask_another_port(session: aiohttp.ClientSession) -> None:
    async with listening(hang) as address:
        port = int(address.rpartition(":")[2])
        assert await probe(ProbeSpec(tcp=True, port=port), await unused(), session) == ""


HANGING = [
    (http("/", timeout="200ms"), hang),
    (http("/", timeout="200ms"), saying(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nok", then=hang)),
    (ProbeSpec.model_validate({"grpc": "", "timeout": "200ms"}), hang),
]


@pytest.mark.parametrize(("spec", "handler"), HANGING)
async def test_a_server_that_hangs_is_not_waited_for_longer_than_its_time(
    session: aiohttp.ClientSession, spec: ProbeSpec, handler: Handler
) -> None:
    async with listening(handler) as address:
        async with asyncio.timeout(LIMIT_S):
            assert await probe(spec, address, session) == "no answer within 0.2 s"


BROKEN = [
    (http("/"), saying(), "it closed the connection without an answer"),
    (http("/"), saying(b"\x00\xff garbage\r\n\r\n"), "no answer that can be read"),
    (http("/"), saying(b"HTTP/1.1 200 OK\r\nX: " + b"x" * 100_000 + b"\r\n\r\n"), "no answer that can be read"),
    (ProbeSpec(grpc=""), saying(b"HTTP/1.1 200 OK\r\n\r\n"), "gRPC UNAVAILABLE"),
]


@pytest.mark.parametrize(("spec", "handler", "why"), BROKEN)
async def test_what_cannot_be_read_is_not_healthy(
    session: aiohttp.ClientSession, spec: ProbeSpec, handler: Handler, why: str
) -> None:
    async with listening(handler) as address:
        assert (await probe(spec, address, session)).startswith(why)


async def test_an_answer_without_an_end_is_not_read_to_it(session: aiohttp.ClientSession) -> None:
    head = b"HTTP/1.1 200 OK\r\n\r\n"
    async with listening(saying(head, then=endless)) as address, asyncio.timeout(LIMIT_S):
        assert await probe(http("/", timeout="10s"), address, session) == ""


@dataclass(slots=True)
class World:
    """Who is to be probed; `changes` counts what the checker told."""

    wards: list[Ward] = field(default_factory=list)
    changes: int = 0
    checker: HealthChecker = field(init=False)

    def __post_init__(self) -> None:
        self.checker = HealthChecker(lambda: self.wards, time.monotonic, self.changed)

    def changed(self) -> None:
        self.changes += 1

    def probe(self, addresses: Iterable[str], version: str = "v2", **spec: object) -> None:
        given = {"tcp": True, "interval": "50ms", "timeout": "5s", "unhealthy": 1, **spec}
        self.wards.append(Ward("checkout", version, tuple(addresses), ProbeSpec.model_validate(given)))

    def healthy(self, version: str = "v2") -> dict[str, bool | None]:
        return {address: each.healthy for address, each in self.checker.probed("checkout", version).items()}


@contextlib.asynccontextmanager
async def running(world: World) -> AsyncIterator[None]:
    async with asyncio.TaskGroup() as group:
        task = group.create_task(world.checker.run())
        try:
            yield
        finally:
            task.cancel()


async def test_backends_are_probed_until_nobody_wants_it_any_more() -> None:
    world = World()
    async with listening(hang) as good, running(world):
        bad = await unused()
        world.probe([good, bad])
        await eventually(lambda: world.healthy() == {good: True, bad: False})
        known = world.checker.probed("checkout", "v2")[bad]
        assert (known.why, known.healthy) == ("connection refused", False)
        assert world.changes == 2
        assert world.healthy("v1") == {}
        world.wards.clear()
        await eventually(lambda: world.healthy() == {})


async def test_a_backend_that_comes_back_is_healthy_again() -> None:
    world = World()
    async with listening(hang) as address:
        pass
    world.probe([address])
    async with running(world):
        await eventually(lambda: world.healthy() == {address: False})
        async with listening(hang, int(address.rpartition(":")[2])):
            await eventually(lambda: world.healthy() == {address: True})


async def test_many_that_hang_keep_no_other_waiting() -> None:
    world = World()
    async with contextlib.AsyncExitStack() as stack:
        good = await stack.enter_async_context(listening(saying(b"HTTP/1.1 204 No Content\r\n\r\n")))
        hanging = await stack.enter_async_context(listening(hang))
        spec = {"tcp": False, "http": "/", "timeout": "60s"}
        world.probe([good], version="v1", **spec)
        await stack.enter_async_context(running(world))
        await eventually(lambda: world.healthy("v1") == {good: True})
        versions = [f"hanging-{number}" for number in range(DOUBTFUL_AT_ONCE + AT_ONCE)]
        for version in versions:  # one server stands for them all
            world.probe([hanging], version=version, **spec)
        await eventually(lambda: all(world.healthy(version) for version in versions))
        streak = world.checker.probed("checkout", "v1")[good].streak
        await eventually(lambda: world.checker.probed("checkout", "v1")[good].streak > streak + 3)
        assert [world.healthy(version) for version in versions] == [{hanging: None}] * len(versions)


async def test_another_probe_of_the_same_backend_begins_anew() -> None:
    world = World()
    async with listening(hang) as address, running(world):
        world.probe([address])
        await eventually(lambda: world.healthy() == {address: True})
        world.wards.clear()
        world.probe([address], tcp=False, http="/", timeout="60s")
        await eventually(lambda: world.checker.probed("checkout", "v2") == {address: Probed()})
