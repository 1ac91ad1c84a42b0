"""A fleet of proxies without I/O around the real engine: they take what the cache serves, and count requests."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rollout.controller import Controller, Order, Outside
from rollout.exposure import FULL_BP
from rollout.gate.histogram import Histogram
from rollout.ledger import Ledger
from rollout.metrics import ClusterStats, Query, Scrape
from rollout.observer import Stats
from rollout.operations import Operations
from rollout.record import Rollout
from rollout.spec import Deployment, Strategy, parse_endpoint
from rollout.state import Command, State
from rollout.store import Store
from rollout.store.sqlite import open_store
from rollout.traffic.groups import Files
from rollout.traffic.publisher import Publisher
from tests.rollout.operating import ANN
from tests.rollout.test_observer import SHOP
from tests.xds.client import NODE, Reply, Wire
from xds.cache import Cache
from xds.resources import CLUSTERS, ENDPOINTS, LISTENERS, ROUTES

STABLE, CANDIDATE = "checkout@initial", "checkout@v2"


@dataclass
class Proxy:
    """One proxy of a location: the candidate's weight that it has ACKed, and what it has done."""

    wire: Wire
    location: str
    rate_rps: float = 400.0
    errors: float = 0.0
    refuses: bool = False
    weight_bp: int = 0
    stable: float = 0.0
    candidate: float = 0.0
    failed: float = 0.0
    last: dict[str, Reply] = field(default_factory=dict)

    def connect(self) -> None:
        for type_ in (CLUSTERS, LISTENERS):
            self.wire.ask(type_)
            self.take()
        self.wire.ask(ROUTES, "main")
        self.take()

    def take(self) -> None:
        while replies := self.wire.replies():
            for reply in replies:
                self._answer(reply)

    def _answer(self, reply: Reply) -> None:
        if reply.type is ROUTES:
            weight_bp = _weight_bp(reply.messages["main"])
            if self.refuses and weight_bp:
                self.wire.nack(reply, version=self.last["main"].version if "main" in self.last else "")
                return
            self.weight_bp, self.last["main"] = weight_bp, reply
        self.wire.ack(reply)
        if reply.type is ENDPOINTS:
            self.last["endpoints"] = reply
        if reply.type is CLUSTERS:
            before = self.last.get("endpoints")
            known = {} if before is None else {"nonce": before.nonce, "version_info": before.version}
            self.wire.ask(ENDPOINTS, *reply.names, **known)

    def work(self, seconds: float) -> None:
        requests = self.rate_rps * seconds
        candidate = requests * self.weight_bp / FULL_BP
        self.stable, self.candidate = self.stable + requests - candidate, self.candidate + candidate
        self.failed += candidate * self.errors

    def scrape(self, now_s: float) -> Scrape:
        stable, candidate = _stats(self.stable, 0), _stats(self.candidate, int(self.failed))
        return Scrape(now_s, now_s, {STABLE: stable, CANDIDATE: candidate})


def _stats(completed: float, failed: int) -> ClusterStats:
    buckets = ((5.0, 0.5, 0.75), (10.0, 1.0, 0.2), (20.0, 2.0, 0.04), (40.0, 4.0, 0.01))
    latency = Histogram.of((lower_ms, width_ms, int(completed * part)) for lower_ms, width_ms, part in buckets)
    return ClusterStats(int(completed), failed, membership_healthy=1, latency=latency)


def _weight_bp(routes: Any) -> int:
    route = routes.virtual_hosts[0].routes[-1].route
    if not route.weighted_clusters.clusters:
        return FULL_BP if route.cluster == CANDIDATE else 0
    weights = {each.name: each.weight.value for each in route.weighted_clusters.clusters}
    return int(weights.get(CANDIDATE, 0) * FULL_BP / sum(weights.values()))


@dataclass
class Engine:
    """The controller with a store, and proxies on a simulated clock."""

    controller: Controller
    cache: Cache
    proxies: dict[str, Proxy]
    clock: Callable[[], float]
    move: Callable[[float], None]
    scrapes: dict[str, Scrape]
    store: Store
    saving: asyncio.Task[None]

    @property
    def rollout(self) -> Rollout:
        return self.controller.books.rollouts["checkout"]

    @property
    def state(self) -> State:
        return self.rollout.state

    async def tick(self, seconds: float = 0.5) -> None:
        self.work(seconds)
        self.controller.reconcile()
        await self.settle()
        self.controller.reconcile()  # as the saver wakes it
        await self.settle()

    def work(self, seconds: float) -> None:
        """Have time pass in which proxies serve requests, and read their stats."""
        self.move(seconds)
        now_s = self.clock()
        for name, proxy in self.proxies.items():
            proxy.wire.now_s = now_s
            proxy.work(seconds)
            self.scrapes[name] = proxy.scrape(now_s)
            self.controller.heard(name)

    async def settle(self) -> None:
        saver = self.controller.saver
        while (saving := saver.last("checkout") or saver.last("")) is not None:
            await saving.saved.wait()
        for proxy in self.proxies.values():
            proxy.take()

    async def until(self, reached: Callable[[State], bool], ticks: int = 400) -> State:
        for _ in range(ticks):
            if reached(self.state):
                return self.state
            await self.tick()
        raise AssertionError(f"{self.state.phase} {self.state.reason}: {self.state.waiting}")

    def weights(self) -> Mapping[str, int]:
        return {proxy.location: proxy.weight_bp for proxy in self.proxies.values()}

    async def obey(self, command: Command, location: str = "") -> None:
        self.controller.obey("checkout", Order(command, ANN, location))
        await self.settle()

    async def deploy(self, strategy: Strategy) -> None:
        """Start a rollout, when something is known of the service's traffic."""
        for _ in range(20):
            await self.tick()
        operations = Operations(
            self.controller, Ledger(self.controller.saver, self.controller.outside.wall, lambda _: None)
        )
        await operations.deploy(deployment(strategy), ANN)


def deployment(strategy: Strategy) -> Deployment:
    return Deployment(service="checkout", version="v2", endpoints=(parse_endpoint("10.0.0.9:80"),), strategy=strategy)


def proxy(cache: Cache, name: str, location: str) -> Proxy:
    wire = Wire(cache, "sotw", name)
    region, _, zone = location.partition("/")
    wire._node = {**NODE, "id": name, "locality": {"region": region, "zone": zone}}
    return Proxy(wire, location)


@contextlib.asynccontextmanager
async def engine(
    data: Path, proxies: Callable[[Cache], dict[str, Proxy]], start_s: float = 0.0
) -> AsyncIterator[Engine]:
    """Run the engine on this data, with these proxies connected."""
    now = [start_s]
    scrapes: dict[str, Scrape] = {}

    def move(seconds: float) -> None:
        now[0] += seconds

    async def survey(_: Query) -> Mapping[str, Scrape]:
        return {}

    cache = Cache()
    outside = Outside(
        Stats(lambda: scrapes, dict),
        survey,
        lambda: now[0],
        lambda: datetime(2026, 1, 1, tzinfo=UTC),
        lambda _following, _before: None,
        lambda _fault: None,
    )
    store = await open_store(data)
    try:
        controller = Controller(Publisher(cache), cache, store, outside)
        contents = await store.load()
        now[0] = max(now[0], contents.engine_s)
        controller.restore(contents, Files({"shop.yaml": SHOP}))
        fleet = proxies(cache)
        async with asyncio.TaskGroup() as group:
            saving = group.create_task(controller.save())
            for each in fleet.values():
                each.connect()
            yield Engine(controller, cache, fleet, lambda: now[0], move, scrapes, store, saving)
            saving.cancel()
    finally:
        await store.close()
