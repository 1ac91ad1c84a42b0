"""A whole fleet comes back at once, right after its server was killed.

By hand: STORM_PROXIES=1000 STORM_SIZE=200x50 python -m pytest tests/xds/test_storm.py -s
"""

import asyncio
import functools
import os
import random
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from bench.http2 import Connection, message_frames
from bench.pipe import raise_file_limit
from bench.served import ROUTE, Size, resources
from tests.xds.client import PROTOCOLS, SERVICE, Reply, read
from tests.xds.port import eventually
from tests.xds.raw import PATHS
from xds import proto
from xds.resources import CLUSTERS, ENDPOINTS, LISTENERS, ROUTES, ResourceType

PROXIES = int(os.environ.get("STORM_PROXIES", "200"))
SIZE = Size(*map(int, os.environ.get("STORM_SIZE", "10x10").split("x")))
LIMIT_S = 60.0
ORDER = (CLUSTERS, ENDPOINTS, LISTENERS, ROUTES)  # in which a starting Envoy asks
REQUEST = {
    "sotw": (f"{SERVICE}.DiscoveryRequest", "resource_names"),
    "delta": (f"{SERVICE}.DeltaDiscoveryRequest", "resource_names_subscribe"),
}
FIRST_BACKOFF_S, LAST_BACKOFF_S = 0.5, 30.0  # Envoy's
STREAM_MIB = 0.25  # of memory at the peak, for each proxy; at rest it is a third


@dataclass(slots=True)
class Seen:
    """What the proxies went through."""

    refused: int = 0
    faults: Counter[str] = field(default_factory=Counter)


class Server:
    """A running server process."""

    def __init__(self, process: asyncio.subprocess.Process, port: int) -> None:
        self.process = process
        self.port = port

    def memory_mib(self, field_name: str) -> float:
        status = Path(f"/proc/{self.process.pid}/status").read_text().splitlines()
        return int(next(line.split()[1] for line in status if line.startswith(field_name))) / 1024

    def cpu_s(self) -> float:
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@asynccontextmanager
async def running(port: int = 0) -> AsyncIterator[Server]:
    """Run a server; in the end it is killed."""
    command = (sys.executable, "-m", "tests.xds.storm_server", str(port), str(SIZE))
    process = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
    try:
        assert process.stdout is not None
        async with asyncio.timeout(LIMIT_S):
            yield Server(process, int(await process.stdout.readline()))
    finally:
        process.kill()
        await process.wait()


class Proxy:
    """A client that asks for each type when it has the one before, ACKs, and comes back with Envoy's backoff."""

    def __init__(self, protocol: str, name: str, seen: Seen) -> None:
        self.up = asyncio.Event()
        self.held: dict[tuple[str, str], str] = {}
        self._protocol = protocol
        self._name = name
        self._seen = seen
        self._connection: Connection | None = None

    async def stay(self, port: int) -> None:
        """Stay connected until cancelled."""
        loop = asyncio.get_running_loop()
        backoff_s = FIRST_BACKOFF_S
        while True:
            await asyncio.sleep(random.uniform(0, backoff_s))
            try:
                transport, connection = await loop.create_connection(lambda: Connection(self._take), "127.0.0.1", port)
            except ConnectionError:
                continue
            self._connection, self.held = connection, {}
            try:
                connection.open(PATHS[self._protocol], message_frames(self._request(CLUSTERS, node=node(self._name))))
                why = await connection.ended
            finally:
                transport.abort()
            backoff_s = min(2 * backoff_s, LAST_BACKOFF_S) if not self.up.is_set() else FIRST_BACKOFF_S
            self.up.clear()
            if "streams a second" in why:
                self._seen.refused += 1
            elif not why.startswith("connection lost"):
                self._seen.faults[why] += 1

    def _request(self, type_: ResourceType, names: Iterable[str] = (), **fields: Any) -> bytes:
        kind, field_name = REQUEST[self._protocol]
        return proto.canonical(proto.message_class(kind)(type_url=type_.url, **{field_name: names}, **fields))

    def _take(self, body: bytes) -> None:
        reply = understood(self._protocol, body)
        first = not any(url == reply.type.url for url, _ in self.held)
        self.held |= {(reply.type.url, name): version for name, version in reply.versions.items()}
        answer = {"version_info": reply.version} if self._protocol == "sotw" else {}
        names = self._names(reply.type) if self._protocol == "sotw" else ()
        messages = [self._request(reply.type, names, response_nonce=reply.nonce, **answer)]
        if first and reply.type is not ORDER[-1]:
            following = ORDER[ORDER.index(reply.type) + 1]
            messages.append(self._request(following, self._names(following)))
        assert self._connection is not None
        self._connection.send(frame for message in messages for frame in message_frames(message))
        if reply.type is ORDER[-1]:
            self.up.set()

    def _names(self, type_: ResourceType) -> Iterable[str]:
        if type_ is ENDPOINTS:
            return [name for url, name in self.held if url == CLUSTERS.url]
        return [ROUTE] if type_ is ROUTES else ()


@functools.lru_cache(16)
def understood(protocol: str, body: bytes) -> Reply:
    return replace(read(protocol, body), messages={})


def node(name: str) -> Any:
    """Return a node as large as a real Envoy's."""
    extension = proto.message_class("envoy.config.core.v3.Extension")(name="x" * 57, category="y" * 50)
    return proto.message_class("envoy.config.core.v3.Node")(id=name, cluster="edge", extensions=[extension] * 530)


async def all_up(proxies: list[Proxy]) -> None:
    async with asyncio.timeout(LIMIT_S):
        for proxy in proxies:
            await proxy.up.wait()


@pytest.mark.parametrize("protocol", PROTOCOLS)
async def test_fleet_converges_after_a_kill_without_faults_and_in_bounded_memory(protocol: str) -> None:
    raise_file_limit()
    seen = Seen()
    proxies = [Proxy(protocol, f"proxy-{number:05}", seen) for number in range(PROXIES)]
    served = {(each.type.url, each.name): each.version for each in resources(SIZE)}
    async with asyncio.TaskGroup() as group:
        async with running() as first:
            lives = [group.create_task(proxy.stay(first.port)) for proxy in proxies]
            await all_up(proxies)
        await eventually(lambda: not any(proxy.up.is_set() for proxy in proxies))
        began_s = time.monotonic()
        async with running(first.port) as second:
            idle_mib, idle_cpu_s = second.memory_mib("VmRSS"), second.cpu_s()
            started_s = time.monotonic()
            await all_up(proxies)
            took_s = time.monotonic() - started_s
            grown_mib = second.memory_mib("VmHWM") - idle_mib
            cpu_ms = (second.cpu_s() - idle_cpu_s) / PROXIES * 1000
            assert all(proxy.held == served for proxy in proxies)
            for life in lives:
                life.cancel()
    sys.stdout.write(
        f"\n{protocol}, {SIZE}, {PROXIES} proxies: all are back {took_s:.1f} s after the server listens (started "
        f"{started_s - began_s:.1f} s after the kill), {cpu_ms:.2f} ms of its CPU each, peak memory "
        f"{idle_mib:.0f} + {grown_mib:.0f} MiB, {seen.refused} refusals by admission, faults: {dict(seen.faults)}\n"
    )
    assert not seen.faults
    assert grown_mib < 40 + STREAM_MIB * PROXIES
