"""The judge: sequential tests on what a look saw, which end in Pass, Fail, Inconclusive or Blind."""

from rollout.gate.checks import Check, Outage, Reading, Watched
from rollout.gate.evidence import Evidence
from rollout.gate.histogram import Bucket, Histogram
from rollout.gate.judge import blind_for_s, judge, judge_aside
from rollout.gate.plan import Step, steps
from rollout.gate.rollback import Metric
from rollout.gate.sample import Host, Look, Past, Quantile, Stratum, Tally
from rollout.gate.settings import BadHost, Errors, Gate, WhenBlind
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
    "BadHost",
    "Blind",
    "Bucket",
    "Check",
    "Errors",
    "Evidence",
    "Fail",
    "Gate",
    "Histogram",
    "Host",
    "Inconclusive",
    "Look",
    "Metric",
    "Outage",
    "Pass",
    "Past",
    "Quantile",
    "Reading",
    "Step",
    "Stratum",
    "Tally",
    "Verdict",
    "VerdictName",
    "Watched",
    "WhenBlind",
    "blind_for_s",
    "judge",
    "judge_aside",
    "steps",
    "verdict_from_json",
    "verdict_to_json",
]
