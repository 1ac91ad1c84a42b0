"""Clients with one stream for each type: the same order, across streams."""

from typing import Any

import pytest

from tests.xds.client import NODE, PROTOCOLS, SERVICE, cluster, read, route, served, shop
from xds import proto
from xds.cache import Cache
from xds.errors import InvalidRequest
from xds.node import Peer
from xds.resources import CLUSTERS, ENDPOINTS, LISTENERS, ROUTES, ResourceType
from xds.session import ControlPlane, Session

LATER_S = 100.0
both = pytest.mark.parametrize("protocol", PROTOCOLS)


class Client:
    """One client with a stream for each of four types."""

    def __init__(self, cache: Cache, protocol: str) -> None:
        self.protocol = protocol
        self.now_s = 0.0
        self.woken: set[ResourceType] = set()
        self.names: dict[ResourceType, tuple[str, ...]] = {}
        types = (CLUSTERS, ENDPOINTS, LISTENERS, ROUTES)
        self.sessions = {type_: self._session(cache, type_) for type_ in types}

    def _session(self, cache: Cache, type_: ResourceType) -> Session:
        return Session(ControlPlane(cache), self.protocol, Peer("peer"), lambda: self.woken.add(type_), type_)

    def send(self, type_: ResourceType, *names: str, nonce: str = "", **words: Any) -> None:
        """Send a request, which leaves its type out."""
        kind, field = ("DiscoveryRequest", "resource_names")
        if self.protocol == "delta":
            kind, field = ("DeltaDiscoveryRequest", "resource_names_subscribe")
        said = {"node": NODE, "response_nonce": nonce, field: list(names), **words}
        self.sessions[type_].receive(proto.canonical(proto.parse(f"{SERVICE}.{kind}", said)), self.now_s)

    def ask(self, type_: ResourceType, *names: str) -> None:
        self.names[type_] = names
        self.send(type_, *names)

    def hear(self, *types: ResourceType, ack: bool = True) -> list[str]:
        """Take what these streams say, and accept it."""
        heard = []
        for type_ in types or tuple(self.sessions):
            while (response := self.sessions[type_].respond(self.now_s)) is not None:
                heard.append(str(read(self.protocol, response.body)))
                if ack:
                    names = self.names[type_] if self.protocol == "sotw" else ()
                    self.send(type_, *names, nonce=response.nonce)
        return heard


def connected(protocol: str) -> tuple[Cache, Client]:
    cache = Cache()
    cache.publish(served(*shop("a")))
    client = Client(cache, protocol)
    client.ask(CLUSTERS)
    client.ask(ENDPOINTS, "a", "b")
    client.ask(LISTENERS)
    client.ask(ROUTES, "main")
    client.hear()
    client.now_s = LATER_S
    client.hear()
    client.woken.clear()
    return cache, client


@both
def test_every_stream_gets_its_type(protocol: str) -> None:
    cache = Cache()
    cache.publish(served(*shop("a")))
    client = Client(cache, protocol)
    client.ask(CLUSTERS)
    client.ask(ENDPOINTS, "a")
    client.ask(LISTENERS)
    client.ask(ROUTES, "main")
    assert client.hear() == ["clusters a", "endpoints a", "listeners edge", "routes main"]
    assert [status.node.id for status in cache.connected()] == ["edge-1"]


@both
def test_route_waits_on_its_stream_for_its_new_cluster_to_be_warm_though_that_is_acked(protocol: str) -> None:
    cache, client = connected(protocol)
    cache.publish(served(*shop("a", "b")))
    assert client.hear(ROUTES) == []
    client.hear(CLUSTERS, ENDPOINTS)  # without ADS, Envoy ACKs clusters before they are warm
    assert client.hear(ROUTES) == []
    assert client.sessions[ROUTES].wake_at_s(client.now_s) == LATER_S + 2.0
    client.now_s = LATER_S + 2.0
    assert client.hear(ROUTES) == ["routes main"]


@both
def test_weights_wait_for_nothing(protocol: str) -> None:
    cache, client = connected(protocol)
    cache.publish(served(*shop("a", routed=["a", "a"])))
    assert client.hear(ROUTES) == ["routes main"]


@both
def test_answer_on_one_stream_wakes_the_others(protocol: str) -> None:
    cache, client = connected(protocol)
    cache.publish(served(*shop("a", mark=1)))
    client.woken.clear()
    client.hear(CLUSTERS)
    assert client.woken >= {ENDPOINTS, LISTENERS, ROUTES}


