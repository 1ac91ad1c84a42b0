"""A session that is at the other end of a real gRPC stream, so that scenarios run over the wire as they stand."""

import asyncio
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import grpc
import grpc.aio

from tests.xds.client import Reply, Transport, read
from xds import proto
from xds.cache import Cache
from xds.edge.grpcio import METHODS, SERVICE, GrpcEdge
from xds.errors import InvalidRequest, NotReady
from xds.resources import VIRTUAL_HOSTS, resource
from xds.session import ControlPlane, Session

METHOD = {protocol: f"/{SERVICE}/{name}" for name, protocol in METHODS.items()}
ERRORS: Mapping[grpc.StatusCode, type[Exception]] = {
    grpc.StatusCode.INVALID_ARGUMENT: InvalidRequest,
    grpc.StatusCode.UNAVAILABLE: NotReady,
}
FENCE = VIRTUAL_HOSTS  # the last type: what is said of it is said after everything else that may be said now
FENCES = tuple(
    resource(FENCE, proto.parse(FENCE.message, {"name": f"fence/{number}", "domains": ["fence"]})) for number in (0, 1)
)
LIMIT_S = 20.0
OPTIONS = (("grpc.max_receive_message_length", -1),)


@dataclass(frozen=True, slots=True)
class Heard:
    """A response as it came over the wire."""

    body: bytes
    nonce: str
    names: tuple[str, ...]


class Ground:
    """The event loop that servers and clients of one test share; it runs only while a client sends or listens."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self.streams: list[GrpcSession] = []

    @property
    def transport(self) -> Transport:
        return Transport(self.open, FENCES)

    def open(self, cache: Cache, protocol: str, _wake: Callable[[], None]) -> Any:
        """Start a server with this cache, and one stream to it."""
        stream = GrpcSession(self, cache, protocol)
        self.streams.append(stream)
        return stream

    def run(self, work: Any) -> Any:
        async def limited() -> Any:
            async with asyncio.timeout(LIMIT_S):
                return await work

        return self.loop.run_until_complete(limited())

    def close(self) -> None:
        for stream in self.streams:
            self.run(stream.stop())
        if left := asyncio.all_tasks(self.loop):  # grpc's own, which end with the server
            self.run(asyncio.wait(left, timeout=LIMIT_S))
        self.loop.close()


class GrpcSession:
    """What a Wire needs of a session. It asks for a fence behind each request, so that silence is heard too."""

    def __init__(self, ground: Ground, cache: Cache, protocol: str) -> None:
        self._ground = ground
        self._cache = cache
        self._protocol = protocol
        self._now_s = 0.0
        self._heard: deque[Heard] = deque()
        self._fence_nonce = ""
        self._fences = 0
        self._session: Session | None = None
        ground.run(self._start())

    async def _start(self) -> None:
        self._edge = GrpcEdge(ControlPlane(self._cache), lambda: self._now_s)
        port = await self._edge.start("127.0.0.1:0")
        self._channel = grpc.aio.insecure_channel(f"127.0.0.1:{port}", options=OPTIONS)
        self._call = self._channel.stream_stream(METHOD[self._protocol])()

    async def stop(self) -> None:
        if not self._call.done():
            await self._call.done_writing()
            await self._call.code()
        await self._channel.close()
        await self._edge.stop(0)

    # what a Wire calls

    def receive(self, raw: bytes, now_s: float) -> None:
        """Send one request, and hear all that the server has to say then."""
        self._now_s = now_s
        before = self._cache.members()
        self._ground.run(self._exchange(raw))
        if self._session is None:
            (member,) = (each for each in self._cache.members() if each not in before)
            assert isinstance(member, Session)
            self._session = member

    def respond(self, now_s: float) -> Heard | None:
        """Return the next response that came, None when there is nothing that the server has to say."""
        self._now_s = now_s
        if not self._heard and self._session is not None and self._session.is_open:
            self._ground.run(self._exchange())
        return self._heard.popleft() if self._heard else None

    def close(self, now_s: float) -> None:
        """Break the stream, and wait until the server has noticed."""
        self._now_s = now_s
        self._call.cancel()
        if self._session is not None:
            self._ground.run(self._closed(self._session))

    def __getattr__(self, name: str) -> Any:
        """What a test looks up on the server's side."""
        assert self._session is not None, "nothing was sent yet"
        return getattr(self._session, name)

    # over the wire

    async def _closed(self, session: Session) -> None:
        while session.is_open:  # noqa: ASYNC110 - what is waited for says nothing by itself
            await asyncio.sleep(0.001)

    async def _exchange(self, *requests: bytes) -> None:
        """Write requests and a fence, and read until the answer to that."""
        try:
            for each in (*requests, self._ask_fence()):
                await self._call.write(each)
            while (reply := await self._read()).type is not FENCE:
                pass
        except (grpc.aio.AioRpcError, asyncio.InvalidStateError):
            code, details = await self._call.code(), await self._call.details()
            raise ERRORS[code](details) from None
        self._fence_nonce = reply.nonce

    async def _read(self) -> Reply:
        body = await self._call.read()
        reply = read(self._protocol, body)
        if reply.type is not FENCE:
            self._heard.append(Heard(body, reply.nonce, reply.names))
        return reply

    def _ask_fence(self) -> bytes:
        """Ask for the other one of two resources: in SotW that is answered with it, in delta a name asked again is."""
        name = FENCES[self._fences % len(FENCES)].name
        self._fences += 1
        field = "resource_names" if self._protocol == "sotw" else "resource_names_subscribe"
        kind = "DiscoveryRequest" if self._protocol == "sotw" else "DeltaDiscoveryRequest"
        words = {"type_url": FENCE.url, field: [name], "response_nonce": self._fence_nonce}
        return proto.canonical(proto.parse(f"envoy.service.discovery.v3.{kind}", words))
