"""What a rollout sees: looks with all that belongs to them, and what Envoys are asked for."""

from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta

import pytest

from rollout.books import Books
from rollout.drain import Drain
from rollout.gate.histogram import Histogram
from rollout.gate.sample import Host, Past, Stratum, Tally
from rollout.history import History
from rollout.metrics import BackendStats, ClusterStats, Scrape
from rollout.observer import (
    LONG_LOOK_EVERY_S,
    LOOK_EVERY_S,
    PAUSED_LOOK_EVERY_S,
    SCRAPE_ENVOY_S,
    Observer,
    Stats,
    stale_after_s,
)
from rollout.record import Backend, Rollout, Version
from rollout.spec import Strategy, parse_endpoint
from rollout.split import Route, Sent
from rollout.state import SETTLE_S, Command, Phase, Role, Seen, State
from rollout.traffic.publisher import Publisher
from tests.xds.client import Wire
from xds.cache import Cache
from xds.resources import CLUSTERS, ENDPOINTS, LISTENERS, ROUTES

EDS = "{ eds_config: { ads: {}, resource_api_version: V3 } }"
SHOP = f"""
clusters: [{{ name: checkout, type: EDS, eds_cluster_config: {EDS} }}]
endpoints:
- cluster_name: checkout
  endpoints:
  - lb_endpoints: [{{ endpoint: {{ address: {{ socket_address: {{ address: 10.0.0.1, port_value: 80 }} }} }} }}]
routes:
- name: main
  virtual_hosts:
  - {{ name: all, domains: ["*"], routes: [{{ match: {{ prefix: / }}, route: {{ cluster: checkout }} }}] }}
"""
ONE, TWO = "10.0.0.8:80", "10.0.0.9:80"


