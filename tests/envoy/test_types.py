"""Every further type that an Envoy asks for by ADS: it is given, changed and taken away, and the Envoy works by it."""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import yaml
from aiohttp import web

from rollout.bootstrap import Proxy, bootstrap
from rollout.demo.processes import Envoy, until
from rollout.exposure import FULL_BP
from rollout.spec import parse_endpoint
from rollout.traffic.compiler import ServiceTraffic, VersionTraffic
from rollout.traffic.publisher import INITIAL, Publisher
from xds.cache import Cache
from xds.edge.grpcio import GrpcEdge
from xds.session import ControlPlane, Events

pytestmark = pytest.mark.envoy

SOON_S = 10.0
TTL_S = 2
EXTENSIONS = "type.googleapis.com/envoy.extensions.filters"
ADS = {"ads": {}, "resource_api_version": "V3"}
MUTATION = f"{EXTENSIONS}.http.header_mutation.v3.HeaderMutation"
ON_DEMAND = f"{EXTENSIONS}.http.on_demand.v3.OnDemand"
Bootstrap = dict[str, Any]
Words = Mapping[str, Any]


def listener(name: str, *filters: Words, **fields: Any) -> dict[str, Any]:
    """Make a listener; `filters` stand before the router, `fields` say where its routes are."""
    router = {"name": "router", "typed_config": {"@type": f"{EXTENSIONS}.http.router.v3.Router"}}
    manager = {
        "@type": f"{EXTENSIONS}.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": name,
        "http_filters": [*filters, router],
        **(fields or {"rds": {"route_config_name": name, "config_source": ADS}}),
    }
    address = {"socket_address": {"address": "127.0.0.1", "port_value": 0}}
    return {"name": name, "address": address, "filter_chains": [{"filters": [{"name": "h", "typed_config": manager}]}]}


def says(text: str, name: str = "all", *domains: str) -> dict[str, Any]:
    """Make a virtual host that answers with a text itself."""
    answer = {"status": 200, "body": {"inline_string": text}}
    routes = [{"match": {"prefix": "/"}, "direct_response": answer}]
    return {"name": name, "domains": list(domains or ("*",)), "routes": routes}


def leads_to(cluster: str, name: str = "all", *domains: str) -> dict[str, Any]:
    routes = [{"match": {"prefix": "/"}, "route": {"cluster": cluster}}]
    return {"name": name, "domains": list(domains or ("*",)), "routes": routes}


def adds_header(value: str) -> dict[str, Any]:
    """Make an extension config: a filter that adds a header to each answer."""
    change = {"append": {"header": {"key": "x-extension", "value": value}}}
    return {"name": "marker", "typed_config": {"@type": MUTATION, "mutations": {"response_mutations": [change]}}}


