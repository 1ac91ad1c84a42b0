"""Delta: what is subscribed, what is called removed, and what a returning client is told."""

import pytest

from tests.xds.client import Wire, assignment, cluster, listener, read, route, served, shop
from xds import delta, proto
from xds.cache import Cache
from xds.resources import CLUSTERS, ENDPOINTS, LISTENERS, ROUTES, TYPES, Resource
from xds.snapshot import view
from xds.subscription import Held, Plan


def client_of(*resources: Resource) -> tuple[Cache, Wire]:
    cache = Cache()
    cache.publish(served(*resources))
    return cache, Wire(cache, "delta")


def endpoints(*names: str, port: int = 80) -> tuple[Resource, ...]:
    return tuple(assignment(name, port) for name in names)


def clusters(*names: str, mark: int = 0) -> tuple[Resource, ...]:
    return tuple(cluster(name, mark) for name in names)


def versions(*resources: Resource) -> dict[str, str]:
    return {each.name: each.version for each in resources}


# what changes


def test_only_what_changed_is_sent_and_what_is_gone_is_called_removed() -> None:
    cache, client = client_of(*clusters("a", "b", "c"))
    client.ask(CLUSTERS)
    assert client.settle() == ["clusters a b c"]
    client.now_s = 5.0
    client.settle()
    cache.publish(served(cluster("a"), cluster("b", 1), cluster("d")))
    assert client.settle() == ["clusters b d -c"]


def test_each_resource_carries_its_own_version() -> None:
    _, client = client_of(*clusters("a", "b"))
    client.ask(CLUSTERS)
    (reply,) = client.replies()
    assert reply.versions == versions(*clusters("a", "b"))


def test_removed_name_stays_subscribed_and_comes_when_it_is_made_again() -> None:
    cache, client = client_of(*endpoints("a"))
    client.ask(ENDPOINTS, "a")
    client.settle()
    client.now_s = 5.0
    client.settle()
    cache.publish(served(*clusters("b")))
    assert client.settle() == ["endpoints -a"]
    cache.publish(served(*endpoints("a")))
    assert client.settle() == ["endpoints a"]


def test_missing_name_is_called_removed_at_once_and_once_and_sent_when_it_is_there() -> None:
    cache, client = client_of(*endpoints("a"))
    client.ask(ENDPOINTS, "a", "later")
    assert client.settle() == ["endpoints a -later"]
    cache.publish(served(*endpoints("a", port=81)))
    assert client.settle() == ["endpoints a"]
    cache.publish(served(*endpoints("a", "later", port=81)))
    assert client.settle() == ["endpoints later"]


# subscriptions


def test_subscribing_again_sends_again() -> None:
    _, client = client_of(*endpoints("a", "b"))
    client.ask(ENDPOINTS, "a", "b")
    client.settle()
    client.ask(ENDPOINTS, "a")
    assert client.settle() == ["endpoints a"]


def test_subscribing_again_to_what_is_missing_is_answered_again() -> None:
    _, client = client_of(*endpoints("a"))
    client.ask(ENDPOINTS, "none")
    client.settle()
    client.ask(ENDPOINTS, "none")
    assert client.settle() == ["endpoints -none"]


def test_unsubscribed_name_is_not_sent_any_more() -> None:
    cache, client = client_of(*endpoints("a", "b"))
    client.ask(ENDPOINTS, "a", "b")
    client.settle()
    client.leave(ENDPOINTS, "a")
    cache.publish(served(*endpoints("a", "b", port=81)))
    assert client.settle() == ["endpoints b"]


def test_unsubscribing_a_stranger_is_no_error_and_says_nothing() -> None:
    _, client = client_of(*endpoints("a"))
    client.ask(ENDPOINTS, "a")
    client.settle()
    client.leave(ENDPOINTS, "stranger")
    assert client.said() == []


def test_name_both_subscribed_and_unsubscribed_is_wanted() -> None:
    _, client = client_of(*endpoints("a", "b"))
    client.ask(ENDPOINTS, "b")
    client.settle()
    client.ask(ENDPOINTS, "a", resource_names_unsubscribe=["a", "b"])
    assert client.settle() == ["endpoints a"]


def test_one_message_is_an_ack_and_subscribes_and_unsubscribes() -> None:
    cache, client = client_of(*endpoints("a", "b"))
    client.ask(ENDPOINTS, "a")
    (reply,) = client.replies()
    client.ask(ENDPOINTS, "b", nonce=reply.nonce, resource_names_unsubscribe=["a"])
    assert not client.session.status().types[ENDPOINTS].waiting
    assert client.settle() == ["endpoints b"]
    cache.publish(served(*endpoints("a", "b", port=81)))
    assert client.settle() == ["endpoints b"]


