"""State of the world: what a request's names mean, which requests count, and what is said again."""

from collections.abc import Callable, Iterable
from dataclasses import replace

import pytest

from tests.xds.client import Wire, assignment, cluster, listener, read, route, served, shop
from xds import proto, sotw
from xds.cache import Cache
from xds.resources import CLUSTERS, ENDPOINTS, LISTENERS, ROUTES, TYPES, Resource
from xds.snapshot import view
from xds.subscription import Held, Plan, Subscription, sent


def client_of(*resources: Resource) -> tuple[Cache, Wire]:
    cache = Cache()
    cache.publish(served(*resources))
    return cache, Wire(cache, "sotw")


def endpoints(*names: str, port: int = 80) -> tuple[Resource, ...]:
    return tuple(assignment(name, port) for name in names)


def clusters(*names: str, mark: int = 0) -> tuple[Resource, ...]:
    return tuple(cluster(name, mark) for name in names)


# the wildcard


@pytest.mark.parametrize("names", [(), ("*",), ("*", "a")])
def test_empty_first_names_or_a_star_are_the_wildcard(names: tuple[str, ...]) -> None:
    _, client = client_of(*clusters("a", "b"))
    client.ask(CLUSTERS, *names)
    assert client.said() == ["clusters a b"]


def test_empty_names_stay_the_wildcard_until_names_were_given() -> None:
    cache, client = client_of(*clusters("a"))
    client.ask(CLUSTERS)
    client.settle()
    cache.publish(served(*clusters("a", "b")))
    assert client.settle() == ["clusters a b"]
    client.ask(CLUSTERS, "a", nonce=client.nonces[-1])
    client.settle()
    client.ask(CLUSTERS, nonce=client.nonces[-1])
    cache.publish(served(*clusters("a", "b", "c")))
    assert client.said() == []


def test_empty_names_after_an_explicit_star_want_nothing() -> None:
    cache, client = client_of(*clusters("a"))
    client.ask(CLUSTERS)
    (reply,) = client.replies()
    client.ack(reply, "*")
    client.ask(CLUSTERS, nonce=reply.nonce)
    cache.publish(served(*clusters("b")))
    assert client.said() == []


def test_dropping_the_star_leaves_the_explicit_names() -> None:
    cache, client = client_of(*clusters("a", "b"))
    client.ask(CLUSTERS, "*", "a")
    (reply,) = client.replies()
    client.ack(reply, "a")
    cache.publish(served(*clusters("a", "b", mark=1)))
    (reply,) = client.replies()
    assert reply.names == ("a",)


def test_star_that_is_added_is_answered_though_nothing_is_new() -> None:
    _, client = client_of(*clusters("a"))
    client.ask(CLUSTERS, "a")
    (reply,) = client.replies()
    client.ack(reply, "a", "*")
    assert client.settle() == ["clusters a"]


def test_empty_world_is_answered_once() -> None:
    _, client = client_of(*endpoints("a"))
    client.ask(CLUSTERS)
    assert client.settle() == ["clusters"]


@pytest.mark.parametrize("names", [(), ("*",)])
def test_endpoints_have_no_wildcard(names: tuple[str, ...]) -> None:
    _, client = client_of(*endpoints("a"))
    client.ask(ENDPOINTS, *names)
    assert client.said() == []


def test_endpoints_without_names_after_some_want_nothing() -> None:
    cache, client = client_of(*endpoints("a"))
    client.ask(ENDPOINTS, "a")
    (reply,) = client.replies()
    client.answer(reply, ())
    cache.publish(served(*endpoints("a", port=81)))
    assert client.said() == []


# names


def test_only_names_that_were_asked_for_are_sent() -> None:
    _, client = client_of(*endpoints("a", "b"))
    client.ask(ENDPOINTS, "a")
    assert client.settle() == ["endpoints a"]


def test_new_name_on_an_unchanged_version_is_answered_alone() -> None:
    _, client = client_of(*endpoints("a", "b"))
    client.ask(ENDPOINTS, "a")
    (reply,) = client.replies()
    client.ack(reply, "a", "b")
    assert client.settle() == ["endpoints b"]


def test_name_dropped_and_asked_again_is_sent_again() -> None:
    _, client = client_of(*endpoints("a", "b"))
    client.ask(ENDPOINTS, "a", "b")
    (reply,) = client.replies()
    client.ack(reply, "a")
    assert client.said() == []
    client.ask(ENDPOINTS, "a", "b", nonce=reply.nonce)
    assert client.said() == ["endpoints b"]


