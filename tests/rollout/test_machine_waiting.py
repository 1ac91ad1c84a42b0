"""Who is waited for, and for how long: what a wait must not use up, what it must not call, and how it ends."""

from dataclasses import replace
from typing import Any

import pytest

from rollout.gate import Inconclusive, Verdict
from rollout.machine import advance, wanted, weight_bp
from rollout.spec import Strategy
from rollout.state import Awaited, Command, Phase, Role, State
from tests.rollout.states import FAIL, PASS, PENDING, RETAINING, STAGE, TENTH, WARMING, seen
from tests.rollout.test_machine_life import ANN, FROZEN, hooked, no, passed, ready, step, strategy, wanted_hooks, yes

AWAY = {"a": "is disconnected"}
LONG_S = 100_000.0  # a day and more: longer than any time limit


def with_hook(kind: str, **others: Any) -> Strategy:
    return strategy(hooks=[{"at": kind, "command": "ask"}], **others)


def test_a_stage_that_has_passed_holds_to_its_end_though_its_time_limit_comes_before() -> None:
    given = strategy(stages=[{"weight": "10%", "hold": "55s", "timeout": "60s"}, "100%"])
    late = replace(passed(), converged_s=40.0)
    assert step(given, late, 80.0) == late
    assert step(given, late, 95.0).stage == 1


# --- a freeze ---


@pytest.mark.parametrize("verdict", [PASS, Inconclusive("not every Envoy has had 10 % for the whole of this look")])
def test_a_stage_that_passed_before_a_freeze_has_its_whole_time_after_it(verdict: Verdict) -> None:
    given = strategy(stages=[{"weight": "10%", "timeout": "60s", "on_timeout": "rollback"}, "100%"])
    frozen = step(given, passed(), 20.0, frozen=FROZEN)
    lagging = step(given, replace(frozen, verdict=verdict), LONG_S, frozen=FROZEN, lagging=AWAY)
    assert (lagging.phase, lagging.awaited) == (Phase.SHIFTING, Awaited.THAW)
    thawed = step(given, lagging, LONG_S + 1.0, lagging=AWAY)
    assert (thawed.phase, thawed.awaited) == (Phase.SHIFTING, None)
    assert step(given, thawed, LONG_S + 60.0, lagging=AWAY).phase is Phase.SHIFTING
    assert step(given, thawed, LONG_S + 61.0, lagging=AWAY).phase is Phase.ROLLING_BACK


def test_a_candidate_that_is_ready_before_a_freeze_has_its_whole_time_after_it() -> None:
    given = strategy()
    frozen = advance(given, replace(WARMING, converged_s=2.0), ready(3.0, frozen=FROZEN))[0]
    unready = step(given, frozen, LONG_S, frozen=FROZEN, unready=("a: 0 of 2 backends healthy",))
    assert (unready.phase, unready.awaited) == (Phase.WARMING, Awaited.THAW)
    assert step(given, unready, LONG_S + 1.0, unready=("a: 0 of 2 backends healthy",)).phase is Phase.WARMING


@pytest.mark.parametrize(("state", "kind"), [(PENDING, "confirm-rollout"), (passed(), "confirm-traffic-increase")])
def test_a_freeze_uses_up_no_deadline(state: State, kind: str) -> None:
    given = with_hook(kind, progress_deadline="10m")
    frozen = step(given, state, 20.0, frozen=FROZEN)
    asking = step(given, frozen, LONG_S)
    assert asking.awaited is Awaited.HOOK
    assert step(given, asking, LONG_S + 599.0).phase is state.phase
    assert step(given, asking, LONG_S + 600.0).loser is Role.CANDIDATE


def test_a_version_that_is_kept_warm_is_not_kept_anew_by_a_freeze() -> None:
    kept = step(strategy(keep_stable="1h"), RETAINING, LONG_S, frozen=FROZEN)
    assert step(strategy(keep_stable="1h"), kept, LONG_S + 1.0).phase is Phase.DRAINING


@pytest.mark.parametrize("kind", ["confirm-rollout", "provision"])
def test_nobody_is_called_in_a_freeze_before_the_beginning(kind: str) -> None:
    given = hooked(kind)
    assert wanted_hooks(given, PENDING) == []  # nobody knows yet whether it is frozen
    assert wanted_hooks(given, step(given, PENDING, 1.0, frozen=FROZEN)) == []
    assert wanted_hooks(given, step(given, PENDING, 1.0)) == ["0"]


