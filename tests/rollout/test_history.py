"""What a version has done fades slowly, stays small, and becomes the judge's Past as far as it is known."""

from dataclasses import replace

import pytest

from rollout.gate import Gate, Histogram, Past
from rollout.gate.sample import Host, Quantile
from rollout.gate.settings import Errors
from rollout.history import (
    BUCKETS_LIMIT,
    HALF_LIFE_S,
    PHI_MOST,
    History,
    Window,
)
from rollout.record import dump_history, load_history

P75, P95, P99, P999 = Quantile.P75, Quantile.P95, Quantile.P99, Quantile.P999
GATE = Gate()


def milliseconds(**samples: int) -> Histogram:
    """Envoy's buckets of whole milliseconds: `_20=3` are three samples of 20 ms."""
    values = {int(name.removeprefix("_")): count for name, count in samples.items()}
    return Histogram.of((float(ms), _width(ms), count) for ms, count in values.items())


def _width(ms: int) -> float:
    return 10.0 ** (len(str(ms)) - 2) if ms else 0.0


def served(requests: int, errors: int = 0, *, seconds: float = 10.0, latency: Histogram | None = None) -> Window:
    return Window(seconds, requests, errors, latency=milliseconds(_20=requests) if latency is None else latency)


# --- sums that fade ---


def test_the_first_window_is_all_there_is() -> None:
    hosts = {"a": Host(10, 6), "b": Host(10, 0), "c": Host(10, 0), "d": Host(10, 0)}
    window = Window(10.0, 40, 6, 2, milliseconds(_20=30, _31=8), hosts, grpc_answers=5, grpc_faults=1, fleet=2.0)
    assert History().after(window) == History(
        seconds=10.0,
        requests=40.0,
        errors=6.0,
        grpc_answers=5.0,
        grpc_faults=1.0,
        lost=2.0,
        latency=milliseconds(_20=30_000, _31=8_000),
        spread=27.0,
        expected=4.5,
        recent_requests=80.0,
        recent_s=10.0,
    )


def test_what_was_counts_half_after_the_half_life() -> None:
    before = History().after(served(1000, 100))
    after = before.after(Window(HALF_LIFE_S, 10, 1, latency=milliseconds(_50=10)))
    assert (after.requests, after.errors) == (510.0, 51.0)
    assert after.latency == milliseconds(_20=500_000, _50=10_000)
    assert after.seconds == HALF_LIFE_S + 10.0


def test_a_quiet_night_takes_nothing_but_the_rate() -> None:
    evening = History().after(served(1000, 3))
    morning = evening
    for _ in range(8 * 360):
        morning = morning.after(Window(10.0))
    assert replace(morning, recent_requests=0.0, recent_s=0.0) == replace(evening, recent_requests=0.0, recent_s=0.0)
    assert morning.rate_rps == pytest.approx(0.0, abs=1e-6)


def test_latencies_of_long_ago_are_gone_for_good() -> None:
    history = History().after(served(1, latency=milliseconds(_900=1)))
    for _ in range(3000):
        history = history.after(served(1))
    assert history.latency.above(30.0) == 0


def test_a_history_is_small_whatever_it_saw() -> None:
    history = History()
    for decade in range(5):
        for ms in range(10, 100):
            width = 10.0**decade
            history = history.after(served(1000 - ms, latency=Histogram.of([(ms * width, width, 1000 - ms)])))
    assert len(history.latency.buckets) == BUCKETS_LIMIT
    assert len(dump_history(history)) < 10_000
    assert history.timed == pytest.approx(history.requests, rel=1e-3)


def test_it_comes_back_from_json_as_it_was() -> None:
    hosts = {"a": Host(30, 3), "b": Host(31, 0)}
    history = History()
    for seconds in (9.7, 10.2, 0.4):
        history = history.after(Window(seconds, 61, 3, 1, milliseconds(_0=9, _3=40, _20=11), hosts, fleet=2.5))
    assert load_history(dump_history(history)) == history


# --- the rate ---


def test_the_rate_is_not_known_before_three_seconds() -> None:
    assert History().rate_rps is None
    assert History().after(served(290, seconds=2.9)).rate_rps is None
    assert History().after(served(300, seconds=3.0)).rate_rps == 100.0
    assert History().after(served(200, seconds=2.0)).after(served(200, seconds=2.0)).rate_rps == pytest.approx(100.0)


def test_the_rate_is_that_of_the_last_minute() -> None:
    history = History().after(served(300, seconds=3.0))
    for _ in range(12):
        history = history.after(served(10_000))
    assert history.rate_rps == pytest.approx(1000.0, rel=0.03)


def test_the_rate_is_that_of_the_whole_fleet() -> None:
    assert History().after(replace(served(1000), fleet=25.0)).rate_rps == 2500.0


def test_a_winner_has_the_traffic_of_the_loser_too() -> None:
    stable, candidate = History().after(served(900)), History().after(served(100))
    assert candidate.with_rate_of(stable) == replace(candidate, recent_requests=1000.0)
    assert History().with_rate_of(stable).rate_rps == 90.0


# --- phi ---


def windows(hosts: tuple[tuple[int, int], ...], count: int) -> History:
    history = History()
    requests, errors = sum(n for n, _ in hosts), sum(k for _, k in hosts)
    for _ in range(count):
        named = {f"10.0.0.{number}:80": Host(*host) for number, host in enumerate(hosts)}
        history = history.after(replace(served(requests, errors), hosts=named))
    return history


CLUSTERED = ((10, 6), (10, 0), (10, 0), (10, 0))


