"""A session that hears what no client should say: it refuses that at most, and nothing is left of it."""

import gc
import tracemalloc
from collections.abc import Callable

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from bench.fuzz import ANSWER, PUBLISH, RECONNECT, SAY, WAIT, drive, seeds
from tests.xds.client import PROTOCOLS, Wire, assignment, cluster, served, shop
from tests.xds.hostile import (
    BAD_NODES,
    HELD,
    ID,
    LEFT,
    MIB,
    NAMES,
    NONCE,
    VERSION,
    first,
    held_names,
    many,
    member,
    numbered,
    request,
    scripts,
)
from xds.cache import Cache
from xds.errors import InvalidRequest, Overloaded
from xds.node import Peer
from xds.resources import CLUSTERS, ENDPOINTS
from xds.session import ControlPlane, Session
from xds.subscription import Plan
from xds.wire import bytes_field, text_field

both = pytest.mark.parametrize("protocol", PROTOCOLS)


@settings(max_examples=300)
@given(st.binary(max_size=200))
def test_session_takes_any_bytes_or_refuses_them(script: bytes) -> None:
    drive(script)


@settings(max_examples=300)
@given(scripts(SAY, SAY, ANSWER, ANSWER, PUBLISH, WAIT, RECONNECT))
def test_session_takes_any_requests_or_refuses_them_and_leaves_nothing(script: bytes) -> None:
    drive(script)


@both
@settings(max_examples=100)
@given(script=scripts(SAY, ANSWER, WAIT, RECONNECT))
@example(script=next(seeds()))
def test_neighbour_hears_nothing_of_any_requests(protocol: str, script: bytes) -> None:
    cache = Cache()
    cache.publish(served(*shop("a")))
    neighbour = Wire(cache, protocol, "neighbour")
    neighbour.connect(clusters=["a"])
    drive(script, cache)
    assert cache.members() == (neighbour.session,)
    if script != next(seeds()):  # that publishes
        assert (neighbour.said(), neighbour.wakes) == ([], 0)
    cache.publish(served(*shop("a", mark=1)))
    assert neighbour.said() == ["clusters a", "endpoints a"]


def session_of(protocol: str) -> tuple[Cache, Session]:
    """Return a session of a client that has named itself, and its cache."""
    cache = Cache()
    cache.publish(served(*shop("a")))
    session = Session(ControlPlane(cache), protocol, Peer("ipv4:127.0.0.1:1"), lambda: None)
    session.receive(first(protocol), 0.0)
    return cache, session


def test_too_many_names_are_refused_before_they_are_read() -> None:
    for protocol, fields_named in (("sotw", (NAMES,)), ("delta", (NAMES, LEFT, HELD))):
        for name in fields_named:
            _, session = session_of(protocol)
            parts = held_names(100_001) if name is HELD else numbered(100_001)
            with pytest.raises(Overloaded, match="names 100001 resources; at most 100000"):
                session.receive(request(protocol, type=ENDPOINTS.url) + many(protocol, name, parts), 0.0)


def test_same_name_a_hundred_thousand_times_is_one_name() -> None:
    _, session = session_of("sotw")
    session.receive(request("sotw", type=ENDPOINTS.url) + many("sotw", NAMES, iter([b"a"] * 100_000)), 0.0)
    assert session.stream.types[ENDPOINTS].names == {"a"}


@both
def test_names_and_versions_that_are_too_long_are_refused(protocol: str) -> None:
    fields_named = (NAMES,) if protocol == "sotw" else (NAMES, LEFT)
    long = [request(protocol, type=ENDPOINTS.url, **{name: "x" * MIB}) for name in fields_named]
    if protocol == "delta":
        pairs = (("x" * MIB, "v"), ("name", "v" * MIB))
        long += [request(protocol, type=ENDPOINTS.url, held=text_field(1, a) + text_field(2, b)) for a, b in pairs]
    for raw in long:
        _, session = session_of(protocol)
        with pytest.raises(Overloaded, match=f"has {MIB} characters; at most 1024"):
            session.receive(raw, 0.0)


