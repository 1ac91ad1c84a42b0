"""A rollout's stages and pauses: what passes, what fails, what waits and what asks."""

from dataclasses import replace

import pytest

from rollout.gate import BadHost, Blind, Evidence, Fail, Host, Inconclusive, Pass, Past, Tally, judge
from rollout.gate.promotion import PromoteEvidence
from rollout.machine import advance, plan, step_of, wanted
from rollout.spec import Strategy
from rollout.state import Command, LetGo, Phase, Seen, Serve, Split, State, start
from tests.rollout.judging import usual
from tests.rollout.states import (
    ALL,
    BOTH,
    HALF,
    PASS,
    PAUSED_STAGE,
    PENDING,
    STAGE,
    STRATEGY,
    TENTH,
    WARM,
    WARMING,
    bad,
    compared,
    good,
    looked,
    paused,
    rolled_back,
    seen,
)

# --- shifting ---


def test_a_push_that_was_lost_is_asked_for_again() -> None:
    state = replace(STAGE, converged_s=None)
    for now_s in (11.0, 12.0):
        assert advance(STRATEGY, state, seen(now_s, WARM)) == (state, (Serve(TENTH),))


def test_the_first_look_after_every_envoy_has_the_weight_counts_for_nothing_yet() -> None:
    """Part of it is from before."""
    began = replace(STAGE, converged_s=None, looked_s=10.0)
    first, _ = advance(STRATEGY, began, looked(11.0, TENTH, good()))
    assert isinstance(first.verdict, Inconclusive)
    assert first.verdict.reason == "not every Envoy has had 10 % for the whole of this look"
    assert first == replace(began, converged_s=11.0, looked_s=11.0, evidence=first.evidence, verdict=first.verdict)
    assert first.evidence.promotion == PromoteEvidence.start(first.evidence.shares, 11.0)
    assert (first.evidence.candidate.requests, first.evidence.candidate_before.requests) == (0, 1_000)


def test_a_pass_takes_looks_that_began_at_the_full_weight() -> None:
    state = replace(STAGE, converged_s=11.0, looked_s=11.5)
    observation = looked(12.5, TENTH, good())
    assert observation.look is not None
    evidence, verdict = judge(STRATEGY.gate, (), Evidence(), observation.look, step_of(STRATEGY, state))
    assert isinstance(verdict, Pass)
    following, _ = advance(STRATEGY, state, observation)
    assert following == replace(state, looked_s=12.5, evidence=evidence, verdict=verdict)


@pytest.mark.parametrize("change", [{"lagging": {"b": "is disconnected"}}, {"connected": 0}, {"served": None}])
def test_no_look_passes_while_an_envoy_has_not_the_weight(change: dict[str, object]) -> None:
    observation = replace(looked(17.0, TENTH, good()), **change)  # type: ignore[arg-type]
    following, _ = advance(STRATEGY, STAGE, observation)
    assert following.phase is Phase.SHIFTING
    assert isinstance(following.verdict, Inconclusive)
    assert following.converged_s == 11.0
    back, _ = advance(STRATEGY, following, seen(17.5, TENTH))
    assert back == following
    passed, _ = advance(STRATEGY, back, looked(18.0, TENTH, good()))
    assert passed.stage == 1


def test_what_one_stage_has_shown_passes_no_other() -> None:
    """Even when time stands still between the two."""
    evidence, _ = judge(STRATEGY.gate, (), Evidence(), good(), step_of(STRATEGY, STAGE))
    second, _ = advance(STRATEGY, replace(STAGE, verdict=PASS, evidence=evidence), seen(16.0, TENTH, looked_s=12.0))
    assert (second.stage, second.verdict) == (1, None)
    state, _ = advance(STRATEGY, replace(second, looked_s=16.0), seen(16.0, HALF))
    for second_s in range(17, 23):
        state, _ = advance(STRATEGY, state, looked(second_s, HALF, compared(usual(1), Tally(), 5_000)))
        assert state.stage == 1
        assert not isinstance(state.verdict, Pass)


