"""What Prometheus reads of the server, and what is made of it: metrics, the dashboard, the alert rules."""

import json
import re
import subprocess
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import yaml
from grafana_foundation_sdk.cog import plugins
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models.dashboard import Dashboard
from prometheus_client import CollectorRegistry
from prometheus_client.parser import text_string_to_metric_families

from rollout.demo.processes import until
from rollout.drain import Drain
from rollout.gate import Inconclusive
from rollout.gate.checks import Reading, Watched
from rollout.gate.evidence import Evidence
from rollout.gate.sample import Tally
from rollout.record import Backend, Operation, Rollout
from rollout.signals import FleetSignals, RolloutSignals
from rollout.spec import Strategy
from rollout.spread import Spread
from rollout.state import Phase, State
from tests.rollout.operating import ANN, Engine, deployment, running
from tests.rollout.real_prometheus import program, prometheus_of
from tests.rollout.served import Running, settings_in
from tests.rollout.served import running as serving
from xds.cache import Cache
from xds.errors import Forbidden, Overloaded

FOLDER = Path(__file__).parents[2] / "docs" / "monitoring"
NAME = re.compile(r"\b(?:rollout|process)_[a-z_]+")
GONE = re.compile(r"_(?:total|bucket|count|sum)$")
EVERY = {"$service": ".*", "$job": ".*", "$__rate_interval": "1m"}
LIMIT_S = 20.0


def dashboard() -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads((FOLDER / "grafana-dashboard.json").read_text())
    return loaded


def expressions() -> Iterator[str]:
    """Yield every query of the dashboard and of the alert rules, with each variable meaning everything."""
    for panel in dashboard()["panels"]:
        yield from (filled(target["expr"]) for target in panel.get("targets", ()))
    yield from (filled(each["expr"]) for each in dashboard()["annotations"]["list"])
    for group in yaml.safe_load((FOLDER / "alerts.yaml").read_text())["groups"]:
        yield from (rule["expr"] for rule in group["rules"])


def filled(expression: str) -> str:
    for name, meaning in EVERY.items():
        expression = expression.replace(name, meaning)
    assert "$" not in expression
    return expression


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[Running]:
    async with serving(settings_in(tmp_path)) as found:
        yield found


async def families(server: Running) -> dict[str, Any]:
    async with server.http.get("/metrics") as answer:
        assert answer.status == 200
        return {family.name: family for family in text_string_to_metric_families(await answer.text())}


async def test_every_metric_of_the_dashboard_and_the_alerts_is_there(server: Running) -> None:
    known = {GONE.sub("", name) for name in await families(server)}
    named = {GONE.sub("", name) for text in expressions() for name in NAME.findall(text)}
    assert len(named) > 25
    assert named <= known


async def test_a_real_prometheus_takes_every_query_and_loads_the_rules(server: Running, tmp_path: Path) -> None:
    rules = FOLDER / "alerts.yaml"
    async with prometheus_of(server.listening.admin, tmp_path, rules) as url, aiohttp.ClientSession(url) as http:

        async def scraped() -> bool:
            return bool(await result(http, "rollout_build_info"))

        await until(scraped, within_s=LIMIT_S, what="Prometheus to read the server")
        for expression in expressions():
            await result(http, expression)
        assert await result(http, 'rollout_backends{service="checkout", state="serving"} == 2')
        async with http.get("/api/v1/rules") as answer:
            groups = (await answer.json())["data"]["groups"]
            assert [rule["name"] for rule in groups[0]["rules"] if rule["health"] == "err"] == []


async def result(http: aiohttp.ClientSession, expression: str) -> list[Any]:
    async with http.post("/api/v1/query", data={"query": expression}) as answer:
        body = await answer.json()
        assert body["status"] == "success", (expression, body)
        found: list[Any] = body["data"]["result"]
        return found


