"""Scrapes are parsed strictly, subtracted carefully, and one bad Envoy holds up nobody."""

import asyncio
import json
import socket
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qs

import aiohttp
import pytest
from aiohttp import web

from rollout.errors import Unavailable
from rollout.gate import Counts, Histogram
from rollout.metrics import (
    ClusterStats,
    EnvoyAdmin,
    FleetScraper,
    Query,
    Scrape,
    increments,
    parse_stats,
    stats_query,
)
from rollout.metrics.admin import MAX_ANSWER_BYTES


def answer(*stats: tuple[str, int], latency: dict[str, list[tuple[float, float, int]]] | None = None) -> bytes:
    """As Envoy writes it."""
    details = [
        {
            "name": f"cluster.{name}.upstream_rq_time",
            "totals": [{"lower_bound": low, "width": width, "count": count} for low, width, count in buckets],
            "intervals": [{"lower_bound": 1, "width": 0.1, "count": 999}],
            "percentiles": [],
        }
        for name, buckets in (latency or {}).items()
    ]
    values: list[dict[str, Any]] = [{"name": f"cluster.{name}", "value": value} for name, value in stats]
    return json.dumps({"stats": [*values, {"histograms": {"details": details}}]}).encode()


# Parsing


def test_an_answer_becomes_the_stats_of_each_asked_cluster() -> None:
    text = answer(
        ("checkout@v1.upstream_rq_completed", 100),
        ("checkout@v1.upstream_rq_5xx", 3),
        ("checkout@v1.upstream_rq_retry", 7),
        ("checkout@v1.upstream_rq_timeout", 2),
        ("checkout@v1.upstream_rq_active", 4),
        ("checkout@v1.upstream_rq_pending_active", 1),
        ("checkout@v1.membership_total", 3),
        ("checkout@v1.membership_healthy", 2),
        ("checkout@v1.retry.upstream_rq_5xx", 55),
        ("other.upstream_rq_completed", 9),
        latency={"checkout@v1": [(1.1, 0.1, 60), (20, 1, 40)]},
    )
    latency = Histogram.of([(1.1, 0.1, 60), (20.0, 1.0, 40)])
    assert parse_stats(text, ["checkout@v1", "checkout@v2"]) == {
        "checkout@v1": ClusterStats(100, 3, 7, 2, 4, 1, 3, 2, latency),
        "checkout@v2": ClusterStats(),
    }


def test_a_name_with_dots_is_not_mistaken_for_another() -> None:
    text = answer(("a.b.upstream_rq_completed", 5), ("a.upstream_rq_completed", 7))
    parsed = parse_stats(text, ["a", "a.b"])
    assert (parsed["a"].completed, parsed["a.b"].completed) == (7, 5)


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"no stats",
        b"[]",
        b"{}",
        b'{"stats": 1}',
        b'{"stats": [{"name": "x"}]}',
        b'{"stats": [{"histograms": []}]}',
    ],
)
def test_anything_else_is_refused(text: bytes) -> None:
    with pytest.raises(ValueError, match=r"."):
        parse_stats(text, ["a"])


def test_the_query_quotes_names_for_the_expression_and_for_the_url() -> None:
    query = stats_query(["checkout@v1", "a|b-c.d"])
    expression = parse_qs(query)["filter"][0]
    assert expression.startswith(r"^cluster\.(checkout@v1|a\|b\-c\.d)\.(upstream_rq_completed|")
    assert set(query) & set("^|() ") == set()


# Increments


def scrape(stats: ClusterStats | None) -> Scrape:
    return Scrape(0.0, 0.1, {} if stats is None else {"a": stats})


SLOW = Histogram.of([(10.0, 1.0, 8), (20.0, 1.0, 2)])


def test_increments_are_what_came_between() -> None:
    before = ClusterStats(10, 1, 2, 3, latency=SLOW)
    after = ClusterStats(14, 2, 4, 3, 99, latency=SLOW.merge(Histogram.of([(30.0, 1.0, 4)])))
    assert increments(scrape(before), scrape(after), "a") == Counts(4, 1, 2, 0, Histogram.of([(30.0, 1.0, 4)]))


@pytest.mark.parametrize(
    "earlier", [None, ClusterStats(completed=11), ClusterStats(retries=1), ClusterStats(timeouts=1)]
)
def test_without_a_baseline_there_are_no_increments(earlier: ClusterStats | None) -> None:
    assert increments(scrape(earlier), scrape(ClusterStats(completed=10)), "a") is None


def test_a_histogram_that_restarted_alone_counts_from_its_restart() -> None:
    new = Histogram.of([(10.0, 1.0, 5)])
    counted = increments(scrape(ClusterStats(10, latency=SLOW)), scrape(ClusterStats(20, latency=new)), "a")
    assert counted == Counts(10, latency=new)


