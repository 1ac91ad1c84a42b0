"""Folders of groups over the common files, splits by location, and what a rollout reads of proxies that differ."""

from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from rollout.backends import Backends
from rollout.books import Books
from rollout.cli import app
from rollout.configs import read_configs
from rollout.controller import Controller, Outside
from rollout.drain import Drain
from rollout.errors import Conflict, InvalidSpec
from rollout.exposure import FULL_BP
from rollout.ledger import Ledger
from rollout.metrics import Query, Scrape
from rollout.metrics.envoy import BackendStats, ClusterStats
from rollout.observer import Observer, Stats
from rollout.record import Backend, Rollout
from rollout.spare import healthy_others
from rollout.spec import Strategy, parse_endpoint
from rollout.state import Phase, State
from rollout.store import Store
from rollout.store.sqlite import open_store
from rollout.traffic.compiler import ServiceTraffic, VersionTraffic
from rollout.traffic.groups import Files, FleetTraffic
from rollout.traffic.publisher import INITIAL, Publisher, check, untouched
from tests.rollout.operating import ANN
from tests.xds.client import PROTOCOLS, Wire
from xds.cache import Cache
from xds.errors import InvalidConfig
from xds.node import Node
from xds.resources import CLUSTERS, ENDPOINTS, LISTENERS, ROUTES

both = pytest.mark.parametrize("protocol", PROTOCOLS)

EDS = {"eds_config": {"ads": {}, "resource_api_version": "V3"}}


def service(name: str, *addresses: str, **settings: object) -> dict[str, list[Any]]:
    """Return an EDS cluster with its endpoints."""
    split = [address.rpartition(":") for address in addresses or ("10.0.0.1:80",)]
    sockets = [{"socket_address": {"address": host, "port_value": int(port)}} for host, _, port in split]
    endpoints = [{"lb_endpoints": [{"endpoint": {"address": each}} for each in sockets]}]
    return {
        "clusters": [{"name": name, "type": "EDS", "eds_cluster_config": EDS, **settings}],
        "endpoints": [{"cluster_name": name, "endpoints": endpoints}],
    }


def routes(*services: str, timeout: str = "1s", mirror: str = "") -> dict[str, list[Any]]:
    """Return the route configuration `main` to these services."""
    actions = [{"cluster": name, "timeout": timeout} for name in services]
    routed = [{"match": {"prefix": f"/{each['cluster']}"}, "route": each} for each in actions]
    mirrors = [{"cluster": mirror}] if mirror else []
    host = {"name": "all", "domains": ["*"], "routes": routed, "request_mirror_policies": mirrors}
    return {"routes": [{"name": "main", "virtual_hosts": [host]}]}


def text(*parts: Mapping[str, list[Any]]) -> str:
    whole: dict[str, list[Any]] = {}
    for part in parts:
        for word, items in part.items():
            whole.setdefault(word, []).extend(items)
    return yaml.safe_dump(whole)


SHOP = text(service("checkout"), service("cart"), routes("checkout", "cart"))


def files(common: str = SHOP, **groups: str) -> Files:
    return Files({"c/shop.yaml": common}, {name: {f"c/{name}/own.yaml": each} for name, each in groups.items()})


def split(candidate_bp: int, stable: str = INITIAL) -> ServiceTraffic:
    candidate = VersionTraffic("v2", candidate_bp, (parse_endpoint("10.0.0.9:80"),))
    return ServiceTraffic(stable, (VersionTraffic(stable, FULL_BP - candidate_bp, None), candidate))


def problems(found: Files) -> list[str]:
    with pytest.raises(InvalidConfig) as caught:
        check(found)
    return [str(each) for each in caught.value.problems]


@pytest.fixture
def cache() -> Cache:
    return Cache()


@pytest.fixture
def publisher(cache: Cache) -> Publisher:
    return Publisher(cache)


