"""A pretended fleet: proxies that take what the server sends, say that they have it, and count requests by its weights.

They speak to a real server over gRPC, and each has an admin endpoint of its own that tells its counters as Envoy does.
"""

import asyncio
import contextlib
import functools
import random
import re
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any
from urllib.parse import quote

import grpc.aio

from rollout.bootstrap import ADMIN_METADATA
from tests.xds.client import Reply, read
from xds import proto
from xds.edge.grpcio import SERVICE
from xds.resources import CLUSTERS, ENDPOINTS, LISTENERS, ROUTES, ResourceType

METHOD = f"/{SERVICE}/StreamAggregatedResources"
REQUEST = "envoy.service.discovery.v3.DiscoveryRequest"
SHARES = {2: 0.08, 3: 0.2, 4: 0.26, 5: 0.2, 7: 0.12, 10: 0.08, 16: 0.03, 25: 0.015, 40: 0.012, 60: 0.003}
"""Of all requests, by how many milliseconds they take."""
AGAIN_S = 0.5
STREAMS = 50  # on a connection: a server takes no more than a hundred
OPTIONS = (("grpc.use_local_subchannel_pool", 1),)  # else all channels share one connection
HEAD = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s"


@dataclass
class Count:
    """What one proxy counts of one cluster."""

    completed: float = 0.0
    failed: float = 0.0


@dataclass
class Proxy:
    """One of them: each service gets `rate_rps`; `errors` are shares of bad answers by cluster.

    `refuses` is what it says of resources of a type from then on.
    """

    name: str
    location: str = "eu/eu-1"
    rate_rps: float = 1000.0
    errors: Mapping[str, float] = field(default_factory=dict)
    refuses: Mapping[ResourceType, str] = field(default_factory=dict)
    admin: str = ""
    weights: list[Mapping[str, float]] = field(default_factory=list)
    backends: dict[str, tuple[str, ...]] = field(default_factory=dict)
    stat_names: dict[str, str] = field(default_factory=dict)
    counts: dict[str, Count] = field(default_factory=dict)
    names: dict[ResourceType, tuple[str, ...]] = field(default_factory=dict)
    versions: dict[ResourceType, str] = field(default_factory=dict)
    nonces: dict[ResourceType, str] = field(default_factory=dict)
    counted_s: float = 0.0
    varies: random.Random = field(default_factory=lambda: random.Random(7))

    def hello(self) -> Mapping[str, Any]:
        region, _, zone = self.location.partition("/")
        version = {"major_number": 1, "minor_number": 36, "patch": 2}
        node = {"id": self.name, "cluster": "edge", "locality": {"region": region, "zone": zone}}
        return {**node, "metadata": {ADMIN_METADATA: self.admin}, "user_agent_build_version": {"version": version}}

    def begin(self) -> None:
        """Know nothing of what was said on an earlier stream."""
        self.names, self.versions, self.nonces = {}, {}, {}

    def ask(self, type_: ResourceType, reply: Reply | None = None, fault: str = "") -> bytes:
        words: dict[str, Any] = {"type_url": type_.url, "resource_names": list(self.names.get(type_, ()))}
        self.names.setdefault(type_, ())
        if not self.nonces:
            words["node"] = self.hello()
        if reply is not None:
            self.nonces[type_] = reply.nonce
            self.versions[type_] = self.versions.get(type_, "") if fault else reply.version
        if fault:
            words["error_detail"] = {"code": 13, "message": fault}
        if type_ in self.nonces:
            words |= {"response_nonce": self.nonces[type_], "version_info": self.versions[type_]}
        return proto.canonical(proto.parse(REQUEST, words))

    def take(self, reply: Reply) -> Iterator[bytes]:
        """Take a response, or refuse it; yield what is said then."""
        fault = self.refuses.get(reply.type, "")
        if not fault:
            self._learn(reply)
        yield self.ask(reply.type, reply, fault)
        if reply.type is CLUSTERS and set(self.names.get(ENDPOINTS, ())) != set(reply.names):
            self.names[ENDPOINTS] = reply.names
            yield self.ask(ENDPOINTS)
        if reply.type is CLUSTERS and LISTENERS not in self.names:
            yield self.ask(LISTENERS)
        if reply.type is LISTENERS and not self.names.get(ROUTES):
            self.names[ROUTES] = ("edge",)
            yield self.ask(ROUTES)

    def _learn(self, reply: Reply) -> None:
        if reply.type is CLUSTERS:
            self.stat_names = {name: each.alt_stat_name or name for name, each in reply.messages.items()}
        if reply.type is ENDPOINTS:
            self.backends |= {name: tuple(_addresses(each)) for name, each in reply.messages.items()}
        if reply.type is ROUTES:
            self.weights = [_weights(each) for each in _routes(reply)]

    def count(self, now_s: float) -> None:
        """Have served requests since the last time."""
        seconds, self.counted_s = (now_s - self.counted_s) if self.counted_s else 0.0, now_s
        for weights in self.weights:
            for cluster, share in weights.items():
                done = self.rate_rps * seconds * share * self.varies.uniform(0.95, 1.05)
                count = self.counts.setdefault(cluster, Count())
                count.completed += done
                count.failed += done * self.errors.get(cluster, 0.0)

    def stats(self, asked: bytes) -> bytes:
        lines = ["server.uptime: 7"]
        for cluster, name in self.stat_names.items():
            if _as_asked(name) not in asked:
                continue
            count = self.counts.get(cluster, Count())
            start, done = f"cluster.{name}", int(count.completed)
            backends = self.backends.get(cluster, ())
            numbers = {"upstream_rq_completed": done, "upstream_rq_total": done, "upstream_rq_5xx": int(count.failed)}
            numbers |= {"membership_total": len(backends), "membership_healthy": len(backends)}
            for address in backends:
                each = f"endpoint.{address.replace(':', '_')}"
                part = done // len(backends)
                numbers |= {f"{each}.rq_active": 0, f"{each}.rq_pending_active": 0, f"{each}.healthy": 1}
                numbers |= {f"{each}.rq_success": part, f"{each}.rq_error": 0}
            lines += (f"{start}.{stat}: {value}" for stat, value in numbers.items())
            buckets = ", ".join(f"{low},1:{int(done * part)}" for low, part in SHARES.items() if done * part >= 1)
            lines += (f"{start}.upstream_rq_time:", f"  totals={buckets}", "  intervals=", "  summary=")
        return "\n".join([*lines, ""]).encode()


