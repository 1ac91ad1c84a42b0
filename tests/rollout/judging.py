"""Looks as the judge takes them, and a judge that is fed with them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from rollout.gate import Check, Evidence, Gate, Look, Past, Quantile, Step, Stratum, Tally, Verdict, judge

WARM = Gate(warmup_s=0.0)
"""The default settings, but every look counts in full from the first on."""
FIRST = Step(0, 100, 1_000, 0.05)
TENTH = Step(1, 1_000, 5_000, 0.01)
HALF = Step(2, 5_000, 10_000, 0.005)
LAST = Step(3, 10_000, None, 0.005)

P75, P95, P99, P999 = Quantile


def tally(requests: int, errors: int = 0, slow: Sequence[int] = (), late: Sequence[int] = ()) -> Tally:
    """All requests timed; `slow` from p75 on, `late` of p95 and p99, missing ones are 0."""
    padded = (*slow, *(0 for _ in range(4 - len(slow))))
    later = (*late, *(0 for _ in range(2 - len(late))))
    return Tally(requests, errors, requests, dict(zip(Quantile, padded, strict=True)), {P95: later[0], P99: later[1]})


def usual(requests: int, errors: int = 0) -> Tally:
    """With as many slow requests as quantiles say."""
    slow = [requests * share // 10_000 for share in (2500, 500, 100, 10)]
    return tally(requests, errors, slow, (requests * 18 // 1000, requests * 3 // 1000))


@dataclass
class Bench:
    """Judges a look a second."""

    gate: Gate = WARM
    step: Step = TENTH
    checks: Sequence[Check] = ()
    past: Past = field(default_factory=Past)
    evidence: Evidence = field(default_factory=Evidence.start)
    at_s: float = 0.0

    def see(self, stable: Tally, candidate: Tally, **others: object) -> Verdict:
        """One look at Envoys that all have the step's weight."""
        return self.judge((Stratum(self.step.weight_bp, stable, candidate),), **others)

    def judge(self, strata: Sequence[Stratum], **others: object) -> Verdict:
        self.at_s += 1
        look = replace(Look(self.at_s, tuple(strata), self.past), **others)  # type: ignore[arg-type]  # Look's own
        self.evidence, verdict = judge(self.gate, self.checks, self.evidence, look, self.step)
        return verdict

    def repeat(self, times: int, stable: Tally, candidate: Tally, **others: object) -> Verdict:
        """The verdict of the last of so many equal looks."""
        for _ in range(times - 1):
            self.see(stable, candidate, **others)
        return self.see(stable, candidate, **others)

    def until(self, wanted: type[Verdict], stable: Tally, candidate: Tally, most: int = 1_000, **others: object) -> int:
        """How many equal looks it takes to come to such a verdict."""
        for look in range(1, most + 1):
            if isinstance(self.see(stable, candidate, **others), wanted):
                return look
        raise AssertionError(f"no {wanted} in {most} looks")

    def go_to(self, step: Step) -> None:
        self.step = step
        self.evidence = self.evidence.renew(self.at_s)

    def passing(self) -> Mapping[str, float]:
        return {str(metric): won for metric, won in self.evidence.promotion.by_metric().items()}