# The client, against a server that pretends to be an Envoy's admin


@dataclass
class Admin:
    """Answers `/stats`; `hold` makes it hang, `status` and `body` make it wrong."""

    completed: int = 0
    status: int = 200
    body: bytes | None = None
    hold: asyncio.Event | None = None
    asked: list[str] = field(default_factory=list)
    address: str = ""

    async def stats(self, request: web.Request) -> web.StreamResponse:
        self.asked.append(request.query["filter"])
        if self.hold is not None:
            await self.hold.wait()
        body = answer(("a.upstream_rq_completed", self.completed)) if self.body is None else self.body
        return web.Response(status=self.status, body=body, headers={"Location": "/elsewhere"})


@pytest.fixture
async def session() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession() as session:
        yield session


@pytest.fixture
async def admins() -> AsyncIterator[Sequence[Admin]]:
    """Three of them, which nobody has to stop."""
    runners, known = [], []
    for _ in range(3):
        admin = Admin()
        app = web.Application()
        app.router.add_get("/stats", admin.stats)
        runner = web.AppRunner(app, shutdown_timeout=0.1)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        admin.address = "{}:{}".format(*runner.addresses[0][:2])
        runners.append(runner)
        known.append(admin)
    yield known
    for admin in known:
        if admin.hold is not None:
            admin.hold.set()
    for runner in runners:
        await runner.cleanup()


def client(session: aiohttp.ClientSession, timeout_s: float = 1.0) -> EnvoyAdmin:
    return EnvoyAdmin(session, time.monotonic, timeout_s=timeout_s)


async def test_a_scrape_flushes_first_and_is_stamped_with_the_clock(
    session: aiohttp.ClientSession, admins: Sequence[Admin]
) -> None:
    admins[0].completed = 7
    ticks = iter([5.0, 6.5])
    scraped = await EnvoyAdmin(session, lambda: next(ticks)).scrape(admins[0].address, Query(("a",)))
    assert scraped == Scrape(5.0, 6.5, {"a": ClusterStats(completed=7)})
    assert admins[0].asked[0] == "^$"
    assert len(admins[0].asked) == 2


async def test_many_clusters_are_asked_for_in_several_queries(
    session: aiohttp.ClientSession, admins: Sequence[Admin]
) -> None:
    names = [f"service-{number}@v1" for number in range(250)]
    scraped = await client(session).scrape(admins[0].address, Query(tuple(names)))
    assert set(scraped.clusters) == set(names)
    assert len(admins[0].asked) == 4


@pytest.mark.parametrize(
    ("status", "body", "why"),
    [
        (404, b"", "HTTP 404 from its admin endpoint"),
        (302, b"", "HTTP 302 from its admin endpoint"),
        (200, b"<html>", "Expecting value"),
        (200, b" " * (MAX_ANSWER_BYTES + 1), "longer than 4194304 bytes"),
    ],
)
async def test_a_wrong_answer_is_unavailable(
    session: aiohttp.ClientSession, admins: Sequence[Admin], status: int, body: bytes, why: str
) -> None:
    admins[0].status, admins[0].body = status, body
    with pytest.raises(Unavailable, match=why) as caught:
        await client(session).scrape(admins[0].address, Query(("a",)))
    assert admins[0].address in str(caught.value)


@pytest.mark.parametrize(
    "address", ["", "host", "host:", "host:http", "host:0", "a/b:80", "user@host:80", "host:80/x?y"]
)
async def test_an_address_names_a_host_and_a_port_only(session: aiohttp.ClientSession, address: str) -> None:
    with pytest.raises(Unavailable, match="not an address of the form HOST:PORT"):
        await client(session).scrape(address, Query(("a",)))


async def test_a_closed_port_and_a_silent_one_are_unavailable(
    session: aiohttp.ClientSession, admins: Sequence[Admin]
) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        with pytest.raises(Unavailable, match=f"no stats from 127.0.0.1:{closed.getsockname()[1]}"):
            await client(session).scrape(f"127.0.0.1:{closed.getsockname()[1]}", Query(("a",)))
    admins[0].hold = asyncio.Event()
    with pytest.raises(Unavailable, match=f"no answer from {admins[0].address} within 0.05 s"):
        await client(session, timeout_s=0.05).scrape(admins[0].address, Query(("a",)))


# The fleet


