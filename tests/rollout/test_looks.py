"""From scrapes to looks: what is counted, for which weight and by which edges, and what is not."""

from dataclasses import replace

import pytest

from rollout.gate.histogram import Histogram
from rollout.gate.sample import Host, Look, Past, Quantile, Stratum, Tally
from rollout.gate.settings import Errors
from rollout.looks import BLIND_NAMED, FURTHER, OWN_GROUPS, Looks, Sides, total
from rollout.metrics import BackendStats, ClusterStats, Counts, Scrape
from rollout.split import Route, Sent

STABLE, CANDIDATE = "checkout@v1", "checkout@v2"
P95, P99 = Quantile.P95, Quantile.P99
PAST = Past(slow_ms={P95: 50.0}, late_ms={P95: 63.0})


def scrape(at_s: float, stable: int, candidate: int, errors: int = 0) -> Scrape:
    clusters = {STABLE: ClusterStats(completed=stable), CANDIDATE: ClusterStats(completed=candidate, errors_5xx=errors)}
    return Scrape(at_s, at_s + 0.01, clusters)


def stratum(weight_bp: int, stable: int, candidate: int, errors: int = 0) -> Stratum:
    return Stratum(
        weight_bp,
        Tally(requests=stable, started=stable),
        Tally(requests=candidate, errors=errors, started=candidate),
    )


def look(*strata: Stratum, blind: tuple[str, ...] = ()) -> Look:
    return Look(9.0, strata, Past(), blind)


def ms(stats: ClusterStats, *latencies: tuple[float, int]) -> ClusterStats:
    return replace(stats, latency=Histogram.of((lower, 1.0, count) for lower, count in latencies))


@pytest.fixture
def looks() -> Looks:
    """A rollout with one Envoy that has 10 %, and was read once since."""
    looks = Looks(STABLE, CANDIDATE)
    looks.acked(["a"], 1000, 0.0)
    looks.add("a", scrape(1.0, 100, 10))
    return looks


def test_increments_between_two_scrapes_are_counted(looks: Looks) -> None:
    looks.add("a", scrape(2.0, 190, 20, errors=1))
    looks.add("a", scrape(3.0, 280, 30, errors=2))
    assert looks.take(9.0, ["a"], {}) == look(stratum(1000, 180, 20, errors=2))


def test_the_first_scrape_is_only_what_the_next_counts_from(looks: Looks) -> None:
    assert looks.take(9.0, ["a"], {}) == look()


def test_what_was_taken_is_forgotten_but_not_what_to_count_from(looks: Looks) -> None:
    looks.add("a", scrape(2.0, 190, 20))
    assert looks.take(9.0, ["a"], {}) == look(stratum(1000, 90, 10))
    assert looks.take(9.0, ["a"], {}) == look()
    looks.add("a", scrape(3.0, 191, 21))
    assert looks.take(9.0, ["a"], {}) == look(stratum(1000, 1, 1))


def test_the_same_scrape_counts_once(looks: Looks) -> None:
    later = scrape(2.0, 190, 20)
    looks.add("a", later)
    looks.add("a", later)
    assert looks.take(9.0, ["a"], {}) == look(stratum(1000, 90, 10))


def test_the_same_ack_twice_changes_nothing(looks: Looks) -> None:
    looks.acked(["a"], 1000, 1.5)
    looks.add("a", scrape(2.0, 190, 20))
    assert looks.take(9.0, ["a"], {}) == look(stratum(1000, 90, 10))


def test_a_span_in_which_the_weight_changed_counts_for_nothing(looks: Looks) -> None:
    looks.add("a", scrape(2.0, 190, 20))
    looks.acked(["a"], 5000, 2.5)
    looks.add("a", scrape(2.4, 999, 999))  # asked for before the ACK
    looks.add("a", scrape(2.55, 999, 999))  # Envoy's workers may not know yet
    looks.add("a", scrape(3.0, 240, 60))
    looks.add("a", scrape(4.0, 290, 110))
    assert looks.take(9.0, ["a"], {}) == look(stratum(1000, 90, 10), stratum(5000, 50, 50))


