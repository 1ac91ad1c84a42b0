"""Scrapes are parsed strictly, subtracted carefully, and counted as the judge wants them."""

import re
from collections.abc import Mapping
from dataclasses import replace
from urllib.parse import parse_qs, urlsplit

import pytest

from rollout.gate.histogram import Histogram
from rollout.gate.sample import Past, Quantile, Tally
from rollout.gate.settings import Errors
from rollout.metrics import (
    BackendStats,
    ClusterStats,
    Counts,
    Query,
    Scrape,
    increments,
    parse_stats,
    stats_paths,
    tally,
)


def answer(*stats: tuple[str, int], latency: Mapping[str, str] | None = None) -> bytes:
    """As Envoy writes it."""
    lines = ["server.uptime: 7", *(f"cluster.{name}: {value}" for name, value in stats)]
    for name, totals in (latency or {}).items():
        lines += [
            f"cluster.{name}.upstream_rq_time:",
            f"  totals={totals}",
            "  intervals=1,0.1:999",
            "  summary=P0(nan,1)",
        ]
    return "\n".join([*lines, ""]).encode()


def parsed(text: bytes, *stat_names: str, backends: tuple[str, ...] = ()) -> Mapping[str, ClusterStats]:
    return parse_stats([text], Query(stat_names, backends))[1]


# Parsing


def test_an_answer_becomes_the_stats_of_each_asked_cluster() -> None:
    text = answer(
        ("checkout@v1.upstream_rq_completed", 100),
        ("checkout@v1.upstream_rq_5xx", 9),
        ("checkout@v1.upstream_rq_retry", 7),
        ("checkout@v1.upstream_rq_timeout", 2),
        ("checkout@v1.upstream_rq_active", 4),
        ("checkout@v1.upstream_rq_pending_active", 1),
        ("checkout@v1.upstream_rq_total", 107),
        ("checkout@v1.upstream_rq_503", 5),
        ("checkout@v1.upstream_rq_504", 2),
        ("checkout@v1.upstream_rq_pending_failure_eject", 3),
        ("checkout@v1.upstream_cx_none_healthy", 1),
        ("checkout@v1.membership_total", 3),
        ("checkout@v1.membership_healthy", 2),
        ("checkout@v1.retry.upstream_rq_5xx", 55),
        ("other.upstream_rq_completed", 9),
        latency={"checkout@v1": "1.1,0.1:60, 20,1:40", "other": ""},
    )
    assert parse_stats([text], Query(("checkout@v1", "checkout@v2"))) == (
        7,
        {
            "checkout@v1": ClusterStats(
                *(100, 9, 7, 2, 4, 1, 3, 2),
                latency=Histogram.of([(1.1, 0.1, 60), (20.0, 1.0, 40)]),
                attempts=107,
                gateway_errors=7,
                unanswered=4,
            ),
            "checkout@v2": ClusterStats(),
        },
    )


def test_backends_are_known_by_address_when_all_that_matters_of_them_is() -> None:
    seen = [("rq_active", 2), ("rq_pending_active", 1), ("healthy", 1), ("rq_success", 90), ("rq_error", 5)]
    text = answer(
        *((f"a.endpoint.10.0.0.1_80.{stat}", value) for stat, value in seen),
        *((f"a.endpoint.[__1]_81.{stat}", 0) for stat in ("rq_active", "rq_pending_active", "healthy")),
        ("a.endpoint.10.0.0.2_80.rq_active", 2),
        *((f"a.endpoint.10.0.0.9_80.{stat}", value) for stat, value in seen),
    )
    stats = parsed(text, "a", backends=("10.0.0.1:80", "10.0.0.2:80", "[::1]:81"))["a"]
    assert stats.backends == {"10.0.0.1:80": BackendStats(3, True, 95, 5), "[::1]:81": BackendStats(0, False)}


@pytest.mark.parametrize(
    ("cluster", "stat"),
    [
        ("a", "a.grpc.14"),
        ("a", "a.grpc.shop.Cart.Add.14"),
        ("a", "a.grpc.grpc.health.v1.Health.Check.14"),
        ("a.grpc.b", "a.grpc.b.grpc.shop.Cart.Add.14"),
        ("a.grpcs", "a.grpcs.grpc.14"),
    ],
)
def test_grpc_statuses_are_counted_with_and_without_methods(cluster: str, stat: str) -> None:
    text = answer((stat, 3), (stat.replace(".14", ".0"), 5), (stat.replace(".14", ".success"), 5))
    stats = parsed(text, cluster, "a")
    assert stats[cluster].grpc == {14: 3, 0: 5}
    assert sum(len(each.grpc) for each in stats.values()) == 2


def test_statuses_of_several_methods_are_added() -> None:
    text = answer(("a.grpc.Cart.Add.0", 3), ("a.grpc.Cart.Drop.0", 5), ("a.grpc.0", 1))
    assert parsed(text, "a")["a"].grpc == {0: 9}


