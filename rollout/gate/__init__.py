"""The judge: sequential tests on what a look saw, which end in Pass, Fail, Inconclusive or Blind."""

from rollout.gate.betting import EFFECTS, Bet, Trial, mixture_llr, rollback_llr
from rollout.gate.evidence import Evidence, Metric
from rollout.gate.histogram import Bucket, Histogram
from rollout.gate.judge import judge
from rollout.gate.sample import Counts, Look, Stratum
from rollout.gate.settings import Gate
from rollout.gate.verdict import (
    Blind,
    Fail,
    Inconclusive,
    Pass,
    Verdict,
    VerdictName,
    verdict_from_json,
    verdict_to_json,
)

__all__ = [
    "EFFECTS",
    "Bet",
    "Blind",
    "Bucket",
    "Counts",
    "Evidence",
    "Fail",
    "Gate",
    "Histogram",
    "Inconclusive",
    "Look",
    "Metric",
    "Pass",
    "Stratum",
    "Trial",
    "Verdict",
    "VerdictName",
    "judge",
    "mixture_llr",
    "rollback_llr",
    "verdict_from_json",
    "verdict_to_json",
]
