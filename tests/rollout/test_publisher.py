"""What is published when, what is refused, and who counts as having it."""

from collections.abc import Mapping
from typing import Any

import pytest
import yaml

from rollout.exposure import FULL_BP
from rollout.spec import parse_endpoint
from rollout.traffic.compiler import ServiceTraffic, VersionTraffic
from rollout.traffic.publisher import INITIAL, Publisher, check, untouched
from xds import sotw
from xds.cache import Cache, NodeStatus, Wanted
from xds.errors import InvalidConfig
from xds.node import Node
from xds.resources import CLUSTERS, ENDPOINTS, ROUTES, ResourceType
from xds.stream import Stream
from xds.subscription import Lag


class Recorder:
    """An Envoy that has nothing: notes what it is asked for."""

    node = Node("edge-1", "", "", "", "", {})
    stream = Stream(sotw, {})

    def __init__(self) -> None:
        self.woken = 0
        self.wanted: list[Wanted] = []

    def wake(self) -> None:
        self.woken += 1

    def warm(self, names: frozenset[str]) -> None:
        self.woken += 1

    def status(self) -> NodeStatus:
        return NodeStatus(self.node, "", "sotw", True, 0.0, {})

    def lag(self, wanted: Wanted) -> Lag | None:
        self.wanted.append(wanted)
        return Lag(f"lacks {wanted.name}")

    def may_need(self, type_: ResourceType, name: str) -> bool:
        return False


def files(*services: str, mirror: str = "") -> Mapping[str, str]:
    eds = {"eds_config": {"ads": {}, "resource_api_version": "V3"}}
    address = {"socket_address": {"address": "::1", "port_value": 8081}}
    host: dict[str, Any] = {
        "name": "all",
        "domains": ["*"],
        "routes": [{"match": {"prefix": f"/{name}"}, "route": {"cluster": name}} for name in services],
        "request_mirror_policies": [{"cluster": mirror}] if mirror else [],
    }
    document = {
        "routes": [{"name": "edge", "virtual_hosts": [host]}],
        "clusters": [{"name": name, "type": "EDS", "eds_cluster_config": eds} for name in services],
        "endpoints": [
            {"cluster_name": name, "endpoints": [{"lb_endpoints": [{"endpoint": {"address": address}}]}]}
            for name in services
        ],
    }
    return {"shop.yaml": yaml.safe_dump(document)}


def split(candidate_bp: int) -> ServiceTraffic:
    candidate = VersionTraffic("v2", candidate_bp, (parse_endpoint("10.0.0.1:80"),))
    return ServiceTraffic("v1", (VersionTraffic("v1", FULL_BP - candidate_bp, None), candidate))


@pytest.fixture
def cache() -> Cache:
    return Cache()


@pytest.fixture
def publisher(cache: Cache) -> Publisher:
    publisher = Publisher(cache)
    publisher.load(files("checkout", "cart"), {"checkout": split(0)})
    return publisher


def version(cache: Cache) -> str:
    assert cache.fleet is not None
    return cache.fleet.common.version


def test_services_and_their_traffic_are_known_after_loading(publisher: Publisher) -> None:
    assert publisher.services() == {"checkout", "cart"}
    assert publisher.traffic("checkout") == split(0)
    assert publisher.traffic("cart") == untouched(INITIAL)
    assert publisher.addresses("cart") == ("[::1]:8081",)
    assert publisher.stat_name("cart", "v2") == "cart@v2"


def test_equal_split_is_published_once(publisher: Publisher, cache: Cache) -> None:
    envoy = Recorder()
    cache.join("edge-1", envoy)
    assert publisher.serve("checkout", split(100))
    assert not publisher.serve("checkout", split(100))
    assert envoy.woken == 1


def test_split_that_is_taken_back_is_what_it_was(publisher: Publisher, cache: Cache) -> None:
    before = version(cache)
    publisher.serve("checkout", split(100))
    assert version(cache) != before
    publisher.serve("checkout", split(0))
    assert version(cache) == before


