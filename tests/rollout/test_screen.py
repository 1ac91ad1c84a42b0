"""What people see: each screen at 80 columns holds the facts that the API's JSON has."""

import io
from typing import Any

import pytest
from rich.console import Console, RenderableType

from rollout import screen

STRANGE = "a\x1b[31mred\nline [bold]brackets[/bold]"


def shown(renderable: RenderableType, width: int = 80) -> str:
    """Return what a console of this width shows, and check that nothing is wider."""
    console = Console(width=width, record=True, file=io.StringIO())
    console.print(renderable)
    text = console.export_text()
    assert all(len(line.rstrip()) <= width for line in text.splitlines())
    return text


def words(renderable: RenderableType) -> str:
    """Return what 80 columns show, with the border and the line breaks taken away."""
    return " ".join(shown(renderable).replace("│", " ").replace("\u00a0", " ").split())


def verdict(**numbers: float) -> dict[str, Any]:
    base = {
        "candidate_requests": 1203,
        "candidate_errors": 3,
        "candidate_error_share": 0.0025,
        "stable_requests": 119000,
        "stable_errors": 119,
        "stable_error_share": 0.001,
        "ln_e": 2.4849,
        "ln_limit": 4.60517,
        "p_value": 0.08,
        "ln_pass_errors": 2.4,
        "ln_pass_p95": 4.1,
        "ln_pass_p99": -1.0,
        "ln_pass_limit": 2.995732,
        "margin": 0.01,
    }
    return {"verdict": "inconclusive", "reason": "not yet shown", "numbers": base | numbers, "notes": []}


def counts(requests: int, errors: int, p99_ms: float | None) -> dict[str, Any]:
    share = errors / requests if requests else 0.0
    return {"requests": requests, "errors": errors, "error_share": share, "p50_ms": p99_ms, "p99_ms": p99_ms}


def rollout(**changes: Any) -> dict[str, Any]:
    base = {
        "service": "checkout",
        "id": 3,
        "stable": "v1",
        "candidate": "v2",
        "phase": "shifting",
        "outcome": "in_progress",
        "reason": "the candidate is healthy through every Envoy",
        "started_at": "2026-11-22T05:10:41+00:00",
        "changed_at": "2026-11-22T05:11:53+00:00",
        "in_progress": True,
        "phase_seconds": 12.3,
        "stage": 1,
        "stages": [1.0, 10.0, 50.0, 100.0],
        "track": [stage(weight_percent=each) for each in (1.0, 10.0, 50.0, 100.0)],
        "keep_stable_seconds": 0.0,
        "stages_note": None,
        "weight_percent": 10.0,
        "measured": {
            "weight_percent": 9.87,
            "stable": counts(270, 0, 11.0),
            "candidate": counts(30, 3, 12.5),
            "envoys": [],
        },
        "verdict": verdict(),
        "waiting_for": {},
        "resume": None,
        "awaiting": None,
        "waiting": "",
        "point_of_no_return": "",
        "hooks": [],
        "drain": None,
    }
    return {**base, **changes}


def stage(kind: str = "weight", **changes: Any) -> dict[str, Any]:
    nothing = {"weight_percent": None, "mirror_percent": None, "match": None, "hold_seconds": 5.0, "approve": False}
    return {"kind": kind, **nothing, **changes}


def view(changed: dict[str, Any] | None, **changes: Any) -> dict[str, Any]:
    versions = [
        {"version": "v1", "weight_percent": 90.0, "backends": ["127.0.0.1:8081", "127.0.0.1:8082"]},
        {"version": "v2", "weight_percent": 10.0, "backends": ["127.0.0.1:9081"]},
    ]
    base = {
        "service": "checkout",
        "stable": "v1",
        "in_progress": bool(changed and changed["in_progress"]),
        "versions": versions,
        "drains": [],
        "rollout": changed,
    }
    return {**base, **changes}


def drain(**changes: Any) -> dict[str, Any]:
    base = {"version": "v1", "running": 3, "idle_looks": 1, "timed_out": False, "cut": {}, "safe_to_stop": False}
    return {**base, "running_on": {}, **changes}


def ended(phase: str, **changes: Any) -> dict[str, Any]:
    still = {"phase": phase, "outcome": phase, "in_progress": False, "measured": None, "verdict": None}
    return rollout(**{**still, **changes})


