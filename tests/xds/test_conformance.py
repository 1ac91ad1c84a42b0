"""Rules of the protocol that no scenario of sotw, delta or stream has by itself; docs/conformance.md lists all."""

import threading
import time
from typing import Any

import grpc.aio
import pytest

from tests.xds.client import PROTOCOLS, Wire, assignment, cluster, listener, route, served, shop
from tests.xds.port import Client, eventually, serving
from xds.cache import Cache
from xds.resources import CLUSTERS, ENDPOINTS, LISTENERS, ROUTES, Resource, ResourceType
from xds.session import Session
from xds.stream import BARRIER_S

both = pytest.mark.parametrize("protocol", PROTOCOLS)


def client_of(protocol: str, *resources: Resource) -> tuple[Cache, Wire]:
    cache = Cache()
    cache.publish(served(*resources))
    return cache, Wire(cache, protocol)


def versions(*resources: Resource) -> dict[str, str]:
    return {each.name: each.version for each in resources}


# stream and nonces


@both
def test_node_is_needed_in_the_first_request_only(protocol: str) -> None:
    cache, client = client_of(protocol, *shop("a"))
    assert client.connect(clusters=["a"]) == ["clusters a", "endpoints a", "listeners edge", "routes main"]
    assert [status.node.id for status in cache.connected()] == ["edge-1"]


@both
def test_nonces_are_never_empty_nor_used_twice_over_all_types(protocol: str) -> None:
    """Wire and read() check each response; here many of them share one stream."""
    cache, client = client_of(protocol, *shop("a"))
    client.connect(clusters=["a"])
    for mark in range(1, 8):
        cache.publish(served(*shop("a", "b", mark=mark)))
        client.settle()
    assert len(client.nonces) >= 7
    assert all(client.nonces)


@both
def test_nonce_of_an_earlier_stream_is_no_answer_on_the_next(protocol: str) -> None:
    cache, first = client_of(protocol, *shop("a"))
    first.ask(CLUSTERS)
    (reply,) = first.replies()
    first.session.close(1.0)
    second = Wire(cache, protocol, now_s=2.0)
    second.ask(CLUSTERS, "a")
    second.replies()
    assert second.session.status().types[CLUSTERS].waiting
    second.ask(CLUSTERS, nonce=f"{reply.nonce}-of-another-stream")
    assert second.said() == []
    assert second.session.status().types[CLUSTERS].waiting


def test_of_a_burst_of_requests_the_newest_counts() -> None:
    cache, client = client_of("sotw", *(assignment(name) for name in "abc"))
    client.ask(ENDPOINTS, "a")
    (reply,) = client.replies()
    for names in (("a", "b"), ("b",), ("c",)):
        client.ask(ENDPOINTS, *names, nonce=reply.nonce, version_info=reply.version)
        reply = (client.replies() or [reply])[-1]
    cache.publish(served(*(assignment(name, 81) for name in "abc")))
    assert client.settle() == ["endpoints c"]


@both
def test_ack_repeated_says_nothing_new(protocol: str) -> None:
    _, client = client_of(protocol, *shop("a"))
    client.ask(CLUSTERS)
    (reply,) = client.replies()
    for _ in range(5):
        client.ack(reply)
        assert client.said() == []


# versions


def test_versions_are_compared_for_equality_only() -> None:
    """A client that shows a version which sorts before or after ours, as text or as number, has something else."""
    _, fresh = client_of("sotw", *shop("a"))
    fresh.ask(CLUSTERS)
    version = fresh.replies()[0].version
    for other in (
        "0",
        "9" * 40,
        "zzz",
        version.upper() + "!",
        f"{version}0",
        f"0{version}",
        version[:-1],
        f" {version}",
    ):
        _, client = client_of("sotw", *shop("a"))
        client.ask(CLUSTERS, version_info=other)
        assert client.said() == ["clusters a"], other


def test_version_of_a_resource_is_compared_for_equality_only() -> None:
    version = cluster("a").version
    for other in ("0", "9" * 40, "zzz", f"{version}0", f"0{version}", version[:-1]):
        _, client = client_of("delta", cluster("a"))
        client.ask(CLUSTERS, initial_resource_versions={"a": other})
        assert client.said() == ["clusters a"], other


def test_going_back_to_an_older_content_is_a_change_like_any_other() -> None:
    cache, client = client_of("sotw", cluster("a"))
    client.ask(CLUSTERS)
    (first,) = client.replies()
    client.ack(first)
    seen = [first.version]
    for mark in (1, 0):
        cache.publish(served(cluster("a", mark)))
        (reply,) = client.replies()
        client.ack(reply)
        seen.append(reply.version)
    assert seen[0] == seen[2] != seen[1]