@both
@pytest.mark.parametrize("text", BAD_NODES)
def test_hostile_node_is_refused_and_leaves_nothing(protocol: str, text: str) -> None:
    cache = Cache()
    cache.publish(served(*shop("a")))
    session = Session(ControlPlane(cache), protocol, Peer("ipv4:127.0.0.1:1"), lambda: None)
    with pytest.raises(InvalidRequest, match=text):
        session.receive(first(protocol, BAD_NODES[text]), 0.0)
    session.close(0.0)
    assert (cache.members(), cache.gone()) == ((), ())


def test_of_a_node_that_has_gone_the_metadata_is_forgotten() -> None:
    cache, session = session_of("sotw")
    session.close(1.0)
    other = Session(ControlPlane(cache), "delta", Peer("ipv4:127.0.0.1:1"), lambda: None)
    other.receive(first("delta", text_field(ID, "b") + member("a", bytes_field(3, b"text"))), 0.0)
    assert [each.node.metadata for each in cache.connected()] == [{"a": "text"}]
    other.close(2.0)
    assert [(each.node.id, each.node.metadata) for each in cache.gone()] == [("b", {}), ("hostile", {})]


@both
def test_huge_nonces_and_versions_are_not_kept(protocol: str) -> None:
    _, session = session_of(protocol)
    before = kept_bytes(lambda: None)
    huge = {NONCE: "x" * MIB} | ({VERSION: "y" * MIB} if protocol == "sotw" else {})

    def say() -> None:
        for index in range(8):
            session.receive(request(protocol, type=ENDPOINTS.url, names=f"name-{index}", **huge), 0.0)

    assert kept_bytes(say) - before < MIB


def kept_bytes(what: Callable[[], object]) -> int:
    """Do something, and return how many bytes it has allocated and not given back."""
    gc.collect()
    tracemalloc.start()
    try:
        what()
        gc.collect()
        return tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()


def test_requests_with_many_names_are_not_kept() -> None:
    _, session = session_of("sotw")

    def say() -> None:
        for index in range(200):
            names = many("sotw", NAMES, numbered(2_000, f"of-{index}"))
            session.receive(request("sotw", type=ENDPOINTS.url, nonce="unknown") + names, 0.0)

    assert kept_bytes(say) < 32 * MIB


@both
def test_what_was_answered_is_forgotten(protocol: str) -> None:
    cache = Cache()
    client = Wire(cache, protocol)
    cache.publish(served(*shop("a")))
    client.connect(clusters=["a"])

    def push() -> None:
        for port in range(100):
            cache.publish(served(*shop("a")[:1], assignment.__wrapped__("a", 1_000 + port), *shop("a")[2:]))
            assert client.settle() == ["endpoints a"]

    before = plans()
    push()
    assert plans() - before < 30


def plans() -> int:
    """Return how many responses are remembered."""
    gc.collect()
    return sum(type(each) is Plan for each in gc.get_objects())


@both
def test_nack_with_a_huge_text_counts_for_all_that_was_sent(protocol: str) -> None:
    _, session = session_of(protocol)
    session.receive(request(protocol, type=CLUSTERS.url), 0.0)
    response = session.respond(0.0)
    assert response is not None
    assert response.names == ("a",)
    fault = b"\x08\x0d" + text_field(2, "Error adding/updating cluster(s) b: " + "x" * MIB)
    session.receive(request(protocol, type=CLUSTERS.url, nonce=response.nonce, fault=fault), 0.0)
    assert session.stream.types[CLUSTERS].rejected == {"a": cluster("a").version}
    rejection = session.stream.types[CLUSTERS].rejection
    assert rejection is not None
    assert len(rejection.text) == 4_096


def test_version_that_a_client_makes_up_is_not_remembered_for_others() -> None:
    cache = Cache()
    cache.publish(served(*shop("a")))
    for index in range(100):
        session = Session(ControlPlane(cache), "sotw", Peer("ipv4:127.0.0.1:1"), lambda: None)
        session.receive(first("sotw", url=CLUSTERS.url) + request("sotw", version=f"made-up-{index}"), 0.0)
        session.close(0.0)
    assert not cache.recent