def test_the_same_look_is_judged_once() -> None:
    observation = looked(13.0, TENTH, good(5))
    once, _ = advance(STRATEGY, STAGE, observation)
    assert once.evidence.candidate.requests == 5
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
    for second_s in (13, 14):
        observation = looked(second_s, TENTH, bad(), lagging={"b": "has not answered"})
        following, effects = advance(STRATEGY, state, observation)
        if isinstance(following.verdict, Fail):
            break
        assert (following.phase, effects) == (Phase.SHIFTING, ())
        state = following
    assert second_s == 14
    assert isinstance(following.verdict, Fail)
    assert following == rolled_back(
        state,
        14.0,
        following.verdict.reason,
        evidence=following.evidence,
        verdict=following.verdict,
        looked_s=14.0,
    )
    assert effects == (Serve(WARM),)


def test_nobody_hangs_while_envoys_come_to_the_weight_one_by_one() -> None:
    """What ended was sent by the weights of before: at this one most of it still runs."""
    slow = compared(replace(usual(99), started=90), replace(usual(1), started=10))
    state, now_s = replace(STAGE, converged_s=None, looked_s=10.0), 10.0
    while now_s < 60:
        now_s += 1
        state, _ = advance(STRATEGY, state, looked(now_s, TENTH, slow, lagging={"b": "has not answered"}))
        assert state.phase is Phase.SHIFTING
    while state.phase is Phase.SHIFTING:
        now_s += 1
        assert now_s < 100
        state, _ = advance(STRATEGY, state, looked(now_s, TENTH, slow))
    assert "hangs" in state.reason  # when all have it, and time was enough
    assert now_s > 63


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
def test_a_stage_without_a_decision_asks_after_its_timeout(state: State, change: dict[str, object], why: str) -> None:
    early, late = (replace(seen(now_s, TENTH), **change) for now_s in (69.9, 70.0))  # type: ignore[arg-type]
    assert advance(STRATEGY, state, early)[0] == state
    assert advance(STRATEGY, state, late)[0] == paused(state, 70.0, f"no decision at 10 % after 60 s: {why}")


def test_a_stage_that_holds_for_longer_than_its_timeout_gets_that_time_too() -> None:
    strategy = Strategy.model_validate({"stages": [{"weight": "10%", "hold": "90s", "timeout": "60s"}, "100%"]})
    assert advance(strategy, STAGE, seen(159.9, TENTH))[0] == STAGE
    assert advance(strategy, STAGE, seen(160.0, TENTH))[0].reason.startswith("no decision at 10 % after 150 s: ")


# --- the plan ---


@pytest.mark.parametrize(
    ("rate_rps", "weights_bp", "stages"),
    [
        (None, [1_000, 5_000, 10_000], [0, 1, 2]),
        (1_000.0, [1_000, 5_000, 10_000], [0, 1, 2]),
        (40.0, [2_500, 5_000, 10_000], [0, 1, 2]),
        (10.0, [5_000, 10_000], [0, 2]),
    ],
)
def test_stages_are_planned_by_the_traffic_when_they_begin(
    rate_rps: float | None, weights_bp: list[int], stages: list[int]
) -> None:
    past = Past(rate_rps=rate_rps)
    state, effects = advance(STRATEGY, replace(WARMING, converged_s=1.5), seen(9.0, WARM, unready=(), past=past))
    assert state.plan == plan(STRATEGY, past)
    assert [(step.weight_bp, step.stage) for step in state.plan] == list(zip(weights_bp, stages, strict=True))
    assert effects == (Serve(Split(weights_bp[0], BOTH)),)


def test_what_was_expected_is_replaced_by_what_is_seen_or_else_stays() -> None:
    expected = plan(STRATEGY, Past(rate_rps=40.0))
    state = replace(start(0.0, "deployed", expected), phase=Phase.WARMING, converged_s=1.5)
    assert state.plan == expected
    kept, _ = advance(STRATEGY, state, seen(2.0, WARM, unready=()))
    assert kept.plan == expected
    known, _ = advance(STRATEGY, state, seen(9.0, WARM, unready=(), past=Past()))
    assert known.plan == plan(STRATEGY, Past())


def test_a_server_that_has_just_started_waits_some_seconds_for_the_rate() -> None:
    ready = replace(WARMING, since_s=1.0, converged_s=1.5)
    assert advance(STRATEGY, ready, seen(5.9, WARM, unready=(), past=Past()))[0].phase is Phase.WARMING
    assert advance(STRATEGY, ready, seen(6.0, WARM, unready=(), past=Past()))[0].phase is Phase.SHIFTING
    assert advance(STRATEGY, ready, seen(2.0, WARM, unready=(), past=Past(rate_rps=0.0)))[0].phase is Phase.SHIFTING


