"""Pushes: when a publish has come to every proxy, and who was told of it."""

import pytest
from hypothesis import given
from hypothesis import strategies as some

from rollout.pushes import LIMIT_S, OPEN_LIMIT, SETTLE_S, Push, Pushes, Reach, changed_types
from tests.xds.client import PROTOCOLS, Wire, route, served, shop
from xds.cache import Cache, Fleet
from xds.node import Node, Peer
from xds.resources import CLUSTERS, ENDPOINTS, ROUTES, TYPES, ResourceType
from xds.session import ControlPlane, Events, Session
from xds.stream import Answer, Response

BOTH = (CLUSTERS, ROUTES)
NOTHING = {CLUSTERS: Reach()}


def told(*nodes: str, of: ResourceType = ROUTES) -> Pushes:
    """Pushes that know proxies, which have all that was served before."""
    pushes = Pushes()
    for node in nodes:
        pushes.responded(node, of)
        pushes.answered(node, of, 0, 0.0)
    return pushes


def test_a_push_is_everywhere_when_the_last_proxy_has_answered() -> None:
    pushes = told("a", "b")
    pushes.published("checkout", BOTH, 10.0)
    pushes.responded("a", ROUTES)
    pushes.responded("b", ROUTES)
    pushes.answered("b", ROUTES, 0, 10.2)
    assert pushes.take(10.2 + SETTLE_S) == ()
    pushes.answered("a", ROUTES, 0, 14.0)
    assert pushes.take(14.1) == ()
    assert pushes.take(14.0 + SETTLE_S) == (Push(1, "checkout", 10.0, NOTHING | {ROUTES: Reach(2, 0, 0, 14.0)}),)
    assert pushes.take(100.0) == ()


def test_a_proxy_that_refuses_has_been_told() -> None:
    pushes = told("a")
    pushes.published("", BOTH, 10.0)
    pushes.responded("a", ROUTES)
    pushes.refused("a", ROUTES, 0, 10.5)
    (push,) = pushes.take(20.0)
    assert (push.types, push.last_s, push.waiting) == (NOTHING | {ROUTES: Reach(1, 1, 0, 10.5)}, 10.5, 0)


def test_each_type_of_a_push_is_told_of() -> None:
    pushes = told("a")
    pushes.responded("a", CLUSTERS)
    pushes.answered("a", CLUSTERS, 0, 1.0)
    pushes.published("checkout", BOTH, 10.0)
    pushes.responded("a", CLUSTERS)
    pushes.answered("a", CLUSTERS, 0, 10.1)
    pushes.responded("a", ROUTES)
    pushes.answered("a", ROUTES, 0, 12.0)
    (push,) = pushes.take(16.0)
    assert {type_: reach.last_s for type_, reach in push.types.items()} == {CLUSTERS: 10.1, ROUTES: 12.0}
    assert push.last_s == 12.0


def test_who_skips_a_push_has_it_with_the_next_one() -> None:
    pushes = told("a", "slow")
    pushes.published("checkout", BOTH, 10.0)
    pushes.responded("a", ROUTES)
    pushes.answered("a", ROUTES, 0, 10.1)
    pushes.published("checkout", BOTH, 11.0)
    for node in ("a", "slow"):
        pushes.responded(node, ROUTES)
    pushes.answered("a", ROUTES, 0, 11.1)
    pushes.answered("slow", ROUTES, 0, 12.5)
    first, second = pushes.take(20.0)
    assert (first.last_s, second.last_s) == (12.5, 12.5)
    assert first.types == NOTHING | {ROUTES: Reach(2, 0, 0, 12.5)}


def test_an_answer_counts_for_earlier_responses_too() -> None:
    pushes = told("a")
    pushes.published("one", BOTH, 10.0)
    pushes.responded("a", ROUTES)
    pushes.published("two", BOTH, 10.1)
    pushes.responded("a", ROUTES)
    pushes.answered("a", ROUTES, 0, 10.4)
    assert [(each.cause, each.last_s) for each in pushes.take(20.0)] == [("one", 10.4), ("two", 10.4)]


