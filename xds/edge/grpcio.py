"""The xDS port over grpc.aio: bytes in, bytes out."""

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any as Context

import grpc
import grpc.aio

from xds.edge.call import Call, Method
from xds.edge.connections import reset
from xds.edge.gathering import Gathering
from xds.edge.tls import Certificates, identities
from xds.errors import Forbidden, Overloaded, XdsError
from xds.limits import Limits
from xds.node import Peer
from xds.resources import (
    CLUSTERS,
    ENDPOINTS,
    EXTENSION_CONFIGS,
    LISTENERS,
    ROUTES,
    RUNTIMES,
    SCOPED_ROUTES,
    SECRETS,
    VIRTUAL_HOSTS,
)
from xds.session import ControlPlane, Session

SERVICE = "envoy.service.discovery.v3.AggregatedDiscoveryService"
METHODS = {"StreamAggregatedResources": "sotw", "DeltaAggregatedResources": "delta"}
TYPED = {
    "envoy.service.cluster.v3.ClusterDiscoveryService": ("Clusters", CLUSTERS),
    "envoy.service.endpoint.v3.EndpointDiscoveryService": ("Endpoints", ENDPOINTS),
    "envoy.service.extension.v3.ExtensionConfigDiscoveryService": ("ExtensionConfigs", EXTENSION_CONFIGS),
    "envoy.service.listener.v3.ListenerDiscoveryService": ("Listeners", LISTENERS),
    "envoy.service.route.v3.RouteDiscoveryService": ("Routes", ROUTES),
    "envoy.service.route.v3.ScopedRoutesDiscoveryService": ("ScopedRoutes", SCOPED_ROUTES),
    "envoy.service.route.v3.VirtualHostDiscoveryService": ("VirtualHosts", VIRTUAL_HOSTS),
    "envoy.service.runtime.v3.RuntimeDiscoveryService": ("Runtime", RUNTIMES),
    "envoy.service.secret.v3.SecretDiscoveryService": ("Secrets", SECRETS),
}
"""The services of a single type: how their methods call it, and the type."""

STOPPING = "the server is stopping; connect again"
SPREAD, CANCEL = 0.75, 0.9  # of the time for stopping: streams are ended over it; those that are left are cancelled
RESET_S = 1.0  # for grpc to see that its connections are gone
PACE_S = 0.01  # between the ends of two streams, when there is the time
LOOKS = 4  # at what takes too long, within the shortest limit


def options(limits: Limits) -> tuple[tuple[str, int], ...]:
    """Return the options of a server with these limits."""
    return (
        ("grpc.so_reuseport", 0),  # a second server on the port is an error, not a silent share of the fleet
        ("grpc.max_receive_message_length", limits.request_bytes),
        ("grpc.max_send_message_length", limits.response_bytes),
        ("grpc.max_concurrent_streams", limits.streams_per_connection),
        ("grpc.max_allowed_incoming_connections", limits.connections),
        ("grpc.server_handshake_timeout_ms", _ms(limits.handshake_s)),
        ("grpc.max_connection_idle_ms", _ms(limits.idle_connection_s)),
        ("grpc.max_connection_age_ms", _ms(limits.connection_age_s)),
        ("grpc.max_connection_age_grace_ms", _ms(limits.connection_grace_s)),  # without it no stream ever ends by age
        ("grpc.keepalive_time_ms", _ms(limits.ping_s)),
        ("grpc.keepalive_timeout_ms", _ms(limits.ping_answer_s)),
        # Else 60 s: grpc pings also by itself, and no keepalive overtakes that.
        ("grpc.http2.ping_timeout_ms", _ms(limits.ping_answer_s)),
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.http2.max_ping_strikes", 0),  # Envoy pings too; by default gRPC answers that with GOAWAY
        ("grpc.http2.max_pings_without_data", 0),
    )


def _ms(seconds: float) -> int:
    return round(seconds * 1000)


OPTIONS = options(Limits())


