"""What the client status service says, and the port that says it."""

import asyncio
import time
from collections.abc import AsyncIterator, Iterator, Mapping
from typing import Any

import grpc
import grpc.aio
import pytest
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message_factory import GetMessageClass
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase

from tests.xds.client import HTTP, PROTOCOLS, ROUTER, Wire, assignment, cluster, listener, served, shop
from xds import proto
from xds.access import Client, Rules
from xds.cache import Cache
from xds.edge.grpcio import SERVICE as ADS
from xds.edge.grpcio import GrpcEdge
from xds.edge.status import CSDS, REFLECTION, REFLECTION_ALPHA, Clocks, StatusEdge
from xds.errors import InvalidRequest, XdsError
from xds.node import Peer
from xds.redaction import REDACTED, redacted
from xds.resources import CLUSTERS, ENDPOINTS, LISTENERS, ROUTES, SECRETS, Resource, ResourceType, resource
from xds.session import ControlPlane, Session
from xds.status import REQUEST, RESPONSE_BYTES, Pages, Query, Report, parse

both = pytest.mark.parametrize("protocol", PROTOCOLS)
LIMIT_S = 20.0
EPOCH_S = 1_000_000.0
TLS = "envoy.extensions.transport_sockets.tls.v3"
KEY = "-----BEGIN PRIVATE KEY----- hush"


def asked(**words: object) -> Query:
    return parse(request(**words))


def request(**words: object) -> bytes:
    return proto.canonical(proto.parse(REQUEST, words))


def exactly(*ids: str) -> dict[str, Any]:
    return {"node_matchers": [{"node_id": {"exact": each}} for each in ids]}


def told(cache: Cache, query: Query | None = None) -> list[Any]:
    """Return the ClientConfigs that answer a query, decoded; without one: of all clients."""
    cls = proto.message_class("envoy.service.status.v3.ClientConfig")
    return [cls.FromString(each) for each in encoded(cache, query or Query())]


def encoded(cache: Cache, query: Query) -> list[bytes]:
    return [b"".join(parts) for parts in Report(cache, query, EPOCH_S).clients()]


def entries(config: Any, type_: ResourceType) -> Mapping[str, Any]:
    return {each.name: each for each in config.generic_xds_configs if each.type_url == type_.url}


def words(entry: Any) -> tuple[str, str, str]:
    """Return an entry in short: the server's view, the client's view, and the version that the client has."""
    kinds = entry.DESCRIPTOR.fields_by_name
    config = kinds["config_status"].enum_type.values_by_number[entry.config_status].name
    client = kinds["client_status"].enum_type.values_by_number[entry.client_status].name
    return config, client, entry.version_info


def secret(name: str, key: str = KEY) -> Resource:
    certificate = {"private_key": {"inline_string": key}, "certificate_chain": {"filename": "/chain.pem"}}
    return resource(SECRETS, proto.parse(SECRETS.message, {"name": name, "tls_certificate": certificate}))


def listener_with_key(name: str) -> Resource:
    certificate = {"private_key": {"inline_string": KEY}, "certificate_chain": {"filename": "/chain.pem"}}
    context = {"@type": f"type.googleapis.com/{TLS}.DownstreamTlsContext"}
    socket = {
        "name": "tls",
        "typed_config": {**context, "common_tls_context": {"tls_certificates": [certificate]}},
    }
    words = {"name": name, "filter_chains": [{"transport_socket": socket}]}
    return resource(LISTENERS, proto.parse(LISTENERS.message, words))


@both
def test_converged_client_has_all_it_asked_for_in_sync(protocol: str) -> None:
    cache = Cache()
    cache.publish(served(*shop("a", "b")))
    Wire(cache, protocol).connect(clusters=("a", "b"))
    [config] = told(cache)
    found = {(each.type_url, each.name): words(each) for each in config.generic_xds_configs}
    assert found == {(each.type.url, each.name): ("SYNCED", "ACKED", each.version) for each in (*shop("a", "b"),)}


@both
def test_node_is_told_with_what_is_kept_of_it(protocol: str) -> None:
    cache = Cache()
    cache.publish(served(*shop("a")))
    wire = Wire(cache, protocol, "edge-7")
    wire._node = {
        **(wire._node or {}),
        "metadata": {"team": {"name": "shop"}},
        "user_agent_build_version": {"version": {"major_number": 1, "minor_number": 40, "patch": 2}},
    }
    wire.ask(CLUSTERS)
    [config] = told(cache)
    assert proto.to_dict(config.node) == {
        "id": "edge-7",
        "cluster": "edge",
        "locality": {"region": "eu", "zone": "eu-1"},
        "metadata": {"team": {"name": "shop"}},
        "user_agent_build_version": {"version": {"major_number": 1, "minor_number": 40, "patch": 2}},
    }