def test_a_name_with_dots_is_not_mistaken_for_another() -> None:
    text = answer(("a.b.upstream_rq_completed", 5), ("a.upstream_rq_completed", 7))
    stats = parsed(text, "a", "a.b")
    assert (stats["a"].completed, stats["a.b"].completed) == (7, 5)


def test_buckets_in_any_order_are_put_in_order() -> None:
    text = answer(latency={"a": "20,1:4, 1.1,0.1:6, 20,1:1, 30,1:0"})
    assert parsed(text, "a")["a"].latency == Histogram.of([(1.1, 0.1, 6), (20.0, 1.0, 5)])


COMPLETED = "cluster.a.upstream_rq_completed: "


@pytest.mark.parametrize(
    "text",
    [
        *("", "no stats", "<html>\n", '{"stats": []}', "server.uptime: 7\n\nserver.live: 1", "cluster.a.x: text"),
        *(COMPLETED + value for value in ("-1", "1.5", "1e9", "Infinity", "1" + "0" * 400, str(2**64), "")),
        *("cluster.a.upstream_rq_time:", "cluster.a.upstream_rq_time:\n  totals=1,0.1:5\n  intervals="),
        "cluster.a.upstream_rq_time: No recorded values",
        b"server.uptime: 7\n\xff: 1".decode("latin-1"),
    ],
    ids=lambda text: text[:40],
)
def test_anything_else_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        parsed(text.encode("latin-1" if "\xff" in text else "utf-8"), "a")


