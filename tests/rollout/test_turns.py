"""Work in turns: who waits behind it, and that it has its half of the time."""

import pytest

from rollout.turns import LONGEST_TURN_S, TURN_S, Turns


def test_others_have_theirs_after_a_turn() -> None:
    turns = Turns(0.0)
    assert not turns.over(TURN_S / 2)
    assert turns.over(TURN_S)


@pytest.mark.parametrize(
    ("others_s", "turn_s"), [(0.0, TURN_S), (0.05, 0.05), (10.0, LONGEST_TURN_S)], ids=["none", "some", "all"]
)
def test_a_turn_lasts_as_long_as_others_just_had(others_s: float, turn_s: float) -> None:
    turns, back_s = Turns(0.0), TURN_S + others_s
    turns.gave(TURN_S, back_s)
    assert not turns.over(back_s + turn_s * 0.99)
    assert turns.over(back_s + turn_s * 1.01)


def test_others_are_owed_what_the_work_has_taken() -> None:
    assert Turns(0.0).owed_s(3.0) == 3.0


def test_what_others_had_in_between_is_owed_no_more() -> None:
    turns = Turns(0.0)
    turns.gave(3.0, 5.0)
    assert turns.owed_s(6.0) == 2.0  # of six seconds they had two
    turns.gave(6.0, 9.0)
    assert turns.owed_s(9.0) == 0.0
