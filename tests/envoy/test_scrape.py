"""What a real Envoy's admin endpoint says is what was sent through it."""

import asyncio
import itertools
import json
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import aiohttp
import grpc
import pytest
from aiohttp import web

from rollout.demo.processes import Envoy, free_port, until
from rollout.gate.sample import Past, Quantile
from rollout.gate.settings import Errors
from rollout.metrics import BackendStats, Counts, EnvoyAdmin, FleetScraper, Query, Scrape, increments, tally
from rollout.metrics.envoy import NAMED_BACKENDS, NAMES_PER_QUERY

pytestmark = pytest.mark.envoy

ROOT = Path(__file__).parents[2]
STABLE, CANDIDATE, ODD = "checkout@v1", "checkout@v2", "a|b-c+d"
REFUSING, HALF, EMPTY, FULL, IMPATIENT, GRPC = "refusing", "half", "empty", "full", "impatient", "grpc.ping"
FILTERS = "type.googleapis.com/envoy.extensions.filters"
PROTOCOL = "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions"
TIMEOUTS = {CANDIDATE: "60s", IMPATIENT: "0.3s"}
FREE = web.AppKey("free", asyncio.Event)
LONG_S = 30.0


@dataclass(frozen=True, slots=True)
class World:
    """A real Envoy, the file of its clusters, and the backends behind it."""

    envoy: Envoy
    clusters: Path
    backend_port: int
    refusing_port: int
    url: str
    admin: EnvoyAdmin
    free: asyncio.Event
    """What requests that are held wait for."""

    async def scrape(self, *names: str, backends: tuple[int, ...] = ()) -> Scrape:
        query = Query(names, tuple(f"127.0.0.1:{port}" for port in backends))
        # Twice: on a busy machine Envoy's workers may hand in their histograms too late for the first.
        await self.admin.scrape(self.envoy.admin_address, query)
        return await self.admin.scrape(self.envoy.admin_address, query)

    async def restarted(self) -> "World":
        await self.envoy.restart()
        await self.envoy.until_ready()
        url = f"http://{(await self.envoy.listeners())['ingress']}"
        return replace(self, url=url)


def loopback(port: int) -> dict[str, Any]:
    return {"socket_address": {"address": "127.0.0.1", "port_value": port}}


def cluster(name: str, *ports: int, **more: Any) -> dict[str, Any]:
    endpoints = [{"endpoint": {"address": loopback(port)}} for port in ports]
    return {
        "@type": "type.googleapis.com/envoy.config.cluster.v3.Cluster",
        "name": name,
        "connect_timeout": "1s",
        "type": "STATIC",
        "track_cluster_stats": {"per_endpoint_stats": True},
        "load_assignment": {"cluster_name": name, "endpoints": [{"lb_endpoints": endpoints}]},
        **more,
    }


def clusters(backend: int, refusing: int, grpc_backend: int, timeout_s: int = 1) -> list[dict[str, Any]]:
    one_at_a_time = {"max_connections": 1, "max_pending_requests": 1, "max_requests": 1}
    http2 = {"@type": PROTOCOL, "explicit_http_config": {"http2_protocol_options": {}}}
    return [
        *(cluster(name, backend, connect_timeout=f"{timeout_s}s") for name in (STABLE, CANDIDATE, ODD, IMPATIENT)),
        cluster(REFUSING, refusing),
        cluster(HALF, backend, refusing),
        cluster(EMPTY),
        cluster(FULL, backend, circuit_breakers={"thresholds": [one_at_a_time]}),
        cluster(GRPC, grpc_backend, typed_extension_protocol_options={PROTOCOL.partition("/")[2]: http2}),
    ]


def write_clusters(file: Path, resources: list[dict[str, Any]]) -> None:
    """As Envoy watches it: moved into its place."""
    made = file.with_suffix(".new")
    made.write_text(json.dumps({"resources": resources}))
    made.replace(file)


