"""An engine in this process with a real store, whose time a test moves, and an Envoy that takes what it is sent."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from rollout.backends import Backends
from rollout.controller import Controller, Order, Outside
from rollout.health import Probed
from rollout.ledger import Ledger
from rollout.metrics import BackendStats, ClusterStats, Query, Scrape
from rollout.observer import Stats
from rollout.operations import Operations
from rollout.record import Backend, Operation, Rollout
from rollout.rights import Asker
from rollout.spec import Deployment
from rollout.state import Command, Phase
from rollout.store.sqlite import SqliteStore, open_store
from rollout.traffic.groups import Files
from rollout.traffic.publisher import Publisher
from tests.xds.client import Wire
from xds import proto
from xds.cache import Cache
from xds.resources import CLUSTERS, ENDPOINTS, LISTENERS, ROUTES

ENDPOINTS_MESSAGE = proto.message_class(ENDPOINTS.message)
EDS = "{ eds_config: { ads: {}, resource_api_version: V3 } }"
START = datetime(2026, 3, 1, tzinfo=UTC)
QUICK = {"stages": ["50%", "100%"], "drain_timeout": "1s", "keep_stable": "0s", "rollback_window": "10m"}
ANN, BOB = Asker("ann"), Asker("bob")
STEP_S = 0.2
LIMIT_S = 120.0


def files(**services: Mapping[str, tuple[str, ...]]) -> str:
    """Write envoy-configs: services by name, the addresses of each by location; all of them in one route."""
    clusters = "".join(f"- {{ name: {name}, type: EDS, eds_cluster_config: {EDS} }}\n" for name in services)
    assignments = "".join(f"- cluster_name: {name}\n  endpoints:\n{_places(given)}" for name, given in services.items())
    routes = "".join(f"    - {{ match: {{ prefix: /{name} }}, route: {{ cluster: {name} }} }}\n" for name in services)
    hosts = f"routes:\n- name: main\n  virtual_hosts:\n  - name: all\n    domains: ['*']\n    routes:\n{routes}"
    return f"clusters:\n{clusters}endpoints:\n{assignments}{hosts}"


def _places(given: Mapping[str, tuple[str, ...]]) -> str:
    text = ""
    for location, addresses in given.items():
        region, _, zone = location.partition("/")
        text += f"  - locality: {{ region: '{region}', zone: '{zone}' }}\n    lb_endpoints:\n"
        for host, _, port in (address.partition(":") for address in addresses):
            socket = f"{{ address: {host}, port_value: {port} }}"
            text += f"    - endpoint: {{ address: {{ socket_address: {socket} }} }}\n"
    return text


SHOP = files(checkout={"eu/eu-1": ("10.0.0.1:80", "10.0.0.2:80"), "us/us-1": ("10.0.0.3:80",)})


@dataclass
class Engine:
    """The engine and what is around it. The Envoy finds `ill` backends unhealthy; `probed` is what our probes find."""

    store: SqliteStore
    text: str = SHOP
    now_s: float = 100.0
    cache: Cache = field(default_factory=Cache)
    ill: set[str] = field(default_factory=set)
    probed: dict[tuple[str, ...], Mapping[str, Probed]] = field(default_factory=dict)
    latest: dict[str, Scrape] = field(default_factory=dict)
    told: list[Operation] = field(default_factory=list)
    envoy: Wire | None = None
    changed: Callable[[Rollout, Rollout | None], None] = lambda _rollout, _before: None
    let_go: Callable[[Backend], None] = lambda _: None
    controller: Controller = field(init=False)
    operations: Operations = field(init=False)
    backends: Backends = field(init=False)
    saving: "asyncio.Task[None]" = field(init=False)

    def __post_init__(self) -> None:
        self.publisher = Publisher(self.cache)
        self.survey: Callable[[Query], Awaitable[Mapping[str, Any]]] = self._answers
        outside = Outside(
            Stats(lambda: self.latest, dict, wall=self.wall, probed=lambda *version: self.probed.get(version)),
            self._ask,
            lambda: self.now_s,
            self.wall,
            self._changed,
            lambda _: None,
            let_go=self._let_go,
        )
        self.controller = Controller(self.publisher, self.cache, self.store, outside)
        ledger = Ledger(self.controller.saver, self.wall, self.told.append)
        self.operations = Operations(self.controller, ledger)
        self.backends = Backends(self.controller, ledger)

    def _changed(self, rollout: Rollout, before: Rollout | None) -> None:
        self.changed(rollout, before)

    def _let_go(self, backend: Backend) -> None:
        self.let_go(backend)

    def wall(self) -> datetime:
        return START + timedelta(seconds=self.now_s)

    async def start(self) -> None:
        self.warnings = self.controller.restore(await self.store.load(), Files({"shop.yaml": self.text}))

    def connect(self) -> None:
        """Have an Envoy on the line, which takes everything."""
        self.envoy = Wire(self.cache, "sotw")
        self.envoy.ask(CLUSTERS)
        self._take()
        for type_, names in ((LISTENERS, ()), (ROUTES, ("main",))):
            self.envoy.ask(type_, *names)
            self._take()

    def _take(self) -> None:
        assert self.envoy is not None
        while replies := self.envoy.replies():
            for reply in replies:
                self.envoy.ack(reply)
                if reply.type is ENDPOINTS:
                    self._assigned = reply
                if reply.type is CLUSTERS:
                    before = getattr(self, "_assigned", None)
                    known = {} if before is None else {"nonce": before.nonce, "version_info": before.version}
                    self.envoy.ask(ENDPOINTS, *reply.names, **known)

    async def _ask(self, query: Query) -> Mapping[str, Scrape]:
        return await self.survey(query)

    async def _answers(self, _query: Query) -> Mapping[str, Scrape]:
        return {"edge-1": self._scrape()} if self.envoy is not None else {}

    def _scrape(self) -> Scrape:
        books, clusters = self.controller.books, {}
        for service in self.controller.services():
            for version in books.versions(service):
                addresses = books.addresses(service, version.name)
                seen = {each: BackendStats(0, each not in self.ill) for each in addresses}
                healthy = sum(each.healthy for each in seen.values())
                stats = ClusterStats(membership_total=len(seen), membership_healthy=healthy, backends=seen)
                clusters[self.publisher.stat_name(service, version.name)] = stats
        return Scrape(self.now_s, self.now_s, clusters)

    async def step(self, seconds: float = STEP_S) -> None:
        """Let time pass: the Envoy takes what it is sent, is read, and the engine looks and saves."""
        self.now_s += seconds
        if self.envoy is not None:
            self.envoy.now_s = self.now_s
            self._take()
            self.latest["edge-1"] = self._scrape()
        self.controller.reconcile()
        await self.saved()
        await self.operations.begin_queued()

    async def steps(self, number: int) -> None:
        for _ in range(number):
            await self.step()

    async def saved(self) -> None:
        """Wait until all is saved, which is some SQLite in a thread."""
        names = ("", *self.controller.services())
        for _ in range(20_000):
            if not any(self.controller.saver.unsaved(each) for each in names):
                return
            await asyncio.sleep(0.001)
        raise AssertionError("the store does not save")

    async def until(self, *phases: Phase, service: str = "checkout") -> Rollout:
        """Let time pass until the rollout is in one of these phases."""
        end_s = self.now_s + LIMIT_S
        while (rollout := self.rollout(service)).state.phase not in phases:
            assert self.now_s < end_s, rollout.state
            await self.step()
        return rollout

    async def completed(self, service: str = "checkout") -> Rollout:
        await self.until(Phase.SHIFTING, service=service)
        while self.rollout(service).state.phase is Phase.SHIFTING:
            await self.order(Command.PROMOTE_FULL, service=service)
            await self.step()
        await self.ended(service)
        return self.rollout(service)

    async def ended(self, service: str = "checkout") -> Rollout:
        end_s = self.now_s + LIMIT_S
        number = self.rollout(service).id
        while self.controller.in_progress(service) and self.rollout(service).id == number:
            assert self.now_s < end_s, self.rollout(service).state
            await self.step()
        return self.rollout(service)

    def rollout(self, service: str = "checkout") -> Rollout:
        found = self.controller.rollout(service)
        assert found is not None
        return found

    async def order(self, command: Command, by: str = "ann", service: str = "checkout") -> Rollout:
        return await self.operations.command(service, Order(command, Asker(by)))

    def health(self, cluster: str) -> dict[str, str]:
        """Return how each backend of a cluster is served: HEALTHY (or unknown, which is as good), DRAINING..."""
        message: Any = self.publisher_snapshot(cluster)
        names = {0: "HEALTHY", 1: "HEALTHY", 2: "UNHEALTHY", 3: "DRAINING"}
        return {
            f"{each.endpoint.address.socket_address.address}:{each.endpoint.address.socket_address.port_value}": names[
                each.health_status
            ]
            for locality in message.endpoints
            for each in locality.lb_endpoints
        }

    def publisher_snapshot(self, cluster: str) -> Any:
        assert self.cache.fleet is not None
        resource = self.cache.fleet.common.get(ENDPOINTS, cluster)
        assert resource is not None, cluster
        return ENDPOINTS_MESSAGE.FromString(resource.body)

    async def log(self, service: str | None = "checkout") -> list[tuple[str, str, str]]:
        """Return verb, who and result of what was asked, the oldest first."""
        await self.saved()
        found = await self.store.operations(service, 1000)
        return [(each.verb, each.by, each.result) for each in reversed(found)]


def deployment(version: str, *endpoints: str, service: str = "checkout", **strategy: object) -> Deployment:
    words = {"service": service, "version": version, "endpoints": endpoints, "strategy": {**QUICK, **strategy}}
    return Deployment.model_validate(words)


@contextlib.asynccontextmanager
async def running(folder: Path, text: str = SHOP, now_s: float = 100.0) -> AsyncIterator[Engine]:
    """Yield an engine on what the folder holds; it saves until the end."""
    store = await open_store(folder)
    engine = Engine(store, text, now_s)
    await engine.start()
    engine.saving = asyncio.get_running_loop().create_task(engine.controller.save())
    try:
        yield engine
    finally:
        engine.saving.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await engine.saving
        await store.close()