def test_the_panel_says_stage_weights_figures_and_verdict() -> None:
    text = words(screen.service_panel(view(rollout())))
    for fact in (
        "checkout: v1 → v2, rollout 3",
        "SHIFTING, stage 2 of 4 for 12 s",
        "● 1%",
        "▶ [10%]",
        "○ 50%",
        "v1 (stable) 90 % 90.13 % 270 0 % 11 ms 11 ms",
        "v2 (candidate) 10 % 9.87 % 30 10 % 12.5 ms 12.5 ms",
        "not enough evidence yet: not yet shown",
    ):
        assert fact in text


def test_the_panel_shows_the_evidence_as_bars_while_traffic_is_shifted() -> None:
    for phase, resume in (("shifting", None), ("paused", "shifting")):
        text = words(screen.service_panel(view(rollout(phase=phase, resume=resume))))
        assert "against ██████░░░░░░ 12 of 100 needed to take it back" in text
        assert "for ░░░░░░░░░░░░ errors 80 %, p95 100 %, p99 0 %" in text
    assert "against" not in words(screen.service_panel(view(rollout(phase="warming"))))


@pytest.mark.parametrize(
    ("numbers", "expected"),
    [
        ({"ln_e": -3.0}, "against ░░░░░░░░░░░░ 0.0498 of 100 needed"),
        ({"ln_e": 40.0}, "against ████████████ 10^17 of 100 needed"),
        ({"ln_pass_errors": 2.99, "ln_pass_p99": 9.0}, "for ███████████░ errors 99 %, p95 100 %, p99 100 %"),
        ({"ln_pass_errors": 3.0, "ln_pass_p99": 9.0}, "for ████████████ errors 100 %, p95 100 %, p99 100 %"),
        (
            {"ln_pass_start": -3.0, "ln_pass_errors": 0.0, "ln_pass_p95": -3.0, "ln_pass_p99": -4.0},
            "errors 50 %, p95 0 %, p99 0 %",
        ),
    ],
)
def test_a_bar_is_full_when_there_is_enough_and_not_before(numbers: dict[str, float], expected: str) -> None:
    assert expected in words(screen.service_panel(view(rollout(verdict=verdict(**numbers)))))


def test_a_verdict_that_decided_nothing_is_not_shown_when_nothing_is_judged_any_more() -> None:
    for phase in ("rolling_back", "rolled_back", "completed"):
        blind = verdict() | {"verdict": "blind", "reason": "edge-1: no answer"}
        assert "no answer" not in words(screen.service_panel(view(rollout(phase=phase, verdict=blind))))
        failed = verdict() | {"verdict": "fail", "reason": "worse"}
        assert "FAIL: worse" in words(screen.service_panel(view(rollout(phase=phase, verdict=failed))))


def test_at_full_weight_there_is_no_bar_for_what_cannot_be_compared() -> None:
    text = words(screen.service_panel(view(rollout(verdict=verdict(stable_requests=0)))))
    assert "against ██████" in text
    assert "for ░" not in text


def test_a_verdict_without_figures_has_no_bars() -> None:
    bare = {"verdict": "blind", "reason": "nobody reports", "numbers": {}, "notes": []}
    text = words(screen.service_panel(view(rollout(verdict=bare))))
    assert "BLIND, data is missing: nobody reports" in text
    assert "against" not in text


def test_the_panel_shows_notes_and_stages_that_were_changed() -> None:
    said = verdict() | {"notes": ["edge-2 sends v2 12.1 % of 3,400 requests, not 1 %"]}
    text = words(screen.service_panel(view(rollout(verdict=said, stages_note="stages are written as 1 %, 100 %"))))
    assert "note edge-2 sends v2 12.1 % of 3,400 requests, not 1 %" in text
    assert "stages are written as 1 %, 100 %" in text


def test_the_panel_names_the_envoys_that_are_waited_for_and_counts_the_rest() -> None:
    waiting = {f"edge-{number}": "has not ACKed routes" for number in range(9)}
    text = words(screen.service_panel(view(rollout(waiting_for=waiting))))
    assert "waits for edge-0: has not ACKed routes edge-1: has not ACKed routes" in text
    assert "edge-5: has not ACKed routes 3 more" in text


