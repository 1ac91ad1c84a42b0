"""A data folder: who uses it, and whether its database is whole. Foreign errors become ours, with a remedy."""

import contextlib
import fcntl
import os
import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path
from types import MappingProxyType

from rollout.errors import Conflict, Unavailable
from rollout.store.schema import APPLICATION_ID, MIGRATIONS

DATABASE_NAME = "rollout.db"
LOCK_NAME = "lock"

_REMEDIES: Mapping[int, str] = MappingProxyType(
    {
        sqlite3.SQLITE_BUSY: "another program has it locked: end that one",
        sqlite3.SQLITE_CANTOPEN: "it must be a file that this user may write",
        sqlite3.SQLITE_CORRUPT: "it is damaged: stop the server, then restore a backup or move the file away",
        sqlite3.SQLITE_FULL: "make room on its disk",
        sqlite3.SQLITE_IOERR: "look at the health of its disk, and the room on it",
        sqlite3.SQLITE_NOTADB: "it is damaged: stop the server, then restore a backup or move the file away",
        sqlite3.SQLITE_READONLY: "make it writable",
    }
)


@contextmanager
def usable(folder: Path) -> Iterator[None]:
    """Say which folder it is that cannot be used."""
    try:
        yield
    except OSError as error:
        remedy = "give --data a folder that this user may write, on a local disk"
        raise Unavailable(f"cannot use the data folder {folder}: {error.strerror}; {remedy}") from error


@contextmanager
def reached(path: Path, verb: str) -> Iterator[None]:
    """Say which database it is that cannot be reached."""
    try:
        yield
    except sqlite3.Error as error:
        remedy = _REMEDIES.get(kind(error))
        raise Unavailable(f"cannot {verb} {path}: {error}" + (f"; {remedy}" if remedy else "")) from error


def kind(error: sqlite3.Error) -> int:
    """Return SQLite's primary result code: the low byte, the rest are details. Errors of Python's own have none."""
    code: int = getattr(error, "sqlite_errorcode", 0)
    return code & 0xFF


def take(folder: Path) -> int:
    """Take the folder for this process. The kernel lets go of it when the process ends, however that happens."""
    descriptor = os.open(folder / LOCK_NAME, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        owner = _owner(descriptor)
        os.close(descriptor)
        remedy = "stop it or give --data another folder"
        raise Conflict(f"the data folder {folder} is in use by another server (pid {owner}); {remedy}") from error
    except BaseException:
        os.close(descriptor)
        raise
    with contextlib.suppress(OSError):  # it is for people only, and a full disk must not keep a server down
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
    return descriptor


def user(folder: Path) -> str | None:
    """Return the pid of the server that uses the folder, None when none does. Raises OSError."""
    try:
        descriptor = os.open(folder / LOCK_NAME, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return _owner(descriptor)
    finally:
        os.close(descriptor)
    return None


def _owner(descriptor: int) -> str:
    return os.pread(descriptor, 20, 0).decode("ascii", "replace").strip() or "unknown"


def read_only(path: Path) -> sqlite3.Connection:
    """Open a database to read: a connection that may write moves the -wal file into it when it closes."""
    return sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)


def refuse_damaged(path: Path) -> None:
    """Refuse a database that is damaged or not for us, without a write to it."""
    with closing(read_only(path)) as connection:
        try:
            application = connection.execute("PRAGMA application_id").fetchone()[0]
            version = connection.execute("PRAGMA user_version").fetchone()[0]
            tables = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]
            fault = connection.execute("PRAGMA quick_check(1)").fetchone()[0]
        except sqlite3.DatabaseError as error:
            if kind(error) not in (sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_CORRUPT):
                raise
            fault = str(error)
    if fault != "ok":
        remedy = "restore a backup of it, or move it away to begin with nothing remembered"
        verbs = f"`rollout store check --data {path.parent}` says what is wrong, `rollout store restore` puts one back"
        raise Unavailable(f"the database {path} is damaged: {' '.join(fault.split())}; {remedy}; {verbs}")
    if tables and application != APPLICATION_ID:
        raise Conflict(f"the database {path} is another program's; give --data another folder")
    if version > len(MIGRATIONS):
        formats = f"its format is {version}, this version knows up to {len(MIGRATIONS)}"
        remedy = "install that version again or give --data another folder"
        raise Conflict(f"the database {path} was written by a newer version of rollout ({formats}); {remedy}")
