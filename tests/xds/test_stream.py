"""Order, make before break, and who lags behind: for both protocols alike."""

from collections.abc import Sequence

import pytest

from tests.xds.client import PROTOCOLS, Reply, Wire, assignment, cluster, listener, route, served, shop, tcp_listener
from xds.cache import Cache, Wanted
from xds.resources import CLUSTERS, ENDPOINTS, LISTENERS, ROUTES, Resource
from xds.stream import BARRIER_S
from xds.subscription import Lag

both = pytest.mark.parametrize("protocol", PROTOCOLS)


def connected(protocol: str, *resources: Resource, clusters: Sequence[str]) -> tuple[Cache, Wire]:
    cache = Cache()
    cache.publish(served(*resources))
    client = Wire(cache, protocol)
    client.connect(clusters=clusters)
    return cache, client


def one(client: Wire, expected: str) -> Reply:
    """Take the only thing that the server has to say."""
    replies = client.replies()
    assert [str(reply) for reply in replies] == [expected]
    return replies[0]


def lag(client: Wire, resource: Resource) -> Lag | None:
    return client.session.lag(Wanted(resource.type, resource.name, resource.version))


# order of additions


@both
def test_first_answers_come_in_the_order_of_types(protocol: str) -> None:
    cache = Cache()
    cache.publish(served(*shop("a")))
    client = Wire(cache, protocol)
    client.ask(ROUTES, "main")
    client.ask(LISTENERS)
    client.ask(ENDPOINTS, "a")
    client.ask(CLUSTERS)
    replies = client.replies()
    assert [str(each) for each in replies] == ["clusters a", "endpoints a", "listeners edge"]
    client.ack(replies[0])
    assert client.said() == ["routes main"]


@both
def test_route_to_a_new_cluster_waits_for_its_ack(protocol: str) -> None:
    cache, client = connected(protocol, *shop("a"), clusters=["a"])
    cache.publish(served(*shop("a", "b")))
    everything = protocol == "sotw"
    clusters = one(client, "clusters a b" if everything else "clusters b")
    client.ask(ENDPOINTS, *(("a", "b") if everything else ("b",)), nonce=client.nonces[1])
    one(client, "endpoints b")
    assert client.session.wake_at_s(0.0) == BARRIER_S
    client.ack(clusters)
    assert client.said() == ["routes main"]


@both
def test_route_waits_no_longer_than_the_barrier(protocol: str) -> None:
    cache, client = connected(protocol, *shop("a"), clusters=["a"])
    client.now_s = 0.3  # a time at which 0.3 + 2.0 - 2.0 is not 0.3
    cache.publish(served(*shop("a", "b")))
    client.replies()
    client.now_s = 2.29
    assert client.said() == []
    at_s = client.session.wake_at_s(client.now_s)
    assert at_s is not None
    client.now_s = at_s
    assert client.said() == ["routes main"]
    assert client.session.wake_at_s(client.now_s) is None


@both
def test_route_whose_clusters_are_known_goes_at_once(protocol: str) -> None:
    resources = (*shop("a", "b"), route("other", "a"))
    cache, client = connected(protocol, *shop("a", "b"), route("other", "b"), clusters=["a", "b"])
    nonce = client.nonces[-1]
    client.ask(ROUTES, "main", "other", nonce=nonce)
    client.settle()
    cache.publish(served(*resources))
    one(client, "routes other")


@both
def test_routes_do_not_wait_for_the_cluster_of_another_route(protocol: str) -> None:
    world = (*shop("a"), route("other", "a"))
    cache, client = connected(protocol, *world, clusters=["a"])
    client.ask(ROUTES, "main", "other", nonce=client.nonces[-1])
    client.settle()
    cache.publish(served(*shop("a", "b"), route("other", "a", mark=1)))
    assert [reply.type for reply in client.replies()] == [CLUSTERS, ROUTES]
    assert client.session.lag(Wanted(ROUTES, "main", route("main", "a", "b").version)) == Lag(
        "has not been sent routes 'main'"
    )