@pytest.mark.parametrize(
    "totals",
    ["1", "1,0.1", "1:5", "nan,1:5", "1,inf:5", "-1,1:5", "1,1:-5", f"1,1:{2**64}", "1,1:5,", "1,1:5, ", "1,1:x"],
)
def test_buckets_that_are_none_are_refused(totals: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        parsed(answer(latency={"a": totals}), "a")


def filters(query: Query) -> list[str]:
    return [parse_qs(urlsplit(path).query)["filter"][0] for path in stats_paths(query)]


def test_the_query_quotes_names_for_the_expression_and_for_the_url() -> None:
    query = Query(("checkout@v1", "a|b-c.d"))
    (expression,) = filters(query)
    assert expression.startswith(r"^(?:server\.uptime|cluster\.(?:a\|b\-c\.d|checkout@v1)\.(?:upstream_rq_completed|")
    assert set(stats_paths(query)[0]) & set("^|() ") == set()
    assert re.fullmatch(expression, "cluster.a|b-c.d.upstream_rq_503")
    assert re.fullmatch(expression, "cluster.checkout@v1.grpc.shop.Cart.Add.14")
    assert not re.fullmatch(expression, "cluster.checkout@v1.retry.upstream_rq_503")


@pytest.mark.parametrize(("backends", "matches"), [(100, False), (101, True)])
def test_few_backends_are_asked_for_by_name_and_many_all_at_once(backends: int, matches: bool) -> None:
    (expression,) = filters(Query(("a",), tuple(f"10.0.0.1:{port}" for port in range(backends))))
    assert re.fullmatch(expression, "cluster.a.endpoint.10.0.0.1_7.rq_error")
    assert bool(re.fullmatch(expression, "cluster.a.endpoint.10.0.0.2_7.rq_error")) is matches


# Increments


def scrape(stats: ClusterStats | None, uptime_s: int | None = None, address: str = "") -> Scrape:
    return Scrape(0.0, 0.1, {} if stats is None else {"a": stats}, uptime_s, address)


SLOW = Histogram.of([(10.0, 1.0, 8), (20.0, 1.0, 2)])


def test_increments_are_what_came_between() -> None:
    before = ClusterStats(10, 1, 2, 3, rq_active=9, latency=SLOW, attempts=21, grpc={0: 5, 14: 1})
    after = ClusterStats(14, 2, 4, 3, rq_active=11, rq_pending_active=1, attempts=28, grpc={0: 8, 13: 1, 14: 1})
    after = replace(after, latency=SLOW.merge(Histogram.of([(30.0, 1.0, 4)])))
    assert increments(scrape(before), scrape(after), "a") == Counts(
        requests=4,
        errors=1,
        retries=2,
        started=7,
        active=12,
        grpc={0: 3, 13: 1},
        latency=Histogram.of([(30.0, 1.0, 4)]),
    )


@pytest.mark.parametrize(
    ("after", "started"),
    [
        (ClusterStats(completed=8, rq_active=2, attempts=10), 10),
        (ClusterStats(completed=8, attempts=10), 10),  # two were given up by their clients
        (ClusterStats(completed=8, attempts=3), 8),  # five found no connection
        (ClusterStats(completed=8, attempts=12, retries=4), 8),
    ],
)
def test_requests_have_started_whatever_became_of_them(after: ClusterStats, started: int) -> None:
    counts = increments(scrape(ClusterStats()), scrape(after), "a")
    assert counts is not None
    assert counts.started == started


@pytest.mark.parametrize(
    ("after", "refused"),
    [
        (ClusterStats(20, 5, gateway_errors=5, unanswered=5), 5),
        (ClusterStats(20, 5, timeouts=3, gateway_errors=5, unanswered=2), 2),
        (ClusterStats(20, 5, retries=5, gateway_errors=5, unanswered=10), 5),  # each tried twice
        (ClusterStats(20, 0, retries=5, unanswered=5), 0),  # a second try helped
        (ClusterStats(20, 5, gateway_errors=5), 0),  # the backend's own
        (ClusterStats(20, 5, timeouts=5, gateway_errors=4), 0),
    ],
)
def test_requests_that_envoy_answered_itself_are_refused(after: ClusterStats, refused: int) -> None:
    counts = increments(scrape(ClusterStats()), scrape(after), "a")
    assert counts is not None
    assert counts.refused == refused
    assert counts.timed == refused + after.timeouts


@pytest.mark.parametrize(
    "earlier",
    [
        None,
        *(ClusterStats(completed=11), ClusterStats(errors_5xx=11), ClusterStats(retries=11), ClusterStats(timeouts=11)),
        *(ClusterStats(attempts=11), ClusterStats(gateway_errors=11), ClusterStats(unanswered=11)),
        *(ClusterStats(grpc={0: count}) for count in (1, 5)),
    ],
)
def test_without_a_baseline_there_are_no_increments(earlier: ClusterStats | None) -> None:
    after = ClusterStats(10, 10, 10, 10, attempts=10, gateway_errors=10, unanswered=10, grpc={14: 1})
    assert increments(scrape(earlier), scrape(after), "a") is None


@pytest.mark.parametrize(
    ("before", "after", "counts"),
    [
        *(((50, "x"), (uptime_s, "x"), True) for uptime_s in (51, 50, None)),
        *(((50, "x"), other, False) for other in ((49, "x"), (51, "y"))),
    ],
)
def test_another_process_has_no_increments_even_when_it_counted_further(
    before: tuple[int, str], after: tuple[int | None, str], counts: bool
) -> None:
    found = increments(scrape(ClusterStats(10), *before), scrape(ClusterStats(20), *after), "a")
    assert (found is not None) is counts


def test_a_histogram_that_restarted_alone_counts_from_its_restart() -> None:
    new = Histogram.of([(10.0, 1.0, 5)])
    counted = increments(scrape(ClusterStats(10, latency=SLOW)), scrape(ClusterStats(20, latency=new)), "a")
    assert counted == Counts(10, started=10, latency=new)
    assert counted.timed == 5


def test_a_histogram_that_lost_a_bucket_restarted_though_the_others_grew() -> None:
    new = Histogram.of([(10.0, 1.0, 50)])
    counted = increments(scrape(ClusterStats(10, latency=SLOW)), scrape(ClusterStats(90, latency=new)), "a")
    assert counted == Counts(80, started=80, latency=new)


def test_counts_of_two_envoys_add_up() -> None:
    one = Counts(10, 1, 2, 3, 4, 12, 2, {0: 3, 14: 1}, SLOW)
    assert one.merge(Counts()) == one
    assert one.merge(one) == Counts(20, 2, 4, 6, 8, 24, 4, {0: 6, 14: 2}, SLOW.merge(SLOW))
    assert one.merge(Counts(grpc={5: 1})).grpc == {0: 3, 5: 1, 14: 1}


# Tallies


PAST = Past(slow_ms={Quantile.P75: 15.0, Quantile.P99: 21.0}, late_ms={Quantile.P99: 26.0})


def test_what_has_no_latency_is_slow_and_late() -> None:
    counts = Counts(requests=15, errors=5, retries=1, timeouts=2, refused=3, started=16, active=1, latency=SLOW)
    assert tally(counts, PAST, Errors.HTTP) == Tally(
        requests=15,
        errors=5,
        timed=15,
        slow={Quantile.P75: 7, Quantile.P99: 5},
        late={Quantile.P99: 5},
        retries=1,
        timeouts=2,
        started=16,
        active=1,
    )


def test_grpc_errors_are_the_server_s_faults_only() -> None:
    statuses = {0: 80, 5: 3, 8: 2, 13: 4, 14: 1}
    found = tally(Counts(requests=99, errors=1, grpc=statuses), PAST, Errors.GRPC)
    assert (found.requests, found.errors) == (90, 5)
    found = tally(Counts(requests=99, errors=9), PAST, Errors.GRPC)
    assert (found.requests, found.errors) == (0, 0)
