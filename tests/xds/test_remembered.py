"""What is computed once for clients in equal states lives no longer than it is of use."""

import gc
import weakref
from collections.abc import Iterable

import pytest

from tests.xds.client import PROTOCOLS, Wire, cluster, route, served
from xds.cache import Cache
from xds.node import Peer
from xds.resources import CLUSTERS, ENDPOINTS, ROUTES
from xds.session import ControlPlane, Session
from xds.snapshot import View, view
from xds.subscription import MANY_NAMES, SHARED_STATES, SHARED_STEPS, UNANSWERED_LIMIT, Held, Plan, Request, shared

both = pytest.mark.parametrize("protocol", PROTOCOLS)
CHANGES = 2 * UNANSWERED_LIMIT


def alive(*kinds: type) -> int:
    """Return how many objects of these kinds there are; cycles do not count, but what is reachable does."""
    gc.collect()
    return sum(1 for each in gc.get_objects() if isinstance(each, kinds))


@both
def test_what_was_sent_is_let_go_when_it_is_acked(protocol: str) -> None:
    cache = Cache()
    client = Wire(cache, protocol)
    cache.publish(served(cluster("a"), route("main", "a")))
    client.ask(CLUSTERS)
    client.ask(ROUTES, "main")
    client.settle()
    before = alive(Held, Plan)
    for mark in range(CHANGES):
        cache.publish(served(cluster("a", mark), route("main", "a", mark=mark)))
        client.settle()
    assert alive(Held, Plan) < before + CHANGES / 2


@both
def test_of_what_is_never_acked_only_the_newest_is_kept(protocol: str) -> None:
    cache = Cache()
    client = Wire(cache, protocol)
    cache.publish(served(route("main", "a")))
    client.ask(ROUTES, "main")
    client.settle()
    before = alive(Plan)
    for mark in range(CHANGES):
        cache.publish(served(route("main", "a", mark=mark)))
        client.replies()
    assert alive(Plan) <= before + UNANSWERED_LIMIT + 1


@both
def test_times_of_clusters_that_are_never_acked_are_forgotten(protocol: str) -> None:
    cache = Cache()
    client = Wire(cache, protocol)
    cache.publish(served(cluster("a")))
    client.ask(CLUSTERS)
    for mark in range(CHANGES):
        cache.publish(served(cluster("a", mark)))
        client.replies()
    assert len(client.session.stream.sent_s) == UNANSWERED_LIMIT


def test_names_that_a_client_takes_back_leave_nothing_behind() -> None:
    cache = Cache()
    client = Wire(cache, "sotw")
    cache.publish(served(cluster("a")))
    before = alive(Held)
    for number in range(CHANGES):
        client.ask(ENDPOINTS, f"strange-{number}")
        client.replies()
    assert alive(Held) < before + CHANGES / 2


def test_closed_session_goes_with_its_edge_without_a_search_for_garbage() -> None:
    """The collector does not look at what was there when it was told to set it aside."""
    cache = Cache()
    cache.publish(served(cluster("a")))
    edge = Edge(cache)
    edge.session.close(1.0)
    gone = weakref.ref(edge)
    gc.disable()
    try:
        del edge
        assert gone() is None
    finally:
        gc.enable()


class Edge:
    """What holds a session, which wakes it."""

    def __init__(self, cache: Cache) -> None:
        self.session = Session(ControlPlane(cache), "sotw", Peer("peer"), self.wake)

    def wake(self) -> None:
        """Do nothing."""


def test_few_results_are_kept_that_are_of_many_names() -> None:
    """One client may send requests of 100,000 names, each with others."""
    assert kept(["a"]) == SHARED_STEPS
    assert kept([f"name-{number}" for number in range(MANY_NAMES + 1)]) == SHARED_STATES


def kept(names: Iterable[str]) -> int:
    """Return how many results of requests with these names and another one are remembered at most."""
    key, most = view(CLUSTERS, ()), 0
    for number in range(SHARED_STEPS + 1):
        nonce_of(key, Request(CLUSTERS.url, str(number), frozenset(names), None))
        most = max(most, *map(len, key.memo.values()))
    return most


@shared(SHARED_STEPS)
def nonce_of(_: View, request: Request) -> str:
    return request.nonce
