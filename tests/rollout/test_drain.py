"""When what is drained counts as idle."""

from collections.abc import Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as some

from rollout.drain import Active, Drain, look

LIMIT_S = 30.0
ACKED = Drain(0.0, acked_s=1.0)


def looked(drain: Drain, now_s: float, active: Active | None, *, acked: bool = True) -> Drain:
    return look(drain, now_s=now_s, acked=acked, active=active, limit_s=LIMIT_S)


def idle(at_s: float) -> Active:
    return Active(at_s, {"a": 0, "b": 0})


def test_three_idle_looks_in_a_row_end_a_drain() -> None:
    drain = looked(Drain(0.0), 1.0, None)
    assert drain == ACKED
    for number, at_s in enumerate((1.1, 1.2, 1.3), start=1):
        assert not drain.done
        drain = looked(drain, at_s + 0.05, idle(at_s))
        assert drain == Drain(0.0, acked_s=1.0, idle_looks=number, looked_s=at_s, running=0)
    assert drain.done


def test_the_same_answer_counts_once() -> None:
    drain = looked(ACKED, 2.0, idle(1.5))
    assert looked(drain, 2.0, idle(1.5)) == drain
    assert looked(drain, 9.0, idle(1.5)) == drain


@pytest.mark.parametrize("at_s", [0.2, 1.0])
def test_an_answer_that_was_asked_for_before_the_last_ack_does_not_count(at_s: float) -> None:
    assert looked(ACKED, 1.5, idle(at_s)) == ACKED


def test_nothing_counts_while_an_envoy_does_not_know_of_the_drain() -> None:
    assert looked(Drain(0.0), 5.0, idle(4.9), acked=False) == Drain(0.0)


@pytest.mark.parametrize(
    ("by_node", "running"),
    [({"a": 0, "b": 2}, 2), ({"a": 1, "b": 2}, 3), ({"a": 0, "b": None}, 0), ({"a": None}, 0), ({}, 0)],
)
def test_a_request_or_an_envoy_that_cannot_be_asked_starts_the_row_anew(
    by_node: Mapping[str, int | None], running: int
) -> None:
    once = looked(ACKED, 2.0, idle(1.9))
    assert looked(once, 2.1, Active(2.05, by_node)) == Drain(0.0, 1.0, idle_looks=0, looked_s=2.05, running=running)


def test_an_envoy_that_comes_back_with_the_old_weights_starts_the_drain_anew() -> None:
    twice = looked(looked(ACKED, 2.0, idle(1.9)), 2.1, idle(2.05))
    assert twice.idle_looks == 2
    back = looked(twice, 2.2, idle(2.15), acked=False)
    assert back == Drain(0.0, acked_s=None, idle_looks=0, looked_s=2.05, running=0)
    again = looked(back, 2.6, idle(2.3))
    assert again == Drain(0.0, acked_s=2.6, idle_looks=0, looked_s=2.05, running=0)
    assert looked(again, 2.8, idle(2.7)).idle_looks == 1


def test_an_envoy_that_cannot_be_asked_blocks_until_the_time_is_up() -> None:
    drain = ACKED
    for second in range(2, 30):
        drain = looked(drain, float(second), Active(second - 0.1, {"a": 0, "b": None}))
        assert not drain.done
    over = looked(drain, 30.0, Active(29.9, {"a": 0, "b": None}))
    assert over.done
    assert over.timed_out
    assert over.cut == {"b": -1}


def test_whoever_still_has_requests_when_the_time_is_up_is_counted() -> None:
    over = looked(ACKED, 31.0, Active(30.5, {"a": 0, "b": 3, "c": None}))
    assert over == Drain(
        0.0, acked_s=1.0, idle_looks=0, looked_s=30.5, running=3, timed_out=True, cut={"b": 3, "c": -1}
    )


@pytest.mark.parametrize("acked", [False, True])
def test_the_time_is_up_whoever_has_acked(acked: bool) -> None:
    over = looked(Drain(0.0), 30.0, None, acked=acked)
    assert over == Drain(0.0, acked_s=30.0 if acked else None, timed_out=True)


def test_idle_for_the_third_time_in_the_last_moment_cuts_nobody() -> None:
    drain = looked(Drain(0.0, acked_s=1.0, idle_looks=2, looked_s=29.0, running=0), 30.0, idle(29.9))
    assert drain == Drain(0.0, acked_s=1.0, idle_looks=3, looked_s=29.9, running=0)


def test_a_drain_without_time_still_takes_a_second_look() -> None:
    began = Drain(5.0)
    assert look(began, now_s=5.0, acked=True, active=None, limit_s=0.0) == Drain(5.0, acked_s=5.0)
    assert look(began, now_s=5.1, acked=True, active=None, limit_s=0.0).timed_out


actives = some.none() | some.builds(
    Active, some.floats(0, 60), some.dictionaries(some.sampled_from("abc"), some.none() | some.integers(0, 2))
)


@given(some.lists(some.tuples(some.floats(0, 20), some.booleans(), actives), max_size=12))
def test_an_equal_look_changes_nothing_and_a_done_drain_stays_as_it_is(
    looks: list[tuple[float, bool, Active | None]],
) -> None:
    drain, now_s = Drain(0.0), 0.0
    for step_s, acked, active in looks:
        now_s += step_s
        following = looked(drain, now_s, active, acked=acked)
        assert looked(following, now_s, active, acked=acked) == following
        assert (
            following == drain
            if drain.done
            else not following.done or following.timed_out == (following.idle_looks < 3)
        )
        drain = following
