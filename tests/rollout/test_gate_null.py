"""The judge on candidates that are no worse: it promises to take back at most one rollout in a hundred for nothing."""

from rollout.forecast.course import Act, Judged, Planned, travel
from rollout.forecast.traffic import Change, Incident, Service, Traffic
from rollout.gate import Gate, steps

ROLLOUTS = 2_000
WEIGHTS_BP = (100, 1_000, 5_000)
GATE = Gate(warmup_s=0.0)  # so that every look counts in full
TOLERATED = GATE.tolerance - 1
CASES = (
    (Service(1_000, errors=0.001), Change()),
    (Service(1_000, errors=0.01), Change(errors=0.01 * TOLERATED)),  # as bad as tolerated
    (Service(400, errors=0.0), Change()),
    (Service(400, errors=0.001, incident=Incident(0.1, lasts_s=5, every_s=20)), Change()),
    (Service(100, errors=0.03), Change()),
)
LONGEST_S = 24
"""What is undecided by then ends, and has not been taken back."""
COLD_ROLLOUTS = 400
WARMING = Gate()
COLD_CASES = tuple(
    (Service(rate_rps, errors), Change(cold=WARMING.tolerance + WARMING.warmup_errors / errors))  # as bad as tolerated
    for rate_rps, errors in ((300, 0.01), (3_000, 0.001))
)


def end_of(gate: Gate, service: Service, change: Change, seed: int) -> Act:
    past = service.past()
    plan = [Planned(step, hold_s=2, timeout_s=LONGEST_S) for step in steps(WEIGHTS_BP, gate, past)]
    weights_bp = [stage.step.weight_bp for stage in plan]
    return travel(Judged(gate, plan, past), weights_bp, Traffic(service, change, seed), LONGEST_S).end


def test_at_most_one_in_a_hundred_rollouts_is_taken_back_for_nothing() -> None:
    ends = [end_of(GATE, *CASES[seed % len(CASES)], seed) for seed in range(ROLLOUTS)]
    assert ends.count(Act.ROLLBACK) <= ROLLOUTS * GATE.alpha
    assert ends.count(Act.PROMOTE) > ROLLOUTS // 10


def test_at_most_one_in_a_hundred_rollouts_is_taken_back_for_a_cold_start_as_bad_as_tolerated() -> None:
    ends = [end_of(WARMING, *COLD_CASES[seed % len(COLD_CASES)], seed) for seed in range(COLD_ROLLOUTS)]
    assert ends.count(Act.ROLLBACK) <= COLD_ROLLOUTS * WARMING.alpha