class Place:
    """A control plane in this process, and one Envoy; `refused` has the text of every NACK."""

    def __init__(self, protocol: str, folder: Path) -> None:
        self.protocol = protocol
        self.folder = folder
        self.refused: list[str] = []
        self.port = 0
        self.ends: list[Callable[[], Any]] = []

    async def serve(self, config: Words) -> None:
        self.cache = Cache()
        self.publisher = Publisher(self.cache)
        self.load(config)
        self.edge = GrpcEdge(ControlPlane(self.cache, Events(answered=self._answered)), time.monotonic)
        self.port = await self.edge.start(f"127.0.0.1:{self.port}")

    def _answered(self, _: object, answer: Any) -> None:
        if answer.rejected:
            self.refused.append(str(answer))

    def load(self, config: Words) -> None:
        self.publisher.load({"fleet.yaml": yaml.safe_dump(dict(config))}, {})

    async def run(self, change: Callable[[Bootstrap], None] = lambda _: None) -> None:
        """Start the Envoy, with its bootstrap changed, and wait until it serves."""
        proxy = Proxy(
            "edge-1", "edge", "eu", "eu-1", f"127.0.0.1:{self.port}", "127.0.0.1:0", delta=self.protocol == "delta"
        )
        words = json.loads(json.dumps(bootstrap(proxy)))
        change(words)
        self.envoy = Envoy("envoy", words, self.folder)
        await self.envoy.start()
        await self.envoy.until_ready(within_s=SOON_S)  # without what it waits for it would take 15 s
        self.listeners = await self.envoy.listeners()

    async def ask(self, listener: str, host: str = "shop.example", **headers: str) -> tuple[int, str]:
        """Return status and text of an answer, the header of the extension behind it."""
        async with (
            aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=20)) as session,
            session.get(f"http://{self.listeners[listener]}/", headers={"host": host, **headers}) as answer,
        ):
            return answer.status, (await answer.text() + " " + answer.headers.get("x-extension", "")).strip()

    async def until_answered(self, wanted: tuple[int, str], *where: str, **headers: str) -> None:
        async def answered() -> bool:
            return await self.ask(*where, **headers) == wanted

        await until(answered, within_s=SOON_S, what=f"the answer {wanted} at {where} {headers} ({self.refused})")

    async def runtime(self, key: str) -> str | None:
        entries = json.loads(await self.envoy.admin_get("/runtime"))["entries"]
        return str(entries[key]["final_value"]) if key in entries else None

    async def until_runtime(self, key: str, value: str | None) -> None:
        async def is_so() -> bool:
            return await self.runtime(key) == value

        await until(is_so, within_s=SOON_S, what=f"the runtime to have {key}: {value}")

    async def clusters(self) -> frozenset[str]:
        dump = json.loads(await self.envoy.admin_get("/config_dump?resource=dynamic_active_clusters"))
        return frozenset(each["cluster"]["name"] for each in dump.get("configs", []))

    async def backend(self, text: str) -> str:
        """Start a backend that answers with this text; return its address."""

        async def answer(_: web.Request) -> web.Response:
            return web.Response(text=text)

        app = web.Application()
        app.router.add_get("/", answer)
        runner = web.AppRunner(app, shutdown_timeout=0.1)
        await runner.setup()
        self.ends.append(runner.cleanup)
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        return f"127.0.0.1:{runner.addresses[0][1]}"

    async def end(self) -> None:
        if hasattr(self, "envoy"):
            await self.envoy.kill()
        await self.edge.stop(0)
        for each in self.ends:
            await each()


@pytest.fixture
def protocol() -> str:
    return "delta"


@pytest.fixture
async def place(protocol: str, tmp_path: Path) -> AsyncIterator[Place]:
    made = Place(protocol, tmp_path)
    try:
        yield made
    finally:
        await made.end()


both = pytest.mark.parametrize("protocol", ["sotw", "delta"])


def with_runtime(words: Bootstrap) -> None:
    words["layered_runtime"]["layers"].insert(0, {"name": "fleet", "rtds_layer": {"name": "fleet", "rtds_config": ADS}})


def with_ttls(words: Bootstrap) -> None:
    with_runtime(words)
    words["node"]["client_features"] = ["xds.config.supports-resource-ttl"]


def service(name: str, address: str) -> dict[str, Any]:
    host, _, port = address.rpartition(":")
    socket = {"socket_address": {"address": host, "port_value": int(port)}}
    cluster = {"name": name, "type": "EDS", "connect_timeout": "1s", "eds_cluster_config": {"eds_config": ADS}}
    endpoints = [{"lb_endpoints": [{"endpoint": {"address": socket}}]}]
    return {"clusters": [cluster], "endpoints": [{"cluster_name": name, "endpoints": endpoints}]}


def shifted_to(address: str) -> ServiceTraffic:
    """Make the traffic of a service that has all gone to a new version at this address."""
    versions = (VersionTraffic(INITIAL, 0, None), VersionTraffic("v2", FULL_BP, (parse_endpoint(address),)))
    return ServiceTraffic(INITIAL, versions)


@both
async def test_runtime_layer_is_delivered_changed_and_taken_away(place: Place) -> None:
    def config(*layers: Words) -> Words:
        return {"listeners": [listener("edge")], "routes": [{"name": "edge"}], "runtimes": list(layers)}

    await place.serve(config({"name": "fleet", "layer": {"shop.limit": 7}}))
    await place.run(with_runtime)
    assert await place.runtime("shop.limit") == "7"
    place.load(config({"name": "fleet", "layer": {"shop.limit": 8}}))
    await place.until_runtime("shop.limit", "8")
    place.load(config({"name": "fleet"}))
    await place.until_runtime("shop.limit", None)
    assert place.refused == []


@both
async def test_extension_config_is_delivered_and_changed_without_a_new_listener(place: Place) -> None:
    marker = {"name": "marker", "config_discovery": {"config_source": ADS, "type_urls": [MUTATION]}}
    world = {"listeners": [listener("edge", marker)], "routes": [{"name": "edge", "virtual_hosts": [says("hello")]}]}
    await place.serve({**world, "extension_configs": [adds_header("one")]})
    await place.run()
    assert await place.ask("edge") == (200, "hello one")
    place.load({**world, "extension_configs": [adds_header("two")]})
    await place.until_answered((200, "hello two"), "edge")
    stats = await place.envoy.admin_get("/stats?filter=listener_modified|http_filter.marker.config_reload$")
    assert "listener_manager.listener_modified: 0" in stats
    assert place.refused == []