@pytest.mark.parametrize(
    ("hosts", "phi"), [(CLUSTERED, 6.0), (((10, 1), (10, 1), (10, 1), (10, 0)), 1.0), (((10, 0), (10, 0)), 1.0)]
)
def test_phi_is_the_dispersion_of_all_windows(hosts: tuple[tuple[int, int], ...], phi: float) -> None:
    assert windows(hosts, 60).phi == pytest.approx(phi)


def test_phi_is_not_believed_before_ten_minutes() -> None:
    assert windows(CLUSTERED, 59).phi == 1.0


def test_phi_of_one_host_that_failed_alone_has_a_limit() -> None:
    assert windows(((1000, 900), (1000, 0)), 60).phi == PHI_MOST


def test_slow_requests_are_taken_to_come_in_clusters_at_least_as_large_as_errors() -> None:
    assert windows(((100, 0), (100, 0)), 60).past(GATE).slow_phi == GATE.slow_cluster == 2.0
    assert windows(CLUSTERED, 60).past(GATE).slow_phi == pytest.approx(6.0)


def test_phi_of_a_single_host_is_one() -> None:
    assert windows(((100, 50),), 60).phi == 1.0


# --- Past ---


def test_nothing_is_known_of_a_version_without_requests() -> None:
    assert History().past(GATE) == Past(slow={}, late={}, slow_phi=GATE.slow_cluster)


def test_edges_come_with_the_requests_that_they_need() -> None:
    def known(requests: int) -> tuple[list[Quantile], list[Quantile]]:
        spread = Histogram.of((float(ms), 1.0, requests // 20) for ms in range(20, 40))
        rare = milliseconds(_700=requests // 500)
        past = History().after(served(requests, latency=spread.merge(rare))).past(GATE)
        assert past.slow.keys() == past.slow_ms.keys()
        assert past.late.keys() == past.late_ms.keys()
        return list(past.slow_ms), list(past.late_ms)

    assert known(19) == ([], [])
    assert known(20) == ([P75, P95], [P95])
    assert known(80) == ([P75, P95], [P95])
    assert known(100) == ([P75, P95, P99], [P95, P99])
    assert known(10_000) == ([P75, P95, P99], [P95, P99])  # 0.2 % take 700 ms: beyond that edge there is nothing


def test_a_usual_shape_gives_all_edges_with_the_shares_beyond() -> None:
    latency = milliseconds(_10=6000, _20=2000, _30=1500, _40=390, _60=50, _70=40, _90=11, _200=5, _300=4)
    past = History().after(served(10_000, 30, latency=latency)).past(GATE)
    assert past.slow_ms == {P75: 23.0, P95: 33.0, P99: 63.0, P999: 93.0}
    assert past.late_ms == {P95: 42.0, P99: 79.0}
    shares = {P75: 2000 + 25, P95: 500 + 5, P99: 60 + 1, P999: 9 + 0.1}
    assert past.slow == {each: pytest.approx(bad / 10_100) for each, bad in shares.items()}
    assert past.late == {P95: pytest.approx((110 + 1.8) / 10_100), P99: pytest.approx((20 + 0.3) / 10_100)}
    assert past.errors == pytest.approx(30.1 / 10_100)
    assert past.p99_ms == pytest.approx(60.2)
    assert past.rate_rps == 1000.0


def test_latencies_that_never_vary_still_have_the_edges_that_passing_needs() -> None:
    past = History().after(served(5000)).past(GATE)
    assert past.slow_ms == {P95: 23.0, P99: 23.0}
    assert past.late_ms == {P95: 29.0, P99: 29.0}


def test_below_ten_ms_the_resolution_sets_late() -> None:
    past = History().after(served(100, latency=milliseconds(_2=100))).past(GATE)
    assert past.slow_ms[P95] == 3.6
    assert past.late_ms[P95] == 5.1


def test_what_takes_no_time_at_all_is_not_slow() -> None:
    past = History().after(served(100, latency=milliseconds(_0=100))).past(Gate(resolution_s=0.0))
    assert past.slow_ms[P95] == 1.0
    assert past.slow[P95] == pytest.approx(5 / 200)


def test_timeouts_are_slower_than_any_edge() -> None:
    window = replace(served(1000, 40, latency=milliseconds(_20=960)), lost=40)
    past = History().after(window).past(GATE)
    assert past.slow_ms == {P95: 23.0, P99: 23.0}
    assert past.slow == {P95: pytest.approx(45 / 1100), P99: pytest.approx(41 / 1100)}
    assert past.late == {P95: pytest.approx(41.8 / 1100), P99: pytest.approx(40.3 / 1100)}


def test_a_version_that_only_times_out_has_no_edges() -> None:
    past = History().after(Window(10.0, 500, 500, lost=500)).past(GATE)
    assert (past.slow_ms, past.late_ms, past.p99_ms) == ({}, {}, 0.0)


def test_one_error_among_few_requests_is_no_error_share_of_a_fifth() -> None:
    assert History().after(served(5, 1)).past(GATE).errors == pytest.approx(1.1 / 105)
    assert History().after(served(1_000_000)).past(GATE).errors < 2e-7
    assert History().after(served(5, 1)).error_share() == 0.2


def test_grpc_errors_are_counted_by_status() -> None:
    history = History().after(replace(served(1000, 0), grpc_answers=900, grpc_faults=9))
    assert history.past(Gate(errors=Errors.GRPC)).errors == pytest.approx(9.1 / 1000)
    assert history.past(GATE).errors == pytest.approx(0.1 / 1100)
