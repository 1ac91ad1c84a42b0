"""Which backends the fleet is told not to use: by probes, by most Envoys; never the last one of a version."""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any

import pytest

from rollout.ailing import CONNECTING, Ailing
from rollout.books import Books
from rollout.checkup import Checkup
from rollout.drain import Drain
from rollout.health import MARKED_S, Probed, Ward
from rollout.metrics import BackendStats, ClusterStats, Failure, Scrape
from rollout.probe import ProbeSpec
from rollout.readiness import FEW_FOR_S, Health, Senses
from rollout.record import Backend, Mark, Rollout, Version
from rollout.spec import Strategy, parse_endpoint
from rollout.state import Phase, Role, Split, State
from rollout.traffic.publisher import Publisher
from tests.xds.client import Wire
from xds.cache import Cache, NodeStatus
from xds.resources import CLUSTERS, ENDPOINTS

EDS = "{ eds_config: { ads: {}, resource_api_version: V3 } }"
_THRESHOLDS = "unhealthy_threshold: 1, healthy_threshold: 1"
CHECKED = f"health_checks: [{{ timeout: 1s, interval: 1s, tcp_health_check: {{}}, {_THRESHOLDS} }}]"
OLD = "10.0.0.1:80"
ONE, TWO = "10.0.0.8:80", "10.0.0.9:80"
ENVOYS = ("a", "b", "c")
AT = datetime(2026, 1, 1, tzinfo=UTC)


def shop(checks: str) -> str:
    return f"""
clusters: [{{ name: checkout, type: EDS, eds_cluster_config: {EDS}{", " + checks if checks else ""} }}]
endpoints:
- cluster_name: checkout
  endpoints:
  - lb_endpoints: [{{ endpoint: {{ address: {{ socket_address: {{ address: 10.0.0.1, port_value: 80 }} }} }} }}]
routes:
- name: main
  virtual_hosts:
  - {{ name: all, domains: ["*"], routes: [{{ match: {{ prefix: / }}, route: {{ cluster: checkout }} }}] }}
"""


@dataclass
class World:
    """A rollout of checkout from `initial` to `v2`, and Envoys which find ill what `ill` says, each by itself."""

    checks: str = CHECKED
    phase: Phase = Phase.SHIFTING
    settings: dict[str, Any] = field(default_factory=dict)
    ill: dict[str, set[str]] = field(default_factory=lambda: {name: set() for name in ENVOYS})
    known: dict[tuple[str, str], dict[str, Probed]] = field(default_factory=dict)
    now_s: float = 100.0

    def __post_init__(self) -> None:
        self.cache = Cache()
        self.publisher = Publisher(self.cache)
        self.books = Books(self.publisher.addresses)
        strategy = Strategy.model_validate(self.settings)
        state = State(self.phase, 0.0, loser=Role.STABLE if self.phase is Phase.DRAINING else None)
        rollout = Rollout("checkout", 1, "initial", "v2", strategy, state, 1, AT, AT)
        self.publisher.load({"shop.yaml": shop(self.checks)}, {})
        self.books.begin(rollout, Version("checkout", "v2", (parse_endpoint(ONE), parse_endpoint(TWO))))
        self.books.splits["checkout"] = Split(1000, frozenset(Role))
        self.publisher.load({"shop.yaml": shop(self.checks)}, {"checkout": self.books.traffic("checkout")})
        senses = Senses(lambda: self.scrapes, dict[str, Failure], lambda *key: self.known.get(key))
        self.ailing = Ailing(self.books, self.publisher, self.cache, senses, lambda: self.now_s)
        self.checkup = Checkup(self.books, self.publisher, senses, lambda: self.now_s)
        self.wires = {name: self.envoy(name) for name in ENVOYS}
        self.scrapes: dict[str, Scrape] = {}

    def envoy(self, name: str) -> Wire:
        wire = Wire(self.cache, "sotw")
        wire._node = {"id": name, "cluster": "edge"}
        wire.ask(CLUSTERS)
        wire.ask(ENDPOINTS, "checkout@initial", "checkout@v2")
        self.take(wire)
        return wire

    def take(self, wire: Wire) -> None:
        while replies := wire.replies():
            for reply in replies:
                wire.ack(reply)

    @property
    def rollout(self) -> Rollout:
        return self.books.rollouts["checkout"]

    def connected(self) -> dict[str, NodeStatus]:
        return {status.node.id: status for status in self.cache.connected()}

    def scrape(self, name: str) -> Scrape:
        clusters = {}
        for version, addresses in (("initial", (OLD,)), ("v2", (ONE, TWO))):
            ill = self.ill[name] | self.books.unhealthy("checkout", version)
            backends = {each: BackendStats(0, each not in ill) for each in addresses}
            healthy = sum(each.healthy for each in backends.values())
            stats = ClusterStats(membership_total=len(addresses), membership_healthy=healthy, backends=backends)
            clusters[f"checkout@{version}"] = stats
        return Scrape(self.now_s, self.now_s, clusters)

    def look(self) -> frozenset[str]:
        """A second later: everyone has what is served and was read, and the books are made up."""
        self.now_s += 1.0
        for wire in self.wires.values():
            self.take(wire)
        self.scrapes = {name: self.scrape(name) for name in ENVOYS}
        busy = self.books.busy()
        well = self.ailing.forget_all_but(busy)
        changed = frozenset({*well, *filter(self.ailing.look_at, sorted(busy))})
        for service in changed:
            self.publisher.serve(service, self.books.traffic(service))
        return changed

    def looks(self, number: int = 5) -> None:
        for _ in range(number):
            self.look()

    def marked(self) -> frozenset[str]:
        return self.books.ill.get("checkout", frozenset())

    def served(self) -> Iterator[frozenset[str]]:
        yield from (each.unhealthy for each in self.publisher.traffic("checkout").versions)


