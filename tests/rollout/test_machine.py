"""Each step of a rollout by itself: what is known, what follows, and what is asked for."""

from dataclasses import replace
from typing import NamedTuple

import pytest

from rollout.drain import Active, Drain
from rollout.errors import Conflict
from rollout.gate import Blind, Counts, Evidence, Fail, Histogram, Inconclusive, Look, Pass, Stratum, judge
from rollout.machine import advance, wanted, weight_bp
from rollout.spec import Strategy
from rollout.state import ENDED, TRANSITIONS, Command, Phase, Retire, Role, Seen, Serve, Split, State, start

STRATEGY = Strategy.model_validate(
    {
        "stages": [{"weight": "10%", "hold": "5s", "timeout": "60s"}, "50%", "100%"],
        "gate": {"min_requests": 10},
        "warm_timeout": "20s",
        "keep_stable": "10s",
        "drain_timeout": "30s",
    }
)
BOTH = frozenset(Role)
BEFORE = Split(0, frozenset({Role.STABLE}))
WARM = Split(0, BOTH)
TENTH = Split(1000, BOTH)
HALF = Split(5000, BOTH)
ALL = Split(10_000, BOTH)
DRAINING_STABLE = Split(10_000, BOTH, draining=Role.STABLE)
DRAINING_CANDIDATE = Split(0, BOTH, draining=Role.CANDIDATE)
AFTER = Split(10_000, frozenset({Role.CANDIDATE}))

PASS = Pass("as good as stable")
FAIL = Fail("error share 30 % against 0 %")

PENDING = State(Phase.PENDING, 0.0, reason="deployed")
WARMING = State(Phase.WARMING, 1.0, reason="the candidate is pushed to every Envoy")
STAGE = State(Phase.SHIFTING, 10.0, converged_s=11.0, looked_s=12.0, reason="go")
LAST = replace(STAGE, stage=2)
RETAINING = State(Phase.RETAINING, 10.0, stage=2, converged_s=10.0, loser=Role.STABLE, reason="good")
ROLLING_BACK = State(Phase.ROLLING_BACK, 10.0, verdict=FAIL, reason=FAIL.reason, loser=Role.CANDIDATE)
DRAINING = State(Phase.DRAINING, 10.0, converged_s=10.1, loser=Role.STABLE, drain=Drain(10.0), reason="good")
REMOVING = State(Phase.REMOVING, 10.0, converged_s=10.1, loser=Role.STABLE, reason="good")


def seen(now_s: float, served: Split | None, **others: object) -> Seen:
    """Two Envoys that have all that is served."""
    return replace(Seen(now_s, 2, fleet=2, served=served), **others)  # type: ignore[arg-type]  # Seen's own fields


def good(requests: int = 20) -> Look:
    return Look((Stratum(1000, answered(9 * requests), answered(requests)),))


def answered(requests: int) -> Counts:
    return Counts(requests=requests, latency=Histogram.of([(10.0, 1.0, requests)]))


def paused(state: State, at_s: float, reason: str) -> State:
    kept = state.converged_s if state.phase is Phase.SHIFTING else None
    return replace(state, phase=Phase.PAUSED, since_s=at_s, converged_s=kept, reason=reason, resume=state.phase)


class Move(NamedTuple):
    """One transition: a state, what is seen then, and the state that follows."""

    state: State
    seen: Seen
    following: State


def rolled_back(state: State, at_s: float, reason: str, **others: object) -> State:
    following = State(Phase.ROLLING_BACK, at_s, state.stage, reason=reason, loser=Role.CANDIDATE)
    kept = replace(following, evidence=state.evidence, verdict=state.verdict, looked_s=state.looked_s)
    return replace(kept, **others)  # type: ignore[arg-type]  # State's own fields


PAUSED_STAGE = paused(STAGE, 15.0, "paused by ann")
PAUSED_WARMING = paused(WARMING, 15.0, "paused by ann")
PAUSED_PENDING = paused(PENDING, 15.0, "paused by ann")
CUT = Active(39.9, {"a": 2, "b": None, "c": 0})
REFUSED = {"a": "refused RDS routes: too big", "b": "refused CDS checkout@v2: bad"}