@both
def test_change_goes_from_not_sent_by_stale_to_synced(protocol: str) -> None:
    cache, old, new = Cache(), assignment("a"), assignment("a", 81)
    cache.publish(served(cluster("a"), old))
    wire = Wire(cache, protocol)
    wire.ask(ENDPOINTS, "a")
    assert [words(each) for each in told(cache)[0].generic_xds_configs] == [("NOT_SENT", "REQUESTED", "")]
    [reply] = wire.replies()
    assert [words(each) for each in told(cache)[0].generic_xds_configs] == [("STALE", "REQUESTED", "")]
    wire.ack(reply)
    cache.publish(served(cluster("a"), new))
    assert [words(each) for each in told(cache)[0].generic_xds_configs] == [("NOT_SENT", "ACKED", old.version)]
    [reply] = wire.replies()
    assert [words(each) for each in told(cache)[0].generic_xds_configs] == [("STALE", "ACKED", old.version)]
    wire.ack(reply)
    assert [words(each) for each in told(cache)[0].generic_xds_configs] == [("SYNCED", "ACKED", new.version)]


@both
def test_refused_version_is_told_with_why_and_when(protocol: str) -> None:
    cache, old, new = Cache(), assignment("a"), assignment("a", 81)
    cache.publish(served(cluster("a"), old))
    wire = Wire(cache, protocol)
    wire.ask(ENDPOINTS, "a")
    [reply] = wire.replies()
    wire.ack(reply)
    cache.publish(served(cluster("a"), new))
    [reply] = wire.replies()
    wire.now_s = 30.0
    wire.nack(reply, "port 81 is bad")
    [config] = told(cache, asked(**exactly("edge-1")))
    entry = config.generic_xds_configs[0]
    assert words(entry) == ("ERROR", "NACKED", old.version)
    assert entry.xds_config.value == old.body
    error = entry.error_state
    assert (error.details, error.version_info) == ("port 81 is bad", new.version)
    assert error.failed_configuration.value == new.body
    assert error.last_update_attempt.seconds == EPOCH_S + 30


@both
def test_name_that_nobody_serves_does_not_exist(protocol: str) -> None:
    cache = Cache()
    cache.publish(served(*shop("a")))
    wire = Wire(cache, protocol)
    wire.ask(CLUSTERS, "a", "ghost")
    wire.settle()
    found = entries(told(cache)[0], CLUSTERS)
    assert {name: words(each)[:2] for name, each in found.items()} == {
        "a": ("SYNCED", "ACKED"),
        "ghost": ("NOT_SENT", "DOES_NOT_EXIST"),
    }


@both
def test_route_that_waits_for_its_cluster_is_not_sent(protocol: str) -> None:
    cache = Cache()
    cache.publish(served(*shop("a")))
    wire = Wire(cache, protocol)
    wire.ask(CLUSTERS)
    wire.ask(ROUTES, "main")
    wire.replies()
    config = told(cache)[0]
    assert words(entries(config, CLUSTERS)["a"])[:2] == ("STALE", "REQUESTED")
    assert words(entries(config, ROUTES)["main"])[:2] == ("NOT_SENT", "REQUESTED")


def test_every_stream_of_a_node_is_told() -> None:
    cache = Cache()
    cache.publish(served(*shop("a")))
    for node_id in ("edge-2", "edge-1", "edge-1"):
        Wire(cache, "sotw", node_id).ask(CLUSTERS)
    assert [config.node.id for config in told(cache)] == ["edge-1", "edge-1", "edge-2"]


def test_nobody_connected_is_an_empty_answer_before_a_snapshot_too() -> None:
    assert told(Cache()) == []