def test_what_most_envoys_find_ill_is_ill_for_the_whole_fleet_and_looked_at_again() -> None:
    world = World()
    world.looks()
    world.ill["a"].add(ONE)
    world.looks()
    assert world.marked() == frozenset()
    world.ill["b"].add(ONE)
    world.look()
    assert world.marked() == {ONE}
    assert list(world.served()) == [frozenset(), frozenset({ONE})]
    [found] = world.ailing.findings("checkout")
    assert (found.version, found.address, found.why) == ("v2", ONE, "unhealthy to 2 of 3 Envoys")
    for healed in world.ill.values():
        healed.clear()
    world.looks(int(MARKED_S) - 1)
    assert world.marked() == {ONE}
    world.looks(5)
    assert world.marked() == frozenset()
    world.looks(10)
    assert world.marked() == frozenset()  # what Envoys said of it while they were told so counts for nothing


def test_what_is_still_ill_after_a_mark_is_marked_again() -> None:
    world = World()
    world.looks()
    for ill in world.ill.values():
        ill.add(ONE)
    world.looks(int(MARKED_S) + 8)
    assert world.marked() == {ONE}


def test_what_was_found_of_a_backend_goes_with_it() -> None:
    world = World()
    world.looks()
    for ill in world.ill.values():
        ill.add(ONE)
    world.looks(2)
    assert world.marked() == {ONE}
    world.books.put_version(Version("checkout", "v2", (parse_endpoint(TWO),)))
    world.looks(2)
    assert world.ailing.findings("checkout") == ()


def test_an_envoy_that_does_not_know_of_the_lifting_has_no_vote() -> None:
    world = World()
    world.looks()
    world.ill["a"].add(ONE)
    world.ill["b"].add(ONE)
    world.looks()
    assert world.marked() == {ONE}
    world.ill["a"].clear()
    world.wires.pop("b")  # it stays on the line, and answers nothing
    world.looks(int(MARKED_S) + 8)
    assert world.marked() == frozenset()


def test_a_backend_that_was_never_healthy_is_no_matter_for_the_fleet() -> None:
    world = World()
    for ill in world.ill.values():
        ill.add(ONE)
    world.looks()
    assert world.marked() == frozenset()


