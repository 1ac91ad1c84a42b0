"""The store as a folder: an SQLite database beside a lock, for one server at a time."""

import asyncio
import contextlib
import os
import sqlite3
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from sqlite_utils import Database

from rollout.errors import Unavailable
from rollout.record import (
    Change,
    Contents,
    JournalEntry,
    Operation,
    Rollout,
    Service,
)
from rollout.store.answers import to_answer
from rollout.store.changes import apply
from rollout.store.credentials import to_session, to_token
from rollout.store.cursors import to_cursors
from rollout.store.filters import (
    EVERY_OPERATION,
    EVERY_ROLLOUT,
    OperationFilter,
    RolloutFilter,
    operations_where,
    rollouts_where,
)
from rollout.store.folder import DATABASE_NAME, reached, refuse_damaged, take, usable
from rollout.store.reserve import Reserve, open_reserve, unsaved
from rollout.store.rows import (
    to_backend,
    to_entry,
    to_history,
    to_ill,
    to_mark,
    to_operation,
    to_past,
    to_queued,
    to_rollout,
    to_strategy,
    to_version,
)
from rollout.store.schema import MIGRATIONS

BUSY_TIMEOUT_MS = (
    1_000  # no server but us can lock it: only a backup or somebody's sqlite3, and the next reconcile tries again
)

_Returned = TypeVar("_Returned")


@dataclass(frozen=True, slots=True)
class _Files:
    """What is open. `lock` is a file descriptor, `inode` tells whether `path` is still this database."""

    path: Path
    database: Database
    inode: int
    lock: int
    reserve: Reserve


class SqliteStore:
    """A Store in a folder. SQLite runs in one thread of its own, so a disk that hangs does not hang the server."""

    def __init__(self, files: _Files, thread: ThreadPoolExecutor) -> None:
        self._files = files
        self._thread = thread
        self._closed = False

    async def load(self) -> Contents:
        return await self._run(_load)

    async def save(self, changes: Sequence[Change], *, engine_s: float) -> None:
        await self._run(lambda files: _save(files, changes, engine_s))

    async def rollouts(
        self, service: str | None, limit: int, wanted: RolloutFilter = EVERY_ROLLOUT
    ) -> tuple[Rollout, ...]:
        return await self._run(lambda files: _newest(files, service, limit, wanted))

    async def operations(
        self, service: str | None, limit: int, wanted: OperationFilter = EVERY_OPERATION
    ) -> tuple[Operation, ...]:
        return await self._run(lambda files: _newest_operations(files, service, limit, wanted))

    async def journal(self, service: str, rollout_id: int) -> tuple[JournalEntry, ...]:
        rows = await self._run(lambda files: _journal_rows(files, service, rollout_id))
        return await asyncio.to_thread(_to_journal, self._files.path, rows)  # it may be long, and no save waits for it

    async def close(self) -> None:
        if not self._closed:
            self._closed = True
            await self._run(_close)
            self._thread.shutdown()

    async def _run(self, act: Callable[[_Files], _Returned]) -> _Returned:
        return await asyncio.get_running_loop().run_in_executor(self._thread, act, self._files)


async def open_store(folder: Path) -> SqliteStore:
    """Open the store in this folder, which is made if it is missing.

    Raises Conflict if another server uses it or a newer version wrote it, Unavailable if it cannot be used.
    """
    thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="store")
    try:
        files = await asyncio.get_running_loop().run_in_executor(thread, _open, folder)
    except BaseException:
        thread.shutdown(wait=False)
        raise
    return SqliteStore(files, thread)


def _open(folder: Path) -> _Files:
    path = folder / DATABASE_NAME
    with usable(folder), reached(path, "open"), ExitStack() as undo:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        lock = take(folder)
        undo.callback(os.close, lock)
        # SQLite gives its -wal and -shm files the mode of the database.
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
        refuse_damaged(path)
        database = Database(path, execute_plugins=False)
        undo.callback(database.close)
        _set_up(database, path)
        reserve = open_reserve(folder)
        undo.pop_all()
        return _Files(path, database, path.stat().st_ino, lock, reserve)


def _close(files: _Files) -> None:
    try:
        with reached(files.path, "close"):
            files.database.close()
    finally:
        files.reserve.close()
        os.close(files.lock)


def _set_up(database: Database, path: Path) -> None:
    database.execute(f"PRAGMA busy_timeout = {BUSY_TIMEOUT_MS}")
    database.enable_wal()
    if database.journal_mode != "wal":
        raise Unavailable(
            f"cannot open {path}: its file system has no shared memory; give --data a folder on a local disk"
        )
    database.execute("PRAGMA synchronous = FULL")  # what was saved must outlast a power cut
    database.execute("PRAGMA foreign_keys = ON")
    known = database.execute("PRAGMA user_version").fetchone()[0]
    for number, migrate in enumerate(MIGRATIONS[known:], start=known + 1):
        with _transaction(database):
            migrate(database)
            database.execute(f"PRAGMA user_version = {number}")


