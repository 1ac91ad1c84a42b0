"""TCP connections are counted by version from stats of backends: made or failed, never how long they last."""

import re
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
import yaml

from rollout.books import Books
from rollout.checks import EnvoyMetric
from rollout.gate import Fail, Gate, Pass
from rollout.gate.guards import HangGuard, answers_nothing, some_hang
from rollout.gate.sample import Host, Past, Stratum, Tally
from rollout.gate.settings import Errors
from rollout.historian import Historian, Watched
from rollout.looks import Looks
from rollout.metrics import (
    ClusterStats,
    Counts,
    Query,
    Scrape,
    Sessions,
    Shared,
    increments,
    parse_stats,
    sessions_between,
    stats_paths,
    tally,
)
from rollout.observer import Observer, Stats
from rollout.readings import measured
from rollout.record import Rollout, Version
from rollout.screen.evidence import progress
from rollout.spec import Strategy, parse_endpoint
from rollout.state import Phase, State
from rollout.traffic.publisher import Publisher
from tests.rollout.judging import HALF, Bench
from tests.rollout.test_overlay import assignment, listener, manager, routes, service
from tests.rollout.test_shares import RDS, STORE, TCP
from xds.cache import Cache

NOW = datetime(2026, 1, 1, tzinfo=UTC)
V1, V2 = "store@v1", "store@v2"
ONE, TWO, THREE = "10.0.0.1:80", "10.0.0.2:80", "10.0.0.3:80"
BOTH = (Shared(V1, "store", (ONE,)), Shared(V2, "store", (TWO, THREE)))


def answer(**backends: Mapping[str, int]) -> bytes:
    """As Envoy writes it: of each backend of the shared cluster, whose last number is given, all that it counts."""
    lines = ["server.uptime: 7"]
    for number, stats in backends.items():
        known = {"rq_active": 0, "rq_pending_active": 0, "healthy": 1, "rq_success": 0, "rq_error": 0, **stats}
        lines += (f"cluster.store.endpoint.10.0.0.{number[1:]}_80.{stat}: {value}" for stat, value in known.items())
    return "\n".join([*lines, ""]).encode()


def clusters(text: bytes, backends: tuple[str, ...] = ()) -> Mapping[str, ClusterStats]:
    return parse_stats([text], Query((V1, V2), backends, BOTH))[1]


def stats(*sessions: tuple[int, ...], first: int = 2, **fields: Any) -> ClusterStats:
    """A version with these backends, from 10.0.0.`first` on."""
    hosts = {f"10.0.0.{first + at}:80": Sessions(*each) for at, each in enumerate(sessions)}
    return replace(ClusterStats(**fields, sessions={}), sessions=hosts)


def scrape(at_s: float, stable: ClusterStats, candidate: ClusterStats) -> Scrape:
    return Scrape(at_s, at_s + 0.01, {V1: stable, V2: candidate})


def grown(before: ClusterStats, after: ClusterStats) -> Counts:
    counts = increments(scrape(1.0, ClusterStats(), before), scrape(2.0, ClusterStats(), after), V2)
    assert counts is not None
    return counts


def test_a_query_asks_for_what_is_shared() -> None:
    (path,) = stats_paths(Query((V1, V2), (), BOTH))
    expression = parse_qs(urlsplit(path).query)["filter"][0]
    for stat in ("rq_total", "cx_connect_fail", "rq_pending_active"):
        assert re.fullmatch(expression, f"cluster.store.endpoint.10.0.0.2_80.{stat}")
    assert re.fullmatch(expression, "cluster.store@v2.upstream_cx_connect_fail")
    assert not re.fullmatch(expression, "cluster.store.endpoint.10.0.0.9_80.rq_total")


def test_connections_in_a_shared_cluster_go_to_the_version_that_has_the_backend() -> None:
    found = clusters(
        answer(
            _1={"rq_total": 90, "cx_connect_fail": 1, "rq_active": 80},
            _2={"rq_total": 7, "cx_connect_fail": 3, "rq_pending_active": 2},
        )
    )
    assert found[V1].sessions == {ONE: Sessions(90, 1, 0)}
    assert found[V2].sessions == {TWO: Sessions(7, 3, 2)}  # the third is not there yet