def test_the_panel_of_a_pause_says_why_and_what_to_do() -> None:
    paused = rollout(phase="paused", resume="shifting", reason="paused by ann", awaiting="operator")
    text = words(screen.service_panel(view(paused)))
    assert "PAUSED while shifting for 12 s: until it is resumed why paused by ann" in text
    assert "you can rollout resume checkout judge this stage on rollout promote checkout on to 50 %" in text
    assert "rollout abort checkout take all traffic back to v1" in text
    assert "▶ [10%]" in text


def test_an_approval_that_is_waited_for_is_told_with_the_verb_that_gives_it() -> None:
    asked = rollout(awaiting="approval", waiting="somebody must approve it", verdict=verdict() | {"verdict": "pass"})
    text = words(screen.service_panel(view(asked)))
    assert "SHIFTING, stage 2 of 4 for 12 s: waits for an approval" in text
    assert "waits for somebody must approve it you can rollout approve checkout agree: on to 50 %" in text
    assert "rollout reject checkout take all traffic back to v1" in text


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"phase": "warming", "stage": 0}, ("pause", "abort")),
        ({}, ("promote", "pause", "abort")),
        ({"awaiting": "thaw", "waiting": "frozen fri"}, ("promote", "pause", "abort")),
        ({"phase": "paused", "resume": "warming"}, ("resume", "abort")),
        ({"phase": "retaining"}, ("abort",)),
        ({"phase": "draining"}, ()),
        ({"phase": "completed"}, ("undo",)),
        ({"phase": "completed", "origin": "undo"}, ("undo --to v1",)),
        ({"phase": "rolled_back"}, ("retry",)),
    ],
)
def test_there_is_always_said_what_a_person_can_do(changes: dict[str, Any], expected: tuple[str, ...]) -> None:
    assert tuple(verb for verb, _ in screen.choices(rollout(**changes))) == expected


def test_beyond_the_point_of_no_return_an_abort_says_what_cannot_be_undone() -> None:
    paused = rollout(phase="paused", resume="shifting", awaiting="decision", point_of_no_return="contract")
    text = words(screen.service_panel(view(paused)))
    assert "'contract' has run and cannot be undone" in text
    assert "take all traffic back to v1, though 'contract' cannot be undone" in text


def test_the_track_names_stages_by_what_they_do() -> None:
    stages = [
        stage("preview", approve=True),
        stage("mirror", mirror_percent=25.0),
        stage("match", match="x-beta=1"),
        stage(weight_percent=100.0),
    ]
    text = words(screen.track(rollout(track=stages, stage=2, keep_stable_seconds=60.0)))
    seen = "● warm ● preview + approval ● mirror 25% ▶ [only x-beta=1] ○ 100% ○ keep ○ drain ○ remove ○ done"
    assert text == seen


def test_what_a_mirror_sends_is_measured_as_copies() -> None:
    stages = [stage("mirror", mirror_percent=33.0), stage(weight_percent=100.0)]
    look = {**rollout()["measured"], "weight_percent": 25.0}
    mirroring = rollout(track=stages, stage=0, weight_percent=0.0, measured=look)
    text = words(screen.service_panel(view(mirroring)))
    assert "v1 (stable) 90 % 100 % 270" in text
    assert "v2 (candidate) 10 % copies 30" in text
    assert "0 % copies" in words(screen.status_table([view(mirroring)]))
    assert "v2 (candidate) 10 % 25 % 30" in words(screen.service_panel(view(mirroring | {"stage": 1})))


def test_an_approval_that_came_early_is_shown() -> None:
    stages = [stage(weight_percent=50.0, approve=True), stage(weight_percent=100.0, approve=True)]
    waiting = rollout(track=stages, stage=0, approved=False)
    assert "▶ [50% + approval] ○ 100% + approval" in words(screen.track(waiting))
    assert "approved" not in words(screen.rollout_line(waiting))
    approved = waiting | {"approved": True}
    assert "▶ [50%, approved] ○ 100% + approval" in words(screen.track(approved))
    assert words(screen.rollout_line(approved)).endswith("); approved")


def test_a_rollback_hook_that_does_not_ask_for_it_is_not_told_as_one_that_refuses() -> None:
    hook = {"name": "on-call", "at": "rollback", "state": "refused", "words": "403 from pager", "attempts": 1}
    text = words(screen.service_panel(view(rollout(hooks=[hook]))))
    assert "on-call (rollback): does not ask for it: 403 from pager" in text