@both
def test_cluster_stays_until_the_stream_of_routes_is_back(protocol: str) -> None:
    cache, client = connected(protocol)
    for session in client.sessions.values():
        session.close(client.now_s)
    before = cache.fleet and cache.fleet.common.views
    assert before
    cache.publish(served(*shop("b")))
    back = Client(cache, protocol)
    back.now_s = client.now_s + 5.0
    back.names |= client.names
    words: dict[str, Any] = {"version_info": before[CLUSTERS].version}
    if protocol == "delta":
        words = {"initial_resource_versions": {"a": cluster("a").version}}
    back.send(CLUSTERS, **words)
    back.now_s += 30.0  # as long as Envoy may wait before it opens its other streams again
    assert back.hear(CLUSTERS) == ["clusters a b" if protocol == "sotw" else "clusters b"]
    back.ask(LISTENERS)
    back.ask(ROUTES, "main")
    back.now_s += 2.0
    back.hear(LISTENERS, ROUTES)
    assert back.hear(CLUSTERS) == ["clusters b" if protocol == "sotw" else "clusters -a"]


@both
def test_cluster_stays_until_the_route_on_another_stream_is_acked(protocol: str) -> None:
    cache, client = connected(protocol)
    cache.publish(served(*shop("b")))
    assert client.hear(CLUSTERS) == ["clusters a b" if protocol == "sotw" else "clusters b"]
    client.hear(ENDPOINTS)
    client.now_s += 2.0
    assert client.hear(ROUTES) == ["routes main"]
    assert client.hear(CLUSTERS) == ["clusters b" if protocol == "sotw" else "clusters -a"]


@both
def test_load_assignment_follows_a_changed_cluster_on_its_own_stream(protocol: str) -> None:
    cache, client = connected(protocol)
    cache.publish(served(*shop("a", mark=1)))
    assert client.hear(ENDPOINTS) == []
    assert client.hear(CLUSTERS) == ["clusters a"]
    assert ENDPOINTS in client.woken
    assert client.hear(ENDPOINTS) == ["endpoints a"]


@both
def test_other_type_on_a_stream_of_one_type_is_refused(protocol: str) -> None:
    cache = Cache()
    cache.publish(served(cluster("a")))
    client = Client(cache, protocol)
    with pytest.raises(InvalidRequest, match="on a stream that is only for routes"):
        client.send(ROUTES, "main", type_url=CLUSTERS.url)


@both
def test_nack_on_any_stream_is_in_the_status_of_the_node(protocol: str) -> None:
    cache, client = connected(protocol)
    cache.publish(served(*(each for each in shop("a") if each.type is not ROUTES), route("main", "a", mark=1)))
    response = client.sessions[ROUTES].respond(client.now_s)
    assert response is not None
    names = client.names[ROUTES] if protocol == "sotw" else ()
    client.send(ROUTES, *names, nonce=response.nonce, error_detail={"code": 3, "message": "cannot"})
    (status,) = cache.connected()
    rejections = {type_: each.rejection and each.rejection.text for type_, each in status.types.items()}
    assert rejections == {CLUSTERS: None, ENDPOINTS: None, LISTENERS: None, ROUTES: "cannot"}


@both
def test_route_of_a_returning_client_waits_until_its_stream_of_clusters_is_back(protocol: str) -> None:
    cache, client = connected(protocol)
    for session in client.sessions.values():
        session.close(client.now_s)
    before = cache.fleet and cache.fleet.common.views
    assert before
    cache.publish(served(*shop("b")))
    back = Client(cache, protocol)
    back.names |= client.names
    words: dict[str, Any] = {"version_info": before[ROUTES].version}
    if protocol == "delta":
        words = {"initial_resource_versions": {"main": before[ROUTES].resources["main"].version}}
    back.send(ROUTES, "main", **words)
    assert back.hear(ROUTES) == []
    words = {"version_info": before[CLUSTERS].version}
    if protocol == "delta":
        words = {"initial_resource_versions": {"a": cluster("a").version}}
    back.now_s = 10.0
    back.send(CLUSTERS, **words)
    back.ask(ENDPOINTS, "a", "b")
    back.hear(CLUSTERS, ENDPOINTS)
    assert back.hear(ROUTES) == []
    back.now_s = 12.0
    assert back.hear(ROUTES) == ["routes main"]


@both
def test_client_that_begins_without_clusters_by_xds_gets_its_routes_at_once(protocol: str) -> None:
    cache = Cache()
    cache.publish(served(*shop("a")))
    client = Client(cache, protocol)
    client.ask(ROUTES, "main")
    assert client.hear(ROUTES) == ["routes main"]
