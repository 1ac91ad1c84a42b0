"""gRPC's own xDS clients: every resource by name, and against random worlds and orders of events."""

from typing import Any

import pytest
from hypothesis import given, note, settings
from hypothesis import strategies as st

from tests.xds.client import Wire, assignment, cluster, listener, route, served, shop
from tests.xds.model import KINDS
from tests.xds.model_grpc import GrpcModel
from tests.xds.test_session import worlds
from xds import proto
from xds.cache import Cache
from xds.resources import CLUSTERS, ENDPOINTS, LISTENERS, ROUTES, Resource, ResourceType, content_version

STEPS = ["pull", "pull", "hear", "hear", "speak", "speak", "tick", "reconnect", "restart", "settle"]


def scripts(*, refusable: bool) -> st.SearchStrategy[list[Any]]:
    return st.lists(st.one_of(st.sampled_from(STEPS), worlds(refusable=refusable)), max_size=30)


def follow(model: GrpcModel, script: list[Any]) -> None:
    for step in script:
        match step:
            case "tick":
                model.now_s += 0.7
            case str():
                getattr(model, step)()
            case _:
                model.publish(*step)
    model.settle()


def check_end(model: GrpcModel, *, refused: bool) -> None:
    """It holds exactly what its targets lead to."""
    fleet = model.cache.fleet
    assert fleet is not None
    for type_ in KINDS:
        view = fleet.common.views[type_].resources
        held = {name: content_version(proto.canonical(message)) for name, message in model.held[type_].items()}
        for name in model.wanted(type_) & view.keys():
            if not refused:
                assert held.get(name) == view[name].version, f"{type_} {name}"
        if type_.full_state and not refused:  # else what it has still works with may be kept
            assert held.keys() <= view.keys()


def run(first: tuple[Resource, ...], script: list[Any], *, refused: bool) -> None:
    cache = Cache()
    cache.publish(served(*first))
    model = GrpcModel(cache, "to-r1", "tcp", "none")
    try:
        follow(model, script)
        check_end(model, refused=refused)
    finally:
        note("\n".join(model.story))


@settings(max_examples=300)
@given(first=worlds(refusable=False), script=scripts(refusable=False))
def test_grpc_client_ends_with_exactly_what_its_targets_lead_to(first: tuple[Resource, ...], script: list[Any]) -> None:
    run(first, script, refused=False)


@settings(max_examples=200)
@given(first=worlds(refusable=True), script=scripts(refusable=True))
def test_grpc_client_that_refuses_is_never_told_the_same_again(first: tuple[Resource, ...], script: list[Any]) -> None:
    run(first, script, refused=True)


# single rules


def client_of(*resources: Resource) -> tuple[Cache, Wire]:
    cache = Cache()
    cache.publish(served(*resources))
    return cache, Wire(cache, "sotw")


def walk(client: Wire, *targets: str) -> list[str]:
    """Ask as a gRPC channel does: each type when the one before named something."""
    came: list[str] = []
    for type_, names in ((LISTENERS, targets), (ROUTES, ("main",)), (CLUSTERS, ("a",)), (ENDPOINTS, ("a",))):
        client.ask(type_, *names)
        came += client.settle()
    return came


def test_client_that_names_everything_is_served_in_its_own_order() -> None:
    _, client = client_of(*shop("a", "b", routed=["a"]))
    assert walk(client, "edge") == ["listeners edge", "routes main", "clusters a", "endpoints a"]


def test_name_must_be_exact() -> None:
    _, client = client_of(*shop("a"))
    client.ask(LISTENERS, "EDGE", "edge ", "edg", "edge:80")
    assert client.said() == []


def test_name_that_is_missing_starves_no_other() -> None:
    cache, client = client_of(*shop("a"))
    assert walk(client, "edge", "missing")[0] == "listeners edge"
    cache.publish(served(*shop("a"), listener("missing", "main", port=10001)))
    assert client.settle() == ["listeners edge missing"]


def test_full_response_leaves_out_no_name_that_is_served() -> None:
    cache, client = client_of(*shop("a", "b"))
    walk(client, "edge")
    client.ask(CLUSTERS, "a", "b", nonce=client.nonces[2])
    assert client.settle() == ["clusters a b"]
    for mark in (1, 2):
        cache.publish(served(cluster("a", mark), *shop("a", "b")[1:]))
        assert client.settle()[0] == "clusters a b"


def test_weights_follow_on_the_same_stream() -> None:
    cache, client = client_of(*shop("a", "b", routed=["a"]))
    walk(client, "edge")
    cache.publish(served(*shop("a", "b", routed=["a"])[:-1], route("main", "a", mark=1)))
    assert client.settle() == ["routes main"]


def test_route_to_a_cluster_that_it_learns_from_there_waits_for_nothing() -> None:
    cache, client = client_of(*shop("a", "b", routed=["a"]))
    walk(client, "edge")
    cache.publish(served(*shop("a", "b", routed=["a", "b"])))
    assert client.settle() == ["routes main"]
    client.ask(CLUSTERS, "a", "b", nonce=client.nonces[2])
    assert client.settle() == ["clusters a b"]


def test_returning_client_gets_all_that_it_names_from_a_new_server() -> None:
    world = shop("a")
    _, first = client_of(*world)
    walk(first, "edge")
    snapshot = served(*world)
    _, client = client_of(*reversed(world))
    came: list[str] = []
    for type_, name in ((LISTENERS, "edge"), (ROUTES, "main"), (CLUSTERS, "a"), (ENDPOINTS, "a")):
        client.ask(type_, name, version_info=snapshot.views[type_].version)
        came += client.settle()
    assert {"routes main", "endpoints a"} <= set(came)


@pytest.mark.parametrize("type_", [CLUSTERS, LISTENERS])
def test_returning_client_with_names_is_told_that_they_are_gone(type_: ResourceType) -> None:
    before = served(*shop("a"))
    _, client = client_of(cluster("b"), assignment("b"))
    client.ask(type_, *before.views[type_].resources, version_info=before.views[type_].version)
    assert client.said() == [type_.word]