class Proxy:
    """A proxy of some cluster and location, which takes all that it is sent."""

    def __init__(self, cache: Cache, protocol: str, cluster: str = "", location: str = "", name: str = "") -> None:
        region, _, zone = location.partition("/")
        self.wire = Wire(cache, protocol)
        self.id = name or f"{cluster}/{location}"
        self.wire._node = {"id": self.id, "cluster": cluster, "locality": {"region": region, "zone": zone}}
        self.held: dict[tuple[str, str], Any] = {}

    def ask(self, *endpoints: str) -> None:
        for type_, names in ((CLUSTERS, ()), (ENDPOINTS, endpoints), (LISTENERS, ()), (ROUTES, ("main",))):
            self.wire.ask(type_, *names)
            self.settle()

    def settle(self) -> list[str]:
        came: list[str] = []
        while replies := self.wire.replies():
            for reply in replies:
                came.append(str(reply))
                self.held |= {(reply.type.word, name): message for name, message in reply.messages.items()}
                self.wire.ack(reply)
        return came

    def weights(self, prefix: str) -> dict[str, int]:
        """Return the weights of the clusters behind a prefix."""
        for route in self.held["routes", "main"].virtual_hosts[0].routes:
            if route.match.prefix == prefix:
                return {each.name: each.weight.value for each in route.route.weighted_clusters.clusters}
        return {}

    def ports(self, cluster: str) -> list[int]:
        endpoints = [each for place in self.held["endpoints", cluster].endpoints for each in place.lb_endpoints]
        return [each.endpoint.address.socket_address.port_value for each in endpoints]

    @property
    def names(self) -> set[str]:
        return {name for word, name in self.held if word == "clusters"}


# --- folders over the common files ---


@both
def test_groups_folder_replaces_what_it_names_and_adds_the_rest(
    publisher: Publisher, cache: Cache, protocol: str
) -> None:
    own = text(service("checkout", "10.0.0.1:81"), service("search"), routes("checkout", "search", timeout="9s"))
    assert publisher.load(files(edge=own), {}) == ()
    edge, other = Proxy(cache, protocol, "edge"), Proxy(cache, protocol, "inside")
    for proxy in (edge, other):
        proxy.ask("checkout@initial")
    assert edge.names == {"checkout@initial", "cart@initial", "search@initial"}
    assert other.names == {"checkout@initial", "cart@initial"}
    assert (edge.ports("checkout@initial"), other.ports("checkout@initial")) == ([81], [80])
    assert (edge.weights("/search"), other.weights("/cart")) == (
        {"search@initial": FULL_BP},
        {"cart@initial": FULL_BP},
    )
    assert publisher.services() == {"checkout", "cart", "search"}
    assert publisher.addresses("checkout") == ("10.0.0.1:80", "10.0.0.1:81")


@both
def test_rollout_shifts_a_service_in_every_group_that_has_it_each_from_its_own_endpoints(
    publisher: Publisher, cache: Cache, protocol: str
) -> None:
    publisher.load(files(edge=text(service("checkout", "10.0.0.1:81"))), {})
    edge, other = Proxy(cache, protocol, "edge"), Proxy(cache, protocol)
    for proxy in (edge, other):
        proxy.ask("checkout@initial", "checkout@v2")
    publisher.serve("checkout", split(1000))
    assert set(publisher.lagging("checkout", ())) == {edge.id, other.id}
    for proxy, port in ((edge, 81), (other, 80)):
        proxy.settle()
        assert proxy.weights("/checkout") == {"checkout@initial": 9000, "checkout@v2": 1000}
        assert (proxy.ports("checkout@initial"), proxy.ports("checkout@v2")) == ([port], [80])
    assert publisher.lagging("checkout", ()) == {}


@both
def test_service_of_one_group_wakes_and_waits_for_its_members_only(
    publisher: Publisher, cache: Cache, protocol: str
) -> None:
    publisher.load(files(edge=text(service("search"), routes("search"))), {})
    edge, other = Proxy(cache, protocol, "edge"), Proxy(cache, protocol)
    for proxy in (edge, other):
        proxy.ask("search@v2")
    woken = other.wire.wakes
    assert publisher.serve("search", split(500))
    assert other.wire.wakes == woken
    assert publisher.lagging("search", ()).keys() == {edge.id}
    edge.settle()
    assert publisher.lagging("search", ()) == {}
    publisher.serve("search", untouched(INITIAL))
    assert publisher.endpoint_lags("search", "v2").keys() == {edge.id}
    assert publisher.letting_go("search", "v2").keys() == {edge.id}
    edge.settle()
    assert publisher.letting_go("search", "v2") == {}