def test_same_names_in_another_order_ask_for_nothing() -> None:
    _, client = client_of(*endpoints("a", "b"))
    client.ask(ENDPOINTS, "a", "b")
    (reply,) = client.replies()
    client.ack(reply, "b", "a")
    assert client.said() == []


def test_missing_name_holds_nothing_back_and_comes_when_it_is_there() -> None:
    cache, client = client_of(*endpoints("a"))
    client.ask(ENDPOINTS, "a", "later")
    assert client.settle() == ["endpoints a"]
    cache.publish(served(*endpoints("a", "later")))
    assert client.settle() == ["endpoints later"]


def test_only_missing_names_are_met_with_silence() -> None:
    cache, client = client_of(*clusters("a"))
    client.ask(CLUSTERS, "later")
    client.ask(ENDPOINTS, "later")
    assert client.said() == []
    cache.publish(served(*clusters("a", "later"), *endpoints("later")))
    assert client.said() == ["clusters later", "endpoints later"]


def test_names_of_clusters_are_answered_with_all_of_them() -> None:
    """gRPC takes a name that a full-state response leaves out as deleted."""
    cache, client = client_of(*clusters("a", "b", "c"))
    client.ask(CLUSTERS, "a", "b")
    client.settle()
    cache.publish(served(*clusters("a", "c"), cluster("b", 1)))
    assert client.settle() == ["clusters a b"]


def test_names_that_all_vanish_are_deleted_by_an_empty_response() -> None:
    cache, client = client_of(*clusters("a", "b"))
    client.ask(CLUSTERS, "a")
    client.settle()
    client.now_s = 5.0
    cache.publish(served(*clusters("b")))
    assert client.settle() == ["clusters"]


# what is said


def test_change_of_one_endpoint_list_sends_that_one_only() -> None:
    cache, client = client_of(*endpoints("a", "b"))
    client.ask(ENDPOINTS, "a", "b")
    client.settle()
    cache.publish(served(assignment("a"), assignment("b", 81)))
    assert client.settle() == ["endpoints b"]


def test_change_of_one_cluster_sends_all() -> None:
    cache, client = client_of(*clusters("a", "b"))
    client.ask(CLUSTERS)
    client.settle()
    cache.publish(served(cluster("a"), cluster("b", 1)))
    assert client.settle() == ["clusters a b"]


def test_absence_of_an_endpoint_list_is_not_told() -> None:
    cache, client = client_of(*endpoints("a", "b"))
    client.ask(ENDPOINTS, "a", "b")
    client.settle()
    cache.publish(served(*endpoints("a")))
    assert client.said() == []


def test_versions_are_hashes_that_survive_a_restart() -> None:
    first, second = client_of(*clusters("a", "b"))[1], client_of(*clusters("b", "a"))[1]
    for client in (first, second):
        client.ask(CLUSTERS)
    assert [reply.version for reply in first.replies()] == [reply.version for reply in second.replies()]


# nonces


def test_request_with_an_old_nonce_is_ignored_and_its_names_come_with_the_next() -> None:
    cache, client = client_of(*endpoints("a", "b"))
    client.ask(ENDPOINTS, "a")
    (first,) = client.replies()
    cache.publish(served(*endpoints("a", "b", port=81)))
    (second,) = client.replies()
    client.answer(first, ("a", "b"))
    assert client.said() == []
    client.answer(second, ("a", "b"))
    assert client.said() == ["endpoints b"]


def test_name_that_a_request_with_an_old_nonce_dropped_is_sent_again_when_it_is_back() -> None:
    """An Envoy whose listener goes and comes forgets its routes, and says so while another response is on its way."""
    cache, client = client_of(*endpoints("a", "b"))
    client.ask(ENDPOINTS, "a", "b")
    (first,) = client.replies()
    cache.publish(served(assignment("a"), assignment("b", 81)))
    (second,) = client.replies()
    client.answer(first, ())
    assert client.said() == []
    client.answer(second, ("a", "b"))
    assert client.settle() == ["endpoints a b"]


def test_request_with_a_strange_nonce_is_ignored() -> None:
    _, client = client_of(*endpoints("a", "b"))
    client.ask(ENDPOINTS, "a")
    client.settle()
    client.ask(ENDPOINTS, "b", nonce="never-sent")
    client.ask(ENDPOINTS, "b")
    assert client.said() == []


