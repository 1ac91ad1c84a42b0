"""Traces: a real rollout as spans, sent to a real OTLP/HTTP receiver; off, they are nothing at all."""

import asyncio
import contextlib
import gzip
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from rollout.hooks import Hook
from rollout.message import Endpoints, message
from rollout.rights import Asker
from rollout.state import Command, Phase
from rollout.traces.spans import trace_id
from rollout.traces.telemetry import Clocks, Export, Telemetry, opened
from tests.rollout.operating import ANN, Engine, deployment, running
from tests.rollout.test_cli_imports import imported
from tests.xds.client import TRANSPORT, Transport
from xds.cache import Cache
from xds.node import Peer
from xds.session import ControlPlane, Events, Session


@dataclass
class Collector:
    """What a collector was sent: spans by name, in order."""

    port: int = 0
    spans: list[Any] = field(default_factory=list)
    resource: dict[str, str] = field(default_factory=dict)
    paths: set[str] = field(default_factory=set)

    def named(self, name: str) -> list[Any]:
        return [span for span in self.spans if span.name == name]


@contextlib.contextmanager
def collecting() -> Iterator[Collector]:
    collector = Collector()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            body = gzip.decompress(body) if self.headers.get("Content-Encoding") == "gzip" else body
            collector.paths.add(self.path)
            for each in ExportTraceServiceRequest.FromString(body).resource_spans:
                collector.resource.update({item.key: item.value.string_value for item in each.resource.attributes})
                collector.spans += [span for scope in each.scope_spans for span in scope.spans]
            self.send_response(200)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - its name there
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as http:
        collector.port = http.server_port
        thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield collector
        finally:
            http.shutdown()
            thread.join()


def sending(port: int, monkeypatch: pytest.MonkeyPatch) -> Export:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://127.0.0.1:{port}")
    exporter = opened(asked=False, environment={"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1"})
    assert exporter is not None
    return exporter


def follow(engine: Engine, exporter: Export) -> Telemetry:
    """Have an engine and its Envoy tell of what they do."""
    telemetry = Telemetry(Clocks(lambda: engine.now_s, engine.wall), engine.cache, engine.store.journal)
    telemetry.send(exporter, engine.controller.books.active())
    outside = engine.controller.outside
    engine.controller.outside = replace(outside, changed=telemetry.changed, served=telemetry.served)
    events = Events(left=telemetry.left, answered=telemetry.answered, responded=telemetry.responded)

    def open_(cache: Cache, protocol: str, wake: Any) -> Session:
        return Session(ControlPlane(cache, events), protocol, Peer("ipv4:127.0.0.1:1"), wake)

    TRANSPORT.set(Transport(open_))
    return telemetry


def attributes(span: Any) -> dict[str, Any]:
    return {each.key: getattr(each.value, each.value.WhichOneof("value")) for each in span.attributes}


async def test_a_rollout_is_a_trace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with collecting() as collector:
        exporter = sending(collector.port, monkeypatch)
        async with running(tmp_path) as engine:
            telemetry = follow(engine, exporter)
            engine.connect()
            await engine.operations.deploy(deployment("v2", "10.0.0.9:80"), ANN)
            await engine.until(Phase.SHIFTING)
            await engine.steps(3)
            rollout = await engine.completed()
            await engine.steps(20)
            telemetry._tell_of_pushes()
        await asyncio.to_thread(exporter.close)
    assert collector.paths == {"/v1/traces"}
    assert collector.resource["service.name"] == "envoy-rollout"
    assert {int.from_bytes(span.trace_id) for span in collector.spans} == {trace_id(rollout)}
    (root,) = collector.named("rollout")
    assert attributes(root)["rollout.outcome"] == "completed"
    assert (root.parent_span_id, root.status.code) == (b"", 1)
    stages = collector.named("stage")
    assert [attributes(each)["rollout.weight_percent"] for each in stages] == [50.0, 100.0]
    assert {each.parent_span_id for each in stages} == {root.span_id}
    phases = [each for each in collector.spans if each.parent_span_id == root.span_id]
    for before, after in pairwise(phases):
        assert before.end_time_unix_nano == after.start_time_unix_nano
    assert (phases[0].start_time_unix_nano, phases[-1].end_time_unix_nano) == (
        root.start_time_unix_nano,
        root.end_time_unix_nano,
    )
    assert {event.name for each in stages for event in each.events} <= {"verdict"}
    pushes = collector.named("push")
    assert len(pushes) >= 3
    (shift,) = (each for each in pushes if each.parent_span_id == stages[0].span_id)
    said = attributes(shift)
    assert (said["xds.routes.responses"], said["xds.nacks"], said["xds.unanswered"]) == (1, 0, 0)
    assert "xds.clusters.responses" not in said
    assert (shift.end_time_unix_nano - shift.start_time_unix_nano) / 1e9 == pytest.approx(0.2)
    assert all(each.start_time_unix_nano <= each.end_time_unix_nano for each in collector.spans)


