"""A rollout in a world where anything may go wrong at any moment: what must hold all the way, and at the end."""

from collections.abc import Callable
from dataclasses import replace

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as some
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from rollout.errors import Conflict
from rollout.exposure import FULL_BP
from rollout.gate import Blind, Fail, Pass, judge
from rollout.machine import advance, plan, plan_of, step_of, wanted, weight_bp
from rollout.record import dump_seen, dump_state, load_seen, load_state
from rollout.state import (
    ENDED,
    SETTLE_S,
    Awaited,
    Command,
    Effect,
    LetGo,
    Phase,
    Role,
    Seen,
    Serve,
    Split,
    State,
    start,
)
from tests.rollout.world import BAD_HOST, BUSY, ENDS_WITHIN_S, FIRST, NODES, STRATEGY, World, share


class Life(RuleBasedStateMachine):
    """Drives one rollout through whatever hypothesis thinks of, and checks each step."""

    def __init__(self) -> None:
        super().__init__()
        self.world = World()
        self.state = start(0.0, "deployed")
        self.last: Seen | None = None
        self.journal: list[tuple[Seen, State]] = []
        self.full_s: float | None = None  # since when all have the stage's weight: the world's truth
        self.whole_looks = 0  # of this stage, that began after that
        self.resumed_s = -1.0

    def step(self, seconds: float, command: Command | None = None, *, lost: bool = False) -> None:
        self.world.pass_time(seconds)
        before, seen = self.state, self.world.observe(self.state, command)
        self.note_look(seen)
        try:
            after, effects = advance(self.world.strategy, before, seen)
        except Conflict:
            assert command is not None
            return
        if after != before:
            self.journal.append((seen, after))
        self.state, self.last = after, seen
        self.check_effects(after, seen, effects)
        self.check_move(before, after, seen)
        self.check_abort_is_possible()
        if (before.phase, before.stage) != (after.phase, after.stage) and after.phase is Phase.SHIFTING:
            self.full_s, self.whole_looks = (self.full_s, self.whole_looks) if before.resume else (None, 0)
        if command is Command.RESUME:
            self.resumed_s = seen.now_s
        if not lost:
            self.world.apply(effects)

    def note_look(self, seen: Seen) -> None:
        """Keep count of what a pass may rest on, apart from the machine's own book-keeping."""
        if self.state.phase not in (Phase.SHIFTING, Phase.PAUSED):
            return
        began_s = self.state.looked_s
        if seen.look is not None and self.full_s is not None and began_s >= self.full_s:
            self.whole_looks += 1
        everyone = self.world.connected() and not self.world.lagging()
        if everyone and self.full_s is None and self.world.served == wanted(self.world.strategy, self.state):
            self.full_s = seen.now_s

    def check_effects(self, after: State, seen: Seen, effects: tuple[Effect, ...]) -> None:
        split = wanted(self.world.strategy, after)
        assert (Serve(split) in effects) == (seen.served != split)
        if after.phase in ENDED and seen.served == split:
            assert bool(effects) == (not seen.retired)
        let_go = after.let_go and after.loser is None and after.let_go not in seen.leaving
        assert (LetGo(after.let_go) in effects) == bool(let_go and seen.served == split)
        if seen.command is None:
            assert advance(self.world.strategy, after, seen) == (after, effects), "an equal observation changes nothing"
        assert load_state(dump_state(after)) == after

    def check_move(self, before: State, after: State, seen: Seen) -> None:
        envoys = self.world.connected().values()
        if weight_bp(self.world.strategy, after) > weight_bp(self.world.strategy, before) and seen.command is None:
            assert before.phase in (Phase.WARMING, Phase.SHIFTING)
            assert seen.connected
            assert not seen.lagging
            assert all(envoy.has == wanted(self.world.strategy, before) for envoy in envoys)
            if before.phase is Phase.SHIFTING:
                assert self.whole_looks > 0
                assert before.looked_s > self.resumed_s or seen.look
                step, verdict = step_of(self.world.strategy, before), before.verdict
                if seen.look and step.weight_bp:
                    _, verdict = judge(self.world.strategy.gate, (), before.evidence, seen.look, step)
                assert isinstance(verdict, Pass) or not step.weight_bp
                assert not seen.frozen
            else:
                assert self.world.healthy
        if after.phase is Phase.DRAINING and before.phase is not Phase.DRAINING:
            assert after.loser is not None
            assert seen.connected
            assert not seen.lagging
            assert not any(share(envoy.has, after.loser) for envoy in envoys)
        if after.phase is Phase.DRAINING and any(share(envoy.has, _loser(after)) for envoy in envoys):
            assert after.drain is not None
            assert after.drain.idle_looks == 0
        if after.phase in (Phase.DRAINING, Phase.REMOVING, *ENDED):
            assert share(wanted(self.world.strategy, after), _loser(after)) == 0
        if after.phase in ENDED:
            assert before.phase in ENDED or all(envoy.has == wanted(self.world.strategy, after) for envoy in envoys)
            assert _loser(after) not in wanted(self.world.strategy, after).present
        if after.phase is Phase.ROLLED_BACK:
            assert wanted(self.world.strategy, after) == FIRST
        self.check_stop(before, after, seen)
        self.check_plan(before, after, seen)

    def check_stop(self, before: State, after: State, seen: Seen) -> None:
        """A fail goes back, a NACK stops; whoever stops says why and knows where he was."""
        if isinstance(after.verdict, Fail) and before.phase in (Phase.SHIFTING, Phase.PAUSED):
            assert after.phase is Phase.ROLLING_BACK
        elif after.loser is Role.CANDIDATE:
            assert weight_bp(self.world.strategy, after) == 0
        elif seen.refused and seen.command is None and before.phase in (Phase.PENDING, Phase.WARMING, Phase.SHIFTING):
            assert after.phase is Phase.PAUSED
            assert all(f"{node} {why}" in after.reason for node, why in seen.refused.items())
        assert after.reason
        assert (after.phase is Phase.PAUSED) == (after.resume is not None)
        if after.resume is not None:
            assert after.resume in (Phase.PENDING, Phase.WARMING, Phase.SHIFTING)
            assert wanted(self.world.strategy, after) == wanted(
                self.world.strategy, replace(after, phase=after.resume, resume=None)
            )

    def check_plan(self, before: State, after: State, seen: Seen) -> None:
        """Stages are planned once, when they begin; one backend at most is let go, and only instead of a rollback."""
        assert 0 <= after.stage < len(plan_of(self.world.strategy, after))
        if before.phase is Phase.WARMING and after.phase is Phase.SHIFTING:
            assert seen.past is not None
            assert after.plan == plan(self.world.strategy, seen.past)
        else:
            assert after.plan == before.plan
        if after.let_go != before.let_go:
            assert (before.let_go, after.let_go) == ("", BAD_HOST)
            assert seen.look is not None
            _, verdict = judge(
                self.world.strategy.gate, (), before.evidence, seen.look, step_of(self.world.strategy, before)
            )
            assert isinstance(verdict, Fail)
            assert (after.phase, after.stage) == (before.phase, before.stage)
        if before.resume is Phase.SHIFTING and after.phase is Phase.SHIFTING:
            assert after.evidence.blind_s is None

    def check_abort_is_possible(self) -> None:
        let_go = self.state.loser is Role.STABLE and self.state.phase is not Phase.RETAINING
        if let_go or self.state.phase in ENDED:
            return
        nothing = Seen(self.world.now_s, 0, served=None, command=Command.ABORT)
        following, effects = advance(self.world.strategy, self.state, nothing)
        assert weight_bp(self.world.strategy, following) == 0
        assert following.loser is Role.CANDIDATE
        assert effects == (Serve(wanted(self.world.strategy, following)),)

    # --- what may happen ---

    @initialize(
        requests=some.sampled_from([0, 400, 20_000, 20_000]),
        errors=some.sampled_from([0.0, 0.0, 0.0, 0.02, 0.5]),
        healthy=some.booleans(),
        rate_rps=some.sampled_from([None, 60_000.0, 15.0]),
        phase=some.sampled_from(Phase),
    )
    def some_way_has_been_gone(
        self, requests: int, errors: float, healthy: bool, rate_rps: float | None, phase: Phase
    ) -> None:
        self.world.requests, self.world.errors, self.world.healthy = requests, errors, healthy
        self.world.rate_rps = rate_rps
        for _ in range(120):
            if self.state.phase is not phase:
                self.step(0.25)

    @rule(seconds=some.sampled_from([0.0, 0.05, SETTLE_S, 0.3, 0.5, 1.0, 1.0, 4.0, 20.0]), lost=some.booleans())
    def time_passes(self, seconds: float, lost: bool) -> None:
        self.step(seconds, lost=lost)

    @rule(seconds=some.sampled_from([1, 3, 10, 30]))
    def all_is_quiet(self, seconds: int) -> None:
        for _ in range(seconds * 4):
            self.step(0.25)

    @rule(command=some.sampled_from(Command), lost=some.booleans())
    def an_operator_asks(self, command: Command, lost: bool) -> None:
        self.step(0.1, command, lost=lost)

    @precondition(lambda self: self.last is not None and self.last.command is None)
    @rule()
    def the_last_observation_comes_again(self) -> None:
        assert self.last is not None
        assert advance(self.world.strategy, self.state, self.last)[0] == self.state

    @rule(published=some.booleans())
    def the_server_restarts(self, published: bool) -> None:
        self.state = load_state(dump_state(self.state))
        self.world.looked_s = self.world.now_s
        if published:
            self.world.served = wanted(self.world.strategy, self.state)

    @rule(node=some.sampled_from(NODES))
    def an_envoy_goes(self, node: str) -> None:
        self.world.envoys[node].away_s = self.world.now_s
        self.step(0.0)

    @rule()
    def all_envoys_go(self) -> None:
        for envoy in self.world.envoys.values():
            envoy.away_s = self.world.now_s
        self.step(0.1)

    @rule(node=some.sampled_from(NODES), restarted=some.booleans())
    def an_envoy_comes(self, node: str, restarted: bool) -> None:
        envoy = self.world.envoys[node]
        if envoy.away_s is not None:
            envoy.away_s = None
            envoy.has = envoy.offered = FIRST if restarted else envoy.has
            envoy.offered_s = self.world.now_s
        self.step(0.0)

    @rule(node=some.sampled_from(NODES), seconds=some.sampled_from([0.0, 0.3, 2.0, 15.0]))
    def an_envoy_is_slow(self, node: str, seconds: float) -> None:
        self.world.envoys[node].slow_s = seconds
        self.step(0.1)

    @rule(node=some.sampled_from(NODES), kind=some.sampled_from(["nothing", "the candidate", "weights", "all"]))
    def an_envoy_refuses(self, node: str, kind: str) -> None:
        refuses: dict[str, Callable[[Split], bool]] = {
            "nothing": lambda _split: False,
            "the candidate": lambda split: Role.CANDIDATE in split.present,
            "weights": lambda split: 0 < split.candidate_bp < FULL_BP,
            "all": lambda _split: True,
        }
        envoy = self.world.envoys[node]
        envoy.refuses = lambda split: split != envoy.has and refuses[kind](split)
        self.step(0.1)

    @rule(
        blind=some.booleans(),
        healthy=some.booleans(),
        errors=some.sampled_from([0.0, 0.0, 0.5]),
        one_bad=some.booleans(),
    )
    def the_view_changes(self, blind: bool, healthy: bool, errors: float, one_bad: bool) -> None:
        self.world.blind, self.world.healthy = blind, healthy
        self.world.errors, self.world.one_bad = errors, one_bad

    # --- how it must end ---

    def teardown(self) -> None:
        self.replay()
        self.world.heal()
        self.run_until_still()
        while self.state.awaited is Awaited.APPROVAL:
            self.step(0.1, Command.APPROVE)
            self.run_until_still()
        if self.state.phase is Phase.PAUSED:
            self.step(0.1, Command.ABORT)
            self.run_until_still()
        assert self.state.phase in ENDED
        assert self.world.retired
        self.replay()

    def run_until_still(self) -> None:
        until_s = self.world.now_s + ENDS_WITHIN_S
        asking = (Awaited.APPROVAL, Awaited.DECISION, Awaited.OPERATOR)
        while self.state.awaited not in asking and not (self.state.phase in ENDED and self.world.retired):
            assert self.world.now_s < until_s, self.state
            self.step(0.25)

    def replay(self) -> None:
        """The journal alone gives the same states."""
        state = start(0.0, "deployed")
        for seen, following in self.journal:
            state, _ = advance(self.world.strategy, state, load_seen(dump_seen(seen)))
            assert state == following


