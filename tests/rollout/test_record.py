"""What is saved as JSON comes back as the equal value."""

import json
from dataclasses import replace
from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as some

from rollout.drain import Active, Drain, look
from rollout.exposure import FULL_BP
from rollout.gate import (
    Blind,
    Evidence,
    Fail,
    Host,
    Inconclusive,
    Look,
    Pass,
    Past,
    Quantile,
    Reading,
    Step,
    Stratum,
    Tally,
    Watched,
)
from rollout.gate.guards import Ceiling, HangGuard, Retries
from rollout.gate.promotion import Attempt, PromoteEvidence, Shares, ShownMargin
from rollout.gate.rollback import RollbackEvidence
from rollout.machine import step_of
from rollout.record import (
    dump_drain,
    dump_endpoints,
    dump_seen,
    dump_state,
    dump_step,
    dump_strategy,
    load_drain,
    load_endpoints,
    load_seen,
    load_state,
    load_strategy,
)
from rollout.spec import Endpoint, Strategy
from rollout.state import Command, Phase, Role, Seen, Split, State, start

numbers = some.floats(allow_nan=False, allow_infinity=False)
counters = some.integers(0, 2**53)
texts = some.text(max_size=20)
roles = some.sampled_from(Role)
drains = some.builds(
    Drain,
    began_s=numbers,
    acked_s=some.none() | numbers,
    idle_looks=counters,
    looked_s=numbers,
    running=some.none() | counters,
    timed_out=some.booleans(),
    cut=some.dictionaries(texts, some.integers(-1, 9), max_size=3),
)
quantiles = some.sampled_from(Quantile)
by_quantile = some.dictionaries(quantiles, counters, max_size=2)
shares_by_quantile = some.dictionaries(quantiles, numbers, max_size=2)
tallies = some.builds(
    Tally,
    requests=counters,
    errors=counters,
    timed=counters,
    slow=by_quantile,
    late=by_quantile,
    retries=counters,
    timeouts=counters,
    started=counters,
    active=counters,
)
strata = some.builds(Stratum, weight_bp=some.integers(0, FULL_BP), stable=tallies, candidate=tallies, group=texts)
many_strata = some.lists(strata, max_size=2).map(tuple)
pasts = some.builds(
    Past,
    errors=numbers,
    slow=shares_by_quantile,
    late=shares_by_quantile,
    phi=numbers,
    rate_rps=some.none() | numbers,
    p99_ms=numbers,
    slow_ms=shares_by_quantile,
    late_ms=shares_by_quantile,
)
readings = some.builds(Reading, check=texts, at_s=numbers, value=some.none() | numbers, fault=texts)
by_address = some.dictionaries(texts, some.builds(Host, counters, counters), max_size=2)
looks = some.builds(
    Look,
    at_s=numbers,
    strata=many_strata,
    past=pasts,
    blind=some.lists(texts, max_size=2).map(tuple),
    astray=some.lists(texts, max_size=2).map(tuple),
    hosts=by_address,
    readings=some.lists(readings, max_size=2).map(tuple),
    names=some.tuples(texts, texts),
)
known_shares = some.builds(Shares, tallies)
attempts = some.builds(Attempt, sums=some.tuples(*[numbers] * 3), began_s=numbers, number=counters, shares=known_shares)
slots = some.lists(numbers, min_size=30, max_size=30).map(tuple)
ceilings = some.builds(Ceiling, some.tuples(*[numbers] * 4), some.none() | numbers)
evidence = some.builds(
    Evidence,
    rollback=some.builds(
        RollbackEvidence,
        sums=slots,
        offsets=slots,
        cold=some.tuples(*[numbers] * 4),
        restarts=counters,
        restarted_s=some.none() | numbers,
        peak_ln_e=numbers,
    ),
    promotion=some.builds(PromoteEvidence, attempts, some.none() | attempts, numbers),
    shown=some.builds(ShownMargin, some.tuples(*[numbers] * 8), some.tuples(*[some.booleans()] * 8)),
    shares=known_shares,
    hang=some.builds(HangGuard, numbers),
    retries=some.builds(Retries, numbers, numbers, numbers, numbers),
    slo=ceilings,
    alone=ceilings,
    stable=tallies,
    candidate=tallies,
    candidate_before=tallies,
    excess=numbers,
    carried=many_strata,
    hosts=by_address,
    watched=some.dictionaries(texts, some.builds(Watched, readings, counters), max_size=2),
    stage_s=some.none() | numbers,
    looked_s=numbers,
    first_s=some.none() | numbers,
    blind_s=some.none() | numbers,
    held_s=some.none() | numbers,
)
verdicts = some.sampled_from([Pass, Fail, Inconclusive, Blind]).flatmap(
    lambda verdict: some.builds(
        verdict,
        reason=texts,
        numbers=some.dictionaries(texts, numbers, max_size=3),
        notes=some.lists(texts, max_size=2).map(tuple),
        **({"host": texts} if verdict is Fail else {}),
    )
)
plans = some.lists(
    some.builds(Step, counters, some.integers(0, FULL_BP), some.none() | some.integers(0, FULL_BP), numbers), max_size=2
).map(tuple)
states = some.builds(
    State,
    phase=some.sampled_from(Phase),
    since_s=numbers,
    stage=some.integers(0, 9),
    converged_s=some.none() | numbers,
    looked_s=numbers,
    evidence=evidence,
    verdict=some.none() | verdicts,
    passed=some.none() | verdicts,
    reason=texts,
    resume=some.none() | some.sampled_from(Phase),
    loser=some.none() | roles,
    drain=some.none() | drains,
    plan=plans,
    let_go=texts,
)
by_node = some.dictionaries(texts, texts, max_size=3)
observations = some.builds(
    Seen,
    now_s=numbers,
    connected=counters,
    fleet=counters,
    served=some.none() | some.builds(Split, some.integers(0, FULL_BP), some.frozensets(roles), some.none() | roles),
    lagging=by_node,
    refused=by_node,
    unready=some.lists(texts, max_size=2).map(tuple),
    looked_s=numbers,
    look=some.none() | looks,
    past=some.none() | pasts,
    leaving=some.frozensets(texts, max_size=2),
    active=some.none() | some.builds(Active, numbers, some.dictionaries(texts, some.none() | counters, max_size=3)),
    retired=some.booleans(),
    command=some.none() | some.sampled_from(Command),
    by=texts,
)
hosts = some.ip_addresses().map(str)
endpoints = some.builds(Endpoint, host=hosts, port=some.integers(1, 65535), region=texts, zone=texts)


