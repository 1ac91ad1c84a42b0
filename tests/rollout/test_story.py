"""A rollout's story at 80 columns: one chapter for each phase and stage, with the numbers of what decided it."""

import io
import math
from typing import Any

import pytest
from rich.console import Console, RenderableType

from rollout.gate.words import odds
from rollout.story import chapters, story


def words(renderable: RenderableType) -> str:
    """Return what 80 columns show on one line, and check that nothing is wider."""
    console = Console(width=80, record=True, file=io.StringIO())
    console.print(renderable)
    text = console.export_text()
    assert all(len(line.rstrip()) <= 80 for line in text.splitlines())
    return " ".join(text.split())


def verdict(name: str = "inconclusive", reason: str = "not yet shown", **numbers: float) -> dict[str, Any]:
    base = {
        "candidate_requests": 412,
        "candidate_errors": 7,
        "candidate_error_share": 0.017,
        "stable_requests": 40_788,
        "stable_errors": 31,
        "stable_error_share": 0.00076,
        "ln_e": 10.342,
        "ln_limit": 4.60517,
        "p_value": 3.2e-5,
        "ln_pass_errors": 2.4,
        "ln_pass_p95": 4.1,
        "ln_pass_p99": -1.0,
        "ln_pass_limit": 2.995732,
        "margin": 0.01,
    }
    return {"verdict": name, "reason": reason, "numbers": base | numbers, "notes": []}


def entry(revision: int, second: int, phase: str, stage: int, **changes: Any) -> dict[str, Any]:
    base = {
        "revision": revision,
        "at": f"2026-11-22T05:10:{second:02}+00:00",
        "phase": phase,
        "stage": stage,
        "weight_percent": 1.0 if phase == "shifting" else 0.0,
        "reason": f"why {phase}",
        "verdict": None,
        "passed": None,
        "waiting_for": {},
        "by": "",
        "command": "",
        "awaiting": None,
        "waiting": "",
        "answers": [],
        "let_go": "",
        "astray": [],
        "readings": [],
    }
    return {**base, **changes}


def rollout(journal: list[dict[str, Any]], **changes: Any) -> dict[str, Any]:
    base = {
        "service": "checkout",
        "id": 3,
        "stable": "v2",
        "candidate": "v3",
        "phase": "rolled_back",
        "started_at": "2026-11-22T05:10:41+00:00",
        "changed_at": "2026-11-22T05:11:53+00:00",
        "stages_note": None,
        "track": [{"kind": "weight", "weight_percent": each} for each in (1.0, 10.0, 100.0)],
        "journal": journal,
    }
    return {**base, **changes}


def test_consecutive_entries_of_a_stage_fold_into_one_chapter() -> None:
    journal = [
        entry(1, 1, "pending", 0),
        entry(2, 2, "shifting", 0),
        entry(3, 3, "shifting", 0, verdict=verdict("blind")),
        entry(4, 4, "shifting", 0, verdict=verdict("pass")),
        entry(5, 5, "shifting", 1),
        entry(6, 9, "rolling_back", 1),
    ]
    found = chapters(journal)
    assert [(each.first["revision"], each.last["revision"], each.seconds) for each in found] == [
        (1, 1, 1.0),
        (2, 4, 3.0),
        (5, 5, 4.0),
        (6, 6, None),
    ]
    assert [each.following and each.following["revision"] for each in found] == [2, 5, 6, None]


def test_the_story_tells_times_weights_and_reasons() -> None:
    journal = [
        entry(1, 1, "pending", 0, reason="deployed by ann"),
        entry(2, 2, "shifting", 0),
        entry(3, 8, "shifting", 0, verdict=verdict()),
        entry(4, 9, "rolling_back", 0, reason="aborted", by="bob", waiting_for={"edge-1": "is behind"}),
    ]
    text = words(story(rollout(journal, stages_note="stages are written as 1 %, 100 %")))
    for fact in (
        "rollout 3 of checkout: v2 → v3, rolled back",
        "2026-11-22 05:10:41 UTC",
        "stages are written as 1 %, 100 %",
        "05:10:01 0 % pending deployed by ann",
        "05:10:02 1 % stage 1 why shifting 2 steps in 7.0 s",
        "05:10:09 0 % rolling back aborted asked for by bob",
        "waiting for edge-1: is behind",
    ):
        assert fact in text


def test_a_stage_shows_the_numbers_of_the_verdict_that_ended_it() -> None:
    why = "7 errors in 412 requests of v3 against 31 in 40,788 of v2; evidence 3.1e4, needed 100"
    failed = verdict("fail", why, shown_margin=0.05, excess_errors=6.7, candidate_timeouts=2, candidate_retries=3)
    journal = [
        entry(1, 2, "shifting", 0, verdict=verdict(ln_e=0.0)),
        entry(2, 3, "rolling_back", 0, reason=why, verdict=failed | {"host": "127.0.0.1:9081"}),
    ]
    text = words(story(rollout(journal)))
    for fact in (
        f"last verdict FAIL: {why}",
        "v3: 412 requests, 7 errors (1.7 %), 2 timeouts, 3 retried",
        "v2: 40,788 requests, 31 errors (0.076 %)",
        "cost: 7 bad answers more than v2 would have given",
        "evidence against v3: 3.1e4 of 100 (p 3.2e-05)",
        "at most 1 percentage point worse: errors 80 %, p95 100 %, p99 0 %",
        "shown of errors, in the whole rollout: at most 5 percentage points worse, 95 %",
        "blamed 127.0.0.1:9081",
    ):
        assert fact in text
    assert text.count("40,788 requests") == 1