MOVES = {
    "a new rollout warms its candidate": Move(PENDING, seen(1.0, BEFORE), WARMING),
    "a rollout waits when the fleet refuses something": Move(
        PENDING, seen(1.0, BEFORE, refused={"b": "refused CDS x: bad"}), paused(PENDING, 1.0, "b refused CDS x: bad")
    ),
    "a rollout can be aborted before anything was pushed": Move(
        PENDING,
        seen(1.0, BEFORE, command=Command.ABORT, by="ann"),
        replace(
            PENDING,
            phase=Phase.REMOVING,
            since_s=1.0,
            converged_s=1.0,
            reason="aborted by ann",
            loser=Role.CANDIDATE,
        ),
    ),
    "a candidate that is healthy through every Envoy gets traffic": Move(
        replace(WARMING, converged_s=1.5),
        seen(2.0, WARM, unready=()),
        State(Phase.SHIFTING, 2.0, reason="the candidate is healthy through every Envoy"),
    ),
    "a candidate that does not become ready asks": Move(
        replace(WARMING, converged_s=1.5),
        seen(21.0, WARM, unready=("b: 1 of 2 backends healthy",)),
        paused(WARMING, 21.0, "the candidate is not ready after 20 s: b: 1 of 2 backends healthy"),
    ),
    "a candidate that had no traffic is removed at once": Move(
        replace(WARMING, converged_s=1.5),
        seen(2.0, WARM, refused=REFUSED, lagging=REFUSED, command=Command.ABORT, by="ann"),
        replace(WARMING, phase=Phase.REMOVING, since_s=2.0, reason="aborted by ann", loser=Role.CANDIDATE),
    ),
    "a stage that held and passed is followed by the next": Move(
        replace(STAGE, verdict=PASS),
        seen(16.0, TENTH),
        replace(STAGE, since_s=16.0, stage=1, converged_s=None, reason=PASS.reason),
    ),
    "the last stage is followed by keeping the old version": Move(
        replace(LAST, verdict=PASS),
        seen(16.0, ALL),
        replace(
            LAST,
            phase=Phase.RETAINING,
            since_s=16.0,
            converged_s=16.0,
            verdict=PASS,
            reason=PASS.reason,
            loser=Role.STABLE,
        ),
    ),
    "a NACK stops a stage": Move(
        replace(STAGE, verdict=PASS),
        seen(16.0, TENTH, refused=REFUSED, lagging=REFUSED),
        paused(
            replace(STAGE, verdict=PASS),
            16.0,
            "a refused RDS routes: too big; b refused CDS checkout@v2: bad",
        ),
    ),
    "a failed stage is rolled back": Move(
        replace(STAGE, verdict=FAIL), seen(16.0, TENTH), rolled_back(replace(STAGE, verdict=FAIL), 16.0, FAIL.reason)
    ),
    "a pause before the push is resumed": Move(
        PAUSED_PENDING,
        seen(20.0, BEFORE, command=Command.RESUME),
        replace(PENDING, since_s=20.0, converged_s=20.0, reason="resumed by an operator"),
    ),
    "a pause while warming is resumed": Move(
        PAUSED_WARMING,
        seen(20.0, WARM, command=Command.RESUME),
        replace(WARMING, since_s=20.0, converged_s=20.0, reason="resumed by an operator"),
    ),
    "a pause of a stage is resumed with what it has shown, but its verdict": Move(
        replace(PAUSED_STAGE, verdict=PASS),
        seen(20.0, TENTH, command=Command.RESUME),
        replace(STAGE, since_s=20.0, reason="resumed by an operator"),
    ),
    "a paused last stage can be promoted": Move(
        paused(LAST, 15.0, "no decision"),
        seen(20.0, ALL, command=Command.PROMOTE, by="ann"),
        replace(
            LAST,
            phase=Phase.RETAINING,
            since_s=20.0,
            converged_s=20.0,
            reason="promoted by ann",
            loser=Role.STABLE,
        ),
    ),
    "a paused stage can be aborted": Move(
        PAUSED_STAGE,
        seen(20.0, TENTH, command=Command.ABORT, by="bob"),
        rolled_back(PAUSED_STAGE, 20.0, "aborted by bob"),
    ),
    "a paused rollout without traffic can be aborted": Move(
        PAUSED_WARMING,
        seen(20.0, WARM, command=Command.ABORT, by="bob"),
        replace(WARMING, phase=Phase.REMOVING, since_s=20.0, reason="aborted by bob", loser=Role.CANDIDATE),
    ),
    "the old version goes when it was kept long enough": Move(
        RETAINING,
        seen(20.0, ALL),
        replace(RETAINING, phase=Phase.DRAINING, since_s=20.0, converged_s=None, drain=Drain(20.0)),
    ),
    "the old version can be taken back while it is kept": Move(
        RETAINING,
        seen(15.0, ALL, command=Command.ABORT),
        replace(ROLLING_BACK, since_s=15.0, stage=2, verdict=None, reason="aborted by an operator"),
    ),
    "a rollback that every Envoy has is drained": Move(
        replace(ROLLING_BACK, converged_s=10.5),
        seen(11.0, WARM),
        replace(ROLLING_BACK, phase=Phase.DRAINING, since_s=11.0, drain=Drain(11.0)),
    ),
    "a rollback that an Envoy refuses is removed without a drain": Move(
        ROLLING_BACK,
        seen(40.0, WARM, lagging={"b": "refused x"}, refused={"b": "refused x"}),
        replace(ROLLING_BACK, phase=Phase.REMOVING, since_s=40.0, reason=f"{FAIL.reason}; not drained: b refused x"),
    ),
    "a version on which nothing runs is removed": Move(
        replace(DRAINING, drain=Drain(10.0, 10.2, idle_looks=2, looked_s=11.0, running=0)),
        seen(11.5, DRAINING_STABLE, active=Active(11.4, {"a": 0, "b": 0})),
        replace(
            DRAINING,
            phase=Phase.REMOVING,
            since_s=11.5,
            converged_s=None,
            drain=Drain(10.0, 10.2, idle_looks=3, looked_s=11.4, running=0),
        ),
    ),
    "the good candidate is all that is left": Move(
        REMOVING, seen(11.0, AFTER), replace(REMOVING, phase=Phase.COMPLETED, since_s=11.0, converged_s=None)
    ),
    "the bad candidate is gone": Move(
        replace(REMOVING, loser=Role.CANDIDATE),
        seen(11.0, BEFORE),
        replace(REMOVING, loser=Role.CANDIDATE, phase=Phase.ROLLED_BACK, since_s=11.0, converged_s=None),
    ),
}


