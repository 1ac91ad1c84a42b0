"""What the cache serves, whom it wakes, whom it knows, who lags, and what it lets go."""

import gc
import weakref

import pytest

from tests.xds.client import PROTOCOLS, Wire, assignment, cluster, route, served, shop
from xds.cache import GONE_NODES, RECENT_LIMIT, Cache, Wanted
from xds.resources import CLUSTERS, ENDPOINTS, ROUTES, Resource
from xds.subscription import Lag

both = pytest.mark.parametrize("protocol", PROTOCOLS)


def routed(mark: int) -> Wanted:
    return Wanted(ROUTES, "main", route("main", "a", mark=mark).version)


def world(mark: int) -> tuple[Resource, ...]:
    return (*(each for each in shop("a") if each.type is not ROUTES), route("main", "a", mark=mark))


@both
def test_equal_content_wakes_nobody(protocol: str) -> None:
    cache = Cache()
    assert cache.publish(served(*shop("a")))
    client = Wire(cache, protocol)
    client.ask(CLUSTERS)
    assert not cache.publish(served(*reversed(shop("a"))))
    assert client.wakes == 0
    assert cache.publish(served(*shop("b")))
    assert client.wakes == 1


@both
def test_newest_snapshot_wins(protocol: str) -> None:
    cache = Cache()
    cache.publish(served(*shop("a")))
    client = Wire(cache, protocol)
    client.connect(clusters=["a"])
    for port in range(1000, 2000):
        cache.publish(served(*(each for each in shop("a") if each.type is not ENDPOINTS), assignment("a", port)))
    (reply,) = client.replies()
    assert reply.versions == {"a": assignment("a", 1999).version}


@both
def test_two_streams_of_one_node_have_a_state_each(protocol: str) -> None:
    cache = Cache()
    cache.publish(served(*shop("a")))
    old, new = Wire(cache, protocol), Wire(cache, protocol)
    assert old.connect(clusters=["a"]) == new.connect(clusters=["a"])
    old.session.close(1.0)
    assert [status.node.id for status in cache.connected()] == ["edge-1"]
    assert cache.gone() == ()
    cache.publish(served(*shop("a", routed=["a", "a"])))
    assert new.settle() == ["routes main"]
    new.session.close(2.0)
    assert cache.connected() == ()
    assert [(status.node.id, status.connected, status.since_s) for status in cache.gone()] == [("edge-1", False, 2.0)]


@both
def test_newest_stream_speaks_for_its_node_and_after_it_the_older_one(protocol: str) -> None:
    cache = Cache()
    cache.publish(served(*shop("a")))
    old = Wire(cache, protocol)
    old.connect(clusters=["a"])
    new = Wire(cache, protocol, now_s=7.0)
    new.ask(CLUSTERS)
    assert cache.connected()[0].since_s == 7.0
    assert cache.lagging(lambda _: [Wanted(ROUTES, "main", route("main", "a").version)]).keys() == {"edge-1"}
    new.session.close(8.0)
    assert cache.connected()[0].since_s == 0.0
    assert cache.lagging(lambda _: [Wanted(ROUTES, "main", route("main", "a").version)]) == {}


@both
def test_lagging_names_each_node_and_prefers_a_refusal(protocol: str) -> None:
    cache = Cache()
    cache.publish(served(*world(0)))
    clients = [Wire(cache, protocol, name) for name in ("good", "late", "bad")]
    for client in clients:
        client.connect(clusters=["a"])
    cache.publish(served(*world(1), cluster("b"), assignment("b")))
    good, _, bad = clients
    good.settle()
    for reply in bad.replies():
        if reply.type is ROUTES:
            bad.nack(reply, "cannot")
    wanted = (Wanted(CLUSTERS, "b", cluster("b").version), routed(1))
    assert cache.lagging(lambda _: wanted) == {
        "bad": Lag("refused routes 'main': cannot", refused=True),
        "late": Lag("has not been sent clusters 'b'"),
    }


def test_gone_nodes_are_remembered_up_to_a_limit_and_forgotten_when_they_return() -> None:
    cache = Cache()
    cache.publish(served(*shop("a")))
    for number in range(GONE_NODES + 10):
        client = Wire(cache, "delta", f"edge-{number}")
        client.ask(CLUSTERS)
        client.session.close(float(number))
    gone = {status.node.id for status in cache.gone()}
    assert (len(gone), "edge-9" in gone, "edge-10" in gone) == (GONE_NODES, False, True)
    Wire(cache, "delta", "edge-10").ask(CLUSTERS)
    assert "edge-10" not in {status.node.id for status in cache.gone()}


@both
def test_old_snapshots_are_let_go(protocol: str) -> None:
    cache = Cache()
    cache.publish(served(*world(0)))
    stuck, client = Wire(cache, protocol, "stuck"), Wire(cache, protocol)
    client.connect(clusters=["a"])
    stuck.connect(clusters=["a"])
    seen = []
    for mark in range(1, 40):
        snapshot = served(*world(mark), cluster("b", mark), assignment("b", mark))
        seen += [weakref.ref(view) for view in snapshot.views.values()]
        cache.publish(snapshot)
        del snapshot
        client.settle()
        stuck.replies()  # and answers nothing
    gc.collect()
    alive = [view for each in seen if (view := each()) is not None]
    assert cache.fleet is not None
    current = cache.fleet.common
    assert {id(view) for view in alive} == {id(current.views[view.type]) for view in alive}


def test_what_returning_clients_may_hold_is_bounded() -> None:
    cache = Cache()
    for mark in range(RECENT_LIMIT * 2):
        cache.publish(served(*shop("a", mark=mark)))
        client = Wire(cache, "sotw")
        client.ask(CLUSTERS)
        client.replies()
    assert len(cache.recent) == RECENT_LIMIT
    client = Wire(cache, "sotw", now_s=9.0)
    client.ask(CLUSTERS, version_info=served(*shop("a", mark=RECENT_LIMIT * 2 - 1)).views[CLUSTERS].version)
    assert client.said() == []
