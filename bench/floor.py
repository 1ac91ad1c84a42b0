"""The floor: a grpc.aio server that says canned bytes to requests it does not look at, for a push and its ACK."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from typing import Any as Context

import grpc
import grpc.aio

from xds import proto
from xds.edge.grpcio import METHODS, OPTIONS, SERVICE
from xds.resources import CLUSTERS, ENDPOINTS, LISTENERS, ROUTES, Resource, ResourceType

DISCOVERY = "envoy.service.discovery.v3"
SUBSCRIBE, ANSWER = True, False
# What a starting Envoy sends: a type's first request, which is answered, or the ACK of an earlier response.
SCRIPT: tuple[tuple[ResourceType, bool], ...] = (
    (CLUSTERS, SUBSCRIBE),
    (ENDPOINTS, SUBSCRIBE),
    (CLUSTERS, ANSWER),
    (LISTENERS, SUBSCRIBE),
    (ENDPOINTS, ANSWER),
    (ROUTES, SUBSCRIBE),
    (LISTENERS, ANSWER),
    (ROUTES, ANSWER),
)


class Push:
    """A push that all streams wait for."""

    def __init__(self) -> None:
        self.body = b""
        self.out = asyncio.Event()


class Floor:
    """Answers each stream by SCRIPT, and then writes each push and reads its ACK."""

    def __init__(self, protocol: str, resources: Sequence[Resource], answered: Callable[[], None]) -> None:
        self._protocol = protocol
        self._answered = answered
        self._bodies = {
            type_: canned(protocol, [each for each in resources if each.type is type_], f"first {type_}")
            for type_ in (CLUSTERS, ENDPOINTS, LISTENERS, ROUTES)
        }
        self._following = Push()
        self._server: Context = None  # None while it does not listen

    async def start(self) -> int:
        server = grpc.aio.server(options=OPTIONS)
        methods = {
            method: grpc.stream_stream_rpc_method_handler(self._serve)
            for method, protocol in METHODS.items()
            if protocol == self._protocol
        }
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, methods),))
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        self._server = server
        return int(port)

    def push(self, body: bytes) -> None:
        push, self._following = self._following, Push()
        push.body = body
        push.out.set()

    async def _serve(self, _requests: AsyncIterator[bytes], context: Context) -> None:
        with contextlib.suppress(EOFError):
            for type_, subscribes in SCRIPT:
                await _read(context)
                if subscribes:
                    await context.write(self._bodies[type_])
                else:
                    self._answered()
            while True:
                push = self._following
                await push.out.wait()
                await context.write(push.body)
                await _read(context)
                self._answered()


async def _read(context: Context) -> None:
    if await context.read() is grpc.aio.EOF:
        raise EOFError


def canned(protocol: str, resources: Iterable[Resource], nonce: str) -> bytes:
    """Encode a response with these resources of one type, as large as the real one."""
    listed = list(resources)
    url = listed[0].type.url
    if protocol == "sotw":
        response = proto.message_class(f"{DISCOVERY}.DiscoveryResponse")(version_info="0" * 16)
        for each in listed:
            response.resources.add(type_url=url, value=each.body)
    else:
        response = proto.message_class(f"{DISCOVERY}.DeltaDiscoveryResponse")(system_version_info="0" * 16)
        for each in listed:
            response.resources.add(name=each.name, version=each.version).resource.MergeFrom(_any(each))
    response.type_url, response.nonce = url, nonce
    response.control_plane.identifier = "envoy-rollout"
    return proto.canonical(response)


def _any(resource: Resource) -> Context:
    return proto.message_class("google.protobuf.Any")(type_url=resource.type.url, value=resource.body)