@given(states)
def test_a_state_comes_back_as_it_was_saved(state: State) -> None:
    assert load_state(dump_state(state)) == state


@given(observations)
def test_an_observation_comes_back_as_it_was_saved(seen: Seen) -> None:
    assert load_seen(dump_seen(seen)) == seen


def test_sets_are_saved_in_order_whatever_they_grew_from() -> None:
    keys = [str(number) for number in range(100)]
    saved = json.loads(dump_state(replace(start(0.0, "deployed"), called=frozenset(keys))))
    assert saved["called"] == sorted(keys)


@given(drains)
def test_a_drain_comes_back_as_it_was_saved(drain: Drain) -> None:
    assert load_drain(dump_drain(drain)) == drain


@given(some.lists(endpoints, max_size=3).map(tuple))
def test_endpoints_come_back_as_they_were_saved(saved: tuple[Endpoint, ...]) -> None:
    assert load_endpoints(dump_endpoints(saved)) == saved


def test_a_drain_that_just_began_can_be_saved() -> None:
    assert load_drain(dump_drain(Drain(1.0))) == Drain(1.0)


def test_a_drain_whose_time_is_up_is_saved_with_who_was_cut() -> None:
    over = look(Drain(0.0), now_s=30.0, acked=True, active=Active(29.0, {"a": 2, "b": None, "c": 0}), limit_s=30.0)
    assert dict(load_drain(dump_drain(over)).cut) == {"a": 2, "b": -1}


def test_a_state_that_just_began_can_be_saved() -> None:
    assert load_state(dump_state(start(1.5, "deployed"))) == start(1.5, "deployed")


@given(states)
def test_a_step_comes_back_without_its_evidence(state: State) -> None:
    assert load_state(dump_step(state)) == replace(state, evidence=Evidence.start())


def test_a_state_of_a_release_without_plans_can_be_loaded() -> None:
    """What its evidence was made of is gone: the test of that rollout begins anew."""
    counts = {"requests": 900, "errors": 1, "retries": 0, "timeouts": 0, "latency": {"buckets": [[1.0, 0.1, 900]]}}
    saved = {
        "phase": "shifting",
        "since_s": 10.0,
        "stage": 1,
        "converged_s": 11.0,
        "looked_s": 12.5,
        "evidence": {
            "sums": [0.5] * 18,
            "offsets": [0.5] * 18,
            "restarts": 2,
            "looks": 7,
            "peak_ln_e": 1.0,
            "candidate_requests": 100,
            "stable": counts,
            "stage_stable": counts,
            "stage_candidate": counts,
            "stage_alone": counts,
            "carried": [],
        },
        "verdict": {"verdict": "pass", "reason": "as good", "numbers": {"ln_e": -0.5}},
        "reason": "as good",
        "resume": None,
        "loser": None,
        "drain": None,
    }
    state = load_state(json.dumps(saved))
    assert (state.phase, state.stage, state.plan, state.let_go) == (Phase.SHIFTING, 1, (), "")
    assert state.evidence.rollback == Evidence.start().rollback
    assert state.verdict == Pass("as good", {"ln_e": -0.5})
    assert step_of(Strategy(), state) == Step(1, 1_000, 5_000, 0.01)


def test_the_default_strategy_comes_back_as_it_was_saved() -> None:
    assert load_strategy(dump_strategy(Strategy())) == Strategy()


@given(weights=some.sets(some.integers(1, FULL_BP - 1), max_size=4))
def test_every_weight_comes_back_exactly(weights: set[int]) -> None:
    stages = [f"{weight_bp / 100:.2f}%" for weight_bp in (*sorted(weights), FULL_BP)]
    strategy = Strategy.model_validate({"stages": stages})
    assert load_strategy(dump_strategy(strategy)) == strategy


@pytest.mark.parametrize("written", ["0.05ms", "1234.567s", "86400.001s", "300h", "720h", "123456.789s"])
def test_every_duration_that_is_taken_comes_back_exactly(written: str) -> None:
    strategy = Strategy.model_validate({"keep_stable": written})
    assert strategy.keep_stable > timedelta()
    assert load_strategy(dump_strategy(strategy)) == strategy
