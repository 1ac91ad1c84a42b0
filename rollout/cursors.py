"""How far somebody has followed the events, so that who goes on after a restart begins where it stopped."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class PutCursor:
    """Somebody has been told of all events up to this id."""

    name: str
    event: int


@dataclass(frozen=True, slots=True)
class DropCursor:
    """Somebody follows no more."""

    name: str


CursorChange = PutCursor | DropCursor
