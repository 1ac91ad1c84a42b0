"""Stages of other kinds, people, calendars, deadlines and hooks: what they hold up, and what they never hold up."""

from dataclasses import replace
from typing import Any

import pytest

from rollout.errors import Conflict
from rollout.gate import Inconclusive, Look
from rollout.hooks import Answer
from rollout.machine import advance, calls, plan, wanted, weight_bp
from rollout.spec import Strategy
from rollout.state import Awaited, Command, Phase, Role, Seen, Split, State
from tests.rollout.states import (
    BOTH,
    FAIL,
    HALF,
    PASS,
    PENDING,
    RETAINING,
    STAGE,
    TENTH,
    WARM,
    WARMING,
    bad,
    looked,
    seen,
)

STAGES = ["10%", "50%", "100%"]
ANN = {"by": "ann"}


def strategy(**others: Any) -> Strategy:
    return Strategy.model_validate({"stages": STAGES, "gate": {"warmup": "0s"}, "preview": "off", **others})


def step(given: Strategy, state: State, now_s: float, **others: Any) -> State:
    """One look at a fleet that has all that the state asks for."""
    return advance(given, state, seen(now_s, wanted(given, state), **others))[0]


def passed(stage: int = 0, **others: Any) -> State:
    return replace(STAGE, stage=stage, verdict=PASS, **others)


# --- kinds of stages ---


def kinds() -> Strategy:
    match = {"headers": {"x-beta": "1"}}
    return strategy(stages=[{"expose": False}, {"mirror": "25%"}, {"match": match}, "10%", "100%"], preview={})


def test_each_kind_of_stage_is_served_as_it_says() -> None:
    given = kinds()
    splits = [wanted(given, replace(STAGE, stage=number)) for number in range(5)]
    assert [split.candidate_bp for split in splits] == [0, 0, 0, 1000, 10_000]
    assert [split.mirror_bp for split in splits] == [0, 2500, 0, 0, 0]
    assert [split.match for split in splits] == [(), (), given.stages[2].match, (), ()]
    assert {split.preview for split in splits} == {True}


def test_the_plan_leaves_stages_without_a_weight_as_they_are() -> None:
    past = replace(Look(0.0, ()).past, rate_rps=10.0)
    assert [(each.stage, each.weight_bp) for each in plan(kinds(), past)] == [
        (0, 0),
        (1, 0),
        (2, 0),
        (3, 5000),
        (4, 10_000),
    ]


def test_what_serves_nobody_is_judged_by_its_checks_alone() -> None:
    given = kinds()
    mirroring = replace(STAGE, stage=1, looked_s=11.5)
    after = advance(given, mirroring, looked(12.0, wanted(given, mirroring), bad()))[0]
    assert after.phase is Phase.SHIFTING
    assert after.verdict is not None
    assert after.verdict.reason == "the candidate serves nobody here, and has no checks"
    assert after.evidence.ln_e == mirroring.evidence.ln_e
    assert step(given, after, 16.1).stage == 2


def test_matching_requests_are_judged_like_any_others() -> None:
    given = kinds()
    matching = replace(STAGE, stage=2, looked_s=11.5)
    look = replace(bad(), strata=tuple(replace(each, weight_bp=5000) for each in bad().strata))
    for second in range(12, 30):
        matching = advance(given, matching, looked(second, wanted(given, matching), look))[0]
    assert matching.loser is Role.CANDIDATE


def test_the_preview_ends_with_the_way_back_and_in_the_same_push() -> None:
    given = strategy(preview={})
    assert wanted(given, STAGE).preview
    aborted, effects = advance(given, STAGE, seen(20.0, wanted(given, STAGE), command=Command.ABORT, **ANN))
    assert [each.split for each in effects] == [Split(0, BOTH)]  # type: ignore[union-attr]
    assert not wanted(given, aborted).preview


def test_the_preview_begins_when_every_envoy_has_the_candidate() -> None:
    given = strategy(preview={})
    assert not wanted(given, WARMING).preview
    assert wanted(given, STAGE).preview


def test_a_check_of_one_stage_does_not_hold_another() -> None:
    check = {"name": "slow", "metric": "p99", "max": "1ms"}
    given = strategy(stages=[{"weight": "10%", "checks": [check]}, "50%", "100%"])
    assert [len(given.checks_in(number)) for number in range(3)] == [1, 0, 0]


