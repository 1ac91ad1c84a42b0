"""The tables of the SQLite store, and how each format became the next."""

import json
from collections.abc import Callable
from typing import Any

from sqlite_utils import Database

AUDIT_WORDS = ("service", "verb", "who", "origin", "detail", "result")  # beside the id, the time and the hash
APPLICATION_ID = 0x524F4C4C  # "ROLL": tells our database from any other program's


def _create_tables(database: Database) -> None:
    database.execute(f"PRAGMA application_id = {APPLICATION_ID}")
    database["meta"].create({"engine_s": float}, not_null={"engine_s"})
    database["meta"].insert({"engine_s": 0.0})
    database["nodes"].create({"id": str}, pk="id", not_null={"id"})
    database["services"].create({"name": str, "stable": str}, pk="name", not_null={"name", "stable"})
    # endpoints NULL: those that envoy-configs gives the service
    versions = {"service": str, "name": str, "endpoints": str}
    database["versions"].create(versions, pk=("service", "name"), not_null={"service", "name"})
    backends = {"service": str, "version": str, "address": str, "drain": str, "removed": int}
    database["backends"].create(backends, pk=("service", "version", "address"), not_null=set(backends))
    rollouts = {
        "service": str,
        "id": int,
        "revision": int,
        "ended": int,
        "started_at": str,
        "changed_at": str,
        "stable": str,
        "candidate": str,
        "strategy": str,
        "state": str,
    }
    database["rollouts"].create(rollouts, pk=("service", "id"), not_null=set(rollouts))
    database["rollouts"].create_index(["ended", "service", "id"])
    database["rollouts"].create_index(["started_at"])
    # because NULL: the first step follows from no observation
    database["journal"].create(
        {"service": str, "rollout_id": int, "revision": int, "at": str, "state": str, "because": str},
        pk=("service", "rollout_id", "revision"),
        not_null={"service", "rollout_id", "revision", "at", "state"},
        foreign_keys=[(("service", "rollout_id"), "rollouts", ("service", "id"))],
    )


def _create_histories(database: Database) -> None:
    histories = {"service": str, "version": str, "history": str}
    database["histories"].create(histories, pk=("service", "version"), not_null=set(histories))


def _change_judges(database: Database) -> None:
    """Keep what the first judge and this one both know; what that one had passed is judged again."""
    for row in tuple(database["rollouts"].rows):
        strategy, state = json.loads(row["strategy"]), json.loads(row["state"])
        if "min_requests" not in strategy.get("gate", {}):
            continue
        strategy["gate"] = _gate_of_today(strategy["gate"])
        again = {"verdict": None} if state["phase"] in ("shifting", "paused") else {}
        texts = json.dumps(strategy), json.dumps({**state, "evidence": {}, **again})
        where = row["service"], row["id"]
        database.execute("UPDATE rollouts SET strategy = ?, state = ? WHERE service = ? AND id = ?", [*texts, *where])
    database.execute("UPDATE journal SET state = json_remove(state, '$.evidence')")
    # Its looks had histograms, and no time. Without them the steps can be explained, but not decided again.
    database.execute(
        "UPDATE journal SET because = json_set(because, '$.look', NULL) "
        "WHERE json_type(because, '$.look') = 'object' AND json_type(because, '$.look.at_s') IS NULL"
    )


def _gate_of_today(gate: dict[str, Any]) -> dict[str, Any]:
    cap_nats = min(100.0, max(0.01, gate["cap_nats"]))
    return {"alpha": gate["alpha"], "tolerance": gate["error_ratio_tolerance"], "cap_nats": cap_nats}


def _keep_strategies(database: Database) -> None:
    """Keep what was decided before there was a preview header without one: its journals are decided again by replay."""
    database.execute(
        "UPDATE rollouts SET strategy = json_set(strategy, '$.preview', NULL) "
        "WHERE json_type(strategy, '$.preview') IS NULL"
    )


def _create_marks(database: Database) -> None:
    marks = {"service": str, "address": str, "by": str, "at": str, "reason": str}
    database["marks"].create(marks, pk=("service", "address"), not_null=set(marks))