@pytest.mark.parametrize("kind", ["pre-rollout", "confirm-traffic-increase"])
def test_nobody_is_called_in_a_freeze_before_the_first_stage(kind: str) -> None:
    given = hooked(kind)
    frozen = advance(given, replace(WARMING, converged_s=2.0), ready(3.0, frozen=FROZEN))[0]
    assert (frozen.awaited, wanted_hooks(given, frozen)) == (Awaited.THAW, [])


def test_what_provides_is_not_called_when_the_freeze_comes_while_somebody_confirms() -> None:
    given = hooked("confirm-rollout", "provision")
    frozen = step(given, step(given, PENDING, 1.0), 2.0, answers=yes("0"), frozen=FROZEN)
    assert (frozen.awaited, wanted_hooks(given, frozen)) == (Awaited.THAW, [])


def test_what_provides_is_not_cut_off_by_a_freeze_and_nothing_is_pushed_in_it() -> None:
    given = hooked("provision")
    asking = step(given, step(given, PENDING, 1.0), 2.0, frozen=FROZEN)
    assert wanted_hooks(given, asking) == ["0"]
    provided = step(given, asking, 3.0, answers=yes("0"), frozen=FROZEN)
    assert (provided.phase, provided.awaited) == (Phase.PENDING, Awaited.THAW)
    assert step(given, provided, 4.0).phase is Phase.WARMING


def test_what_prepares_is_not_cut_off_by_a_freeze_and_no_traffic_moves_in_it() -> None:
    given = hooked("pre-rollout")
    asking = advance(
        given, advance(given, replace(WARMING, converged_s=2.0), ready(3.0))[0], ready(4.0, frozen=FROZEN)
    )[0]
    assert wanted_hooks(given, asking) == ["0"]
    prepared = advance(given, asking, ready(5.0, answers=yes("0"), frozen=FROZEN))[0]
    assert (prepared.phase, prepared.awaited) == (Phase.WARMING, Awaited.THAW)
    assert advance(given, prepared, ready(6.0))[0].phase is Phase.SHIFTING


# --- hooks ---


@pytest.mark.parametrize("verdict", [PASS, Inconclusive("not every Envoy has had 10 % for the whole of this look")])
def test_a_hook_that_takes_its_time_uses_up_no_time_limit(verdict: Verdict) -> None:
    given = with_hook("confirm-traffic-increase", stages=[{"weight": "10%", "timeout": "60s"}, "100%"])
    asking = step(given, passed(), 20.0)
    lagging = step(given, replace(asking, verdict=verdict), 1000.0, lagging=AWAY)
    assert lagging.phase is Phase.SHIFTING
    assert step(given, lagging, 1059.0, lagging=AWAY).phase is Phase.SHIFTING
    late = step(given, lagging, 1060.0, lagging=AWAY)
    assert (late.phase, late.reason) == (Phase.PAUSED, "no decision at 10 % after 60 s: a is disconnected")
    again = step(given, replace(lagging, verdict=PASS), 1030.0)
    assert again.awaited is Awaited.HOOK
    assert step(given, again, 2000.0, lagging=AWAY).phase is Phase.SHIFTING


def test_a_hook_that_prepares_uses_up_no_time_to_get_ready_and_is_not_cut_off() -> None:
    given = with_hook("pre-rollout", warm_timeout="20s")
    asking = advance(given, replace(WARMING, converged_s=2.0), ready(3.0))[0]
    unready = step(given, asking, 600.0, unready=("a: 0 of 2 backends healthy",))
    assert (unready.phase, wanted_hooks(given, unready)) == (Phase.WARMING, ["0"])
    assert step(given, unready, 619.0, unready=("a: 0 of 2 backends healthy",)) == unready
    assert step(given, unready, 620.0, unready=("a: 0 of 2 backends healthy",)).phase is Phase.PAUSED
    assert advance(given, unready, ready(610.0))[0] == asking