# --- people ---


APPROVED = {"stages": [{"weight": "10%", "hold": "5s", "timeout": "60s", "approve": True}, "50%", "100%"]}


def test_a_stage_that_needs_approval_waits_for_it_without_a_limit_and_is_judged_on() -> None:
    given = strategy(**APPROVED)
    waiting = step(given, passed(), 20.0)
    assert (waiting.phase, waiting.awaited) == (Phase.SHIFTING, Awaited.APPROVAL)
    assert step(given, waiting, 1_000_000.0) == waiting
    failed = step(given, replace(waiting, verdict=FAIL), 21.0)
    assert failed.phase is Phase.ROLLING_BACK
    approved = advance(given, waiting, seen(30.0, TENTH, command=Command.APPROVE, **ANN))[0]
    assert step(given, approved, 30.1).stage == 1


def test_an_approval_may_come_before_the_stage_has_passed() -> None:
    given = strategy(**APPROVED)
    early = advance(given, STAGE, seen(13.0, TENTH, command=Command.APPROVE, **ANN))[0]
    assert early.stage == 0
    assert advance(given, early, seen(14.0, TENTH, command=Command.APPROVE, **ANN))[0] == early
    assert step(given, replace(early, verdict=PASS), 20.0).stage == 1


def test_an_approval_is_of_one_stage() -> None:
    given = strategy(stages=[{"weight": "10%", "approve": True}, {"weight": "50%", "approve": True}, "100%"])
    second = replace(passed(1), approved=0)
    assert step(given, second, 20.0).awaited is Awaited.APPROVAL


def test_a_stage_that_needs_no_approval_refuses_one() -> None:
    with pytest.raises(Conflict, match="in a stage that needs no approval; promote goes on"):
        advance(strategy(), STAGE, seen(13.0, TENTH, command=Command.APPROVE, **ANN))


def test_a_rejection_takes_it_back() -> None:
    rejected = advance(strategy(**APPROVED), passed(), seen(13.0, TENTH, command=Command.REJECT, **ANN))[0]
    assert (rejected.phase, rejected.reason) == (Phase.ROLLING_BACK, "rejected by ann")


def test_a_skipped_stage_is_left_without_a_verdict() -> None:
    skipped = advance(strategy(), STAGE, seen(13.0, TENTH, command=Command.SKIP_STAGE, **ANN))[0]
    assert (skipped.stage, skipped.reason, skipped.passed) == (1, "the stage was skipped by ann", None)


# --- time ---


FROZEN = "frozen fri 16:00-00:00 UTC"


@pytest.mark.parametrize("state", [PENDING, passed()])
def test_nothing_starts_or_advances_in_a_freeze_and_all_goes_on_after_it(state: State) -> None:
    given = strategy()
    frozen = step(given, state, 20.0, frozen=FROZEN)
    assert (frozen.phase, frozen.stage, frozen.awaited, frozen.waiting) == (state.phase, 0, Awaited.THAW, FROZEN)
    assert step(given, frozen, 1_000_000.0, frozen=FROZEN) == frozen
    thawed = step(given, frozen, 1_000_001.0)
    assert (thawed.phase, thawed.stage) != (frozen.phase, frozen.stage)


def test_a_freeze_stops_no_way_back() -> None:
    given = strategy()
    assert step(given, replace(STAGE, verdict=FAIL), 13.0, frozen=FROZEN).phase is Phase.ROLLING_BACK
    aborted = advance(given, STAGE, seen(13.0, TENTH, frozen=FROZEN, command=Command.ABORT, **ANN))[0]
    assert aborted.phase is Phase.ROLLING_BACK


def test_the_old_version_stays_warm_in_a_freeze() -> None:
    given = strategy()
    kept = step(given, RETAINING, 100.0, frozen=FROZEN)
    assert (kept.phase, kept.awaited) == (Phase.RETAINING, Awaited.THAW)
    assert step(given, kept, 101.0).phase is Phase.DRAINING


