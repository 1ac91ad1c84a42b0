"""On a real Envoy: testers and matches find their version, copies harm nobody, users stay, and back is one push."""

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import yaml

from rollout.bootstrap import Proxy, bootstrap
from rollout.demo.processes import Envoy, until
from rollout.demo.world import Cast, World
from rollout.exposure import FULL_BP, Match, Preview, Sticky
from rollout.spec import parse_endpoint
from rollout.traffic.compiler import ServiceTraffic, VersionTraffic
from rollout.traffic.publisher import Publisher
from rollout.traffic.routing import Routing
from xds.cache import Cache
from xds.edge.grpcio import GrpcEdge
from xds.resources import CLUSTERS
from xds.session import ControlPlane

pytestmark = pytest.mark.envoy

USERS = 2_000
AT_ONCE = 24
EXTENSIONS = "type.googleapis.com/envoy.extensions.filters"
LOOPBACK = {"cidr_ranges": [{"address_prefix": "127.0.0.0", "prefix_len": 8}]}
TRACING = {
    "random_sampling": {"value": 100},
    "provider": {
        "name": "zipkin",
        "typed_config": {
            "@type": "type.googleapis.com/envoy.config.trace.v3.ZipkinConfig",
            "collector_cluster": "nowhere",
            "collector_endpoint": "/",
            "collector_endpoint_version": "HTTP_JSON",
        },
    },
}
RDS = {"rds": {"route_config_name": "edge", "config_source": {"ads": {}, "resource_api_version": "V3"}}}
SHADOW = Routing("v2", shadow=True)


def listener(name: str, **manager: Any) -> dict[str, Any]:
    router = {"name": "router", "typed_config": {"@type": f"{EXTENSIONS}.http.router.v3.Router"}}
    kind = f"{EXTENSIONS}.network.http_connection_manager.v3.HttpConnectionManager"
    config = {"@type": kind, "stat_prefix": name, "http_filters": [router], **manager}
    address = {"socket_address": {"address": "127.0.0.1", "port_value": 0}}
    return {
        "name": name,
        "address": address,
        "filter_chains": [{"filters": [{"name": "http", "typed_config": config}]}],
    }


def backend(version: str) -> dict[str, Any]:
    """A listener that answers as a backend of this version would; a copy that says it is one gets a 202."""
    copy = [
        {"name": "x-rollout-mirror", "string_match": {"exact": "true"}},
        {"name": ":authority", "string_match": {"suffix": "-shadow"}, "invert_match": True},
    ]
    saw = {"header": {"key": "x-saw", "value": "%REQ(x-rollout-version)%"}, "keep_empty_value": False}
    routes = [
        {"match": {"prefix": "/", "headers": copy}, "direct_response": {"status": 202}},
        {
            "match": {"prefix": "/"},
            "direct_response": {"status": 200, "body": {"inline_string": version}},
            "response_headers_to_add": [saw],
        },
    ]
    return listener(version, route_config={"virtual_hosts": [{"name": "all", "domains": ["*"], "routes": routes}]})


def cluster(name: str) -> dict[str, Any]:
    source = {"eds_config": {"ads": {}, "resource_api_version": "V3"}}
    return {"name": name, "type": "EDS", "connect_timeout": "1s", "eds_cluster_config": source}


SHOP = {
    "listeners": [
        listener("outside", **RDS),
        listener("traced", use_remote_address=True, tracing=TRACING, **RDS),
        listener("inside", use_remote_address=True, internal_address_config=LOOPBACK, **RDS),
        backend("v1"),
        backend("v2"),
    ],
    "routes": [
        {
            "name": "edge",
            "virtual_hosts": [
                {
                    "name": "shop",
                    "domains": ["*"],
                    "routes": [
                        {
                            "match": {"prefix": "/mirrored"},
                            "route": {"cluster": "checkout", "request_mirror_policies": [{"cluster": "nowhere"}]},
                        },
                        {"match": {"prefix": "/"}, "route": {"cluster": "checkout"}},
                    ],
                }
            ],
        }
    ],
    "clusters": [cluster("checkout"), {"name": "nowhere", "type": "STATIC", "connect_timeout": "1s"}],
    "endpoints": [
        {
            "cluster_name": "checkout",
            "endpoints": [
                {
                    "lb_endpoints": [
                        {"endpoint": {"address": {"socket_address": {"address": "127.0.0.1", "port_value": 1}}}}
                    ]
                }
            ],
        }
    ],
}


