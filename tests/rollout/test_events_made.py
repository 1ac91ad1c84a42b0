"""What events say: of steps, of refusals, and of a thousand Envoys at once."""

from dataclasses import replace
from datetime import UTC, datetime

import pytest

from rollout.commotion import Commotion, of_node
from rollout.events import Rhythm, of_operation, of_start, of_step
from rollout.gate import Blind, Fail, Inconclusive, Pass, Verdict
from rollout.happenings import Event, EventKind, Severity
from rollout.record import Operation, Rollout
from rollout.spec import Strategy
from rollout.state import Awaited, Command, Phase, Role, Seen, State

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
STRATEGY = Strategy.model_validate({"stages": ["10%", "100%"]})
SHIFTING = State(Phase.SHIFTING, 1.0, reason="it is healthy")
KIND, SEEN = EventKind, Seen(2.0, 1)


def rollout(state: State) -> Rollout:
    return Rollout("checkout", 3, "v1", "v2", STRATEGY, state, 7, NOON, NOON)


def kinds(before: State, after: State, because: Seen = SEEN) -> list[tuple[EventKind, Severity]]:
    return [(each.kind, each.severity) for each in of_step(rollout(before), rollout(after), because)]


def test_a_look_that_changes_nothing_for_people_is_no_event() -> None:
    assert kinds(SHIFTING, replace(SHIFTING, looked_s=2.0, converged_s=1.5)) == []
    assert kinds(SHIFTING, replace(SHIFTING, verdict=Inconclusive("not enough"))) == []


def test_the_next_stage_says_the_weight_and_the_verdict_that_led_to_it() -> None:
    good = Pass("nothing is worse", {"margin": 0.01})
    before, after = replace(SHIFTING, verdict=good), replace(SHIFTING, stage=1, passed=good, reason="10 % has passed")
    (stage,) = of_step(rollout(before), rollout(after), SEEN)
    assert (stage.kind, stage.severity, stage.rollout) == (KIND.ROLLOUT_STAGE, Severity.INFO, 3)
    assert stage.text == "checkout: rollout 3: v2 gets 100 % (stage 2 of 2): 10 % has passed"
    assert (stage.detail["weight_percent"], stage.detail["revision"]) == (100, 7)
    # One that passes and goes on in the same step says so first.
    assert [kind for kind, _ in kinds(SHIFTING, after)] == [KIND.ROLLOUT_VERDICT, KIND.ROLLOUT_STAGE]


def test_a_failure_is_critical_and_has_the_numbers_of_the_verdict() -> None:
    bad = Fail("30 errors in 100 requests", {"ln_e": 9.0}, host="10.0.0.7:80")
    after = State(Phase.ROLLING_BACK, 2.0, loser=Role.CANDIDATE, verdict=bad, reason="worse")
    verdict, back = of_step(rollout(SHIFTING), rollout(after), SEEN)
    assert (verdict.kind, verdict.severity) == (KIND.ROLLOUT_VERDICT, Severity.WARNING)
    assert (back.kind, back.severity) == (KIND.ROLLING_BACK, Severity.CRITICAL)
    assert back.detail["verdict"]["numbers"] == {"ln_e": 9.0}
    assert "goes back to v1: worse" in back.text


@pytest.mark.parametrize(
    ("awaited", "severity"), [(Awaited.APPROVAL, Severity.NOTICE), (Awaited.DECISION, Severity.WARNING)]
)
def test_who_is_asked_is_told(awaited: Awaited, severity: Severity) -> None:
    after = replace(SHIFTING, awaited=awaited, waiting="rollout approve checkout")
    assert kinds(SHIFTING, after) == [(KIND.ROLLOUT_AWAITING, severity)]
    assert kinds(after, replace(after, looked_s=9.0)) == []


def test_a_pause_is_a_warning_unless_somebody_wanted_it() -> None:
    after = replace(SHIFTING, phase=Phase.PAUSED, resume=Phase.SHIFTING)
    assert kinds(SHIFTING, after) == [(KIND.ROLLOUT_PAUSED, Severity.WARNING)]
    wanted = replace(SEEN, command=Command.PAUSE, by="ann")
    assert kinds(SHIFTING, after, wanted) == [(KIND.ROLLOUT_PAUSED, Severity.NOTICE)]
    assert kinds(after, SHIFTING) == [(KIND.ROLLOUT_STAGE, Severity.INFO)]


def test_a_verdict_that_comes_and_goes_is_told_once_in_a_while() -> None:
    rhythm, told = Rhythm(), list[Event]()
    states: list[Verdict] = [Blind("no stats") if number % 2 else Inconclusive("not enough") for number in range(100)]
    before = replace(SHIFTING, verdict=states[0])
    for number, verdict in enumerate(states[1:]):
        after = replace(SHIFTING, verdict=verdict)
        told += rhythm.kept(of_step(rollout(before), rollout(after), SEEN), 0.5 * number)
        before = after
    assert len(told) == 5
    fail = replace(SHIFTING, verdict=Fail("worse"))
    assert len(rhythm.kept(of_step(rollout(before), rollout(fail), SEEN), 49.6)) == 1


def test_a_start_and_an_operation_are_told() -> None:
    assert of_start(rollout(SHIFTING)).text == "checkout: rollout 3 begins: v1 -> v2; it is healthy"
    done = Operation(NOON, "checkout", "deploy", "ann", "v2 on 1 backend", "rollout 3", "root from 127.0.0.1")
    assert (of_operation(done).severity, of_operation(done).detail["origin"]) == (Severity.INFO, done.origin)
    refused = of_operation(replace(done, result="Conflict: a rollout of 'checkout' is in progress"))
    assert refused.severity is Severity.NOTICE
    assert refused.text.startswith("checkout: ann asked for deploy v2 on 1 backend: Conflict: ")


def test_a_storm_of_envoys_is_a_few_events_with_their_number() -> None:
    commotion, told = Commotion(), list[Event]()
    for number in range(10_000):
        now_s = number / 1_000
        event = of_node(KIND.PROXY_NACK, f"edge-{number}", NOON, type="routes", reason="no such cluster")
        told += commotion.happened(event, now_s)
        if number % 1_000 == 0:
            told += commotion.due(NOON, now_s)
    told += commotion.due(NOON, 20.0)
    assert len(told) < 30
    assert told[0].text == "Envoy edge-0 has refused routes: no such cluster"
    assert sum(each.detail.get("count", 1) for each in told) == 10_000
    last = told[-1]
    assert len(last.detail["nodes"]) == 10
    assert "no such cluster" in last.text
