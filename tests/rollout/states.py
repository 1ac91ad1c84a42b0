"""Moments in a rollout's life: states, and what may be seen in them."""

from dataclasses import replace

from rollout.drain import Active, Drain
from rollout.gate import Fail, Look, Pass, Stratum, Tally
from rollout.spec import Strategy
from rollout.state import Awaited, Phase, Role, Seen, Split, State
from tests.rollout.judging import usual

STRATEGY = Strategy.model_validate(
    {
        "stages": [{"weight": "10%", "hold": "5s", "timeout": "60s"}, "50%", "100%"],
        "gate": {"warmup": "0s"},
        "warm_timeout": "20s",
        "keep_stable": "10s",
        "drain_timeout": "30s",
        "preview": "off",
    }
)
BOTH = frozenset(Role)
BEFORE = Split(0, frozenset({Role.STABLE}))
WARM = Split(0, BOTH)
TENTH = Split(1000, BOTH)
HALF = Split(5000, BOTH)
ALL = Split(10_000, BOTH)
DRAINING_STABLE = Split(10_000, BOTH, draining=Role.STABLE)
DRAINING_CANDIDATE = Split(0, BOTH, draining=Role.CANDIDATE)
AFTER = Split(10_000, frozenset({Role.CANDIDATE}))

PASS = Pass("as good as stable")
FAIL = Fail("error share 30 % against 0 %")

PENDING = State(Phase.PENDING, 0.0, reason="deployed")
WARMING = State(Phase.WARMING, 1.0, reason="the candidate is pushed to every Envoy")
STAGE = State(Phase.SHIFTING, 10.0, converged_s=11.0, looked_s=12.0, reason="go")
LAST = replace(STAGE, stage=2)
RETAINING = State(Phase.RETAINING, 10.0, stage=2, converged_s=10.0, loser=Role.STABLE, reason="good")
ROLLING_BACK = State(Phase.ROLLING_BACK, 10.0, verdict=FAIL, reason=FAIL.reason, loser=Role.CANDIDATE)
DRAINING = State(Phase.DRAINING, 10.0, converged_s=10.1, loser=Role.STABLE, drain=Drain(10.0), reason="good")
REMOVING = State(Phase.REMOVING, 10.0, converged_s=10.1, loser=Role.STABLE, reason="good")


def seen(now_s: float, served: Split | None, **others: object) -> Seen:
    """Two Envoys that have all that is served."""
    return replace(Seen(now_s, 2, fleet=2, served=served), **others)  # type: ignore[arg-type]  # Seen's own fields


def good(requests: int = 1_000) -> Look:
    """By default as much as it takes to pass at once."""
    return compared(usual(9 * requests), usual(requests))


def bad() -> Look:
    return compared(usual(900), usual(100, 60))


def compared(stable: Tally, candidate: Tally, weight_bp: int = 1_000) -> Look:
    return Look(0.0, (Stratum(weight_bp, stable, candidate),))


def looked(now_s: float, served: Split, look: Look, **others: object) -> Seen:
    """With a look that ended at this moment."""
    return seen(now_s, served, looked_s=now_s, look=replace(look, at_s=now_s), **others)


def paused(state: State, at_s: float, reason: str) -> State:
    kept = state.converged_s if state.phase is Phase.SHIFTING else None
    awaited = Awaited.OPERATOR if reason.startswith("paused by") else Awaited.DECISION
    following = replace(state, phase=Phase.PAUSED, since_s=at_s, converged_s=kept, reason=reason, resume=state.phase)
    return replace(following, awaited=awaited)


def rolled_back(state: State, at_s: float, reason: str, **others: object) -> State:
    following = State(Phase.ROLLING_BACK, at_s, state.stage, reason=reason, loser=Role.CANDIDATE)
    kept = replace(following, evidence=state.evidence, verdict=state.verdict, looked_s=state.looked_s)
    return replace(kept, **others)  # type: ignore[arg-type]  # State's own fields


PAUSED_STAGE = paused(STAGE, 15.0, "paused by ann")
PAUSED_WARMING = paused(WARMING, 15.0, "paused by ann")
PAUSED_PENDING = paused(PENDING, 15.0, "paused by ann")
CUT = Active(39.9, {"a": 2, "b": None, "c": 0})
REFUSED = {"a": "refused RDS routes: too big", "b": "refused CDS checkout@v2: bad"}