@pytest.mark.parametrize(
    ("matcher", "ids"),
    [
        ({"exact": "edge-1"}, {"edge-1"}),
        ({"exact": "EDGE-1", "ignore_case": True}, {"edge-1"}),
        ({"prefix": "edge"}, {"edge-1", "edge-12"}),
        ({"suffix": "2"}, {"edge-12", "core-2"}),
        ({"contains": "-1"}, {"edge-1", "edge-12"}),
        (None, {"edge-1", "edge-12", "core-2"}),
    ],
)
def test_clients_are_chosen_by_node_id(matcher: object, ids: set[str]) -> None:
    cache = Cache()
    cache.publish(served(*shop("a")))
    for node_id in ("edge-1", "edge-12", "core-2"):
        Wire(cache, "sotw", node_id).ask(CLUSTERS)
    query = asked(node_matchers=[{} if matcher is None else {"node_id": matcher}])
    assert {config.node.id for config in told(cache, query)} == ids


def test_any_of_several_matchers_is_enough() -> None:
    query = asked(node_matchers=[{"node_id": {"exact": "a"}}, {"node_id": {"prefix": "b"}}])
    assert [query.wants(each) for each in ("a", "bb", "c")] == [True, True, False]


@pytest.mark.parametrize(
    ("matcher", "text"),
    [
        ({"node_id": {"safe_regex": {"regex": ".*"}}}, r"node_matchers\[0\].node_id: safe_regex; use one of exact"),
        ({"node_id": {}}, r"node_matchers\[0\].node_id: no pattern"),
        ({"node_metadatas": [{"path": [{"key": "team"}]}]}, r"node_matchers\[0\].node_metadatas"),
    ],
)
def test_matcher_that_is_not_supported_is_refused(matcher: dict[str, Any], text: str) -> None:
    with pytest.raises(InvalidRequest, match=text):
        asked(node_matchers=[matcher])


def test_contents_are_for_who_names_the_nodes() -> None:
    assert asked(**exactly("edge-1")).contents
    assert not asked().contents
    assert not asked(node_matchers=[{"node_id": {"prefix": "edge"}}]).contents
    assert not asked(**exactly("edge-1"), exclude_resource_contents=True).contents


@both
def test_secret_is_told_by_name_and_version_only(protocol: str) -> None:
    cache = Cache()
    cache.publish(served(secret("cert")))
    wire = Wire(cache, protocol)
    plane = ControlPlane(cache, access=Rules((Client("*", ("*",), ("*",), ("*",)),)))
    wire.session = Session(plane, protocol, Peer("ipv4:127.0.0.1:1", frozenset({"edge.shop"})), wire._wake)
    wire.ask(SECRETS, "cert")
    for reply in wire.replies():
        wire.nack(reply, f"cannot load {KEY}")
    [report] = encoded(cache, asked(**exactly("edge-1")))
    assert b"cert" in report
    assert b"hush" not in report
    assert b"withheld" in report


@both
def test_key_written_into_a_listener_is_not_told(protocol: str) -> None:
    cache = Cache()
    cache.publish(served(listener_with_key("edge")))
    wire = Wire(cache, protocol)
    wire.ask(LISTENERS)
    wire.settle()
    [report] = encoded(cache, asked(**exactly("edge-1")))
    assert b"hush" not in report
    assert REDACTED.encode() in report
    cache.publish(served(listener_with_key("edge"), listener_with_key("other")))
    for reply in wire.replies():
        wire.nack(reply, f"refused: {KEY}")
    [report] = encoded(cache, asked(**exactly("edge-1")))
    assert b"hush" not in report


def test_secrets_are_replaced_wherever_they_stand() -> None:
    grpc_service = {
        "google_grpc": {
            "target_uri": "auth:443",
            "stat_prefix": "auth",
            "channel_credentials": {"ssl_credentials": {"private_key": {"inline_bytes": "aHVzaA=="}}},
            "call_credentials": [{"access_token": "hush"}],
        }
    }
    authorization = {"@type": "type.googleapis.com/envoy.extensions.filters.http.ext_authz.v3.ExtAuthz"}
    manager = {
        "stat_prefix": "edge",
        "http_filters": [
            {"name": "authz", "typed_config": {**authorization, "grpc_service": grpc_service}},
            {"name": "router", "typed_config": {"@type": f"type.googleapis.com/{ROUTER}"}},
        ],
    }
    whole = proto.parse(HTTP, manager)
    shown = proto.message_class(HTTP).FromString(redacted(HTTP, proto.canonical(whole)))
    filter_ = proto.unpack(shown.http_filters[0].typed_config)
    assert filter_ is not None
    credentials = filter_.grpc_service.google_grpc
    assert credentials.channel_credentials.ssl_credentials.private_key.inline_bytes == REDACTED.encode()
    assert credentials.call_credentials[0].access_token == REDACTED
    assert shown.http_filters[1] == whole.http_filters[1]


