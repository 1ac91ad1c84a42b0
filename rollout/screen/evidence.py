"""A verdict in words, and its evidence as bars: how near it is to a rollback, and to the next stage."""

from collections.abc import Iterator, Mapping

from rich.text import Text

from rollout.gate.words import odds
from rollout.screen.words import Json, plain, style_of

VERDICTS: Mapping[str, str] = {
    "pass": "PASS",
    "fail": "FAIL",
    "inconclusive": "not enough evidence yet",
    "blind": "BLIND, data is missing",
}
HELD = "HOLD"
BAR_CELLS = 12
PASS_METRICS = ("errors", "p95", "p99")


def verdict_text(verdict: Json) -> Text:
    """A verdict and why, in words."""
    name = verdict["verdict"]
    words = HELD if name == "inconclusive" and "held_s" in verdict["numbers"] else VERDICTS.get(name, name)
    return Text.assemble((words, style_of(name)), ": ", plain(verdict["reason"]))


def evidence_bars(numbers: Json) -> Iterator[tuple[str, Text]]:
    """Two bars with their labels: evidence against the candidate, and for it."""
    if "ln_limit" not in numbers:  # a verdict without a comparison
        return
    part = max(0.0, numbers["ln_e"] / numbers["ln_limit"])
    yield "against", Text.assemble(_bar(part, "red"), f" {against(numbers)} needed to take it back")
    if numbers.get("stable_requests"):  # at 100 % there is nothing to compare with
        shown = progress(numbers)
        yield "for", Text.assemble(_bar(min(shown.values()), "green"), f" {progress_words(shown)} of what passes")


def against(numbers: Json) -> str:
    """Evidence against the candidate by what takes it back: 12 of 100."""
    return f"{odds(numbers['ln_e'])} of {odds(numbers['ln_limit'])}"


def progress(numbers: Json) -> Mapping[str, float]:
    """How much of the evidence to pass there is, as a part of 1, by what it is about."""
    start, needed = numbers.get("ln_pass_start", 0.0), numbers["ln_pass_limit"]
    judged = [metric for metric in PASS_METRICS if f"ln_pass_{metric}" in numbers]  # connections have no latencies
    won = {metric: (numbers[f"ln_pass_{metric}"] - start) / (needed - start) for metric in judged}
    return {metric: min(1.0, max(0.0, part)) for metric, part in won.items()}


def progress_words(shown: Mapping[str, float]) -> str:
    """Rounded down: 100 % is enough, and less is not."""
    return ", ".join(f"{metric} {int(100 * part)} %" for metric, part in shown.items())


def _bar(part: float, style: str) -> Text:
    full = min(BAR_CELLS, int(BAR_CELLS * part))
    return Text.assemble(("█" * full, style), ("░" * (BAR_CELLS - full), "dim"))
