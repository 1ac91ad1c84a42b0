"""Envoys are asked within bounds, over connections that are kept, and one bad Envoy holds up nobody."""

import asyncio
import re
import socket
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field

import pytest
from aiohttp import web

from rollout.errors import Unavailable
from rollout.metrics import ClusterStats, EnvoyAdmin, FleetScraper, Query, Scrape
from rollout.metrics.connection import MAX_ANSWER_BYTES, MAX_CHUNKS

# The client, against a server that pretends to be an Envoy's admin


@dataclass
class Admin:
    """Answers `/stats`; `hold` makes it hang, `status` and `body` make it wrong, `last` makes it close connections."""

    completed: int = 0
    status: int = 200
    body: bytes | None = None
    hold: asyncio.Event | None = None
    last: bool = False
    asked: list[str] = field(default_factory=list)
    connections: set[object] = field(default_factory=set)
    address: str = ""

    async def stats(self, request: web.Request) -> web.StreamResponse:
        self.asked.append(request.query["filter"])
        self.connections.add(request.transport)
        if self.hold is not None:
            await self.hold.wait()
        stats = f"server.uptime: 7\ncluster.a.upstream_rq_completed: {self.completed}\n".encode()
        response = web.StreamResponse(status=self.status, headers={"Location": "/elsewhere"})
        response.enable_chunked_encoding()
        if self.last:
            response.force_close()
        await response.prepare(request)
        await response.write(stats if self.body is None else self.body)
        await response.write_eof()
        return response


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


@pytest.fixture
async def client() -> AsyncIterator[EnvoyAdmin]:
    client = EnvoyAdmin(time.monotonic)
    yield client
    client.close()


ONE = Query(("a",))


async def test_a_scrape_flushes_first_and_is_stamped_with_the_clock(admins: Sequence[Admin]) -> None:
    admins[0].completed = 7
    ticks = iter([5.0, 6.5])
    client = EnvoyAdmin(lambda: next(ticks))
    scraped = await client.scrape(admins[0].address, ONE)
    assert scraped == Scrape(5.0, 6.5, {"a": ClusterStats(completed=7)}, 7, admins[0].address)
    assert admins[0].asked[0] == "^$"
    assert len(admins[0].asked) == 2
    client.close()


async def test_many_clusters_are_asked_for_in_several_queries(client: EnvoyAdmin, admins: Sequence[Admin]) -> None:
    names = [f"service-{number}@v1" for number in range(250)]
    scraped = await client.scrape(admins[0].address, Query(tuple(names)))
    assert set(scraped.clusters) == set(names)
    assert len(admins[0].asked) == 4


async def test_a_connection_is_kept_until_it_is_not_needed(client: EnvoyAdmin, admins: Sequence[Admin]) -> None:
    for _ in range(3):
        await client.scrape(admins[0].address, ONE)
    assert len(admins[0].connections) == 1
    client.keep({admins[0].address})
    await client.scrape(admins[0].address, ONE)
    assert len(admins[0].connections) == 1
    client.keep({admins[1].address})
    await client.scrape(admins[0].address, ONE)
    assert len(admins[0].connections) == 2


async def test_an_endpoint_that_closes_after_each_answer_is_read(client: EnvoyAdmin, admins: Sequence[Admin]) -> None:
    admins[0].last = True
    for _ in range(3):
        await client.scrape(admins[0].address, ONE)
    assert len(admins[0].asked) == 6


async def test_two_scrapes_of_one_endpoint_do_not_mix(client: EnvoyAdmin, admins: Sequence[Admin]) -> None:
    names = [f"service-{number}" for number in range(20)]
    scrapes = await asyncio.gather(*(client.scrape(admins[0].address, Query((name,))) for name in names))
    assert [list(scraped.clusters) for scraped in scrapes] == [[name] for name in names]
    client.close()
    await client.scrape(admins[0].address, ONE)


@pytest.mark.parametrize(
    ("status", "body", "why"),
    [
        (404, b"", "HTTP 404 from its admin endpoint"),
        (302, b"", "HTTP 302 from its admin endpoint"),
        (200, b"", "an empty answer"),
        (200, b"<html>", "not a stat of Envoy's"),
        (200, b" " * (MAX_ANSWER_BYTES + 1), "longer than 4194304 bytes"),
    ],
)
async def test_a_wrong_answer_is_unavailable(
    client: EnvoyAdmin, admins: Sequence[Admin], status: int, body: bytes, why: str
) -> None:
    admins[0].status, admins[0].body = status, body
    with pytest.raises(Unavailable, match=why) as caught:
        await client.scrape(admins[0].address, ONE)
    assert admins[0].address in str(caught.value)
    admins[0].status, admins[0].body = 200, None
    await client.scrape(admins[0].address, ONE)


@pytest.mark.parametrize(
    "address", ["", "host", "host:", "host:http", "host:0", "a/b:80", "user@host:80", "host:80/x?y", "host:80\r\nX: y"]
)
async def test_an_address_names_a_host_and_a_port_only(client: EnvoyAdmin, address: str) -> None:
    with pytest.raises(Unavailable, match="not an address of the form HOST:PORT"):
        await client.scrape(address, ONE)