@dataclass(slots=True)
class Shop:
    """A control plane in this process, one Envoy, and in it the backends; `ports` has each listener's address."""

    cache: Cache
    publisher: Publisher
    envoy: Envoy
    session: aiohttp.ClientSession
    ports: Mapping[str, str]

    async def serve(self, candidate_bp: int, routing: Routing, *, dead: bool = False) -> None:
        stable = VersionTraffic("v1", FULL_BP - candidate_bp, (parse_endpoint(self.ports["v1"]),))
        there = "127.0.0.1:1" if dead else self.ports["v2"]
        candidate = VersionTraffic("v2", candidate_bp, (parse_endpoint(there),))
        self.publisher.serve("checkout", ServiceTraffic("v1", (stable, candidate), routing))
        await until(lambda: not self.publisher.lagging("checkout", ()), within_s=120, what="Envoy to have the split")
        assert all(state.rejection is None for node in self.cache.connected() for state in node.types.values())

    async def get(self, listener: str = "outside", path: str = "/", **headers: str) -> aiohttp.ClientResponse:
        named = {key.replace("_", "-"): value for key, value in headers.items()}
        async with self.session.get(f"http://{self.ports[listener]}{path}", headers=named) as answer:
            await answer.read()
            return answer

    async def version(self, listener: str = "outside", path: str = "/", **headers: str) -> str:
        answer = await self.get(listener, path, **headers)
        assert answer.status == 200
        return await answer.text()

    async def each(self, requests: Iterable[Mapping[str, str]], listener: str = "outside") -> list[str]:
        """Return the versions that answer these requests, sent some at a time."""
        wanted = list(requests)
        found = [""] * len(wanted)
        left = iter(range(len(wanted)))

        async def work() -> None:
            for number in left:
                found[number] = await self.version(listener, **wanted[number])

        await asyncio.gather(*(work() for _ in range(AT_ONCE)))
        return found

    async def count(self, stat: str) -> int:
        """Add up the stats of a name, which is a regular expression."""
        text = await self.envoy.admin_get(f"/stats?filter=^{stat}$")
        return sum(int(line.rpartition(":")[2]) for line in text.splitlines())


@pytest.fixture
async def shop(tmp_path: Path) -> AsyncIterator[Shop]:
    async with AsyncExitStack() as stack:
        cache = Cache()
        publisher = Publisher(cache)
        publisher.load({"shop.yaml": yaml.safe_dump(SHOP)}, {})
        edge = GrpcEdge(ControlPlane(cache), time.monotonic)
        port = await edge.start("127.0.0.1:0")
        stack.push_async_callback(edge.stop, 0)
        proxy = Proxy("edge-1", "edge", "eu", "eu-1", f"127.0.0.1:{port}", "127.0.0.1:0", delta=True)
        envoy = await stack.enter_async_context(Envoy("edge-1", bootstrap(proxy), tmp_path))
        await envoy.until_ready(20)
        timeout, jar = aiohttp.ClientTimeout(total=20), aiohttp.DummyCookieJar()
        session = await stack.enter_async_context(aiohttp.ClientSession(timeout=timeout, cookie_jar=jar))
        yield Shop(cache, publisher, envoy, session, await envoy.listeners())


async def test_preview_header_leads_inside_and_is_removed_outside(shop: Shop) -> None:
    await shop.serve(0, replace(SHADOW, preview=Preview()))
    answer = await shop.get("inside", x_rollout_version="v2")
    assert (await answer.text(), answer.headers["x-saw"]) == ("v2", "v2")
    assert await shop.count("cluster.checkout@v2.shadow.upstream_rq_completed") == 1
    assert await shop.count("cluster.checkout@v2.upstream_rq_completed") == 0
    for outside in ("outside", "traced"):
        answer = await shop.get(outside, x_rollout_version="v2")
        assert (await answer.text(), "x-saw" in answer.headers) == ("v1", False)
    assert await shop.version("inside", x_rollout_version="v3") == "v1"  # no version is called so
    await shop.serve(5000, replace(SHADOW, preview=Preview()))
    assert await shop.each([{"x_rollout_version": "v1"}] * 40, "inside") == ["v1"] * 40
    await shop.serve(0, replace(SHADOW, preview=Preview(header="x-try", external=True)))
    assert await shop.version("outside", x_try="v2") == "v2"
    await shop.serve(0, SHADOW)
    assert await shop.version("inside", x_rollout_version="v2", x_try="v2") == "v1"


async def test_only_requests_that_match_get_the_candidate(shop: Shop) -> None:
    by_header = Match.model_validate({"headers": {"x-group": "b", "x-country": {"prefix": "at"}}})
    by_cookie = Match.model_validate({"cookies": {"beta": {"present": True}}})
    by_regex = Match.model_validate({"cookies": {"lang": {"regex": "de|fr"}}})
    await shop.serve(0, replace(SHADOW, match=(by_header, by_cookie, by_regex)))
    matching = ({"x_group": "b", "x_country": "at-9"}, {"cookie": "a=1; beta=yes"}, {"cookie": "lang=fr"})
    others: tuple[dict[str, str], ...] = (
        {},
        {"x_group": "b"},
        {"x_group": "bb", "x_country": "at"},
        {"cookie": "lang=frr; b=beta"},
    )
    assert await shop.each(matching) == ["v2"] * 3
    assert await shop.each(others) == ["v1"] * 4
    assert await shop.count("cluster.checkout@v2.upstream_rq_completed") == 3


