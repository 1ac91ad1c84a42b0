"""Changes as SQL: what a save writes."""

import json
from typing import assert_never

from sqlite_utils import Database

from rollout.answered import AnswerChange, DropAnswers, PutAnswer
from rollout.credentials import DropSession, DropToken, PutSession, PutToken
from rollout.cursors import CursorChange, DropCursor, PutCursor
from rollout.discovery.kept import Discovery, dump_discovery
from rollout.errors import Conflict
from rollout.record import (
    KEPT_OPERATIONS,
    KEPT_VERSIONS,
    Backend,
    Change,
    DropBackend,
    DropMark,
    DropPast,
    DropQueued,
    DropStrategy,
    DropVersion,
    JournalEntry,
    Operation,
    PastVersion,
    PutAudit,
    PutBackend,
    PutEvent,
    PutHistory,
    PutIll,
    PutMark,
    PutNodes,
    PutOperation,
    PutPast,
    PutPoints,
    PutQueued,
    PutRollout,
    PutService,
    PutStrategy,
    PutVersion,
    Queued,
    Rollout,
    dump_drain,
    dump_endpoints,
    dump_history,
    dump_seen,
    dump_state,
    dump_step,
    dump_strategy,
)
from rollout.spec import Endpoint
from rollout.state import ENDED
from rollout.store.answers import apply_to_answers
from rollout.store.chronicle import put_audit, put_event, put_points
from rollout.store.credentials import apply_to_credentials
from rollout.store.cursors import apply_to_cursors
from rollout.store.rows import to_text

KEPT_ROLLOUTS, KEPT_JOURNALS = 100, 20  # ended ones of each service; older ones go when a new one starts


def apply(database: Database, change: Change) -> None:
    match change:
        case PutService() | PutVersion() | DropVersion() | PutPast() | DropPast() | PutHistory():
            _apply_to_versions(database, change)
        case PutBackend() | DropBackend() | PutMark() | DropMark() | PutIll():
            _apply_to_backends(database, change)
        case PutRollout(rollout, because):
            _put_rollout(database, rollout)
            _put_entry(database, JournalEntry(rollout.revision, rollout.changed_at, rollout.state, because), rollout)
            if rollout.revision == 1:
                _forget_old(database, rollout.service)
        case PutQueued() | DropQueued() | PutStrategy() | DropStrategy():
            _apply_to_plans(database, change)
        case PutToken() | DropToken() | PutSession() | DropSession():
            apply_to_credentials(database, change)
        case PutAnswer() | DropAnswers() | PutCursor() | DropCursor():
            _apply_to_followers(database, change)
        case PutOperation() | PutEvent() | PutAudit() | PutPoints():
            _apply_to_chronicle(database, change)
        case PutNodes(ids):
            database.execute("DELETE FROM nodes")
            database["nodes"].insert_all([{"id": node_id} for node_id in dict.fromkeys(ids)])
        case _:
            assert_never(change)


def _apply_to_followers(database: Database, change: AnswerChange | CursorChange) -> None:
    match change:
        case PutAnswer() | DropAnswers():
            apply_to_answers(database, change)
        case PutCursor() | DropCursor():
            apply_to_cursors(database, change)
        case _:
            assert_never(change)


def _apply_to_versions(
    database: Database, change: PutService | PutVersion | DropVersion | PutPast | DropPast | PutHistory
) -> None:
    match change:
        case PutService(service):
            database["services"].upsert({"name": service.name, "stable": service.stable}, pk="name")
        case PutVersion(version):
            row = {"service": version.service, "name": version.name, "endpoints": _endpoints(version.endpoints)}
            found = {"discovery": _discovery(version.discovery)}
            database["versions"].upsert({**row, **found}, pk=("service", "name"))
        case DropVersion(service_name, name):
            database.execute("DELETE FROM backends WHERE service = ? AND version = ?", [service_name, name])
            database.execute("DELETE FROM histories WHERE service = ? AND version = ?", [service_name, name])
            database.execute("DELETE FROM versions WHERE service = ? AND name = ?", [service_name, name])
        case PutPast(past):
            _put_past(database, past)
        case DropPast(service_name, name):
            database.execute("DELETE FROM past_versions WHERE service = ? AND name = ?", [service_name, name])
        case PutHistory(each):
            row = {"service": each.service, "version": each.version, "history": dump_history(each.history)}
            database["histories"].upsert(row, pk=("service", "version"))
        case _:
            assert_never(change)