def test_all_backends_of_a_version_are_used_where_none_is_healthy() -> None:
    """One alone would get the traffic of many; and where probes find nobody healthy, the way to them may be broken."""
    world = World(checks="", settings=PROBE)
    world.known["checkout", "v2"] = {ONE: BAD, TWO: Probed(healthy=True)}
    world.look()
    assert world.marked() == {ONE}
    world.known["checkout", "v2"][TWO] = BAD
    world.known["checkout", "initial"] = {OLD: BAD}
    world.looks(2)
    assert world.marked() == frozenset()
    assert {each.address for each in world.ailing.findings("checkout") if each.kept} == {OLD, ONE, TWO}
    world.known["checkout", "v2"][ONE] = Probed(healthy=True)
    world.look()
    assert world.marked() == {TWO}


PROBE = {"probe": {"http": "/healthz"}}
BAD = Probed(False, 90.0, "HTTP 503 from /healthz", 3)


def test_what_our_own_probes_find_ill_is_ill_until_they_find_otherwise() -> None:
    world = World(checks="", settings=PROBE)
    world.known["checkout", "v2"] = {ONE: BAD, TWO: Probed(healthy=True)}
    assert world.look() == {"checkout"}
    assert world.marked() == {ONE}
    [found] = world.ailing.findings("checkout")
    assert (found.why, found.since_s) == ("probe: HTTP 503 from /healthz", 90.0)
    assert world.look() == frozenset()
    world.known["checkout", "v2"][ONE] = replace(BAD, healthy=True, why="")
    assert world.look() == {"checkout"}
    assert world.marked() == frozenset()


def test_what_was_ill_before_a_restart_is_so_until_probes_tell() -> None:
    world = World(checks="", settings=PROBE)
    world.books.ill = {"checkout": frozenset({OLD, TWO})}
    world.ailing.restore(world.books.ill)
    assert world.look() == {"checkout"}
    assert world.marked() == {TWO}  # the other is the last of its version
    world.known["checkout", "v2"] = {ONE: Probed(), TWO: Probed(why="connection refused", streak=1)}
    assert world.look() == frozenset()
    world.known["checkout", "v2"] = {ONE: Probed(healthy=True), TWO: Probed(healthy=True)}
    assert world.look() == {"checkout"}
    world.known["checkout", "v2"] = {}
    world.looks(2)
    assert world.marked() == frozenset()


def test_what_was_ill_before_a_restart_is_nothing_where_no_strategy_probes() -> None:
    world = World(checks="")
    world.books.ill = {"checkout": frozenset({TWO})}
    world.ailing.restore(world.books.ill)
    assert world.look() == {"checkout"}
    assert world.marked() == frozenset()


def test_who_is_ill_is_to_be_saved_when_that_has_changed() -> None:
    world = World(checks="", settings=PROBE)
    world.ailing.restore({"checkout": frozenset({ONE}), "cart": frozenset({ONE})})
    world.known["checkout", "v2"] = {ONE: BAD, TWO: Probed(healthy=True)}
    world.look()
    assert world.ailing.to_save() == {"cart": frozenset()}
    assert world.ailing.to_save() == {}
    world.known["checkout", "v2"] = {ONE: Probed(healthy=True), TWO: BAD}
    world.look()
    assert world.ailing.to_save() == {"checkout": frozenset({TWO})}


def test_probes_without_a_word_of_it_in_the_strategy_mark_nobody() -> None:
    world = World(checks="")
    world.known["checkout", "v2"] = {ONE: BAD, TWO: BAD}
    world.looks()
    assert world.marked() == frozenset()


def test_a_candidate_before_its_first_traffic_may_have_no_usable_backend() -> None:
    world = World(checks="", settings=PROBE, phase=Phase.WARMING)
    world.known["checkout", "v2"] = {ONE: BAD, TWO: BAD}
    world.look()
    assert world.marked() == {ONE, TWO}
    world.books.rollouts["checkout"] = replace(world.rollout, state=State(Phase.SHIFTING, 0.0))
    world.look()
    assert world.marked() == frozenset()


