"""COMPOSITION ROOT: serve(). Alone constructs, starts tasks and reads the clock and the files."""

import asyncio
import contextlib
import gc
import os
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from urllib.parse import unquote

import aiohttp
import structlog
from prometheus_client import CollectorRegistry

from rollout import discovering, hooks
from rollout.access.entrance import Entrance, read_trust
from rollout.announced import Announced
from rollout.answered import Answers
from rollout.api.backstage import Backstage
from rollout.api.port import Port
from rollout.api.server import application
from rollout.audited import is_broken
from rollout.backends import Backends
from rollout.bootstrap import ADMIN_METADATA
from rollout.charts import Charts
from rollout.configs import read_configs
from rollout.controller import Controller, Outside
from rollout.courier import Courier
from rollout.declaring import Declaring
from rollout.discovering import Discovering
from rollout.errors import RolloutError, Unavailable
from rollout.feed import Feed
from rollout.fetching import open_session
from rollout.gate.checks import Reading
from rollout.health import Probed
from rollout.healthcheck import HealthChecker
from rollout.heard import Heard
from rollout.ledger import Entry, Ledger
from rollout.loaded import LoadedConfig, differing
from rollout.lookup import Lookup
from rollout.machine import share_bp, told_lanes
from rollout.message import Message
from rollout.messenger import Messenger, Report
from rollout.messenger import World as Correspondence
from rollout.metrics import EnvoyAdmin, FleetScraper, Query, Scrape
from rollout.metrics.sources import Commands, Sources
from rollout.notify.office import Office, Surroundings
from rollout.observer import Stats, has_stats
from rollout.operations import Operations
from rollout.permit import Permit
from rollout.prober import Prober, World
from rollout.provision import provided
from rollout.record import Backend, Change, Operation, Rollout
from rollout.reporter import Reporter
from rollout.rights import Asker
from rollout.saver import Saving
from rollout.settings import Settings
from rollout.signals import FleetSignals, NotificationSignals, RolloutSignals, ServerSignals
from rollout.standing import tag
from rollout.starting import check_settings, exposure, read_access, status_token
from rollout.store import Store, audit_head
from rollout.store.chronicle import SqliteChronicle
from rollout.store.sqlite import open_store
from rollout.strategies import Strategies
from rollout.traces.telemetry import Clocks as Spans
from rollout.traces.telemetry import Telemetry, opened
from rollout.traffic.publisher import Publisher, check
from xds.access import Current
from xds.cache import Cache, NodeStatus
from xds.edge.grpcio import GrpcEdge
from xds.edge.status import Clocks, StatusEdge
from xds.edge.tls import Certificates, Loaded, TlsFiles
from xds.errors import InvalidConfig, XdsError
from xds.resources import SECRETS
from xds.session import ControlPlane

COLLECT_AFTER = (50_000, 20, 20)  # new objects: a push to a thousand proxies makes some thousands, and drops them
GRACE_S = 2.0
XDS_GRACE_S = 5.0  # at most; streams end one after the other, and when none is left the server stops
STATUS_GRACE_S = 0.2


@dataclass(frozen=True, slots=True)
class Listening:
    """Where a server listens, with the ports that it really got."""

    xds: str
    admin: str
    xds_status: str | None = None
    admin_scheme: str = "http"


def set_memory_aside() -> None:
    """Have the collector of garbage look at what comes now only: a walk through a large configuration takes 0.2 s."""
    gc.unfreeze()
    gc.collect()
    gc.freeze()
    gc.set_threshold(*COLLECT_AFTER)


async def serve(settings: Settings, ready: Callable[[Listening], None]) -> None:
    """Run the server until SIGINT or SIGTERM; call `ready` once it listens. Raises RolloutError or XdsError."""
    check_settings(settings)
    store = await open_store(settings.data)
    try:
        async with open_session() as http:
            await _Server(settings, store, http).run(ready)
    finally:
        await store.close()