def test_envoys_that_have_acked_other_weights_are_other_strata(looks: Looks) -> None:
    looks.acked(["b", "c"], 5000, 0.0)
    for node in ("b", "c"):
        looks.add(node, scrape(1.0, 0, 0))
        looks.add(node, scrape(2.0, 7, 8))
    looks.add("a", scrape(2.0, 190, 20))
    assert looks.take(9.0, "abc", {}) == look(stratum(1000, 90, 10), stratum(5000, 14, 16))


def test_an_envoy_that_has_acked_nothing_is_not_counted(looks: Looks) -> None:
    looks.add("z", scrape(1.0, 0, 0))
    looks.add("z", scrape(2.0, 50, 50))
    assert looks.take(9.0, ["a", "z"], {}) == look()


def test_counters_that_began_anew_are_blind_for_one_look(looks: Looks) -> None:
    looks.add("a", scrape(2.0, 3, 1))
    assert looks.take(9.0, ["a"], {}) == look(blind=("a: its counters began anew",))
    looks.add("a", scrape(3.0, 13, 2))
    assert looks.take(9.0, ["a"], {}) == look(stratum(1000, 10, 1))


def test_a_cluster_that_was_not_asked_for_is_no_base_to_count_from(looks: Looks) -> None:
    looks.add("a", Scrape(2.0, 2.0, {STABLE: ClusterStats(completed=500)}))
    looks.add("a", scrape(3.0, 500, 20))
    looks.add("a", scrape(4.0, 510, 21))
    assert looks.take(9.0, ["a"], {}) == look(stratum(1000, 10, 1), blind=("a: its counters began anew",))


def test_an_envoy_that_comes_back_is_counted_from_its_next_scrape_on(looks: Looks) -> None:
    looks.add("a", scrape(2.0, 190, 20))
    assert looks.take(9.0, [], {}) == look(stratum(1000, 90, 10))
    looks.acked(["a"], 1000, 5.0)
    looks.add("a", scrape(6.0, 400, 40))
    looks.add("a", scrape(7.0, 401, 41))
    assert looks.take(9.0, ["a"], {}) == look(stratum(1000, 1, 1))


def test_blind_envoys_are_named_with_why(looks: Looks) -> None:
    looks.add("a", scrape(2.0, 0, 0))
    blind = {"b": "no answer from 127.0.0.1:9901", "a": "no stats"}
    assert looks.take(9.0, "ab", blind) == look(blind=("a: no stats", "b: no answer from 127.0.0.1:9901"))


def test_of_many_blind_envoys_only_some_are_named(looks: Looks) -> None:
    blind = {f"envoy-{number:03}": "no stats" for number in range(500)}
    reasons = looks.take(9.0, blind.keys(), blind).blind
    assert reasons[:2] == ("envoy-000: no stats", "envoy-001: no stats")
    assert (len(reasons), reasons[-1]) == (BLIND_NAMED + 1, f"{500 - BLIND_NAMED} more Envoys cannot be read")


def test_versions_have_their_names_in_a_look() -> None:
    assert Looks(STABLE, CANDIDATE, ("v1", "v2")).take(9.0, [], {}).names == ("v1", "v2")


def test_what_runs_is_the_latest_number_over_all_envoys_and_no_sum_over_time() -> None:
    looks = Looks(STABLE, CANDIDATE)
    looks.acked("ab", 1000, 0.0)
    for second, running in ((1, 1), (2, 7), (3, 4)):
        stats = ClusterStats(completed=10 * second, rq_active=running, rq_pending_active=1)
        for node in "ab":
            looks.add(node, Scrape(second, second, {STABLE: ClusterStats(), CANDIDATE: stats}))
    assert looks.take(9.0, "ab", {}).strata == (
        Stratum(1000, Tally(), Tally(requests=40, started=2 * (20 + 4 - 1), active=2 * (4 + 1))),
    )