def test_loading_anew_gives_the_same_version_as_shifting(publisher: Publisher, cache: Cache) -> None:
    publisher.serve("checkout", split(100))
    other = Cache()
    Publisher(other).load(files("checkout", "cart"), {"checkout": split(100)})
    assert version(other) == version(cache)


def test_bad_configuration_is_refused_and_the_last_good_one_stays(publisher: Publisher, cache: Cache) -> None:
    before = version(cache)
    with pytest.raises(InvalidConfig, match="names 'nowhere'"):
        publisher.load(files("checkout", "cart", mirror="nowhere"), {"checkout": split(0)})
    assert version(cache) == before
    assert publisher.serve("checkout", split(100))


def test_configuration_without_a_service_in_a_rollout_is_refused(publisher: Publisher) -> None:
    with pytest.raises(InvalidConfig) as caught:
        publisher.load(files("cart"), {"checkout": split(0)}, frozenset({"checkout"}))
    assert str(caught.value) == (
        "service 'checkout': is not in envoy-configs, but a rollout or a drain of it is in progress; "
        "put its EDS cluster back"
    )
    assert publisher.services() == {"checkout", "cart"}


def test_warnings_are_those_of_lint(cache: Cache) -> None:
    text = files("checkout", mirror="checkout")
    assert Publisher(cache).load(text, {}) == check(text).warnings
    assert [warning.where for warning in check(text).warnings] == [
        "shop.yaml: routes[0] 'edge': virtual_hosts[0].request_mirror_policies[0].cluster"
    ]


def test_envoy_must_have_the_clusters_endpoints_and_routes_of_a_service(publisher: Publisher, cache: Cache) -> None:
    envoy = Recorder()
    cache.join("edge-1", envoy)
    assert publisher.lagging("checkout", ()) == {"edge-1": Lag("lacks checkout@v1")}
    assert [(each.type, each.name) for each in envoy.wanted] == [
        (CLUSTERS, "checkout@v1"),
        (ENDPOINTS, "checkout@v1"),
        (CLUSTERS, "checkout@v2"),
        (ENDPOINTS, "checkout@v2"),
        (ROUTES, "edge"),
    ]
    assert all(each.version for each in envoy.wanted)


def test_envoy_must_have_dropped_the_cluster_of_a_version_that_is_gone(publisher: Publisher, cache: Cache) -> None:
    publisher.serve("checkout", ServiceTraffic("v1", split(0).versions[:1]))
    envoy = Recorder()
    cache.join("edge-1", envoy)
    publisher.lagging("checkout", ("v1", "v2"))
    assert [(each.type, each.name) for each in envoy.wanted if each.version is None] == [(CLUSTERS, "checkout@v2")]


def test_envoy_must_have_the_cluster_of_the_service_itself_where_it_is_served(cache: Cache) -> None:
    publisher = Publisher(cache)
    publisher.load(files("checkout", mirror="checkout"), {})
    envoy = Recorder()
    cache.join("edge-1", envoy)
    publisher.lagging("checkout", ())
    assert [each.type for each in envoy.wanted if each.name == "checkout"] == [CLUSTERS, ENDPOINTS]


def scopes(**keys: str) -> Mapping[str, str]:
    """Return a configuration with a scope of each name, on the key of each."""
    (shop,) = (yaml.safe_load(text) for text in files("checkout").values())
    scoped = [
        {"name": name, "key": {"fragments": [{"string_key": key}]}, "route_configuration_name": "edge"}
        for name, key in keys.items()
    ]
    return {"shop.yaml": yaml.safe_dump({**shop, "scoped_routes": scoped})}


def test_key_that_moves_between_scopes_in_one_change_is_refused_for_an_envoy_would_lose_it(cache: Cache) -> None:
    publisher = Publisher(cache)
    publisher.load(scopes(one="a", two="b"), {})
    before = version(cache)
    with pytest.raises(InvalidConfig, match="scoped_routes 'one': key: goes to scope 'two' while 'one' gets another"):
        publisher.load(scopes(one="b", two="a"), {})
    assert version(cache) == before
    publisher.load(scopes(three="b", four="a"), {})
    publisher.load(scopes(three="c", four="a"), {})
    publisher.load(scopes(three="c", four="b"), {})