class _Server:
    def __init__(self, settings: Settings, store: Store, http: aiohttp.ClientSession) -> None:
        self._settings = settings
        self._store = store
        self._log = structlog.get_logger()
        self._start_s = time.monotonic()
        self._cache = Cache()
        self._telemetry = Telemetry(Spans(self._clock, _now), self._cache, store.journal)
        self._chronicle = SqliteChronicle(settings.data)
        self._feed = Feed(self._chronicle)
        self._publisher = Publisher(self._cache)
        commands = Commands(settings.commands, os.environ.get("PATH", os.defpath))
        outside = Outside(
            self._stats(),
            self._survey,
            self._clock,
            _now,
            self._changed,
            self._disk,
            Permit(commands, os.environ.get).check,
            self._hooks,
            self._let_go,
            self._saved,
            self._telemetry.served,
        )
        self._controller = Controller(self._publisher, self._cache, store, outside)
        self._announced = Announced(self._controller.saver)
        self._checker = HealthChecker(self._controller.ailing.wards, self._clock, self._controller.wake)
        self._ledger = Ledger(self._controller.saver, _now, self._asked, lambda service: tag(self._controller, service))
        self._operations = Operations(self._controller, self._ledger)
        self._reporter = Reporter(self._controller.saver, self._clock, _now)
        self._charts = Charts(self._controller, time.time)
        self._discovering = self._discovery(Lookup(http, os.environ.get))
        envoys = EnvoyAdmin(self._clock)
        self._scraper = FleetScraper(
            envoys,
            self._targets,
            self._controller.observer.questions,
            self._controller.observer.scrape_every_s,
            self._controller.heard,
        )
        sources = Sources(http, commands)
        self._prober = Prober(World(self._controller.books.active, self._controller.names, sources.source, self._clock))
        courier = Courier(http, commands, os.environ.get, _now, self._telemetry.traceparent)
        self._messenger = Messenger(self._correspondence(courier))
        self._registry = CollectorRegistry()
        self._signals = FleetSignals(self._registry, self._cache, self._clock, envoys)
        self._counted = RolloutSignals(self._registry, self._controller, self._clock)
        saver, failures = self._controller.saver, lambda: self._scraper.failures
        self._signals_of_server = ServerSignals(self._registry, saver, failures)
        self._loads = self._signals_of_server.loads
        self._access = Current(read_access(settings.xds_authz))
        heard = Heard(self._reporter, self._signals, self._telemetry, self._controller.wake, self._clock)
        plane = ControlPlane(self._cache, heard.events(), self._access)
        self._edge = GrpcEdge(plane, self._clock, self._certificates())
        self._entrance = Entrance(settings, self._ledger, saver, self._clock)
        around = Surroundings(self._feed, saver, self._clock, _now, settings.public_url)
        self._office = Office(settings.notify, around)
        NotificationSignals(self._registry, self._office)
        self._stop = asyncio.Event()
        self._hang_up = asyncio.Event()
        self._reloading = asyncio.Lock()
        self._served = LoadedConfig()
        self._told_before = Answers()

    async def run(self, ready: Callable[[Listening], None]) -> None:
        contents = await self._store.load()
        self._start_s -= contents.engine_s  # the engine's clock goes on where it stopped
        files = read_configs(self._settings.configs)
        warnings = self._controller.restore(contents, files)
        self._served.take(files, _now(), warnings)
        self._told_before.restore(contents.answers)
        self._entrance.restore(contents)
        set_memory_aside()
        self._loaded()
        await self._feed.open()
        await self._office.open(contents.cursors)
        exporter = await asyncio.to_thread(opened, asked=self._settings.traces, environment=os.environ)
        self._telemetry.send(exporter, self._controller.books.active())
        self._log.info("audit log", head=await audit_head(self._chronicle))
        self._reporter.started(self._snapshot())
        for warning in warnings:
            self._log.warning("config", warning=warning)
        self._warn_of_access()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, self._stop.set)
        loop.add_signal_handler(signal.SIGHUP, self._hang_up.set)
        async with contextlib.AsyncExitStack() as stack:
            admin = await self._start_api(stack)
            status = StatusEdge(self._cache, Clocks(self._clock, time.time), status_token(self._settings))
            stack.push_async_callback(status.stop, STATUS_GRACE_S)
            port = await self._edge.start(self._settings.xds)
            stack.push_async_callback(self._edge.stop, XDS_GRACE_S)
            stack.push_async_callback(status.tell_end)  # before the streams end
            stack.callback(self._feed.end)
            scheme = "http" if self._entrance.tls is None else "https"
            xds = _with_port(self._settings.xds, port)
            ready(Listening(xds, admin, await self._start_status(status), scheme))
            async with asyncio.TaskGroup() as group:
                lives = (
                    self._controller.run,
                    self._controller.save,
                    self._operations.run,
                    self._scraper.run,
                    self._prober.run,
                    self._checker.run,
                    self._messenger.run,
                    self._feed.run,
                    self._reporter.run,
                    self._charts.run,
                    self._discovering.run,
                    self._office.run,
                    self._telemetry.run,
                    self._entrance.run,
                    self._look_at_audit,
                    self._reload_on_hang_up,
                )
                tasks = [group.create_task(live()) for live in lives]
                await self._stop.wait()
                self._log.info("stopping")
                self._feed.end()  # who follows it comes again, to the next server
                await self._save_histories()
                self._announced.failed()
                for task in tasks:
                    task.cancel()

    async def _save_histories(self) -> None:
        with contextlib.suppress(Unavailable, TimeoutError):  # the disk's fault is logged; a minute of it is lost
            async with asyncio.timeout(GRACE_S):
                await self._controller.save_histories()
                self._log.info("audit log", head=await audit_head(self._chronicle))

    async def _start_status(self, status: StatusEdge) -> str | None:
        address = self._settings.xds_status
        return None if address is None else _with_port(address, await status.start(address))

    def _certificates(self) -> Certificates | None:
        cert, key = self._settings.xds_cert, self._settings.xds_key
        if cert is None or key is None:
            return None
        certificates = Certificates(
            TlsFiles(cert, key, self._settings.xds_client_ca), lambda: datetime.now(UTC), self._rotated
        )
        self._rotated(certificates.loaded)
        return certificates

    def _rotated(self, found: Loaded | InvalidConfig) -> None:
        if isinstance(found, InvalidConfig):
            self._log.error("xDS certificate refused; the last good one stays in use", reason=str(found))
        else:
            expires = found.expires_at.isoformat()
            self._log.info("xDS certificate loaded", names=list(found.names), expires=expires)

    def _warn_of_access(self) -> None:
        exposed = exposure(self._settings)
        if exposed is not None:
            self._log.warning("open to others", warning=exposed)
        fleet = self._cache.fleet
        snapshots = () if fleet is None else (fleet.common, *fleet.groups.values())
        if self._settings.xds_authz is None and any(each.views[SECRETS].resources for each in snapshots):
            what = "envoy-configs has secrets, but no client may have one, and who asks for one loses its stream"
            what = f"{what}; give --xds-authz FILE, with mutual TLS"
            self._log.warning("secrets are not served", warning=what)

    async def _start_api(self, stack: contextlib.AsyncExitStack) -> str:
        backends = Backends(self._controller, self._ledger)
        strategies = Strategies(self._controller, self._ledger)
        backstage = Backstage(
            self._controller,
            self._operations,
            backends,
            self._ledger,
            self._cache,
            self._store,
            lambda: self._scraper.failures,
            self._clock,
            self._reload,
            self._registry,
            self._entrance.doorkeeper,
            self._feed,
            self._chronicle,
            self._charts,
            declaring=Declaring(self._controller, self._operations, backends, strategies, self._discovering),
            discovering=self._discovering,
            office=self._office,
            answers=self._told_before,
            served=self._served,
            strangers=self._entrance.strangers,
        )
        port = Port(application(backstage), self._entrance.strangers)
        stack.push_async_callback(port.stop)
        return _with_port(self._settings.admin, await port.start(self._settings.admin, self._entrance.tls))

    async def _survey(self, query: Query) -> Mapping[str, Scrape]:
        return await self._scraper.survey(query)

    def _stats(self) -> Stats:
        """Return what will be seen of the fleet: by parts that are made later, for they need the controller."""
        return Stats(
            lambda: self._scraper.latest,
            lambda: self._scraper.failures,
            self._readings,
            self._answers,
            self._probed,
            _now,
        )

    def _probed(self, service: str, version: str) -> Mapping[str, Probed]:
        return self._checker.probed(service, version)

    def _readings(self, rollout: Rollout) -> tuple[Reading, ...]:
        return self._prober.take(rollout)

    def _correspondence(self, courier: Courier) -> Correspondence:
        controller = self._controller
        return Correspondence(
            controller.books.active,
            controller.saved,
            controller.endpoints,
            courier.deliver,
            lambda rollout, text: provided(controller, rollout, text),
            controller.wake,
            self._untold,
            self._clock,
            _now,
        )

    def _discovery(self, lookup: Lookup) -> Discovering:
        def told(report: discovering.Report) -> None:
            said = {"service": report.service, "version": report.version, "source": report.discovery.discover.label}
            if report.fault:
                self._log.warning("discovery not followed", **said, reason=report.fault)
            else:
                self._log.info("discovery followed again", **said)

        around = discovering.Around(lookup.check, lookup.ask, self._clock, _now, discovering.later, told)
        backends = Backends(self._controller, self._ledger)
        return Discovering(self._controller, backends, self._ledger, around)

    def _answers(self, rollout: Rollout) -> Mapping[str, hooks.Answer]:
        return self._messenger.answers(rollout)

    def _hooks(self, rollout: Rollout) -> tuple[Report, ...]:
        return self._messenger.reports(rollout)

    def _untold(self, event: Message, why: str) -> None:
        said = event.said
        self._log.warning(
            "hook not told", hook=event.hook.label, service=said["service"], rollout=said["rollout"], reason=why
        )

    def _clock(self) -> float:
        return time.monotonic() - self._start_s

    def _targets(self) -> Mapping[str, str]:
        connected = self._cache.connected()
        return {each.node.id: self._admin_address(each) for each in connected if has_stats(each.node)}

    def _admin_address(self, status: NodeStatus) -> str:
        said = status.node.metadata.get(ADMIN_METADATA)
        if isinstance(said, str):
            return said
        kind, _, address = status.peer.partition(":")
        host = unquote(address.rpartition(":")[0]) if kind in ("ipv4", "ipv6") else "127.0.0.1"
        return f"{host}:{self._settings.envoy_admin_port}"

    async def _reload(self, by: Asker) -> tuple[str, ...]:
        with self._ledger.asked("", "config reload", by) as entry:
            if entry.rehearses:
                await self._rehearse_reload(entry)
            warnings = await self._read_again(by)
            self._controller.saver.put(Saving((entry.result(),)))
        return warnings

    async def _rehearse_reload(self, entry: Entry) -> None:
        """Check all that would be read. Raises Rehearsed, InvalidSpec or InvalidConfig."""
        await asyncio.to_thread(read_trust, self._settings)
        await asyncio.to_thread(read_access, self._settings.xds_authz)
        config = await asyncio.to_thread(lambda: check(read_configs(self._settings.configs)))
        following, present = self._controller.would_serve(config), self._cache.fleet
        assert present is not None, "something is served since the start"
        words = differing(present, following)
        if words:
            entry.about_to(f"served anew, with {len(config.warnings)} warnings: {words}")
        entry.same("envoy-configs says what is served already")

    async def _read_again(self, by: Asker) -> tuple[str, ...]:
        """Serve what envoy-configs says now, to whom the rules of access now allow it.

        Raises InvalidSpec or InvalidConfig, and then goes on as before; good rules count even when the rest is refused.
        """
        try:
            async with self._reloading:
                await asyncio.to_thread(self._entrance.read_again)
                rules = await asyncio.to_thread(read_access, self._settings.xds_authz)
                self._access.access = rules
                told = await self._office.reload()
                self._edge.recheck()
                # A thousand services take a second to check, and a rollback must not wait for that.
                config = await asyncio.to_thread(lambda: check(read_configs(self._settings.configs)))
                warnings = (*self._controller.reload(config), *told)
                set_memory_aside()
        except (RolloutError, XdsError) as error:
            self._loads.refused += 1
            self._loads.right = False
            self._log.warning("config refused; the last good one is served", reason=str(error))
            self._served.refuse(_now(), str(by), error)
            self._reporter.config_refused(str(by), str(error))
            raise
        self._loaded()
        self._served.take(config.files, _now(), warnings)
        self._log.info("config reloaded", snapshot=self._snapshot())
        self._reporter.loaded(self._snapshot(), str(by), warnings)
        for warning in warnings:
            self._log.warning("config", warning=warning)
        return warnings

    def _snapshot(self) -> str:
        return "" if self._cache.fleet is None else self._cache.fleet.common.version

    def _loaded(self) -> None:
        self._loads.loaded += 1
        self._loads.right, self._loads.loaded_at_s = True, time.time()

    async def _reload_on_hang_up(self) -> None:
        while True:
            await self._hang_up.wait()
            self._hang_up.clear()
            with contextlib.suppress(RolloutError, XdsError):
                await self._reload(Asker("SIGHUP", "a signal to the server"))

    def _changed(self, rollout: Rollout, before: Rollout | None) -> None:
        state = rollout.state
        self._messenger.changed(rollout, before)
        self._counted.changed(rollout, before)
        self._telemetry.changed(rollout, before)
        self._charts.saw(rollout)
        for lanes in told_lanes({} if before is None else before.state.lanes, state):
            self._log.info("locations", service=rollout.service, rollout=rollout.id, wave=state.wave + 1, what=lanes)
        if before is not None and (before.state.phase, before.state.stage) == (state.phase, state.stage):
            return
        self._log.info(
            state.phase.value,
            service=rollout.service,
            rollout=rollout.id,
            candidate=rollout.candidate,
            weight=f"{share_bp(rollout.strategy, state) / 100:.4g}%",
            reason=state.reason,
        )

    def _let_go(self, backend: Backend) -> None:
        self._counted.let_go(backend)

    def _asked(self, done: Operation) -> None:
        self._counted.asked(done)
        self._announced.asked(done)

    def _saved(self, changes: Sequence[Change]) -> None:
        self._feed.saved(changes)
        self._announced.saved(changes)

    def _disk(self, fault: str) -> None:
        self._log.error("cannot save", reason=fault)
        self._announced.failed()

    async def _look_at_audit(self) -> None:
        self._signals_of_server.audit_broken = await is_broken(self._chronicle)


def _now() -> datetime:
    return datetime.now(UTC)


def _with_port(address: str, port: int) -> str:
    return f"{address.rpartition(':')[0]}:{port}"
