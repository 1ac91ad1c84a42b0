"""A TCP service for tests: backends that answer with their version, and clients that note what becomes of it."""

import asyncio
import contextlib
import itertools
from collections import Counter
from collections.abc import AsyncIterator, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Self

from rollout.demo.load import Target

ANSWER_S = 20.0


@dataclass
class Echo:
    """A backend: it answers each line with its version, for as long as the client likes."""

    version: str
    address: str = ""
    _server: asyncio.Server | None = None
    _writers: set[asyncio.StreamWriter] = field(default_factory=set)

    async def start(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        host, port = self._server.sockets[0].getsockname()
        self.address = f"{host}:{port}"
        return self

    def refuse(self) -> None:
        """Take no new connections; those that are open go on."""
        if self._server is not None:
            self._server.close()

    def kill(self) -> None:
        self.refuse()
        for writer in tuple(self._writers):
            writer.transport.abort()

    async def end(self) -> None:
        """Kill it, and wait until nothing of it is left."""
        self.kill()
        for writer in tuple(self._writers):
            with contextlib.suppress(ConnectionError):
                await writer.wait_closed()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.add(writer)
        with contextlib.suppress(ConnectionError):
            while await reader.readline():
                writer.write(f"{self.version}\n".encode())
                await writer.drain()
        self._writers.discard(writer)
        writer.close()


@dataclass
class Held:
    """A connection through an Envoy that is kept open."""

    version: str
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    async def answers(self) -> bool:
        """Whether it still leads to where it did."""
        with contextlib.suppress(ConnectionError, TimeoutError):
            return await said(self.reader, self.writer) == self.version
        return False

    def close(self) -> None:
        self.writer.transport.abort()


async def said(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> str:
    async with asyncio.timeout(ANSWER_S):
        writer.write(b"who\n")
        return (await reader.readline()).decode().strip()


async def hold(targets: Iterable[Target], each: int) -> list[Held]:
    """Open so many connections through each Envoy."""
    held = []
    for target in [target for target in targets for _ in range(each)]:
        reader, writer = await asyncio.open_connection(target.host, target.port)
        held.append(Held(await said(reader, writer), reader, writer))
    return held


@contextlib.asynccontextmanager
async def connecting(targets: Iterable[Target], rate_per_s: float = 100) -> AsyncIterator[Counter[str]]:
    """Connect at this rate all the time, and yield how many were answered by which version; "" by none."""
    seen: Counter[str] = Counter()

    async def connect(target: Target) -> None:
        version = ""
        with contextlib.suppress(ConnectionError, TimeoutError):
            reader, writer = await asyncio.open_connection(target.host, target.port)
            try:
                version = await said(reader, writer)
            finally:
                writer.transport.abort()
        seen[version] += 1

    async def connect_all() -> None:
        async with asyncio.TaskGroup() as group:
            for target in itertools.cycle(targets):
                group.create_task(connect(target))
                await asyncio.sleep(1 / rate_per_s)

    task = asyncio.create_task(connect_all())
    try:
        yield seen
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


def configuration(addresses: Iterable[str], **cluster: Any) -> Mapping[str, Any]:
    """Return a TCP proxy in front of a service `checkout` on these backends."""
    source = {"ads": {}, "resource_api_version": "V3"}
    proxy = {
        "@type": "type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy",
        "stat_prefix": "tcp",
        "cluster": "checkout",
    }
    sockets = [address.rpartition(":") for address in addresses]
    return {
        "listeners": [
            {
                "name": "edge",
                "address": {"socket_address": {"address": "127.0.0.1", "port_value": 0}},
                "filter_chains": [{"filters": [{"name": "tcp", "typed_config": proxy}]}],
            }
        ],
        "clusters": [
            {
                "name": "checkout",
                "type": "EDS",
                "connect_timeout": "1s",
                "eds_cluster_config": {"eds_config": source},
                **cluster,
            }
        ],
        "endpoints": [
            {
                "cluster_name": "checkout",
                "endpoints": [
                    {
                        "lb_endpoints": [
                            {"endpoint": {"address": {"socket_address": {"address": host, "port_value": int(port)}}}}
                            for host, _, port in sockets
                        ]
                    }
                ],
            }
        ],
    }
