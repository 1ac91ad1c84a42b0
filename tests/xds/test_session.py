"""A session from the first request to the end, and against random clients whatever they do."""

from typing import Any

import pytest
from hypothesis import given, note, settings
from hypothesis import strategies as st

from tests.xds.client import PROTOCOLS, Wire, assignment, cluster, listener, route, served, shop, tcp_listener
from tests.xds.model import BAD, BAD_PORT, BROKEN, KINDS, Model
from xds import proto
from xds.cache import Cache
from xds.errors import InvalidRequest, NotReady, Overloaded
from xds.limits import Limits
from xds.node import Node, Peer
from xds.resources import CLUSTERS, ENDPOINTS, LISTENERS, ROUTES, Resource, content_version
from xds.session import ControlPlane, Events, Session
from xds.stream import Answer, Response

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
    simple = ["pull", "pull", "hear", "hear", "speak", "speak", "tick", "reconnect", "restart", "boot", "settle"]
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
                model.publish(*step)
    model.settle()


def check_end(model: Model) -> None:
    """What was never refused is there as served, and nothing else but what a route in force needs."""
    assert model.cache.fleet is not None
    snapshot = model.cache.fleet.common
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
    assert model.cache.fleet is not None
    for type_ in (CLUSTERS, LISTENERS):
        assert model.held[type_].keys() == model.cache.fleet.common.views[type_].resources.keys()


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


# one session


def ready() -> Cache:
    cache = Cache()
    cache.publish(served(*shop("a")))
    return cache


@both
def test_nothing_is_taken_before_a_snapshot(protocol: str) -> None:
    client = Wire(Cache(), protocol)
    with pytest.raises(NotReady):
        client.ask(CLUSTERS)


@both
def test_node_of_the_first_request_is_kept_and_later_ones_do_not_count(protocol: str) -> None:
    cache = ready()
    client = Wire(cache, protocol, now_s=3.0)
    build = {"version": {"major_number": 1, "minor_number": 40, "patch": 2}}
    node = {
        "id": "edge-7",
        "cluster": "edge",
        "locality": {"region": "eu", "zone": "eu-2"},
        "metadata": {"rollout.admin": "127.0.0.1:9901"},
        "user_agent_build_version": build,
        "extensions": [{"name": "envoy.filters.http.router", "category": "envoy.filters.http"}],
    }
    client.send({"node": node, "type_url": CLUSTERS.url})
    client.send({"node": {"id": "other"}, "type_url": ENDPOINTS.url})
    (status,) = cache.connected()
    assert (status.peer, status.protocol, status.connected, status.since_s) == ("ipv4:127.0.0.1:1", protocol, True, 3.0)
    assert (status.node.id, status.node.cluster, status.node.location) == ("edge-7", "edge", "eu/eu-2")
    assert (status.node.version, status.node.metadata) == ("1.40.2", {"rollout.admin": "127.0.0.1:9901"})


@both
@pytest.mark.parametrize("node", [None, {}, {"cluster": "edge"}, {"id": "x" * 257}])
def test_node_without_a_fit_id_is_refused_and_leaves_nothing(protocol: str, node: Any) -> None:
    cache = ready()
    client = Wire(cache, protocol)
    with pytest.raises(InvalidRequest, match=r"node\.id"):
        client.send({"node": node, "type_url": CLUSTERS.url})
    assert cache.connected() == ()


@both
def test_metadata_that_is_no_json_is_refused(protocol: str) -> None:
    client = Wire(ready(), protocol)
    message = client.session.stream.dialect.decode(client.encode({"type_url": CLUSTERS.url}))
    message.node.metadata.fields["x"].number_value = float("inf")
    with pytest.raises(InvalidRequest, match=r"node\.metadata"):
        client.session.receive(message.SerializeToString(), 0.0)


@both
@pytest.mark.parametrize("raw", [b"\xff", b"\x0a\x02\xff\xfe", b"\x12"])
def test_bytes_that_are_no_request_are_refused(protocol: str, raw: bytes) -> None:
    with pytest.raises(InvalidRequest):
        Wire(ready(), protocol).session.receive(raw, 0.0)