@functools.cache
def _as_asked(name: str) -> bytes:
    """A name as it stands in the path of a request."""
    return quote(re.escape(name), safe="").encode()


def _addresses(assignment: Any) -> Iterator[str]:
    for locality in assignment.endpoints:
        for each in locality.lb_endpoints:
            socket = each.endpoint.address.socket_address
            yield f"{socket.address}:{socket.port_value}"


def _routes(reply: Reply) -> Iterator[Any]:
    for configuration in reply.messages.values():
        for host in configuration.virtual_hosts:
            # The last of a service's routes is for everybody; those before it are for testers.
            last = {str(each.match): each.route for each in host.routes if not each.match.headers}
            yield from last.values()


def _weights(route: Any) -> Mapping[str, float]:
    split = {each.name: each.weight.value for each in route.weighted_clusters.clusters}
    if not split:
        return {route.cluster: 1.0}
    return {name: weight / sum(split.values()) for name, weight in split.items()}


class _Admin(asyncio.Protocol):
    """The admin endpoint of one proxy, over connections on which one GET follows the other."""

    def __init__(self, proxy: Proxy) -> None:
        self._proxy = proxy
        self._read = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._read += data
        while b"\r\n\r\n" in self._read:
            head, _, self._read = self._read.partition(b"\r\n\r\n")
            if b"type=TextReadouts" in head:
                self._transport.write(HEAD % (0, b""))
                continue
            self._proxy.count(asyncio.get_running_loop().time())
            body = self._proxy.stats(head)
            self._transport.write(HEAD % (len(body), body))


async def _live(proxy: Proxy, channel: grpc.aio.Channel) -> None:
    """Be connected, and come again when the stream ends: a busy server cuts those whose request it has not read yet."""
    while True:
        with contextlib.suppress(grpc.aio.AioRpcError, asyncio.InvalidStateError):
            await _stay(proxy, channel)
        await asyncio.sleep(AGAIN_S)


async def _stay(proxy: Proxy, channel: grpc.aio.Channel) -> None:
    """Stay on one stream until it ends."""
    proxy.begin()
    call = channel.stream_stream(METHOD)()
    try:
        await call.write(proxy.ask(CLUSTERS))
        while (raw := await call.read()) is not grpc.aio.EOF:
            for said in proxy.take(read("sotw", raw)):
                await call.write(said)
    finally:
        call.cancel()


@contextlib.asynccontextmanager
async def fleet(xds: str, proxies: Sequence[Proxy]) -> AsyncIterator[Sequence[Proxy]]:
    """Have these proxies connected while inside."""
    loop = asyncio.get_running_loop()
    admins = [await loop.create_server(partial(_Admin, proxy), "127.0.0.1", 0) for proxy in proxies]
    for proxy, admin in zip(proxies, admins, strict=True):
        proxy.admin = "{}:{}".format(*admin.sockets[0].getsockname()[:2])
    async with contextlib.AsyncExitStack() as stack, asyncio.TaskGroup() as group:
        channels = [grpc.aio.insecure_channel(xds, options=OPTIONS) for _ in range(0, len(proxies), STREAMS)]
        for channel in channels:
            await stack.enter_async_context(channel)
        lives = [group.create_task(_live(each, channels[at // STREAMS])) for at, each in enumerate(proxies)]
        try:
            yield proxies
        finally:
            for each in lives:
                each.cancel()
            for admin in admins:
                admin.close()
