"""Histories come from scrapes in the background, within a budget, and outlive Envoys, rollouts and servers."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime

import pytest
import yaml

from rollout.books import Books
from rollout.gate import Gate, Histogram, Past
from rollout.gate.sample import Quantile
from rollout.historian import (
    BACKENDS_LIMIT,
    NAMES_AT_ONCE,
    QUESTIONS_LIMIT,
    SAVE_AT_ONCE,
    Historian,
    Key,
    Watched,
    sample,
    watched,
)
from rollout.history import History, Window
from rollout.metrics import BackendStats, ClusterStats, Scrape
from rollout.record import Rollout, Version
from rollout.spec import Strategy, parse_endpoint
from rollout.state import Phase, Role, State
from rollout.traffic.groups import Files
from rollout.traffic.publisher import Publisher
from xds.cache import Cache
from xds.node import Node

NODES = ("envoy-1", "envoy-2")
V1 = Watched("checkout", "v1", "checkout@v1", NODES)
V2 = Watched("checkout", "v2", "checkout@v2", NODES)
NOW = datetime(2026, 1, 1, tzinfo=UTC)
HOSTS = ("10.0.0.1:80", "10.0.0.2:80")


def no_backends(_service: str, _version: str) -> tuple[str, ...]:
    return ()


def historian(*versions: Watched) -> Historian:
    made = Historian()
    made.watch(versions or (V1,), no_backends)
    return made


def stats(requests: int, errors: int = 0, backends: Mapping[str, BackendStats] | None = None) -> ClusterStats:
    latency = Histogram.of([(20.0, 1.0, requests)])
    return ClusterStats(requests, errors, latency=latency, backends=backends or {})


def scrape(at_s: float, **clusters: ClusterStats) -> Scrape:
    return Scrape(at_s, at_s + 0.01, {name.replace("_", "@"): each for name, each in clusters.items()})


@dataclass
class Served:
    """Envoys that serve checkout@v1 at these rates, asked as a scraper would, once a second."""

    rates: Mapping[str, int]
    asked: list[tuple[float, str]] = field(default_factory=list)

    def live(self, made: Historian, seconds: Iterator[int] | range) -> None:
        for now_s in seconds:
            for node, rate in self.rates.items():
                names, _ = made.question(node, now_s)
                if names:
                    self.asked.append((now_s, node))
                    made.heard(node, scrape(now_s, checkout_v1=stats(rate * now_s)))


def requests_of(made: Historian, version: str = "v1") -> float:
    known = made.history("checkout", version)
    return known.requests if known else 0.0


# --- asking ---


def test_each_envoy_is_asked_every_ten_seconds_and_at_first_every_two() -> None:
    world = Served({"envoy-1": 10})
    world.live(historian(), range(100))
    assert [at_s for at_s, _ in world.asked] == [*range(0, 60, 2), 68, 78, 88, 98]


def test_an_envoy_that_does_not_answer_is_not_asked_more_often() -> None:
    made = historian()
    assert [now_s for now_s in range(9) if made.question("envoy-1", now_s)[0]] == [0, 2, 4, 6, 8]


def test_backends_are_asked_for_together_with_their_cluster() -> None:
    made = Historian()
    made.watch([V1], lambda *_: HOSTS)
    assert made.question("envoy-1", 0.0) == (("checkout@v1",), HOSTS)
    assert made.question("envoy-1", 1.0) == ((), ())
    assert made.question("elsewhere", 1.0) == ((), ())


def test_a_large_fleet_is_asked_in_part_and_the_rate_is_that_of_all() -> None:
    nodes = tuple(f"envoy-{number}" for number in range(1000))
    services = [Watched(f"s{number}", "v1", f"s{number}@v1", nodes) for number in range(100)]
    made = historian(*services)
    asked = {node: names for node in nodes if (names := made.question(node, 0.0)[0])}
    assert len(asked) == QUESTIONS_LIMIT // 100
    assert all(len(names) == 100 for names in asked.values())

    for node in asked:
        for now_s in (0.0, 10.0):
            made.heard(node, Scrape(now_s, now_s, {"s7@v1": stats(int(20 * now_s))}))
    assert made.past("s7", "v1", Gate()).rate_rps == pytest.approx(20_000.0)


def test_at_least_two_envoys_are_asked_however_many_services_there_are() -> None:
    services = [Watched(f"s{n}", "v1", f"s{n}@v1", ("a", "b", "c")) for n in range(3 * QUESTIONS_LIMIT)]
    made = historian(*services)
    assert sum(1 for node in "abc" if made.question(node, 0.0)[0]) == 2
    assert sample("abc", 2) == sample("cab", 2)


def test_many_clusters_are_asked_for_in_turns() -> None:
    made = historian(*(Watched(f"s{n:03}", "v1", f"s{n:03}@v1", ("a",)) for n in range(250)))
    turns = [made.question("a", now_s)[0] for now_s in (0.0, 0.1, 0.2, 0.3)]
    assert [len(turn) for turn in turns] == [NAMES_AT_ONCE, NAMES_AT_ONCE, 50, 0]
    assert len({name for turn in turns for name in turn}) == 250


def test_where_backends_are_too_many_those_with_errors_come_first() -> None:
    made = Historian()
    made.restore({("s1", "v1"): History().after(Window(10.0, 100, 5))})
    many = tuple(f"10.0.0.{number}:80" for number in range(BACKENDS_LIMIT))
    versions = [Watched("s0", "v1", "s0@v1", ("a",)), Watched("s1", "v1", "s1@v1", ("b",))]
    made.watch(versions, lambda *_: many)
    assert made.question("a", 0.0) == (("s0@v1",), ())
    assert made.question("b", 0.0) == (("s1@v1",), tuple(sorted(many)))


# --- hearing ---


def test_a_fresh_server_knows_the_rate_after_a_few_seconds() -> None:
    made, world = historian(), Served({"envoy-1": 200, "envoy-2": 100})
    world.live(made, range(3))
    assert made.past("checkout", "v1", Gate()).rate_rps is None
    world.live(made, range(3, 5))
    past = made.past("checkout", "v1", Gate())
    assert past.rate_rps == pytest.approx(300.0)
    assert past.slow_ms == {Quantile.P95: 23.0, Quantile.P99: 23.0}


def test_a_window_has_what_all_envoys_did_in_ten_seconds() -> None:
    made, world = historian(), Served({"envoy-1": 10, "envoy-2": 30})
    world.live(made, range(199))
    history = made.history("checkout", "v1")
    assert history is not None
    assert history.seconds == pytest.approx(198.0)
    assert history.requests == pytest.approx(40 * 198, rel=0.05)
    assert history.rate_rps == pytest.approx(40.0)


def test_an_envoy_that_restarted_is_counted_from_its_new_beginning() -> None:
    made = historian()
    for now_s, total in ((0, 1000), (2, 1100), (4, 30), (6, 80), (8, 180)):
        made.question("envoy-1", now_s)
        made.heard("envoy-1", scrape(now_s, checkout_v1=stats(total)))
    assert requests_of(made) == 100 + 50 + 100


def test_an_envoy_that_was_away_for_long_is_counted_from_now_on() -> None:
    made = historian()
    for now_s, total in ((0, 0), (2, 100), (100, 5000), (110, 5500)):
        made.heard("envoy-1", scrape(now_s, checkout_v1=stats(total)))
    assert requests_of(made) == pytest.approx(600, rel=0.01)


def test_the_scrapes_of_a_rollout_are_heard_too_but_not_each_of_them() -> None:
    made = historian()
    for tenths in range(0, 101, 1):
        made.heard("envoy-1", scrape(tenths / 10, checkout_v1=stats(10 * tenths)))
    assert requests_of(made) == 900.0  # in spans of 1.5 s


def test_errors_of_one_backend_make_phi() -> None:
    made = Historian()
    made.watch([V1], lambda *_: HOSTS)
    for now_s in range(0, 900, 2):
        bad = 30 * (now_s // 30)  # thirty at once
        backends = {HOSTS[0]: BackendStats(0, True, 50 * now_s, bad), HOSTS[1]: BackendStats(0, True, 50 * now_s)}
        made.heard("envoy-1", scrape(now_s, checkout_v1=stats(100 * now_s, bad, backends)))
    past = made.past("checkout", "v1", Gate())
    assert past.phi == pytest.approx(30.0, rel=0.01)
    assert past.errors == pytest.approx(0.01, rel=0.1)


# --- the life of a version ---


def test_nothing_is_known_of_what_was_never_heard_of() -> None:
    assert historian().history("checkout", "v1") is None
    assert historian().past("checkout", "v1", Gate()) == Past()


def test_the_rate_is_that_of_both_versions_while_they_share_the_traffic() -> None:
    made = historian(V1, V2)
    for now_s in (0, 10):
        made.heard("envoy-1", scrape(now_s, checkout_v1=stats(90 * now_s), checkout_v2=stats(10 * now_s)))
    past = made.past("checkout", "v1", Gate())
    assert past.rate_rps == pytest.approx(200.0)  # there are two such Envoys


def test_a_loser_is_kept_until_it_is_retired_and_does_not_grow() -> None:
    made = historian(V1, V2)
    both = {"checkout_v1": stats(0), "checkout_v2": stats(0)}
    made.heard("envoy-1", scrape(0, **both))
    made.heard("envoy-1", scrape(2, checkout_v1=stats(50), checkout_v2=stats(7)))
    made.watch([V2], no_backends)
    made.heard("envoy-1", scrape(4, checkout_v1=stats(90), checkout_v2=stats(9)))
    assert (requests_of(made, "v1"), round(requests_of(made, "v2"), 1)) == (50, 9.0)
    assert made.all_to_save().keys() == {("checkout", "v2")}
    made.drop("checkout", "v1")
    assert made.history("checkout", "v1") is None


def test_the_winner_takes_over_the_traffic_of_the_loser_at_once() -> None:
    made = historian(V1, V2)
    for now_s in range(0, 42, 2):
        made.heard("envoy-1", scrape(now_s, checkout_v1=stats(90 * now_s), checkout_v2=stats(10 * now_s)))
    made.watch([V2], no_backends)
    assert made.past("checkout", "v2", Gate()).rate_rps == pytest.approx(200.0)
    for now_s in range(42, 60, 2):  # all of it now, in one of two Envoys
        made.heard("envoy-1", scrape(now_s, checkout_v2=stats(400 + 100 * (now_s - 40))))
    assert made.past("checkout", "v2", Gate()).rate_rps == pytest.approx(200.0)

    made.watch([V1], no_backends)  # an operator turns it back
    assert made.past("checkout", "v1", Gate()).rate_rps == pytest.approx(200.0)


def test_a_version_with_a_new_name_keeps_its_history() -> None:
    made = historian(Watched("checkout", "initial", "checkout@initial", NODES))
    for now_s in (0, 2, 20, 30):
        made.heard("envoy-1", scrape(now_s, checkout_initial=stats(100 * now_s)))
    made.rename("checkout", "initial", "v1")
    made.watch([V1], no_backends)
    assert made.history("checkout", "initial") is None
    assert requests_of(made) > 100
    for now_s in (40, 42):
        made.heard("envoy-1", scrape(now_s, checkout_v1=stats(now_s)))
    assert list(made.all_to_save()) == [("checkout", "v1")]


def test_nodes_that_come_and_go_break_nothing_off() -> None:
    made, world = historian(), Served({"envoy-1": 10})
    world.live(made, range(20))
    before = requests_of(made)
    made.watch([Watched("checkout", "v1", "checkout@v1", ("envoy-1", "envoy-3"))], no_backends)
    assert requests_of(made) == before
    world.live(made, range(20, 30))
    assert requests_of(made) == pytest.approx(before + 100, abs=20)


# --- saving ---


def test_what_changed_is_saved_about_once_a_minute() -> None:
    made, world = historian(), Served({"envoy-1": 10})
    saved: list[float] = []
    for now_s in range(300):
        world.live(made, range(now_s, now_s + 1))
        if made.to_save(now_s):
            saved.append(now_s)
    assert saved == [60, 120, 180, 240]


def test_an_idle_service_is_not_saved_again_and_again() -> None:
    made, world = historian(), Served({"envoy-1": 10})
    world.live(made, range(60))
    made.all_to_save()
    for now_s in range(60, 2000, 10):
        made.heard("envoy-1", scrape(now_s, checkout_v1=stats(590)))
    assert [rate_of(each) for each in made.all_to_save().values()] == [0.0]
    for now_s in range(2000, 2100, 10):
        made.heard("envoy-1", scrape(now_s, checkout_v1=stats(590)))
    assert made.all_to_save() == {}


def rate_of(history: History) -> float:
    return round(history.rate_rps or 0, 3)


def test_many_histories_are_saved_in_turns() -> None:
    made = historian(*(Watched(f"s{n}", "v1", f"s{n}@v1", ("a",)) for n in range(70)))
    for now_s in (0.0, 2.0, 20.0, 22.0):
        made.heard("a", Scrape(now_s, now_s, {f"s{n}@v1": stats(int(now_s)) for n in range(70)}))
    turns = [made.to_save(100.0) for _ in range(3)]
    assert [len(turn) for turn in turns] == [SAVE_AT_ONCE, 20, 0]


def test_another_server_goes_on_with_what_was_saved() -> None:
    made, world = historian(), Served({"envoy-1": 500, "envoy-2": 500})
    world.live(made, range(30))
    saved: Mapping[Key, History] = made.all_to_save()

    following = historian()
    following.restore(saved)
    assert following.past("checkout", "v1", Gate()) == made.past("checkout", "v1", Gate())
    assert following.to_save(1000.0) == {}


# --- what is in use ---


def node(name: str, cluster: str = "") -> Node:
    return Node(name, cluster, "", "", "", {})


def files(*services: str) -> str:
    eds = {"eds_config": {"ads": {}, "resource_api_version": "V3"}}
    endpoint = {"endpoint": {"address": {"socket_address": {"address": "10.0.0.1", "port_value": 80}}}}
    routes = [{"match": {"prefix": f"/{name}"}, "route": {"cluster": name}} for name in services]
    document = {
        "routes": [{"name": "edge", "virtual_hosts": [{"name": "all", "domains": ["*"], "routes": routes}]}],
        "clusters": [{"name": name, "type": "EDS", "eds_cluster_config": eds} for name in services],
        "endpoints": [{"cluster_name": name, "endpoints": [{"lb_endpoints": [endpoint]}]} for name in services],
    }
    return yaml.safe_dump(document)


def test_every_service_is_watched_on_the_envoys_that_have_it() -> None:
    publisher = Publisher(Cache())
    publisher.load(Files({"all.yaml": files("cart")}, {"edge": {"edge/more.yaml": files("cart", "shop")}}), {})
    nodes = [node("b", "edge"), node("a", "edge"), node("c")]
    assert watched(Books(publisher.addresses), publisher, nodes) == (
        Watched("cart", "initial", "cart@initial", ("a", "b", "c")),
        Watched("shop", "initial", "shop@initial", ("a", "b")),
    )


@pytest.mark.parametrize(
    ("loser", "versions"), [(None, ["initial", "v2"]), (Role.STABLE, ["v2"]), (Role.CANDIDATE, ["initial"])]
)
def test_both_versions_of_a_rollout_are_watched_until_one_has_lost(loser: Role | None, versions: list[str]) -> None:
    publisher = Publisher(Cache())
    publisher.load(Files({"all.yaml": files("cart")}), {})
    books = Books(publisher.addresses)
    phase = Phase.SHIFTING if loser is None else Phase.DRAINING
    rollout = Rollout("cart", 1, "initial", "v2", Strategy(), State(phase, 1.0, loser=loser), 1, NOW, NOW)
    books.begin(rollout, Version("cart", "v2", (parse_endpoint("10.0.0.9:80"),)))
    assert [each.version for each in watched(books, publisher, [node("a")])] == versions
