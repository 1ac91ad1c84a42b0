"""ADS over grpc.aio: bytes in, bytes out."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from typing import Any as Context

import grpc
import grpc.aio

from xds.errors import Forbidden, InvalidRequest, NotReady, Overloaded, XdsError
from xds.node import Peer
from xds.session import ControlPlane, Session

SERVICE = "envoy.service.discovery.v3.AggregatedDiscoveryService"
METHODS = {"StreamAggregatedResources": "sotw", "DeltaAggregatedResources": "delta"}
OPTIONS = (
    ("grpc.so_reuseport", 0),  # a second server on the port is an error, not a silent share of the fleet
    ("grpc.max_receive_message_length", 16 * 1024 * 1024),  # a reconnecting Envoy with 60,000 names sends 4 MB
    ("grpc.max_send_message_length", 64 * 1024 * 1024),
    ("grpc.keepalive_time_ms", 10_000),  # finds half-open peers, and Envoys that hang
    ("grpc.keepalive_timeout_ms", 20_000),  # an Envoy that works on ten thousand clusters answers late
    ("grpc.http2.ping_timeout_ms", 20_000),  # else 60 s: grpc pings also by itself, and no keepalive overtakes that
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_ping_strikes", 0),  # Envoy pings too; by default gRPC answers that with GOAWAY
    ("grpc.http2.max_pings_without_data", 0),
)


class GrpcEdge:
    """The xDS port. `clock` gives seconds that never go back."""

    def __init__(self, plane: ControlPlane, clock: Callable[[], float]) -> None:
        self._plane = plane
        self._clock = clock
        self._server: Context = None  # None while it does not listen

    async def start(self, address: str) -> int:
        """Listen and return the port. Raises XdsError when the address cannot be bound."""
        server = grpc.aio.server(options=OPTIONS)
        handlers = {
            method: grpc.stream_stream_rpc_method_handler(self._handler(protocol))
            for method, protocol in METHODS.items()
        }
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, handlers),))
        try:
            port = server.add_insecure_port(address)
        except RuntimeError as error:
            await server.stop(None)
            what = f"cannot listen for xDS on {address}: the port is in use, or the address is not this host's"
            raise XdsError(what) from error
        await server.start()
        self._server = server
        return int(port)

    async def stop(self, grace_s: float) -> None:
        if self._server is not None:
            await self._server.stop(grace_s)

    def _handler(self, protocol: str) -> Callable[[AsyncIterator[bytes], Context], object]:
        async def handle(_requests: AsyncIterator[bytes], context: Context) -> None:
            await self._serve(protocol, context)

        return handle

    async def _serve(self, protocol: str, context: Context) -> None:
        awake = asyncio.Event()
        session = Session(self._plane, protocol, Peer(context.peer()), awake.set)
        fault: XdsError | None = None
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._write(session, context, awake))
                try:
                    await self._read(session, context)
                except (InvalidRequest, Forbidden, Overloaded, NotReady) as error:
                    fault = error
                # The writer is not cancelled: grpc cannot end a call while a write is cut short but not finished.
                session.close(self._clock())
                awake.set()
        finally:
            session.close(self._clock())
        if fault is not None:
            await context.abort(_CODES[type(fault)], str(fault))

    async def _read(self, session: Session, context: Context) -> None:
        while (raw := await context.read()) is not grpc.aio.EOF:
            session.receive(raw, self._clock())
            session.wake()

    async def _write(self, session: Session, context: Context, awake: asyncio.Event) -> None:
        """Write what there is to say until the session is closed.

        A write has no limit of its own: it costs one response, the keepalive finds peers that are dead, and what comes
        next is computed from the newest snapshot when the client reads again.
        """
        while session.is_open:
            while (response := session.respond(self._clock())) is not None:
                await context.write(response.body)
            await self._sleep(session, awake)
            awake.clear()

    async def _sleep(self, session: Session, awake: asyncio.Event) -> None:
        now_s = self._clock()
        at_s = session.wake_at_s(now_s)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(None if at_s is None else at_s - now_s):
                await awake.wait()


_CODES = {
    InvalidRequest: grpc.StatusCode.INVALID_ARGUMENT,
    Forbidden: grpc.StatusCode.PERMISSION_DENIED,
    Overloaded: grpc.StatusCode.RESOURCE_EXHAUSTED,
    NotReady: grpc.StatusCode.UNAVAILABLE,
}