@pytest.mark.parametrize("nonce", ["", "1", "never-sent"])
def test_subscriptions_count_whatever_the_nonce(nonce: str) -> None:
    cache, client = client_of(*endpoints("a", "b"))
    client.ask(ENDPOINTS, "a")
    client.replies()
    cache.publish(served(*endpoints("a", "b", port=81)))
    client.replies()
    client.ask(ENDPOINTS, "b", nonce=nonce)
    assert client.said() == ["endpoints b"]


def test_several_responses_may_be_outstanding() -> None:
    cache, client = client_of(*endpoints("a"))
    client.ask(ENDPOINTS, "a")
    replies = client.replies()
    for port in (81, 82):
        cache.publish(served(*endpoints("a", port=port)))
        replies += client.replies()
    for reply, waiting in zip(replies, (True, True, False), strict=True):
        client.ack(reply)
        assert client.session.status().types[ENDPOINTS].waiting is waiting


# the wildcard


@pytest.mark.parametrize("names", [(), ("*",)])
def test_empty_first_subscription_or_a_star_is_the_wildcard(names: tuple[str, ...]) -> None:
    cache, client = client_of(*clusters("a"))
    client.ask(CLUSTERS, *names)
    assert client.settle() == ["clusters a"]
    cache.publish(served(*clusters("a", "b")))
    assert client.settle() == ["clusters b"]


@pytest.mark.parametrize("names", [(), ("*",)])
def test_empty_world_is_answered_once(names: tuple[str, ...]) -> None:
    _, client = client_of(*endpoints("a"))
    client.ask(CLUSTERS, *names)
    assert client.settle() == ["clusters"]


@pytest.mark.parametrize("names", [(), ("*",)])
def test_endpoints_have_no_wildcard(names: tuple[str, ...]) -> None:
    _, client = client_of(*endpoints("a"))
    client.ask(ENDPOINTS, *names)
    assert client.said() == []


def test_first_subscription_with_names_is_no_wildcard_even_when_they_are_gone() -> None:
    cache, client = client_of(*clusters("a", "b"))
    client.ask(CLUSTERS, "a")
    client.settle()
    client.leave(CLUSTERS, "a")
    client.ask(CLUSTERS)
    cache.publish(served(*clusters("a", "b", mark=1)))
    assert client.said() == []


def test_star_goes_and_leaves_the_explicit_name_which_goes_and_leaves_nothing() -> None:
    cache, client = client_of(*clusters("a", "b"))
    client.ask(CLUSTERS)
    client.settle()
    client.ask(CLUSTERS, "a")
    assert client.settle() == ["clusters a"]
    client.leave(CLUSTERS, "*")
    cache.publish(served(*clusters("a", "b", mark=1)))
    assert client.settle() == ["clusters a"]
    client.leave(CLUSTERS, "a")
    cache.publish(served(*clusters("a", "b", mark=2)))
    assert client.settle() == []


def test_explicit_name_dropped_inside_the_wildcard_is_answered() -> None:
    _, client = client_of(*clusters("a"))
    client.ask(CLUSTERS, "*", "a", "none")
    assert client.settle() == ["clusters a -none"]
    client.leave(CLUSTERS, "a")
    assert client.settle() == ["clusters a"]
    client.leave(CLUSTERS, "none")
    assert client.settle() == ["clusters -none"]


def test_star_added_to_names_sends_the_rest() -> None:
    _, client = client_of(*clusters("a", "b"))
    client.ask(CLUSTERS, "a")
    client.settle()
    client.ask(CLUSTERS, "*")
    assert client.settle() == ["clusters b"]
    client.ask(CLUSTERS, "*")
    assert client.settle() == ["clusters"]


# reconnect


def test_returning_client_is_told_only_what_changed_and_what_is_gone() -> None:
    _, client = client_of(*clusters("a", "b"))
    client.ask(CLUSTERS, initial_resource_versions=versions(cluster("a"), cluster("b", 1), cluster("ghost")))
    client.ask(LISTENERS)
    client.ask(ROUTES)
    assert client.settle()[0] == "clusters b -ghost"


def test_returning_client_that_has_all_is_told_nothing() -> None:
    _, client = client_of(*clusters("a", "b"))
    client.ask(CLUSTERS, initial_resource_versions=versions(*clusters("a", "b")))
    assert client.said() == []
    assert client.session.stream.types[CLUSTERS].has("a", cluster("a").version)


def test_returning_client_always_gets_its_load_assignments() -> None:
    """A skipped one leaves a cluster warming that was warming when the stream broke."""
    _, client = client_of(*endpoints("a", "b"))
    client.ask(ENDPOINTS, "a", "ghost", initial_resource_versions=versions(*endpoints("a", "ghost")))
    assert client.settle() == ["endpoints a -ghost"]