def test_version_is_of_the_type_and_other_types_leave_it_alone() -> None:
    cache, client = client_of("sotw", *shop("a"))
    client.connect(clusters=["a"])
    before = client.session.status().types[CLUSTERS].acked_version
    cache.publish(served(*shop("a", routed=["a", "a"])))
    assert client.settle() == ["routes main"]
    assert client.session.status().types[CLUSTERS].acked_version == before


# what a stream costs


class Counted:
    """A resource that counts how often its bytes are read."""

    def __init__(self, inner: Resource) -> None:
        self.inner = inner
        self.reads = 0

    @property
    def body(self) -> bytes:
        self.reads += 1
        return self.inner.body

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)


@both
@pytest.mark.parametrize("type_", [CLUSTERS, ENDPOINTS])
def test_response_is_encoded_once_for_all_streams_in_the_same_state(protocol: str, type_: ResourceType) -> None:
    made = {CLUSTERS: cluster, ENDPOINTS: assignment}[type_]
    cache = Cache()
    reads: list[list[int]] = []
    for number in (1, 2, 3):
        counted: Any = Counted(made("a", number))
        cache.publish(served(counted))
        if number == 1:
            clients = [Wire(cache, protocol, f"edge-{each}") for each in range(5)]
            for client in clients:
                client.ask(type_, "a")
        reads.append([])
        for client in clients:
            (reply,) = client.replies()
            client.ack(reply)
            assert reply.versions == {"a": counted.version}
            reads[-1].append(counted.reads)
    assert [each[0] == each[-1] for each in reads] == [True, True, True], reads


@both
def test_stream_takes_no_thread(protocol: str) -> None:
    cache, first = client_of(protocol, *shop("a"))
    first.connect(clusters=["a"])
    threads = threading.active_count()
    more = [Wire(cache, protocol, f"edge-{number}") for number in range(20)]
    for client in more:
        client.connect(clusters=["a"])
    assert threading.active_count() <= threads + 2


@both
async def test_change_is_told_though_the_client_says_nothing(protocol: str) -> None:
    """Everything is ACKed, and no timer of a barrier runs: only the change itself can wake the server."""
    async with serving() as port, grpc.aio.insecure_channel(port.address) as channel:
        port.cache.publish(served(*shop("a")))
        client = Client(channel, protocol)
        for type_, names in ((CLUSTERS, ()), (ENDPOINTS, ("a",)), (LISTENERS, ()), (ROUTES, ("main",))):
            await client.ask(type_.url, *names)
            await client.ack(await client.reply(), *names)
        await eventually(lambda: not any(each.waiting for each in port.cache.connected()[0].types.values()))
        (member,) = port.cache.members()
        assert isinstance(member, Session)
        assert member.wake_at_s(time.monotonic()) is None
        port.cache.publish(served(cluster("a"), assignment("a", 81), *shop("a")[2:]))
        assert str(await client.reply()) == "endpoints a"
        client.call.cancel()


@both
def test_request_with_60_000_names_is_taken(protocol: str) -> None:
    """A returning Envoy says them all at once, which is more than the 4 MB that gRPC takes by default."""
    _, client = client_of(protocol, assignment("a"))
    client.ask(ENDPOINTS, "a", *(f"{number:0>80}" for number in range(60_000)))
    assert client.replies()[0].names == ("a",)


# ACK and NACK


@both
@pytest.mark.parametrize("shown", ["", "the version refused"])
def test_nack_is_what_has_an_error_whatever_its_version(protocol: str, shown: str) -> None:
    cache, client = client_of(protocol, *shop("a"))
    client.connect(clusters=["a"])
    cache.publish(served(*shop("a", routed=["a", "a"])))
    (reply,) = client.replies()
    client.nack(reply, version=reply.version if shown else "")
    rejection = client.session.status().types[ROUTES].rejection
    assert rejection is not None
    assert rejection.text == "no good"
    assert client.said() == []


@both
def test_nack_that_is_repeated_is_never_answered(protocol: str) -> None:
    """Envoy sends some 2,100 a second to a server that answers each with the same."""
    cache, client = client_of(protocol, *shop("a"))
    client.connect(clusters=["a"])
    cache.publish(served(*shop("a", mark="bad")))
    refused = client.replies()[0]
    for _ in range(50):
        client.nack(refused)
        assert client.said() == []


@both
def test_nack_of_one_type_parks_that_type_of_that_stream_only(protocol: str) -> None:
    cache, refusing = client_of(protocol, *shop("a"))
    other = Wire(cache, protocol, "edge-2")
    for client in (refusing, other):
        client.connect(clusters=["a"])
    cache.publish(served(*shop("a", routed=["a", "a"])))
    refusing.nack(refusing.replies()[0])
    assert other.settle() == ["routes main"]
    assert [each.types[ROUTES].rejection is None for each in cache.connected()] == [False, True]
    cache.publish(served(cluster("a"), assignment("a", 81), *shop("a", routed=["a", "a"])[2:]))
    assert refusing.settle() == other.settle() == ["endpoints a"]


