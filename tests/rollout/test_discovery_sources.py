"""What each source answers, asked over the network as a server asks it: our own name server, Consul and http_sd."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Mapping
from pathlib import Path

import dns.rcode
import pytest

from rollout.discovery.answer import Answer
from rollout.discovery.source import Discover, parse_discover
from rollout.errors import InvalidSpec, RolloutError, Unavailable
from rollout.fetching import open_session
from rollout.lookup import Lookup
from tests.rollout.consul_server import Instance, consul_server
from tests.rollout.dns_server import NameServer, name_server
from tests.rollout.sd_server import sd_server
from tests.rollout.waiting import eventually

TOKEN = "ROLLOUT_DISCOVERY_TOKEN"  # noqa: S105 - a name
NAME = "checkout.internal"


@contextlib.asynccontextmanager
async def lookup(environment: Mapping[str, str] | None = None) -> AsyncIterator[Lookup]:
    async with open_session() as session:
        yield Lookup(session, dict(environment or {}).get)


async def ask(discover: Discover, **environment: str) -> Answer:
    async with lookup(environment) as asking:
        return await asking.ask(discover, None)


async def fault(discover: Discover, **environment: str) -> str:
    """Return the words of an answer that is none."""
    with pytest.raises(RolloutError) as told:
        await ask(discover, **environment)
    assert isinstance(told.value, Unavailable | InvalidSpec)
    return str(told.value)


def addresses(answer: Answer) -> list[str]:
    return [str(each) for each in answer.endpoints]


def by_dns(server: NameServer, timeout: str = "5s", **words: object) -> Discover:
    given = {"name": NAME, "server": server.address, **words}
    return parse_discover({"dns": given, "timeout": timeout, "location": "eu/eu-1"})


# --- DNS ---


async def test_both_families_of_a_name_are_found_once_each() -> None:
    async with name_server() as server:
        server.ttl_s = 30
        server.has(NAME, "A", "10.0.0.2", "10.0.0.1")
        server.has(NAME, "AAAA", "2001:db8::1", "2001:0db8:0:0::1")
        answer = await ask(by_dns(server, port=8080))
        assert addresses(answer) == ["10.0.0.1:8080@eu/eu-1", "10.0.0.2:8080@eu/eu-1", "[2001:db8::1]:8080@eu/eu-1"]
        assert answer.fresh_s == 30
        only = await ask(by_dns(server, port=8080, type="AAAA"))
        assert addresses(only) == ["[2001:db8::1]:8080@eu/eu-1"]


async def test_srv_records_say_ports_and_only_those_of_the_lowest_priority_with_an_address_count() -> None:
    async with name_server() as server:
        server.has("_http._tcp.internal", "SRV", "1 0 81 a.internal.", "1 0 82 a.internal.", "1 0 83 b.internal.")
        server.has("a.internal", "A", "10.0.0.1")
        server.has("b.internal", "AAAA", "::1")
        discover = by_dns(server, name="_http._tcp.internal")
        assert [each.address for each in (await ask(discover)).endpoints] == ["10.0.0.1:81", "10.0.0.1:82", "[::1]:83"]
        server.has("_http._tcp.internal", "SRV", "1 0 81 a.internal.", "2 0 80 gone.internal.", "1 0 80 gone.internal.")
        assert [each.address for each in (await ask(discover)).endpoints] == ["10.0.0.1:81"]  # a name that is no more
        server.has("_http._tcp.internal", "SRV", "1 0 80 gone.internal.", "2 0 82 b.internal.", "3 0 83 a.internal.")
        assert [each.address for each in (await ask(discover)).endpoints] == ["[::1]:82"]  # the first has nobody
        server.has("_http._tcp.internal", "SRV", "0 0 0 .")
        assert (await ask(discover)).endpoints == ()


async def test_addresses_that_come_with_srv_records_are_not_asked_for_again() -> None:
    async with name_server() as server:
        server.additional = frozenset({"a.internal"})
        server.has("_http._tcp.internal", "SRV", "1 0 81 a.internal.")
        server.has("a.internal", "A", "10.0.0.1")
        answer = await ask(by_dns(server, name="_http._tcp.internal"))
        assert [each.address for each in answer.endpoints] == ["10.0.0.1:81"]
        assert server.asked == [("SRV", "udp")]


async def test_a_thousand_addresses_come_over_tcp() -> None:
    async with name_server() as server:
        server.has(NAME, "A", *(f"10.0.{number // 250}.{number % 250 + 1}" for number in range(1000)))
        answer = await ask(by_dns(server, port=80, type="A"))
        assert len(answer.endpoints) == 1000
        assert server.asked == [("A", "udp"), ("A", "tcp")]


async def test_an_answer_that_is_cut_off_over_tcp_too_is_not_believed() -> None:
    async with name_server() as server:
        server.cut = True
        server.has(NAME, "A", "10.0.0.1")
        assert "is cut off, over TCP, too" in await fault(by_dns(server, port=80, type="A"))
        assert server.asked == [("A", "udp"), ("A", "tcp")]


@pytest.mark.parametrize("blocked", ["0.0.0.0", "255.255.255.255", "224.0.0.1"])
async def test_what_a_name_server_says_of_a_blocked_name_is_no_backend(blocked: str) -> None:
    async with name_server() as server:
        server.has(NAME, "A", blocked)
        assert f"it names '{blocked}', which is no address of a backend" in await fault(by_dns(server, port=80))


async def test_what_a_name_server_does_wrong_is_told() -> None:
    async with name_server() as server:
        asking = by_dns(server, port=80)
        assert await fault(asking) == f"{NAME} does not exist, says {server.address} (NXDOMAIN)"
        server.has(NAME, "TXT", "nothing")
        assert (await ask(asking)).endpoints == ()
        server.rcode = dns.rcode.REFUSED
        assert await fault(asking) == f"no answer for {NAME} from {server.address}: REFUSED"
        server.rcode = dns.rcode.SERVFAIL
        words = await fault(by_dns(server, "200ms", port=80))
        assert NAME in words
        server.silent, server.rcode = True, None
        began_s = time.monotonic()
        words = await fault(by_dns(server, "300ms", port=80))
        assert words == f"no answer for {NAME} from {server.address} within 0.3 s"
        assert time.monotonic() - began_s < 20


# --- Consul ---


def by_consul(url: str, **words: object) -> Discover:
    return parse_discover({"consul": {"url": url, "service": "checkout", **words}, "timeout": "2s"})


async def test_only_instances_whose_checks_pass_are_found_and_each_says_where_it_is() -> None:
    async with consul_server() as server:
        server.register(
            Instance("10.0.0.1", 80, meta={"region": "eu", "zone": "eu-1"}),
            Instance("10.0.0.2", 80, node_meta={"region": "us"}, tags=("blue", "v2")),
            Instance("10.0.0.3", 80, passing=False),
            Instance("svc.invalid", 80, node_address="10.0.0.4"),
        )
        found = await ask(by_consul(server.url))
        assert addresses(found) == ["10.0.0.1:80@eu/eu-1", "10.0.0.2:80@us", "10.0.0.4:80@dc1"]
        assert len((await ask(by_consul(server.url, passing=False))).endpoints) == 4
        assert addresses(await ask(by_consul(server.url, tags="blue"))) == ["10.0.0.2:80@us"]
        placed = parse_discover({"consul": {"url": server.url, "service": "checkout"}, "location": "ap/ap-1"})
        assert addresses(await ask(placed))[2] == "10.0.0.4:80@ap/ap-1"


async def test_a_query_waits_for_a_change_and_an_index_that_went_back_is_begun_anew() -> None:
    async with consul_server() as server, lookup() as asking:
        server.register(Instance("10.0.0.1", 80))
        discover = by_consul(server.url, wait="30s")
        first = await asking.ask(discover, None)
        async with asyncio.TaskGroup() as group:
            later = group.create_task(asking.ask(discover, first))
            await eventually(lambda: server.waiting)
            server.register(Instance("10.0.0.2", 80))
        assert addresses(later.result()) == ["10.0.0.2:80@dc1"]
        assert server.asked[-1]["index"] == first.mark == "11"
        server.index = 3  # another Consul, or a restored one
        async with asyncio.TaskGroup() as group:
            after = group.create_task(asking.ask(discover, later.result()))
            await eventually(lambda: server.waiting)
            server.nudge()
        assert after.result().mark == ""
        assert (await asking.ask(discover, None)).mark == "3"


async def test_stale_answers_are_taken_as_far_as_they_may_be() -> None:
    async with consul_server() as server:
        server.register(Instance("10.0.0.1", 80))
        discover = by_consul(server.url, max_stale="5s")
        server.stale_ms = 4_000
        await ask(discover)
        assert [("stale" in each) for each in server.asked] == [True]
        server.stale_ms = 6_000
        await ask(discover)
        assert [("stale" in each) for each in server.asked] == [True, True, False]
        server.leader = False
        assert "knows of no leader" in await fault(discover)


async def test_a_token_comes_from_the_environment_and_is_told_to_nobody() -> None:
    async with consul_server() as server:
        server.token = "s3cret"  # noqa: S105
        server.register(Instance("10.0.0.1", 80))
        discover = by_consul(server.url, token_env=TOKEN)
        assert len((await ask(discover, **{TOKEN: "s3cret"})).endpoints) == 1
        words = await fault(discover, **{TOKEN: "wr0ng"})
        assert "HTTP 403" in words
        assert "wr0ng" not in words
        assert await fault(discover) == (
            f"consul.token_env: the server's environment has no {TOKEN}; start the server with it, or leave it out"
        )


async def test_a_token_is_read_from_its_file_for_each_question(tmp_path: Path) -> None:
    file = tmp_path / "token"
    environment = {f"{TOKEN}_FILE": str(file)}
    async with consul_server() as server:
        server.register(Instance("10.0.0.1", 80))
        discover = by_consul(server.url, token_env=TOKEN)
        assert await fault(discover, **environment) == (
            f"the file of {TOKEN}_FILE cannot be read: No such file or directory"
        )
        for secret in ("f1rst", "n3xt"):
            server.token = secret
            file.write_text(f"{secret}\n")
            assert len((await ask(discover, **environment)).endpoints) == 1
        for nothing in ("", "tw0\nlines", "x" * 20_000):
            file.write_text(nothing)
            words = await fault(discover, **environment)
            assert words.startswith(f"the file of {TOKEN}_FILE holds nothing that can be sent")
        file.write_bytes(b"\xff")
        assert await fault(discover, **environment) == f"the file of {TOKEN}_FILE cannot be read: is no text"


async def test_what_a_service_is_narrowed_by_is_asked_in_consuls_words() -> None:
    async with consul_server() as server:
        server.register(Instance("10.0.0.1", 80))
        narrowed = {"datacenter": "dc2", "namespace": "shop", "partition": "eu", "peer": "partner"}
        await ask(by_consul(server.url, filter='Service.Meta.version == "v2"', **narrowed))
        assert server.asked[-1] == {
            "passing": "1",
            "dc": "dc2",
            "ns": "shop",
            "partition": "eu",
            "peer": "partner",
            "filter": 'Service.Meta.version == "v2"',
        }
        server.status, server.said = 400, 'Invalid query parameter: "ns"\n' + "x" * 1000
        words = await fault(by_consul(server.url, namespace="shop"))
        assert "HTTP 400 from" in words
        assert 'checkout: Invalid query parameter: "ns" xxx' in words
        assert len(words) < 300


async def test_what_consul_does_wrong_is_told() -> None:
    async with consul_server() as server:
        server.status = 500
        assert await fault(by_consul(server.url)) == f"HTTP 500 from {server.url[7:]}/v1/health/service/checkout"
        server.status = 200
        server.register(Instance("db.internal", 80))
        assert "it names 'db.internal:80'" in await fault(by_consul(server.url))
        server.register(Instance("10.0.0.1", 0))
        assert "'10.0.0.1-0' has no port" in await fault(by_consul(server.url))
        server.register(Instance("10.0.0.1", True))
        assert "'10.0.0.1-True' has no port" in await fault(by_consul(server.url))
    assert "connection refused" in (await fault(by_consul(server.url))).lower()


# --- http_sd ---


def by_http(url: str, **words: object) -> Discover:
    return parse_discover({"http_sd": {"url": url, **words}, "timeout": "2s"})


async def test_targets_are_taken_with_their_location_and_only_of_the_groups_that_are_asked_for() -> None:
    async with sd_server() as server:
        server.document = [
            {"targets": ["10.0.0.1:80", "[::1]:80"], "labels": {"__meta_location": "eu/eu-1", "env": "prod"}},
            {"targets": ["10.0.0.1:80"], "labels": {"env": "prod"}},
            {"targets": ["10.0.0.9:80"], "labels": {"env": "test", "place": "us"}},
        ]
        found = await ask(by_http(server.url, labels={"env": "prod"}))
        assert addresses(found) == ["10.0.0.1:80@eu/eu-1", "[::1]:80@eu/eu-1"]
        test = await ask(by_http(server.url, labels={"env": "test"}, location_label="place"))
        assert addresses(test) == ["10.0.0.9:80@us"]


async def test_what_has_not_changed_is_not_sent_again() -> None:
    async with sd_server() as server, lookup() as asking:
        server.targets("10.0.0.1:80")
        first = await asking.ask(by_http(server.url), None)
        assert (await asking.ask(by_http(server.url), first)).endpoints == first.endpoints
        server.targets("10.0.0.2:80")
        assert addresses(await asking.ask(by_http(server.url), first)) == ["10.0.0.2:80"]
        assert server.answered == [200, 304, 200]


@pytest.mark.parametrize(
    ("document", "words"),
    [
        ({"targets": []}, "it is no list of"),
        (["10.0.0.1:80"], "[0] is no"),
        ([{"targets": ["10.0.0.1"]}], "[0].targets[0]: '10.0.0.1' is no IP:PORT"),
        ([{"targets": ["db.internal:80"]}], "it names 'db.internal:80': host: 'db.internal' is no IP address"),
        ([{"targets": ["10.0.0.1:0"]}], "it names '10.0.0.1:0'"),
        ([{"targets": ["10.0.0.1:80"], "labels": {"__meta_location": "e u"}}], "which is no region/zone"),
    ],
)
async def test_an_answer_that_is_no_list_of_targets_is_told(document: object, words: str) -> None:
    async with sd_server() as server:
        server.document = document
        assert words in await fault(by_http(server.url))


async def test_what_an_endpoint_does_wrong_is_told() -> None:
    async with sd_server() as server:
        server.targets("10.0.0.1:80")
        server.content_type = "text/html"
        assert "answers text/html, which must be application/json" in await fault(by_http(server.url))
        server.content_type, server.raw = "application/json", b"[{"
        assert "it is no JSON" in await fault(by_http(server.url))
        server.raw, server.key = None, "Bearer k3y"
        discover = by_http(server.url, headers_env={"Authorization": TOKEN})
        assert "HTTP 401" in await fault(discover, **{TOKEN: "Bearer wr0ng"})
        assert len((await ask(discover, **{TOKEN: "Bearer k3y"})).endpoints) == 1
        server.status, server.key = 302, ""
        assert "redirects are not followed" in await fault(by_http(server.url))
        server.status, server.raw = 200, b" " * (33 * 1024 * 1024)
        assert "is longer than" in await fault(by_http(server.url))


async def test_too_many_backends_are_refused() -> None:
    async with sd_server() as server:
        server.targets(*(f"10.{n >> 16}.{n >> 8 & 255}.{n & 255}:80" for n in range(10_001)))
        assert "it names more than 10000 backends" in await fault(by_http(server.url))