def test_request_before_any_answer_has_an_empty_nonce_and_counts() -> None:
    _, client = client_of(*endpoints("a"))
    client.ask(ENDPOINTS, "later")
    client.ask(ENDPOINTS, "a")
    assert client.said() == ["endpoints a"]


def test_envoys_repeated_request_gets_the_endpoints_behind_a_changed_cluster_once() -> None:
    cache, client = client_of(*shop("a"))
    client.connect(clusters=["a"])
    nonce = client.session.stream.types[ENDPOINTS].nonce
    cache.publish(served(cluster("a", 1), *shop("a")[1:]))
    client.ask(ENDPOINTS, "a", nonce=nonce)  # byte for byte an ACK
    assert client.settle() == ["clusters a", "endpoints a"]


# reconnect


def test_returning_client_is_not_told_the_clusters_and_listeners_that_it_has() -> None:
    cache, first = client_of(*shop("a"))
    snapshot = served(*shop("a"))
    first.connect(clusters=["a"])
    first.session.close(1.0)
    client = Wire(cache, "sotw")
    for type_, names in ((CLUSTERS, ()), (ENDPOINTS, ("a",)), (LISTENERS, ()), (ROUTES, ("main",))):
        client.ask(type_, *names, version_info=snapshot.views[type_].version)
    assert client.settle() == ["endpoints a", "routes main"]
    assert client.session.status().types[CLUSTERS].acked_version == snapshot.views[CLUSTERS].version


def test_client_that_returns_to_a_new_server_with_the_same_content_is_known() -> None:
    _, client = client_of(*shop("a"))
    client.ask(CLUSTERS, version_info=served(*shop("a")).views[CLUSTERS].version)
    assert client.said() == []


def test_client_with_an_unknown_version_gets_everything() -> None:
    _, client = client_of(*shop("a"))
    client.ask(CLUSTERS, version_info="of another server")
    assert client.settle() == ["clusters a"]


def test_client_that_returns_between_both_halves_of_a_replacement_keeps_the_old_cluster() -> None:
    cache, first = client_of(*shop("x"))
    first.connect(clusters=["x"])
    cache.publish(served(*shop("y")))
    both = first.replies()[0]
    assert both.names == ("x", "y")
    first.ack(both)
    first.session.close(1.0)
    client = Wire(cache, "sotw", now_s=2.0)
    client.ask(CLUSTERS, version_info=both.version)
    assert client.said() == []
    client.ask(ENDPOINTS, "x", "y", version_info="some")
    client.ask(LISTENERS, version_info=served(*shop("y")).views[LISTENERS].version)
    client.ask(ROUTES, "main", version_info="some")
    assert client.settle() == ["endpoints y", "routes main", "clusters y"]


# NACK


def test_nack_still_carries_names() -> None:
    _, client = client_of(*endpoints("a", "b"))
    client.ask(ENDPOINTS, "a")
    (reply,) = client.replies()
    client.answer(reply, ("a", "b"), error="no good")
    assert client.said() == ["endpoints b"]


def test_nack_says_by_its_version_that_the_response_before_was_good() -> None:
    cache, client = client_of(route("r", "a"))
    client.ask(ROUTES, "r", "s")
    client.settle()
    cache.publish(served(route("r", "a", mark=1)))
    (first,) = client.replies()
    cache.publish(served(route("r", "a", mark=1), route("s", "a")))
    (second,) = client.replies()
    client.nack(second, version=first.version)
    state = client.session.stream.types[ROUTES]
    assert state.has("r", route("r", "a", mark=1).version)
    assert state.rejected == {"s": route("s", "a").version}


def test_nack_without_that_version_refuses_what_was_not_answered_before() -> None:
    cache, client = client_of(route("r", "a"))
    client.ask(ROUTES, "r", "s")
    client.settle()
    cache.publish(served(route("r", "a", mark=1)))
    client.replies()
    cache.publish(served(route("r", "a", mark=1), route("s", "a")))
    (second,) = client.replies()
    client.nack(second, version="older")
    assert client.session.stream.types[ROUTES].rejected.keys() == {"r", "s"}


def test_rejected_cluster_goes_along_when_another_changes_for_every_response_says_all() -> None:
    cache, client = client_of(*clusters("a"))
    client.ask(CLUSTERS)
    client.settle()
    cache.publish(served(*clusters("a", "bad")))
    client.nack(client.replies()[0])
    cache.publish(served(*clusters("a", "bad", "c")))
    assert client.said() == ["clusters a bad c"]


# an ACK that repeats many names


NAMES = (*(f"cluster-{number}" for number in range(50)), "m" * 26, "n" * 26, "l" * 200)  # 26: the tag of a name