def test_alert_rules_fire_when_they_should() -> None:
    ran = subprocess.run(
        [program("promtool"), "test", "rules", "alerts_test.yaml"],
        cwd=FOLDER,
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
        check=False,
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr


def test_every_alert_is_tested() -> None:
    tested = (FOLDER / "alerts_test.yaml").read_text()
    for group in yaml.safe_load((FOLDER / "alerts.yaml").read_text())["groups"]:
        for rule in group["rules"]:
            assert rule["alert"] in tested, rule["alert"]


def test_dashboard_is_what_grafana_says_a_dashboard_is() -> None:
    """Grafana's own types read it and write it again: a field that they do not know would be missing then."""
    plugins.register_default_plugins()
    written = json.loads(JSONEncoder().encode(Dashboard.from_json(dashboard())))
    assert list(missing(dashboard(), written)) == []


def missing(given: Any, written: Any, path: str = "") -> Iterator[str]:
    """Yield the paths of what is in `given` and not, or otherwise, in `written`."""
    match given:
        case dict():
            for name, value in given.items():
                if name in written:
                    yield from missing(value, written[name], f"{path}.{name}")
                else:
                    yield f"{path}.{name}"
        case list():
            assert len(given) == len(written), path
            for number, (mine, theirs) in enumerate(zip(given, written, strict=True)):
                yield from missing(mine, theirs, f"{path}[{number}]")
        case _ if given != written:
            yield path


def test_panels_of_the_dashboard_do_not_overlap() -> None:
    taken: set[tuple[int, int]] = set()
    for panel in dashboard()["panels"]:
        at = panel["gridPos"]
        cells = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
        assert not cells & taken, panel["title"]
        assert all(x < 24 for x, _ in cells)
        taken |= cells


@pytest.fixture
async def engine(tmp_path: Path) -> AsyncIterator[Engine]:
    async with running(tmp_path) as found:
        found.connect()
        yield found


def watched(engine: Engine) -> CollectorRegistry:
    """Have the engine's rollouts counted."""
    registry = CollectorRegistry()
    signals = RolloutSignals(registry, engine.controller, lambda: engine.now_s)
    engine.changed, engine.let_go = signals.changed, signals.let_go
    return registry


async def test_a_rollout_is_counted_from_its_weights_to_its_end(engine: Engine) -> None:
    registry = watched(engine)
    v2 = {"service": "checkout", "candidate": "v2"}
    await engine.operations.deploy(deployment("v2", "10.0.0.9:80", drain_timeout="30s"), ANN)
    await engine.until(Phase.SHIFTING)
    await engine.steps(5)
    assert registry.get_sample_value("rollout_phase_info", {**v2, "phase": "shifting"}) == 1
    assert registry.get_sample_value("rollout_candidate_weight_ratio", v2) == 0.5
    assert registry.get_sample_value("rollout_rollouts", {"phase": "shifting"}) == 1
    assert registry.get_sample_value("rollout_candidate_errors", v2) == 0
    seconds = registry.get_sample_value("rollout_phase_seconds", v2)
    assert seconds is not None
    assert 0 < seconds < 5
    serving = {"service": "checkout", "version": "v2", "state": "serving"}
    assert registry.get_sample_value("rollout_backends", serving) == 1
    await engine.completed()
    ended = {"service": "checkout", "outcome": "completed"}
    assert registry.get_sample_value("rollout_ended_total", ended) == 1
    assert registry.get_sample_value("rollout_duration_seconds_count", {"outcome": "completed"}) == 1
    assert registry.get_sample_value("rollout_drains_total", {"service": "checkout", "result": "idle"}) == 1
    assert registry.get_sample_value("rollout_candidate_weight_ratio", v2) is None
    assert registry.get_sample_value("rollout_candidate_errors", v2) == 0


async def test_counters_of_a_service_are_there_before_they_count(engine: Engine) -> None:
    """Prometheus' increase() of a counter that appears with 1 is 0, and an alert on it would never fire."""
    registry = watched(engine)
    for outcome in ("completed", "rolled_back"):
        assert registry.get_sample_value("rollout_ended_total", {"service": "checkout", "outcome": outcome}) == 0
    for result in ("idle", "timed_out"):
        assert registry.get_sample_value("rollout_drains_total", {"service": "checkout", "result": result}) == 0
    assert registry.get_sample_value("rollout_cut_requests_total", {"service": "checkout"}) == 0


async def test_a_single_backends_drain_is_counted_once(engine: Engine) -> None:
    registry = watched(engine)
    await engine.backends.drain("checkout", "10.0.0.1:80", ANN)
    await engine.steps(2)
    draining = {"service": "checkout", "version": "initial", "state": "draining"}
    assert registry.get_sample_value("rollout_backends", draining) == 1
    await engine.steps(10)
    assert registry.get_sample_value("rollout_drains_total", {"service": "checkout", "result": "idle"}) == 1
    assert registry.get_sample_value("rollout_backends", {**draining, "state": "removed"}) == 1


async def test_evidence_and_checks_stand_beside_their_limits(engine: Engine) -> None:
    registry = watched(engine)
    v2 = {"service": "checkout", "candidate": "v2"}
    await engine.operations.deploy(deployment("v2", "10.0.0.9:80"), ANN)
    rollout = engine.rollout()
    strategy = Strategy.model_validate({"checks": [{"metric": "p99", "max": "250ms"}]})
    numbers = {"ln_e": 1.5, "ln_limit": 4.6, "ln_pass_errors": 2.0, "ln_pass_start": 0.0, "ln_pass_limit": 3.0}
    evidence = Evidence(
        candidate=Tally(requests=90, errors=3),
        candidate_before=Tally(requests=10, errors=1),
        watched={"p99": Watched(Reading("p99", 1.0, 300.0), broken=1)},
    )
    state = State(Phase.SHIFTING, 90.0, evidence=evidence, verdict=Inconclusive("not yet", numbers))
    engine.controller.books.rollouts["checkout"] = replaced(rollout, strategy, state)
    for test, value, limit in (("e", 1.5, 4.6), ("pass_errors", 2.0, 3.0)):
        assert registry.get_sample_value("rollout_evidence", {**v2, "test": test}) == value
        assert registry.get_sample_value("rollout_evidence_limit", {**v2, "test": test}) == limit
    assert registry.get_sample_value("rollout_evidence", {**v2, "test": "pass_start"}) is None
    assert registry.get_sample_value("rollout_candidate_errors", v2) == 4
    assert registry.get_sample_value("rollout_candidate_requests", v2) == 100
    check = {**v2, "check": "p99"}
    assert registry.get_sample_value("rollout_check_value", check) == 300
    assert registry.get_sample_value("rollout_check_limit", {**check, "bound": "max"}) == 250
    assert registry.get_sample_value("rollout_check_broken", check) == 1


def replaced(rollout: Rollout, strategy: Strategy, state: State) -> Rollout:
    return Rollout(
        rollout.service,
        rollout.id,
        rollout.stable,
        rollout.candidate,
        strategy,
        state,
        rollout.revision,
        rollout.started_at,
        rollout.changed_at,
    )


async def test_cut_requests_and_refused_operations_are_counted(engine: Engine) -> None:
    registry = CollectorRegistry()
    signals = RolloutSignals(registry, engine.controller, lambda: engine.now_s)
    cut = Drain(0.0, timed_out=True, cut={"edge-1": 7, "edge-2": -1})
    signals.let_go(Backend("checkout", "v1", "10.0.0.1:80", cut))
    assert registry.get_sample_value("rollout_cut_requests_total", {"service": "checkout"}) == 8
    assert registry.get_sample_value("rollout_drains_total", {"service": "checkout", "result": "timed_out"}) == 1
    at = datetime(2026, 3, 1, tzinfo=UTC)
    for result in ("Conflict: a rollout is in progress", "no change", "queued"):
        signals.asked(Operation(at, "checkout", "deploy", "ann", "", result))
    for result in ("refused", "no_change", "done"):
        assert registry.get_sample_value("rollout_operations_total", {"verb": "deploy", "result": result}) == 1


def test_streams_that_are_refused_say_why() -> None:
    registry = CollectorRegistry()
    signals = FleetSignals(registry, Cache(), lambda: 0.0)
    for error in (Forbidden("no"), Overloaded("later"), Overloaded("later")):
        signals.refused(error)
    assert registry.get_sample_value("rollout_xds_refused_streams_total", {"reason": "overloaded"}) == 2
    assert registry.get_sample_value("rollout_xds_refused_streams_total", {"reason": "forbidden"}) == 1


def test_a_spread_counts_what_took_at_most_so_long() -> None:
    spread = Spread((1.0, 5.0))
    for seconds in (0.5, 1.0, 3.0, 60.0):
        spread.add(seconds)
    assert spread.buckets() == [("1", 2.0), ("5", 3.0), ("+Inf", 4.0)]
    assert spread.total_s == 64.5