@both
def test_folder_may_come_and_go_while_its_proxies_are_connected(
    publisher: Publisher, cache: Cache, protocol: str
) -> None:
    publisher.load(files(), {})
    proxy, other = Proxy(cache, protocol, "edge"), Proxy(cache, protocol, "inside")
    for each in (proxy, other):
        each.ask("checkout@initial")
    publisher.load(files(edge=text(service("search"), routes("checkout", "search"))), {})
    assert [each.split()[0] for each in proxy.settle()][:2] == ["clusters", "routes"]
    publisher.load(files(), {})
    came = [each.split()[0] for each in proxy.settle()]
    assert came.index("routes") < came.index("clusters"), "a cluster goes after the last route to it"
    assert proxy.weights("/search") == {}
    assert other.settle() == []


def test_group_of_equal_content_is_the_common_snapshot_itself(publisher: Publisher, cache: Cache) -> None:
    publisher.load(files(edge=text(service("cart")), inside=text(service("cart", "10.0.0.7:80"))), {})
    publisher.serve("checkout", split(100))
    fleet = cache.fleet
    assert fleet is not None
    assert fleet.groups["edge"] is fleet.common
    assert fleet.groups["inside"].views[ROUTES] is fleet.common.views[ROUTES]
    assert fleet.groups["inside"].views[ENDPOINTS] is not fleet.common.views[ENDPOINTS]


def test_loading_anew_gives_the_same_versions_as_shifting(publisher: Publisher, cache: Cache) -> None:
    text_of = files(edge=text(service("search"), routes("search", "checkout")))
    by_location = {"eu": split(1000)}
    publisher.load(text_of, {})
    publisher.serve("checkout", split(0), by_location)
    other = Cache()
    Publisher(other).load(text_of, {"checkout": split(0)}, by_location={"checkout": by_location})
    assert versions(other) == versions(cache)


def versions(cache: Cache) -> dict[str, str]:
    assert cache.fleet is not None
    return {"": cache.fleet.common.version, **{name: each.version for name, each in cache.fleet.groups.items()}}


# --- what is refused ---


def test_problem_names_the_groups_file_and_one_that_all_share_stands_once() -> None:
    bad = text(service("cart"), routes("nowhere"))
    (found,) = problems(files(edge=bad))
    assert found == (
        "c/edge/own.yaml: routes[0] 'main': virtual_hosts[0].routes[0].route.cluster: names 'nowhere', "
        "which is not among the clusters; add it there or correct the name"
    )
    common = text(service("cart"), routes("nowhere"))
    assert len(problems(files(common, edge=text(service("cart")), inside=text(service("cart"))))) == 1


def test_problem_that_a_group_makes_of_a_common_file_names_the_group() -> None:
    common = text(service("checkout"), routes("checkout"), {"clusters": [{"name": "b@v1", "type": "STATIC"}]})
    (found,) = problems(files(common, edge=text(service("b"))))
    assert found == (
        "c/shop.yaml: clusters[1] 'b@v1': has the name kept for version 'v1' of the service 'b'; rename it "
        "(for proxies of the cluster 'edge')"
    )


def test_problems_of_all_groups_are_found_at_once() -> None:
    found = problems(files(edge="clusters: [{nme: a}]", inside="clusters: 1"))
    assert [each.partition(":")[0] for each in found] == ["c/edge/own.yaml", "c/inside/own.yaml"]


def test_bad_group_refuses_the_whole_reload_and_the_last_good_one_is_served(publisher: Publisher, cache: Cache) -> None:
    publisher.load(files(edge=text(service("search"), routes("search"))), {})
    before = versions(cache)
    with pytest.raises(InvalidConfig, match="nowhere"):
        publisher.load(files(text(service("cart")), edge=text(routes("nowhere"))), {})
    assert versions(cache) == before
    assert publisher.serve("search", split(100))


def test_empty_folder_file_is_refused_for_it_may_be_half_written() -> None:
    assert problems(files(edge="")) == ["c/edge/own.yaml: holds nothing to serve"]