@pytest.mark.parametrize("name", MOVES)
def test_a_transition(name: str) -> None:
    move = MOVES[name]
    split = wanted(STRATEGY, move.following)
    following, effects = advance(STRATEGY, move.state, move.seen)
    assert following == move.following
    if move.seen.served != split:
        assert effects == (Serve(split),)
    else:
        assert effects == (
            (Retire(Role.STABLE if split == AFTER else Role.CANDIDATE),) if following.phase in ENDED else ()
        )


def test_every_transition_of_the_table_is_shown_above() -> None:
    table = {(phase, following) for phase in TRANSITIONS for following in TRANSITIONS[phase]}
    assert {(move.state.phase, move.following.phase) for move in MOVES.values()} == table


@pytest.mark.parametrize("name", [name for name, move in MOVES.items() if move.seen.command is None])
def test_the_same_observation_again_changes_nothing(name: str) -> None:
    move = MOVES[name]
    assert advance(STRATEGY, move.following, move.seen)[0] == move.following


@pytest.mark.parametrize(
    ("state", "split"),
    [
        (PENDING, BEFORE),
        (WARMING, WARM),
        (STAGE, TENTH),
        (replace(STAGE, stage=1), HALF),
        (LAST, ALL),
        (PAUSED_PENDING, BEFORE),
        (PAUSED_WARMING, WARM),
        (PAUSED_STAGE, TENTH),
        (RETAINING, ALL),
        (ROLLING_BACK, WARM),
        (DRAINING, DRAINING_STABLE),
        (replace(DRAINING, loser=Role.CANDIDATE), DRAINING_CANDIDATE),
        (REMOVING, AFTER),
        (replace(REMOVING, phase=Phase.COMPLETED), AFTER),
        (replace(REMOVING, phase=Phase.ROLLED_BACK, loser=Role.CANDIDATE), BEFORE),
    ],
)
def test_what_is_served_follows_from_the_state(state: State, split: Split) -> None:
    assert wanted(STRATEGY, state) == split
    assert weight_bp(STRATEGY, state) == split.candidate_bp


