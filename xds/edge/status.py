"""The status port: what each client has (CSDS), whether the xDS port serves (gRPC health), and server reflection."""

import asyncio
import hmac
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Any as Context

import grpc
import grpc.aio
from google.protobuf.descriptor_pb2 import FileDescriptorProto
from google.protobuf.descriptor_pool import DescriptorPool
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection, reflection_pb2

from xds.cache import Cache
from xds.edge.grpcio import METHODS as ADS_METHODS
from xds.edge.grpcio import SERVICE as ADS
from xds.edge.reflection import Method, described
from xds.errors import Forbidden, InvalidRequest, Overloaded, XdsError
from xds.status import PACKAGE, RESPONSE_BYTES, Pages, Report, parse

CSDS = f"{PACKAGE}.ClientStatusDiscoveryService"
DISCOVERY = "envoy.service.discovery.v3"
REFLECTION, REFLECTION_ALPHA = "grpc.reflection.v1.ServerReflection", reflection.SERVICE_NAME
HEALTH_OF = (health.OVERALL_HEALTH, ADS)
CALLS_AT_ONCE = 64  # watchers of the health too
OPTIONS = (
    ("grpc.so_reuseport", 0),
    ("grpc.max_receive_message_length", 1024 * 1024),
    ("grpc.max_send_message_length", 64 * 1024 * 1024),
)


@dataclass(frozen=True, slots=True)
class Clocks:
    """`server_s` is the clock of the sessions, `wall_s` the time since 1970; both in seconds."""

    server_s: Callable[[], float]
    wall_s: Callable[[], float]


class StatusEdge:
    """The status port. With a `token` the client status is told only to who sends it; None: to everybody.

    It shows what the fleet is configured to, though no secret: listen on loopback, or give it a token.
    `limit_bytes` limits each response: one client's in a stream, that of all to a fetch.
    """

    def __init__(
        self, cache: Cache, clocks: Clocks, token: str | None = None, *, limit_bytes: int = RESPONSE_BYTES
    ) -> None:
        self._cache = cache
        self._clocks = clocks
        self._token = token
        self._limit_bytes = limit_bytes
        self._health: Context = health.aio.HealthServicer()
        self._server: Context = None  # None while it does not listen

    async def start(self, address: str) -> int:
        """Listen and return the port. Raises XdsError when the address cannot be bound."""
        server = grpc.aio.server(options=OPTIONS, maximum_concurrent_rpcs=CALLS_AT_ONCE)
        server.add_generic_rpc_handlers(self._handlers())
        health_pb2_grpc.add_HealthServicer_to_server(self._health, server)
        try:
            port = server.add_insecure_port(address)
        except RuntimeError as error:
            await server.stop(None)
            what = f"cannot listen for status on {address}: the port is in use, or the address is not this host's"
            raise XdsError(what) from error
        await self.tell_health()
        await server.start()
        self._server = server
        return int(port)

    async def tell_health(self) -> None:
        """Tell whether there is something to serve: who watches hears of a change."""
        word = "NOT_SERVING" if self._cache.fleet is None else "SERVING"
        for service in HEALTH_OF:
            await self._health.set(service, health_pb2.HealthCheckResponse.ServingStatus.Value(word))

    async def tell_end(self) -> None:
        """Tell that the server stops: nobody should send it new clients."""
        await self._health.enter_graceful_shutdown()

    async def stop(self, grace_s: float) -> None:
        await self.tell_end()
        if self._server is not None:
            await self._server.stop(grace_s)

    def _handlers(self) -> tuple[object, ...]:
        shown = reflection.aio.ReflectionServicer((CSDS, health.SERVICE_NAME, REFLECTION, REFLECTION_ALPHA), schema())
        by_version = {
            "ServerReflectionInfo": grpc.stream_stream_rpc_method_handler(
                shown.ServerReflectionInfo,
                reflection_pb2.ServerReflectionRequest.FromString,
                reflection_pb2.ServerReflectionResponse.SerializeToString,
            )
        }
        status = {
            "FetchClientStatus": grpc.unary_unary_rpc_method_handler(self._fetch),
            "StreamClientStatus": grpc.stream_stream_rpc_method_handler(self._stream),
        }
        services = {CSDS: status, REFLECTION: by_version, REFLECTION_ALPHA: by_version}
        return tuple(grpc.method_handlers_generic_handler(name, methods) for name, methods in services.items())

    async def _fetch(self, raw: bytes, context: Context) -> bytes:
        try:
            self._authorize(context)
            return await self._whole(self._report(raw))
        except (InvalidRequest, Forbidden, Overloaded) as error:
            await context.abort(_CODES[type(error)], str(error))
            raise

    async def _stream(self, requests: AsyncIterator[bytes], context: Context) -> AsyncIterator[bytes]:
        """Answer each request with one response, or with several where the clients do not fit into one."""
        try:
            self._authorize(context)
            async for raw in requests:
                async for page in _pages(self._report(raw)):
                    yield self._fitting(page)
        except (InvalidRequest, Forbidden, Overloaded) as error:
            await context.abort(_CODES[type(error)], str(error))

    async def _whole(self, report: Report) -> bytes:
        """Return the one response of all clients."""
        pages = Pages(self._limit_bytes)
        async for client in _unhurried(report):
            if pages.add(client) is not None:
                raise _too_large(self._limit_bytes)
        return self._fitting(pages.last())

    def _fitting(self, page: bytes) -> bytes:
        if len(page) > self._limit_bytes:
            raise _too_large(self._limit_bytes)
        return page

    def _report(self, raw: bytes) -> Report:
        return Report(self._cache, parse(raw), self._clocks.wall_s() - self._clocks.server_s())

    def _authorize(self, context: Context) -> None:
        given = dict(context.invocation_metadata() or ()).get("authorization", "")
        text = given if isinstance(given, str) else ""
        if self._token is not None and not hmac.compare_digest(text.encode(), f"Bearer {self._token}".encode()):
            raise Forbidden("the client status needs the server's token; send metadata `authorization: Bearer TOKEN`")


