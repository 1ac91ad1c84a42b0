"""What is saved as JSON comes back as the equal value."""

from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as some

from rollout.drain import Active, Drain, look
from rollout.gate import Blind, Counts, Evidence, Fail, Histogram, Inconclusive, Look, Pass, Stratum
from rollout.record import (
    dump_drain,
    dump_endpoints,
    dump_seen,
    dump_state,
    dump_strategy,
    load_drain,
    load_endpoints,
    load_seen,
    load_state,
    load_strategy,
)
from rollout.spec import FULL_BP, Endpoint, Strategy
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
buckets = some.tuples(some.floats(0, 1e6), some.floats(0.001, 1e6), some.integers(1, 2**40))
counts = some.builds(
    Counts,
    requests=counters,
    errors=counters,
    retries=counters,
    timeouts=counters,
    latency=some.lists(buckets, max_size=4).map(Histogram.of),
)
strata = some.builds(Stratum, weight_bp=some.integers(0, FULL_BP), stable=counts, candidate=counts)
many_strata = some.lists(strata, max_size=2).map(tuple)
evidence = some.builds(
    Evidence,
    sums=some.tuples(*[numbers] * 18),
    offsets=some.tuples(*[numbers] * 18),
    restarts=counters,
    looks=counters,
    peak_ln_e=numbers,
    candidate_requests=counters,
    stable=counts,
    stage_stable=counts,
    stage_candidate=counts,
    stage_alone=counts,
    carried=many_strata,
)
verdicts = some.sampled_from([Pass, Fail, Inconclusive, Blind]).flatmap(
    lambda verdict: some.builds(verdict, reason=texts, numbers=some.dictionaries(texts, numbers, max_size=3))
)
states = some.builds(
    State,
    phase=some.sampled_from(Phase),
    since_s=numbers,
    stage=some.integers(0, 9),
    converged_s=some.none() | numbers,
    looked_s=numbers,
    evidence=evidence,
    verdict=some.none() | verdicts,
    reason=texts,
    resume=some.none() | some.sampled_from(Phase),
    loser=some.none() | roles,
    drain=some.none() | drains,
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
    look=some.none() | some.builds(Look, strata=many_strata, blind=some.lists(texts, max_size=2).map(tuple)),
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