async def test_a_closed_port_and_a_silent_one_are_unavailable(client: EnvoyAdmin, admins: Sequence[Admin]) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        with pytest.raises(Unavailable, match=f"no stats from 127.0.0.1:{closed.getsockname()[1]}"):
            await client.scrape(f"127.0.0.1:{closed.getsockname()[1]}", ONE)
    admins[0].hold = asyncio.Event()
    with pytest.raises(Unavailable, match=f"no answer from {admins[0].address} within 0.05 s"):
        await EnvoyAdmin(time.monotonic, timeout_s=0.05).scrape(admins[0].address, ONE)


OK = b"HTTP/1.1 200 OK\r\n"
CHUNKED = OK + b"transfer-encoding: chunked\r\n\r\n"
STATS = b"server.uptime: 7\n"


async def told(client: EnvoyAdmin, *answers: bytes) -> Scrape:
    """What comes of an endpoint that sends just these bytes, one to a request, and then closes the connection."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(asyncio.IncompleteReadError, ConnectionError):
            for each in answers:
                await reader.readuntil(b"\r\n\r\n")
                writer.write(each)
                await writer.drain()
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    try:
        return await client.scrape("{}:{}".format(*server.sockets[0].getsockname()), ONE)
    finally:
        server.close()
        await server.wait_closed()


@pytest.mark.parametrize(
    "form",
    [
        OK + b"content-length: 17\r\n\r\n" + STATS,
        OK + b"Content-Length:17 \r\nconnection: keep-alive\r\n\r\n" + STATS,
        b"HTTP/1.1 200 \r\ncontent-length: 17\r\n\r\n" + STATS,
        CHUNKED + b"11\r\n" + STATS + b"\r\n0\r\n\r\n",
        CHUNKED + b"2;x=y\r\nse\r\nF\r\n" + STATS[2:] + b"\r\n0\r\n\r\n",
    ],
)
async def test_answers_come_with_a_length_or_in_chunks(client: EnvoyAdmin, form: bytes) -> None:
    assert (await told(client, form, form)).uptime_s == 7


@pytest.mark.parametrize(
    ("raw", "why"),
    [
        (b"", "closed the connection"),
        (b"SSH-2.0-x\r\n\r\n", "not an answer in HTTP"),
        (b"HTTP/1.1 2000 OK\r\n\r\n", "not an answer in HTTP"),
        (b"HTTP/1.1 100 Continue\r\n\r\n", "HTTP 100"),
        (OK + b"\r\n" + STATS, "no length"),
        (OK + b"content-length: -1\r\n\r\n", "no length"),
        (OK + b"content-length: 17\r\ntransfer-encoding: gzip\r\n\r\n" + STATS, "no length"),
        (OK + b"content-length: " + b"9" * 5000 + b"\r\n\r\n", "longer than 4194304 bytes"),
        (OK + b"x: " + b"y" * 100_000 + b"\r\n\r\n", "too long"),
        (OK + b"content-length: 18\r\n\r\n" + STATS, "before its answer was complete"),
        (CHUNKED + b"11\r\n" + STATS, "before its answer was complete"),
        (CHUNKED + b"11\r\n" + STATS + b"xx0\r\n\r\n", "no end"),
        (CHUNKED + b"-1\r\n" + STATS, "negative"),
        (CHUNKED + b"x\r\n", "no stats from"),
        (CHUNKED + b"fffffff\r\n", "longer than 4194304 bytes"),
        (CHUNKED + b"200000\r\n" + b"x" * 2**21 + b"\r\n200001\r\n", "longer than 4194304 bytes"),
        (CHUNKED + b"1\r\nx\r\n" * MAX_CHUNKS, "more than 16384 chunks"),
        (CHUNKED + b"0\r\nx: y\r\n\r\n", "no end"),
    ],
)
async def test_what_is_no_answer_is_unavailable(client: EnvoyAdmin, raw: bytes, why: str) -> None:
    with pytest.raises(Unavailable, match=re.escape(why)):
        await told(client, raw)


async def test_a_connection_that_ended_while_it_was_kept_is_replaced(client: EnvoyAdmin) -> None:
    whole = OK + b"content-length: 17\r\n\r\n" + STATS
    assert (await told(client, whole)).uptime_s == 7  # one answer for each connection


# The fleet


class Fleet:
    """A running FleetScraper whose every result can be waited for."""

    def __init__(self, admin: EnvoyAdmin, targets: dict[str, str]) -> None:
        self.targets = targets
        self.silent: set[str] = set()
        self.heard: list[str] = []
        self.pause_s = 0.01
        self._changed = asyncio.Event()
        self.scraper = FleetScraper(admin, lambda: self.targets, lambda: self._query, lambda: self.pause_s, self._hear)

    def _query(self, node_id: str) -> Query | None:
        return None if node_id in self.silent else ONE

    def _hear(self, node_id: str) -> None:
        self.heard.append(node_id)
        self._changed.set()

    async def until(self, holds: Callable[[], bool], within_s: float = 30.0) -> None:
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
async def fleet(admins: Sequence[Admin]) -> AsyncIterator[Fleet]:
    targets = {f"envoy-{number}": admin.address for number, admin in enumerate(admins)}
    async for started in running(Fleet(EnvoyAdmin(time.monotonic, timeout_s=1.0), targets)):
        yield started


async def test_every_target_is_read_again_and_again(fleet: Fleet, admins: Sequence[Admin]) -> None:
    await fleet.until(lambda: fleet.scraper.latest.keys() == fleet.targets.keys())
    admins[1].completed = 42
    await fleet.until(lambda: fleet.scraper.latest["envoy-1"].clusters["a"].completed == 42)
    assert fleet.scraper.failures == {}


@pytest.fixture
async def slow_fleet(admins: Sequence[Admin]) -> AsyncIterator[Fleet]:
    fleet = Fleet(EnvoyAdmin(time.monotonic), {"envoy-0": admins[0].address})
    fleet.pause_s = 10.0
    async for started in running(fleet):
        yield started


async def test_a_pause_that_gets_shorter_is_not_slept_to_its_end(slow_fleet: Fleet) -> None:
    await slow_fleet.until(lambda: slow_fleet.heard == ["envoy-0"])
    slow_fleet.pause_s = 0.01
    await slow_fleet.until(lambda: len(slow_fleet.heard) >= 3, within_s=8.0)


async def test_one_that_hangs_delays_nobody_else_and_is_named(fleet: Fleet, admins: Sequence[Admin]) -> None:
    await fleet.until(lambda: len(fleet.scraper.latest) == 3)
    before = fleet.scraper.latest["envoy-2"]
    hold = admins[2].hold = asyncio.Event()
    await fleet.until(lambda: "envoy-2" in fleet.scraper.failures)
    fleet.heard.clear()
    await fleet.until(lambda: "envoy-2" in fleet.heard)
    assert fleet.heard.count("envoy-0") > 3
    failure = fleet.scraper.failures["envoy-2"]
    assert failure.why == f"no answer from {admins[2].address} within 1 s"
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
    await fleet.until(lambda: len(fleet.scraper.latest) == 3)
    hold = admins[0].hold = asyncio.Event()
    await fleet.until(lambda: admins[0].asked.count("^$") > fleet.heard.count("envoy-0"))
    fleet.targets = {**fleet.targets, "envoy-0": admins[1].address}
    await fleet.until(lambda: "envoy-0" not in fleet.scraper.latest)
    admins[0].completed, admins[1].completed = 4, 5
    admins[0].hold = None
    hold.set()
    await fleet.until(lambda: "envoy-0" in fleet.scraper.latest)
    assert fleet.scraper.latest["envoy-0"].clusters["a"].completed == 5


async def test_a_node_is_not_read_while_there_is_nothing_to_ask(fleet: Fleet, admins: Sequence[Admin]) -> None:
    await fleet.until(lambda: len(fleet.scraper.latest) == 3)
    fleet.silent = {"envoy-0"}
    fleet.heard.clear()
    await fleet.until(lambda: fleet.heard.count("envoy-1") >= 3)
    asked = len(admins[0].asked)
    await fleet.until(lambda: fleet.heard.count("envoy-1") >= 6)
    assert len(admins[0].asked) == asked
    assert "envoy-0" in fleet.scraper.latest
    fleet.silent = set()
    fleet.heard.clear()
    await fleet.until(lambda: "envoy-0" in fleet.heard)


@pytest.fixture
async def crowd(admins: Sequence[Admin]) -> AsyncIterator[Fleet]:
    """One that answers among more that hang than are read at once."""
    admins[2].hold = asyncio.Event()
    targets = {**{f"hanging-{number}": admins[2].address for number in range(200)}, "alive": admins[0].address}
    async for started in running(Fleet(EnvoyAdmin(time.monotonic, timeout_s=0.6), targets)):
        yield started


async def test_many_that_hang_delay_nobody(crowd: Fleet, admins: Sequence[Admin]) -> None:
    await crowd.until(lambda: len(crowd.scraper.failures) == 200)
    start = len(admins[2].asked)
    crowd.heard.clear()
    await crowd.until(lambda: crowd.heard.count("alive") >= 4)
    assert len(admins[2].asked) - start <= 200
    assert max(Counter(each for each in crowd.heard if each != "alive").values(), default=0) <= 2


async def test_a_survey_asks_everyone_once(fleet: Fleet, admins: Sequence[Admin]) -> None:
    admins[1].status = 500
    answers = await fleet.scraper.survey(Query(("b",)))
    assert {node_id: list(scraped.clusters) for node_id, scraped in answers.items()} == {
        "envoy-0": ["b"],
        "envoy-2": ["b"],
    }