async def test_copies_go_to_the_shadow_and_nobody_feels_it(shop: Shop) -> None:
    await shop.serve(0, replace(SHADOW, mirror_bp=2500))
    assert Counter(await shop.each([{}] * 800)) == {"v1": 800}
    copied = await shop.count("cluster.checkout@v2.shadow.upstream_rq_202")
    assert 140 < copied < 260  # five standard deviations beside 200
    assert await shop.count("cluster.checkout@v2.upstream_rq_total") == 0
    before = await shop.count("cluster.nowhere.upstream_cx_none_healthy")
    assert await shop.version(path="/mirrored") == "v1"
    assert await shop.count("cluster.nowhere.upstream_cx_none_healthy") == before + 1  # the route's own mirror
    await shop.serve(0, replace(SHADOW, mirror_bp=FULL_BP), dead=True)
    assert Counter(await shop.each([{}] * 50)) == {"v1": 50}
    assert await shop.count("cluster.checkout@v2.shadow.upstream_rq_503") == 50


@pytest.mark.parametrize("listener", ["outside", "traced"])
async def test_nobody_leaves_the_candidate_while_its_weight_grows(shop: Shop, listener: str) -> None:
    """By a cookie, that Envoy gives with the first answer; tracing rewrites the id that it is made of."""
    routing = replace(SHADOW, sticky=Sticky.model_validate({"cookie": "shop-user", "ttl": "1h"}))
    await shop.serve(100, routing)
    users: list[tuple[str, str]] = []

    async def arrive() -> None:
        while len(users) < USERS:
            answer = await shop.get(listener)
            users.append((answer.headers["set-cookie"], await answer.text()))

    await asyncio.gather(*(arrive() for _ in range(AT_ONCE)))
    assert users[0][0].partition("; ")[2] == "Max-Age=3600; Path=/; HttpOnly"
    cookies = [{"cookie": f"other=1; {given.partition(';')[0]}"} for given, _ in users]
    assert len({each["cookie"] for each in cookies}) == len(users)
    there = [version == "v2" for _, version in users]
    for weight_bp in (100, 1000, 5000):
        await shop.serve(weight_bp, routing)
        versions = await shop.each(cookies, listener)
        now = [version == "v2" for version in versions]
        assert (
            now == there if weight_bp == 100 else all(after for before, after in zip(there, now, strict=True) if before)
        )
        assert abs(sum(now) / len(now) - weight_bp / FULL_BP) < 0.05
        there = now
    assert "set-cookie" not in (await shop.get(listener, **cookies[0])).headers
    assert await shop.version(listener, x_request_id="a;b") in ("v1", "v2")


async def test_users_told_by_a_header_stay_and_all_go_back_with_one_push(shop: Shop) -> None:
    routing = replace(SHADOW, sticky=Sticky(header="x-user"), preview=Preview())
    users = [{"x_user": f"user-{number}"} for number in range(USERS)]
    there = [False] * USERS
    for weight_bp in (100, 1000, 5000):
        await shop.serve(weight_bp, routing)
        now = [version == "v2" for version in await shop.each(users)]
        assert sum(now) > sum(there)
        assert all(after for before, after in zip(there, now, strict=True) if before)
        there = now
    clusters = shop.cache.fleet.common.views[CLUSTERS] if shop.cache.fleet else None
    counted = ("cluster_manager.cds.update_success", "http.[a-z]*.rds.edge.update_success")
    before = [await shop.count(stat) for stat in counted]
    await shop.serve(0, routing)
    assert [await shop.count(stat) for stat in counted] == [before[0], before[1] + 1]
    assert shop.cache.fleet is not None
    assert shop.cache.fleet.common.views[CLUSTERS] is clusters
    assert Counter(await shop.each(users[:100])) == {"v1": 100}


STAGES = [
    {"expose": False, "hold": "1s"},
    {"mirror": "50%", "hold": "1s", "checks": [{"metric": "error_share", "max": "1%", "interval": "1s"}]},
    {"match": {"headers": {"x-group": "beta"}}, "hold": "3s"},
    {"weight": "100%", "hold": "1s"},
]


async def test_rollout_goes_by_preview_and_copies_and_matches_to_all(tmp_path: Path) -> None:
    """The whole engine. Without readings of the shadow's stats the check of the second stage would never pass."""
    cast = Cast({"v1": 1, "v2": 1}, envoys=(("eu/eu-1", True),))
    async with World(tmp_path, cast) as world, aiohttp.ClientSession() as session:
        [target] = await world.targets()
        found: set[tuple[int, str, str]] = set()
        ended = asyncio.Event()

        async def ask(group: str) -> None:
            while not ended.is_set():
                async with session.get(f"http://{target}/", headers={"x-group": group}) as answer:
                    version = (await answer.text()).strip()
                rollout = (await world.service())["rollout"]  # no earlier a stage than that of the answer
                found.add((rollout["stage"] if rollout else 0, group, version))

        async with asyncio.TaskGroup() as tasks:
            for group in ("beta", "others"):
                tasks.create_task(ask(group))
            await world.deploy("v2", {"stages": STAGES, "gate": {"margin": "20%", "warmup": "1s"}})
            await world.until_phase("completed", within_s=90)
            ended.set()
    assert {version for stage, _, version in found if stage < 2} == {"v1"}
    assert {version for stage, group, version in found if stage == 2 and group == "others"} == {"v1"}
    assert (2, "beta", "v2") in found