@pytest.mark.parametrize(
    "change",
    [
        lambda names: names,
        lambda names: tuple(reversed(names)),
        lambda names: names[1:],
        lambda names: (*names[1:], "other-0000"[: len(names[0])]),
        lambda names: (*names, "more"),
        lambda names: (*names[1:], names[-1]),  # one twice in place of another
        lambda names: (*names, names[0]),
        lambda names: (*names[:-1], names[-1] + "\x1a"),
    ],
)
def test_ack_of_many_names_says_what_it_says_in_any_order(change: Callable[[tuple[str, ...]], tuple[str, ...]]) -> None:
    _, client = client_of(*map(assignment, NAMES), assignment("more"))
    client.ask(ENDPOINTS, *NAMES)
    (reply,) = client.replies()
    names = change(NAMES)
    client.answer(reply, names)
    assert client.said() == (["endpoints more"] if "more" in names else [])
    state = client.session.stream.types[ENDPOINTS]
    assert (state.names, reply.nonce in {each.nonce for each in state.unanswered}) == (frozenset(names), False)


def test_ack_whose_names_are_known_is_not_decoded() -> None:
    state = Subscription(ENDPOINTS, frozenset(NAMES))
    plan = Plan("v", (), (), Held({}))
    state = sent(state, plan, "7")
    words = {"version_info": "v", "type_url": ENDPOINTS.url, "response_nonce": "7"}

    def raw(names: Iterable[str], **more: object) -> bytes:
        return proto.canonical(proto.parse(sotw.REQUEST, {**words, "resource_names": list(names), **more}))

    expected = sotw.read(sotw.decode(raw(NAMES)))
    assert sotw.repeated(state, raw(reversed(NAMES))) == expected
    others = (
        raw(NAMES[1:]),
        raw((*NAMES, NAMES[0])),
        raw((*NAMES[1:], NAMES[1])),
        raw(NAMES, version_info="u"),
        raw(NAMES, response_nonce="6"),
        raw(NAMES, error_detail={"code": 13}),
        raw(NAMES, type_url=CLUSTERS.url),
        raw(NAMES, node={"id": "edge"}),
    )
    assert [sotw.repeated(state, other) for other in others] == [None] * len(others)
    odd = frozenset({"a\x1ab"})  # the tag inside of a name
    assert sotw.repeated(replace(state, names=odd), raw(odd)) is None


# bytes


@pytest.mark.parametrize("resources", [(), clusters("a"), clusters("a", "ü", "c" * 300)])
def test_response_by_hand_equals_protobufs_own(resources: tuple[Resource, ...]) -> None:
    made = view(CLUSTERS, resources)
    plan = Plan(made.version, resources, (), Held({}))
    any_class = proto.message_class("google.protobuf.Any")
    words = {"version_info": made.version, "nonce": "n1", "type_url": CLUSTERS.url}
    expected = proto.parse(sotw.REQUEST.replace("Request", "Response"), words)
    expected.resources.extend(any_class(type_url=CLUSTERS.url, value=each.body) for each in resources)
    expected.control_plane.identifier = "envoy-rollout"
    assert type(expected).FromString(sotw.encode(CLUSTERS, plan, "n1", ttls=False)) == expected


def test_every_type_is_sent_under_its_own_url() -> None:
    for type_ in TYPES:
        assert read("sotw", sotw.encode(type_, Plan("v", (), (), Held({})), "1", ttls=False)).type is type_


def test_body_is_encoded_once_for_streams_in_the_same_state() -> None:
    cache, first = client_of(*clusters("a"))
    second = Wire(cache, "sotw", "edge-2")
    for client in (first, second):
        client.ask(CLUSTERS)
    plans = [client.session.stream.dialect for client in (first, second)]
    assert plans[0] is plans[1]
    one, other = first.session.respond(0.0), second.session.respond(0.0)
    assert one is not None
    assert other is not None
    assert one.body == other.body
    states = [client.session.stream.types[CLUSTERS] for client in (first, second)]
    assert states[0].held is states[1].held
    assert states[0].unanswered[0].plan is states[1].unanswered[0].plan


def test_listener_and_route_go_to_who_asks_for_them_by_name() -> None:
    _, client = client_of(listener("edge", "main"), listener("other", "main"), route("main", "a"))
    client.ask(LISTENERS, "edge")
    client.ask(ROUTES, "main", "none")
    assert client.settle() == ["listeners edge", "routes main"]