def test_all_kinds_of_secrets_are_replaced() -> None:
    provider = {"provider_name": "hsm", "typed_config": {"@type": f"type.googleapis.com/{ROUTER}"}}
    for kind in (
        {"tls_certificate": {"private_key_provider": provider, "password": {"inline_string": "hush"}}},
        {"session_ticket_keys": {"keys": [{"inline_string": "hush"}]}},
        {"generic_secret": {"secret": {"inline_string": "hush"}, "secrets": {"a": {"inline_string": "hush"}}}},
    ):
        body = proto.canonical(proto.parse(SECRETS.message, {"name": "x", **kind}))
        shown = redacted(SECRETS.message, body)
        assert b"hush" not in shown
        assert ROUTER.encode() not in shown


def test_message_without_a_secret_is_shown_as_it_is() -> None:
    files = {"tls_certificate": {"private_key": {"filename": "/key.pem"}}}
    for message, body in (
        (CLUSTERS.message, cluster("a").body),
        (LISTENERS.message, listener("edge", "main").body),
        (SECRETS.message, proto.canonical(proto.parse(SECRETS.message, {"name": "x", **files}))),
    ):
        assert redacted(message, body) is body


def test_page_takes_whole_clients_up_to_its_limit() -> None:
    pages = Pages(limit_bytes=25)
    full = [pages.add(b"x" * 8), pages.add(b"y" * 8), pages.add(b"z" * 8)]
    assert [each and len(each) for each in full] == [None, None, 20]
    assert len(pages.last()) == 10
    assert pages.last() == b""


class Port:
    """A running status port, and the cache that it tells of."""

    def __init__(self, token: str | None = None, limit_bytes: int = RESPONSE_BYTES) -> None:
        self.cache = Cache()
        clocks = Clocks(time.monotonic, time.time)
        self.edge = StatusEdge(self.cache, clocks, token, limit_bytes=limit_bytes)
        self.address = ""

    async def start(self) -> None:
        self.address = f"127.0.0.1:{await self.edge.start('127.0.0.1:0')}"


@pytest.fixture
async def port() -> AsyncIterator[Port]:
    running = Port()
    await running.start()
    yield running
    async with asyncio.timeout(LIMIT_S):
        await running.edge.stop(0)


@pytest.fixture
async def channel(port: Port) -> AsyncIterator[grpc.aio.Channel]:
    async with grpc.aio.insecure_channel(port.address) as opened:
        yield opened


def decoded(raw: bytes) -> list[Any]:
    return list(proto.message_class("envoy.service.status.v3.ClientStatusResponse").FromString(raw).config)


async def fetch(channel: grpc.aio.Channel, raw: bytes, metadata: tuple[tuple[str, str], ...] = ()) -> list[Any]:
    call = channel.unary_unary(f"/{CSDS}/FetchClientStatus")
    return decoded(await call(raw, timeout=LIMIT_S, metadata=metadata))


async def test_fetch_tells_of_every_client(port: Port, channel: grpc.aio.Channel) -> None:
    port.cache.publish(served(*shop("a")))
    for node_id, protocol in (("edge-1", "sotw"), ("edge-2", "delta")):
        Wire(port.cache, protocol, node_id).connect(clusters=("a",))
    configs = await fetch(channel, request())
    assert [config.node.id for config in configs] == ["edge-1", "edge-2"]
    assert {words(each)[:2] for config in configs for each in config.generic_xds_configs} == {("SYNCED", "ACKED")}
    [config] = await fetch(channel, request(**exactly("edge-2")))
    assert entries(config, CLUSTERS)["a"].xds_config.value == cluster("a").body


async def test_stream_answers_each_request_as_of_then(port: Port, channel: grpc.aio.Channel) -> None:
    call = channel.stream_stream(f"/{CSDS}/StreamClientStatus")()
    await call.write(request())
    async with asyncio.timeout(LIMIT_S):
        assert decoded(await call.read()) == []
    port.cache.publish(served(*shop("a")))
    Wire(port.cache, "sotw").ask(CLUSTERS)
    await call.write(request())
    async with asyncio.timeout(LIMIT_S):
        assert [config.node.id for config in decoded(await call.read())] == ["edge-1"]
    await call.done_writing()