def _remember_operations(database: Database) -> None:
    database["rollouts"].add_column("origin", str, not_null_default="deploy")
    database["backends"].add_column("leaves", int, not_null_default=0)
    queued = {"service": str, "version": str, "endpoints": str, "strategy": str, "who": str, "at": str, "fault": str}
    database["queued"].create(queued, pk="service", not_null=set(queued) - {"endpoints"})
    past = {"service": str, "name": str, "endpoints": str, "addresses": str, "strategy": str, "served": int}
    ended = {"ended_s": float, "ended_at": str}
    database["past_versions"].create(
        {**past, **ended}, pk=("service", "name"), not_null={*past, *ended} - {"endpoints"}
    )
    operations = {"id": int, "at": str, "service": str, "verb": str, "who": str, "detail": str, "result": str}
    database["operations"].create(operations, pk="id", not_null=set(operations))
    database["operations"].create_index(["service", "id"])


def _create_ill(database: Database) -> None:
    ill = {"service": str, "address": str}
    database["ill"].create(ill, pk=("service", "address"), not_null=set(ill))


def _create_events(database: Database) -> None:
    """Ids of events are never given twice, not even when the newest are gone: who follows them counts on it."""
    database.execute(
        "CREATE TABLE events (id INTEGER PRIMARY KEY AUTOINCREMENT, at TEXT NOT NULL, kind TEXT NOT NULL, "
        "severity TEXT NOT NULL, service TEXT NOT NULL, rollout_id INTEGER, text TEXT NOT NULL, detail TEXT NOT NULL)"
    )
    points = {"service": str, "rollout_id": int, "at": float, "point": str}
    database["points"].create(points, pk=("service", "rollout_id", "at"), not_null=set(points))


def _create_audit(database: Database) -> None:
    """Rows that nobody changes: triggers keep programs from it by mistake, the chain of hashes shows it."""
    words = ", ".join(f"{name} TEXT NOT NULL" for name in ("at", *AUDIT_WORDS, "hash"))
    database.execute(f"CREATE TABLE audit (id INTEGER PRIMARY KEY AUTOINCREMENT, {words})")
    database["audit"].create_index(["service", "id"])
    for verb in ("UPDATE", "DELETE"):
        database.execute(
            f"CREATE TRIGGER audit_no_{verb.lower()} BEFORE {verb} ON audit "
            "BEGIN SELECT RAISE(ABORT, 'the audit log is append-only'); END"
        )


def _create_strategies(database: Database) -> None:
    strategies = {"name": str, "text": str, "who": str, "at": str, "revision": int}
    database["strategies"].create(strategies, pk="name", not_null=set(strategies))


def _create_tokens(database: Database) -> None:
    # expires_at NULL: it holds until it is revoked
    tokens = {"hash": str, "name": str, "role": str, "services": str, "created_at": str, "created_by": str}
    database["tokens"].create({**tokens, "expires_at": str}, pk="hash", not_null=set(tokens))
    database["tokens"].create_index(["name"], unique=True)
    sessions = {"hash": str, "token": str, "proof": str, "created_at": str, "seen_at": str}
    database["sessions"].create(sessions, pk="hash", not_null=set(sessions))


def _create_answers(database: Database) -> None:
    # status NULL: it was begun, and what came of it is not known
    answers = {"who": str, "key": str, "method": str, "path": str, "digest": str, "at": str, "body": str}
    database["answers"].create({**answers, "status": int}, pk=("who", "key"), not_null=set(answers))


def _remember_discoveries(database: Database) -> None:
    """NULL: the backends are those that somebody has said."""
    for table in ("versions", "queued", "past_versions"):
        database[table].add_column("discovery", str)


def _create_cursors(database: Database) -> None:
    database["cursors"].create({"name": str, "event": int}, pk="name", not_null={"name", "event"})


def _keep_audit_in_order(database: Database) -> None:
    """INSERT OR REPLACE deletes without a trigger for that: a row's number must be the next one."""
    database.execute(
        "CREATE TRIGGER audit_only_next BEFORE INSERT ON audit "
        "WHEN NEW.id IS NOT (SELECT coalesce(max(id), 0) + 1 FROM audit) "
        "BEGIN SELECT RAISE(ABORT, 'the audit log is append-only'); END"
    )


# Numbered from 1, which is what user_version says has run. Never change one that was released: add the next.
MIGRATIONS: tuple[Callable[[Database], None], ...] = (
    _create_tables,
    _create_histories,
    _change_judges,
    _keep_strategies,
    _create_marks,
    _remember_operations,
    _create_ill,
    _create_events,
    _create_audit,
    _create_strategies,
    _create_tokens,
    _create_answers,
    _remember_discoveries,
    _create_cursors,
    _keep_audit_in_order,
)