def route(name: str) -> dict[str, Any]:
    """Requests name their cluster in a header."""
    retries: Mapping[str, Mapping[str, Any]] = {
        ODD: {"retry_on": "5xx", "num_retries": 1},
        IMPATIENT: {"retry_on": "5xx", "num_retries": 1, "per_try_timeout": "0.05s"},
    }
    return {
        "match": {"prefix": "/", "headers": [{"name": "x-to", "string_match": {"exact": name}}]},
        "route": {"cluster": name, "timeout": TIMEOUTS.get(name, "2s"), "retry_policy": retries.get(name, {})},
    }


def bootstrap(clusters_file: Path) -> dict[str, Any]:
    names = (STABLE, CANDIDATE, ODD, REFUSING, HALF, EMPTY, FULL, IMPATIENT, GRPC)
    grpc_stats = {"@type": f"{FILTERS}.http.grpc_stats.v3.FilterConfig", "stats_for_all_methods": True}
    routes = {"virtual_hosts": [{"name": "all", "domains": ["*"], "routes": [route(name) for name in names]}]}
    manager = {
        "@type": f"{FILTERS}.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "ingress",
        "route_config": {**routes, "validate_clusters": False},
        "http_filters": [
            {"name": "grpc_stats", "typed_config": grpc_stats},
            {"name": "router", "typed_config": {"@type": f"{FILTERS}.http.router.v3.Router"}},
        ],
    }
    listener = {
        "name": "ingress",
        "address": loopback(0),
        "filter_chains": [{"filters": [{"name": "http", "typed_config": manager}]}],
    }
    source = {"path": str(clusters_file), "watched_directory": {"path": str(clusters_file.parent)}}
    return {
        "node": {"id": "edge", "cluster": "edge"},
        "admin": {"address": loopback(free_port())},
        "stats_flush_on_admin": True,
        "dynamic_resources": {"cds_config": {"path_config_source": source}},
        "static_resources": {"listeners": [listener]},
    }


async def answer(request: web.Request) -> web.Response:
    """As the query says: after so many seconds or once all are free, with this status, or not at all."""
    await asyncio.sleep(float(request.query.get("after_s", "0")))
    if "held" in request.query:
        await request.app[FREE].wait()
    if "die" in request.query and request.transport is not None:
        request.transport.abort()
    return web.Response(status=int(request.query.get("status", "200")), headers={"x-backend": "yes"})


class Statuses(grpc.GenericRpcHandler):  # type: ignore[misc]  # grpc has no types
    """Answers `/ping/NAME` with the gRPC status of that name."""

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler:
        status = grpc.StatusCode[handler_call_details.method.rpartition("/")[2]]

        async def answered(_request: bytes, context: grpc.aio.ServicerContext) -> bytes:
            if status is not grpc.StatusCode.OK:
                await context.abort(status)
            return b""

        return grpc.unary_unary_rpc_method_handler(answered)