def _apply_to_backends(database: Database, change: PutBackend | DropBackend | PutMark | DropMark | PutIll) -> None:
    match change:
        case PutBackend(backend):
            _put_backend(database, backend)
        case DropBackend(service, version, address):
            key = [service, version, address]
            database.execute("DELETE FROM backends WHERE service = ? AND version = ? AND address = ?", key)
        case PutMark(mark):
            row = {"service": mark.service, "address": mark.address, "by": mark.by, "reason": mark.reason}
            database["marks"].upsert({**row, "at": to_text(mark.at)}, pk=("service", "address"))
        case DropMark(service, address):
            database.execute("DELETE FROM marks WHERE service = ? AND address = ?", [service, address])
        case PutIll(service, addresses):
            database.execute("DELETE FROM ill WHERE service = ?", [service])
            database["ill"].insert_all([{"service": service, "address": each} for each in sorted(addresses)])
        case _:
            assert_never(change)


def _apply_to_plans(database: Database, change: PutQueued | DropQueued | PutStrategy | DropStrategy) -> None:
    match change:
        case PutQueued(queued):
            _put_queued(database, queued)
        case DropQueued(service):
            database.execute("DELETE FROM queued WHERE service = ?", [service])
        case PutStrategy(each):
            row = {"name": each.name, "text": each.text, "who": each.by, "at": to_text(each.at)}
            database["strategies"].upsert({**row, "revision": each.revision}, pk="name")
        case DropStrategy(name):
            database.execute("DELETE FROM strategies WHERE name = ?", [name])
        case _:
            assert_never(change)


def _apply_to_chronicle(database: Database, change: PutOperation | PutEvent | PutAudit | PutPoints) -> None:
    match change:
        case PutOperation(operation, event):
            _put_operation(database, operation)
            put_audit(database, operation)
            if event is not None:
                put_event(database, event)
        case PutEvent(told):
            put_event(database, told)
        case PutAudit(operation):
            put_audit(database, operation)
        case PutPoints():
            put_points(database, change)
        case _:
            assert_never(change)


def _put_rollout(database: Database, rollout: Rollout) -> None:
    row = {
        "service": rollout.service,
        "id": rollout.id,
        "revision": rollout.revision,
        "ended": int(rollout.state.phase in ENDED),
        "started_at": to_text(rollout.started_at),
        "changed_at": to_text(rollout.changed_at),
        "stable": rollout.stable,
        "candidate": rollout.candidate,
        "strategy": dump_strategy(rollout.strategy),
        "state": dump_state(rollout.state),
        "origin": rollout.origin.value,
    }
    if database.execute(_INSERT_ROLLOUT if rollout.revision == 1 else _UPDATE_ROLLOUT, row).rowcount == 1:
        return
    saved = database.execute("SELECT revision FROM rollouts WHERE service = :service AND id = :id", row).fetchone()
    name = f"rollout {rollout.id} of service '{rollout.service}'"
    state = f"its saved revision is {saved[0]}" if saved else "it was never saved"
    raise Conflict(f"cannot save revision {rollout.revision} of {name}: {state}; load it again")


_INSERT_ROLLOUT = """
INSERT INTO rollouts (service, id, revision, ended, started_at, changed_at, stable, candidate, strategy, state,
    origin)
VALUES (:service, :id, :revision, :ended, :started_at, :changed_at, :stable, :candidate, :strategy, :state,
    :origin)
ON CONFLICT DO NOTHING
"""
_UPDATE_ROLLOUT = """
UPDATE rollouts
SET revision = :revision, ended = :ended, started_at = :started_at, changed_at = :changed_at,
    stable = :stable, candidate = :candidate, strategy = :strategy, state = :state
WHERE service = :service AND id = :id AND revision = :revision - 1
"""


