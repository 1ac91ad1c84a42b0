"""The xDS port over real sockets, with grpc's own client."""

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Any

import grpc
import grpc.aio
import pytest

from tests.xds.client import PROTOCOLS, Reply, assignment, cluster, route, served, shop
from tests.xds.port import LIMIT_S, Client, Port, eventually, serving
from xds.cache import Cache
from xds.edge.gathering import WINDOW_S, Gathering
from xds.edge.grpcio import OPTIONS, PACE_S, TYPED, GrpcEdge
from xds.errors import XdsError
from xds.resources import CLUSTERS, ENDPOINTS, LISTENERS, ROUTES, VIRTUAL_HOSTS, Resource
from xds.session import ControlPlane

both = pytest.mark.parametrize("protocol", PROTOCOLS)


@pytest.fixture
async def port() -> AsyncIterator[Port]:
    async with serving() as running:
        yield running


@pytest.fixture
async def channel(port: Port) -> AsyncIterator[grpc.aio.Channel]:
    async with grpc.aio.insecure_channel(port.address) as opened:
        yield opened


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
    assert port.sessions == 0


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
    assert port.sessions == 1
    await client.ask("")
    assert (await client.end())[0] is grpc.StatusCode.INVALID_ARGUMENT
    await eventually(lambda: port.sessions == 0)


@both
async def test_nothing_is_answered_before_a_snapshot(port: Port, channel: grpc.aio.Channel, protocol: str) -> None:
    client = Client(channel, protocol)
    await client.ask(CLUSTERS.url)
    assert await client.end() == (grpc.StatusCode.UNAVAILABLE, "no snapshot is loaded yet")
    assert port.sessions == 0


@both
async def test_type_that_nobody_serves_is_met_with_silence(
    port: Port, channel: grpc.aio.Channel, protocol: str
) -> None:
    port.cache.publish(served(*shop("a")))
    client = Client(channel, protocol)
    await client.ask("type.googleapis.com/envoy.config.none.v3.Nothing")
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
    await eventually(lambda: port.sessions == 0)
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
    assert port.sessions == 0


@both
async def test_connection_that_breaks_leaves_no_session(port: Port, protocol: str) -> None:
    port.cache.publish(served(*shop("a")))
    async with grpc.aio.insecure_channel(port.address) as broken:
        client = Client(broken, protocol)
        await client.ask(CLUSTERS.url)
        await client.reply()
        assert port.sessions == 1
    await eventually(lambda: port.sessions == 0)


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
    await eventually(lambda: port.sessions == 1)
    if bad_request:
        await client.ask("")
        await eventually(lambda: port.sessions == 0)
    client.call.cancel()
    await eventually(lambda: port.sessions == 0)


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
async def test_several_hundred_streams_all_get_a_change(port: Port, protocol: str) -> None:
    port.cache.publish(served(*shop("a")))
    own = [("grpc.use_local_subchannel_pool", 1)]  # a connection for each channel
    channels = [grpc.aio.insecure_channel(port.address, options=own) for _ in range(3)]
    clients = [Client(channels[number % 3], protocol, f"edge-{number}") for number in range(300)]

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
    for channel in channels:
        await channel.close()
    await eventually(lambda: port.sessions == 0)


async def test_port_in_use_is_an_error_that_says_so(port: Port) -> None:
    with pytest.raises(XdsError, match=f"cannot listen for xDS on {port.address}: the port is in use"):
        await GrpcEdge(ControlPlane(Cache()), time.monotonic).start(port.address)


async def test_edge_that_never_started_stops() -> None:
    await GrpcEdge(ControlPlane(Cache()), time.monotonic).stop(0)


@both
async def test_stop_ends_streams_with_a_status_that_has_them_come_back(protocol: str) -> None:
    running = Port()
    await running.start()
    running.cache.publish(served(*shop("a")))
    async with grpc.aio.insecure_channel(running.address) as channel:
        clients = [Client(channel, protocol, f"edge-{number}") for number in range(20)]
        for client in clients:
            await client.ask(CLUSTERS.url)
            await client.reply()
        began_s = time.monotonic()
        stopping = asyncio.create_task(running.edge.stop(LIMIT_S))
        ends = await asyncio.gather(*(client.end() for client in clients))
        assert set(ends) == {(grpc.StatusCode.UNAVAILABLE, "the server is stopping; connect again")}
        assert time.monotonic() - began_s >= 19 * PACE_S, "they all ended at once"
    await stopping
    assert time.monotonic() - began_s < LIMIT_S / 2, "it waited although all streams had ended"
    assert len(running.left) == len(clients)


async def test_server_without_clients_stops_at_once() -> None:
    running = Port()
    await running.start()
    async with asyncio.timeout(LIMIT_S):
        await running.edge.stop(10 * LIMIT_S)


@both
@pytest.mark.parametrize("service", TYPED)
async def test_service_of_one_type_needs_no_type_url_and_takes_no_other_type(
    port: Port, channel: grpc.aio.Channel, service: str, protocol: str
) -> None:
    word, type_ = TYPED[service]
    if (protocol, type_) == ("sotw", VIRTUAL_HOSTS):
        return  # VHDS is delta only
    port.cache.publish(served(*shop("a")))
    method = f"/{service}/{'Stream' if protocol == 'sotw' else 'Delta'}{word}"
    named = {ENDPOINTS: "a", ROUTES: "main"}
    if type_ in (CLUSTERS, ENDPOINTS, LISTENERS, ROUTES):
        client = Client(channel, protocol, method=method)
        await client.ask("", *filter(None, [named.get(type_)]))
        assert (await client.reply()).type is type_
        client.call.cancel()
    client = Client(channel, protocol, method=method)
    await client.ask((CLUSTERS if type_ is not CLUSTERS else ENDPOINTS).url)
    assert (await client.end())[0] is grpc.StatusCode.INVALID_ARGUMENT


async def test_lone_change_goes_out_at_once_and_those_behind_it_together() -> None:
    acts: list[float] = []
    loop = asyncio.get_running_loop()
    gathering = Gathering(loop, lambda: acts.append(loop.time()))
    for _ in range(100):
        gathering.changed()
    assert len(acts) == 1
    await eventually(lambda: len(acts) == 2)
    assert acts[1] - acts[0] >= WINDOW_S * 0.9
    await eventually(lambda: loop.time() - acts[1] > 2 * WINDOW_S)
    gathering.changed()
    assert len(acts) == 3
    gathering.cancel()


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
