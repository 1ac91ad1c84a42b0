"""What people are told before they do something: stages that are not those that they wrote, and why."""

from dataclasses import replace
from datetime import UTC, datetime

from rollout.gate import Past
from rollout.machine.planned import plan
from rollout.prospect import begins, follows, stages_note
from rollout.record import Rollout
from rollout.spec import Strategy
from tests.rollout.states import PENDING, STAGE

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
WRITTEN = Strategy.model_validate({"stages": ["10%", "50%", "100%"]})
LITTLE = plan(WRITTEN, Past(rate_rps=2.0))
WHY = (
    "stages are written as 10 %, 50 %, 100 %; "
    f"a stage gives the candidate at least {WRITTEN.gate.min_rps:g} requests/s (gate.min_rps)"
)


def test_a_rehearsal_says_what_was_written_and_why_little_traffic_needs_other_stages() -> None:
    pending = replace(PENDING, plan=LITTLE)
    rollout = Rollout("checkout", 1, "v1", "v2", WRITTEN, pending, 1, NOON, NOON)
    assert f"; stages: 50 %, 100 % ({WHY}); all traffic stays" in begins(rollout, ("10.0.0.1:80",))
    as_written = replace(rollout, state=PENDING)
    assert "; stages: 10 %, 50 %, 100 %; all traffic stays" in begins(as_written, ("10.0.0.1:80",))
    assert stages_note(WRITTEN, PENDING) is None


def test_a_command_that_leads_into_stages_which_nobody_wrote_says_so() -> None:
    first = replace(STAGE, plan=LITTLE)
    rollout = Rollout("checkout", 1, "v1", "v2", WRITTEN, first, 5, NOON, NOON)
    assert f"from stage 1 of 2 (50 %) to stage 2 of 2 (100 %) ({WHY})" in follows(rollout, replace(first, stage=1))