def test_a_stage_that_was_passed_shows_the_verdict_that_passed_it() -> None:
    passed = verdict("pass", reason="shown to be as good")
    journal = [entry(1, 2, "shifting", 0, verdict=verdict()), entry(2, 3, "shifting", 1, reason="next", passed=passed)]
    assert "last verdict PASS: shown to be as good" in words(story(rollout(journal)))


def test_a_stage_shows_what_checks_measured_last_and_who_was_astray() -> None:
    queue: dict[str, Any] = {"check": "queue", "value": 12.0, "fault": ""}
    readings = [queue, {"check": "smoke", "value": None, "fault": "no answer"}]
    astray = [f"edge-{number} sends v3 12.1 % of 3,400 requests, not 1 %" for number in range(9)]
    noted = verdict() | {"notes": ["edge-0 is odd"]}
    journal = [
        entry(1, 2, "shifting", 0, verdict=verdict(), readings=[queue | {"value": 9.0}], astray=[astray[0]]),
        entry(2, 3, "shifting", 0, verdict=noted, readings=readings, astray=["edge-1 sends v3 all", *astray[2:]]),
    ]
    text = words(story(rollout(journal)))
    for fact in (
        "check queue: 12",
        "check smoke: no answer",
        "note edge-0 is odd",
        "astray edge-1 sends v3 all",
        "astray and 2 more",
    ):
        assert fact in text
    assert "queue: 9" not in text
    assert "astray edge-0" not in text


def test_the_story_names_the_day_when_it_goes_past_midnight() -> None:
    journal = [
        entry(1, 1, "pending", 0, at="2026-11-22T05:00:00+00:00"),
        entry(2, 2, "warming", 0, at="2026-11-23T00:00:01+00:00"),
    ]
    assert "2026-11-23 00:00:01 0 % warming" in words(story(rollout(journal)))


@pytest.mark.parametrize(
    ("evidence", "said"), [(0.2, "0.2"), (100.0, "100"), (1_004.0, "1.0e3"), (31_000.0, "3.1e4"), (1e28, "10^28")]
)
def test_evidence_is_said_in_few_digits(evidence: float, said: str) -> None:
    assert odds(math.log(evidence)) == said


def test_a_backend_that_was_let_go_is_told_where_it_was_though_the_stage_passed() -> None:
    why = verdict("inconclusive", "10.0.0.21:8080 is let go, the others go on: 19 errors in 43 requests of v3")
    passed = verdict("pass", "good")
    journal = [
        entry(1, 1, "shifting", 0),
        entry(2, 2, "shifting", 0, verdict=why, let_go="10.0.0.21:8080"),
        entry(3, 3, "shifting", 0, verdict=passed, let_go="10.0.0.21:8080"),
        entry(4, 4, "shifting", 1, verdict=None, passed=passed, let_go="10.0.0.21:8080"),
    ]
    assert words(story(rollout(journal))).count(why["reason"]) == 1


def test_the_reading_that_ended_a_stage_is_told_with_it() -> None:
    before, broke = ([{"check": "smoke", "value": value, "fault": ""}] for value in (0.0, 3.0))
    journal = [
        entry(1, 1, "shifting", 0, verdict=verdict(), readings=before),
        entry(2, 2, "rolling_back", 0, verdict=verdict("fail", "the exit code of smoke was 3"), readings=broke),
    ]
    text = words(story(rollout(journal)))
    assert "check smoke: 3" in text
    assert "check smoke: 0" not in text


def test_approvals_hooks_and_freezes_are_told_with_who_and_how_long() -> None:
    refused = {"hook": "smoke", "at": "confirm-traffic-increase", "agreed": False, "words": "3 of 40 failed"}
    journal = [
        entry(1, 1, "shifting", 0),
        entry(2, 2, "shifting", 0, awaiting="approval", waiting="somebody must approve it"),
        entry(3, 20, "shifting", 0, command="approve", by="ann"),
        entry(4, 21, "shifting", 0, awaiting="hook", waiting="the hook 'smoke'", answers=[refused]),
        entry(5, 30, "shifting", 0, awaiting="hook", answers=[{**refused, "agreed": True}], waiting="the hook 'smoke'"),
        entry(6, 31, "shifting", 0, awaiting="thaw", waiting="frozen fri UTC"),
    ]
    text = words(story(rollout(journal)))
    for fact in (
        "waits for an approval: somebody must approve it, 18 s",
        "05:10:20 approve by ann",
        "waits for a hook: the hook 'smoke', 10 s",
        "hook smoke (confirm-traffic-increase): 3 of 40 failed",
        "hook smoke (confirm-traffic-increase): agrees",
        "waits for the end of a freeze: frozen fri UTC",
    ):
        assert fact in text


def test_a_stage_without_a_weight_is_named_by_what_it_does() -> None:
    track = [{"kind": "mirror", "mirror_percent": 25.0}]
    assert "stage 1 mirror 25 %" in words(story(rollout([entry(1, 1, "shifting", 0, reason="go")], track=track)))