@both
def test_ack_that_never_comes_stops_nothing(protocol: str) -> None:
    """An Envoy does not answer for a type to which it has just unsubscribed."""
    cache, client = client_of(protocol, *shop("a"))
    client.connect(clusters=["a"])
    for port in (81, 82, 83):
        cache.publish(served(cluster("a"), assignment("a", port), *shop("a")[2:]))
        assert client.said() == ["endpoints a"]
    cache.publish(served(cluster("a"), assignment("a", 83), *shop("a", routed=["a", "a"])[2:]))
    assert client.settle() == ["routes main"]


# delta over the wire: as the scenarios of tests/xds/test_delta.py, but read after each request


def test_ack_subscription_and_unsubscription_in_one_message_all_count() -> None:
    cache, client = client_of("delta", assignment("a"), assignment("b"))
    client.ask(ENDPOINTS, "a")
    (reply,) = client.replies()
    client.ask(ENDPOINTS, "b", nonce=reply.nonce, resource_names_unsubscribe=["a"])
    assert client.settle() == ["endpoints b"]
    assert not client.session.status().types[ENDPOINTS].waiting
    cache.publish(served(assignment("a", 81), assignment("b", 81)))
    assert client.settle() == ["endpoints b"]


def test_returning_client_has_its_ghosts_removed() -> None:
    _, client = client_of("delta", cluster("a"), cluster("b"))
    client.ask(CLUSTERS, initial_resource_versions=versions(cluster("a"), cluster("b", 1), cluster("ghost")))
    came = client.settle()
    for type_ in (LISTENERS, ROUTES):
        client.ask(type_)
        came += client.settle()
    assert [each for each in came if each.startswith("clusters")] == ["clusters b", "clusters -ghost"]


def test_spontaneous_request_is_no_new_stream() -> None:
    """It has an empty nonce, and no wildcard comes from its empty list of names."""
    cache, client = client_of("delta", cluster("a"), cluster("b"), assignment("a"))
    client.ask(CLUSTERS, "a")
    assert client.settle() == ["clusters a"]
    client.ask(CLUSTERS)
    assert client.settle() == []
    cache.publish(served(cluster("a"), cluster("b", 1), assignment("a")))
    assert client.settle() == []


# order


@both
def test_client_that_is_stuck_at_its_barrier_holds_nobody_up(protocol: str) -> None:
    cache, stuck = client_of(protocol, *shop("a"))
    others = [Wire(cache, protocol, f"edge-{number}") for number in (2, 3)]
    for client in (stuck, *others):
        client.connect(clusters=["a"])
    cache.publish(served(*shop("a", "b")))
    assert ROUTES not in [reply.type for reply in stuck.replies()]  # and it answers nothing
    for client in others:
        assert client.settle()[-1] == "routes main"


@both
def test_removals_go_in_the_reverse_order_of_additions(protocol: str) -> None:
    """A listener with its route and its cluster, all at once: the listener first, the cluster when that is ACKed."""
    both_of_them = (*shop("a", "b", routed=["a"]), listener("more", "spare", port=10001), route("spare", "b"))
    cache, client = client_of(protocol, *both_of_them)
    client.connect(clusters=["a", "b"], routes=["main", "spare"])
    cache.publish(served(*shop("a")))
    came = client.replies()
    assert [str(each) for each in came] == ["listeners edge" if protocol == "sotw" else "listeners -more"]
    client.ack(came[0])
    if protocol == "sotw":
        client.ask(ROUTES, "main", nonce=client.nonces[-2])
    else:
        client.leave(ROUTES, "spare")
    came_then = client.settle()
    assert [each for each in came_then if each.startswith("clusters")] == [
        "clusters a" if protocol == "sotw" else "clusters -b"
    ]


@both
def test_barrier_ends_by_itself_for_a_cluster_that_never_gets_warm(protocol: str) -> None:
    cache, client = client_of(protocol, *shop("a"))
    client.connect(clusters=["a"])
    cache.publish(served(*shop("a", "b")))
    assert ROUTES not in [reply.type for reply in client.replies()]
    client.now_s += BARRIER_S
    assert client.said() == ["routes main"]


def test_cluster_stays_for_a_client_that_returns_twice_to_a_restarted_server() -> None:
    """The first time it has all and is sent nothing; then its stream breaks while x is replaced by y."""
    world = served(*shop("x"))
    cache, client = client_of("sotw", *shop("x"))
    client.ask(CLUSTERS, version_info=world.views[CLUSTERS].version)
    assert client.said() == []
    client.session.close(1.0)
    cache.publish(served(*shop("y")))
    back = Wire(cache, "sotw", now_s=2.0)
    back.ask(CLUSTERS, version_info=world.views[CLUSTERS].version)
    assert back.said() == ["clusters x y"]
