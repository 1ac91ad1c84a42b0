"""Events, the audit log and the points of charts as rows: written, and read beside whoever writes."""

import asyncio
import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from datetime import datetime
from pathlib import Path
from sqlite3 import Connection, Row
from typing import Any, TypeVar

from sqlite_utils import Database

from rollout.chain import FIRST, AuditRow, Verified, hash_of, verify, verify_newest
from rollout.errors import Unavailable, Unknown
from rollout.happenings import Event, EventKind, Severity, Wanted
from rollout.points import POINTS_LIMIT, THINNED, Point, from_row, to_row
from rollout.record import Operation, PutPoints
from rollout.store import NEWEST
from rollout.store.folder import DATABASE_NAME, reached, read_only
from rollout.store.rows import to_text
from rollout.store.schema import AUDIT_WORDS

KEPT_EVENTS = 50_000
PRUNED_EVERY = 100  # events: so far there may be more than are kept
SCANNED = 1_000  # events that are looked at in one go
READ_LIMIT_S = 10.0
BUSY_TIMEOUT_MS = 1_000

_Returned = TypeVar("_Returned")


# --- written, in the transaction of what caused it ---


def put_event(database: Database, event: Event) -> None:
    number = database.execute(
        "INSERT INTO events (at, kind, severity, service, rollout_id, text, detail) VALUES (?, ?, ?, ?, ?, ?, ?)",
        [
            to_text(event.at),
            event.kind.value,
            event.severity.value,
            event.service,
            event.rollout,
            event.text,
            json.dumps(event.detail),
        ],
    ).lastrowid
    if number and number % PRUNED_EVERY == 0:
        database.execute("DELETE FROM events WHERE id <= ?", [number - KEPT_EVENTS])


def put_audit(database: Database, operation: Operation) -> None:
    last = database.execute("SELECT id, hash FROM audit ORDER BY id DESC LIMIT 1").fetchone()
    number, before = (last[0] + 1, last[1]) if last else (1, FIRST)
    words = (operation.verb, operation.by, operation.origin, operation.detail, operation.result)
    row = AuditRow(number, to_text(operation.at), operation.service, *words)
    names = ", ".join(("id", "at", *AUDIT_WORDS, "hash"))
    values = [row.id, row.at, row.service, *words, hash_of(before, row)]
    database.execute(f"INSERT INTO audit ({names}) VALUES ({', '.join('?' * len(values))})", values)  # noqa: S608 - ours


def put_points(database: Database, change: PutPoints) -> None:
    key = [change.service, change.rollout]
    for each in change.points:
        row = [*key, each.at_s, json.dumps(to_row(each), separators=(",", ":"))]
        database.execute("INSERT OR REPLACE INTO points (service, rollout_id, at, point) VALUES (?, ?, ?, ?)", row)
    (count,) = database.execute("SELECT count(*) FROM points WHERE service = ? AND rollout_id = ?", key).fetchone()
    if count > POINTS_LIMIT:
        database.execute(_THIN_POINTS, [*key, THINNED, *key])


_THIN_POINTS = """
DELETE FROM points WHERE at IN (
    SELECT at FROM (
        SELECT at, row_number() OVER (ORDER BY at) AS place FROM points
        WHERE service = ? AND rollout_id = ? ORDER BY at LIMIT ?
    ) WHERE place % 2 = 0
) AND service = ? AND rollout_id = ?
"""


# --- read, beside whoever writes ---


class SqliteChronicle:
    """Reads a data folder's database by connections of its own: no save waits for it, and a server may be writing.

    Every verb raises Unavailable while the database cannot be read.
    """

    def __init__(self, folder: Path) -> None:
        self._path = folder / DATABASE_NAME

    async def span(self) -> tuple[int, int]:
        """Return the ids of the oldest event that is kept and of the newest there ever was; (1, 0) without any."""
        return await self._read(_span)

    async def events(self, after: int, limit: int, wanted: Wanted) -> tuple[Event, ...]:
        """Return at most `limit` events with greater ids, the oldest first."""
        return await self._read(lambda connection: _events(connection, after, limit, wanted))

    async def events_before(self, before: int, limit: int, wanted: Wanted) -> tuple[Event, ...]:
        """Return the last `limit` events with smaller ids, the oldest first."""
        return await self._read(lambda connection: _events_before(connection, before, limit, wanted))

    async def audit(self, before: int, limit: int, wanted: Mapping[str, str]) -> tuple[AuditRow, ...]:
        """Return at most `limit` rows with smaller ids, the newest first; `wanted` says what some columns must be."""
        return await self._read(lambda connection: tuple(_audit(connection, before, limit, wanted)))

    async def verified(self, head: str = "", newest: int | None = None) -> Verified:
        """Go through the whole audit log, see `chain.verify`, or only through so many of its newest rows."""
        if newest is not None:
            return await self._read(lambda connection: _verified_newest(connection, newest))
        return await asyncio.to_thread(verified, self._path, head)  # without a limit: it may be long

    async def points(self, service: str, rollout: int) -> tuple[Point, ...]:
        """Return the points of a rollout's charts in the order of time."""
        return await self._read(lambda connection: _points(connection, service, rollout))

    async def _read(self, ask: Callable[[Connection], _Returned]) -> _Returned:
        try:
            async with asyncio.timeout(READ_LIMIT_S):
                return await asyncio.to_thread(_asked, self._path, ask)
        except TimeoutError as error:
            what = f"cannot read {self._path} within {READ_LIMIT_S:g} s"
            raise Unavailable(f"{what}; look at the health of its disk") from error