def _loser(state: State) -> Role:
    assert state.loser is not None
    return state.loser


Life.TestCase.settings = settings(
    max_examples=150, stateful_step_count=20, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
TestLife = Life.TestCase


class BusyLife(Life):
    """With people, hooks and a calendar that have a say."""

    def __init__(self) -> None:
        super().__init__()
        self.world.strategy = BUSY

    @rule(frozen=some.booleans())
    def the_calendar_changes(self, frozen: bool) -> None:
        self.world.frozen = "frozen fri" if frozen else ""
        self.step(0.1)

    @rule(agreeing=some.booleans(), silent=some.booleans())
    def hooks_change_their_minds(self, agreeing: bool, silent: bool) -> None:
        self.world.agreeing, self.world.silent = agreeing, silent
        self.step(0.1)


BusyLife.TestCase.settings = settings(Life.TestCase.settings, max_examples=80)
TestBusyLife = BusyLife.TestCase


@pytest.mark.parametrize(
    ("requests", "errors", "ended", "highest_bp"),
    [(20_000, 0.0, Phase.COMPLETED, 10_000), (20_000, 0.5, Phase.ROLLED_BACK, 1000)],
)
def test_a_rollout_without_faults_ends_by_itself(requests: int, errors: float, ended: Phase, highest_bp: int) -> None:
    life = Life()
    life.world.requests, life.world.errors = requests, errors
    highest = 0
    while not life.world.retired:
        life.step(0.25)
        highest = max(highest, weight_bp(STRATEGY, life.state))
        assert life.world.now_s < ENDS_WITHIN_S
    assert (life.state.phase, highest) == (ended, highest_bp)


@pytest.mark.parametrize(
    ("requests", "blind", "why"),
    [
        (
            0,
            False,
            "no decision at 10 % after 8 s: the candidate has answered nothing yet, beside 0 requests of stable",
        ),
        (20_000, True, "data has been missing for 4 s: a: no stats"),
    ],
)
def test_a_rollout_that_learns_nothing_asks(requests: int, blind: bool, why: str) -> None:
    life = Life()
    life.world.requests, life.world.blind = requests, blind
    life.run_until_still()
    assert life.state.phase is Phase.PAUSED
    assert life.state.reason.startswith(why)
    assert isinstance(life.state.verdict, Blind) == blind


def test_a_rollout_goes_on_without_its_one_bad_backend() -> None:
    life = Life()
    life.world.errors, life.world.one_bad = 0.5, True
    while not life.world.retired:
        life.step(0.25)
        assert life.world.now_s < ENDS_WITHIN_S
    assert (life.state.phase, life.state.let_go) == (Phase.COMPLETED, BAD_HOST)
    assert life.world.leaving == {BAD_HOST}


def test_at_low_traffic_a_rollout_has_fewer_stages() -> None:
    life = Life()
    life.world.rate_rps = 15.0
    weights_bp = set()
    while not life.world.retired:
        life.step(0.25)
        weights_bp.add(weight_bp(STRATEGY, life.state))
        assert life.world.now_s < ENDS_WITHIN_S
    assert life.state.phase is Phase.COMPLETED
    assert weights_bp == {0, 5_000, 10_000}


@pytest.mark.parametrize("phase", [Phase.WARMING, Phase.SHIFTING])
def test_an_abort_ends_though_an_envoy_never_takes_the_candidate(phase: Phase) -> None:
    life = Life()
    while life.state.phase is not phase:
        life.step(0.25)
    life.an_envoy_refuses("b", "the candidate")
    life.world.envoys["b"].has = FIRST  # it came just now, and has nothing of it
    life.step(0.25)
    assert (life.state.phase, life.state.reason) == (Phase.PAUSED, "b refused it: no")
    life.step(0.1, Command.ABORT)
    life.run_until_still()
    assert life.state.phase is Phase.ROLLED_BACK
    assert life.state.reason.startswith("aborted by an operator")


def test_a_rollback_waits_for_an_envoy_to_come_back() -> None:
    life = Life()
    while weight_bp(STRATEGY, life.state) < 5000:
        life.step(0.25)
    life.all_envoys_go()
    life.step(0.1, Command.ABORT)
    for _ in range(400):
        life.step(0.25)
    assert life.state.phase is Phase.ROLLING_BACK
    life.teardown()
    assert life.state.phase.value == Phase.ROLLED_BACK.value
