"""What no client should say, over the wire: it ends its own stream at most, and other clients hear nothing of it."""

import asyncio
import gc
import logging
import random
import sys
import zlib
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager

import grpc
import grpc.aio
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.http2 import END_HEADERS, FRAME_LIMIT, PREFACE, SETTINGS, frame
from tests.xds.client import PROTOCOLS, assignment, served, shop
from tests.xds.hostile import BAD_NODES, MIB, NAMES, first, many, numbered, request, requests
from tests.xds.port import LIMIT_S, METHOD, Client, Port, eventually, serving
from tests.xds.raw import DATA, HEADERS, PATHS, PING, RST_STREAM, Frame, Raw
from tests.xds.test_edge_limits import memory_mib
from xds.edge.call import STATUS_CHARACTERS
from xds.limits import Limits, Rate
from xds.resources import CLUSTERS, ENDPOINTS
from xds.session import Session
from xds.snapshot import Snapshot
from xds.wire import bytes_field, text_field, varint

both = pytest.mark.parametrize("protocol", PROTOCOLS)
WIDE = Limits(new_streams=Rate(per_s=100_000, burst=100_000), requests=Rate(per_s=100_000, burst=100_000))
KEPT = 4  # sessions: grpc holds on to the exceptions of the last calls that it aborted, and so to these
PUSH_S = 10.0  # in which a push reaches those who are not to blame
ENDS = {
    grpc.StatusCode.OK,
    grpc.StatusCode.INVALID_ARGUMENT,
    grpc.StatusCode.RESOURCE_EXHAUSTED,
    grpc.StatusCode.PERMISSION_DENIED,
}
CUT_OFF = "Internal error from Core"  # what grpc's client calls it when a stream ends while it writes
POLLED_TWICE = "PollerCompletionQueue._handle_events"  # grpc.aio's loops share one queue: another one was faster
GREETING = frame(SETTINGS, 0, 0, b"")
CANCELLED = (8).to_bytes(4, "big")
OPENING = {
    ":method": "POST",
    ":scheme": "http",
    ":path": PATHS["sotw"],
    ":authority": "xds",
    "te": "trailers",
    "content-type": "application/grpc",
}


class Neighbour:
    """A client that does all right, and takes down all that it hears."""

    def __init__(self, channel: grpc.aio.Channel, protocol: str) -> None:
        self._client = Client(channel, protocol, f"neighbour-{protocol}")

    async def settle(self) -> None:
        for type_, names in ((CLUSTERS, ()), (ENDPOINTS, ("a",))):
            await self._client.ask(type_.url, *names)
            await self._client.ack(await self._client.reply(), *names)

    async def hears(self, port: int) -> None:
        """Hear of one push, in time, and of nothing before it."""
        async with asyncio.timeout(PUSH_S):
            reply = await self._client.reply()
        assert reply.versions == {"a": assignment("a", port).version}
        await self._client.ack(reply, "a")

    def leave(self) -> None:
        self._client.call.cancel()


def world(port: int) -> Snapshot:
    return served(*shop("a")[:1], assignment("a", port), *shop("a")[2:])


class Storm:
    """A port under fire, and its neighbours, who must not notice."""

    def __init__(self, port: Port, neighbours: tuple[Neighbour, ...]) -> None:
        self.port = port
        self._neighbours = neighbours
        self._pushes = 80

    async def push(self) -> None:
        """Check that a push reaches the neighbours."""
        self._pushes += 1
        self.port.cache.publish(world(self._pushes))
        await asyncio.gather(*(each.hears(self._pushes) for each in self._neighbours))

    async def is_over(self) -> None:
        """Check that a push reaches the neighbours, and that they alone are left."""
        await self.push()
        await eventually(lambda: self.port.streams == self.port.sessions == len(self._neighbours))
        await eventually(lambda: len(self._sessions()) <= len(self._neighbours) + KEPT)

    def _sessions(self) -> list[object]:
        gc.collect()
        return [each for each in gc.get_objects() if type(each) is Session and each._plane is self.port.plane]


@asynccontextmanager
async def storm(caplog: pytest.LogCaptureFixture, limits: Limits = WIDE) -> AsyncIterator[Storm]:
    async with serving(limits) as port, grpc.aio.insecure_channel(port.address) as channel:
        port.cache.publish(world(80))
        neighbours = tuple(Neighbour(channel, protocol) for protocol in PROTOCOLS)
        for each in neighbours:
            await each.settle()
        found = Storm(port, neighbours)
        await found.is_over()
        yield found
        await found.is_over()
        for each in neighbours:
            each.leave()
    errors = [record.getMessage() for record in caplog.records if record.levelno >= logging.ERROR]
    assert [each for each in errors if POLLED_TWICE not in each] == []


async def end_of(channel: grpc.aio.Channel, protocol: str, *messages: bytes) -> tuple[grpc.StatusCode, str]:
    """Say all this on one stream and hear all that comes; return how it ended."""
    call = channel.stream_stream(METHOD[protocol])()
    async with asyncio.timeout(LIMIT_S):
        try:
            for each in messages:
                await call.write(each)
            await call.done_writing()
            while await call.read() is not grpc.aio.EOF:
                pass
        except (grpc.aio.AioRpcError, asyncio.InvalidStateError):
            pass  # it has ended
        return await call.code(), await call.details()