def test_attempts_at_a_backend_count_for_it() -> None:
    own = b"cluster.store@v2.endpoint.10.0.0.2_80."
    text = answer(_2={"rq_total": 7, "cx_connect_fail": 3}) + b"".join(
        own + stat + b": %d\n" % value
        for stat, value in ((b"rq_active", 0), (b"rq_pending_active", 0), (b"healthy", 1), (b"rq_success", 5))
    )
    backend = clusters(text, (TWO,))[V2].backends[TWO]
    assert (backend.requests, backend.errors) == (15, 3)


def test_a_connection_is_a_request_that_ends_when_it_is_made_or_fails() -> None:
    before, after = stats((100, 5), (50, 0, 1)), stats((103, 7), (50, 0, 3))
    assert grown(before, after) == Counts(requests=5, errors=2, started=7, active=3, connections=5, connect_fails=2)


def test_a_service_of_routes_and_tcp_proxies_has_both_in_its_counts() -> None:
    before, after = (
        stats((1, 0)),
        stats((4, 1), completed=10, errors_5xx=2, attempts=10, connections=3, connect_fails=1),
    )
    assert grown(before, after) == Counts(requests=14, errors=3, started=14, connections=7, connect_fails=2)


def test_backends_that_came_or_were_made_anew_count_from_their_next_scrape_on() -> None:
    before, after = stats((100, 5), (50, 0)), stats((3, 1), (52, 0), (9, 9))
    assert sessions_between(before, after) == Sessions(2, 0, 0)
    assert sessions_between(after, stats((4, 1), (52, 0), (10, 9))) == Sessions(2, 0, 0)
    assert sessions_between(after, stats((3, 1))) == Sessions()


def judged(stable: tuple[ClusterStats, ClusterStats], candidate: tuple[ClusterStats, ClusterStats]) -> Stratum:
    """What a look sees at 10 % between two scrapes."""
    looks = Looks(V1, V2)
    looks.acked(["a"], 1000, 0.0)
    for at, pair in enumerate(zip(stable, candidate, strict=True)):
        looks.add("a", scrape(1.0 + at, *pair))
    (stratum,) = looks.take(9.0, ["a"], {}).strata
    return stratum


def test_connections_that_last_for_ever_do_not_look_as_if_they_hung() -> None:
    stable, candidate = (stats((500, 0), first=1), stats((9500, 0), first=1)), (stats((0, 0)), stats((1000, 0)))
    seen = judged(stable, candidate)
    assert (seen.candidate.requests, seen.candidate.started, seen.candidate.active) == (1000, 1000, 0)
    assert HangGuard().after([seen]).level < 0
    assert some_hang([seen]) is None
    assert answers_nothing(seen.candidate) is None


def test_connections_that_are_never_made_do() -> None:
    stable, candidate = (stats((0, 0), first=1), stats((900, 0), first=1)), (stats((0, 0)), stats((0, 0, 100)))
    seen = judged(stable, candidate)
    assert (seen.candidate.requests, seen.candidate.started, seen.candidate.active) == (0, 100, 100)
    assert HangGuard().after([seen]).alarm(Gate())
    assert some_hang([seen]) is not None


def test_an_envoy_s_measured_split_is_that_of_connections() -> None:
    looks = Looks(V1, V2)
    looks.acked(["a"], 1000, 0.0)
    looks.add("a", scrape(1.0, stats((0, 0), first=1), stats((0, 0))))
    looks.add("a", scrape(2.0, stats((75, 0), first=1), stats((20, 3, 2))))
    (route,) = looks.routes(9)
    assert (route.sent.requests, route.sent.candidate) == (100, 25)


@pytest.mark.parametrize(
    ("counts", "share"), [(Counts(connections=8, connect_fails=2), 0.25), (Counts(requests=8, errors=2), None)]
)
def test_failed_connects_are_a_metric_of_any_version(counts: Counts, share: float | None) -> None:
    assert measured(EnvoyMetric.CONNECT_FAIL_SHARE, counts, 1.0) == share


def test_counts_of_connections_add_up() -> None:
    assert Counts(connections=3, connect_fails=1).merge(Counts(connections=4)) == Counts(connections=7, connect_fails=1)


def test_a_tally_of_connections_has_errors_and_no_latency() -> None:
    assert tally(Counts(10, 2, started=10), Past(), Errors.HTTP) == Tally(10, 2, started=10)


# --- who is asked for what ---


