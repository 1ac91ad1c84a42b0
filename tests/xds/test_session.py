"""A session from the first request to the end, and against random clients whatever they do."""

from typing import Any

import pytest
from hypothesis import given, note, settings
from hypothesis import strategies as st

from tests.xds.client import (
    BAD,
    BAD_PORT,
    BROKEN,
    KINDS,
    PROTOCOLS,
    Model,
    assignment,
    cluster,
    listener,
    route,
    served,
    tcp_listener,
)
from xds import proto
from xds.cache import Cache
from xds.resources import CLUSTERS, ENDPOINTS, LISTENERS, ROUTES, Resource, content_version

both = pytest.mark.parametrize("protocol", PROTOCOLS)
CLUSTER_NAMES = ("a", "b", "c")


@st.composite
def worlds(draw: st.DrawFn, *, refusable: bool) -> tuple[Resource, ...]:
    """Draw a consistent world of a few clusters, routes and listeners, some of which an Envoy refuses."""
    marks: list[Any] = [0, 1, BAD] if refusable else [0, 1]
    names = draw(st.lists(st.sampled_from(CLUSTER_NAMES), unique=True, min_size=1))
    found: list[Resource] = []
    for name in names:
        service = draw(st.sampled_from(["", "", names[0]]))
        found.append(cluster(name, draw(st.sampled_from([*marks, BROKEN] if refusable else marks)), service))
        found.append(assignment(name, draw(st.sampled_from([80, 81, BAD_PORT] if refusable else [80, 81]))))
    for name in draw(st.lists(st.sampled_from(["r1", "r2"]), unique=True)):
        routed = draw(st.lists(st.sampled_from(names), unique=True, min_size=1))
        found.append(route(name, *routed, mark=draw(st.sampled_from(marks))))
        found.append(listener(f"to-{name}", name, draw(st.sampled_from(marks))))
    if draw(st.booleans()):
        found.append(tcp_listener("tcp", draw(st.sampled_from(names)), draw(st.sampled_from(marks))))
    return tuple(found)


def steps(*, refusable: bool) -> st.SearchStrategy[list[Any]]:
    simple = ["pull", "pull", "hear", "hear", "speak", "speak", "tick", "reconnect", "boot", "settle"]
    return st.lists(st.one_of(st.sampled_from(simple), worlds(refusable=refusable)), max_size=30)


def follow(model: Model, script: list[Any]) -> None:
    for step in script:
        match step:
            case "tick":
                model.now_s += 0.7
            case "boot":
                model.wire.session.close(model.now_s)
                model.boot()
            case str():
                getattr(model, step)()
            case _:
                model.story.append(f"publish {[f'{each.type} {each.name} {each.version[:4]}' for each in step]}")
                model.cache.publish(served(*step))
    model.settle()


def check_end(model: Model) -> None:
    """What was never refused is there as served, and nothing else but what a route in force needs."""
    snapshot = model.cache.snapshot
    assert snapshot is not None
    if model.warming:
        assert model.refused  # the old form of a refused cluster may need a load assignment that is not served any more
        return
    refused = {(type_, name) for type_, name, _ in model.refused}
    for type_ in KINDS:
        view = snapshot.views[type_].resources
        wanted = model.wanted(type_) if type_ in (ENDPOINTS, ROUTES) else view.keys()
        held = {name: content_version(proto.canonical(message)) for name, message in model.held[type_].items()}
        for name in wanted & view.keys():
            late = any((CLUSTERS, each) in refused for each in view[name].names(CLUSTERS))
            if (type_, name) not in refused and not late:
                assert held.get(name) == view[name].version, f"{type_} {name}"
        if type_ is CLUSTERS and not refused:
            assert held.keys() == view.keys()
        if type_ is CLUSTERS and not model.torn:
            assert held.keys() - view.keys() <= model.named() | model.suspect
        if type_ is LISTENERS:
            assert held.keys() <= view.keys()


@both
@settings(max_examples=300)
@given(first=worlds(refusable=False), script=steps(refusable=False))
def test_client_ends_with_exactly_what_is_served(protocol: str, first: tuple[Resource, ...], script: list[Any]) -> None:
    cache = Cache()
    cache.publish(served(*first))
    model = Model(cache, protocol)
    try:
        follow(model, script)
        check_end(model)
    finally:
        note("\n".join(model.story))
    for type_ in (CLUSTERS, LISTENERS):
        assert model.held[type_].keys() == cache.snapshot.views[type_].resources.keys()


@both
@settings(max_examples=300)
@given(first=worlds(refusable=True), script=steps(refusable=True))
def test_client_that_refuses_ends_with_the_rest(protocol: str, first: tuple[Resource, ...], script: list[Any]) -> None:
    cache = Cache()
    cache.publish(served(*first))
    model = Model(cache, protocol)
    try:
        follow(model, script)
        check_end(model)
    finally:
        note("\n".join(model.story))