def test_a_stage_that_is_not_decided_in_time_goes_back_where_that_is_wanted() -> None:
    given = strategy(stages=[{"weight": "10%", "timeout": "60s", "on_timeout": "rollback"}, "100%"])
    after = step(given, replace(STAGE, verdict=Inconclusive("3 requests")), 80.0)
    assert (after.phase, after.reason) == (Phase.ROLLING_BACK, "no decision at 10 % after 60 s: 3 requests")


def test_a_deadline_takes_back_what_nobody_decides() -> None:
    given = strategy(progress_deadline="10m")
    paused = step(given, replace(STAGE, verdict=Inconclusive("3 requests")), 320.0)
    assert (paused.phase, paused.awaited) == (Phase.PAUSED, Awaited.DECISION)
    assert step(given, paused, 919.0) == paused
    late = step(given, paused, 920.0)
    assert late.phase is Phase.ROLLING_BACK
    assert late.reason.startswith("no progress for 600 s (progress_deadline): no decision at 10 %")


def test_a_deadline_removes_a_candidate_that_never_had_traffic() -> None:
    late = step(strategy(progress_deadline="10m"), WARMING, 601.0, unready=("a: no stats yet",))
    assert (late.phase, late.loser) == (Phase.REMOVING, Role.CANDIDATE)


@pytest.mark.parametrize("awaited", [Awaited.OPERATOR, Awaited.APPROVAL, Awaited.THAW])
def test_a_deadline_does_not_hurry_people_or_calendars(awaited: Awaited) -> None:
    given = strategy(progress_deadline="10m")
    waiting = replace(STAGE, phase=Phase.PAUSED, resume=Phase.SHIFTING, awaited=awaited)
    assert step(given, waiting, 10_000.0, frozen=FROZEN) == waiting


# --- pace ---


def test_a_gradual_abort_goes_down_the_stages() -> None:
    given = strategy(abort="gradual", gradual_step="5s")
    top = replace(STAGE, stage=2, converged_s=11.0)
    going = advance(given, top, seen(20.0, wanted(given, top), command=Command.ABORT, **ANN))[0]
    weights = [weight_bp(given, going)]
    for now_s in (20.1, 25.2, 25.3, 30.4, 30.5, 30.7):
        going = step(given, going, now_s)
        weights.append(weight_bp(given, going))
    assert weights == [5000, 5000, 1000, 1000, 0, 0, 0]
    assert going.phase is Phase.DRAINING


def test_a_second_abort_goes_down_at_once() -> None:
    given = strategy(abort="gradual")
    going = advance(given, replace(STAGE, stage=2), seen(20.0, None, command=Command.ABORT, **ANN))[0]
    again = advance(given, going, seen(21.0, HALF, command=Command.ABORT, **ANN))[0]
    assert weight_bp(given, again) == 0


def test_a_candidate_that_fails_goes_back_at_once_all_the_same() -> None:
    given = strategy(abort="gradual")
    failed = advance(given, replace(STAGE, stage=1, verdict=FAIL), seen(20.0, HALF))[0]
    assert (failed.phase, weight_bp(given, failed)) == (Phase.ROLLING_BACK, 0)


def test_a_gradual_promotion_goes_up_the_stages_without_verdicts_but_not_past_a_failure() -> None:
    given = strategy(promote="gradual", gradual_step="5s")
    going = advance(given, STAGE, seen(20.0, TENTH, command=Command.PROMOTE_FULL, **ANN))[0]
    assert (going.stage, going.hurried) == (1, True)
    held = step(given, step(given, going, 20.1), 25.2)
    assert held.stage == 2
    assert step(given, replace(going, verdict=FAIL), 21.0).phase is Phase.ROLLING_BACK


# --- Envoys and backends that are missing ---


def test_too_few_healthy_backends_pause() -> None:
    after = step(strategy(), passed(), 20.0, unhealthy="v2: 1 of 4 backends healthy (min_healthy 50%)")
    assert (after.phase, after.reason) == (Phase.PAUSED, "v2: 1 of 4 backends healthy (min_healthy 50%)")


DEAD = "no backend of v2 is healthy, and v1 has 2 of 2"


@pytest.mark.parametrize("phase", [Phase.SHIFTING, Phase.PAUSED])
def test_a_candidate_without_a_healthy_backend_goes_back_where_stable_has_some(phase: Phase) -> None:
    state = replace(passed(2), phase=phase, resume=Phase.SHIFTING if phase is Phase.PAUSED else None)
    after = step(strategy(), state, 20.0, unhealthy="v2: 0 of 2 backends healthy", dead=DEAD)
    assert (after.phase, after.reason) == (Phase.ROLLING_BACK, DEAD)