@both
def test_rollback_passes_a_barrier_that_is_closed(protocol: str) -> None:
    cache, client = connected(protocol, *shop("a", "b", routed=["a"]), clusters=["a", "b"])
    cache.publish(served(*shop("a", "b", "c", routed=["a", "b", "c"])))
    client.replies()  # clusters, which are never ACKed: c does not get warm
    cache.publish(served(*shop("a", "b", "c", routed=["b"])))
    one(client, "routes main")


@both
def test_cluster_removed_and_added_again_before_its_ack_is_new(protocol: str) -> None:
    cache, client = connected(protocol, *shop("a", "b", routed=["a"]), clusters=["a", "b"])
    cache.publish(served(*shop("a")))
    removal = client.replies()[0]
    assert removal.type is CLUSTERS
    cache.publish(served(*shop("a", "b")))
    again = client.replies()[0]
    assert (again.type, "b" in again.names) == (CLUSTERS, True)
    client.ack(removal)
    assert client.said() == []
    client.ack(again)
    assert client.said() == ["routes main"]


@both
def test_listener_that_names_a_new_cluster_waits_alone(protocol: str) -> None:
    cache, client = connected(protocol, *shop("a"), clusters=["a"])
    new = tcp_listener("tcp", "b")
    world = (*(each for each in shop("a", "b", routed=["a"]) if each.type is not LISTENERS), new)
    cache.publish(served(*world, listener("edge", "main", mark=1)))
    replies = client.replies()
    assert [str(each) for each in replies[1:]] == ["listeners edge"]
    client.ack(replies[0])
    assert client.said() == ["listeners edge tcp" if protocol == "sotw" else "listeners tcp"]


@both
def test_first_answer_on_listeners_is_a_whole_one(protocol: str) -> None:
    cache = Cache()
    cache.publish(served(*shop("a", "b"), tcp_listener("tcp", "b")))
    client = Wire(cache, protocol)
    client.ask(CLUSTERS)
    client.ask(LISTENERS)
    clusters = one(client, "clusters a b")
    client.ack(clusters)
    assert client.said() == ["listeners edge tcp"]


@both
def test_changed_listener_keeps_its_old_form_while_its_cluster_is_new(protocol: str) -> None:
    before = (*shop("a", "b"), tcp_listener("tcp", "a"))
    cache, client = connected(protocol, *before, clusters=["a", "b"])
    changed = (*shop("a", "b", "c", routed=["a", "b"]), tcp_listener("tcp", "c"), tcp_listener("more", "b"))
    cache.publish(served(*changed))
    replies = client.replies()
    listeners = next(reply for reply in replies if reply.type is LISTENERS)
    if protocol == "sotw":
        assert listeners.names == ("edge", "more", "tcp")
        assert listeners.versions["tcp"] == tcp_listener("tcp", "a").version
    else:
        assert listeners.names == ("more",)
    client.ack(listeners)
    client.ack(replies[0])
    assert client.replies()[0].versions["tcp"] == tcp_listener("tcp", "c").version


@both
def test_client_that_never_asked_for_a_cluster_waits_for_none(protocol: str) -> None:
    cache = Cache()
    cache.publish(served(*shop("a")))
    client = Wire(cache, protocol)
    client.ask(ROUTES, "main")
    reply = one(client, "routes main")
    client.ack(reply)
    client.ask(CLUSTERS, "a")
    client.ack(one(client, "clusters a"))
    cache.publish(served(*shop("a", "b")))
    assert client.said() == ["routes main"]


# load assignments behind clusters


@both
def test_unchanged_load_assignment_follows_a_changed_cluster(protocol: str) -> None:
    cache, client = connected(protocol, *shop("a", "b"), clusters=["a", "b"])
    world = [each for each in shop("a", "b") if each != cluster("a")]
    cache.publish(served(*world, cluster("a", mark=1)))
    clusters = "clusters a b" if protocol == "sotw" else "clusters a"
    assert client.settle() == [clusters, "endpoints a"]