def too_much(protocol: str) -> Iterator[tuple[grpc.StatusCode, str, tuple[bytes, ...]]]:
    """Yield what is beyond a limit, with how it ends."""
    invalid, exhausted = grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.RESOURCE_EXHAUSTED
    named, eds = first(protocol), request(protocol, type=ENDPOINTS.url)
    other = "delta" if protocol == "sotw" else "sotw"
    yield exhausted, "larger than max", (b"\0" * (16 * MIB + 1),)
    yield exhausted, "larger than max", (named, eds + bytes_field(15, b"\0" * 17 * MIB))
    yield exhausted, "names 100001 resources", (named, eds + many(protocol, NAMES, numbered(100_001)))
    yield exhausted, "characters; at most 1024", (named, request(protocol, type=ENDPOINTS.url, names="x" * 8 * MIB))
    yield invalid, "no discovery request", (named, request(protocol, type=b"\xff\xfe"))
    yield invalid, "no discovery request", (named, named[:-1])
    yield invalid, "no discovery request", (b"\xff" * 1_000,)
    yield invalid, "type_url is empty", (named, b"")
    yield invalid, "node.id is empty", (eds,)
    yield invalid, "", (first(other),)
    for text, node in BAD_NODES.items():
        yield invalid, text if "[" not in text and "." not in text else "", (first(protocol, node),)


@both
async def test_what_is_too_much_ends_its_own_stream_only(protocol: str, caplog: pytest.LogCaptureFixture) -> None:
    async with storm(caplog) as under, grpc.aio.insecure_channel(under.port.address, options=UNLIMITED) as channel:
        for code, text, messages in too_much(protocol):
            ended = await end_of(channel, protocol, *messages)
            assert (ended[0], text in ended[1]) == (code, True), ended
            assert len(ended[1]) <= STATUS_CHARACTERS


UNLIMITED = (("grpc.max_send_message_length", -1), ("grpc.use_local_subchannel_pool", 1))


