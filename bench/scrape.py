"""What it costs to read the stats of a fleet once a second: CPU of the scraper's process, beside a plain client's.

python bench/scrape.py [--envoys 500] [--hanging 10] [--requests 3600]
                       [--seconds 5] [--warm-up 2] [--rounds 3] [--json | --profile]

A real Envoy with two loaded versions of three backends is asked first; simulated admin endpoints in another process
then answer the same, and count on. The plain client, the floor, is aiohttp: one GET of these stats as JSON, json.loads,
and nothing else. All cases take turns, so that a busy machine slows them down alike.
"""

import argparse
import asyncio
import cProfile
import json
import pstats
import random
import statistics
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import aiohttp
from aiohttp import web
from rich.console import Console
from rich.table import Table
from yarl import URL

from bench.pipe import Child, raise_file_limit
from rollout.demo.processes import Envoy
from rollout.gate.sample import Past, Quantile
from rollout.gate.settings import Errors
from rollout.metrics import EnvoyAdmin, FleetScraper, Query, Scrape, increments, stats_paths, tally
from rollout.metrics.admin import FLUSH_PATH
from rollout.metrics.connection import Connection
from rollout.metrics.fleet import SCRAPES_AT_ONCE

VERSIONS = ("checkout@v1", "checkout@v2")
BACKENDS = 3  # of each version
SENDERS = {"checkout@v1": 25, "checkout@v2": 5}
PAST = Past(
    slow_ms={Quantile.P75: 30.0, Quantile.P95: 50.0, Quantile.P99: 70.0, Quantile.P999: 99.0},
    late_ms={Quantile.P95: 63.0, Quantile.P99: 88.0},
)


@dataclass(frozen=True, slots=True)
class Recorded:
    """What a real Envoy answered, in both forms, and to which query."""

    query: Query
    text: str
    json: str


@dataclass(frozen=True, slots=True)
class Row:
    """A case: its share of one core, CPU time for each scrape, and how long the slowest Envoy was not read.

    That Envoy is the slowest of those which do not hang.
    """

    case: str
    envoys: int
    hanging: int
    cpu_share: float
    us_a_scrape: float
    ratio_to_floor: float
    longest_gap_s: float


@dataclass(slots=True)
class Measured:
    """CPU seconds by second and by scrape, in each round."""

    shares: list[float]
    scrapes_us: list[float]
    gaps_s: list[float]


# A real Envoy's answer