def test_a_rollout_begins_pending() -> None:
    assert start(0.0, "deployed") == PENDING


# --- warming ---


def test_a_candidate_that_nobody_has_looked_at_gets_no_traffic() -> None:
    state = replace(WARMING, converged_s=1.5)
    assert advance(STRATEGY, state, seen(3.0, WARM, unready=None)) == (state, ())
    following, _ = advance(STRATEGY, state, seen(21.0, WARM, unready=None))
    assert following.reason == "the candidate is not ready after 20 s: its health was not seen yet"


def test_a_candidate_waits_until_its_clusters_have_settled_everywhere() -> None:
    just = replace(WARMING, converged_s=2.0)
    assert advance(STRATEGY, WARMING, seen(2.0, WARM, unready=())) == (just, ())
    assert advance(STRATEGY, just, seen(2.05, WARM, unready=())) == (just, ())
    assert advance(STRATEGY, just, seen(2.06, WARM, unready=(), lagging={"a": "has not answered"})) == (WARMING, ())


@pytest.mark.parametrize(
    ("observation", "why"),
    [
        (seen(21.0, WARM, connected=0, unready=()), "no Envoy is connected"),
        (seen(21.0, None, unready=()), "it is not published yet"),
        (seen(21.0, WARM, unready=(), lagging={"b": "has not answered"}), "b has not answered"),
        (
            seen(21.0, WARM, unready=(), lagging=dict.fromkeys("dcba", "is away")),
            "a is away; b is away; c is away and 1 more",
        ),
    ],
)
def test_a_pause_of_warming_says_why(observation: Seen, why: str) -> None:
    following, _ = advance(STRATEGY, WARMING, observation)
    assert following == paused(WARMING, 21.0, f"the candidate is not ready after 20 s: {why}")


def test_a_nack_of_the_candidate_pauses_with_node_and_text() -> None:
    following, effects = advance(STRATEGY, WARMING, seen(2.0, WARM, lagging=REFUSED, refused={"b": REFUSED["b"]}))
    assert following == paused(WARMING, 2.0, "b refused CDS checkout@v2: bad")
    assert effects == ()


# --- shifting ---


def test_a_push_that_was_lost_is_asked_for_again() -> None:
    state = replace(STAGE, converged_s=None)
    for now_s in (11.0, 12.0):
        assert advance(STRATEGY, state, seen(now_s, WARM)) == (state, (Serve(TENTH),))


def test_the_first_look_after_every_envoy_has_the_weight_counts_for_nothing_yet() -> None:
    """Part of it is from before."""
    began = replace(STAGE, converged_s=None, looked_s=10.0)
    look = good(50)
    first, _ = advance(STRATEGY, began, seen(11.0, TENTH, looked_s=11.0, look=look))
    evidence, verdict = judge(STRATEGY.gate, Evidence(), look)
    held = Inconclusive("not every Envoy has had 10 % for the whole of this look", verdict.numbers)
    assert isinstance(verdict, Pass)
    assert first == replace(began, converged_s=11.0, looked_s=11.0, evidence=evidence.renew(), verdict=held)
    assert not first.evidence.stage_candidate.requests


def test_a_pass_takes_looks_that_began_at_the_full_weight() -> None:
    state = replace(STAGE, converged_s=11.0, looked_s=11.5)
    evidence, verdict = judge(STRATEGY.gate, Evidence(), good())
    following, _ = advance(STRATEGY, state, seen(12.5, TENTH, looked_s=12.5, look=good()))
    assert isinstance(verdict, Pass)
    assert following == replace(state, looked_s=12.5, evidence=evidence, verdict=verdict)


@pytest.mark.parametrize("change", [{"lagging": {"b": "is disconnected"}}, {"connected": 0}, {"served": None}])
def test_no_look_passes_while_an_envoy_has_not_the_weight(change: dict[str, object]) -> None:
    observation = replace(seen(17.0, TENTH, looked_s=17.0, look=good()), **change)  # type: ignore[arg-type]
    following, _ = advance(STRATEGY, STAGE, observation)
    assert following.phase is Phase.SHIFTING
    assert isinstance(following.verdict, Inconclusive)
    assert following.converged_s == 11.0
    back, _ = advance(STRATEGY, following, seen(17.5, TENTH))
    assert back == following
    passed, _ = advance(STRATEGY, back, seen(18.0, TENTH, looked_s=18.0, look=good()))
    assert passed.stage == 1