# --- edges of latency ---


def timed(at_s: float, stable: tuple[int, int], candidate: tuple[int, int]) -> Scrape:
    """Requests of 10 ms and of 60 ms."""
    clusters = {
        name: ms(ClusterStats(completed=sum(counts)), (10.0, counts[0]), (60.0, counts[1]))
        for name, counts in ((STABLE, stable), (CANDIDATE, candidate))
    }
    return Scrape(at_s, at_s, clusters)


def slow(look: Look) -> tuple[dict[Quantile, int], dict[Quantile, int]]:
    (only,) = look.strata
    return dict(only.stable.slow), dict(only.candidate.slow)


def test_latencies_are_counted_by_the_edges_known_when_the_weight_began() -> None:
    looks = Looks(STABLE, CANDIDATE)
    looks.know(1000, PAST)
    looks.acked(["a"], 1000, 0.0)
    looks.add("a", timed(1.0, (0, 0), (0, 0)))
    looks.know(1000, replace(PAST, slow_ms={P95: 5.0}))
    looks.acked(["a"], 1000, 1.5)
    looks.add("a", timed(2.0, (90, 4), (9, 2)))
    taken = looks.take(9.0, ["a"], {})
    assert taken.past == PAST
    assert slow(taken) == ({P95: 4}, {P95: 2})
    assert taken.strata[0].candidate.late == {P95: 0}
    assert taken.strata[0].candidate.timed == 11


def test_edges_that_were_missing_count_for_what_begins_after_them() -> None:
    looks = Looks(STABLE, CANDIDATE)
    looks.know(1000, Past(errors=0.02))
    looks.acked(["a"], 1000, 0.0)
    looks.add("a", timed(1.0, (0, 0), (0, 0)))
    looks.know(1000, replace(PAST, errors=0.3, p99_ms=55.0, rate_rps=100.0))
    looks.acked(["a"], 1000, 1.5)
    looks.add("a", timed(2.0, (90, 4), (9, 2)))
    assert slow(looks.take(9.0, ["a"], {})) == ({}, {})
    looks.add("a", timed(3.0, (180, 5), (18, 5)))
    taken = looks.take(9.0, ["a"], {})
    assert slow(taken) == ({P95: 1}, {P95: 3})
    assert taken.past == replace(PAST, errors=0.02, p99_ms=55.0, rate_rps=100.0)


def test_a_quantile_that_was_not_counted_for_all_of_a_look_is_left_out_of_it() -> None:
    looks = Looks(STABLE, CANDIDATE)
    looks.know(1000, PAST)
    looks.acked(["a"], 1000, 0.0)
    looks.add("a", timed(1.0, (0, 0), (0, 0)))
    looks.know(1000, Past(slow_ms={P99: 55.0}))
    looks.acked(["a"], 1000, 1.5)
    looks.add("a", timed(2.0, (90, 4), (9, 2)))
    looks.add("a", timed(3.0, (180, 8), (18, 4)))
    assert slow(looks.take(9.0, ["a"], {})) == ({P95: 8}, {P95: 4})
    looks.add("a", timed(4.0, (270, 12), (27, 6)))
    assert slow(looks.take(9.0, ["a"], {})) == ({P95: 4, P99: 4}, {P95: 2, P99: 2})


def test_another_weight_goes_on_with_the_past_that_the_rollout_began_with() -> None:
    """An incident in the rollout must not become what stable is expected to do."""
    looks = Looks(STABLE, CANDIDATE)
    looks.know(1000, PAST)
    looks.acked(["a"], 1000, 0.0)
    looks.know(5000, replace(PAST, errors=0.4, slow_ms={**PAST.slow_ms, P95: 5.0}))
    looks.acked(["a"], 5000, 5.0)
    assert looks.take(9.0, ["a"], {}).past == PAST