@contextmanager
def _transaction(database: Database) -> Iterator[None]:
    """All that is written inside, or nothing."""
    connection: sqlite3.Connection = database.conn
    connection.rollback()  # what an earlier failure could not undo; mostly nothing
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
        connection.execute("COMMIT")
    except BaseException:
        connection.rollback()
        raise


def _save(files: _Files, changes: Sequence[Change], engine_s: float) -> None:
    with contextlib.suppress(OSError):  # what is wrong with the disk, the database will say
        files.reserve.note(changes)
    with reached(files.path, "write"):
        _check_in_place(files)
        with _transaction(files.database):
            for change in changes:
                apply(files.database, change)
            files.database.execute("UPDATE meta SET engine_s = ?", [engine_s])


def _check_in_place(files: _Files) -> None:
    """Refuse to write to a file that nobody would find again: SQLite itself goes on with one that was deleted."""
    try:
        inode = files.path.stat().st_ino
    except OSError as error:
        raise Unavailable(f"cannot write {files.path}: {error.strerror}; put it back, or restart the server") from error
    if inode != files.inode:
        raise Unavailable(
            f"cannot write {files.path}: it was replaced while in use; put it back, or restart the server"
        )


@contextmanager
def _read(path: Path) -> Iterator[None]:
    """Say which database it is that holds what cannot be read."""
    with reached(path, "read"):
        try:
            yield
        except ValueError as error:
            raise Unavailable(
                f"cannot read {path}: it holds what no rollout saves: {' '.join(str(error).split())}"
            ) from error


def _load(files: _Files) -> Contents:
    database = files.database
    with _read(files.path):
        rollouts = tuple(map(to_rollout, database.query(_UNFINISHED_AND_NEWEST)))
        return Contents(
            engine_s=database.execute("SELECT engine_s FROM meta").fetchone()[0],
            services=tuple(
                Service(row["name"], row["stable"]) for row in database["services"].rows_where(order_by="rowid")
            ),
            versions=tuple(map(to_version, database["versions"].rows_where(order_by="rowid"))),
            rollouts=rollouts,
            taken_back=unsaved(files.reserve.read(), rollouts),
            backends=tuple(map(to_backend, database["backends"].rows_where(order_by="rowid"))),
            nodes=tuple(row["id"] for row in database["nodes"].rows_where(order_by="rowid")),
            histories=tuple(map(to_history, database["histories"].rows_where(order_by="service, version"))),
            marks=tuple(map(to_mark, database["marks"].rows_where(order_by="service, address"))),
            queued=tuple(map(to_queued, database["queued"].rows_where(order_by="service"))),
            past=tuple(map(to_past, database["past_versions"].rows_where(order_by="service, name"))),
            strategies=tuple(map(to_strategy, database["strategies"].rows_where(order_by="name"))),
            tokens=tuple(map(to_token, database["tokens"].rows_where(order_by="name"))),
            sessions=tuple(map(to_session, database["sessions"].rows_where(order_by="created_at"))),
            cursors=to_cursors(database["cursors"].rows),
            answers=tuple(map(to_answer, database["answers"].rows_where(order_by="at"))),
            ill=to_ill(database["ill"].rows_where(order_by="service, address")),
        )


_UNFINISHED_AND_NEWEST = """
SELECT * FROM rollouts WHERE ended = 0
UNION
SELECT * FROM rollouts WHERE (service, id) IN (SELECT service, max(id) FROM rollouts GROUP BY service)
ORDER BY service, id
"""


def _newest(files: _Files, service: str | None, limit: int, wanted: RolloutFilter) -> tuple[Rollout, ...]:
    order = "started_at DESC, id DESC, service DESC" if service is None else "id DESC"
    where, values = rollouts_where(service, wanted)
    with _read(files.path):
        rows = files.database["rollouts"].rows_where(where, values, order_by=order, limit=limit)
        return tuple(map(to_rollout, rows))


def _newest_operations(
    files: _Files, service: str | None, limit: int, wanted: OperationFilter
) -> tuple[Operation, ...]:
    where, values = operations_where(service, wanted)
    with _read(files.path):
        rows = files.database["operations"].rows_where(where, values, order_by="id DESC", limit=limit)
        return tuple(map(to_operation, rows))


def _journal_rows(files: _Files, service: str, rollout_id: int) -> tuple[Mapping[str, Any], ...]:
    table, where = files.database["journal"], "service = ? AND rollout_id = ?"
    with reached(files.path, "read"):
        return tuple(table.rows_where(where, [service, rollout_id], order_by="revision"))


def _to_journal(path: Path, rows: Sequence[Mapping[str, Any]]) -> tuple[JournalEntry, ...]:
    with _read(path):
        return tuple(map(to_entry, rows))