def scoped_listener(*filters: Words) -> dict[str, Any]:
    key = {"fragments": [{"header_value_extractor": {"name": "x-tenant", "index": 0}}]}
    source = {"scoped_rds": {"scoped_rds_config_source": ADS}}
    scopes = {"name": "tenants", "scope_key_builder": key, "rds_config_source": ADS, **source}
    return listener("edge", *filters, scoped_routes=scopes)


def scope(tenant: str, routes: str | Words) -> dict[str, Any]:
    where = {"route_configuration_name": routes} if isinstance(routes, str) else {"route_configuration": routes}
    return {"name": f"of-{tenant}", "key": {"fragments": [{"string_key": tenant}]}, **where}


@both
async def test_scoped_routes_are_delivered_changed_and_taken_away(place: Place) -> None:
    def config(*scopes: Words) -> Words:
        routes = [{"name": f"for-{name}", "virtual_hosts": [says(name)]} for name in ("a", "b")]
        return {"listeners": [scoped_listener()], "routes": routes, "scoped_routes": list(scopes)}

    def tenant(name: str) -> Mapping[str, str]:
        return {"x-tenant": name}

    await place.serve(config(scope("a", "for-a"), scope("b", "for-b")))
    await place.run()
    await place.until_answered((200, "a"), "edge", **tenant("a"))
    await place.until_answered((200, "b"), "edge", **tenant("b"))
    assert await place.ask("edge", **tenant("c")) == (404, "")
    place.load(config(scope("a", "for-b"), scope("c", {"name": "own", "virtual_hosts": [says("inline")]})))
    await place.until_answered((200, "b"), "edge", **tenant("a"))
    await place.until_answered((200, "inline"), "edge", **tenant("c"))
    await place.until_answered((404, ""), "edge", **tenant("b"))
    assert place.refused == []


@both
async def test_rollout_shifts_what_scopes_lead_to(place: Place) -> None:
    v1, v2 = await place.backend("v1"), await place.backend("v2")
    scopes = [scope("a", "shared"), scope("b", {"name": "own", "virtual_hosts": [leads_to("shop")]})]
    routes = [{"name": "shared", "virtual_hosts": [leads_to("shop")]}]
    await place.serve(
        {"listeners": [scoped_listener()], "routes": routes, "scoped_routes": scopes, **service("shop", v1)}
    )
    await place.run()
    for tenant in ("a", "b"):
        await place.until_answered((200, "v1"), "edge", **{"x-tenant": tenant})
    place.publisher.serve("shop", shifted_to(v2))
    for tenant in ("a", "b"):
        await place.until_answered((200, "v2"), "edge", **{"x-tenant": tenant})
    await until(lambda: not place.publisher.lagging("shop", ()), within_s=SOON_S, what="the Envoy to have converged")
    assert place.refused == []


@both
async def test_routes_of_a_scope_on_demand_come_with_its_first_request(place: Place) -> None:
    on_demand = {"name": "envoy.filters.http.on_demand", "typed_config": {"@type": ON_DEMAND}}
    edge = scoped_listener(on_demand)
    routes = [{"name": f"for-{name}", "virtual_hosts": [says(name)]} for name in ("a", "b")]
    scopes = [{**scope(name, f"for-{name}"), "on_demand": True} for name in ("a", "b")]
    await place.serve({"listeners": [edge], "routes": routes, "scoped_routes": scopes})
    await place.run()
    assert await place.ask("edge", **{"x-tenant": "a"}) == (200, "a")
    assert await place.ask("edge", **{"x-tenant": "b"}) == (200, "b")
    assert await place.ask("edge", **{"x-tenant": "c"}) == (404, "")
    assert place.refused == []


def hosts_on_demand(*hosts: Words, **more: Any) -> Words:
    on_demand = {"name": "envoy.filters.http.on_demand", "typed_config": {"@type": ON_DEMAND}}
    routes = [{"name": "edge", "vhds": {"config_source": ADS}}]
    return {"listeners": [listener("edge", on_demand)], "routes": routes, "virtual_hosts": list(hosts), **more}