@both
def test_load_assignment_follows_a_new_cluster_that_shares_it(protocol: str) -> None:
    cache, client = connected(protocol, *shop("a"), clusters=["a"])
    cache.publish(served(*shop("a"), cluster("shadow", service_name="a")))
    clusters = "clusters a shadow" if protocol == "sotw" else "clusters shadow"
    assert client.settle() == [clusters, "endpoints a"]


@both
def test_weights_touch_neither_clusters_nor_endpoints(protocol: str) -> None:
    cache, client = connected(protocol, *shop("a", "b"), clusters=["a", "b"])
    cache.publish(served(*shop("a", "b", routed=["b"])))
    assert client.settle() == ["routes main"]


# removals


@both
def test_replaced_cluster_leaves_when_the_route_is_acked(protocol: str) -> None:
    cache, client = connected(protocol, *shop("x"), clusters=["x"])
    cache.publish(served(*shop("y")))
    client.ack(one(client, "clusters x y" if protocol == "sotw" else "clusters y"))
    routes = one(client, "routes main")
    assert client.said() == []
    client.ack(routes)
    assert client.said()[0] == ("clusters y" if protocol == "sotw" else "clusters -x")
    assert client.session.lag(Wanted(CLUSTERS, "x", None)) == Lag("has not ACKed clusters 'x'")


@both
def test_cluster_stays_while_a_refused_route_leaves_the_old_one_in_force(protocol: str) -> None:
    cache, client = connected(protocol, *shop("x"), clusters=["x"])
    cache.publish(served(*shop("y")))
    client.ack(client.replies()[0])
    client.nack(one(client, "routes main"))
    assert client.said() == []
    cache.publish(served(*shop("y", routed=["y"]), route("spare", "y")))
    assert client.said() == []


@both
def test_cluster_leaves_though_an_unrelated_listener_is_refused(protocol: str) -> None:
    cache, client = connected(protocol, *shop("x", "y", routed=["x"]), clusters=["x", "y"])
    cache.publish(served(*shop("x", "y", routed=["x"]), tcp_listener("taken", "x")))
    client.nack(client.replies()[0], "Error adding/updating listener(s) taken: cannot bind")
    cache.publish(served(*shop("x", routed=["x"]), tcp_listener("taken", "x")))
    came = client.replies()
    assert came[0].type is CLUSTERS
    assert "y" not in came[0].names


@both
def test_cluster_stays_while_the_new_route_is_not_answered(protocol: str) -> None:
    cache, client = connected(protocol, *shop("x", "y", routed=["x"]), clusters=["x", "y"])
    cache.publish(served(*shop("x", "y", routed=["y"])))
    first = one(client, "routes main")
    cache.publish(served(*shop("x", "y", routed=["x", "y"])))
    second = one(client, "routes main")
    cache.publish(served(*shop("y", routed=["y"])))
    third = one(client, "routes main")
    for reply in (first, second):
        client.ack(reply)
        assert client.said() == []
    client.ack(third)
    assert client.replies()[0].type is CLUSTERS


@both
def test_nothing_leaves_before_a_returning_client_has_shown_its_routes(protocol: str) -> None:
    cache, before = connected(protocol, *shop("x"), clusters=["x"])
    clusters = cache.fleet.common.views[CLUSTERS] if cache.fleet else None
    assert clusters is not None
    before.session.close(0.0)
    cache.publish(served(*shop("y")))
    client = Wire(cache, protocol, now_s=10.0)
    if protocol == "sotw":
        client.ask(CLUSTERS, version_info=clusters.version)
        client.ack(one(client, "clusters x y"))
        client.ask(ENDPOINTS, "x", version_info="older")
        client.settle()
        client.ask(LISTENERS, version_info="older")
        client.ask(ROUTES, "main", version_info="older")
    else:
        client.ask(CLUSTERS, initial_resource_versions={"x": cluster("x").version})
        client.ack(one(client, "clusters y"))
        client.ask(LISTENERS, initial_resource_versions={"edge": listener("edge", "main").version})
        client.ask(ROUTES, "main", initial_resource_versions={"main": route("main", "x").version})
    came = client.settle()
    assert came[-2:] == ["routes main", "clusters y" if protocol == "sotw" else "clusters -x"]