def test_warning_of_a_group_names_it_and_common_ones_stand_once() -> None:
    common = text(service("checkout"), service("cart"), routes("checkout", mirror="checkout"))
    warnings = check(files(common, edge=text(service("cart", "10.0.0.2:80"), service("search")))).warnings
    assert [each.where for each in warnings] == [
        "c/shop.yaml: routes[0] 'main': virtual_hosts[0].request_mirror_policies[0].cluster",
        "c/shop.yaml: clusters[1] 'cart'",
        "c/edge/own.yaml: clusters[0] 'cart'",
        "c/edge/own.yaml: clusters[1] 'search'",
    ]
    mirrored = text(service("checkout"), routes("checkout", mirror="logs"), {"clusters": [{"name": "logs"}]})
    (warning,) = check(files(mirrored, edge=text(service("logs")))).warnings
    assert warning.where == "c/shop.yaml: routes[0] 'main': virtual_hosts[0].request_mirror_policies[0].cluster"
    assert warning.what.endswith("(for proxies of the cluster 'edge')")


def test_service_that_some_group_routes_to_is_no_reason_to_warn() -> None:
    common = text(service("checkout"), service("cart"), routes("checkout"))
    assert check(files(common, edge=text(routes("cart")))).warnings == ()


def test_service_with_other_names_in_the_stats_of_a_group_is_refused() -> None:
    (found,) = problems(files(edge=text(service("checkout", alt_stat_name="pay"))))
    assert found == (
        "c/edge/own.yaml: clusters[0] 'checkout': is 'pay' in the stats of these proxies, but 'checkout' in those of "
        "others (c/shop.yaml: clusters[0] 'checkout'); a rollout reads one name: give the service the same "
        "alt_stat_name, that no other has"
    )
    added = text(service("checkout", alt_stat_name="pay"), service("cart"), routes("checkout", "cart"))
    assert check(files(added, edge=text(service("search", "10.0.0.2:80"), routes("search", "checkout", "cart"))))
    assert "'checkout' in the stats" in problems(files(added, edge=text(service("x", alt_stat_name="pay"))))[0]


def test_bootstrap_of_a_group_stands_for_the_common_one() -> None:
    def bootstrap(name: str) -> str:
        return yaml.safe_dump({"static_resources": {"clusters": [{"name": name}]}})

    common = {"c/shop.yaml": text(service("checkout"), routes("checkout")), "c/bootstrap.yaml": bootstrap("zipkin")}
    own = {"c/edge/own.yaml": text(routes("checkout", mirror="jaeger")), "c/edge/bootstrap.yaml": bootstrap("jaeger")}
    check(Files(common, {"edge": own}))
    (found,) = problems(Files(common, {"edge": {**own, "c/edge/own.yaml": text(routes("checkout", mirror="zipkin"))}}))
    assert "names 'zipkin'" in found
    check(Files(common, {"edge": {"c/edge/own.yaml": text(routes("checkout", mirror="zipkin"))}}))


SEARCH = text(service("search"))


@pytest.mark.parametrize(
    ("busy", "before", "after", "whom"),
    [
        ("search", files(edge=SEARCH), files(), ""),
        ("search", files(edge=SEARCH, inside=SEARCH), files(inside=SEARCH), "edge"),
        ("checkout", files(), files(edge=text({"clusters": [{"name": "checkout", "type": "STATIC"}]})), "edge"),
    ],
)
def test_group_may_not_lose_a_service_in_a_rollout(
    publisher: Publisher, busy: str, before: Files, after: Files, whom: str
) -> None:
    publisher.load(before, {})
    group = f" for proxies of the cluster '{whom}' any more" if whom else ""
    with pytest.raises(InvalidConfig) as caught:
        publisher.load(after, {}, frozenset({busy}))
    assert str(caught.value) == (
        f"service '{busy}': is not in envoy-configs{group}, but a rollout or a drain of it is in progress; "
        "put its EDS cluster back"
    )
    publisher.load(after, {})


# --- splits by location ---