def test_a_stage_of_the_plan_holds_as_the_written_one_and_the_last_ends_it() -> None:
    """At 10 requests a second the first two are one, with the hold of the first."""
    planned = replace(STAGE, plan=plan(STRATEGY, Past(rate_rps=10.0)), verdict=PASS)
    half = Split(5_000, BOTH)
    assert wanted(STRATEGY, planned) == half
    assert advance(STRATEGY, planned, seen(15.9, half)) == (planned, ())
    following, effects = advance(STRATEGY, planned, seen(16.0, half))
    assert (following.stage, effects) == (1, (Serve(ALL),))
    over, _ = advance(STRATEGY, replace(following, converged_s=16.0, verdict=PASS), seen(26.0, ALL))
    assert over.phase is Phase.RETAINING
    full, effects = advance(STRATEGY, planned, seen(12.0, half, command=Command.PROMOTE_FULL))
    assert (full.stage, effects) == (1, (Serve(ALL),))


def test_a_later_look_at_the_traffic_changes_no_plan() -> None:
    planned = replace(STAGE, plan=plan(STRATEGY, Past()))
    assert advance(STRATEGY, planned, seen(13.0, TENTH, past=Past(rate_rps=10.0))) == (planned, ())


# --- missing data ---


def blind(now_s: float, **others: object) -> Seen:
    return looked(now_s, TENTH, replace(good(), blind=("b: no stats",)), **others)


def test_data_that_is_missing_for_too_long_pauses_it() -> None:
    state, now_s = STAGE, 12.0
    limited = STRATEGY.model_copy(update={"gate": replace(STRATEGY.gate, blind_timeout_s=20.0)})
    while state.phase is Phase.SHIFTING:
        now_s += 1
        state, effects = advance(limited, state, blind(now_s))
        assert effects == ()
    assert (state.phase, now_s) == (Phase.PAUSED, 33.0)
    assert state.reason == "data has been missing for 20 s: b: no stats"


def test_after_a_pause_missing_data_has_its_time_again() -> None:
    evidence = replace(STAGE.evidence, blind_s=20.0, looked_s=79.0)
    state = paused(replace(STAGE, evidence=evidence, verdict=Blind("b: no stats")), 80.0, "data has been missing")
    resumed, _ = advance(STRATEGY, state, seen(200.0, TENTH, command=Command.RESUME))
    assert resumed.evidence.blind_s is None
    following, _ = advance(STRATEGY, resumed, blind(201.0))
    assert following.phase is Phase.SHIFTING
    assert following.evidence.blind_s == 201.0


@pytest.mark.parametrize("command", [Command.PROMOTE, Command.PROMOTE_FULL])
def test_whoever_promotes_it_though_data_is_missing_is_not_asked_again_at_once(command: Command) -> None:
    evidence = replace(STAGE.evidence, blind_s=20.0, looked_s=79.0)
    state = paused(replace(STAGE, evidence=evidence, verdict=Blind("b: no stats")), 80.0, "data has been missing")
    promoted, _ = advance(STRATEGY, state, seen(200.0, TENTH, command=command))
    served = wanted(STRATEGY, promoted)
    following, _ = advance(STRATEGY, promoted, replace(blind(201.0), served=served))
    assert (following.phase, following.evidence.blind_s) == (Phase.SHIFTING, 201.0)


def test_data_that_comes_again_ends_the_waiting() -> None:
    state, _ = advance(STRATEGY, STAGE, blind(13.0))
    assert isinstance(state.verdict, Blind)
    state, _ = advance(STRATEGY, state, looked(14.0, TENTH, good()))
    assert isinstance(state.verdict, Pass)
    assert state.evidence.blind_s is None


# --- one bad backend ---

BAD_HOST = "10.0.0.7:80"
HOSTS = {BAD_HOST: Host(33, 33), "10.0.0.8:80": Host(33, 0), "10.0.0.9:80": Host(34, 0)}
DRAINING_ONE = STRATEGY.model_copy(update={"gate": replace(STRATEGY.gate, bad_host=BadHost.DRAIN)})


def failing(now_s: float, **others: object) -> Seen:
    look = replace(compared(usual(900), usual(100, 33)), hosts=HOSTS)
    return looked(now_s, TENTH, look, **others)