@both
def test_returning_client_without_routes_loses_its_old_clusters_after_the_barrier(protocol: str) -> None:
    cache, before = connected(protocol, *shop("x", "y"), clusters=["x", "y"])
    assert cache.fleet is not None
    snapshot = cache.fleet.common
    before.session.close(0.0)
    cache.publish(served(*shop("y")))
    client = Wire(cache, protocol, now_s=10.0)
    if protocol == "sotw":
        client.ask(CLUSTERS, version_info=snapshot.views[CLUSTERS].version)
    else:
        client.ask(CLUSTERS, initial_resource_versions={name: cluster(name).version for name in "xy"})
    assert client.said() == []
    assert client.session.wake_at_s(10.0) == 10.0 + BARRIER_S
    client.now_s = 10.0 + BARRIER_S
    assert client.said() == ["clusters y" if protocol == "sotw" else "clusters -x"]


# NACK


@both
def test_rejected_content_is_not_sent_again_until_it_changes(protocol: str) -> None:
    cache, client = connected(protocol, *shop("a"), clusters=["a"])
    cache.publish(served(*shop("a"), assignment("b", 1)))
    cache.publish(served(*shop("a", routed=["a", "a"])))
    client.nack(one(client, "routes main"))
    assert client.said() == []
    cache.publish(
        served(*(each for each in shop("a", routed=["a", "a"]) if each.type is not ENDPOINTS), assignment("a", 81))
    )
    assert client.settle() == ["endpoints a"]
    cache.publish(served(*shop("a")))
    assert client.settle() == ["endpoints a", "routes main"]


@both
def test_nack_is_kept_with_its_text_until_something_good_came(protocol: str) -> None:
    cache, client = connected(protocol, *shop("a"), clusters=["a"])
    cache.publish(served(*shop("a", routed=["a", "a"])))
    client.now_s = 5.0
    client.nack(one(client, "routes main"), "x" * 5000 + "the reason")
    bad = route("main", "a", "a")
    rejection = client.session.status().types[ROUTES].rejection
    assert rejection is not None
    assert (rejection.code, len(rejection.text), rejection.text[-10:], rejection.at_s) == (13, 4096, "the reason", 5.0)
    found = lag(client, bad)
    assert found is not None
    assert found.refused
    assert found.why.startswith("refused routes 'main': x")
    cache.publish(served(*shop("a", routed=["a"])))
    client.settle()
    assert client.session.status().types[ROUTES].rejection is None
    assert lag(client, route("main", "a")) is None


@both
def test_lag_after_a_nack_is_no_refusal_of_what_came_later(protocol: str) -> None:
    cache, client = connected(protocol, *shop("a"), clusters=["a"])
    cache.publish(served(*shop("a", routed=["a", "a"])))
    client.nack(one(client, "routes main"))
    newest = route("main", "a", mark=2)
    cache.publish(served(*(each for each in shop("a") if each.type is not ROUTES), newest))
    assert lag(client, newest) == Lag("has not been sent routes 'main'")
    reply = one(client, "routes main")
    assert lag(client, newest) == Lag("has not ACKed routes 'main'")
    client.ack(reply)
    assert lag(client, newest) is None