@both
def test_locations_have_weights_of_their_own(publisher: Publisher, cache: Cache, protocol: str) -> None:
    publisher.load(files(edge=text(routes("checkout", timeout="9s"))), {})
    places = {"eu": 1000, "eu/eu-2": 0, "us/us-1": 1000, "us": 0, "ap/ap-1": 0, "": 0}
    everyone = [(Proxy(cache, protocol, name, place), bp) for place, bp in places.items() for name in ("edge", "other")]
    everyone.append((Proxy(cache, protocol, "edge", "eu/eu-1"), 1000))
    for proxy, _ in everyone:
        proxy.ask("checkout@initial", "checkout@v2")
    assert publisher.serve("checkout", split(0), {"eu": split(1000), "eu/eu-2": split(0), "us/us-1": split(1000)})
    for proxy, candidate_bp in everyone:
        proxy.settle()
        expected = {"checkout@initial": FULL_BP - candidate_bp, "checkout@v2": candidate_bp}
        assert proxy.weights("/checkout") == {name: bp for name, bp in expected.items() if bp}, proxy.id
    assert publisher.lagging("checkout", ()) == {}
    assert not publisher.serve("checkout", split(0), {"eu": split(1000), "eu/eu-2": split(0), "us/us-1": split(1000)})


@both
def test_next_wave_reaches_only_its_locations(publisher: Publisher, cache: Cache, protocol: str) -> None:
    publisher.load(files(), {"checkout": split(0)})
    first, second = Proxy(cache, protocol, "", "eu/eu-1"), Proxy(cache, protocol, "", "us/us-1")
    for proxy in (first, second):
        proxy.ask("checkout@initial", "checkout@v2")
    publisher.serve("checkout", split(0), {"eu": split(1000)})
    assert publisher.lagging("checkout", ()).keys() == {first.id}
    assert (first.settle(), second.settle()) == (["routes main"], [])
    publisher.serve("checkout", split(0), {"eu": split(1000), "us": split(1000)})
    assert (first.settle(), second.settle()) == ([], ["routes main"])
    publisher.serve("checkout", split(1000))
    assert (first.settle(), second.settle()) == ([], []), "the same, said otherwise"
    publisher.serve("checkout", split(0))
    assert (first.settle(), second.settle()) == (["routes main"], ["routes main"])


def test_equal_locations_are_one_snapshot_and_others_differ_in_routes_only(publisher: Publisher, cache: Cache) -> None:
    publisher.load(files(edge=text(routes("cart"))), {"checkout": split(0)})
    publisher.serve("checkout", split(0), {f"place-{number}": split(100 * (number % 3)) for number in range(30)})
    fleet = cache.fleet
    assert fleet is not None
    assert len({id(each) for each in (fleet.common, *fleet.groups.values())}) == 4, "3 weights, and edge: no route"
    assert all(each.views[CLUSTERS] is fleet.common.views[CLUSTERS] for each in fleet.groups.values())
    assert all(each.views[ENDPOINTS] is fleet.common.views[ENDPOINTS] for each in fleet.groups.values())
    publisher.serve("checkout", split(0))
    assert cache.fleet is not None
    assert cache.fleet.groups.keys() == {"edge"}


def test_services_may_be_in_waves_of_their_own(publisher: Publisher, cache: Cache) -> None:
    publisher.load(files(), {"checkout": split(0), "cart": split(0)})
    publisher.serve("checkout", split(0), {"eu": split(1000)})
    publisher.serve("cart", split(0), {"eu/eu-1": split(2000)})
    expected = {"eu/eu-1": (1000, 2000), "eu/eu-2": (1000, 0), "us": (0, 0)}
    for place, (checkout_bp, cart_bp) in expected.items():
        proxy = Proxy(cache, "delta", "", place)
        proxy.ask()
        assert proxy.weights("/checkout").get("checkout@v2", 0) == checkout_bp, place
        assert proxy.weights("/cart").get("cart@v2", 0) == cart_bp, place


PLACES = ("eu", "eu/eu-1", "us/us-1")
LOCATED = st.tuples(
    st.sampled_from(["checkout", "cart", "search"]),
    st.integers(0, 3),
    st.dictionaries(st.sampled_from(PLACES), st.integers(0, 3)),
)