async def test_virtual_hosts_are_delivered_changed_and_taken_away_and_strangers_get_404(place: Place) -> None:
    one, two = says("one", "edge/one", "one.example", "*.one.example"), says("two", "edge/two", "two.example")
    await place.serve(hosts_on_demand(one, two))
    await place.run()
    assert await place.ask("edge", "one.example") == await place.ask("edge", "www.one.example") == (200, "one")
    assert await place.ask("edge", "two.example") == (200, "two")
    for _ in range(2):
        assert await place.ask("edge", "three.example") == (404, "")
    place.load(hosts_on_demand(says("other", "edge/one", "one.example"), says("three", "edge/3", "three.example")))
    await place.until_answered((200, "other"), "edge", "one.example")
    await place.until_answered((200, "three"), "edge", "three.example")
    await place.until_answered((404, ""), "edge", "two.example")
    await place.until_answered((404, ""), "edge", "www.one.example")
    assert place.refused == []


async def test_virtual_hosts_stay_when_the_server_restarts_and_follow_it_after(place: Place) -> None:
    hosts = says("one", "edge/one", "one.example"), says("two", "edge/two", "two.example")
    await place.serve(hosts_on_demand(*hosts))
    await place.run()
    assert await place.ask("edge", "gone.example") == (404, "")
    await place.edge.stop(0)
    await place.serve(hosts_on_demand(hosts[0], says("new", "edge/new", "gone.example")))
    await place.until_answered((200, "new"), "edge", "gone.example")
    await place.until_answered((404, ""), "edge", "two.example")
    assert await place.ask("edge", "one.example") == (200, "one")
    assert await place.ask("edge", "unheard.example") == (404, "")
    assert place.refused == []


async def test_rollout_shifts_virtual_hosts(place: Place) -> None:
    v1, v2 = await place.backend("v1"), await place.backend("v2")
    await place.serve(hosts_on_demand(leads_to("shop", "edge/shop", "shop.example"), **service("shop", v1)))
    await place.run()
    assert await place.ask("edge", "shop.example") == (200, "v1")
    place.publisher.serve("shop", shifted_to(v2))
    await place.until_answered((200, "v2"), "edge", "shop.example")
    await until(lambda: not place.publisher.lagging("shop", ()), within_s=SOON_S, what="the Envoy to have converged")
    assert place.refused == []


def clusters_on_demand(**more: Any) -> Words:
    found = {"source": ADS, "timeout": "20s"}
    on_demand = {"name": "envoy.filters.http.on_demand", "typed_config": {"@type": ON_DEMAND, "odcds": found}}
    chosen = {"match": {"prefix": "/"}, "route": {"cluster_header": "x-cluster"}}
    hosts = [{"name": "all", "domains": ["*"], "routes": [chosen]}]
    return {"listeners": [listener("edge", on_demand)], "routes": [{"name": "edge", "virtual_hosts": hosts}], **more}


@pytest.mark.parametrize("wildcard", [True, False], ids=["wildcard", "by_name"])
async def test_cluster_is_found_on_demand_and_one_that_is_not_there_is_refused_at_once(
    place: Place, *, wildcard: bool
) -> None:
    def change(words: Bootstrap) -> None:
        if not wildcard:
            del words["dynamic_resources"]["cds_config"]

    shop, cart = service("shop", await place.backend("shop")), service("cart", await place.backend("cart"))
    await place.serve(clusters_on_demand(**{key: [*shop[key], *cart[key]] for key in shop}))
    await place.run(change)
    known = await place.clusters()
    assert ("shop" in known, "cart" in known) == (wildcard, wildcard)
    started_s = asyncio.get_running_loop().time()
    assert await place.ask("edge", **{"x-cluster": "shop"}) == (200, "shop")
    assert (await place.ask("edge", **{"x-cluster": "gone"}))[0] == 503
    assert asyncio.get_running_loop().time() - started_s < 10  # else Envoy waits for its timeout
    assert ("cart" in await place.clusters()) is wildcard
    assert await place.ask("edge", **{"x-cluster": "shop"}) == (200, "shop")
    assert place.refused == []


async def test_route_to_a_service_finds_its_versions_on_demand(place: Place) -> None:
    def by_name(words: Bootstrap) -> None:
        del words["dynamic_resources"]["cds_config"]

    v1, v2 = await place.backend("v1"), await place.backend("v2")
    routes = [{"name": "edge", "virtual_hosts": [leads_to("shop")]}]
    await place.serve({**clusters_on_demand(**service("shop", v1)), "routes": routes})
    await place.run(by_name)
    assert await place.ask("edge") == (200, "v1")
    assert await place.clusters() == {"shop@initial"}
    place.publisher.serve("shop", shifted_to(v2))
    await place.until_answered((200, "v2"), "edge")
    assert place.refused == []