class GrpcEdge:
    """The xDS port. `clock` gives seconds that never go back; without `certificates` it speaks plain text."""

    def __init__(
        self, plane: ControlPlane, clock: Callable[[], float], certificates: Certificates | None = None
    ) -> None:
        self._plane = plane
        self._clock = clock
        self._certificates = certificates
        self._calls: set[Call] = set()
        self._gathering: Gathering | None = None
        self._looking: asyncio.TimerHandle | None = None
        self._server: Context = None  # None while it does not listen
        self._port = 0

    async def start(self, address: str) -> int:
        """Listen and return the port. Raises XdsError when the address cannot be bound."""
        server = grpc.aio.server(options=options(self._plane.limits))
        for service, methods in _services().items():
            handlers = {
                name: grpc.stream_stream_rpc_method_handler(self._handler(method)) for name, method in methods.items()
            }
            server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, handlers),))
        try:
            self._port = self._bind(server, address)
        except RuntimeError as error:
            await server.stop(None)
            what = f"cannot listen for xDS on {address}: the port is in use, or the address is not this host's"
            raise XdsError(what) from error
        await server.start()
        self._server = server
        self._gathering = Gathering(asyncio.get_running_loop(), self._plane.cache.wake)
        self._plane.cache.changed = self._gathering.changed
        self._look()
        return self._port

    def _bind(self, server: Context, address: str) -> int:
        if self._certificates is None:
            return int(server.add_insecure_port(address))
        return int(server.add_secure_port(address, self._certificates.credentials()))

    def recheck(self) -> None:
        """End the streams of clients that may not be who they are any more, or asked for what they may not have now."""
        for call in tuple(self._calls):
            if call.heard:
                try:
                    self._check(call.session)
                except Forbidden as error:
                    self._plane.events.refused(call.session.peer, error)
                    call.end(grpc.StatusCode.PERMISSION_DENIED, str(error))

    def _check(self, session: Session) -> None:
        grant = self._plane.access.admit(session.peer, session.node)
        secrets = session.stream.types.get(SECRETS)
        if secrets is not None:
            grant.check_secrets(secrets.names)

    async def stop(self, grace_s: float) -> None:
        """Take no more streams, and end all within the grace time, one after the other; return when they have ended.

        What a client does not read until then is dropped with its connection.
        """
        if self._server is None:
            return
        async with asyncio.TaskGroup() as group:
            stopping = group.create_task(self._server.stop(grace_s * CANCEL))
            group.create_task(self._end_all(grace_s * SPREAD))
            await asyncio.wait((stopping,), timeout=grace_s)
            if not stopping.done():
                reset(self._port)  # a connection whose other end reads nothing at all keeps grpc waiting
                await asyncio.wait((stopping,), timeout=RESET_S)
                stopping.cancel()
        self._plane.cache.changed = None
        for timer in (self._gathering, self._looking):
            if timer is not None:
                timer.cancel()

    async def _end_all(self, within_s: float) -> None:
        calls = tuple(self._calls)
        began_s = self._clock()
        for number, call in enumerate(calls):
            at_s = began_s + number * min(PACE_S, within_s / len(calls))
            if at_s > self._clock():
                await asyncio.sleep(at_s - self._clock())
            call.end(grpc.StatusCode.UNAVAILABLE, STOPPING)

    def _handler(self, method: Method) -> Callable[[AsyncIterator[bytes], Context], object]:
        async def handle(_requests: AsyncIterator[bytes], context: Context) -> None:
            await self._serve(method, context)

        return handle

    async def _serve(self, method: Method, context: Context) -> None:
        plane, peer = self._plane, Peer(context.peer(), identities(context.auth_context()))
        try:
            if self._certificates is not None:
                self._certificates.check_client(context.auth_context())
            plane.access.connect(peer)
            plane.admission.enter(plane.limits, peer, self._clock())
        except (Forbidden, Overloaded) as error:
            plane.events.refused(peer, error)
            denied = isinstance(error, Forbidden)
            code = grpc.StatusCode.PERMISSION_DENIED if denied else grpc.StatusCode.UNAVAILABLE
            await context.abort(code, str(error))
        call = Call(plane, method, peer, context, self._clock)
        self._calls.add(call)
        try:
            await call.run()
        finally:
            self._calls.remove(call)
            plane.admission.leave(peer)

    def _look(self) -> None:
        """End what takes too long, now and from time to time: streams without a request, and writes without an end."""
        limits, now_s = self._plane.limits, self._clock()
        stuck = []
        for call in self._calls:
            if call.writing_since_s is not None and call.writing_since_s + limits.write_s <= now_s:
                stuck.append(call.session.peer.address)
            elif not call.heard and call.began_s + limits.first_request_s <= now_s:
                text = f"no request came within {limits.first_request_s:g} s"
                call.end(grpc.StatusCode.DEADLINE_EXCEEDED, text)
        if stuck:
            reset(self._port, stuck)
        every_s = min(limits.write_s, limits.first_request_s) / LOOKS
        self._looking = asyncio.get_running_loop().call_later(every_s, self._look)


def _services() -> dict[str, dict[str, Method]]:
    """Return the methods of every service by their names."""
    typed = {
        service: {f"Stream{word}": Method("sotw", type_), f"Delta{word}": Method("delta", type_)}
        for service, (word, type_) in TYPED.items()
    }
    del typed["envoy.service.route.v3.VirtualHostDiscoveryService"]["StreamVirtualHosts"]  # VHDS is delta only
    return {SERVICE: {name: Method(protocol) for name, protocol in METHODS.items()}, **typed}