@both
async def test_unknown_and_huge_values_that_mean_nothing_are_met_with_silence(
    protocol: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with storm(caplog) as under, grpc.aio.insecure_channel(under.port.address, options=UNLIMITED) as channel:
        fault = b"\x08" + varint(2**64 - 1) + text_field(2, "x" * MIB)
        said_so = (
            request(protocol, type="x" * 8 * MIB, names="a"),
            request(protocol, type="type.googleapis.com/\0"),
            request(protocol, type=ENDPOINTS.url, nonce="x" * 8 * MIB, fault=fault),
            request(protocol, type=ENDPOINTS.url, names="a\0b", nonce="18446744073709551616"),
            request(protocol, type=ENDPOINTS.url) + many(protocol, NAMES, iter([b"b"] * 100_000)),
        )
        assert await end_of(channel, protocol, first(protocol), *said_so) == (grpc.StatusCode.OK, "")


def test_any_requests_over_grpc_end_their_own_stream_only(caplog: pytest.LogCaptureFixture) -> None:
    with asyncio.Runner() as runner:
        under = storm(caplog)
        found = runner.run(under.__aenter__())
        channel = runner.run(channel_to(found.port.address))

        @settings(max_examples=100)
        @given(st.sampled_from(PROTOCOLS), st.data())
        def say(protocol: str, data: st.DataObject) -> None:
            messages = data.draw(st.lists(requests(protocol) | st.binary(max_size=50), max_size=4))
            opening = data.draw(st.sampled_from([[], [first(protocol)]]))
            code, text = runner.run(end_of(channel, protocol, *opening, *messages))
            assert code in ENDS or text == CUT_OFF, (code, text)

        try:
            say()
        finally:
            runner.run(channel.close())
            runner.run(under.__aexit__(None, None, None))


async def channel_to(address: str) -> grpc.aio.Channel:
    return grpc.aio.insecure_channel(address, options=UNLIMITED)


# Below gRPC


def opening(stream: int, **changed: str) -> bytes:
    """Encode the headers of a stream; `_` in a name stands for what Python has not in names."""
    headers = {**OPENING, **{name.replace("__", ":").replace("_", "-"): value for name, value in changed.items()}}
    literals = (
        bytes((0, len(name))) + name.encode() + bytes((len(text),)) + text.encode() for name, text in headers.items()
    )
    return frame(HEADERS, END_HEADERS, stream, b"".join(literals))


async def greeted(port: Port) -> Raw:
    raw = await Raw.connect(port.address)
    raw.greet()
    return raw


def data(stream: int, message: bytes, *, flag: int = 0) -> bytes:
    framed = bytes((flag,)) + len(message).to_bytes(4, "big") + message
    chunks = (framed[start : start + FRAME_LIMIT] for start in range(0, len(framed), FRAME_LIMIT))
    return b"".join(frame(DATA, 0, stream, each) for each in chunks)


async def ends(raw: Raw) -> Frame:
    """Read on until the stream is refused, or the connection is closed."""
    while (found := await raw.polite()).kind not in (HEADERS, RST_STREAM, None):
        pass
    return found


def bomb() -> bytes:
    """Return 50 KB that are 50 MB when they are unpacked."""
    packer = zlib.compressobj(9, zlib.DEFLATED, 31)
    return b"".join(packer.compress(b"\0" * MIB) for _ in range(50)) + packer.flush()


WRONG = {
    "no method of ours": (opening(1, __path="/envoy.service.discovery.v3.None/Stream") + data(1, b""), b"\x0212"),
    "no path": (opening(1, __path="") + data(1, b""), b""),
    "no POST": (opening(1, __method="GET") + data(1, b""), b""),
    "compressed without saying how": (opening(1) + data(1, first("sotw"), flag=1), b"no encoding"),
    "compressed as nobody can": (opening(1, grpc_encoding="none-such") + data(1, b"", flag=1), b"grpc-encoding"),
    "compressed, but not": (opening(1, grpc_encoding="gzip") + data(1, first("sotw"), flag=1), b"Decompression failed"),
    "a bomb": (opening(1, grpc_encoding="gzip") + data(1, bomb(), flag=1), b"Decompressed message larger than max"),
}


IGNORED = (  # some of it is even served
    opening(1, content_type="text/plain") + data(1, first("sotw")),
    opening(1) + data(1, first("sotw"), flag=0xFE),
    data(1, first("sotw")),
    opening(2),
)


async def test_wrong_http_and_wrong_encodings_are_refused(caplog: pytest.LogCaptureFixture) -> None:
    async with storm(caplog) as under:
        for what, (raw_bytes, text) in WRONG.items():
            raw = await greeted(under.port)
            raw._writer.write(raw_bytes)
            assert text in (await ends(raw)).payload, what
            await raw.close()
        for raw_bytes in IGNORED:
            raw = await greeted(under.port)
            raw._writer.write(raw_bytes)
            await raw.frame()
            await raw.close()


async def test_garbage_frames_end_their_own_connection_only(caplog: pytest.LogCaptureFixture) -> None:
    chance = random.Random(3)
    async with storm(caplog) as under:
        for number in range(200):
            raw = await greeted(under.port)
            if number % 2:
                raw._writer.write(opening(1) + data(1, first("sotw")))
            if number % 20 == 0:
                raw._writer.write(chance.randbytes(2_000))
            for _ in range(20):
                kind, flags = chance.randrange(12), chance.randrange(256)
                stream = chance.choice([0, 1, 1, 2, 3, 2**31 - 1])
                raw._writer.write(frame(kind, flags, stream, chance.randbytes(chance.choice([0, 4, 8, 30]))))
            if number % 20 == 0:
                await under.push()
            await raw.close()


async def resets(port: Port, message: bytes) -> None:
    """Open 500 streams on one connection, and reset each at once, after this message if there is one."""
    raw = await greeted(port)
    for stream in range(1, 1_001, 2):
        said_first = data(stream, message) if message else b""
        raw._writer.write(opening(stream) + said_first + frame(RST_STREAM, 0, stream, CANCELLED))
    raw._writer.write(frame(PING, 0, 0, b"all read"))
    while (found := await raw.polite()).kind is not None and found.payload != b"all read":
        pass
    await raw.close()


@pytest.mark.parametrize("says", [False, True])
async def test_thousands_of_resets_leave_nothing(caplog: pytest.LogCaptureFixture, *, says: bool) -> None:
    async with storm(caplog) as under:
        for _ in range(10):
            await resets(under.port, first("sotw") if says else b"")
            await under.push()


async def test_half_open_connections_hold_nobody_up(caplog: pytest.LogCaptureFixture) -> None:
    begun = opening(1) + data(1, first("sotw"))
    left_open = (
        b"",
        PREFACE[:10],
        PREFACE,
        PREFACE + GREETING,
        PREFACE + GREETING + begun[:30],
        PREFACE + GREETING + begun[:-5],
    )
    async with storm(caplog) as under:
        raws = []
        for number in range(120):
            raw = await Raw.connect(under.port.address)
            raw._writer.write(left_open[number % len(left_open)])
            raws.append(raw)
        for raw in raws:
            await raw.close()


async def test_memory_returns_after_a_storm(caplog: pytest.LogCaptureFixture) -> None:
    async with storm(caplog) as under, grpc.aio.insecure_channel(under.port.address, options=UNLIMITED) as channel:

        async def rage() -> float:
            for protocol in PROTOCOLS:
                for _, _, messages in too_much(protocol):
                    await end_of(channel, protocol, *messages)
            for _ in range(4):
                await resets(under.port, first("sotw"))
            await under.is_over()
            return memory_mib()

        reached = [await rage() for _ in range(6)]
        sys.stdout.write(f"\nMiB after each storm: {[round(each) for each in reached]}\n")
        assert reached[-1] - reached[2] < 50  # of one storm alone the messages are 70 MiB