@both
def test_nack_of_what_was_superseded_does_not_count_against_its_successor(protocol: str) -> None:
    cache, client = connected(protocol, *shop("a"), clusters=["a"])
    cache.publish(served(*shop("a", routed=["a", "a"])))
    bad = one(client, "routes main")
    newest = route("main", "a", mark=2)
    cache.publish(served(*(each for each in shop("a") if each.type is not ROUTES), newest))
    good = one(client, "routes main")
    client.nack(bad)
    assert lag(client, newest) == Lag("has not ACKed routes 'main'")
    client.ack(good)
    assert lag(client, newest) is None
    assert client.session.status().types[ROUTES].rejection is None


@both
def test_route_that_names_a_refused_cluster_stays_as_it_was(protocol: str) -> None:
    cache, client = connected(protocol, *shop("a"), clusters=["a"])
    cache.publish(served(*shop("a", "bad")))
    client.nack(client.replies()[0])
    client.now_s = 100.0
    assert client.said() == []
    found = lag(client, cluster("bad"))
    assert found == Lag("refused clusters 'bad': no good", refused=True)
    cache.publish(served(*shop("a", "bad", routed=["a"]), route("more", "a")))
    assert client.said() == []


@both
def test_client_without_the_route_gets_it_in_spite_of_a_refused_cluster(protocol: str) -> None:
    """An Envoy that starts would otherwise serve nothing at all."""
    cache = Cache()
    cache.publish(served(*shop("a", "bad")))
    client = Wire(cache, protocol)
    client.ask(CLUSTERS)
    client.nack(one(client, "clusters a bad"))
    client.ask(ROUTES, "main")
    assert client.said() == ["routes main"]


@both
def test_cluster_that_works_counts_after_its_new_version_was_refused(protocol: str) -> None:
    cache, client = connected(protocol, *shop("a", "b", routed=["a"]), clusters=["a", "b"])
    world = [each for each in shop("a", "b", routed=["a"]) if each != cluster("b")]
    cache.publish(served(*world, cluster("b", mark="bad")))
    client.nack(client.replies()[0])
    client.settle()
    routes = [each for each in shop("a", "b", routed=["a", "b"]) if each != cluster("b")]
    cache.publish(served(*routes, cluster("b", mark="bad"), cluster("c"), assignment("c")))
    came = client.replies()
    assert [each.type for each in came] == [CLUSTERS, ROUTES]
    if protocol == "delta":
        client.ack(came[0])  # of c alone; what is held of b stays the version before
        cache.publish(served(*world, cluster("b", mark="bad")))
        assert client.replies()[-1].type is ROUTES


@both
def test_good_part_of_a_refused_response_counts_when_envoy_names_the_bad_one(protocol: str) -> None:
    cache, client = connected(protocol, *shop("a"), clusters=["a"])
    cache.publish(served(*shop("a", "bad", "good", routed=["a", "good"])))
    client.nack(
        client.replies()[0], "Error adding/updating cluster(s) bad: eds_cluster_config set in a non-EDS cluster"
    )
    assert client.said() == ["routes main"]
    assert lag(client, cluster("good")) is None
    assert lag(client, cluster("bad")) is not None


@both
def test_cluster_stays_when_a_nack_of_several_routes_leaves_open_which_one_is_in_force(protocol: str) -> None:
    """Envoy may have applied the first and refused the second; a NACK does not say so."""
    cache, client = connected(protocol, *shop("a", "c", routed=["a"]), route("more", "a"), clusters=["a", "c"])
    client.ask(ROUTES, "main", "more", nonce=client.nonces[-1])
    client.settle()
    cache.publish(served(*shop("a", "c", routed=["c"]), route("more", "a", "a")))
    client.nack(one(client, "routes main more"))
    cache.publish(served(*shop("a", routed=["a"]), route("more", "a", "a")))
    routes = one(client, "routes main")
    client.nack(routes)
    assert client.said() == []
    cache.publish(served(*shop("a", routed=["a", "a"]), route("more", "a", "a")))
    client.ack(one(client, "routes main"))
    assert client.said() == []  # `more` is still open
    cache.publish(served(*shop("a", routed=["a", "a"]), route("more", "a")))
    client.ack(one(client, "routes more"))
    assert client.replies()[0].type is CLUSTERS