def test_what_operators_have_marked_or_let_go_leaves_the_others_to_be_kept() -> None:
    world = World(checks="", settings=PROBE)
    world.books.put_mark(Mark("checkout", ONE, "alice", AT, "its disk is full"))
    world.known["checkout", "v2"] = {ONE: BAD, TWO: BAD}
    world.look()
    assert [(each.address, each.kept) for each in world.ailing.findings("checkout")] == [(TWO, True)]
    assert world.books.unhealthy("checkout", "v2") == {ONE}
    world.books.drop_mark("checkout", ONE)
    world.books.put_backend(Backend("checkout", "v2", ONE, Drain(0.0)))
    world.look()
    assert [(each.address, each.kept) for each in world.ailing.findings("checkout")] == [(TWO, True)]


def test_nothing_is_ill_where_nothing_goes_on() -> None:
    world = World(checks="", settings=PROBE)
    world.known["checkout", "v2"] = {ONE: BAD, TWO: Probed(healthy=True)}
    world.look()
    ended = State(Phase.COMPLETED, 0.0, loser=Role.STABLE)
    world.books.rollouts["checkout"] = replace(world.rollout, state=ended)
    world.books.retire("checkout", "v2", "initial")
    assert world.look() == {"checkout"}
    assert world.marked() == frozenset()


def wards(**given: Any) -> dict[str, tuple[tuple[str, ...], ProbeSpec]]:
    return {each.version: (each.addresses, each.spec) for each in World(**given).ailing.wards()}


@pytest.mark.parametrize("phase", [Phase.PENDING, Phase.SHIFTING, Phase.RETAINING])
def test_both_versions_are_probed_as_the_strategy_says(phase: Phase) -> None:
    spec = ProbeSpec(http="/healthz")
    assert wards(settings=PROBE, phase=phase) == {"initial": ((OLD,), spec), "v2": ((ONE, TWO), spec)}


def test_without_a_word_of_it_a_candidate_that_no_envoy_checks_is_connected_to_before_its_traffic() -> None:
    assert wards(checks="", phase=Phase.WARMING) == {"v2": ((ONE, TWO), CONNECTING)}
    assert wards(checks="", phase=Phase.SHIFTING) == {}
    assert wards(checks=CHECKED, phase=Phase.WARMING) == {}
    assert wards(settings=PROBE, phase=Phase.DRAINING) == {}


def test_a_candidate_is_ready_by_envoys_and_probes() -> None:
    world = World(checks="", phase=Phase.WARMING)
    world.look()
    assert world.checkup.unready(world.rollout, ENVOYS) == ()  # there is nobody who probes
    world.known["checkout", "v2"] = {ONE: Probed(healthy=True)}
    assert world.checkup.unready(world.rollout, ENVOYS) == (
        f"{TWO}: not probed often enough yet (probed by the control plane)",
    )
    world.books.put_backend(Backend("checkout", "v2", TWO, Drain(0.0)))
    assert world.checkup.unready(world.rollout, ()) == ()


def test_too_few_healthy_backends_are_told_when_that_lasts() -> None:
    world = World()
    world.looks()
    for name in ("a", "b"):
        world.ill[name].update({ONE, TWO})
    told = []
    for _ in range(int(FEW_FOR_S) + 2):
        world.now_s += 1.0
        world.scrapes = {name: world.scrape(name) for name in ENVOYS}
        told.append(world.checkup.found(world.rollout, world.connected(), 5.0).few)
    assert told == [*[""] * int(FEW_FOR_S), *["v2: 0 of 2 backends healthy (min_healthy 50%)"] * 2]
    now = world.checkup.found(world.rollout, world.connected(), 5.0)
    assert now.dead == "no backend of v2 is healthy, and initial has 1 of 1"
    world.now_s += 10.0
    assert world.checkup.found(world.rollout, world.connected(), 5.0) == Health()  # nobody has told lately


def test_wards_of_a_version_are_all_its_backends() -> None:
    world = World(checks="", phase=Phase.WARMING)
    assert list(world.ailing.wards()) == [Ward("checkout", "v2", (ONE, TWO), CONNECTING)]
