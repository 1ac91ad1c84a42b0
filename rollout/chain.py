"""The audit log's chain: each row's hash covers the row and the hash before it, so that no row can be changed alone."""

import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

FIRST = "0" * 64
"""Stands for the hash before the first row."""


@dataclass(frozen=True, slots=True)
class AuditRow:
    """One row: who asked for what, how and from where, and what came of it; `at` is its time as it is saved."""

    id: int
    at: str
    service: str
    verb: str
    who: str
    origin: str
    detail: str
    result: str
    hash: str = ""


@dataclass(frozen=True, slots=True)
class Verified:
    """What came of going through a chain: its `rows`, its `head` and, where it is broken, which row and how.

    `broken` is the first wrong row's id, None where all are right.
    """

    rows: int
    head: str
    broken: int | None = None
    why: str = ""


def hash_of(before: str, row: AuditRow) -> str:
    """Return a row's hash: SHA-256 of the hash before and the row as canonical JSON."""
    told = {
        "id": row.id,
        "at": row.at,
        "service": row.service,
        "verb": row.verb,
        "who": row.who,
        "origin": row.origin,
        "detail": row.detail,
        "result": row.result,
    }
    text = json.dumps(told, ensure_ascii=True, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(f"{before}\n{text}".encode()).hexdigest()


def verify(rows: Iterable[AuditRow], head: str = "") -> Verified:
    """Go through a chain, the oldest row first, as far as it is right. `head` is one that was noted before, "" none.

    A chain alone cannot show that its end was cut off, or all of it written anew: a head that was noted elsewhere can.
    """
    found, last = 0, FIRST
    noted = head in ("", FIRST)
    for row, why in _looked_at(rows):
        if why:
            return Verified(found, last, row.id, why)
        found, last = found + 1, row.hash
        noted = noted or row.hash == head
    if not noted:
        what = f"no row has the hash {head}, which was noted: the end was cut off, or the rows are others"
        return Verified(found, last, found + 1, what)
    return Verified(found, last)


def verify_newest(rows: Sequence[AuditRow]) -> Verified:
    """Go through a chain's end, the oldest row first. Of what is before it only the first row's hash is believed."""
    if not rows or rows[0].id == 1:
        return verify(rows)
    found, last = 0, rows[0].hash
    for row, why in _looked_at(rows[1:], last, rows[0].id + 1):
        if why:
            return Verified(found, last, row.id, why)
        found, last = found + 1, row.hash
    return Verified(found, last)


def _looked_at(rows: Iterable[AuditRow], before: str = FIRST, expected: int = 1) -> Iterator[tuple[AuditRow, str]]:
    """Yield each row with what is wrong with it, "" for nothing."""
    for row in rows:
        if row.id != expected:
            yield row, f"row {expected} is missing before it" if row.id > expected else "its number is there twice"
        elif row.hash != hash_of(before, row):
            yield row, "it is not what was saved: its hash is another one"
        else:
            yield row, ""
        before, expected = row.hash, row.id + 1
