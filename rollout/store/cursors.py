"""The table of cursors: rows as values, and changes as SQL."""

from collections.abc import Iterable, Mapping
from typing import Any, assert_never

from sqlite_utils import Database

from rollout.cursors import CursorChange, DropCursor, PutCursor


def apply_to_cursors(database: Database, change: CursorChange) -> None:
    match change:
        case PutCursor(name, event):
            database["cursors"].upsert({"name": name, "event": event}, pk="name")
        case DropCursor(name):
            database.execute("DELETE FROM cursors WHERE name = ?", [name])
        case _:
            assert_never(change)


def to_cursors(rows: Iterable[Mapping[str, Any]]) -> dict[str, int]:
    return {row["name"]: row["event"] for row in rows}
