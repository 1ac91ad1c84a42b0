"""Who is waited for when it is gone, and for how long: as the strategy says."""

from datetime import UTC, datetime
from typing import Any

from rollout.record import Rollout
from rollout.roster import MISSED_S, Roster, named
from rollout.spec import Strategy
from rollout.state import Phase, State

AT = datetime(2026, 1, 1, tzinfo=UTC)


def rollout(disconnected: Any = None, number: int = 1) -> Rollout:
    strategy = Strategy.model_validate({} if disconnected is None else {"disconnected": disconnected})
    return Rollout("checkout", number, "v1", "v2", strategy, State(Phase.SHIFTING, 0.0), 1, AT, AT)


def test_one_that_is_gone_is_waited_for_half_a_minute_unless_the_strategy_says_otherwise() -> None:
    roster = Roster()
    roster.note(["a", "b"], (), 0.0)
    why = "is disconnected (waited for up to 30 s)"
    assert roster.waited_for(None, {"a"}, 29.0) == {"b": why}
    assert roster.waited_for(rollout(), {"a"}, 29.0) == {"b": why}
    assert roster.waited_for(rollout(), {"a"}, 30.0) == {}
    assert roster.waited_for(rollout({"for": "5m"}), {"a"}, 299.0) == {"b": "is disconnected (waited for up to 300 s)"}
    assert roster.waited_for(rollout("ignore"), {"a"}, 0.0) == {}
    assert roster.waited_for(rollout({"policy": "fail", "for": "10s"}), {"a"}, 9.0).keys() == {"b"}


def test_ids_are_kept_for_the_longest_time_that_a_rollout_waits() -> None:
    roster = Roster()
    long = rollout({"for": "5m"})
    assert roster.note(["a", "b"], (long,), 0.0) == ("a", "b")
    assert roster.note(["a"], (long,), 299.0) is None
    assert roster.note(["a"], (long,), 301.0) == ("a",)
    assert roster.note(["a", "b"], (), 301.0) == ("a", "b")
    assert roster.note(["a"], (), 332.0) == ("a",)


def test_who_stays_away_for_too_long_is_named_where_that_fails_a_rollout() -> None:
    roster, strict = Roster(), rollout({"policy": "fail", "for": "10s"})
    roster.note(["a", "b", "before"], (), 0.0)
    roster.note(["a", "b"], (strict,), 1.0)
    roster.note(["a"], (strict,), 2.0)
    assert roster.missed(strict, {"a"}, 10.9) == frozenset()
    assert roster.missed(strict, {"a"}, 11.0) == {"b"}
    assert roster.missed(rollout(), {"a"}, 100.0) == frozenset()
    roster.note(["a"], (strict,), 10.0 + MISSED_S)
    assert roster.missed(strict, {"a"}, 10.0 + MISSED_S) == {"b"}
    assert roster.missed(strict, {"a", "b"}, 10.0 + MISSED_S) == frozenset()


def test_after_a_restart_those_that_were_there_are_missed_too() -> None:
    roster, strict = Roster(), rollout({"policy": "fail", "for": "10s"})
    roster.expect(("a", "b"), 100.0)
    roster.note(["a"], (strict,), 100.5)
    assert roster.waited_for(strict, {"a"}, 105.0).keys() == {"b"}
    assert roster.missed(strict, {"a"}, 110.0) == {"b"}


def test_a_journal_names_a_few_of_many() -> None:
    assert named({"b", "a"}) == ("a", "b")
    assert named([f"e{number}" for number in range(9)]) == ("e0", "e1", "e2", "e3", "e4", "4 more")
