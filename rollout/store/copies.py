"""Copies of a database: made while a server writes to it, looked through, and put back when none uses the folder."""

import contextlib
import os
import sqlite3
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from rollout.errors import Conflict, RolloutError, Unavailable, Unknown
from rollout.store.folder import DATABASE_NAME, reached, read_only, refuse_damaged, take, usable
from rollout.store.reserve import RESERVE_NAME
from rollout.store.schema import MIGRATIONS

FAULTS_TOLD = 10
GAP_EVENTS = 10_000  # so many may have been heard of a database that is on another machine, or damaged
COMING_NAME = "rollout.db.coming"


@dataclass(frozen=True, slots=True)
class Condition:
    """What a database is like: its size, its format and the newest one known here, and what is damaged in it."""

    size_bytes: int
    format: int
    known_format: int
    faults: tuple[str, ...]


def condition(path: Path) -> Condition:
    """Look through a whole database, without a write to it. Raises Unknown, Conflict or Unavailable."""
    if not path.is_file():
        raise Unknown(f"there is no database {path}; name the data folder of a server, which is its --data")
    with reached(path, "read"), closing(read_only(path)) as connection:
        try:
            rows = connection.execute(f"PRAGMA integrity_check({FAULTS_TOLD})").fetchall()
            strays = connection.execute("PRAGMA foreign_key_check").fetchall()
            found = connection.execute("PRAGMA user_version").fetchone()[0]
        except sqlite3.DatabaseError as error:
            rows, strays, found = [(str(error),)], [], 0
    faults = [" ".join(str(row[0]).split()) for row in rows if row[0] != "ok"]
    faults += [f"a row of {row[0]} belongs to no row of {row[2]}" for row in strays[:FAULTS_TOLD]]
    if not faults:
        refuse_damaged(path)  # whole, but perhaps not ours
    return Condition(path.stat().st_size, found, len(MIGRATIONS), tuple(faults))


def copy(source: Path, target: Path) -> int:
    """Copy a database into a new file, as of one moment; return its size. Nothing is left of a copy that failed.

    Raises Unknown where there is no database, Conflict where `target` exists, Unavailable where either is no use.
    """
    if not source.is_file():
        raise Unknown(f"there is no database {source}; name the data folder of a server, which is its --data")
    try:
        os.close(os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
    except FileExistsError as error:
        raise Conflict(f"{target} exists already, and is left as it is; name a file that does not") from error
    except OSError as error:
        raise Unavailable(f"cannot write {target}: {error.strerror}; name a file that this user may write") from error
    try:
        _fill(source, target)
    except BaseException:
        target.unlink()
        raise
    return target.stat().st_size


def restore(source: Path, folder: Path) -> Path | None:
    """Put a copy into a data folder; return where the database lies that was there, None where there was none.

    Raises Unknown, Conflict (a server uses the folder, it is no database of ours) or Unavailable (damaged, no room).
    """
    if not source.is_file():
        raise Unknown(f"there is no file {source} to restore; name one that `rollout store backup` made")
    with usable(folder):
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        held = take(folder)
        try:
            coming = folder / COMING_NAME
            coming.unlink(missing_ok=True)
            copy(source, coming)
            _leave_a_gap(coming, folder / DATABASE_NAME)
            aside = _set_aside(folder / DATABASE_NAME)
            coming.replace(folder / DATABASE_NAME)
            (folder / RESERVE_NAME).unlink(missing_ok=True)  # it is about the other one
            _keep(folder)
        finally:
            os.close(held)
    return aside


def _leave_a_gap(coming: Path, before: Path) -> None:
    """Have events go on behind all ids that readers may have heard, so that they notice: see Feed.gone."""
    heard = max(_last_event(coming), _last_event(before)) + GAP_EVENTS
    with reached(coming, "write"), closing(sqlite3.connect(coming)) as connection, connection:
        if connection.execute(_HAS_EVENTS).fetchone():
            connection.execute("DELETE FROM sqlite_sequence WHERE name = 'events'")
            connection.execute("INSERT INTO sqlite_sequence (name, seq) VALUES ('events', ?)", [heard])
    _keep(coming)


def _last_event(path: Path) -> int:
    """Return the newest id that a database has given to an event; 0 without any, and where it cannot be read."""
    with contextlib.suppress(sqlite3.Error, RolloutError), closing(read_only(path)) as connection:
        found = connection.execute("SELECT seq FROM sqlite_sequence WHERE name = 'events'").fetchone()
        return int(found[0]) if found else 0
    return 0


_HAS_EVENTS = "SELECT 1 FROM sqlite_master WHERE name = 'events'"


def _fill(source: Path, target: Path) -> None:
    refuse_damaged(source)
    with reached(source, "copy"), closing(read_only(source)) as origin, closing(sqlite3.connect(target)) as end:
        origin.backup(end)  # all pages in one go, so what is written meanwhile neither restarts nor waits for it
        end.execute("PRAGMA journal_mode = DELETE")  # one file, without a -wal beside it
    with reached(source, "copy"):
        refuse_damaged(target)
    _keep(target)
    _keep(target.parent)


def _keep(path: Path) -> None:
    """Have a file, or the names in a folder, outlast a power cut."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _set_aside(path: Path) -> Path | None:
    """Give a database a second name, with what belongs to it; its own stays until another file takes it over."""
    if not path.exists():
        return None
    with contextlib.suppress(sqlite3.Error), closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")  # a damaged one cannot; then its -wal goes along
    number = 1
    while (aside := path.with_name(f"rollout.before-restore-{number}.db")).exists():
        number += 1
    os.link(path, aside)
    for suffix in ("-wal", "-shm"):
        beside = path.with_name(path.name + suffix)
        if beside.exists():
            beside.replace(aside.with_name(aside.name + suffix))
    return aside