@both
def test_other_types_go_on_after_a_nack(protocol: str) -> None:
    cache, client = connected(protocol, *shop("a"), clusters=["a"])
    cache.publish(served(*shop("a"), tcp_listener("taken", "a")))
    client.nack(client.replies()[0])
    cache.publish(served(*shop("a", routed=["a", "a"]), tcp_listener("taken", "a")))
    assert client.settle() == ["routes main"]


@both
def test_answer_to_the_newest_counts_for_those_before_it(protocol: str) -> None:
    cache, client = connected(protocol, *shop("a"), clusters=["a"])
    for mark in (1, 2, 3):
        cache.publish(served(*(each for each in shop("a") if each.type is not ROUTES), route("main", "a", mark=mark)))
        newest = one(client, "routes main")
    client.ack(newest)
    assert not client.session.status().types[ROUTES].waiting
    assert lag(client, route("main", "a", mark=3)) is None


@both
def test_client_that_answers_nothing_costs_bounded_memory(protocol: str) -> None:
    cache, client = connected(protocol, *shop("a"), clusters=["a"])
    for mark in range(1, 200):
        cache.publish(served(*(each for each in shop("a") if each.type is not ROUTES), route("main", "a", mark=mark)))
        newest = one(client, "routes main")
    state = client.session.stream.types[ROUTES]
    assert len(state.unanswered) <= 64
    client.ack(newest)
    assert lag(client, route("main", "a", mark=199)) is None


# who lags


@both
def test_client_that_has_just_connected_lags(protocol: str) -> None:
    """It may hold older routes, which it has not mentioned yet."""
    cache = Cache()
    cache.publish(served(*shop("a")))
    client = Wire(cache, protocol, now_s=1.0)
    client.ask(CLUSTERS)
    client.settle()
    wanted = Wanted(ROUTES, "main", route("main", "a").version)
    assert client.session.lag(wanted) == Lag("has just connected and may ask for routes yet")
    client.now_s = 1.0 + BARRIER_S
    assert client.said() == []
    assert client.session.lag(wanted) is None


@both
def test_resource_that_is_not_wanted_is_no_lag(protocol: str) -> None:
    _, client = connected(protocol, *shop("a"), route("other", "a"), clusters=["a"])
    assert lag(client, route("other", "a")) is None


@both
def test_return_to_an_earlier_version_lags_until_that_is_acked(protocol: str) -> None:
    """The client may be working with the version in between, though it did not say so."""
    fixed = [each for each in shop("a") if each.type is not ROUTES]
    cache, client = connected(protocol, *fixed, route("main", "a", mark=1), clusters=["a"])
    cache.publish(served(*fixed, route("main", "a", mark=2)))
    one(client, "routes main")
    cache.publish(served(*fixed, route("main", "a", mark=1)))
    assert lag(client, route("main", "a", mark=1)) == Lag("has not been sent routes 'main'")
    back = one(client, "routes main")
    assert lag(client, route("main", "a", mark=1)) == Lag("has not ACKed routes 'main'")
    client.ack(back)
    assert lag(client, route("main", "a", mark=1)) is None


@both
def test_removed_resource_lags_until_the_removal_is_acked(protocol: str) -> None:
    cache, client = connected(protocol, *shop("a", "b", routed=["a"]), clusters=["a", "b"])
    cache.publish(served(*shop("a")))
    gone = Wanted(CLUSTERS, "b", None)
    assert client.session.lag(gone) == Lag("has not been sent clusters 'b'")
    removal = client.replies()[0]
    assert client.session.lag(gone) == Lag("has not ACKed clusters 'b'")
    client.ack(removal)
    assert client.session.lag(gone) is None