@pytest.fixture
async def grpc_backend() -> AsyncIterator[int]:
    server = grpc.aio.server()
    server.add_generic_rpc_handlers((Statuses(),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    yield port
    await server.stop(None)


@pytest.fixture
async def world(tmp_path: Path, grpc_backend: int) -> AsyncIterator[World]:
    app = web.Application()
    app[FREE] = asyncio.Event()
    app.router.add_get("/", answer)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    backend = runner.addresses[0][1]
    folder = tmp_path / "clusters"
    folder.mkdir()
    admin = EnvoyAdmin(time.monotonic)
    with socket.socket() as refusing:
        refusing.bind(("127.0.0.1", 0))  # never listens
        port = refusing.getsockname()[1]
        write_clusters(folder / "cds.json", clusters(backend, port, grpc_backend))
        async with Envoy("edge", bootstrap(folder / "cds.json"), tmp_path) as envoy:
            await envoy.until_ready()
            url = f"http://{(await envoy.listeners())['ingress']}"
            yield World(envoy, folder / "cds.json", backend, port, url, admin, app[FREE])
    admin.close()
    await runner.cleanup()


@pytest.fixture
async def session() -> AsyncIterator[aiohttp.ClientSession]:
    connector = aiohttp.TCPConnector(force_close=True)  # a request on a closed connection would be sent twice
    async with aiohttp.ClientSession(connector=connector, timeout=aiohttp.ClientTimeout(total=LONG_S)) as session:
        yield session


async def send(session: aiohttp.ClientSession, world: World, cluster_name: str, query: str = "") -> int:
    async with session.get(world.url + "/" + query, headers={"x-to": cluster_name}) as response:
        await response.read()
        return response.status


def between(before: Scrape, after: Scrape, name: str) -> Counts:
    counts = increments(before, after, name)
    assert counts is not None
    return counts


async def test_counts_equal_what_was_sent_and_the_histogram_is_complete_at_once(
    world: World, session: aiohttp.ClientSession
) -> None:
    names = (STABLE, CANDIDATE, ODD, REFUSING)
    before = await world.scrape(*names)
    for number in range(60):
        await send(session, world, STABLE)
        await send(session, world, CANDIDATE, "?status=500" if number % 3 == 0 else "?status=404")
    assert [await send(session, world, ODD, "?after_s=0.05") for _ in range(20)] == [200] * 20
    assert [await send(session, world, REFUSING) for _ in range(5)] == [503] * 5
    assert await send(session, world, ODD, "?after_s=5") == 504
    assert [await send(session, world, ODD, "?status=500") for _ in range(2)] == [500] * 2
    after = await world.scrape(*names)

    figures = {
        name: (c.requests, c.errors, c.retries, c.timeouts, c.refused, c.started, c.latency.count)
        for name, c in ((name, between(before, after, name)) for name in names)
    }
    assert figures == {
        STABLE: (60, 0, 0, 0, 0, 60, 60),
        CANDIDATE: (60, 20, 0, 0, 0, 60, 60),
        ODD: (23, 3, 2, 1, 0, 23, 22),
        REFUSING: (5, 5, 0, 0, 5, 5, 0),
    }
    odd = after.clusters[ODD]
    assert (odd.membership_total, odd.membership_healthy, odd.rq_active) == (1, 1, 0)
    usual_ms = odd.latency.quantile(0.5)
    assert usual_ms is not None
    assert 49 <= usual_ms < 200

    again = await world.scrape(*names)
    assert again.clusters == after.clusters


@pytest.mark.parametrize(
    ("name", "query"),
    [
        *((name, "") for name in (STABLE, REFUSING, EMPTY, HALF)),
        *((name, "?status=503") for name in (STABLE, HALF)),
        *((name, "?die") for name in (STABLE, ODD)),
        (FULL, "?after_s=0.1"),
        (IMPATIENT, "?after_s=0.2"),
    ],
)
async def test_every_finished_request_has_a_latency_or_was_refused(
    world: World, session: aiohttp.ClientSession, name: str, query: str
) -> None:
    async def unanswered() -> bool:
        async with session.get(world.url + "/" + query, headers={"x-to": name}) as response:
            return "x-backend" not in response.headers

    before = await world.scrape(name)
    refused = sum(await asyncio.gather(*(unanswered() for _ in range(6))))
    counts = between(before, await world.scrape(name), name)
    assert (counts.requests, counts.refused, counts.timed, counts.started) == (6, refused, 6, 6)


async def test_requests_that_clients_give_up_have_started(world: World, session: aiohttp.ClientSession) -> None:
    before = await world.scrape(CANDIDATE)
    for _ in range(3):
        asked = asyncio.create_task(send(session, world, CANDIDATE, "?held"))
        await active(world, 1)
        asked.cancel()
        after = await active(world, 0)
    assert replace(between(before, after, CANDIDATE), connections=0) == Counts(started=3)


async def active(world: World, count: int) -> Scrape:
    """Wait until so many requests are in flight."""
    async with asyncio.timeout(LONG_S):
        while (scraped := await world.scrape(CANDIDATE)).clusters[CANDIDATE].rq_active != count:
            pass
    return scraped


async def test_backends_have_the_attempts_that_they_failed(world: World, session: aiohttp.ClientSession) -> None:
    for query in ("?status=404", "?status=500", "?after_s=5", "?die", "", ""):
        await send(session, world, STABLE, query)
    for _ in range(4):
        await send(session, world, REFUSING)
    scrape = await world.scrape(STABLE, REFUSING, CANDIDATE, backends=(world.backend_port, world.refusing_port))
    assert {name: dict(stats.backends) for name, stats in scrape.clusters.items()} == {
        STABLE: {f"127.0.0.1:{world.backend_port}": BackendStats(0, True, 6, 3)},
        REFUSING: {f"127.0.0.1:{world.refusing_port}": BackendStats(0, True, 4, 4)},
        CANDIDATE: {f"127.0.0.1:{world.backend_port}": BackendStats(0, True, 0, 0)},
    }


async def test_grpc_answers_are_counted_by_status(world: World) -> None:
    wanted = {"OK": 5, "NOT_FOUND": 2, "INTERNAL": 3, "UNAVAILABLE": 1}
    before = await world.scrape(GRPC, REFUSING)
    async with grpc.aio.insecure_channel(world.url.removeprefix("http://")) as channel:
        for name, calls in wanted.items():
            for to in (GRPC, REFUSING):
                for _ in range(calls):
                    with suppress(grpc.aio.AioRpcError):
                        await channel.unary_unary(f"/shop.v1.Cart/{name}")(b"", metadata=(("x-to", to),))
    after = await world.scrape(GRPC, REFUSING)
    counts = between(before, after, GRPC)
    assert counts.grpc == {0: 5, 5: 2, 13: 3, 14: 1}
    found = tally(counts, Past(slow_ms={Quantile.P99: 3e5}), Errors.GRPC)
    assert (found.requests, found.errors, found.timed, found.slow) == (11, 4, 11, {Quantile.P99: 0})
    found = tally(between(before, after, REFUSING), Past(slow_ms={Quantile.P99: 3e5}), Errors.GRPC)
    assert (found.requests, found.errors, found.timed, found.slow) == (11, 11, 11, {Quantile.P99: 11})


async def change_cluster(world: World, grpc_backend: int) -> None:
    """By CDS; returns when Envoy has taken it."""
    stat = "/stats?filter=cluster_manager.cluster_modified"
    before = await world.envoy.admin_get(stat)
    timeout_s = 2 + int(before.split()[-1])  # another one each time
    write_clusters(world.clusters, clusters(world.backend_port, world.refusing_port, grpc_backend, timeout_s))

    async def taken() -> bool:
        return await world.envoy.admin_get(stat) != before

    await until(taken, within_s=LONG_S, what="Envoy to take the changed clusters")


def has(scrapes: list[Scrape], least: int) -> bool:
    return len(scrapes) >= least


SLOW = Past(slow_ms={Quantile.P99: 10_000.0})


async def test_samples_that_a_changed_cluster_lost_are_neither_slow_nor_made_up(
    world: World, session: aiohttp.ClientSession, grpc_backend: int
) -> None:
    for _ in range(20):
        await send(session, world, STABLE)
    before = await world.scrape(STABLE)
    for _ in range(10):
        await send(session, world, STABLE)
    await change_cluster(world, grpc_backend)
    for _ in range(15):
        await send(session, world, STABLE)
    found = tally(between(before, await world.scrape(STABLE), STABLE), SLOW, Errors.HTTP)
    assert (found.requests, found.timed, found.slow) == (25, 15, {Quantile.P99: 0})


async def test_a_cluster_that_changes_under_load_has_no_more_samples_than_requests(
    world: World, session: aiohttp.ClientSession, grpc_backend: int
) -> None:
    sent, stop, scrapes = [0], asyncio.Event(), [await world.scrape(STABLE)]

    async def load() -> None:
        while not stop.is_set():
            assert await send(session, world, STABLE) == 200
            sent[0] += 1

    async def watch() -> None:
        while not stop.is_set():
            scrapes.append(await world.scrape(STABLE))

    async with asyncio.TaskGroup() as group:
        for each in (load, load, load, watch):
            group.create_task(each())
        for _ in range(3):
            await change_cluster(world, grpc_backend)
            seen = len(scrapes)
            await until(partial(has, scrapes, seen + 4), within_s=LONG_S, what="scrapes of the changed cluster")
        stop.set()
    scrapes.append(await world.scrape(STABLE))
    spans = [tally(between(*pair, STABLE), SLOW, Errors.HTTP) for pair in itertools.pairwise(scrapes)]
    assert sum(span.requests for span in spans) == sent[0]
    assert 0 < sum(span.timed for span in spans) <= sent[0]
    assert {span.slow[Quantile.P99] for span in spans} == {0}


async def test_a_restarted_envoy_is_recognised_though_it_counted_further(
    world: World, session: aiohttp.ClientSession
) -> None:
    await send(session, world, STABLE)
    before = await world.scrape(STABLE)

    async def has_run_for_a_while() -> bool:
        nonlocal before
        before = await world.scrape(STABLE)
        return before.uptime_s is not None and before.uptime_s >= 2

    await until(has_run_for_a_while, within_s=90, what="Envoy to have been up for 2 s")
    address = world.envoy.admin_address
    world = await world.restarted()
    assert world.envoy.admin_address == address
    for _ in range(5):
        await send(session, world, STABLE)
    after = await world.scrape(STABLE)
    assert after.clusters[STABLE].completed > before.clusters[STABLE].completed
    assert increments(before, after, STABLE) is None
    await send(session, world, STABLE)
    assert between(after, await world.scrape(STABLE), STABLE).requests == 1


@pytest.mark.parametrize("backends", [NAMED_BACKENDS, NAMED_BACKENDS + 1])
async def test_an_envoy_takes_the_longest_questions(
    world: World, session: aiohttp.ClientSession, backends: int
) -> None:
    await send(session, world, ODD)
    names = tuple(f"a-service-with-quite-a-long-name-{number}@v{number}" for number in range(2 * NAMES_PER_QUERY))
    ports = (world.backend_port, *range(1, backends))
    stats = (await world.scrape(ODD, *names, backends=ports)).clusters[ODD]
    assert stats.completed == 1
    assert list(stats.backends) == [f"127.0.0.1:{world.backend_port}"]


async def test_requests_in_flight_are_seen_while_they_are(world: World, session: aiohttp.ClientSession) -> None:
    async with asyncio.TaskGroup() as requests:
        for _ in range(4):
            requests.create_task(send(session, world, CANDIDATE, "?held"))
        await active(world, 4)
        world.free.set()
    assert (await world.scrape(CANDIDATE)).clusters[CANDIDATE].rq_active == 0


async def test_a_fleet_with_a_dead_envoy_is_read_where_it_lives(world: World) -> None:
    heard: set[str] = set()
    targets = {"alive": world.envoy.admin_address, "dead": "127.0.0.1:1"}
    scraper = FleetScraper(world.admin, lambda: targets, lambda: lambda _: Query((STABLE,)), lambda: 0.1, heard.add)
    task = asyncio.ensure_future(scraper.run())
    try:
        await until(lambda: len(heard) == 2, within_s=LONG_S, what="both to be asked")
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
    assert set(scraper.latest) == {"alive"}
    assert scraper.failures["dead"].why.startswith("no stats from 127.0.0.1:1: ")


def test_the_measurement_of_what_scraping_costs_runs() -> None:
    fleet = ("--envoys", "6", "--hanging", "2", "--requests", "120")
    options = (*fleet, "--seconds", "1.1", "--warm-up", "0.2", "--rounds", "1", "--json")
    command = (sys.executable, "bench/scrape.py", *options)
    done = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True, timeout=180)
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert [(row["envoys"], row["hanging"]) for row in rows] == [(6, 0), (6, 0), (6, 2), (6, 0)]
    assert all(row["cpu_share"] > 0 and row["longest_gap_s"] < 30 for row in rows)