async def test_hooks_are_called_as_children_of_the_present_stage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hook = Hook.model_validate({"at": "event", "url": "http://127.0.0.1:1/"})
    with collecting() as collector:
        exporter = sending(collector.port, monkeypatch)
        async with running(tmp_path) as engine:
            telemetry = follow(engine, exporter)
            engine.connect()
            await engine.operations.deploy(deployment("v2", "10.0.0.9:80"), ANN)
            shifting = message(await engine.until(Phase.SHIFTING), hook, "key", Endpoints(), engine.wall())
            in_stage = telemetry.traceparent(shifting)
            await engine.completed()
            at_end = telemetry.traceparent(shifting)
            elsewhere = telemetry.traceparent(replace(shifting, said={**shifting.said, "rollout": 99}))
            telemetry.send(None, ())
            assert (elsewhere, telemetry.traceparent(shifting)) == ("", "")
        await asyncio.to_thread(exporter.close)
    (root,), stage = collector.named("rollout"), collector.named("stage")[0]
    assert in_stage == f"00-{stage.trace_id.hex()}-{stage.span_id.hex()}-01"
    assert at_end == f"00-{root.trace_id.hex()}-{root.span_id.hex()}-01"


async def test_one_that_goes_back_has_ended_badly(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with collecting() as collector:
        exporter = sending(collector.port, monkeypatch)
        async with running(tmp_path) as engine:
            follow(engine, exporter)
            engine.connect()
            await engine.operations.deploy(deployment("v2", "10.0.0.9:80"), ANN)
            await engine.until(Phase.SHIFTING)
            await engine.order(Command.ABORT)
            await engine.ended()
        await asyncio.to_thread(exporter.close)
    (root,) = collector.named("rollout")
    assert root.status.code == 2
    assert "ann" in root.status.message


async def test_after_a_restart_the_trace_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with collecting() as collector:
        exporter = sending(collector.port, monkeypatch)
        async with running(tmp_path) as engine:
            follow(engine, exporter)
            engine.connect()
            await engine.operations.deploy(deployment("v2", "10.0.0.9:80"), ANN)
            await engine.until(Phase.SHIFTING)
            began = engine.wall()
            await engine.steps(10)
        async with running(tmp_path, now_s=engine.now_s + 100) as engine:
            telemetry = follow(engine, exporter)
            await telemetry._restore()
            engine.connect()
            await engine.completed()
        await asyncio.to_thread(exporter.close)
    assert len({span.trace_id for span in collector.spans}) == 1
    assert len({span.span_id for span in collector.spans}) == len(collector.spans)
    first = collector.named("stage")[0]
    assert abs(first.start_time_unix_nano / 1e9 - began.timestamp()) < 1
    assert (first.end_time_unix_nano - first.start_time_unix_nano) / 1e9 > 100


async def test_a_collector_that_is_away_costs_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    exporter = sending(9, monkeypatch)
    async with running(tmp_path) as engine:
        telemetry = follow(engine, exporter)
        engine.connect()
        await engine.operations.deploy(deployment("v2", "10.0.0.9:80"), Asker("ann"))
        await engine.completed()
        run = asyncio.get_running_loop().create_task(telemetry.run())
        await asyncio.sleep(0)
        began_s = time.monotonic()
        run.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await run
        assert time.monotonic() - began_s < 8


def test_who_wants_no_traces_has_none() -> None:
    assert opened(asked=False, environment={}) is None
    endpoint = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9"}
    assert opened(asked=True, environment={**endpoint, "OTEL_SDK_DISABLED": "true"}) is None
    assert opened(asked=True, environment={**endpoint, "OTEL_TRACES_EXPORTER": "none"}) is None


def test_nothing_of_it_is_loaded_by_a_server_that_does_not_use_it() -> None:
    modules = imported(["serve", "--help"])
    assert "rollout.app" in modules
    assert not {each.partition(".")[0] for each in modules} & {"opentelemetry", "apprise", "requests"}