def test_what_one_stage_has_shown_passes_no_other() -> None:
    """Even when time stands still between the two."""
    after = replace(STAGE, verdict=PASS, evidence=judge(STRATEGY.gate, Evidence(), good(500))[0])
    second, _ = advance(STRATEGY, after, seen(16.0, TENTH, looked_s=12.0))
    assert (second.stage, second.verdict) == (1, None)
    state, _ = advance(STRATEGY, replace(second, looked_s=16.0), seen(16.0, HALF))
    for second_s in range(17, 23):
        empty = Look((Stratum(5000, Counts(requests=1), Counts()),))
        state, _ = advance(STRATEGY, state, seen(float(second_s), HALF, looked_s=float(second_s), look=empty))
        assert state.stage == 1
        assert not isinstance(state.verdict, Pass)


def test_the_same_look_is_judged_once() -> None:
    observation = seen(13.0, TENTH, looked_s=13.0, look=good(5))
    once, _ = advance(STRATEGY, STAGE, observation)
    assert once.evidence.stage_candidate.requests == 5
    assert advance(STRATEGY, once, observation) == (once, ())
    assert advance(STRATEGY, once, replace(observation, now_s=14.0)) == (once, ())


def test_a_stage_holds_though_it_has_passed() -> None:
    state = replace(STAGE, verdict=PASS)
    assert advance(STRATEGY, state, seen(15.9, TENTH)) == (state, ())


def test_time_that_stands_still_decides_nothing() -> None:
    state = replace(STAGE, since_s=16.0, converged_s=16.0, verdict=PASS)
    fast = STRATEGY.model_copy(
        update={"stages": (STRATEGY.stages[0].model_copy(update={"hold": 0 * STRATEGY.keep_stable}),)}
    )
    assert advance(fast, state, seen(16.0, TENTH)) == (state, ())
    assert advance(fast, state, seen(16.05, TENTH)) == (state, ())
    assert advance(fast, state, seen(16.1, TENTH))[0].phase is Phase.RETAINING


def test_a_stage_that_passed_is_not_left_while_an_envoy_lags() -> None:
    state = replace(STAGE, verdict=PASS)
    assert advance(STRATEGY, state, seen(30.0, TENTH, lagging={"b": "has not answered"})) == (state, ())


def test_a_candidate_fails_though_an_envoy_lags() -> None:
    state = replace(STAGE, converged_s=None)
    look = Look((Stratum(1000, Counts(requests=900), Counts(requests=100, errors=60)),))
    observation = seen(13.0, TENTH, lagging={"b": "has not answered"}, looked_s=13.0, look=look)
    evidence, verdict = judge(STRATEGY.gate, Evidence(), look)
    while not isinstance(verdict, Fail):
        state, effects = advance(STRATEGY, state, observation)
        assert (state.evidence, state.phase, effects) == (evidence, Phase.SHIFTING, ())
        evidence, verdict = judge(STRATEGY.gate, evidence, look)
        observation = replace(observation, now_s=observation.now_s + 1, looked_s=observation.looked_s + 1)
    following, effects = advance(STRATEGY, state, observation)
    assert following == rolled_back(
        state, observation.now_s, verdict.reason, evidence=evidence, verdict=verdict, looked_s=observation.looked_s
    )
    assert effects == (Serve(WARM),)


@pytest.mark.parametrize(
    ("state", "change", "why"),
    [
        (STAGE, {}, "nothing was measured yet"),
        (replace(STAGE, verdict=Blind("a: no stats")), {}, "a: no stats"),
        (replace(STAGE, verdict=Inconclusive("3 of 10 requests")), {}, "3 of 10 requests"),
        (replace(STAGE, verdict=PASS), {"connected": 0}, "no Envoy is connected"),
        (replace(STAGE, verdict=PASS), {"lagging": {"b": "has not answered"}}, "b has not answered"),
        (replace(STAGE, converged_s=None), {"served": WARM}, "it is not published yet"),
    ],
)
def test_a_stage_without_a_decision_asks_after_hold_and_timeout(
    state: State, change: dict[str, object], why: str
) -> None:
    early, late = (replace(seen(now_s, TENTH), **change) for now_s in (74.9, 75.0))  # type: ignore[arg-type]
    assert advance(STRATEGY, state, early)[0] == state
    assert advance(STRATEGY, state, late)[0] == paused(state, 75.0, f"no decision at 10 % after 65 s: {why}")