def test_returning_client_is_not_sent_an_unchanged_route() -> None:
    _, client = client_of(*shop("a"))
    client.ask(ROUTES, "main", initial_resource_versions=versions(route("main", "a")))
    assert client.said() == []


def test_returning_client_with_a_cluster_that_changed_gets_its_load_assignment_behind_it() -> None:
    _, client = client_of(*shop("a", mark=1))
    client.ask(CLUSTERS, initial_resource_versions=versions(cluster("a")))
    client.ask(ENDPOINTS, "a", initial_resource_versions=versions(assignment("a")))
    assert client.said() == ["clusters a", "endpoints a"]


def test_version_of_an_earlier_stream_that_is_served_again_is_sent_once_and_holds_nothing_up_any_more() -> None:
    """Until then nobody knows which clusters it names, so none may go."""
    cache, client = client_of(*clusters("a", "b"))
    client.ask(CLUSTERS, initial_resource_versions=versions(*clusters("a", "b")))
    client.ask(ROUTES)
    known = listener("edge", "main")
    client.ask(LISTENERS, initial_resource_versions=versions(known))
    cache.publish(served(*clusters("a"), known))
    assert client.settle() == ["listeners edge", "clusters -b"]


# NACK


def test_rejected_resource_is_left_alone_while_another_changes() -> None:
    cache, client = client_of(*clusters("a"))
    client.ask(CLUSTERS)
    client.settle()
    cache.publish(served(*clusters("a", "bad")))
    client.nack(client.replies()[0])
    cache.publish(served(*clusters("a", "bad", "c")))
    assert client.settle() == ["clusters c"]
    state = client.session.stream.types[CLUSTERS]
    assert state.rejection is not None
    assert not state.has("bad", cluster("bad").version)
    assert state.has("c", cluster("c").version)


def test_rejected_resource_that_leaves_clears_the_nack() -> None:
    cache, client = client_of(*clusters("a"))
    client.ask(CLUSTERS)
    client.settle()
    cache.publish(served(*clusters("a", "bad")))
    client.nack(client.replies()[0])
    client.now_s = 5.0
    cache.publish(served(*clusters("a")))
    assert client.settle() == ["clusters -bad"]
    assert client.session.status().types[CLUSTERS].rejection is None


def test_unsubscribing_what_was_rejected_clears_the_nack() -> None:
    _, client = client_of(*endpoints("a", "bad"))
    client.ask(ENDPOINTS, "a")
    client.settle()
    client.ask(ENDPOINTS, "bad")
    client.nack(client.replies()[0])
    assert client.session.status().types[ENDPOINTS].rejection is not None
    client.leave(ENDPOINTS, "bad")
    assert client.session.status().types[ENDPOINTS].rejection is None


# bytes


@pytest.mark.parametrize("resources", [(), clusters("a"), clusters("a", "ü", "c" * 300)])
@pytest.mark.parametrize("removed", [(), ("x", "y")])
def test_response_by_hand_equals_protobufs_own(resources: tuple[Resource, ...], removed: tuple[str, ...]) -> None:
    made = view(CLUSTERS, resources)
    plan = Plan(made.version, resources, removed, Held({}))
    words = {"system_version_info": made.version, "nonce": "n1", "type_url": CLUSTERS.url}
    expected = proto.parse(delta.REQUEST.replace("Request", "Response"), {**words, "removed_resources": removed})
    for each in resources:
        added = expected.resources.add(name=each.name, version=each.version)
        added.resource.type_url, added.resource.value = CLUSTERS.url, each.body
    expected.control_plane.identifier = "envoy-rollout"
    assert type(expected).FromString(delta.encode(CLUSTERS, plan, "n1", ttls=False)) == expected


def test_every_type_is_sent_under_its_own_url() -> None:
    for type_ in TYPES:
        assert read("delta", delta.encode(type_, Plan("v", (), (), Held({})), "1", ttls=False)).type is type_


def test_streams_in_the_same_state_share_what_they_hold() -> None:
    cache, first = client_of(*clusters("a", "b"))
    second = Wire(cache, "delta", "edge-2")
    first.ask(CLUSTERS)
    first.settle()
    second.ask(CLUSTERS, initial_resource_versions=versions(cluster("a", 7), cluster("b")))
    second.settle()
    states = [client.session.stream.types[CLUSTERS] for client in (first, second)]
    assert states[0].held is states[1].held
    assert states[0].acked is states[1].acked


def test_listener_and_route_go_to_who_asks_for_them_by_name() -> None:
    _, client = client_of(listener("edge", "main"), listener("other", "main"), route("main", "a"))
    client.ask(LISTENERS, "edge")
    client.ask(ROUTES, "main", "none")
    assert client.settle() == ["listeners edge", "routes main -none"]
