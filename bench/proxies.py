"""Simulated proxies: they ask, ACK and hold resources as Envoy does, but cost so little that the server is what waits.

Asked `{"connect": 100, "port": 18000}` they connect, and answer when each was given everything once.
"""

import argparse
import asyncio
import contextlib
import functools
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Any

from bench.http2 import Connection, message_frames
from bench.pipe import answer, questions, raise_file_limit
from bench.served import ROUTE, digest, digest_of
from xds import proto
from xds.resources import CLUSTERS, ENDPOINTS, LISTENERS, ROUTES, ResourceType

SERVICE = "/envoy.service.discovery.v3.AggregatedDiscoveryService"
PATHS = {"sotw": f"{SERVICE}/StreamAggregatedResources", "delta": f"{SERVICE}/DeltaAggregatedResources"}
DISCOVERY = "envoy.service.discovery.v3"
REQUESTS = {"sotw": f"{DISCOVERY}.DiscoveryRequest", "delta": f"{DISCOVERY}.DeltaDiscoveryRequest"}
ORDER = (CLUSTERS, ENDPOINTS, LISTENERS, ROUTES)  # in which a starting Envoy asks
BY_URL = {type_.url: type_ for type_ in ORDER}
STARTING_LIMIT = 100  # proxies that start at a time
RETRY_S = 0.2
SHUFFLES = 64
KNOWN_LIMIT = 32  # messages whose meaning is kept: all proxies get the same, or nearly
EXTENSIONS = 516  # in the node; with them a first request has 61 KB, of a real Envoy 1.40


@dataclass(frozen=True, slots=True)
class Received:
    """What a response says; `digests` are of the resources' bodies by name. An ACK is `head`, names, `tail`."""

    type: ResourceType
    digests: Mapping[str, str]
    removed: tuple[str, ...]
    head: bytes
    tail: bytes


