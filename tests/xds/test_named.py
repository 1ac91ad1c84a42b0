"""Clients that name every resource, as gRPC channels do."""

from tests.xds.client import Wire, served, shop
from xds.cache import Cache
from xds.resources import CLUSTERS, ENDPOINTS, LISTENERS, ROUTES


def channel() -> tuple[Cache, Wire]:
    """Return a channel that has the cluster `a` of its route."""
    cache = Cache()
    cache.publish(served(*shop("a")))
    client = Wire(cache, "sotw")
    client.ask(LISTENERS, "edge")
    client.ask(ROUTES, "main")
    client.settle()
    client.ask(CLUSTERS, "a")
    client.ask(ENDPOINTS, "a")
    client.settle()
    client.now_s = 100.0
    assert client.settle() == []
    return cache, client


def test_old_cluster_stays_for_a_channel_that_acked_the_route_before_it_has_the_new_one() -> None:
    cache, client = channel()
    cache.publish(served(*shop("b")))
    assert client.settle() == ["routes main"]
    client.ask(CLUSTERS, "a", "b", nonce=client.session.stream.types[CLUSTERS].nonce)
    assert client.settle() == ["clusters a b"]
    assert client.session.wake_at_s(client.now_s) == 102.0
    client.now_s = 102.0
    assert client.settle() == ["clusters b"]


def test_cluster_that_is_gone_and_that_no_route_left_is_deleted_at_once() -> None:
    cache = Cache()
    cache.publish(served(*shop("a", "b", routed=["b"])))
    client = Wire(cache, "sotw", now_s=100.0)
    client.ask(CLUSTERS, "a", "b")
    client.settle()
    client.now_s = 110.0
    cache.publish(served(*shop("b")))
    assert client.settle() == ["clusters b"]