@settings(max_examples=40)
@given(st.lists(LOCATED, min_size=1, max_size=6))
def test_whatever_was_served_before_the_same_splits_are_the_same_fleet(
    steps: list[tuple[str, int, dict[str, int]]],
) -> None:
    own = files(edge=text(service("search"), service("cart", "10.0.0.2:80"), routes("search", "cart")))
    cache, other = Cache(), Cache()
    publisher = Publisher(cache)
    publisher.load(own, {})
    everywhere: dict[str, ServiceTraffic] = {}
    located: dict[str, dict[str, ServiceTraffic]] = {}
    for name, candidate, places in steps:
        everywhere[name] = split(candidate * 100)
        located[name] = {place: split(each * 100) for place, each in places.items()}
        publisher.serve(name, everywhere[name], located[name])
    Publisher(other).load(own, everywhere, by_location=located)
    assert versions(cache) == versions(other)
    for place in ("", *PLACES):
        at = {name: FleetTraffic(each, located[name]).at(place) for name, each in everywhere.items()}
        alone = Cache()
        Publisher(alone).load(own, at)
        region, _, zone = place.partition("/")
        served = cache.served(Node("edge-1", "edge", region, zone, "", {}))
        assert served is not None
        assert served.version == versions(alone)["edge"]


# --- the folder on disk ---


def write(folder: Path, *names: str) -> Path:
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)
    return folder


def test_folders_are_groups_but_for_hidden_and_empty_ones(tmp_path: Path) -> None:
    write(tmp_path, "a.yaml", "edge/b.json", "edge/notes.txt", ".git/c.yaml", "certs/ca.pem", "edge/.x/d.yaml")
    assert read_configs(tmp_path) == Files(
        {str(tmp_path / "a.yaml"): "a.yaml"}, {"edge": {str(tmp_path / "edge" / "b.json"): "edge/b.json"}}
    )


def test_lint_reads_groups_too(tmp_path: Path) -> None:
    write(tmp_path, "shop.yaml", "edge/own.yaml")
    (tmp_path / "shop.yaml").write_text(SHOP)
    (tmp_path / "edge" / "own.yaml").write_text(text(service("search"), routes("search")))
    result = CliRunner().invoke(app, ["lint", str(tmp_path)])
    assert (result.exit_code, result.stdout.split(" is fine; ")[1].partition(".")[0].split()) == (
        0,
        ["services:", "cart,", "checkout,", "search;", "groups:", "edge"],
    )
    (tmp_path / "edge" / "own.yaml").write_text(text(routes("nowhere")))
    result = CliRunner().invoke(app, ["lint", str(tmp_path)])
    assert (result.exit_code, f"{tmp_path}/edge/own.yaml: routes[0] 'main'" in result.output) == (1, True)


@pytest.mark.parametrize("deep", ["edge/more/b.yaml", "edge/more/even/b.yaml"])
def test_files_that_lie_too_deep_are_refused(tmp_path: Path, deep: str) -> None:
    with pytest.raises(InvalidSpec, match=f"{deep} lies too deep to be served"):
        read_configs(write(tmp_path, "a.yaml", deep))


def test_groups_need_common_files(tmp_path: Path) -> None:
    with pytest.raises(InvalidSpec, match="nothing to serve to proxies whose cluster has no folder of its own"):
        read_configs(write(tmp_path, "edge/b.yaml"))


# --- what a rollout reads of proxies that differ ---


def observer(publisher: Publisher, cache: Cache, scrapes: Mapping[str, Scrape]) -> Observer:
    return Observer(Books(publisher.addresses), publisher, cache, Stats(lambda: scrapes, dict), lambda: 1.0)


def scrape(**active: int) -> Scrape:
    """Make the stats of the cluster checkout@initial: how many requests run on each port of 10.0.0.1."""
    backends = {f"10.0.0.1:{port.lstrip('p')}": BackendStats(count, healthy=True) for port, count in active.items()}
    return Scrape(1.0, 1.0, {"checkout@initial": ClusterStats(backends=backends)})