def expiring(words: Words) -> Words:
    return {"ttl": f"{TTL_S}s", "resource": words}


class Expiring:
    """One resource of each type that may have a TTL, and what an Envoy has of them."""

    def __init__(self, place: Place) -> None:
        self.place = place
        marker = {"name": "marker", "config_discovery": {"config_source": ADS, "type_urls": [MUTATION]}}
        routes = [{"name": name, "virtual_hosts": [says("hello")]} for name in ("edge", "second", "for-a")]
        scoped = {**scoped_listener(), "name": "scoped"}
        self.config: dict[str, Any] = {
            "listeners": [listener("edge", marker), expiring(listener("second")), scoped],
            "routes": routes,
            "runtimes": [expiring({"name": "fleet", "layer": {"fault.share": 50}})],
            "clusters": [{"name": "kept"}, expiring({"name": "lent"})],
            "extension_configs": [expiring(adds_header("one"))],
            "scoped_routes": [scope("a", "for-a")],
        }
        if place.protocol == "delta":
            self.config["listeners"].append(listener("hosts"))
            self.config["routes"].append({"name": "hosts", "vhds": {"config_source": ADS}})
            self.config["virtual_hosts"] = [expiring(says("lent", "hosts/lent", "lent.example"))]
            self.config["scoped_routes"] = [expiring(scope("a", "for-a"))]

    async def there(self) -> set[str]:
        """Return what is there of: all that has a TTL, and what has none."""
        found = {f"listener {name}" for name in await self.place.envoy.listeners()}
        found |= {f"cluster {name}" for name in await self.place.clusters()}
        found |= {"runtime"} if await self.place.runtime("fault.share") == "50" else set()
        found |= {"extension"} if await self.place.ask("edge") == (200, "hello one") else set()
        found |= {"scope"} if (await self.place.ask("scoped", **{"x-tenant": "a"}))[0] == 200 else set()
        if self.place.protocol == "delta":
            found |= {"host"} if (await self.place.ask("hosts", "lent.example"))[0] == 200 else set()
        return found


ALL = {"listener edge", "listener second", "listener scoped", "cluster kept", "cluster lent", "runtime", "extension"}
LEFT_BY_TTL = {
    "sotw": {"listener edge", "listener scoped", "cluster kept", "scope"},
    "delta": {"listener edge", "listener scoped", "listener hosts", "cluster kept"},
}


async def test_envoy_without_delta_refuses_routes_with_virtual_hosts_to_discover(tmp_path: Path) -> None:
    """So lint refuses them when a bootstrap says so."""
    place = Place("sotw", tmp_path)
    try:
        await place.serve(hosts_on_demand(says("one", "edge/one", "one.example")))
        await place.run()
        assert "ADS must use DELTA_GRPC" in place.refused[0]
    finally:
        await place.end()


@both
async def test_what_has_a_ttl_lives_by_heartbeats_and_ends_with_them(place: Place) -> None:
    world = Expiring(place)
    await place.serve(world.config)
    await place.run(with_ttls)
    all_of_it = ALL | {"scope"} | ({"listener hosts", "host"} if place.protocol == "delta" else set())
    await stays(world.there, all_of_it, for_s=1.5 * TTL_S)
    assert place.refused == []
    await place.edge.stop(0)
    left = LEFT_BY_TTL[place.protocol]

    async def is_lost() -> bool:
        return await world.there() == left

    await until(is_lost, within_s=SOON_S, what=f"only {left} to be left")


@both
async def test_client_that_does_not_know_ttls_keeps_what_it_has(place: Place) -> None:
    world = Expiring(place)
    await place.serve(world.config)
    await place.run(with_runtime)
    await place.edge.stop(0)
    await stays(world.there, await world.there(), for_s=1.5 * TTL_S)
    assert "runtime" in await world.there()


async def stays(what: Callable[[], Awaitable[set[str]]], wanted: set[str], for_s: float) -> None:
    """Look again and again whether this is so, for some time."""
    clock = asyncio.get_running_loop().time
    end_s = clock() + for_s

    async def changed_or_over() -> bool:
        assert await what() == wanted
        return clock() > end_s

    await until(changed_or_over, within_s=for_s + SOON_S, what="the time to pass")