@dataclass
class World:
    """A rollout of checkout from `initial` to `v2` at 10 %, and Envoys that take all that they are sent."""

    cache: Cache = field(default_factory=Cache)
    scrapes: dict[str, Scrape] = field(default_factory=dict)
    now_s: float = 10.0
    wall: datetime = datetime(2026, 1, 2, 17, tzinfo=UTC)  # a Friday
    rollout: Rollout = field(init=False)

    def __post_init__(self) -> None:
        at = datetime(2026, 1, 1, tzinfo=UTC)
        strategy = Strategy.model_validate({"stages": [{"weight": "10%"}, {"weight": "100%"}]})
        self.rollout = Rollout("checkout", 1, "initial", "v2", strategy, State(Phase.SHIFTING, 0.0), 1, at, at)
        self.publisher = Publisher(self.cache)
        self.books = Books(self.publisher.addresses)
        self.books.begin(self.rollout, Version("checkout", "v2", (parse_endpoint(ONE), parse_endpoint(TWO))))
        self.publisher.load({"shop.yaml": SHOP}, {"checkout": self.books.traffic("checkout")})
        stats = Stats(lambda: self.scrapes, dict, wall=lambda: self.wall)
        self.observer = Observer(self.books, self.publisher, self.cache, stats, lambda: self.now_s)

    def envoy(self, name: str) -> Wire:
        wire = Wire(self.cache, "sotw")
        wire._node = {"id": name, "cluster": "edge"}
        clusters = ("checkout@initial", "checkout@v2")
        for type_, names in ((CLUSTERS, ()), (ENDPOINTS, clusters), (LISTENERS, ()), (ROUTES, ("main",))):
            wire.ask(type_, *names)
            while replies := wire.replies():
                for reply in replies:
                    wire.ack(reply)
        return wire

    def read(self, name: str, stable: int, candidate: int, errors: int = 0) -> None:
        """Scrape an Envoy now; all errors are of the second backend."""
        hosts = {ONE: BackendStats(0, True, candidate // 2, 0), TWO: BackendStats(0, True, candidate // 2, errors)}
        self.now_s += 2 * SETTLE_S
        clusters = {
            "checkout@initial": ClusterStats(completed=stable),
            "checkout@v2": ClusterStats(completed=candidate, errors_5xx=errors, membership_healthy=2, backends=hosts),
        }
        self.scrapes[name] = Scrape(self.now_s, self.now_s, clusters)

    def seen(self, command: Command | None = None) -> Seen:
        self.now_s += LOOK_EVERY_S
        return self.observer.observe(self.rollout, command, "")


def stratum(stable: int, candidate: int, errors: int = 0) -> Stratum:
    judged = Tally(requests=candidate, errors=errors, started=candidate)
    return Stratum(1000, Tally(requests=stable, started=stable), judged)


def test_the_observer_builds_looks_of_all_envoys_that_can_be_read() -> None:
    world = World()
    world.envoy("a")
    gone = world.envoy("b")
    world.observer.note_nodes()
    world.seen()
    world.read("a", 100, 10)
    world.seen()
    gone.session.close(world.now_s)
    world.read("a", 190, 20, errors=1)
    seen = world.seen()
    assert seen.look is not None
    assert seen.look.at_s == seen.now_s == seen.looked_s
    assert seen.look.strata == (stratum(90, 10, errors=1),)
    assert seen.look.blind == ("b: is disconnected (waited for up to 30 s)",)
    assert seen.look.hosts == {ONE: Host(5, 0), TWO: Host(5, 1)}
    assert seen.look.names == ("initial", "v2")
    assert world.observer.recent("checkout").candidate.requests == 10
    assert world.observer.routes("checkout", 20) == (Route("a", 1000, Sent(100, 10), False),)


def test_a_command_takes_no_look_away() -> None:
    world = World()
    world.envoy("a")
    world.seen()
    for requests in (0, 100):
        world.read("a", requests, requests)
        assert world.seen(Command.PAUSE).look is None
    look = world.seen().look
    assert look is not None
    assert look.strata == (stratum(100, 100),)


def test_the_past_of_a_stage_is_what_was_known_when_its_weight_began() -> None:
    world = World()
    known = History(requests=1000.0, errors=300.0, latency=Histogram.of([(10.0, 1.0, 1_000_000)]))
    world.observer.historian.restore({("checkout", "initial"): known})
    past = world.observer.historian.past("checkout", "initial", world.rollout.strategy.gate)
    assert past.errors > 0.2
    world.envoy("a")
    world.seen()
    world.observer.historian.restore({})
    world.seen()
    look = world.seen().look
    assert look is not None
    assert look.past == past


def test_the_past_is_seen_when_stages_are_planned() -> None:
    world = World()
    world.rollout = replace(world.rollout, state=State(Phase.WARMING, 0.0))
    world.envoy("a")
    assert world.seen().past is None
    world.read("a", 0, 0)
    assert (world.seen().unready, world.seen().past) == ((), Past())


def test_the_candidates_backends_are_asked_for_until_it_is_let_go() -> None:
    world = World()
    asked = world.observer.questions()("a")
    assert asked is not None
    assert asked.backends == (ONE, TWO)
    losing = replace(world.rollout, state=State(Phase.ROLLING_BACK, 0.0, loser=Role.CANDIDATE))
    world.books.rollouts["checkout"] = losing
    asked = world.observer.questions()("a")
    assert asked is not None
    assert asked.backends == ()


def test_the_candidates_backends_that_are_let_go_are_seen() -> None:
    world = World()
    assert world.seen().leaving == frozenset()
    for version, address in (("v2", TWO), ("initial", "10.0.0.1:80")):
        world.books.put_backend(Backend("checkout", version, address, Drain(0.0)))
    assert world.seen().leaving == {TWO}


@pytest.mark.parametrize("envoys", [1, 500, 10_000])
def test_answers_are_stale_only_when_rounds_over_the_fleet_were_missed(envoys: int) -> None:
    assert stale_after_s(envoys) >= max(5.0, 3 * SCRAPE_ENVOY_S * envoys)


def looks_in(world: World, seconds: float) -> int:
    """How many looks it takes in this time, at ten observations a second."""
    until_s, looks = world.now_s + seconds, 0
    while world.now_s < until_s:
        world.now_s += 0.1
        looks += world.observer.observe(world.rollout, None, "").look is not None
    return looks


def test_looks_of_a_stage_become_rarer_for_each_is_a_line_of_the_journal() -> None:
    world = World()
    world.envoy("a")
    assert looks_in(world, 10.0) > 15
    world.now_s += 86_400.0
    looks_in(world, 1.0)
    assert looks_in(world, 60.0) == round(60.0 / LONG_LOOK_EVERY_S)
    paused = replace(world.rollout.state, phase=Phase.PAUSED, resume=Phase.SHIFTING)
    world.rollout = replace(world.rollout, state=paused)
    looks_in(world, PAUSED_LOOK_EVERY_S)
    assert looks_in(world, 60.0) == round(60.0 / PAUSED_LOOK_EVERY_S)


def with_strategy(world: World, **settings: object) -> None:
    world.rollout = replace(world.rollout, strategy=Strategy.model_validate(settings))
    world.books.rollouts["checkout"] = world.rollout


def test_a_freeze_is_seen_by_the_wall_clock_while_a_rollout_may_go_forward() -> None:
    world = World()
    assert world.seen().frozen == ""
    with_strategy(world, freeze={"windows": [{"days": ["fri"], "from": "16:00"}]})
    assert world.seen().frozen == "frozen fri 16:00-00:00 UTC until Sat 00:00"
    now_s = world.now_s
    world.wall -= timedelta(hours=2)
    assert world.seen().frozen == ""
    assert world.now_s == now_s + LOOK_EVERY_S  # steps of the clock for people move nothing else
    world.wall += timedelta(hours=2)
    world.rollout = replace(world.rollout, state=State(Phase.ROLLING_BACK, 0.0, loser=Role.CANDIDATE))
    assert world.seen().frozen == ""


def test_who_stays_away_is_missing_where_the_strategy_says_so() -> None:
    world = World()
    world.envoy("a")
    gone = world.envoy("b")
    with_strategy(world, disconnected={"policy": "fail", "for": "10s"})
    world.observer.note_nodes()
    gone.session.close(world.now_s)
    waiting = world.seen()
    assert (waiting.missing, waiting.fleet, set(waiting.lagging)) == ((), 2, {"b"})
    world.now_s += 10.0
    world.observer.note_nodes()
    assert (world.seen().missing, world.seen().fleet) == (("b",), 1)
    world.rollout = replace(world.rollout, state=State(Phase.ROLLING_BACK, 0.0, loser=Role.CANDIDATE))
    assert world.seen().missing == ()


def test_who_is_gone_may_be_ignored() -> None:
    world = World()
    world.envoy("a")
    gone = world.envoy("b")
    with_strategy(world, disconnected="ignore")
    world.observer.note_nodes()
    gone.session.close(world.now_s)
    seen = world.seen()
    assert (seen.lagging, seen.fleet) == ({}, 1)


def test_nobody_lets_the_candidate_go_yet_on_a_gradual_way_back() -> None:
    world = World()
    world.envoy("edge-1")
    back = replace(world.rollout.state, phase=Phase.ROLLING_BACK, loser=Role.CANDIDATE)
    world.rollout = replace(world.rollout, state=back)
    assert "may still use 'checkout@v2'" in world.seen().lagging["edge-1"]
    world.rollout = replace(world.rollout, state=replace(back, back_bp=500))
    assert "may still use" not in str(world.seen().lagging)


def test_too_few_healthy_backends_are_seen_when_that_lasts() -> None:
    world = World()
    world.envoy("a")
    told = []
    for _ in range(8):
        world.now_s += 1.0
        stats = ClusterStats(membership_total=2, membership_healthy=0)
        world.scrapes["a"] = Scrape(world.now_s, world.now_s, {"checkout@v2": stats})
        told.append(world.seen().unhealthy)
    assert (told[0], told[-1]) == ("", "v2: 0 of 2 backends healthy (min_healthy 50%)")