async def test_stream_splits_what_a_client_could_not_take_at_once(port: Port, channel: grpc.aio.Channel) -> None:
    port.cache.publish(served(cluster("x" * 2_000_000), assignment("x" * 2_000_000)))
    for number in range(3):
        Wire(port.cache, "sotw", f"edge-{number}").ask(CLUSTERS)
    call = channel.stream_stream(f"/{CSDS}/StreamClientStatus")()
    await call.write(request())
    await call.done_writing()
    async with asyncio.timeout(LIMIT_S):
        pages = [decoded(page) async for page in call]
    assert [[config.node.id for config in page] for page in pages] == [["edge-0"], ["edge-1"], ["edge-2"]]


async def test_client_too_large_for_a_message_says_how_to_ask_for_less() -> None:
    running = Port(limit_bytes=1 << 20)
    await running.start()
    running.cache.publish(served(cluster("x" * (1 << 20))))
    Wire(running.cache, "sotw").ask(CLUSTERS)
    async with grpc.aio.insecure_channel(running.address) as channel:
        call = channel.stream_stream(f"/{CSDS}/StreamClientStatus")()
        await call.write(request())
        async with asyncio.timeout(LIMIT_S):
            assert await call.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert "exclude_resource_contents" in await call.details()
    await running.edge.stop(0)


