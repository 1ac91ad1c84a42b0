"""COMPOSITION ROOT: Settings, serve(). Alone constructs, starts tasks and reads the clock and the files."""

import asyncio
import contextlib
import signal
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import unquote

import aiohttp
import structlog
from aiohttp import web
from prometheus_client import CollectorRegistry

from rollout.api.server import Backstage, application
from rollout.bootstrap import ADMIN_METADATA, is_loopback, split_address
from rollout.controller import Controller, Outside
from rollout.errors import InvalidSpec, RolloutError, Unavailable
from rollout.machine import weight_bp
from rollout.metrics import EnvoyAdmin, FleetScraper, Query, Scrape
from rollout.observer import Stats
from rollout.record import Rollout
from rollout.signals import Signals
from rollout.store import Store
from rollout.store.sqlite import open_store
from rollout.traffic.publisher import Publisher
from xds.cache import Cache, NodeStatus
from xds.edge.grpcio import GrpcEdge
from xds.errors import XdsError
from xds.node import Node
from xds.session import ControlPlane, Events
from xds.stream import Answer

GRACE_S = 2.0
CONFIG_SUFFIXES = (".yaml", ".yml", ".json")
CONFIG_SIZE_LIMIT = 256 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Settings:
    """What `rollout serve` takes. `xds` and `admin` are HOST:PORT to listen on.

    `envoy_admin_port` is where an Envoy's stats are read when its node.metadata does not say it.
    `token`: what changes by the API need; None is allowed on loopback only.
    """

    configs: Path = Path("envoy-configs")
    data: Path = Path("data")
    xds: str = "127.0.0.1:18000"
    admin: str = "127.0.0.1:18080"
    envoy_admin_port: int = 9901
    token: str | None = None


@dataclass(frozen=True, slots=True)
class Listening:
    """Where a server listens, with the ports that it really got."""

    xds: str
    admin: str


def read_configs(folder: Path) -> Mapping[str, str]:
    """Return the text of a folder's files by name. Raises InvalidSpec."""
    if not folder.is_dir():
        raise InvalidSpec(f"the folder {folder} does not exist; name the folder with Envoy's YAML")
    try:
        paths = sorted(path for path in folder.iterdir() if path.suffix in CONFIG_SUFFIXES and path.is_file())
        if sum(path.stat().st_size for path in paths) > CONFIG_SIZE_LIMIT:
            raise InvalidSpec(f"the files in {folder} are larger than {CONFIG_SIZE_LIMIT >> 20} MiB together")
        files = {str(path): path.read_text(encoding="utf-8") for path in paths}
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidSpec(f"cannot read the files of {folder}: {error}") from error
    if not files:
        raise InvalidSpec(f"the folder {folder} has no .yaml, .yml or .json file; there is nothing to serve")
    return files


async def serve(settings: Settings, ready: Callable[[Listening], None]) -> None:
    """Run the server until SIGINT or SIGTERM; call `ready` once it listens. Raises RolloutError or XdsError."""
    _check(settings)
    store = await open_store(settings.data)
    try:
        async with aiohttp.ClientSession() as http:
            await _Server(settings, store, http).run(ready)
    finally:
        await store.close()


def _check(settings: Settings) -> None:
    host, _ = split_address(settings.admin)
    split_address(settings.xds)
    if settings.token is None and not is_loopback(host):
        raise InvalidSpec(f"--admin {settings.admin} is not loopback, so changes need a token; set ROLLOUT_TOKEN")