def _put_entry(database: Database, entry: JournalEntry, rollout: Rollout) -> None:
    because = None if entry.because is None else dump_seen(entry.because)
    database.execute(
        "INSERT INTO journal (service, rollout_id, revision, at, state, because) VALUES (?, ?, ?, ?, ?, ?)",
        [rollout.service, rollout.id, entry.revision, to_text(entry.at), dump_step(entry.state), because],
    )


def _forget_old(database: Database, service: str) -> None:
    for drop in (_DROP_JOURNALS, _DROP_POINTS):
        database.execute(drop, {"service": service, "kept": KEPT_JOURNALS})
    database.execute(_DROP_ROLLOUTS, {"service": service, "kept": KEPT_ROLLOUTS})


_DROP_JOURNALS = """
DELETE FROM journal WHERE service = :service AND rollout_id IN
    (SELECT id FROM rollouts WHERE ended = 1 AND service = :service ORDER BY id DESC LIMIT -1 OFFSET :kept)
"""
_DROP_POINTS = _DROP_JOURNALS.replace("FROM journal", "FROM points")
_DROP_ROLLOUTS = """
DELETE FROM rollouts WHERE service = :service AND id IN
    (SELECT id FROM rollouts WHERE ended = 1 AND service = :service ORDER BY id DESC LIMIT -1 OFFSET :kept)
"""


def _put_backend(database: Database, backend: Backend) -> None:
    row = {
        "service": backend.service,
        "version": backend.version,
        "address": backend.address,
        "drain": dump_drain(backend.drain),
        "removed": int(backend.removed),
        "leaves": int(backend.leaves),
    }
    database["backends"].upsert(row, pk=("service", "version", "address"))


def _put_queued(database: Database, queued: Queued) -> None:
    row = {
        "service": queued.version.service,
        "version": queued.version.name,
        "endpoints": _endpoints(queued.version.endpoints),
        "strategy": dump_strategy(queued.strategy),
        "who": queued.by,
        "at": to_text(queued.at),
        "fault": queued.fault,
        "discovery": _discovery(queued.version.discovery),
    }
    database["queued"].upsert(row, pk="service")


def _put_past(database: Database, past: PastVersion) -> None:
    row = {
        "service": past.service,
        "name": past.name,
        "endpoints": _endpoints(past.endpoints),
        "addresses": json.dumps(past.addresses),
        "strategy": dump_strategy(past.strategy),
        "served": int(past.served),
        "ended_s": past.ended.engine_s,
        "ended_at": to_text(past.ended.at),
        "discovery": _discovery(past.discovery),
    }
    database["past_versions"].upsert(row, pk=("service", "name"))
    database.execute(_DROP_PAST, {"service": past.service, "kept": KEPT_VERSIONS})


_DROP_PAST = """
DELETE FROM past_versions WHERE service = :service AND name IN
    (SELECT name FROM past_versions WHERE service = :service ORDER BY ended_s DESC, name LIMIT -1 OFFSET :kept)
"""


def _put_operation(database: Database, operation: Operation) -> None:
    database.execute(
        "INSERT INTO operations (at, service, verb, who, detail, result) VALUES (?, ?, ?, ?, ?, ?)",
        [to_text(operation.at), operation.service, *_words(operation)],
    )
    database.execute(_DROP_OPERATIONS, {"service": operation.service, "kept": KEPT_OPERATIONS})


def _words(operation: Operation) -> tuple[str, ...]:
    return operation.verb, operation.by, operation.detail, operation.result


_DROP_OPERATIONS = """
DELETE FROM operations WHERE service = :service AND id <=
    (SELECT id FROM operations WHERE service = :service ORDER BY id DESC LIMIT 1 OFFSET :kept)
"""


def _discovery(discovery: Discovery | None) -> str | None:
    return None if discovery is None else dump_discovery(discovery)


def _endpoints(endpoints: tuple[Endpoint, ...] | None) -> str | None:
    return None if endpoints is None else dump_endpoints(endpoints)