def test_no_stage_passes_before_its_rollout_hooks_have_agreed() -> None:
    given = with_hook("rollout", stages=[{"weight": "10%", "timeout": "60s"}, "100%"])
    unheard = step(given, passed(), 20.0)
    assert (unheard.phase, unheard.stage) == (Phase.SHIFTING, 0)
    assert step(given, unheard, 21.0, answers=yes("0")).stage == 1
    late = step(given, unheard, 70.0)
    assert (late.phase, late.reason) == (
        Phase.PAUSED,
        "no decision at 10 % after 60 s: the rollout hook 'ask': has not answered yet",
    )


def test_the_end_waits_for_each_of_those_who_let_go_though_another_refuses() -> None:
    given = strategy(hooks=[{"at": "terminate", "command": name} for name in ("left", "right")])
    removing = State(Phase.REMOVING, 10.0, converged_s=10.1, loser=Role.STABLE, reason="good")
    refused = step(given, step(given, removing, 11.0), 12.0, answers=no("0"))
    assert (refused.phase, refused.waiting) == (Phase.REMOVING, "the terminate hook 'right': has not answered yet")
    assert wanted_hooks(given, refused) == ["1"]
    ended = step(given, refused, 13.0, answers=no("1", "404"))
    assert (ended.phase, ended.reason) == (
        Phase.COMPLETED,
        "good; the terminate hook 'left': 503; the terminate hook 'right': 404",
    )


def test_what_cannot_be_undone_counts_from_its_call_on() -> None:
    given = strategy(
        hooks=[{"at": "pre-rollout", "command": "ask", "reversible": False}, {"at": "rollback", "command": "ask"}]
    )
    asking = advance(given, replace(WARMING, converged_s=2.0), ready(3.0))[0]
    assert (asking.point, wanted_hooks(given, asking)) == ("ask", ["1", "0"])
    demanded = step(given, asking, 4.0, answers=yes("1"))
    assert (demanded.phase, demanded.resume) == (Phase.PAUSED, Phase.WARMING)


@pytest.mark.parametrize("verdict", [FAIL, Inconclusive("not every Envoy has had 50 % for the whole of this look")])
def test_what_cannot_be_undone_and_has_agreed_counts_whatever_else_is_seen(verdict: Verdict) -> None:
    given = hooked("confirm-promotion", reversible=False)
    asking = replace(passed(1), awaited=Awaited.HOOK, verdict=verdict)
    agreed = step(given, asking, 20.0, answers=yes("0"))
    assert (agreed.point, agreed.loser, agreed.called) == ("ask", None, frozenset({"0"}))


# --- people ---


def test_beyond_a_point_of_no_return_only_what_is_possible_is_advised() -> None:
    given = hooked("provision", reversible=False)
    asking = step(given, PENDING, 1.0, answers=no("0"))
    assert asking.reason.endswith("so somebody must decide: abort all the same, or resume")


def test_beyond_a_point_of_no_return_a_failure_in_somebodys_pause_is_told() -> None:
    given = strategy()
    pausing = seen(13.0, TENTH, command=Command.PAUSE, **ANN)
    held = advance(given, replace(STAGE, point="contract"), pausing)[0]
    failed = step(given, replace(held, verdict=FAIL), 20.0)
    assert (failed.phase, failed.awaited) == (Phase.PAUSED, Awaited.DECISION)
    assert failed.reason.startswith(f"paused by ann; {FAIL.reason}; 'contract' cannot be undone")
    assert step(given, failed, 21.0) == failed


def test_a_gradual_abort_waits_for_no_envoy() -> None:
    given = strategy(abort="gradual", gradual_step="5s")
    going = advance(given, replace(STAGE, stage=2), seen(20.0, None, command=Command.ABORT, **ANN))[0]
    weights = []
    for now_s in (24.9, 25.0, 29.9, 30.0):
        going = step(given, going, now_s, lagging={"a": "refused RDS routes: too big"})
        weights.append(weight_bp(given, going))
    assert weights == [5000, 1000, 1000, 0]
    assert wanted(given, going).draining is None


def test_a_gradual_promotion_that_is_asked_for_twice_goes_no_faster() -> None:
    given = strategy(promote="gradual", gradual_step="5s")
    going = advance(given, STAGE, seen(20.0, TENTH, command=Command.PROMOTE_FULL, **ANN))[0]
    again = advance(given, going, seen(21.0, wanted(given, going), command=Command.PROMOTE_FULL, **ANN))[0]
    assert again.stage == going.stage