async def recorded(requests: int) -> Recorded:
    """Of two loaded versions: latencies of 20 ms in the middle and 64 ms at p99, errors now and then."""
    async with AsyncExitStack() as stack:
        ports = {name: [await stack.enter_async_context(_backend()) for _ in range(BACKENDS)] for name in VERSIONS}
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        envoy = await stack.enter_async_context(Envoy("edge", _bootstrap(ports), folder))
        await envoy.until_ready()
        url = f"http://{(await envoy.listeners())['ingress']}/"
        http = await stack.enter_async_context(aiohttp.ClientSession())
        async with asyncio.TaskGroup() as load:
            for name, senders in SENDERS.items():
                for _ in range(senders):
                    load.create_task(_send(http, url, name, requests // sum(SENDERS.values())))
        query = Query(VERSIONS, tuple(f"127.0.0.1:{port}" for each in ports.values() for port in each))
        connection = await Connection.open(envoy.admin_address)
        await connection.get(FLUSH_PATH)
        await asyncio.sleep(0.1)
        (path,) = stats_paths(query)
        text, as_json = await connection.get(path), await connection.get(f"{path}&format=json")
        connection.close()
        return Recorded(query, text.decode(), as_json.decode())


@asynccontextmanager
async def _backend() -> AsyncIterator[int]:
    async def answered(_request: web.Request) -> web.Response:
        await asyncio.sleep(random.lognormvariate(-3.9, 0.5))
        return web.Response(status=500 if random.random() < 0.002 else 200)

    app = web.Application()
    app.router.add_get("/", answered)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    yield runner.addresses[0][1]
    await runner.cleanup()


async def _send(http: aiohttp.ClientSession, url: str, name: str, requests: int) -> None:
    for _ in range(requests):
        async with http.get(url, headers={"x-to": name}) as response:
            await response.read()


def _bootstrap(ports: Mapping[str, Sequence[int]]) -> dict[str, Any]:
    filters = "type.googleapis.com/envoy.extensions.filters"
    routes = [
        {
            "match": {"prefix": "/", "headers": [{"name": "x-to", "string_match": {"exact": name}}]},
            "route": {"cluster": name},
        }
        for name in ports
    ]
    manager = {
        "@type": f"{filters}.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "ingress",
        "route_config": {"virtual_hosts": [{"name": "all", "domains": ["*"], "routes": routes}]},
        "http_filters": [{"name": "router", "typed_config": {"@type": f"{filters}.http.router.v3.Router"}}],
    }
    listener = {"name": "ingress", "address": _loopback(0)}
    chains = [{"filters": [{"name": "http", "typed_config": manager}]}]
    return {
        "node": {"id": "edge", "cluster": "edge"},
        "admin": {"address": _loopback(0)},
        "stats_flush_on_admin": True,
        "static_resources": {
            "listeners": [{**listener, "filter_chains": chains}],
            "clusters": [_cluster(name, each) for name, each in ports.items()],
        },
    }


def _cluster(name: str, ports: Sequence[int]) -> dict[str, Any]:
    endpoints = [{"endpoint": {"address": _loopback(port)}} for port in ports]
    return {
        "name": name,
        "type": "STATIC",
        "track_cluster_stats": {"per_endpoint_stats": True},
        "load_assignment": {"cluster_name": name, "endpoints": [{"lb_endpoints": endpoints}]},
    }


def _loopback(port: int) -> dict[str, Any]:
    return {"socket_address": {"address": "127.0.0.1", "port_value": port}}


# The cases


class Fleet:
    """What is read in a case, and how long each Envoy was not."""

    def __init__(self, ports: Sequence[int], recorded: Recorded) -> None:
        self.targets = {f"envoy-{number}": f"127.0.0.1:{port}" for number, port in enumerate(ports)}
        self.recorded = recorded
        self._heard_s: dict[str, float] = {}
        self.scrapes = 0
        self.gaps_s: dict[str, float] = {}

    def begin(self) -> None:
        """Forget what was seen until now."""
        self._heard_s = dict.fromkeys(self.targets, time.monotonic())
        self.gaps_s, self.scrapes = {}, 0

    def hear(self, node_id: str) -> None:
        now_s = time.monotonic()
        gap_s = now_s - self._heard_s.get(node_id, now_s)
        self.gaps_s[node_id] = max(gap_s, self.gaps_s.get(node_id, 0.0))
        self._heard_s[node_id] = now_s
        self.scrapes += 1


async def scraped(fleet: Fleet) -> None:
    """Read by our scraper."""
    await _scraper(fleet, fleet.hear).run()


async def counted(fleet: Fleet) -> None:
    """Read by our scraper, and counted between each two scrapes as a judge's tallies are."""
    bases: dict[str, Scrape] = {}

    def hear(node_id: str) -> None:
        fleet.hear(node_id)
        scrape, before = scraper.latest.get(node_id), bases.get(node_id)
        if scrape is None or scrape is before:
            return
        bases[node_id] = scrape
        if before is None:
            return
        for name in VERSIONS:
            counts = increments(before, scrape, name)
            assert counts is not None
            tally(counts, PAST, Errors.HTTP)

    scraper = _scraper(fleet, hear)
    await scraper.run()


def _scraper(fleet: Fleet, hear: Callable[[str], None]) -> FleetScraper:
    query = fleet.recorded.query
    return FleetScraper(EnvoyAdmin(time.monotonic), lambda: fleet.targets, lambda: lambda _: query, lambda: 1.0, hear)


async def plain(fleet: Fleet) -> None:
    """Read by a plain client: the floor."""
    (path,) = stats_paths(fleet.recorded.query)
    connector, at_once = aiohttp.TCPConnector(limit=0), asyncio.Semaphore(SCRAPES_AT_ONCE)
    async with aiohttp.ClientSession(connector=connector, timeout=aiohttp.ClientTimeout(total=10)) as http:

        async def get(node_id: str, address: str) -> None:
            async with at_once, http.get(URL(f"http://{address}{path}&format=json", encoded=True)) as response:
                json.loads(await response.read())
            fleet.hear(node_id)

        async with asyncio.TaskGroup() as group:
            while True:
                for node_id, address in fleet.targets.items():
                    group.create_task(get(node_id, address))
                await asyncio.sleep(1)


@dataclass(frozen=True, slots=True)
class Case:
    """How a fleet is read, and how many of it hang."""

    name: str
    read: Callable[[Fleet], Awaitable[None]]
    hanging: int = 0


async def measure(case: Case, fleet: Fleet, arguments: argparse.Namespace, into: Measured) -> None:
    """Let it run for so long, from when all connections are there."""
    task = asyncio.ensure_future(case.read(fleet))
    try:
        await asyncio.sleep(arguments.warm_up)
        fleet.begin()
        start_s, cpu_s = time.monotonic(), time.process_time()
        await asyncio.sleep(arguments.seconds)
        took_s, cpu_s = time.monotonic() - start_s, time.process_time() - cpu_s
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
    into.shares.append(cpu_s / took_s)
    into.scrapes_us.append(cpu_s / max(1, fleet.scrapes) * 1e6)
    answering = list(fleet.targets)[case.hanging :]
    into.gaps_s.append(max(fleet.gaps_s.get(node_id, arguments.seconds) for node_id in answering))


async def run(arguments: argparse.Namespace) -> list[Row]:
    raise_file_limit()
    found = await recorded(arguments.requests)
    cases = [
        Case("a plain client (the floor)", plain),
        Case("read", scraped),
        Case("read, some hang", scraped, arguments.hanging),
        Case("read and counted", counted),
    ]
    measured = {case.name: Measured([], [], []) for case in cases}
    async with Child("bench.admins") as child:
        told = await child.ask({"admins": arguments.envoys, "text": found.text, "json": found.json})
        for _ in range(arguments.rounds):
            for case in cases:
                await child.ask({"hang": case.hanging})
                await measure(case, Fleet(told["ports"], found), arguments, measured[case.name])
    floor = statistics.median(measured[cases[0].name].shares)
    return [_row(case, arguments.envoys, measured[case.name], floor) for case in cases]


def _row(case: Case, envoys: int, measured: Measured, floor: float) -> Row:
    share = statistics.median(measured.shares)
    return Row(
        case.name,
        envoys,
        case.hanging,
        round(share, 4),
        round(statistics.median(measured.scrapes_us), 1),
        round(share / floor, 2),
        round(max(measured.gaps_s), 2),
    )


def table(rows: Sequence[Row]) -> Table:
    headers = ("", "Envoys", "hanging", "of a core", "us a scrape", "ratio to floor", "longest gap, s")
    found = Table(*headers, title="CPU to read a fleet's stats once a second")
    for row in rows:
        found.add_row(
            *(row.case, str(row.envoys), str(row.hanging), f"{row.cpu_share:.1%}", f"{row.us_a_scrape:g}"),
            *(f"{row.ratio_to_floor:.2f}", f"{row.longest_gap_s:.2f}"),
        )
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--envoys", type=int, default=500)
    parser.add_argument("--requests", type=int, default=3600, help="that are sent through the Envoy which is recorded")
    parser.add_argument("--hanging", type=int, default=10)
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--warm-up", type=float, default=2.0)
    parser.add_argument("--rounds", type=int, default=3)
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true")
    form.add_argument("--profile", action="store_true")
    arguments = parser.parse_args()
    profile = cProfile.Profile()
    if arguments.profile:
        profile.enable()
    rows = asyncio.run(run(arguments))
    profile.disable()
    if arguments.json:
        for row in rows:
            print(json.dumps(asdict(row)))
    else:
        Console().print(table(rows))
    if arguments.profile:
        pstats.Stats(profile).sort_stats("tottime").print_stats(35)


if __name__ == "__main__":
    main()