def let_go() -> State:
    state, now_s = STAGE, 12.0
    while not state.let_go:
        now_s += 1
        assert now_s < 20
        state, effects = advance(DRAINING_ONE, state, failing(now_s))
    assert effects == (LetGo(BAD_HOST),)
    return state


def test_a_backend_that_has_all_errors_is_let_go_where_that_is_wanted() -> None:
    state = let_go()
    assert (state.phase, state.let_go) == (Phase.SHIFTING, BAD_HOST)
    assert isinstance(state.verdict, Inconclusive)
    assert state.verdict.reason.startswith(f"{BAD_HOST} is let go, the others go on: ")
    assert state.evidence.ln_e < 0
    assert advance(DRAINING_ONE, state, seen(30.0, TENTH))[1] == (LetGo(BAD_HOST),)
    assert advance(DRAINING_ONE, state, seen(30.0, TENTH, leaving=frozenset({BAD_HOST}))) == (state, ())


def test_without_that_wish_it_is_rolled_back_and_the_backend_is_named() -> None:
    state, now_s = STAGE, 12.0
    while state.phase is Phase.SHIFTING:
        now_s += 1
        assert now_s < 20
        state, effects = advance(STRATEGY, state, failing(now_s))
    assert (state.phase, state.let_go, effects) == (Phase.ROLLING_BACK, "", (Serve(WARM),))
    assert isinstance(state.verdict, Fail)
    assert state.verdict.host == BAD_HOST
    assert f"errors are from {BAD_HOST}" in state.reason


def test_the_last_backend_is_not_let_go() -> None:
    """The others were good ones, but somebody drains them."""
    state, now_s = STAGE, 12.0
    while state.phase is Phase.SHIFTING:
        now_s += 1
        assert now_s < 20
        state, _ = advance(DRAINING_ONE, state, failing(now_s, leaving=HOSTS.keys() - {BAD_HOST}))
    assert (state.phase, state.let_go) == (Phase.ROLLING_BACK, "")


def test_only_one_backend_is_let_go_and_the_next_failure_rolls_back() -> None:
    state, now_s = let_go(), 20.0
    gone = frozenset({BAD_HOST})
    while state.phase is Phase.SHIFTING:
        now_s += 1
        assert now_s < 30
        state, effects = advance(DRAINING_ONE, state, failing(now_s, leaving=gone))
    assert (state.phase, state.let_go, effects) == (Phase.ROLLING_BACK, BAD_HOST, (Serve(WARM),))
    assert advance(DRAINING_ONE, state, seen(now_s + 1, WARM))[1] == ()  # nobody is let go any more


def test_the_others_go_on_and_may_pass() -> None:
    state = let_go()
    look = looked(30.0, TENTH, good(), leaving=frozenset({BAD_HOST}))
    following, _ = advance(DRAINING_ONE, state, look)
    assert following.stage == 1


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
        state, effects = advance(STRATEGY, state, looked(now_s, TENTH, good()))
        assert (state.phase, effects) == (Phase.PAUSED, ())
    assert isinstance(state.verdict, Pass)
    resumed, _ = advance(STRATEGY, state, seen(now_s, TENTH, command=Command.RESUME))
    assert (resumed.phase, resumed.verdict, resumed.evidence) == (Phase.SHIFTING, None, state.evidence)
    assert advance(STRATEGY, resumed, seen(now_s + 30, TENTH))[0] == resumed
    following, _ = advance(STRATEGY, resumed, looked(now_s + 1, TENTH, good()))
    assert following.stage == 1


@pytest.mark.parametrize("command", [None, Command.PAUSE, Command.RESUME, Command.PROMOTE, Command.PROMOTE_FULL])
def test_a_pause_does_not_stop_a_rollback(command: Command | None) -> None:
    state, now_s = PAUSED_STAGE, 15.0
    while state.phase is Phase.PAUSED:
        now_s += 1
        assert now_s < 30
        following, _ = advance(STRATEGY, state, looked(now_s, TENTH, bad()))
        if isinstance(following.verdict, Fail):
            asked = looked(now_s, TENTH, bad(), command=command)
            assert advance(STRATEGY, state, asked) == (following, (Serve(WARM),))
        state = following
    assert state.phase is Phase.ROLLING_BACK