def test_what_a_promotion_does_where_a_location_went_back_is_said_as_the_pause_says_it() -> None:
    lanes = [{"phase": "rolled_back"}, {"phase": "retaining"}]
    paused = rollout(phase="paused", resume="shifting", waves=["eu-1", "all"], locations=lanes)
    assert ("promote", "to 100 % there, too, all the same") in screen.choices(paused | {"wave": 1})
    assert ("promote", "on to the next wave all the same") in screen.choices(paused | {"wave": 0})


def test_a_gradual_way_back_shows_the_weight_of_now() -> None:
    text = words(screen.track(rollout(phase="rolling_back", stage=2, weight_percent=10.0)))
    assert text == "● warm ● 1% ● 10% ● 50% ▶ [back at 10%] ○ drain ○ remove ○ rolled back"


def test_what_is_too_long_for_a_line_goes_on_under_its_own_words() -> None:
    long = rollout(reason=" ".join(["word"] * 30))
    lines = shown(screen.service_panel(view(long))).splitlines()
    at = next(number for number, line in enumerate(lines) if "│ why" in line)
    assert lines[at + 1].startswith("│" + " " * 11 + "word")


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"running": None}, "waiting until every Envoy knows of the drain; do not stop yet"),
        ({}, "3 requests running, idle 1 of 3 looks in a row; do not stop yet"),
        (
            {"running_on": {"edge-4": None, "edge-1": 2, "edge-2": 1, "edge-3": 1}},
            "3 requests running (edge-4: unknown, edge-1: 2, edge-2: 1 and 1 more), idle 1 of 3 looks",
        ),
        ({"safe_to_stop": True, "idle_looks": 3, "running": 0}, "v1: safe to stop"),
        (
            {"safe_to_stop": True, "timed_out": True, "cut": {"edge-1": 2, "edge-2": -1}},
            (
                "the drain timeout is over, requests still running: edge-1: 2, edge-2: unknown; "
                "stopping it now cuts what still runs"
            ),
        ),
    ],
)
def test_the_panel_says_whether_the_old_backends_may_stop(changes: dict[str, Any], expected: str) -> None:
    text = words(screen.service_panel(view(rollout(phase="draining", drain=drain(**changes)))))
    assert expected in text


def test_a_rollback_is_a_station_of_the_track() -> None:
    text = words(screen.track(rollout(phase="rolling_back", weight_percent=0.0)))
    assert text == "● warm ● 1% ● 10% ▶ [back to 0%] ○ drain ○ remove ○ rolled back"


@pytest.mark.parametrize(
    ("state", "here"),
    [
        (rollout(phase="warming", stage=0), "▶ [warm] ○ 1% ○ 10% ○ 50% ○ 100% ○ drain ○ remove ○ done"),
        (rollout(phase="draining", stage=3), "● warm ● 1% ● 10% ● 50% ● 100% ▶ [drain] ○ remove ○ done"),
        (ended("completed", stage=3), "● warm ● 1% ● 10% ● 50% ● 100% ● drain ● remove ▶ [done]"),
    ],
)
def test_the_track_marks_where_the_rollout_is(state: dict[str, Any], here: str) -> None:
    assert words(screen.track(state)) == here


def test_the_track_of_a_candidate_that_is_let_go_ends_in_rolled_back() -> None:
    state = rollout(phase="draining", stage=0, weight_percent=0.0, drain=drain(version="v2"))
    assert words(screen.track(state)) == "● warm ● 1% ● back to 0% ▶ [drain] ○ remove ○ rolled back"


def test_the_track_of_a_candidate_that_never_had_traffic_has_no_stages() -> None:
    state = ended("rolled_back", stage=0, weight_percent=0.0)
    assert words(screen.track(state)) == "● warm ● back to 0% ● remove ▶ [rolled back]"


def test_the_panel_of_a_service_without_a_rollout_shows_its_backends() -> None:
    text = words(screen.service_panel(view(None)))
    assert "no rollout yet" in text
    assert "127.0.0.1:8081, 127.0.0.1:8082" in text


def test_a_note_is_shown_below_the_panel() -> None:
    assert "trying again: connection refused" in words(
        screen.service_panel(view(rollout()), "trying again: connection refused")
    )


def test_text_from_outside_is_shown_as_it_is_and_cannot_steer_the_terminal() -> None:
    text = shown(screen.service_panel(view(rollout(reason=STRANGE))))
    assert "a?[31mred line [bold]brackets[/bold]" in text
    assert "\x1b" not in text