# --- pauses ---


@pytest.mark.parametrize("state", [PENDING, WARMING, STAGE])
def test_a_pause_keeps_what_is_served_and_the_way_back(state: State) -> None:
    split = wanted(STRATEGY, state)
    following, effects = advance(STRATEGY, state, seen(15.0, split, command=Command.PAUSE, by="ann"))
    known = replace(state, converged_s=15.0) if state.converged_s is None else state
    assert following == paused(known, 15.0, "paused by ann")
    assert effects == ()
    assert advance(STRATEGY, following, seen(16.0, split, command=Command.PAUSE, by="bob")) == (following, ())
    assert advance(STRATEGY, following, seen(1e6, split, unready=())) == (following, ())
    back, _ = advance(STRATEGY, following, seen(17.0, split, command=Command.RESUME))
    assert back.phase is state.phase
    assert back.resume is None


def test_a_push_that_was_lost_before_a_pause_is_asked_for_in_it() -> None:
    state = paused(replace(STAGE, converged_s=None), 15.0, "paused by ann")
    assert advance(STRATEGY, state, seen(16.0, WARM)) == (state, (Serve(TENTH),))
    assert advance(STRATEGY, state, seen(17.0, TENTH)) == (replace(state, converged_s=17.0), ())


def test_a_paused_stage_goes_on_judging_but_not_forward() -> None:
    state, now_s = PAUSED_STAGE, 15.0
    while now_s < 200:
        now_s += 1
        state, effects = advance(STRATEGY, state, seen(now_s, TENTH, looked_s=now_s, look=good()))
        assert (state.phase, effects) == (Phase.PAUSED, ())
    assert isinstance(state.verdict, Pass)
    resumed, _ = advance(STRATEGY, state, seen(now_s, TENTH, command=Command.RESUME))
    assert (resumed.phase, resumed.verdict, resumed.evidence) == (Phase.SHIFTING, None, state.evidence)
    assert advance(STRATEGY, resumed, seen(now_s + 30, TENTH))[0] == resumed
    following, _ = advance(STRATEGY, resumed, seen(now_s + 1, TENTH, looked_s=now_s + 1, look=good()))
    assert following.stage == 1


@pytest.mark.parametrize("command", [None, Command.PAUSE, Command.RESUME, Command.PROMOTE, Command.PROMOTE_FULL])
def test_a_pause_does_not_stop_a_rollback(command: Command | None) -> None:
    state, now_s = PAUSED_STAGE, 15.0
    while state.phase is Phase.PAUSED:
        now_s += 1
        assert now_s < 30
        look = Look((Stratum(1000, Counts(requests=900), Counts(requests=100, errors=60)),))
        following, _ = advance(STRATEGY, state, seen(now_s, TENTH, looked_s=now_s, look=look))
        if isinstance(following.verdict, Fail):
            asked = seen(now_s, TENTH, looked_s=now_s, look=look, command=command)
            assert advance(STRATEGY, state, asked) == (following, (Serve(WARM),))
        state = following
    assert state.phase is Phase.ROLLING_BACK


# --- commands ---


def test_a_promotion_goes_to_the_next_stage_whatever_was_shown() -> None:
    for state in (replace(STAGE, converged_s=None), PAUSED_STAGE):
        asked = seen(20.0, TENTH, lagging={"b": "has not answered"}, command=Command.PROMOTE, by="ann")
        following, effects = advance(STRATEGY, state, asked)
        assert following == replace(STAGE, since_s=20.0, stage=1, converged_s=None, reason="promoted by ann")
        assert effects == (Serve(HALF),)