class _Server:
    def __init__(self, settings: Settings, store: Store, http: aiohttp.ClientSession) -> None:
        self._settings = settings
        self._store = store
        self._log = structlog.get_logger()
        self._start_s = time.monotonic()
        self._cache = Cache()
        self._publisher = Publisher(self._cache)
        outside = Outside(
            Stats(lambda: self._scraper.latest, lambda: self._scraper.failures),
            self._survey,
            self._clock,
            lambda: datetime.now(UTC),
            self._changed,
            self._disk,
        )
        self._controller = Controller(self._publisher, self._cache, store, outside)
        self._scraper = FleetScraper(
            EnvoyAdmin(http, self._clock),
            self._targets,
            self._controller.observer.query,
            self._controller.scrape_every_s,
            lambda _: self._controller.wake(),
        )
        self._registry = CollectorRegistry()
        self._signals = Signals(self._registry, self._controller, self._cache)
        self._edge = GrpcEdge(ControlPlane(self._cache, self._events()), self._clock)
        self._stop = asyncio.Event()
        self._hang_up = asyncio.Event()

    async def run(self, ready: Callable[[Listening], None]) -> None:
        contents = await self._store.load()
        self._start_s -= contents.engine_s  # the engine's clock goes on where it stopped
        warnings = self._controller.restore(contents, read_configs(self._settings.configs))
        for warning in warnings:
            self._log.warning("config", warning=warning)
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, self._stop.set)
        loop.add_signal_handler(signal.SIGHUP, self._hang_up.set)
        async with contextlib.AsyncExitStack() as stack:
            admin = await self._start_api(stack)
            port = await self._edge.start(self._settings.xds)
            stack.push_async_callback(self._edge.stop, GRACE_S)
            ready(Listening(_with_port(self._settings.xds, port), admin))
            async with asyncio.TaskGroup() as group:
                lives = (self._controller.run, self._controller.save, self._scraper.run, self._reload_on_hang_up)
                tasks = [group.create_task(live()) for live in lives]
                await self._stop.wait()
                self._log.info("stopping")
                for task in tasks:
                    task.cancel()

    async def _start_api(self, stack: contextlib.AsyncExitStack) -> str:
        backstage = Backstage(
            self._controller,
            self._cache,
            self._store,
            lambda: self._scraper.failures,
            self._clock,
            self._reload,
            self._registry,
            self._settings.token,
        )
        runner = web.AppRunner(application(backstage), access_log=None, shutdown_timeout=GRACE_S)
        await runner.setup()
        stack.push_async_callback(runner.cleanup)
        host, port = split_address(self._settings.admin)
        try:
            await web.TCPSite(runner, host, port).start()
        except OSError as error:
            what = f"cannot listen for the admin API on {self._settings.admin}: {error.strerror}"
            raise Unavailable(f"{what}; is another server running? give --admin another address") from error
        return _with_port(self._settings.admin, runner.addresses[0][1])

    async def _survey(self, query: Query) -> Mapping[str, Scrape]:
        return await self._scraper.survey(query)

    def _clock(self) -> float:
        return time.monotonic() - self._start_s

    def _targets(self) -> Mapping[str, str]:
        return {status.node.id: self._admin_address(status) for status in self._cache.connected()}

    def _admin_address(self, status: NodeStatus) -> str:
        said = status.node.metadata.get(ADMIN_METADATA)
        if isinstance(said, str):
            return said
        kind, _, address = status.peer.partition(":")
        host = unquote(address.rpartition(":")[0]) if kind in ("ipv4", "ipv6") else "127.0.0.1"
        return f"{host}:{self._settings.envoy_admin_port}"

    async def _reload(self) -> tuple[str, ...]:
        """Serve what envoy-configs says now. Raises InvalidSpec or InvalidConfig, and then goes on as before."""
        try:
            warnings = self._controller.reload(await asyncio.to_thread(read_configs, self._settings.configs))
        except (RolloutError, XdsError) as error:
            self._log.warning("config refused; the last good one is served", reason=str(error))
            raise
        self._log.info("config reloaded", snapshot=self._cache.fleet and self._cache.fleet.common.version)
        for warning in warnings:
            self._log.warning("config", warning=warning)
        return warnings

    async def _reload_on_hang_up(self) -> None:
        while True:
            await self._hang_up.wait()
            self._hang_up.clear()
            with contextlib.suppress(RolloutError, XdsError):
                await self._reload()

    def _changed(self, rollout: Rollout, before: Rollout | None) -> None:
        state = rollout.state
        if before is not None and (before.state.phase, before.state.stage) == (state.phase, state.stage):
            return
        self._log.info(
            state.phase.value,
            service=rollout.service,
            rollout=rollout.id,
            candidate=rollout.candidate,
            weight=f"{weight_bp(rollout.strategy, state) / 100:g}%",
            reason=state.reason,
        )

    def _disk(self, fault: str) -> None:
        self._log.error("cannot save", reason=fault)

    def _events(self) -> Events:
        def joined(status: NodeStatus) -> None:
            self._log.info(
                "envoy connected", node=status.node.id, location=status.node.location, protocol=status.protocol
            )
            self._controller.wake()

        def left(status: NodeStatus) -> None:
            self._log.info("envoy disconnected", node=status.node.id)
            self._controller.wake()

        def answered(node: Node, answer: Answer) -> None:
            rejection = answer.subscription.rejection
            if answer.rejected and rejection is not None:
                self._log.warning("NACK", node=node.id, type=str(answer.type), text=rejection.text)
            self._signals.answered(answer)
            self._controller.wake()

        return Events(joined, left, answered, lambda _, response: self._signals.responded(response))


def _with_port(address: str, port: int) -> str:
    return f"{address.rpartition(':')[0]}:{port}"
