"""Proxies in groups: each is served its group's snapshot, and a change of a group reaches its members alone."""

from collections.abc import Mapping

import pytest

from tests.xds.client import PROTOCOLS, Wire, assignment, cluster, listener, route, served, shop
from xds.cache import RECENT_LIMIT, Cache, Fleet, Wanted
from xds.node import Node
from xds.resources import CLUSTERS, ENDPOINTS, ROUTES, Resource
from xds.snapshot import Snapshot
from xds.subscription import Lag

both = pytest.mark.parametrize("protocol", PROTOCOLS)


def group_of(node: Node) -> str:
    """Group by cluster: one function, as a fleet's must be the same from publish to publish."""
    return node.cluster


def fleet(common: Snapshot, groups: Mapping[str, Snapshot]) -> Fleet:
    return Fleet(common, groups, group_of)


def proxy(cache: Cache, protocol: str, cluster_name: str, *, node_id: str = "", now_s: float = 0.0) -> Wire:
    client = Wire(cache, protocol, now_s=now_s)
    client._node = {"id": node_id or f"{cluster_name or 'no'}-1", "cluster": cluster_name}
    return client


def world(*clusters: str, mark: object = 0) -> tuple[Resource, ...]:
    """Make a world in which only the route changes with `mark`."""
    rest = (each for each in shop(*clusters) if each.type is not ROUTES)
    return (*rest, route("main", *clusters, mark=mark))


@both
def test_each_proxy_is_served_its_groups_snapshot_and_all_others_the_common_one(protocol: str) -> None:
    cache = Cache()
    cache.publish(fleet(served(*world("a")), {"edge": served(*world("a", "b"))}))
    members = {name: proxy(cache, protocol, name) for name in ("edge", "inside", "")}
    came = {name: member.connect(clusters=["a"]) for name, member in members.items()}
    assert came["edge"][0] == "clusters a b"
    assert came["inside"] == came[""] == ["clusters a", "endpoints a", "listeners edge", "routes main"]


@both
def test_change_of_one_group_wakes_its_members_only(protocol: str) -> None:
    cache = Cache()
    cache.publish(fleet(served(*world("a")), {"edge": served(*world("a", "b"))}))
    edge, other = proxy(cache, protocol, "edge"), proxy(cache, protocol, "other")
    edge.connect(clusters=["a", "b"])
    other.connect(clusters=["a"])
    woken = other.wakes
    assert cache.publish(fleet(served(*world("a")), {"edge": served(*world("a", "b", mark=1))}))
    assert (edge.settle(), other.settle(), other.wakes) == (["routes main"], [], woken)
    woken = edge.wakes
    assert cache.publish(fleet(served(*world("a", mark=1)), {"edge": served(*world("a", "b", mark=1))}))
    assert (edge.settle(), other.settle(), edge.wakes) == ([], ["routes main"], woken)


@both
def test_new_group_takes_its_members_over_and_leaves_them_to_the_common_one_when_it_goes(protocol: str) -> None:
    cache = Cache()
    common, edge = served(*world("a")), served(*world("a", "b"))
    cache.publish(fleet(common, {}))
    member, other = proxy(cache, protocol, "edge"), proxy(cache, protocol, "other")
    for each in (member, other):
        each.connect(clusters=["a"])
    cache.publish(fleet(common, {"edge": edge}))
    came = member.settle()
    assert [each.split()[0] for each in came][:2] == ["clusters", "routes"], "a route to b comes after b"
    member.ask(ENDPOINTS, "a", "b")
    member.settle()
    cache.publish(fleet(common, {}))
    went = member.settle()
    assert went[:2] == ["routes main", "clusters a" if protocol == "sotw" else "clusters -b"], "b goes after its route"
    assert other.settle() == []


@both
def test_proxy_changes_groups_by_connecting_with_another_cluster(protocol: str) -> None:
    cache = Cache()
    cache.publish(fleet(served(*world("a")), {"edge": served(*world("a", "b"))}))
    before = proxy(cache, protocol, "edge", node_id="moving")
    before.connect(clusters=["a", "b"])
    before.session.close(1.0)
    after = proxy(cache, protocol, "", node_id="moving", now_s=2.0)
    assert after.connect(clusters=["a"])[0] == "clusters a"
    assert [status.node.cluster for status in cache.connected()] == [""]


def test_groups_of_equal_content_are_one_snapshot_and_others_share_their_equal_views() -> None:
    cache = Cache()
    cache.publish(
        fleet(
            served(*world("a")),
            {name: served(*world("a")) for name in ("one", "two")} | {"three": served(*world("a", mark=1))},
        )
    )
    found = cache.fleet
    assert found is not None
    assert found.groups["one"] is found.groups["two"] is found.common
    assert found.groups["three"].views[CLUSTERS] is found.common.views[CLUSTERS]
    assert found.groups["three"].views[ROUTES] is not found.common.views[ROUTES]


@both
def test_what_lags_is_judged_by_each_proxys_own_snapshot(protocol: str) -> None:
    cache = Cache()
    cache.publish(fleet(served(*world("a")), {"edge": served(*world("a", mark=1))}))
    edge, other = proxy(cache, protocol, "edge"), proxy(cache, protocol, "other")
    for each in (edge, other):
        each.connect(clusters=["a"])

    def wanted(snapshot: Snapshot) -> list[Wanted]:
        return [Wanted(ROUTES, each.name, each.version) for each in snapshot.views[ROUTES].resources.values()]

    assert cache.lagging(wanted) == {}
    cache.publish(fleet(served(*world("a")), {"edge": served(*world("a", mark=2))}))
    assert cache.lagging(wanted) == {"edge-1": Lag("has not been sent routes 'main'")}


def test_states_that_returning_clients_may_hold_are_kept_for_each_group() -> None:
    cache = Cache()
    names = [f"group-{number}" for number in range(RECENT_LIMIT)]
    worlds = {name: served(cluster(name), assignment(name), listener(name, "main")) for name in names}
    cache.publish(fleet(served(*world("a")), worlds))
    for name in names:
        proxy(cache, "sotw", name).connect(clusters=[name])
    held = {snapshot.views[CLUSTERS].version for snapshot in worlds.values()}
    assert held <= cache.recent.keys()