def _too_large(limit_bytes: int) -> Overloaded:
    what = f"the status is larger than {limit_bytes >> 20} MiB"
    return Overloaded(f"{what}; name nodes by node_matchers, exclude_resource_contents, or use StreamClientStatus")


async def _unhurried(report: Report) -> AsyncIterator[bytes]:
    """Yield a report's clients, and let the xDS streams have their turn after each part."""
    for client in report.clients():
        parts = []
        for part in client:
            parts.append(part)
            await asyncio.sleep(0)
        yield b"".join(parts)


async def _pages(report: Report) -> AsyncIterator[bytes]:
    """Yield the responses of a stream, at least one."""
    pages = Pages()
    async for client in _unhurried(report):
        page = pages.add(client)
        if page is not None:
            yield page
    yield pages.last()


def schema() -> DescriptorPool:
    """Return the descriptors of the services of this port and of the xDS port."""
    status = [
        Method("StreamClientStatus", f"{PACKAGE}.ClientStatusRequest", f"{PACKAGE}.ClientStatusResponse"),
        Method(
            "FetchClientStatus",
            f"{PACKAGE}.ClientStatusRequest",
            f"{PACKAGE}.ClientStatusResponse",
            client_streams=False,
            server_streams=False,
        ),
    ]
    kinds = {"sotw": "", "delta": "Delta"}
    ads = [
        Method(name, f"{DISCOVERY}.{kinds[word]}DiscoveryRequest", f"{DISCOVERY}.{kinds[word]}DiscoveryResponse")
        for name, word in ADS_METHODS.items()
    ]
    return described({CSDS: status, ADS: ads}, (health_pb2.DESCRIPTOR.serialized_pb, *_reflection_files()))


def _reflection_files() -> tuple[bytes, bytes]:
    """Return the reflection service's own file, and its v1: the same under another name, which tools ask for first."""
    alpha: bytes = reflection_pb2.DESCRIPTOR.serialized_pb
    packages = (REFLECTION_ALPHA.rpartition(".")[0], REFLECTION.rpartition(".")[0])
    file = FileDescriptorProto.FromString(alpha)
    file.name, file.package = "grpc/reflection/v1/reflection.proto", packages[1]
    for message in file.message_type:
        for field in message.field:
            if field.type_name:
                field.type_name = field.type_name.replace(*packages)
    for method in file.service[0].method:
        method.input_type = method.input_type.replace(*packages)
        method.output_type = method.output_type.replace(*packages)
    return alpha, file.SerializeToString()


_CODES = {
    InvalidRequest: grpc.StatusCode.INVALID_ARGUMENT,
    Forbidden: grpc.StatusCode.UNAUTHENTICATED,
    Overloaded: grpc.StatusCode.RESOURCE_EXHAUSTED,
}