def test_a_candidate_that_only_testers_reach_may_be_dead_for_a_while() -> None:
    given = kinds()
    mirroring = replace(STAGE, stage=1)
    assert step(given, mirroring, 20.0, unhealthy="v2: 0 of 2 backends healthy", dead=DEAD).phase is Phase.PAUSED


def test_an_envoy_that_stays_away_fails_it_where_that_is_wanted() -> None:
    given = strategy(disconnected={"policy": "fail", "for": "60s"})
    after = step(given, passed(), 20.0, missing=("envoy-2",))
    assert after.phase is Phase.ROLLING_BACK
    assert after.reason == "envoy-2 stayed away for longer than 60 s (disconnected: fail)"
    assert step(given, RETAINING, 11.0, missing=("envoy-2",)).phase is not Phase.ROLLING_BACK


# --- hooks ---


def hooked(*kinds: str, **others: Any) -> Strategy:
    return strategy(hooks=[{"at": kind, "command": "ask", **others} for kind in kinds])


def yes(*keys: str) -> dict[str, Answer]:
    return {key: Answer(agreed=True, at_s=1.0) for key in keys}


def no(key: str, words: str = "503") -> dict[str, Answer]:
    return {key: Answer(agreed=False, at_s=1.0, words=words)}


def wanted_hooks(given: Strategy, state: State) -> list[str]:
    return [call.key for call in calls(given, state)]


def test_a_rollout_begins_when_all_agree_and_its_backends_are_provided() -> None:
    given = hooked("confirm-rollout", "provision")
    asked = step(given, PENDING, 1.0)
    assert wanted_hooks(given, asked) == ["0"]
    assert (asked.awaited, asked.waiting) == (
        Awaited.HOOK,
        "the confirm-rollout hook 'ask': has not answered yet",
    )
    refused = step(given, asked, 2.0, answers=no("0", "not now"))
    assert refused.waiting == "the confirm-rollout hook 'ask': not now"
    confirmed = step(given, refused, 3.0, answers=yes("0"))
    assert (confirmed.phase, confirmed.called) == (Phase.PENDING, frozenset({"0"}))
    assert wanted_hooks(given, confirmed) == ["1"]
    assert step(given, confirmed, 4.0, answers=yes("1")).phase is Phase.WARMING


def test_backends_that_cannot_be_provided_end_it() -> None:
    ended = step(hooked("provision"), PENDING, 1.0, answers=no("0"))
    assert (ended.phase, ended.loser) == (Phase.REMOVING, Role.CANDIDATE)
    assert ended.reason == "the provision hook 'ask': 503"


def ready(now_s: float, **others: Any) -> Seen:
    return seen(now_s, WARM, unready=(), **others)


def test_pre_rollout_is_called_when_the_candidate_is_ready_and_then_who_confirms_the_first_weight() -> None:
    given = hooked("pre-rollout", "confirm-traffic-increase")
    warm = replace(WARMING, converged_s=2.0)
    assert wanted_hooks(given, warm) == []
    asking = advance(given, warm, ready(3.0))[0]
    assert wanted_hooks(given, asking) == ["0"]
    prepared = advance(given, asking, ready(4.0, answers=yes("0")))[0]
    assert wanted_hooks(given, prepared) == ["1/0"]
    assert advance(given, prepared, ready(5.0, answers=yes("1/0")))[0].phase is Phase.SHIFTING


def test_each_increase_is_confirmed_anew_and_the_last_one_as_a_promotion_too() -> None:
    given = hooked("confirm-traffic-increase", "confirm-promotion")
    second = step(given, passed(0), 20.0)
    assert wanted_hooks(given, second) == ["0/1"]
    third = replace(passed(1), called=frozenset({"0/1"}), awaited=Awaited.HOOK)
    assert wanted_hooks(given, third) == ["0/2", "1"]
    half = step(given, third, 20.0, answers=yes("0/2"))
    assert half.stage == 1
    assert step(given, half, 21.0, answers=yes("1")).stage == 2