def test_the_status_has_a_line_for_each_service() -> None:
    text = shown(screen.status_table([view(rollout()), view(None, service="cart")]))
    assert "checkout" in text
    assert "shifting" in text
    assert "9.87 %" in text
    assert "cart" in text


def test_the_list_shows_versions_weights_and_backends() -> None:
    text = words(screen.services_table([view(rollout())]))
    assert "v1 (stable) 90 % 127.0.0.1:8081 shifting" in text
    assert "v2 10 % 127.0.0.1:9081" in text


def test_the_history_has_versions_phase_duration_and_reason() -> None:
    text = words(screen.history_table([ended("rolled_back", reason="aborted by ann")]))
    for fact in ("v1 → v2", "rolled back", "2026-11-22", "1 min 12 s", "aborted by ann"):
        assert fact in text


@pytest.mark.parametrize(
    "empty", [screen.status_table, screen.services_table, screen.history_table, screen.fleet_table]
)
def test_nothing_to_show_is_said_in_words(empty: Any) -> None:
    assert "no " in words(empty([]))


def test_the_fleet_shows_acked_versions_and_a_nack_in_the_words_of_the_envoy() -> None:
    nack = {"code": 13, "text": "route: unknown cluster 'cart'", "seconds": 61.0}
    types = {
        "clusters": {"acked": "0123456789abcdef", "waiting": False, "nack": None},
        "routes": {"acked": "fedcba9876543210", "waiting": False, "nack": nack},
        "endpoints": {"acked": "", "waiting": True, "nack": None},
        "listeners": {"acked": "", "waiting": False, "nack": None},
    }
    node = {
        "node": "edge-1",
        "cluster": "envoy",
        "location": "eu/eu-1",
        "address": "ipv4:127.0.0.1:40000",
        "protocol": "delta",
        "envoy": "1.40.0",
        "connected": True,
        "seconds": 125.0,
        "stats": "connection refused",
        "types": types,
    }
    text = words(screen.fleet_table([node, {**node, "node": "edge-2", "connected": False, "types": {}, "stats": "ok"}]))
    for fact in (
        "edge-1",
        "eu/eu-1",
        "2 min 5 s, delta",
        "clusters 01234567",
        "routes fedcba98 NACK",
        "endpoints nothing yet waiting",
        "listeners as it had",
        "edge-1 refused routes 1 min 1 s ago: route: unknown cluster 'cart'",
        "edge-1: cannot read its stats: connection refused",
        "gone for 2 min 5 s",
    ):
        assert fact in text
    assert "edge-2: cannot read" not in text


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [
        (0.04, "0.0 s"),
        (9.94, "9.9 s"),
        (9.96, "10 s"),
        (59.6, "1 min 0 s"),
        (185, "3 min 5 s"),
        (7800, "2 h 10 min"),
        (97200, "1 d 3 h"),
    ],
)
def test_durations_read_well(seconds: float, expected: str) -> None:
    assert screen.duration(seconds) == expected


def test_the_panel_counts_backends_that_are_not_in_use_and_says_what_hooks_do() -> None:
    leaving = drain(version="v2", backend="127.0.0.1:9081", removed=False, leaves=False)
    ill = {"version": "v1", "backend": "127.0.0.1:8081", "why": "marked by ann", "marked_by": "ann", "used": False}
    asked = [
        {"name": "smoke", "at": "pre-rollout", "state": "agreed", "words": "", "attempts": 1},
        {"name": "board", "at": "confirm-promotion", "state": "refused", "words": "not on Fridays", "attempts": 3},
    ]
    text = words(screen.service_panel(view(rollout(hooks=asked), drains=[leaving], unhealthy=[ill])))
    assert "backends v1 2 (1 unhealthy), v2 1 (1 draining)" in text
    assert "hook board (confirm-promotion): refused, 3 tries: not on Fridays" in text
    assert "smoke" not in text


def test_a_line_of_stations_breaks_between_them() -> None:
    stages = [stage("mirror", mirror_percent=10.0, approve=True) for _ in range(4)]
    lines = shown(screen.track(rollout(track=stages, keep_stable_seconds=5.0))).splitlines()
    assert len(lines) > 1
    assert all(line[0] in "●▶○" for line in lines)