class Fleet:
    """A running FleetScraper whose every result can be waited for."""

    def __init__(self, admin: EnvoyAdmin, targets: dict[str, str]) -> None:
        self.targets = targets
        self.heard: list[str] = []
        self._changed = asyncio.Event()
        self.scraper = FleetScraper(admin, lambda: self.targets, lambda: Query(("a",)), lambda: 0.01, self._hear)

    def _hear(self, node_id: str) -> None:
        self.heard.append(node_id)
        self._changed.set()

    async def until(self, holds: Callable[[], bool], within_s: float = 5.0) -> None:
        async with asyncio.timeout(within_s):
            while not holds():
                self._changed.clear()
                await self._changed.wait()


async def running(fleet: Fleet) -> AsyncIterator[Fleet]:
    task = asyncio.ensure_future(fleet.scraper.run())
    yield fleet
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task


@pytest.fixture
async def fleet(session: aiohttp.ClientSession, admins: Sequence[Admin]) -> AsyncIterator[Fleet]:
    targets = {f"envoy-{number}": admin.address for number, admin in enumerate(admins)}
    async for started in running(Fleet(client(session, timeout_s=0.3), targets)):
        yield started


async def test_every_target_is_read_again_and_again(fleet: Fleet, admins: Sequence[Admin]) -> None:
    await fleet.until(lambda: fleet.scraper.latest.keys() == fleet.targets.keys())
    admins[1].completed = 42
    await fleet.until(lambda: fleet.scraper.latest["envoy-1"].clusters["a"].completed == 42)
    assert fleet.scraper.failures == {}


async def test_one_that_hangs_delays_nobody_else_and_is_named(fleet: Fleet, admins: Sequence[Admin]) -> None:
    await fleet.until(lambda: len(fleet.scraper.latest) == 3)
    before = fleet.scraper.latest["envoy-2"]
    hold = admins[2].hold = asyncio.Event()
    await fleet.until(lambda: "envoy-2" in fleet.scraper.failures)
    fleet.heard.clear()
    await fleet.until(lambda: "envoy-2" in fleet.heard)
    assert fleet.heard.count("envoy-0") > 3
    failure = fleet.scraper.failures["envoy-2"]
    assert failure.why == f"no answer from {admins[2].address} within 0.3 s"
    await fleet.until(lambda: fleet.heard.count("envoy-2") >= 2)
    assert fleet.scraper.failures["envoy-2"].since_s == failure.since_s
    assert fleet.scraper.latest["envoy-2"].started_s <= failure.since_s
    assert before.finished_s <= fleet.scraper.latest["envoy-2"].finished_s
    admins[2].hold = None
    hold.set()
    await fleet.until(lambda: fleet.scraper.failures == {})


async def test_nodes_that_are_gone_are_forgotten(fleet: Fleet, admins: Sequence[Admin]) -> None:
    admins[2].status = 500
    await fleet.until(lambda: len(fleet.scraper.latest) == 2 and "envoy-2" in fleet.scraper.failures)
    fleet.targets = {"envoy-0": admins[0].address}
    fleet.heard.clear()
    await fleet.until(lambda: fleet.heard.count("envoy-0") >= 2)
    assert set(fleet.scraper.latest) == {"envoy-0"}
    assert fleet.scraper.failures == {}


async def test_an_answer_from_an_address_that_the_node_has_left_is_not_kept(
    fleet: Fleet, admins: Sequence[Admin]
) -> None:
    hold = admins[0].hold = asyncio.Event()
    await fleet.until(lambda: fleet.heard.count("envoy-1") > 3)
    fleet.targets = {"envoy-0": admins[1].address}
    admins[1].completed = 5
    admins[0].hold = None
    hold.set()
    await fleet.until(lambda: fleet.heard[-1] == "envoy-0" and "envoy-0" in fleet.scraper.latest)
    assert fleet.scraper.latest["envoy-0"].clusters["a"].completed == 5


@pytest.mark.parametrize(
    "value", ["Infinity", "1e999", "-1", "1" + "0" * 400, '"7"', "[" * 100_000, '{"a": 1}'], ids=lambda text: text[:8]
)
def test_a_hostile_answer_is_a_fault_of_that_envoy_alone(value: str) -> None:
    text = f'{{"stats": [{{"name": "cluster.a.upstream_rq_completed", "value": {value}}}]}}'
    with pytest.raises(ValueError, match=r"."):
        parse_stats(text.encode(), ["a"])


def test_a_histogram_with_no_finite_bounds_is_refused() -> None:
    bucket = '{"lower_bound": NaN, "width": 1, "count": 1}'
    details = f'[{{"name": "cluster.a.upstream_rq_time", "totals": [{bucket}]}}]'
    with pytest.raises(ValueError, match="no bound"):
        parse_stats(f'{{"stats": [{{"histograms": {{"details": {details}}}}}]}}'.encode(), ["a"])