def test_an_abort_waits_for_no_hook() -> None:
    given = hooked("confirm-traffic-increase", "rollout", "rollback")
    waiting = step(given, passed(0), 20.0)
    aborted = advance(given, waiting, seen(21.0, TENTH, command=Command.ABORT, **ANN))[0]
    assert aborted.phase is Phase.ROLLING_BACK
    assert wanted_hooks(given, aborted) == []


@pytest.mark.parametrize("phase", [Phase.SHIFTING, Phase.PAUSED])
def test_a_rollback_hook_that_agrees_takes_it_back_from_a_pause_too(phase: Phase) -> None:
    given = hooked("rollback")
    state = replace(STAGE, phase=phase, resume=Phase.SHIFTING if phase is Phase.PAUSED else None)
    assert wanted_hooks(given, state) == ["0"]
    assert step(given, state, 20.0, answers=no("0")).phase is phase
    after = step(given, state, 20.0, answers=yes("0"))
    assert (after.phase, after.reason) == (Phase.ROLLING_BACK, "the rollback hook 'ask' asks for it")


def test_a_rollout_hook_that_does_not_agree_takes_it_back() -> None:
    given = hooked("rollout")
    after = step(given, STAGE, 20.0, answers=no("0", "the queue grows"))
    assert (after.phase, after.reason) == (Phase.ROLLING_BACK, "the rollout hook 'ask': the queue grows")


def test_who_is_told_of_the_end_is_told_in_order_and_holds_nothing_up() -> None:
    given = hooked("terminate", "post-rollout")
    removing = State(Phase.REMOVING, 10.0, converged_s=10.1, loser=Role.STABLE, reason="good")
    telling = step(given, removing, 11.0)
    assert wanted_hooks(given, telling) == ["0"]
    refused = step(given, telling, 12.0, answers=no("0", "no such group"))
    assert wanted_hooks(given, refused) == ["1"]
    ended = step(given, refused, 13.0, answers=yes("1"))
    assert (ended.phase, ended.reason) == (Phase.COMPLETED, "good; the terminate hook 'ask': no such group")


def test_beyond_a_point_of_no_return_the_engine_asks_instead_of_going_back() -> None:
    given = strategy(hooks=[{"at": "confirm-promotion", "name": "contract", "command": "ask", "reversible": False}])
    last = step(given, replace(passed(1), awaited=Awaited.HOOK), 20.0, answers=yes("0"))
    assert (last.stage, last.point) == (2, "contract")
    failed = advance(given, replace(last, verdict=FAIL), seen(21.0, wanted(given, last)))[0]
    assert (failed.phase, failed.resume) == (Phase.PAUSED, Phase.SHIFTING)
    assert "'contract' cannot be undone, so somebody must decide: abort all the same" in failed.reason
    assert step(given, failed, 22.0) == failed
    promoted = advance(given, failed, seen(23.0, wanted(given, failed), command=Command.PROMOTE, **ANN))[0]
    assert promoted.phase is Phase.RETAINING
    aborted = advance(given, failed, seen(23.0, wanted(given, failed), command=Command.ABORT, **ANN))[0]
    assert aborted.phase is Phase.ROLLING_BACK


def test_what_cannot_be_undone_and_failed_may_have_done_its_work() -> None:
    given = hooked("provision", reversible=False)
    asking = step(given, PENDING, 1.0, answers=no("0", "no answer within 10 s (4 attempts)"))
    assert (asking.phase, asking.resume, asking.point) == (Phase.PAUSED, Phase.PENDING, "ask")
    why = "no answer within 10 s (4 attempts); 'ask' cannot be undone"
    assert asking.reason.startswith(f"the provision hook 'ask': {why}")
    again = advance(given, asking, seen(2.0, wanted(given, asking), command=Command.RESUME, **ANN))[0]
    assert wanted_hooks(given, step(given, again, 3.0)) == ["0"]


def test_hooks_that_have_agreed_are_not_asked_again_after_a_restart() -> None:
    given = hooked("confirm-rollout", "provision")
    assert wanted_hooks(given, replace(PENDING, awaited=Awaited.HOOK, called=frozenset({"0"}))) == ["1"]
    assert wanted_hooks(given, replace(PENDING, awaited=Awaited.HOOK, called=frozenset({"0", "1"}))) == []
