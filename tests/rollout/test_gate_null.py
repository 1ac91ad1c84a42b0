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


def end_of(service: Service, change: Change, seed: int) -> Act:
    past = service.past()
    plan = [Planned(step, hold_s=2, timeout_s=LONGEST_S) for step in steps(WEIGHTS_BP, GATE, past)]
    weights_bp = [stage.step.weight_bp for stage in plan]
    return travel(Judged(GATE, plan, past), weights_bp, Traffic(service, change, seed), LONGEST_S).end


def test_at_most_one_in_a_hundred_rollouts_is_taken_back_for_nothing() -> None:
    ends = [end_of(*CASES[seed % len(CASES)], seed) for seed in range(ROLLOUTS)]
    assert ends.count(Act.ROLLBACK) <= ROLLOUTS * GATE.alpha
    assert ends.count(Act.PROMOTE) > ROLLOUTS // 10