@dataclass(frozen=True, slots=True)
class Names:
    """Encoded names, all of them twice, and where each starts: so that they are at hand in another order each time."""

    twice: bytes
    starts: tuple[int, ...]

    def rotated(self) -> bytes:
        start = random.choice(self.starts)
        return self.twice[start : start + len(self.twice) // 2]


@dataclass(slots=True)
class Fleet:
    """What all proxies share: the server, and the meaning of messages that any of them has read before.

    `assignments` are the load assignments' names, shuffled: an Envoy's requests have them in a new order each time.
    """

    protocol: str
    port: int = 0
    assignments: list[Names] = field(default_factory=list)
    known: dict[bytes, Received] = field(default_factory=dict)
    reconnects: int = 0
    ended: str = ""  # why the last stream ended

    def learn(self, names: Sequence[str]) -> None:
        self.assignments = [encoded(random.sample(names, len(names))) for _ in range(SHUFFLES)]

    def names(self, type_: ResourceType) -> bytes:
        """Return the encoded names that a proxy asks for; none is the wildcard."""
        if type_ is ENDPOINTS:
            return random.choice(self.assignments).rotated()
        return encoded((ROUTE,)).rotated() if type_ is ROUTES else b""

    def subscription(self, type_: ResourceType) -> tuple[bytes, ...]:
        if self.protocol == "sotw":
            return message_frames(self.names(type_) + request(self.protocol, type_url=type_.url))
        return message_frames(request(self.protocol, type_url=type_.url) + self.names(type_))

    def ack(self, received: Received) -> tuple[bytes, ...]:
        names = self.names(received.type) if self.protocol == "sotw" else b""
        return message_frames(received.head + names + received.tail)

    def understood(self, message: bytes) -> Received:
        received = self.known.get(message)
        if received is None:
            if len(self.known) >= KNOWN_LIMIT:
                self.known.clear()
            received = self.known[message] = UNDERSTAND[self.protocol](message)
        return received


class Proxy:
    """One Envoy: `held` are digests of resources by type and name; `brought_up` is set when it has all."""

    def __init__(self, fleet: Fleet, name: str) -> None:
        self._fleet = fleet
        self._name = name
        self.brought_up = asyncio.Event()
        self.held: dict[ResourceType, dict[str, str]] = {}
        self._connection: Connection | None = None
        self._held_back: tuple[bytes, ...] = ()  # an ACK that waits for the next type's first response

    async def run(self, starting: asyncio.Semaphore) -> None:
        """Stay connected until cancelled."""
        while True:
            try:
                async with starting:
                    connection = await self._start()
                self._fleet.ended = await connection.ended
            except OSError as error:
                self._fleet.ended = str(error)
            self._fleet.reconnects += 1
            self.brought_up.clear()
            await asyncio.sleep(RETRY_S)

    async def _start(self) -> Connection:
        """Connect, and wait until all was given once, or the stream has ended."""
        self.held = {}
        self._held_back = ()
        make = functools.partial(Connection, self._take)
        _, connection = await asyncio.get_running_loop().create_connection(make, "127.0.0.1", self._fleet.port)
        self._connection = connection
        first = request(self._fleet.protocol, type_url=CLUSTERS.url) + node(self._fleet.protocol, self._name)
        connection.open(PATHS[self._fleet.protocol], message_frames(first))
        up = asyncio.create_task(self.brought_up.wait())
        await asyncio.wait((up, connection.ended), return_when=asyncio.FIRST_COMPLETED)
        up.cancel()
        return connection

    def state(self) -> str:
        """Say how far a proxy is that has not got all yet."""
        return f"{self._name} has {', '.join(map(str, self.held)) or 'nothing'}"

    def digest(self) -> str:
        held = {(type_.url, name): each for type_, state in self.held.items() for name, each in state.items()}
        return digest_of(held)

    def _take(self, message: bytes) -> None:
        received = self._fleet.understood(message)
        state = self.held.get(received.type)
        if state is None:
            self._first(received)
            return
        self._send(self._fleet.ack(received))
        if received.type.full_state and self._fleet.protocol == "sotw":
            state.clear()
        state.update(received.digests)
        for name in received.removed:
            state.pop(name, None)

    def _first(self, received: Received) -> None:
        """Ask for the next type, and ACK the type before: in Envoy's order."""
        type_ = received.type
        self.held[type_] = dict(received.digests)
        if type_ is CLUSTERS and not self._fleet.assignments:
            self._fleet.learn(tuple(received.digests))
        frames = self._held_back
        self._held_back = self._fleet.ack(received)
        following = ORDER.index(type_) + 1
        if following < len(ORDER):
            self._send(frames + self._fleet.subscription(ORDER[following]))
        else:
            self._send(frames + self._held_back)
            self._held_back = ()
            self.brought_up.set()

    def _send(self, frames: tuple[bytes, ...]) -> None:
        assert self._connection is not None
        self._connection.send(frames)


def _understand_sotw(message: bytes) -> Received:
    response = proto.message_class(f"{DISCOVERY}.DiscoveryResponse").FromString(message)
    digests = {_name(each.value): digest(each.value) for each in response.resources}
    head = request("sotw", version_info=response.version_info)
    tail = request("sotw", type_url=response.type_url, response_nonce=response.nonce)
    return Received(BY_URL[response.type_url], digests, (), head, tail)


def _understand_delta(message: bytes) -> Received:
    response = proto.message_class(f"{DISCOVERY}.DeltaDiscoveryResponse").FromString(message)
    digests = {each.name: digest(each.resource.value) for each in response.resources}
    removed = tuple(response.removed_resources)
    tail = request("delta", type_url=response.type_url, response_nonce=response.nonce)
    return Received(BY_URL[response.type_url], digests, removed, b"", tail)


UNDERSTAND = {"sotw": _understand_sotw, "delta": _understand_delta}


def request(protocol: str, **fields: str) -> bytes:
    """Encode a request, or a part of one."""
    return proto.canonical(proto.message_class(REQUESTS[protocol])(**fields))


def encoded(names: Sequence[str]) -> Names:
    """Encode names as field 3, which they are in both protocols; they are shorter than 128 bytes."""
    fields = [bytes((3 << 3 | 2, len(name))) + name.encode() for name in names]
    return Names(b"".join(fields) * 2, tuple(accumulate(map(len, fields[:-1]), initial=0)))


def node(protocol: str, name: str) -> bytes:
    """Return a request that has nothing but a node; behind another one it adds to that."""
    id_only = proto.message_class("envoy.config.core.v3.Node")(id=name, cluster="edge")
    return _node_field(protocol, proto.canonical(id_only) + _extensions())


def _node_field(protocol: str, encoded: bytes) -> bytes:
    number = 2 if protocol == "sotw" else 1
    return bytes((number << 3 | 2,)) + _varint(len(encoded)) + encoded


def _varint(value: int) -> bytes:
    low = bytes((value & 0x7F | (0x80 if value > 0x7F else 0),))
    return low + _varint(value >> 7) if value > 0x7F else low


@functools.cache
def _extensions() -> bytes:
    """Return the larger part of a node: what an Envoy says of itself, and as many extensions as it has."""
    message = proto.message_class("envoy.config.core.v3.Node")(user_agent_name="envoy")
    message.locality.region, message.locality.zone = "eu-west-1", "eu-west-1a"
    message.user_agent_build_version.version.major_number = 1
    message.user_agent_build_version.version.minor_number = 40
    for number in range(EXTENSIONS):
        each = message.extensions.add(name=f"envoy.filters.http.extension_{number:04}", category="envoy.filters.http")
        each.type_urls.append(f"envoy.extensions.filters.http.extension_{number:03}.v3.Extension{number:03}")
    return proto.canonical(message)


def _name(body: bytes) -> str:
    """Return a resource's name: field 1 of all types here, and so the first; it is shorter than 128 bytes."""
    return body[2 : 2 + body[1]].decode()


class Proxies:
    """Answers the questions of a measurement about the proxies of one server."""

    def __init__(self, protocol: str, tasks: set[asyncio.Task[None]]) -> None:
        self._fleet = Fleet(protocol)
        self._tasks = tasks
        self._proxies: list[Proxy] = []

    async def reply(self, question: Mapping[str, Any]) -> None:
        if "connect" in question:
            await self._connect(question["connect"], question["port"], question["timeout_s"])
            waiting = [proxy.state() for proxy in self._proxies if not proxy.brought_up.is_set()]
            answer({"waiting": waiting, "ended": self._fleet.ended})
        elif "changed" in question:
            url, name, wanted = question["changed"]
            held = [proxy.held.get(BY_URL[url], {}).get(name) for proxy in self._proxies]
            answer({"lost": sum(each != wanted for each in held)})
        else:
            different = sum(proxy.digest() != question["digest"] for proxy in self._proxies)
            answer({"lost": different, "reconnects": self._fleet.reconnects})

    async def _connect(self, count: int, port: int, timeout_s: float) -> None:
        self._fleet.port = port
        starting = asyncio.Semaphore(STARTING_LIMIT)
        known = len(self._proxies)
        more = [Proxy(self._fleet, f"proxy-{number:05}") for number in range(known, known + count)]
        self._proxies += more
        self._tasks.update(asyncio.create_task(proxy.run(starting)) for proxy in more)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                for proxy in more:
                    await proxy.brought_up.wait()


async def simulate(protocol: str) -> None:
    tasks: set[asyncio.Task[None]] = set()
    proxies = Proxies(protocol, tasks)
    async for question in questions():
        await proxies.reply(question)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("protocol", choices=tuple(PATHS))
    wanted = parser.parse_args()
    raise_file_limit()
    asyncio.run(simulate(wanted.protocol))


if __name__ == "__main__":
    main()