def test_who_connects_late_or_has_gone_is_not_waited_for() -> None:
    pushes = told("a", "b")
    pushes.published("checkout", BOTH, 10.0)
    pushes.responded("a", ROUTES)
    pushes.responded("b", ROUTES)
    pushes.responded("newcomer", ROUTES)
    pushes.answered("a", ROUTES, 0, 10.3)
    pushes.left("b")
    assert pushes.take(14.0) == (Push(1, "checkout", 10.0, NOTHING | {ROUTES: Reach(2, 0, 0, 10.3)}),)
    pushes.answered("b", ROUTES, 0, 15.0)
    pushes.answered("newcomer", ROUTES, 0, 15.0)


def test_what_nobody_was_sent_is_not_told_of() -> None:
    pushes = told("a")
    pushes.published("checkout", BOTH, 10.0)
    assert pushes.take(20.0) == ()


def test_a_proxy_that_never_answers_is_given_up() -> None:
    pushes = told("a")
    pushes.published("checkout", BOTH, 10.0)
    pushes.responded("a", ROUTES)
    assert pushes.take(10.0 + LIMIT_S - 1) == ()
    (push,) = pushes.take(10.0 + LIMIT_S)
    assert push.waiting == 1
    pushes.answered("a", ROUTES, 0, 2000.0)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_sessions_tell_of_a_push(protocol: str) -> None:
    pushes, cache = Pushes(), Cache()
    wire = Wire(cache, protocol)

    def answered(node: Node, answer: Answer) -> None:
        (pushes.refused if answer.rejected else pushes.answered)(
            node.id, answer.type, len(answer.subscription.unanswered), wire.now_s
        )

    def responded(node: Node, response: Response) -> None:
        pushes.responded(node.id, response.type)

    events = Events(answered=answered, responded=responded)
    wire.session = Session(ControlPlane(cache, events), protocol, Peer("ipv4:127.0.0.1:1"), lambda: None)
    cache.publish(served(*shop("cart")))
    pushes.published("", BOTH, 0.0)
    wire.connect(clusters=("cart",))
    assert pushes.take(9.0) == ()
    wire.now_s = 10.0
    cache.publish(served(*shop("cart")[:-1], route("main", "cart", mark=1)))
    pushes.published("cart", BOTH, wire.now_s)
    wire.now_s = 10.5
    assert wire.settle() == ["routes main"]
    assert pushes.take(20.0) == (Push(2, "cart", 10.0, NOTHING | {ROUTES: Reach(1, 0, 0, 10.5)}),)


@given(
    some.lists(
        some.tuples(some.sampled_from("prnalt"), some.sampled_from("abc"), some.sampled_from((ROUTES, ENDPOINTS)))
    )
)
def test_whatever_happens_nobody_is_waited_for_in_vain(steps: list[tuple[str, str, ResourceType]]) -> None:
    pushes, now_s, flying = Pushes(), 0.0, dict[tuple[str, ResourceType], int]()
    for step, node, type_ in steps:
        now_s += 0.5
        key = (node, type_)
        match step:
            case "p":
                pushes.published(node, (ROUTES, ENDPOINTS), now_s)
            case "r":
                pushes.responded(*key)
                flying[key] = flying.get(key, 0) + 1
            case "n" if flying.get(key):
                flying[key] -= 1
                pushes.refused(*key, flying[key], now_s)
            case "a" if flying.get(key):
                flying[key] = 0
                pushes.answered(*key, 0, now_s)
            case "l":
                pushes.left(node)
                flying = {each: count for each, count in flying.items() if each[0] != node}
            case _:
                assert len(pushes.take(now_s)) <= OPEN_LIMIT
    for key in flying:
        pushes.answered(*key, 0, now_s)
    for push in pushes.take(now_s + SETTLE_S):
        assert push.waiting == 0
        assert all(0 <= reach.refused <= reach.sent for reach in push.types.values())
    assert pushes.take(now_s + LIMIT_S) == ()


def test_only_types_that_have_changed_are_pushed() -> None:
    first = Fleet(served(*shop("cart")))
    second = Fleet(served(*shop("cart")[:-1], route("main", "cart", mark=1)))
    assert changed_types(first, second) == {ROUTES}
    assert changed_types(first, first) == frozenset()
    assert changed_types(first, Fleet(first.common, {"edge": second.common})) == {ROUTES}
    assert changed_types(None, first) == frozenset(TYPES)
    pushes = told("a")
    pushes.published("checkout", changed_types(first, Fleet(served(*shop("cart", "shop")))) - {ROUTES}, 10.0)
    pushes.responded("a", ROUTES)
    assert pushes.take(20.0) == ()
