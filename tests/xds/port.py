"""A running xDS port, and clients of it that use grpc's own channel."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

import grpc
import grpc.aio

from tests.xds.client import Reply, Wire, read
from xds.cache import Cache
from xds.edge.grpcio import METHODS, SERVICE, GrpcEdge
from xds.limits import Limits
from xds.session import ControlPlane, Events

METHOD = {protocol: f"/{SERVICE}/{name}" for name, protocol in METHODS.items()}
LIMIT_S = 20.0


class Port:
    """A running edge and its cache; `left` are the nodes that were connected, and are not any more."""

    def __init__(self, limits: Limits | None = None) -> None:
        self.cache = Cache()
        self.left: list[str] = []
        self.plane = ControlPlane(
            self.cache, Events(left=lambda status: self.left.append(status.node.id)), limits=limits or Limits()
        )
        self.edge = GrpcEdge(self.plane, time.monotonic)
        self.address = ""

    async def start(self) -> None:
        self.address = f"127.0.0.1:{await self.edge.start('127.0.0.1:0')}"

    @property
    def sessions(self) -> int:
        return len(self.cache.members())

    @property
    def streams(self) -> int:
        return self.plane.admission.streams


@contextlib.asynccontextmanager
async def serving(limits: Limits | None = None) -> AsyncIterator[Port]:
    """Run a port, and stop it at once in the end."""
    running = Port(limits)
    await running.start()
    try:
        yield running
    finally:
        async with asyncio.timeout(LIMIT_S):
            await running.edge.stop(0)


class Client:
    """One ADS stream; it encodes with the Wire of the unit tests, and reads with protobuf."""

    def __init__(self, channel: grpc.aio.Channel, protocol: str, node_id: str = "edge-1", method: str = "") -> None:
        self.wire = Wire(Cache(), protocol, node_id)
        self.protocol = protocol
        self.call = channel.stream_stream(method or METHOD[protocol])()

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


async def eventually(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(LIMIT_S):
        while not condition():  # noqa: ASYNC110 - what is waited for says nothing by itself
            await asyncio.sleep(0.01)