@both
def test_request_without_a_type_is_refused(protocol: str) -> None:
    with pytest.raises(InvalidRequest, match="type_url is empty"):
        Wire(ready(), protocol).send({"type_url": ""})


@both
def test_type_that_nobody_serves_is_ignored(protocol: str) -> None:
    cache = ready()
    client = Wire(cache, protocol)
    client.send({"type_url": "type.googleapis.com/envoy.config.core.v3.Node"})
    assert client.said() == []
    assert cache.connected()[0].types == {}


@both
def test_status_says_what_was_accepted_and_what_is_waited_for(protocol: str) -> None:
    cache = ready()
    client = Wire(cache, protocol)
    client.ask(CLUSTERS)
    (reply,) = client.replies()
    before = client.session.status().types[CLUSTERS]
    client.ack(reply)
    after = client.session.status().types[CLUSTERS]
    assert (before.acked_version, before.waiting) == ("", True)
    assert (after.acked_version, after.waiting, after.rejection) == (reply.version, False, None)


@both
def test_events_tell_the_life_of_a_session(protocol: str) -> None:
    heard: list[tuple[object, ...]] = []

    def answered(_: Node, answer: Answer) -> None:
        heard.append(("answered", answer.type, answer.rejected))

    def responded(_: Node, response: Response) -> None:
        heard.append(("responded", response.type, response.names))

    events = Events(
        lambda status: heard.append(("joined", status.connected)),
        lambda status: heard.append(("left", status.connected, status.since_s)),
        answered,
        responded,
    )
    cache = ready()
    client = Wire(cache, protocol)
    client.session = Session(ControlPlane(cache, events), protocol, Peer("peer"), lambda: None)
    client.ask(CLUSTERS)
    (reply,) = client.replies()
    client.nack(reply)
    client.session.close(4.0)
    client.session.close(5.0)
    assert heard == [
        ("joined", True),
        ("responded", CLUSTERS, ("a",)),
        ("answered", CLUSTERS, True),
        ("left", False, 4.0),
    ]
    assert client.session.respond(6.0) is None


@both
def test_closed_session_does_not_join(protocol: str) -> None:
    """Its first request may have been read in the moment in which it ended; nothing would ever take it out again."""
    cache = ready()
    client = Wire(cache, protocol)
    client.session.close(1.0)
    client.ask(CLUSTERS)
    assert cache.members() == ()


@both
def test_node_that_has_too_many_streams_gets_no_more(protocol: str) -> None:
    cache = ready()
    plane = ControlPlane(cache, limits=Limits(streams_per_node=2))
    request = Wire(cache, protocol).encode({"type_url": CLUSTERS.url})
    for _ in range(2):
        Session(plane, protocol, Peer("peer"), lambda: None).receive(request, 1.0)
    with pytest.raises(Overloaded, match="node 'edge-1' has 2 streams; give each proxy an id of its own"):
        Session(plane, protocol, Peer("peer"), lambda: None).receive(request, 1.0)


@both
def test_sessions_in_equal_states_share_states_and_bytes(protocol: str) -> None:
    cache = ready()
    sessions = [Session(ControlPlane(cache), protocol, Peer("peer"), lambda: None) for _ in range(2)]
    spoken = []
    for session in sessions:
        client = Wire(cache, protocol)
        session.receive(client.encode({"type_url": CLUSTERS.url}), 1.0)
        response = session.respond(1.0)
        assert response is not None
        session.receive(client.encode({"type_url": CLUSTERS.url, "response_nonce": response.nonce}), 2.0)
        spoken.append(response)
    assert spoken[0] is spoken[1]
    assert sessions[0].stream.types[CLUSTERS] is sessions[1].stream.types[CLUSTERS]


@both
def test_sessions_of_one_node_do_not_share_nonces_or_subscriptions(protocol: str) -> None:
    cache = ready()
    one, other = Wire(cache, protocol), Wire(cache, protocol)
    one.ask(ENDPOINTS, "a")
    (reply,) = one.replies()
    other.ask(ENDPOINTS, "none")
    other.replies()
    other.ack(reply)  # a nonce of the other stream
    assert one.session.status().types[ENDPOINTS].waiting
