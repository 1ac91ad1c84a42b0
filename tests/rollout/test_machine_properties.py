"""A rollout in a world where anything may go wrong at any moment: what must hold all the way, and at the end."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as some
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from rollout.drain import Active
from rollout.errors import Conflict
from rollout.gate import Blind, Counts, Fail, Histogram, Look, Pass, Stratum, judge
from rollout.machine import advance, wanted, weight_bp
from rollout.record import dump_seen, dump_state, load_seen, load_state
from rollout.spec import FULL_BP, Strategy
from rollout.state import ENDED, SETTLE_S, Command, Effect, Phase, Role, Seen, Serve, Split, State, start

NODES = ("a", "b", "c")
STRATEGY = Strategy.model_validate(
    {
        "stages": [
            {"weight": "10%", "hold": "2s", "timeout": "8s"},
            {"weight": "50%", "hold": "0s", "timeout": "8s"},
            {"weight": "100%", "hold": "1s", "timeout": "8s"},
        ],
        "gate": {"min_requests": 20},
        "warm_timeout": "6s",
        "keep_stable": "1s",
        "drain_timeout": "5s",
    }
)
GRACE_S = 3.0  # so long an Envoy that went away is waited for
LOOK_EVERY_S = 1.0
IN_FLIGHT_S = 1.0  # so long requests go on after the weight is gone
FIRST = Split(0, frozenset({Role.STABLE}))
ENDS_WITHIN_S = 120.0


@dataclass
class Envoy:
    """A proxy: what it has, what it was offered since when, and what it cannot take."""

    has: Split = FIRST
    offered: Split = FIRST
    offered_s: float = 0.0
    away_s: float | None = None
    slow_s: float = 0.0
    refuses: Callable[[Split], bool] = lambda _split: False
    busy_until_s: dict[Role, float] = field(default_factory=lambda: dict.fromkeys(Role, 0.0))

    def live(self, served: Split, now_s: float) -> None:
        for role in Role:
            if share(self.has, role):
                self.busy_until_s[role] = now_s + IN_FLIGHT_S
        if self.away_s is not None:
            return
        if self.offered != served:
            self.offered, self.offered_s = served, now_s
        if not self.refuses(served) and now_s >= self.offered_s + self.slow_s:
            self.has = served


def share(split: Split, role: Role) -> int:
    return split.candidate_bp if role is Role.CANDIDATE else FULL_BP - split.candidate_bp


@dataclass
class World:
    """What there is outside of the machine."""

    now_s: float = 0.0
    served: Split = FIRST
    envoys: dict[str, Envoy] = field(default_factory=lambda: {node: Envoy() for node in NODES})
    healthy: bool = True
    blind: bool = False
    requests: int = 200
    errors: float = 0.0
    looked_s: float = 0.0
    retired: bool = False

    def pass_time(self, seconds: float) -> None:
        self.now_s += seconds
        for envoy in self.envoys.values():
            envoy.live(self.served, self.now_s)

    def connected(self) -> dict[str, Envoy]:
        return {node: envoy for node, envoy in self.envoys.items() if envoy.away_s is None}

    def missing(self) -> dict[str, str]:
        away = {node: envoy.away_s for node, envoy in self.envoys.items() if envoy.away_s is not None}
        return {node: "is disconnected" for node, since_s in away.items() if self.now_s - since_s < GRACE_S}

    def refused(self) -> dict[str, str]:
        return {node: "refused it: no" for node, envoy in self.connected().items() if envoy.refuses(self.served)}

    def lagging(self) -> dict[str, str]:
        late = {node: "has not answered" for node, envoy in self.connected().items() if envoy.has != self.served}
        return {**self.missing(), **late, **self.refused()}

    def observe(self, state: State, command: Command | None) -> Seen:
        seen = Seen(
            self.now_s,
            len(self.connected()),
            fleet=len(self.connected()) + len(self.missing()),
            served=self.served,
            lagging=self.lagging(),
            refused=self.refused(),
            retired=self.retired,
            command=command,
        )
        match state.phase:
            case Phase.WARMING if self.now_s > state.since_s:
                return replace(seen, unready=() if self.healthy else ("a: 0 of 2 backends healthy",))
            case Phase.SHIFTING | Phase.PAUSED if (
                self.served.candidate_bp and self.now_s - self.looked_s >= LOOK_EVERY_S
            ):
                self.looked_s = self.now_s
                return replace(seen, looked_s=self.now_s, look=self.look())
            case Phase.DRAINING if self.connected():
                assert state.loser is not None
                return replace(seen, active=Active(self.now_s - 0.01, self.running(state.loser)))
            case _:
                return seen

    def look(self) -> Look:
        if self.blind:
            return Look((), ("a: no stats",))
        settled = [envoy.has for node, envoy in self.connected().items() if node not in self.lagging()]
        return Look(
            tuple(
                Stratum(
                    split.candidate_bp,
                    self.did(share(split, Role.STABLE), 0.0),
                    self.did(share(split, Role.CANDIDATE), self.errors),
                )
                for split in settled
            )
        )

    def did(self, weight: int, errors: float) -> Counts:
        requests = self.requests * weight // FULL_BP
        return Counts(
            requests, int(errors * requests), latency=Histogram.of([(10.0, 1.0, requests)] if requests else [])
        )

    def running(self, loser: Role) -> Mapping[str, int | None]:
        return {
            node: None if self.blind else int(self.now_s < envoy.busy_until_s[loser])
            for node, envoy in self.connected().items()
        }

    def apply(self, effects: tuple[Effect, ...]) -> None:
        for effect in effects:
            if isinstance(effect, Serve):
                self.served = effect.split
            else:
                self.retired = True

    def heal(self) -> None:
        self.healthy, self.blind = True, False
        for envoy in self.envoys.values():
            envoy.away_s, envoy.slow_s, envoy.refuses = None, 0.0, lambda _split: False


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
            after, effects = advance(STRATEGY, before, seen)
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
        if everyone and self.full_s is None and self.world.served == wanted(STRATEGY, self.state):
            self.full_s = seen.now_s

    def check_effects(self, after: State, seen: Seen, effects: tuple[Effect, ...]) -> None:
        split = wanted(STRATEGY, after)
        assert (Serve(split) in effects) == (seen.served != split)
        if after.phase in ENDED and seen.served == split:
            assert bool(effects) == (not seen.retired)
        if seen.command is None:
            assert advance(STRATEGY, after, seen) == (after, effects), "an equal observation changes nothing"
        assert load_state(dump_state(after)) == after

    def check_move(self, before: State, after: State, seen: Seen) -> None:
        envoys = self.world.connected().values()
        if weight_bp(STRATEGY, after) > weight_bp(STRATEGY, before) and seen.command is None:
            assert before.phase in (Phase.WARMING, Phase.SHIFTING)
            assert seen.connected
            assert not seen.lagging
            assert all(envoy.has == wanted(STRATEGY, before) for envoy in envoys)
            if before.phase is Phase.SHIFTING:
                assert self.whole_looks > 0
                assert before.looked_s > self.resumed_s or seen.look
                verdict = judge(STRATEGY.gate, before.evidence, seen.look)[1] if seen.look else before.verdict
                assert isinstance(verdict, Pass)
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
            assert share(wanted(STRATEGY, after), _loser(after)) == 0
        if after.phase in ENDED:
            assert before.phase in ENDED or all(envoy.has == wanted(STRATEGY, after) for envoy in envoys)
            assert _loser(after) not in wanted(STRATEGY, after).present
        if after.phase is Phase.ROLLED_BACK:
            assert wanted(STRATEGY, after) == FIRST
        self.check_stop(before, after, seen)

    def check_stop(self, before: State, after: State, seen: Seen) -> None:
        """A fail goes back, a NACK stops; whoever stops says why and knows where he was."""
        if isinstance(after.verdict, Fail) and before.phase in (Phase.SHIFTING, Phase.PAUSED):
            assert after.phase is Phase.ROLLING_BACK
        elif seen.refused and seen.command is None and before.phase in (Phase.PENDING, Phase.WARMING, Phase.SHIFTING):
            assert after.phase is Phase.PAUSED
            assert all(f"{node} {why}" in after.reason for node, why in seen.refused.items())
        assert after.reason
        assert (after.phase is Phase.PAUSED) == (after.resume is not None)
        if after.resume is not None:
            assert after.resume in (Phase.PENDING, Phase.WARMING, Phase.SHIFTING)
            assert wanted(STRATEGY, after) == wanted(STRATEGY, replace(after, phase=after.resume, resume=None))

    def check_abort_is_possible(self) -> None:
        let_go = self.state.loser is Role.STABLE and self.state.phase is not Phase.RETAINING
        if let_go or self.state.phase in ENDED:
            return
        nothing = Seen(self.world.now_s, 0, served=None, command=Command.ABORT)
        following, effects = advance(STRATEGY, self.state, nothing)
        assert weight_bp(STRATEGY, following) == 0
        assert following.loser is Role.CANDIDATE
        assert effects == (Serve(wanted(STRATEGY, following)),)

    # --- what may happen ---

    @initialize(
        requests=some.sampled_from([0, 40, 200, 200]),
        errors=some.sampled_from([0.0, 0.0, 0.0, 0.02, 0.5]),
        healthy=some.booleans(),
        phase=some.sampled_from(Phase),
    )
    def some_way_has_been_gone(self, requests: int, errors: float, healthy: bool, phase: Phase) -> None:
        self.world.requests, self.world.errors, self.world.healthy = requests, errors, healthy
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
        assert advance(STRATEGY, self.state, self.last)[0] == self.state

    @rule(published=some.booleans())
    def the_server_restarts(self, published: bool) -> None:
        self.state = load_state(dump_state(self.state))
        self.world.looked_s = self.world.now_s
        if published:
            self.world.served = wanted(STRATEGY, self.state)

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

    @rule(blind=some.booleans(), healthy=some.booleans(), errors=some.sampled_from([0.0, 0.0, 0.5]))
    def the_view_changes(self, blind: bool, healthy: bool, errors: float) -> None:
        self.world.blind, self.world.healthy, self.world.errors = blind, healthy, errors

    # --- how it must end ---

    def teardown(self) -> None:
        self.replay()
        self.world.heal()
        self.run_until_still()
        if self.state.phase is Phase.PAUSED:
            self.step(0.1, Command.ABORT)
            self.run_until_still()
        assert self.state.phase in ENDED
        assert self.world.retired
        self.replay()

    def run_until_still(self) -> None:
        until_s = self.world.now_s + ENDS_WITHIN_S
        while not (self.state.phase is Phase.PAUSED or (self.state.phase in ENDED and self.world.retired)):
            assert self.world.now_s < until_s, self.state
            self.step(0.25)

    def replay(self) -> None:
        """The journal alone gives the same states."""
        state = start(0.0, "deployed")
        for seen, following in self.journal:
            state, _ = advance(STRATEGY, state, load_seen(dump_seen(seen)))
            assert state == following


def _loser(state: State) -> Role:
    assert state.loser is not None
    return state.loser


Life.TestCase.settings = settings(
    max_examples=150, stateful_step_count=20, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
TestLife = Life.TestCase


@pytest.mark.parametrize(
    ("requests", "errors", "ended", "highest_bp"),
    [(200, 0.0, Phase.COMPLETED, 10_000), (200, 0.5, Phase.ROLLED_BACK, 1000)],
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


@pytest.mark.parametrize(("requests", "blind", "why"), [(0, False, "of 20 requests"), (200, True, "a: no stats")])
def test_a_rollout_that_learns_nothing_asks(requests: int, blind: bool, why: str) -> None:
    life = Life()
    life.world.requests, life.world.blind = requests, blind
    life.run_until_still()
    assert life.state.phase is Phase.PAUSED
    assert life.state.reason.startswith("no decision at 10 % after 10 s: ")
    assert why in life.state.reason
    assert isinstance(life.state.verdict, Blind) == blind


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