def test_backend_of_one_group_is_idle_when_it_is_idle_there(publisher: Publisher, cache: Cache) -> None:
    publisher.load(files(edge=text(service("checkout", "10.0.0.1:81"))), {})
    for name in ("edge", "other"):
        Proxy(cache, "delta", name, name=name).ask()
    seen = observer(publisher, cache, {"edge": scrape(p81=2), "other": scrape(p80=7)})

    def running(address: str) -> Mapping[str, int | None]:
        active = seen.activity.on_backend(Backend("checkout", INITIAL, address, Drain(0.0)))
        assert active is not None
        return active.by_node

    assert (running("10.0.0.1:81"), running("10.0.0.1:80")) == ({"edge": 2}, {"other": 7})


def test_own_cluster_of_a_service_is_asked_of_the_proxies_that_have_it(publisher: Publisher, cache: Cache) -> None:
    publisher.load(files(edge=text(routes("checkout", mirror="checkout"))), {})
    for name in ("edge", "other"):
        Proxy(cache, "delta", name, name=name).ask()
    idle = {"10.0.0.1:80": BackendStats(0, healthy=True)}
    clusters = {"checkout@initial": ClusterStats(backends=idle), "checkout": ClusterStats(backends=idle)}
    scrapes = {"edge": Scrape(1.0, 1.0, clusters), "other": scrape(p80=0)}
    active = observer(publisher, cache, scrapes).activity.on_backend(
        Backend("checkout", INITIAL, "10.0.0.1:80", Drain(0.0))
    )
    assert active is not None
    assert active.by_node == {"edge": 0, "other": 0}
    assert publisher.bare_stat_names("checkout") == ("checkout",)
    assert publisher.bare_stat_names("cart") == ()


def test_proxies_without_the_service_take_no_part_in_its_rollout(publisher: Publisher, cache: Cache) -> None:
    publisher.load(files(edge=text(service("search"), routes("search"))), {})
    proxies = {name: Proxy(cache, "delta", name, name=name) for name in ("edge", "other")}
    for proxy in proxies.values():
        proxy.ask("search@v2")
    seen = observer(publisher, cache, {})
    seen.note_nodes()
    assert seen.observe(rollout("search"), None, "").connected == 1
    assert seen.observe(rollout("search"), None, "").fleet == 1
    assert seen.observe(rollout("checkout"), None, "").fleet == 2
    assert seen.observe(rollout("search"), None, "").unready == ("v2 has no backends", "edge: no stats yet")
    proxies["other"].wire.session.close(1.0)
    assert (seen.lagging("search"), "other" in seen.lagging("checkout")) == ({}, True)
    proxies["edge"].wire.session.close(1.0)
    assert seen.lagging("search").keys() == {"edge", "the fleet"}
    seen.expect(("who", "knows"))
    assert seen.lagging("search").keys() == {"who", "knows", "the fleet"}


def rollout(name: str) -> Rollout:
    at = datetime(2026, 1, 1, tzinfo=UTC)
    return Rollout(name, 1, INITIAL, "v2", Strategy(), State(Phase.WARMING, 0.0), 1, at, at)


async def test_last_backend_of_a_group_is_not_let_go_though_others_have_more(
    publisher: Publisher, cache: Cache, tmp_path: Path
) -> None:
    own = service("checkout", "10.0.0.1:81")
    common = text(service("checkout", "10.0.0.1:80", "10.0.0.1:82", "10.0.0.1:81"), routes("checkout"))
    store = await open_store(tmp_path)
    try:
        control = controller(publisher, cache, store)
        control.restore(await store.load(), files(common, edge=text(own)))
        backends = Backends(control, Ledger(control.saver, lambda: datetime.now(UTC), lambda _: None))
        with pytest.raises(Conflict, match="is the last healthy backend"):
            await backends.drain("checkout", "10.0.0.1:81", ANN)
        spare = await healthy_others(control, "checkout", INITIAL, frozenset({"10.0.0.1:80"}))
        assert spare == {"10.0.0.1:82", "10.0.0.1:81"}
    finally:
        await store.close()


def controller(publisher: Publisher, cache: Cache, store: Store) -> Controller:
    async def survey(_: Query) -> Mapping[str, Scrape]:
        return {}

    outside = Outside(
        Stats(dict, dict),
        survey,
        lambda: 1.0,
        lambda: datetime.now(UTC),
        lambda _rollout, _before: None,
        lambda _: None,
    )
    return Controller(publisher, cache, store, outside)