def observer(document: Mapping[str, object], gate: Mapping[str, object] | None = None) -> tuple[Observer, Books]:
    publisher = Publisher(Cache())
    books = Books(publisher.addresses)
    publisher.load({"store.yaml": yaml.safe_dump(document)}, {})
    strategy = Strategy.model_validate({"gate": gate or {}})
    rollout = Rollout("store", 1, "initial", "v2", strategy, State(Phase.SHIFTING, 0.0), 1, NOW, NOW)
    books.begin(rollout, Version("store", "v2", (parse_endpoint(TWO),)))
    return Observer(books, publisher, Cache(), Stats(dict, dict), lambda: 0.0), books


def test_envoys_are_asked_for_the_backends_of_both_versions_behind_tcp_proxies() -> None:
    seen, _ = observer({**STORE, "endpoints": [assignment("store", 81, 82)]})
    query = seen.questions()("envoy-1")
    assert query is not None
    assert query.shared == (
        Shared("store@initial", "store", ("127.0.0.1:81", "127.0.0.1:82")),
        Shared("store@v2", "store", (TWO,)),
    )


def test_of_a_service_behind_routes_nothing_is_shared() -> None:
    document = {**STORE, "listeners": [listener("web", manager(rds=RDS))], "routes": [routes({"cluster": "store"})]}
    query = observer(document)[0].questions()("envoy-1")
    assert query is not None
    assert query.shared == ()


def test_the_history_of_a_version_has_its_connections() -> None:
    made = Historian()
    made.watch([Watched("store", "v1", V1, ("a",))], lambda *_: ())
    for second in range(0, 60, 2):
        names, _ = made.question("a", second)
        assert made.asked("a", names) == (("store", "v1"),)
        made.heard("a", scrape(second, stats((20 * second, second), first=1), ClusterStats()))
    known = made.history("store", "v1")
    assert known is not None
    assert known.rate_rps == pytest.approx(21.0, rel=0.01)
    assert known.error_share() == pytest.approx(1 / 21, rel=0.01)
    past = known.past(Gate())
    assert (past.slow_ms, past.late_ms, past.p99_ms, past.phi) == ({}, {}, 0.0, 1.0)


def test_bad_backends_behind_tcp_proxies_are_known_by_address() -> None:
    looks = Looks(V1, V2)
    looks.acked(["a"], 1000, 0.0)
    for at, failed in enumerate((0, 4)):
        text = answer(_1={}, _2={"rq_total": 5 * failed}, _3={"cx_connect_fail": failed}) + b"".join(
            b"cluster.store@v2.endpoint.10.0.0.%d_80.%s: 0\n" % (number, stat)
            for number in (2, 3)
            for stat in (b"rq_active", b"rq_pending_active", b"healthy")
        )
        looks.add("a", Scrape(1.0 + at, 1.0 + at, clusters(text, (TWO, THREE))))
    assert looks.take(9.0, ["a"], {}).hosts == {TWO: Host(20, 0), THREE: Host(4, 4)}


def test_a_service_with_tcp_proxies_only_is_judged_by_connections_whatever_else_is_an_error() -> None:
    both = {**STORE, "listeners": [listener("s", TCP), listener("w", manager(rds=RDS))], "clusters": [service("store")]}
    for document, errors in ((STORE, Errors.HTTP), ({**both, "routes": [routes({"cluster": "store"})]}, Errors.GRPC)):
        seen, books = observer(document, {"errors": "grpc"})
        assert seen._looks_at(books.rollouts["store"]).errors is errors


# --- judged ---


def test_connections_pass_by_their_errors_alone() -> None:
    bench = Bench(step=HALF, past=Past(untimed=True))
    made = Tally(requests=500, started=500)
    for _ in range(20):
        verdict = bench.see(made, made, names=("v1", "v2"))
        if isinstance(verdict, Pass):
            break
        assert "p95" not in verdict.reason
    assert isinstance(verdict, Pass)
    assert verdict.reason.endswith("percentage points worse")
    assert [name for name in verdict.numbers if name.startswith("ln_pass_p")] == []
    assert list(progress(verdict.numbers)) == ["errors"]


def test_connections_that_fail_are_evidence_against_a_version() -> None:
    bench = Bench(step=HALF, past=Past(untimed=True))
    assert bench.until(Fail, Tally(requests=100), Tally(requests=100, errors=30), most=20) < 20


def test_requests_with_latencies_still_need_them_to_pass() -> None:
    bench = Bench(step=HALF)
    made = Tally(requests=500, started=500)
    verdict = bench.repeat(20, made, made)
    assert verdict.reason.endswith("of p95, p99 nothing is known yet that could be compared")
