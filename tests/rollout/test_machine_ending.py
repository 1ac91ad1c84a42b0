"""The way out of a rollout: rolling back, draining, removing."""

from dataclasses import replace

import pytest

from rollout.drain import Active, Drain
from rollout.machine import advance, wanted
from rollout.state import Command, Phase, Retire, Role, Seen, Serve, Split, State
from tests.rollout.states import (
    AFTER,
    ALL,
    BEFORE,
    CUT,
    DRAINING,
    DRAINING_STABLE,
    REMOVING,
    RETAINING,
    ROLLING_BACK,
    STRATEGY,
    TENTH,
    WARM,
    WARMING,
    seen,
)

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