@pytest.mark.parametrize("node_ids", [("edge-1",), ("edge-1", "edge-2")])
async def test_fetch_of_too_much_says_how_to_ask_for_less(node_ids: tuple[str, ...]) -> None:
    running = Port(limit_bytes=1 << 20)
    await running.start()
    running.cache.publish(served(cluster("x" * ((1 << 20) // len(node_ids)))))
    for node_id in node_ids:
        Wire(running.cache, "sotw", node_id).ask(CLUSTERS)
    async with grpc.aio.insecure_channel(running.address) as channel:
        with pytest.raises(grpc.aio.AioRpcError, match="larger than 1 MiB; name nodes by node_matchers") as caught:
            await fetch(channel, request())
        assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    await running.edge.stop(0)


@pytest.mark.parametrize("raw", [b"\xff\xff", request(node_matchers=[{"node_id": {"safe_regex": {"regex": "x"}}}])])
async def test_bad_request_is_an_invalid_argument(port: Port, channel: grpc.aio.Channel, raw: bytes) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await fetch(channel, raw)
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    call = channel.stream_stream(f"/{CSDS}/StreamClientStatus")()
    await call.write(raw)
    async with asyncio.timeout(LIMIT_S):
        assert await call.code() is grpc.StatusCode.INVALID_ARGUMENT


async def test_status_with_a_token_is_told_to_who_has_it_and_health_to_all() -> None:
    running = Port("s3cret")
    await running.start()
    async with grpc.aio.insecure_channel(running.address) as channel:
        assert await fetch(channel, request(), (("authorization", "Bearer s3cret"),)) == []
        for metadata in ((), (("authorization", "Bearer wrong"),)):
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await fetch(channel, request(), metadata)
            assert caught.value.code() is grpc.StatusCode.UNAUTHENTICATED
            call = channel.stream_stream(f"/{CSDS}/StreamClientStatus")(metadata=metadata)
            async with asyncio.timeout(LIMIT_S):
                assert await call.code() is grpc.StatusCode.UNAUTHENTICATED
        assert await health_of(channel, "") == "NOT_SERVING"
    await running.edge.stop(0)


async def health_of(channel: grpc.aio.Channel, service: str) -> str:
    stub = health_pb2_grpc.HealthStub(channel)
    answer = await stub.Check(health_pb2.HealthCheckRequest(service=service), timeout=LIMIT_S)
    return str(health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status))


async def test_health_follows_the_snapshot_and_the_end(port: Port, channel: grpc.aio.Channel) -> None:
    watch = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest(service=ADS))

    async def next_status() -> str:
        async with asyncio.timeout(LIMIT_S):
            return str(health_pb2.HealthCheckResponse.ServingStatus.Name((await watch.read()).status))

    assert await next_status() == "NOT_SERVING"
    port.cache.publish(served(*shop("a")))
    await port.edge.tell_health()
    assert await next_status() == "SERVING"
    assert await health_of(channel, "") == "SERVING"
    await port.edge.tell_end()
    assert await next_status() == "NOT_SERVING"
    assert await health_of(channel, "") == "NOT_SERVING"
    watch.cancel()


async def test_health_of_an_unknown_service_is_not_found(port: Port, channel: grpc.aio.Channel) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await health_of(channel, "shop.Checkout")
    assert caught.value.code() is grpc.StatusCode.NOT_FOUND


async def reflected(channel: grpc.aio.Channel, service: str, **words: object) -> Any:
    call = channel.stream_stream(
        f"/{service}/ServerReflectionInfo",
        request_serializer=reflection_pb2.ServerReflectionRequest.SerializeToString,
        response_deserializer=reflection_pb2.ServerReflectionResponse.FromString,
    )
    requests = iter([reflection_pb2.ServerReflectionRequest(**words)])
    async with asyncio.timeout(LIMIT_S):
        [response] = [each async for each in call(_each(requests))]
    return response


async def _each(requests: Iterator[Any]) -> AsyncIterator[Any]:
    for each in requests:
        yield each


@pytest.mark.parametrize("service", [REFLECTION, REFLECTION_ALPHA])
async def test_client_that_knows_nothing_learns_the_services_and_uses_them(
    port: Port, channel: grpc.aio.Channel, service: str
) -> None:
    port.cache.publish(served(*shop("a")))
    Wire(port.cache, "sotw").connect(clusters=("a",))
    listed = await reflected(channel, service, list_services="")
    names = {each.name for each in listed.list_services_response.service}
    assert names == {CSDS, "grpc.health.v1.Health", REFLECTION, REFLECTION_ALPHA}
    for name in (*names, ADS):
        pool = DescriptorPool()
        answer = await reflected(channel, service, file_containing_symbol=name)
        left = list(answer.file_descriptor_response.file_descriptor_proto)
        assert left, name
        add_all(pool, left)
        assert pool.FindServiceByName(name).methods, name
        if name == CSDS:
            method = pool.FindServiceByName(name).methods_by_name["FetchClientStatus"]
            asks, answers = GetMessageClass(method.input_type), GetMessageClass(method.output_type)
            call = channel.unary_unary(f"/{CSDS}/FetchClientStatus", asks.SerializeToString, answers.FromString)
            status = await call(asks(), timeout=LIMIT_S)
            assert [config.node.id for config in status.config] == ["edge-1"]


def add_all(pool: DescriptorPool, files: list[bytes]) -> None:
    """Add files that depend on each other in any order."""
    while files:
        left = []
        for file in files:
            try:
                pool.AddSerializedFile(file)
            except TypeError:  # it needs one that comes later
                left.append(file)
        assert len(left) < len(files)
        files = left


async def test_grpcs_own_reflection_client_finds_every_service(port: Port) -> None:
    def find() -> list[str]:
        with grpc.insecure_channel(port.address) as channel:
            database = ProtoReflectionDescriptorDatabase(channel)
            pool = DescriptorPool(database)
            services = [pool.FindServiceByName(name) for name in (*database.get_services(), ADS)]
            return [method.output_type.full_name for service in services for method in service.methods]

    async with asyncio.timeout(LIMIT_S):
        found = await asyncio.to_thread(find)
    assert set(found) == {
        "envoy.service.status.v3.ClientStatusResponse",
        "grpc.health.v1.HealthCheckResponse",
        "grpc.health.v1.HealthListResponse",
        "grpc.reflection.v1.ServerReflectionResponse",
        "grpc.reflection.v1alpha.ServerReflectionResponse",
        "envoy.service.discovery.v3.DiscoveryResponse",
        "envoy.service.discovery.v3.DeltaDiscoveryResponse",
    }


async def test_status_port_serves_no_configuration_and_the_xds_port_no_status(
    port: Port, channel: grpc.aio.Channel
) -> None:
    stream = channel.stream_stream(f"/{ADS}/StreamAggregatedResources")()
    async with asyncio.timeout(LIMIT_S):
        assert await stream.code() is grpc.StatusCode.UNIMPLEMENTED
    edge = GrpcEdge(ControlPlane(Cache()), time.monotonic)
    async with grpc.aio.insecure_channel(f"127.0.0.1:{await edge.start('127.0.0.1:0')}") as other:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await fetch(other, request())
        assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED
    await edge.stop(0)


async def test_port_in_use_is_an_error_that_says_so(port: Port) -> None:
    with pytest.raises(XdsError, match=f"cannot listen for status on {port.address}: the port is in use"):
        await Port().edge.start(port.address)


async def test_port_that_never_started_stops() -> None:
    await Port().edge.stop(0)
