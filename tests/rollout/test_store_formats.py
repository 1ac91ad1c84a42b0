"""What earlier versions saved: a server that is upgraded goes on with it, in the middle of a rollout too."""

import json
import sqlite3
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from types import MappingProxyType
from typing import Any

from sqlite_utils import Database

from rollout.gate import Evidence, Fail, Gate, Look
from rollout.machine import step_of
from rollout.state import Phase
from rollout.store.folder import DATABASE_NAME
from rollout.store.schema import MIGRATIONS
from rollout.store.sqlite import open_store

NOON = "2026-11-01T12:00:00.000000+00:00"
COUNTS = {"requests": 990, "errors": 1, "retries": 0, "timeouts": 0, "latency": {"buckets": [[10.0, 1.0, 990]]}}
OLD_GATE = {
    "alpha": 0.02,
    "min_requests": 10,
    "max_error_increase": 0.01,
    "max_p99_ratio": 1.5,
    "error_ratio_tolerance": 1.5,
    "cap_nats": 400.0,
    "warmup_requests": 20,
}
STRATEGY = {"stages": [{"weight": "1%", "hold": "5s"}, {"weight": "100%"}], "gate": OLD_GATE, "drain_timeout": "30s"}
STATE = {
    "phase": "shifting",
    "since_s": 2.0,
    "stage": 0,
    "converged_s": 2.5,
    "looked_s": 8.0,
    "evidence": {"sums": [0.1] * 18, "restarts": 3, "looks": 9, "stable": COUNTS, "carried": []},
    "verdict": {"verdict": "pass", "reason": "error share 0 %, after 90 requests", "numbers": {"requests": 90}},
    "reason": "the candidate is healthy through every Envoy",
    "resume": None,
    "loser": None,
    "drain": None,
}
SPLIT = {"candidate_bp": 100, "present": ["candidate", "stable"], "draining": None}
STRATUM = {"weight_bp": 100, "stable": COUNTS, "candidate": COUNTS}
SEEN = {"now_s": 8.0, "connected": 1, "fleet": 1, "served": SPLIT, "looked_s": 8.0}
OLD_SEEN = {**SEEN, "look": {"strata": [STRATUM], "blind": []}}


Json = Mapping[str, Any]


def save_in_format(number: int, folder: Path, strategy: Json, seen: Json, more: Json = MappingProxyType({})) -> None:
    """Write one rollout, in mid-stage or with `more` in its state, as the version did that had so many migrations."""
    state = json.dumps({**STATE, **more})
    with closing(sqlite3.connect(folder / DATABASE_NAME)) as connection:
        database = Database(connection)
        for migrate in MIGRATIONS[:number]:
            migrate(database)
        rollout = {"service": "checkout", "id": 1, "revision": 2, "ended": 0, "started_at": NOON, "changed_at": NOON}
        texts = {"stable": "v1", "candidate": "v2", "strategy": json.dumps(strategy), "state": state}
        database["rollouts"].insert({**rollout, **texts})
        step = {"service": "checkout", "rollout_id": 1, "at": NOON, "state": state}
        database["journal"].insert({**step, "revision": 1, "because": None})
        database["journal"].insert({**step, "revision": 2, "because": json.dumps(seen)})
        connection.execute(f"PRAGMA user_version = {number}")
        connection.commit()


async def test_a_rollout_that_the_first_judge_had_in_hand_goes_on(tmp_path: Path) -> None:
    save_in_format(1, tmp_path, STRATEGY, OLD_SEEN)
    store = await open_store(tmp_path)
    (rollout,) = (await store.load()).rollouts
    await store.close()

    # What both judges know is kept, in the limits of today; what only the first one knew is left out.
    assert rollout.strategy.gate == Gate(alpha=0.02, tolerance=1.5, cap_nats=100.0)
    assert (rollout.state.phase, rollout.state.stage, rollout.state.converged_s) == (Phase.SHIFTING, 0, 2.5)
    assert step_of(rollout.strategy, rollout.state).weight_bp == 100
    # Its evidence means nothing here, and what it had passed is judged again.
    assert (rollout.state.evidence, rollout.state.verdict) == (Evidence.start(), None)


async def test_a_rollout_that_the_first_judge_has_ended_keeps_its_verdict(tmp_path: Path) -> None:
    fail = {"verdict": "fail", "reason": "error share 30 % against 0 %", "numbers": {"ln_e": 5.0}}
    ended = {"phase": "rolled_back", "loser": "candidate", "verdict": fail}
    save_in_format(1, tmp_path, STRATEGY, OLD_SEEN, ended)
    store = await open_store(tmp_path)
    (rollout,) = (await store.load()).rollouts
    await store.close()
    assert rollout.state.verdict == Fail("error share 30 % against 0 %", {"ln_e": 5.0})


async def test_what_the_first_judge_said_can_still_be_explained(tmp_path: Path) -> None:
    save_in_format(1, tmp_path, STRATEGY, OLD_SEEN)
    store = await open_store(tmp_path)
    entries = await store.journal("checkout", 1)
    await store.close()

    assert [entry.revision for entry in entries] == [1, 2]
    because, verdict = entries[1].because, entries[1].state.verdict
    assert because is not None
    assert (because.now_s, because.look) == (8.0, None)
    assert verdict is not None
    assert verdict.reason == "error share 0 %, after 90 requests"


async def test_what_this_judge_has_seen_is_left_as_it_is(tmp_path: Path) -> None:
    look = {"at_s": 8.0, "strata": []}
    save_in_format(2, tmp_path, {**STRATEGY, "gate": {"warmup": "3s"}}, {**SEEN, "look": look})
    store = await open_store(tmp_path)
    (rollout,) = (await store.load()).rollouts
    entries = await store.journal("checkout", 1)
    await store.close()

    assert rollout.strategy.gate == Gate(warmup_s=3.0)
    assert entries[1].because is not None
    assert entries[1].because.look == Look(8.0, ())
