"""Looks at a candidate that gets requests other than by weight: whose stats they count, and when they begin anew."""

from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

import pytest

from rollout.drain import Active
from rollout.gate.sample import Look
from rollout.looks import ASIDE_BP
from rollout.machine import wanted
from rollout.metrics import ClusterStats, Scrape
from rollout.record import Rollout
from rollout.spec import Strategy
from rollout.state import SETTLE_S, Phase, Role, State
from rollout.traffic.routing import Routing
from tests.rollout.test_observer import World
from tests.xds.client import Wire
from xds.resources import CLUSTERS, ENDPOINTS, LISTENERS, ROUTES

STAGES = [{"expose": False}, {"mirror": "25%"}, {"match": {"headers": {"x-group": "beta"}}}, "50%", "100%"]
NAMES = ("checkout@initial", "checkout@v2", "checkout@v2+shadow")


@dataclass
class Aside:
    """A rollout with a stage of each kind, and one Envoy."""

    world: World
    wire: Wire

    def at(self, stage: int, **changes: Any) -> Rollout:
        state = State(Phase.SHIFTING, self.world.now_s, stage=stage)
        self.world.rollout = rollout = replace(self.world.rollout, state=replace(state, **changes))
        self.world.books.rollouts["checkout"] = rollout
        self.world.books.splits["checkout"] = wanted(rollout.strategy, rollout.state)
        self.world.publisher.serve("checkout", self.world.books.traffic("checkout"))
        self.converge()
        return rollout

    def converge(self) -> None:
        while replies := self.wire.replies():
            for reply in replies:
                self.wire.ack(reply)

    def read(self, *completed: int, active: tuple[int, ...] = (0, 0, 0)) -> None:
        self.world.now_s += 2 * SETTLE_S
        counts = zip(NAMES, completed, active, strict=True)
        clusters = {name: ClusterStats(completed=done, rq_active=running) for name, done, running in counts}
        self.world.scrapes["a"] = Scrape(self.world.now_s, self.world.now_s, clusters)

    def look(self, before: tuple[int, ...], after: tuple[int, ...]) -> Look:
        self.world.seen()
        self.read(*before)
        self.world.seen()
        self.read(*after)
        look = self.world.seen().look
        assert look is not None
        return look


@pytest.fixture
def aside() -> Aside:
    world = World()
    strategy = Strategy.model_validate({"stages": STAGES})
    at = datetime(2026, 1, 1, tzinfo=UTC)
    world.rollout = Rollout("checkout", 1, "initial", "v2", strategy, State(Phase.SHIFTING, 0.0), 1, at, at)
    wire = Wire(world.cache, "sotw")
    wire._node = {"id": "a", "cluster": "edge"}
    found = Aside(world, wire)
    found.at(0)
    for type_, names in ((CLUSTERS, ()), (ENDPOINTS, NAMES), (LISTENERS, ()), (ROUTES, ("main",))):
        wire.ask(type_, *names)
        found.converge()
    world.observer.note_nodes()
    return found


def counted(look: Look) -> tuple[int, int, int]:
    [stratum] = look.strata
    return stratum.weight_bp, stratum.stable.requests, stratum.candidate.requests


@pytest.mark.parametrize(("stage", "requests"), [(0, 7), (1, 7), (2, 3)])
def test_candidate_is_its_shadow_until_users_get_it(aside: Aside, stage: int, requests: int) -> None:
    aside.at(stage)
    look = aside.look((0, 0, 0), (100, 3, 7))
    assert counted(look) == (ASIDE_BP, 100, requests)
    assert look.astray == ()
    assert aside.world.observer.routes("checkout", 5) == ()


def test_stage_of_the_same_nominal_weight_begins_anew(aside: Aside) -> None:
    aside.at(2)
    assert counted(aside.look((0, 0, 0), (100, 3, 7))) == (ASIDE_BP, 100, 3)
    aside.at(3)
    assert counted(aside.look((200, 5, 7), (300, 95, 7))) == (5000, 100, 90)
    assert [route.weight_bp for route in aside.world.observer.routes("checkout", 5)] == [5000]


def test_nothing_is_looked_at_before_the_stage_is_served(aside: Aside) -> None:
    served = aside.world.books.splits["checkout"]
    aside.at(1)
    aside.world.books.splits["checkout"] = served
    aside.world.seen()
    assert aside.world.seen().look is None


def test_envoys_are_asked_for_the_shadow_and_what_runs_there_delays_a_drain(aside: Aside) -> None:
    query = aside.world.observer.questions()("a")
    assert query is not None
    assert set(NAMES) <= set(query.stat_names)
    aside.at(0, phase=Phase.DRAINING, loser=Role.CANDIDATE)
    aside.read(1, 1, 1, active=(9, 2, 3))
    active = aside.world.seen().active
    assert active is not None
    assert active == Active(active.at_s, {"a": 5}, active.newest_s)


def test_routing_follows_from_the_stage_and_the_strategy(aside: Aside) -> None:
    def routing(stage: int, **changes: Any) -> Routing:
        aside.at(stage, **changes)
        return aside.world.books.traffic("checkout").routing

    strategy = aside.world.rollout.strategy
    previewed = Routing("v2", shadow=True, preview=strategy.preview)
    assert routing(0) == previewed
    assert routing(1) == replace(previewed, mirror_bp=2500)
    assert routing(2) == replace(previewed, match=strategy.stages[2].match)
    assert routing(3) == previewed
    assert routing(3, phase=Phase.ROLLING_BACK, loser=Role.CANDIDATE) == Routing("v2", shadow=True)
    assert routing(3, phase=Phase.ROLLED_BACK, loser=Role.CANDIDATE) == Routing()


def test_version_is_not_let_go_while_a_route_leads_to_its_shadow(aside: Aside) -> None:
    publisher = aside.world.publisher
    assert publisher.letting_go("checkout", "v2")["a"].why == "may still use 'checkout@v2+shadow'"
    aside.at(0, phase=Phase.ROLLING_BACK, loser=Role.CANDIDATE)
    assert publisher.letting_go("checkout", "v2") == {}
    assert publisher.shadow_stat_name("checkout", "v2") == "checkout@v2+shadow"