def test_a_full_promotion_skips_to_the_last_stage_which_is_judged_too() -> None:
    asked = seen(20.0, TENTH, command=Command.PROMOTE_FULL, by="ann")
    following, effects = advance(STRATEGY, PAUSED_STAGE, asked)
    assert following == replace(STAGE, since_s=20.0, stage=2, converged_s=None, reason="promoted to 100 % by ann")
    assert effects == (Serve(ALL),)
    retaining, _ = advance(STRATEGY, following, seen(21.0, ALL, command=Command.PROMOTE_FULL, by="ann"))
    assert (retaining.phase, retaining.loser, retaining.reason) == (
        Phase.RETAINING,
        Role.STABLE,
        "promoted to 100 % by ann",
    )


HOPELESS = {"connected": 0, "served": None, "lagging": REFUSED, "refused": REFUSED}


@pytest.mark.parametrize("state", [STAGE, LAST, PAUSED_STAGE, RETAINING])
def test_an_abort_takes_the_weight_back_whatever_hangs(state: State) -> None:
    asked = replace(seen(20.0, None, command=Command.ABORT, by="ann"), **HOPELESS)  # type: ignore[arg-type]
    following, effects = advance(STRATEGY, state, asked)
    assert (following.phase, following.loser, following.reason) == (
        Phase.ROLLING_BACK,
        Role.CANDIDATE,
        "aborted by ann",
    )
    assert effects == (Serve(WARM),)


@pytest.mark.parametrize("state", [PENDING, WARMING, PAUSED_PENDING, PAUSED_WARMING])
def test_an_abort_before_any_traffic_takes_the_candidate_away_whatever_hangs(state: State) -> None:
    asked = replace(seen(20.0, None, command=Command.ABORT, by="ann"), **HOPELESS)  # type: ignore[arg-type]
    following, effects = advance(STRATEGY, state, asked)
    assert (following.phase, following.loser, following.reason) == (Phase.REMOVING, Role.CANDIDATE, "aborted by ann")
    assert effects == (Serve(BEFORE),)


@pytest.mark.parametrize(
    "state", [ROLLING_BACK, replace(DRAINING, loser=Role.CANDIDATE), replace(REMOVING, loser=Role.CANDIDATE)]
)
def test_an_abort_of_what_is_taken_back_already_changes_nothing(state: State) -> None:
    asked = seen(20.0, wanted(STRATEGY, state), lagging={"b": "is away"}, command=Command.ABORT)
    assert advance(STRATEGY, state, asked) == (replace(state, converged_s=None), ())


GONE = "its old version is being let go: deploy that version again to go back"


@pytest.mark.parametrize(
    ("state", "command", "told"),
    [
        (DRAINING, Command.ABORT, f"cannot abort a rollout that is draining; {GONE}"),
        (REMOVING, Command.ABORT, f"cannot abort a rollout that is removing; {GONE}"),
        (replace(REMOVING, phase=Phase.COMPLETED), Command.ABORT, f"cannot abort a rollout that is completed; {GONE}"),
        (
            RETAINING,
            Command.PAUSE,
            "cannot pause a rollout that is retaining; all traffic is on its candidate, and abort takes it back",
        ),
        (ROLLING_BACK, Command.PAUSE, "cannot pause a rollout that is rolling back"),
        (DRAINING, Command.PROMOTE, f"cannot promote a rollout that is draining; {GONE}"),
        (
            WARMING,
            Command.PROMOTE,
            "cannot promote a rollout that is warming; the candidate has had no traffic yet",
        ),
        (
            PAUSED_WARMING,
            Command.PROMOTE_FULL,
            "cannot promote full a rollout that is paused; the candidate has had no traffic yet",
        ),
        (WARMING, Command.RESUME, "cannot resume a rollout that is warming; it is not paused"),
        (STAGE, Command.RESUME, "cannot resume a rollout that is shifting; it is not paused"),
    ],
)
def test_a_command_that_makes_no_sense_now_is_refused_with_why(state: State, command: Command, told: str) -> None:
    with pytest.raises(Conflict) as refused:
        advance(STRATEGY, state, seen(20.0, wanted(STRATEGY, state), command=command))
    assert str(refused.value) == told


# --- the way out ---


def test_the_old_version_is_kept_while_an_envoy_has_not_the_full_weight() -> None:
    lagging = seen(500.0, ALL, lagging={"b": "is disconnected"})
    assert advance(STRATEGY, RETAINING, lagging) == (replace(RETAINING, converged_s=None), ())