def verified(path: Path, head: str = "") -> Verified:
    """Go through the audit log of a database, or of a backup. Raises Unknown or Unavailable."""
    if not path.is_file():
        raise Unknown(f"there is no database {path}; name the data folder of a server, or a backup of it")
    with reached(path, "read"), closing(_opened(path)) as connection:
        connection.execute("BEGIN")  # one moment for all of it
        if not connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'audit'").fetchone():
            raise Unknown(f"{path} has no audit log yet; a server of this version makes one when it starts")
        found = verify(map(_audit_row, connection.execute("SELECT * FROM audit ORDER BY id")), head)
        return _with_end(connection, found, found.rows)


def _verified_newest(connection: Connection, newest: int) -> Verified:
    connection.execute("BEGIN")
    rows = tuple(reversed(tuple(_audit(connection, NEWEST, newest + 1, {}))))
    return _with_end(connection, verify_newest(rows), rows[-1].id if rows else 0)


def _with_end(connection: Connection, found: Verified, last: int) -> Verified:
    """Return what was found, or that rows are gone after the `last` one that is there."""
    counted = connection.execute("SELECT seq FROM sqlite_sequence WHERE name = 'audit'").fetchone()
    if found.broken is None and counted and counted[0] > last:
        what = f"rows {last + 1} to {counted[0]} were written, and are gone: the end was cut off"
        return Verified(found.rows, found.head, last + 1, what)
    return found


def _asked(path: Path, ask: Callable[[Connection], _Returned]) -> _Returned:
    with reached(path, "read"), closing(_opened(path)) as connection:
        return ask(connection)


def _opened(path: Path) -> Connection:
    connection = read_only(path)
    connection.row_factory = Row
    connection.text_factory = lambda raw: raw.decode(errors="backslashreplace")  # of who changes the file, too
    connection.execute(f"PRAGMA busy_timeout = {BUSY_TIMEOUT_MS}")
    return connection


def _span(connection: Connection) -> tuple[int, int]:
    (oldest,) = connection.execute("SELECT min(id) FROM events").fetchone()
    counted = connection.execute("SELECT seq FROM sqlite_sequence WHERE name = 'events'").fetchone()
    newest = counted[0] if counted else 0
    return (newest + 1 if oldest is None else oldest), newest


def _events(connection: Connection, after: int, limit: int, wanted: Wanted) -> tuple[Event, ...]:
    found: list[Event] = []
    while len(found) < limit:
        rows = connection.execute("SELECT * FROM events WHERE id > ? ORDER BY id LIMIT ?", [after, SCANNED]).fetchall()
        found += filter(wanted.takes, map(_event, rows))
        if len(rows) < SCANNED:
            break
        after = rows[-1]["id"]
    return tuple(found[:limit])


def _events_before(connection: Connection, before: int, limit: int, wanted: Wanted) -> tuple[Event, ...]:
    found: list[Event] = []
    while len(found) < limit:
        sql = "SELECT * FROM events WHERE id < ? ORDER BY id DESC LIMIT ?"
        rows = connection.execute(sql, [before, SCANNED]).fetchall()
        found += filter(wanted.takes, map(_event, rows))
        if len(rows) < SCANNED:
            break
        before = rows[-1]["id"]
    return tuple(reversed(found[:limit]))


def _event(row: Mapping[str, Any]) -> Event:
    return Event(
        datetime.fromisoformat(row["at"]),
        EventKind(row["kind"]),
        Severity(row["severity"]),
        row["service"],
        row["rollout_id"],
        row["text"],
        json.loads(row["detail"]),
        row["id"],
    )


def _audit(connection: Connection, before: int, limit: int, wanted: Mapping[str, str]) -> Iterator[AuditRow]:
    assert wanted.keys() <= set(AUDIT_WORDS), wanted
    where = " AND ".join(("id < ?", *(f"{name} = ?" for name in wanted)))
    sql = f"SELECT * FROM audit WHERE {where} ORDER BY id DESC LIMIT ?"  # noqa: S608 - names of our own columns
    yield from map(_audit_row, connection.execute(sql, [before, *wanted.values(), limit]))


def _audit_row(row: Mapping[str, Any]) -> AuditRow:
    words = {name: _said(row[name]) for name in ("at", "hash", *AUDIT_WORDS)}
    return AuditRow(id=row["id"], **words)


def _said(value: object) -> str:
    """Return a text; who changes the file may have put something else there, which is to be found and shown."""
    return value if isinstance(value, str) else f"no text: {value!r}"


def _points(connection: Connection, service: str, rollout: int) -> tuple[Point, ...]:
    sql = "SELECT at, point FROM points WHERE service = ? AND rollout_id = ? ORDER BY at"
    return tuple(from_row(row["at"], json.loads(row["point"])) for row in connection.execute(sql, [service, rollout]))
