"""The xDS port over real sockets, with grpc's own client."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

import grpc
import grpc.aio
import pytest

from tests.xds.client import PROTOCOLS, Reply, Wire, assignment, cluster, read, route, served, shop
from xds.cache import Cache
from xds.edge.grpcio import METHODS, OPTIONS, SERVICE, GrpcEdge
from xds.errors import XdsError
from xds.resources import CLUSTERS, ENDPOINTS, ROUTES, Resource
from xds.session import ControlPlane, Events

both = pytest.mark.parametrize("protocol", PROTOCOLS)
METHOD = {protocol: f"/{SERVICE}/{name}" for name, protocol in METHODS.items()}
LIMIT_S = 10.0


class Port:
    """A running edge and its cache."""

    def __init__(self) -> None:
        self.cache = Cache()
        self.left: list[str] = []
        events = Events(left=lambda status: self.left.append(status.node.id))
        self.edge = GrpcEdge(ControlPlane(self.cache, events), time.monotonic)
        self.address = ""

    async def start(self) -> None:
        self.address = f"127.0.0.1:{await self.edge.start('127.0.0.1:0')}"


class Client:
    """One ADS stream; it encodes with the Wire of the unit tests, and reads with protobuf."""

    def __init__(self, channel: grpc.aio.Channel, protocol: str, node_id: str = "edge-1") -> None:
        self.wire = Wire(Cache(), protocol, node_id)
        self.protocol = protocol
        self.call = channel.stream_stream(METHOD[protocol])()

    async def ask(self, type_url: str, *names: str, **words: object) -> None:
        field = "resource_names" if self.protocol == "sotw" else "resource_names_subscribe"
        await self.send({"type_url": type_url, field: list(names), **words})

    async def send(self, words: dict[str, Any]) -> None:
        await self.call.write(self.wire.encode(words))

    async def ack(self, reply: Reply, *names: str) -> None:
        extra = {"version_info": reply.version} if self.protocol == "sotw" else {}
        if self.protocol == "sotw":
            await self.ask(reply.type.url, *names, response_nonce=reply.nonce, **extra)
        else:
            await self.ask(reply.type.url, response_nonce=reply.nonce)

    async def reply(self) -> Reply:
        async with asyncio.timeout(LIMIT_S):
            return read(self.protocol, await self.call.read())

    async def end(self) -> tuple[grpc.StatusCode, str]:
        """Wait for the end of the stream; return its code and text."""
        async with asyncio.timeout(LIMIT_S):
            return await self.call.code(), await self.call.details()


@pytest.fixture
async def port() -> AsyncIterator[Port]:
    running = Port()
    await running.start()
    yield running
    async with asyncio.timeout(LIMIT_S):
        await running.edge.stop(0)


@pytest.fixture
async def channel(port: Port) -> AsyncIterator[grpc.aio.Channel]:
    async with grpc.aio.insecure_channel(port.address) as opened:
        yield opened


async def eventually(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(LIMIT_S):
        while not condition():  # noqa: ASYNC110 - what is waited for says nothing by itself
            await asyncio.sleep(0.01)


def sessions(port: Port) -> int:
    return sum(len(members) for members in port.cache._members.values())


@both
async def test_client_gets_what_it_asks_for_and_what_changes(
    port: Port, channel: grpc.aio.Channel, protocol: str
) -> None:
    port.cache.publish(served(*shop("a")))
    client = Client(channel, protocol)
    await client.ask(CLUSTERS.url)
    first = await client.reply()
    assert str(first) == "clusters a"
    await client.ack(first)
    await client.ask(ENDPOINTS.url, "a")
    assert str(await client.reply()) == "endpoints a"
    port.cache.publish(served(cluster("a"), assignment("a", 81)))
    assert (await client.reply()).versions == {"a": assignment("a", 81).version}
    client.call.cancel()


@both
async def test_route_comes_when_the_barrier_ends_without_any_other_event(
    port: Port, channel: grpc.aio.Channel, protocol: str
) -> None:
    port.cache.publish(served(*shop("a")))
    client = Client(channel, protocol)
    await client.ask(CLUSTERS.url)
    await client.ask(ROUTES.url, "main")
    assert [str(await client.reply()), str(await client.reply())] == ["clusters a", "routes main"]
    client.call.cancel()


@both
@pytest.mark.parametrize(
    ("words", "text"),
    [
        ({"node": {"cluster": "edge"}, "type_url": CLUSTERS.url}, "node.id is empty"),
        ({"node": None, "type_url": CLUSTERS.url}, "node.id is empty"),
        ({"node": {"id": "x" * 300}, "type_url": CLUSTERS.url}, "node.id has 300 characters"),
        ({"type_url": ""}, "type_url is empty"),
    ],
)
async def test_request_that_breaks_the_protocol_ends_the_stream(
    port: Port, channel: grpc.aio.Channel, protocol: str, words: dict[str, Any], text: str
) -> None:
    port.cache.publish(served(*shop("a")))
    client = Client(channel, protocol)
    await client.send(words)
    code, details = await client.end()
    assert code is grpc.StatusCode.INVALID_ARGUMENT
    assert text in details
    assert sessions(port) == 0


@both
async def test_bytes_that_are_no_request_end_the_stream(port: Port, channel: grpc.aio.Channel, protocol: str) -> None:
    port.cache.publish(served(*shop("a")))
    client = Client(channel, protocol)
    await client.call.write(b"\xff\xff\xff")
    assert (await client.end())[0] is grpc.StatusCode.INVALID_ARGUMENT


@both
async def test_fault_in_a_later_request_ends_the_stream_and_its_session(
    port: Port, channel: grpc.aio.Channel, protocol: str
) -> None:
    port.cache.publish(served(*shop("a")))
    client = Client(channel, protocol)
    await client.ask(CLUSTERS.url)
    await client.reply()
    assert sessions(port) == 1
    await client.ask("")
    assert (await client.end())[0] is grpc.StatusCode.INVALID_ARGUMENT
    await eventually(lambda: sessions(port) == 0)


@both
async def test_nothing_is_answered_before_a_snapshot(port: Port, channel: grpc.aio.Channel, protocol: str) -> None:
    client = Client(channel, protocol)
    await client.ask(CLUSTERS.url)
    assert await client.end() == (grpc.StatusCode.UNAVAILABLE, "no snapshot is loaded yet")
    assert sessions(port) == 0


@both
async def test_type_that_nobody_serves_is_met_with_silence(
    port: Port, channel: grpc.aio.Channel, protocol: str
) -> None:
    port.cache.publish(served(*shop("a")))
    client = Client(channel, protocol)
    await client.ask("type.googleapis.com/envoy.config.route.v3.ScopedRouteConfiguration")
    await client.ask(CLUSTERS.url)
    assert str(await client.reply()) == "clusters a"
    client.call.cancel()


@both
@pytest.mark.parametrize("asked", [False, True])
async def test_cancelled_stream_leaves_no_session(
    port: Port, channel: grpc.aio.Channel, protocol: str, asked: bool
) -> None:
    port.cache.publish(served(*shop("a")))
    client = Client(channel, protocol)
    await client.call.wait_for_connection()
    if asked:
        await client.ask(CLUSTERS.url)
        await client.reply()
    client.call.cancel()
    await eventually(lambda: sessions(port) == 0)
    assert port.left == (["edge-1"] if asked else [])


@both
async def test_half_closed_stream_ends_well_and_leaves_no_session(
    port: Port, channel: grpc.aio.Channel, protocol: str
) -> None:
    port.cache.publish(served(*shop("a")))
    client = Client(channel, protocol)
    await client.ask(CLUSTERS.url)
    await client.reply()
    await client.call.done_writing()
    assert (await client.end())[0] is grpc.StatusCode.OK
    await eventually(lambda: port.left == ["edge-1"])
    assert sessions(port) == 0


@both
async def test_connection_that_breaks_leaves_no_session(port: Port, protocol: str) -> None:
    port.cache.publish(served(*shop("a")))
    async with grpc.aio.insecure_channel(port.address) as broken:
        client = Client(broken, protocol)
        await client.ask(CLUSTERS.url)
        await client.reply()
        assert sessions(port) == 1
    await eventually(lambda: sessions(port) == 0)


@both
async def test_client_that_does_not_read_gets_the_newest_when_it_reads_again(
    port: Port, channel: grpc.aio.Channel, protocol: str
) -> None:
    def large(mark: int) -> tuple[Resource, ...]:
        return (*shop("a")[:3], route("main", "a", mark=f"{mark}-" + "x" * 2_000_000))  # the window is some megabytes

    port.cache.publish(served(*large(0)))
    slow, quick = Client(channel, protocol, "slow"), Client(channel, protocol, "quick")
    for client in (slow, quick):
        await client.ask(ROUTES.url, "main")
        await client.ack(await client.reply(), "main")
    for mark in range(1, 30):
        port.cache.publish(served(*large(mark)))
        newest = await quick.reply()
        await quick.ack(newest, "main")
    got = [await slow.reply()]
    while got[-1].versions != newest.versions:
        got.append(await slow.reply())
    assert len(got) < 10
    for client in (slow, quick):
        client.call.cancel()


@both
async def test_thousand_versions_between_two_looks_are_one_response(
    port: Port, channel: grpc.aio.Channel, protocol: str
) -> None:
    port.cache.publish(served(*shop("a")))
    client = Client(channel, protocol)
    await client.ask(ENDPOINTS.url, "a")
    await client.reply()
    for number in range(1000, 2000):
        port.cache.publish(served(assignment("a", number)))
    assert (await client.reply()).versions == {"a": assignment("a", 1999).version}
    client.call.cancel()


@both
@pytest.mark.parametrize("bad_request", [False, True])
async def test_client_that_goes_while_it_reads_nothing_leaves_no_session(
    port: Port, channel: grpc.aio.Channel, protocol: str, bad_request: bool
) -> None:
    port.cache.publish(served(*shop("a")[:3], route("main", "a", mark="x" * 20_000_000)))
    client = Client(channel, protocol)
    await client.ask(ROUTES.url, "main")
    await eventually(lambda: sessions(port) == 1)
    if bad_request:
        await client.ask("")
        await eventually(lambda: sessions(port) == 0)
    client.call.cancel()
    await eventually(lambda: sessions(port) == 0)


@both
async def test_bad_request_during_a_write_ends_the_stream_when_it_is_read(port: Port, protocol: str) -> None:
    port.cache.publish(served(*shop("a")[:3], route("main", "a", mark="x" * 20_000_000)))
    options = [("grpc.max_receive_message_length", 64 << 20)]
    async with grpc.aio.insecure_channel(port.address, options=options) as channel:
        client = Client(channel, protocol)
        await client.ask(ROUTES.url, "main")
        await client.ask("")
        await eventually(lambda: port.left == ["edge-1"])
        assert str(await client.reply()) == "routes main"
        assert (await client.end())[0] is grpc.StatusCode.INVALID_ARGUMENT


@both
async def test_several_hundred_streams_all_get_a_change(port: Port, channel: grpc.aio.Channel, protocol: str) -> None:
    port.cache.publish(served(*shop("a")))
    clients = [Client(channel, protocol, f"edge-{number}") for number in range(300)]

    async def follow(client: Client) -> None:
        await client.ask(ENDPOINTS.url, "a")
        await client.ack(await client.reply(), "a")

    async def changed(client: Client) -> Reply:
        reply = await client.reply()
        await client.ack(reply, "a")
        return reply

    await asyncio.gather(*map(follow, clients))
    await eventually(lambda: len(port.cache.connected()) == len(clients))
    port.cache.publish(served(assignment("a", 81)))
    replies = await asyncio.gather(*map(changed, clients))
    assert {reply.versions["a"] for reply in replies} == {assignment("a", 81).version}
    await eventually(lambda: not any(each.types[ENDPOINTS].waiting for each in port.cache.connected()))
    for client in clients:
        client.call.cancel()
    await eventually(lambda: sessions(port) == 0)


async def test_port_in_use_is_an_error_that_says_so(port: Port) -> None:
    with pytest.raises(XdsError, match=f"cannot listen for xDS on {port.address}: the port is in use"):
        await GrpcEdge(ControlPlane(Cache()), time.monotonic).start(port.address)


async def test_edge_that_never_started_stops() -> None:
    await GrpcEdge(ControlPlane(Cache()), time.monotonic).stop(0)


@both
async def test_stop_ends_streams_within_its_grace(protocol: str) -> None:
    running = Port()
    await running.start()
    running.cache.publish(served(*shop("a")))
    async with grpc.aio.insecure_channel(running.address) as channel:
        client = Client(channel, protocol)
        await client.ask(CLUSTERS.url)
        await client.reply()
        async with asyncio.timeout(LIMIT_S):
            await running.edge.stop(0.1)
        assert (await client.end())[0] is not grpc.StatusCode.OK
    await eventually(lambda: running.left == ["edge-1"])


def test_proxies_may_ping_as_often_as_they_like() -> None:
    """By default grpc answers an Envoy with keepalive by GOAWAY too_many_pings, after 44 s at one ping in 10 s."""
    options = dict(OPTIONS)
    assert options["grpc.http2.max_ping_strikes"] == 0
    assert options["grpc.keepalive_permit_without_calls"] == 1


def test_proxy_that_hangs_is_noticed_within_half_a_minute() -> None:
    options = dict(OPTIONS)
    limits_ms = {options["grpc.keepalive_timeout_ms"], options["grpc.http2.ping_timeout_ms"]}
    assert options["grpc.keepalive_time_ms"] + max(limits_ms) <= 30_000


def test_limits_of_messages_are_set_on_purpose() -> None:
    options = dict(OPTIONS)
    assert options["grpc.max_receive_message_length"] == 16 << 20
    assert options["grpc.max_send_message_length"] == 64 << 20
