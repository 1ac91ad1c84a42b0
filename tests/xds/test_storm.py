"""A whole fleet comes back at once, right after its server was killed.

By hand: STORM_PROXIES=1000 STORM_SIZE=200x50 python -m pytest tests/xds/test_storm.py -s
"""

import asyncio
import os
import random
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from bench.http2 import Connection, message_frames
from bench.pipe import raise_file_limit
from bench.proxies import PATHS, Fleet, Proxy, node, request
from bench.served import Size, digest, digest_of, resources
from tests.xds.client import PROTOCOLS
from tests.xds.port import eventually
from xds.resources import CLUSTERS

PROXIES = int(os.environ.get("STORM_PROXIES", "200"))
SIZE = Size(*map(int, os.environ.get("STORM_SIZE", "10x10").split("x")))
LIMIT_S = 120.0
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


async def stay(proxy: Proxy, fleet: Fleet, name: str, seen: Seen) -> None:
    """Stay connected as an Envoy does, until cancelled."""
    loop = asyncio.get_running_loop()
    backoff_s = FIRST_BACKOFF_S
    while True:
        proxy.held, proxy._held_back = {}, ()
        try:
            transport, proxy.connection = await loop.create_connection(
                lambda: Connection(proxy._take), "127.0.0.1", fleet.port
            )
        except ConnectionError:
            await asyncio.sleep(random.uniform(0, FIRST_BACKOFF_S))
            continue
        first = request(fleet.protocol, type_url=CLUSTERS.url) + node(fleet.protocol, name)
        try:
            proxy.connection.open(PATHS[fleet.protocol], message_frames(first))
            why = await proxy.connection.ended
        finally:
            transport.abort()
        if "streams a second" in why:
            seen.refused += 1
            backoff_s = min(2 * backoff_s, LAST_BACKOFF_S)
        elif not why.startswith("connection lost"):
            seen.faults[why] += 1
        if proxy.brought_up.is_set():
            proxy.brought_up.clear()
            backoff_s = FIRST_BACKOFF_S
        await asyncio.sleep(random.uniform(0, backoff_s))


async def all_up(proxies: list[Proxy]) -> None:
    async with asyncio.timeout(LIMIT_S):
        for proxy in proxies:
            await proxy.brought_up.wait()


@pytest.mark.parametrize("protocol", PROTOCOLS)
async def test_fleet_converges_after_a_kill_without_faults_and_in_bounded_memory(protocol: str) -> None:
    raise_file_limit()
    fleet, seen = Fleet(protocol), Seen()
    proxies = [Proxy(fleet, f"proxy-{number:05}") for number in range(PROXIES)]
    served = digest_of({(each.type.url, each.name): digest(each.body) for each in resources(SIZE)})
    async with asyncio.TaskGroup() as group:
        async with running() as first:
            fleet.port = first.port
            lives = [group.create_task(stay(proxy, fleet, proxy._name, seen)) for proxy in proxies]
            await all_up(proxies)
        await eventually(lambda: not any(proxy.brought_up.is_set() for proxy in proxies))
        began_s = time.monotonic()
        async with running(first.port) as second:
            idle_mib, idle_cpu_s = second.memory_mib("VmRSS"), second.cpu_s()
            started_s = time.monotonic()
            await all_up(proxies)
            took_s = time.monotonic() - started_s
            grown_mib = second.memory_mib("VmHWM") - idle_mib
            cpu_ms = (second.cpu_s() - idle_cpu_s) / PROXIES * 1000
            assert {proxy.digest() for proxy in proxies} == {served}
            for life in lives:
                life.cancel()
    sys.stdout.write(
        f"\n{protocol}, {SIZE}, {PROXIES} proxies: all are back {took_s:.1f} s after the server listens (started "
        f"{started_s - began_s:.1f} s after the kill), {cpu_ms:.2f} ms of its CPU each, peak memory "
        f"{idle_mib:.0f} + {grown_mib:.0f} MiB, {seen.refused} refusals by admission, faults: {dict(seen.faults)}\n"
    )
    assert not seen.faults
    assert grown_mib < 40 + STREAM_MIB * PROXIES
