"""Each transition of a rollout by itself, and commands: what is known, what follows, and what is asked for."""

from dataclasses import replace
from typing import NamedTuple

import pytest

from rollout.drain import Active, Drain
from rollout.errors import Conflict
from rollout.machine import advance, wanted, weight_bp
from rollout.state import ENDED, TRANSITIONS, Command, Phase, Retire, Role, Seen, Serve, Split, State, start
from tests.rollout.states import (
    AFTER,
    ALL,
    BEFORE,
    DRAINING,
    DRAINING_CANDIDATE,
    DRAINING_STABLE,
    FAIL,
    HALF,
    LAST,
    PASS,
    PAUSED_PENDING,
    PAUSED_STAGE,
    PAUSED_WARMING,
    PENDING,
    REFUSED,
    REMOVING,
    RETAINING,
    ROLLING_BACK,
    STAGE,
    STRATEGY,
    TENTH,
    WARM,
    WARMING,
    paused,
    rolled_back,
    seen,
)


class Move(NamedTuple):
    """One transition: a state, what is seen then, and the state that follows."""

    state: State
    seen: Seen
    following: State


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
        replace(STAGE, since_s=16.0, stage=1, converged_s=None, passed=PASS, reason=PASS.reason),
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


GONE = "its old version is being let go, and `rollout undo` goes back to it when this has ended"


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
        (
            ROLLING_BACK,
            Command.PAUSE,
            "cannot pause a rollout that is rolling back; `rollout retry` begins it anew when this has ended",
        ),
        (DRAINING, Command.PROMOTE, f"cannot promote a rollout that is draining; {GONE}"),
        (
            WARMING,
            Command.PROMOTE,
            "cannot promote a rollout that is warming; the candidate has had no traffic yet",
        ),
        (
            PAUSED_WARMING,
            Command.PROMOTE_FULL,
            "cannot fully promote a rollout that is paused; the candidate has had no traffic yet",
        ),
        (
            WARMING,
            Command.SKIP_STAGE,
            "cannot skip a stage of a rollout that is warming; the candidate has had no traffic yet",
        ),
        (WARMING, Command.RESUME, "cannot resume a rollout that is warming; it is not paused"),
        (STAGE, Command.RESUME, "cannot resume a rollout that is shifting; it is not paused"),
    ],
)
def test_a_command_that_makes_no_sense_now_is_refused_with_why(state: State, command: Command, told: str) -> None:
    with pytest.raises(Conflict) as refused:
        advance(STRATEGY, state, seen(20.0, wanted(STRATEGY, state), command=command))
    assert str(refused.value) == told