def test_errors_are_of_the_kind_that_was_asked_for() -> None:
    looks = Looks(STABLE, CANDIDATE, errors=Errors.GRPC)
    looks.acked(["a"], 1000, 0.0)
    for at_s, answers in ((1.0, {}), (2.0, {0: 7, 5: 2, 14: 3})):
        stats = ClusterStats(completed=round(at_s) * 20, grpc=answers)
        looks.add("a", Scrape(at_s, at_s, {STABLE: stats, CANDIDATE: stats}))
    (only,) = looks.take(9.0, ["a"], {}).strata
    assert (only.candidate.requests, only.candidate.errors) == (12, 3)


# --- who routes otherwise ---


def test_an_envoy_that_routes_otherwise_is_named_and_a_group_of_its_own(looks: Looks) -> None:
    looks.acked(["b"], 1000, 0.0)
    looks.add("b", scrape(1.0, 0, 0))
    looks.add("b", scrape(2.0, 1000, 1000))
    looks.add("a", scrape(2.0, 1000, 110))
    found = looks.take(9.0, "ab", {})
    assert found.astray == ("b sends the candidate 50 % of 2,000 requests, not 10 %",)
    assert [each.group for each in found.strata] == [""]  # what it did until it was found
    looks.add("b", scrape(3.0, 1100, 1100))
    looks.add("a", scrape(3.0, 1090, 120))
    assert looks.take(9.0, "ab", {}).strata == (
        stratum(1000, 90, 10),
        replace(stratum(1000, 100, 100), group="b"),
    )
    assert looks.routes(1) == (Route("b", 1000, Sent(2200, 1100), True),)
    assert looks.routes(20)[1] == Route("a", 1000, Sent(1100, 110), False)


def test_an_envoy_is_not_astray_with_the_next_weight(looks: Looks) -> None:
    looks.add("a", scrape(2.0, 1000, 1000))
    assert looks.take(9.0, ["a"], {}).astray
    looks.acked(["a"], 5000, 3.0)
    looks.add("a", scrape(4.0, 1000, 1000))
    looks.add("a", scrape(5.0, 1500, 1500))
    assert looks.take(9.0, ["a"], {}) == look(stratum(5000, 500, 500))


def test_what_waits_or_is_given_up_is_sent_once() -> None:
    looks = Looks(STABLE, CANDIDATE)
    looks.acked("a", 5000, 0.0)
    # Ten requests wait for a connection at 2 s, get one, and are given up by their clients before 4 s.
    states = (
        ClusterStats(),
        ClusterStats(rq_pending_active=10),
        ClusterStats(attempts=10, rq_active=10),
        ClusterStats(attempts=10),
        ClusterStats(attempts=15, retries=2, completed=3),
    )
    for second, stats in enumerate(states, start=1):
        looks.add("a", Scrape(second, second, {STABLE: ClusterStats(completed=second), CANDIDATE: stats}))
    assert looks.routes(1) == (Route("a", 5000, Sent(4 + 13, 13), False),)


def test_a_restarted_envoy_shows_its_split_anew(looks: Looks) -> None:
    looks.add("a", scrape(2.0, 1000, 1000))
    looks.add("a", scrape(3.0, 5, 5))
    looks.add("a", scrape(4.0, 95, 15))
    assert looks.routes(1) == (Route("a", 1000, Sent(100, 10), False),)


def test_a_look_stays_small_when_a_whole_fleet_is_astray() -> None:
    looks = Looks(STABLE, CANDIDATE)
    fleet = [f"envoy-{number}" for number in range(50)]
    looks.acked(fleet, 100, 0.0)
    for second in (1, 2, 3):
        for node in fleet:
            looks.add(node, scrape(second, 1000 * second, 1000 * second))
        found = looks.take(9.0, fleet, {})
    assert len(found.astray) == OWN_GROUPS + 1
    assert found.astray[-1] == "30 more Envoys route otherwise than they have ACKed"
    assert len(found.strata) == OWN_GROUPS + 1
    assert {each.group: each.stable.requests for each in found.strata}[FURTHER] == 30_000