@pytest.mark.parametrize("state", [RETAINING, replace(ROLLING_BACK, converged_s=11.0)])
def test_envoys_that_we_lost_may_still_send_by_the_old_weights(state: State) -> None:
    """Nobody on the line, nobody remembered: no drain begins, for it would end with backends that are stopped."""
    gone = seen(500.0, wanted(STRATEGY, state), connected=0, fleet=0)
    assert advance(STRATEGY, state, gone) == (replace(state, converged_s=None), ())


def test_a_rollout_that_no_envoy_ever_saw_can_end() -> None:
    def nobody(now_s: float, served: Split, command: Command | None = None) -> Seen:
        return Seen(now_s, 0, fleet=0, served=served, command=command)

    removing, effects = advance(STRATEGY, WARMING, nobody(2.0, WARM, Command.ABORT))
    assert effects == (Serve(BEFORE),)
    removing, effects = advance(STRATEGY, removing, nobody(3.0, BEFORE))
    assert (removing.phase, removing.converged_s, effects) == (Phase.REMOVING, 3.0, ())
    ended, effects = advance(STRATEGY, removing, nobody(4.0, BEFORE))
    assert (ended.phase, effects) == (Phase.ROLLED_BACK, (Retire(Role.CANDIDATE),))


@pytest.mark.parametrize(
    "change",
    [
        {"now_s": 39.9},
        {"served": TENTH},
        {"refused": {}},
        {"lagging": {"a": "is disconnected", "b": "refused x"}},
    ],
)
def test_a_rollback_waits_for_every_envoy_that_may_still_take_it(change: dict[str, object]) -> None:
    refusing = seen(40.0, WARM, lagging={"b": "refused x"}, refused={"b": "refused x"})
    following, _ = advance(STRATEGY, ROLLING_BACK, replace(refusing, **change))  # type: ignore[arg-type]
    assert following == ROLLING_BACK


def test_a_drain_whose_time_is_up_says_who_was_cut() -> None:
    following, effects = advance(STRATEGY, DRAINING, seen(40.0, DRAINING_STABLE, active=CUT))
    reason = "good; the drain timeout of 30 s is over, requests still running: a: 2, b: unknown"
    drain = Drain(10.0, 40.0, timed_out=True, cut={"a": 2, "b": -1})
    assert following == replace(
        DRAINING, phase=Phase.REMOVING, since_s=40.0, converged_s=None, drain=drain, reason=reason
    )
    assert effects == (Serve(AFTER),)


@pytest.mark.parametrize(
    ("active", "running"), [(None, "unknown, no Envoy could be asked"), (Active(9.0, {"a": 0}), "none seen")]
)
def test_a_drain_that_saw_nothing_says_so(active: Active | None, running: str) -> None:
    observation = seen(40.0, DRAINING_STABLE, active=active, lagging={"b": "has not answered"})
    following, _ = advance(STRATEGY, DRAINING, observation)
    assert following.reason == f"good; the drain timeout of 30 s is over, requests still running: {running}"


def test_a_drain_is_not_looked_at_before_every_envoy_knows_of_it() -> None:
    state = replace(DRAINING, converged_s=None)
    asked = seen(11.0, DRAINING_STABLE, active=Active(10.9, {"a": 0}), lagging={"b": "has not answered"})
    assert advance(STRATEGY, state, asked) == (state, ())
    known = replace(state, converged_s=12.0)
    assert advance(STRATEGY, state, seen(12.0, DRAINING_STABLE, active=Active(11.9, {"a": 0}))) == (known, ())


def test_removal_waits_for_every_envoy() -> None:
    lagging = seen(500.0, AFTER, lagging={"b": "has not answered"})
    assert advance(STRATEGY, REMOVING, lagging) == (replace(REMOVING, converged_s=None), ())


def test_the_loser_is_retired_until_it_is_gone() -> None:
    ended = replace(REMOVING, phase=Phase.COMPLETED, converged_s=None)
    assert advance(STRATEGY, ended, seen(12.0, AFTER)) == (ended, (Retire(Role.STABLE),))
    assert advance(STRATEGY, ended, seen(13.0, AFTER, lagging={"b": "is away"})) == (ended, (Retire(Role.STABLE),))
    assert advance(STRATEGY, ended, seen(14.0, AFTER, retired=True)) == (ended, ())
    assert advance(STRATEGY, ended, seen(15.0, None)) == (ended, (Serve(AFTER),))