def test_who_has_a_group_of_its_own_keeps_it() -> None:
    looks = Looks(STABLE, CANDIDATE)
    late = [f"b-{number}" for number in range(OWN_GROUPS)]
    fleet = ["a", *late, "z"]
    looks.acked(fleet, 100, 0.0)
    requests = dict.fromkeys(fleet, 0)
    for second, joining in ((1, []), (2, ["z"]), (3, fleet), (4, [])):
        for node in fleet:
            requests[node] += 1000 if node in joining else 0
            looks.add(node, scrape(second, requests[node], requests[node]))
        found = looks.take(9.0, fleet, {})
    assert any(each.startswith("z sends") for each in found.astray)
    assert len(found.astray) == OWN_GROUPS + 1


# --- backends ---


def backends(at_s: float, **hosts: tuple[int, int]) -> Scrape:
    stats = {name: BackendStats(0, True, requests, errors) for name, (requests, errors) in hosts.items()}
    return Scrape(at_s, at_s, {STABLE: ClusterStats(), CANDIDATE: ClusterStats(backends=stats)})


def test_the_candidates_backends_are_added_up_over_envoys_and_time() -> None:
    looks = Looks(STABLE, CANDIDATE)
    looks.acked("ab", 1000, 0.0)
    for node in "ab":
        looks.add(node, backends(1.0, one=(100, 5), two=(50, 0), idle=(3, 0)))
        looks.add(node, backends(2.0, one=(110, 6), two=(60, 0), idle=(3, 0)))
        looks.add(node, backends(3.0, one=(115, 9), two=(61, 0), idle=(3, 0)))
    assert looks.take(9.0, "ab", {}).hosts == {"one": Host(30, 8), "two": Host(22, 0)}
    assert looks.take(9.0, "ab", {}).hosts == {}


def test_a_backend_that_is_new_or_began_anew_is_counted_from_there_on() -> None:
    looks = Looks(STABLE, CANDIDATE)
    looks.acked("a", 1000, 0.0)
    looks.add("a", backends(1.0, one=(100, 5)))
    looks.add("a", backends(2.0, one=(4, 0), new=(20, 2)))
    assert looks.take(9.0, "a", {}).hosts == {}
    looks.add("a", backends(3.0, one=(5, 1), new=(22, 3)))
    assert looks.take(9.0, "a", {}).hosts == {"one": Host(1, 1), "new": Host(2, 1)}


# --- for people ---


def test_people_see_the_last_look_at_the_present_weight_with_its_latencies(looks: Looks) -> None:
    assert looks.recent() == Sides()
    looks.add("a", scrape(2.0, 190, 20))
    looks.acked(["a"], 5000, 3.0)
    looks.add("a", timed(4.0, (0, 0), (0, 0)))
    looks.add("a", timed(5.0, (20, 1), (20, 3)))
    looks.add("a", timed(6.0, (30, 2), (30, 6)))
    assert looks.take(9.0, ["a"], {}).strata[0].weight_bp == 1000
    recent = looks.recent()
    assert (recent.stable.requests, recent.candidate.requests) == (32, 36)
    assert recent.candidate.latency == Histogram.of([(10.0, 1.0, 30), (60.0, 1.0, 6)])
    looks.take(9.0, ["a"], {})
    assert looks.recent() == Sides()


def test_a_total_of_counts_leaves_out_what_does_not_add_up() -> None:
    one = Counts(5, 1, 2, 3, 4, started=6, active=9, grpc={0: 3, 14: 1}, latency=Histogram.of([(10.0, 1.0, 5)]))
    other = Counts(1, 1, 1, 1, 1, started=1, active=9, grpc={14: 1}, latency=Histogram.of([(10.0, 1.0, 1)]))
    assert total([one, other]) == replace(one.merge(other), active=0)
    assert total([]) == Counts()
