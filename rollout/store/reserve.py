"""Who was taken back, kept where no room is needed: in a file whose room was reserved before, in two places in turn.

A rollback reaches Envoys before it is saved. On a full disk it cannot be saved, and a server that died then would come
back with the weight before. So a save first says here, in place, which rollouts it takes back; it costs no room.
"""

import contextlib
import os
import zlib
from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from rollout.record import Change, PutRollout, Rollout, TakenBack
from rollout.state import Role

RESERVE_NAME = "taken-back"
SLOT_BYTES = 32 * 1024
SLOTS = 2
_HEAD_BYTES = 8 + 8 + 4  # turn, length, checksum


class Reserve:
    """An open reserve. `note` before a save, `saved` after it; neither is called by two threads at a time."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._turn, self._noted = _newest(descriptor)

    def read(self) -> tuple[TakenBack, ...]:
        """Return who was taken back, whether that was saved since or not."""
        return tuple(self._noted.values())

    def note(self, changes: Iterable[Change]) -> None:
        """Write down those that these changes take back and that are not written down yet. Raises OSError."""
        rollouts = (each.rollout for each in changes if isinstance(each, PutRollout))
        news = {each.service: _taken_back(each) for each in rollouts if self._is_new(each)}
        if news:
            self._write({**news, **{name: each for name, each in self._noted.items() if name not in news}})

    def close(self) -> None:
        os.close(self._descriptor)

    def _is_new(self, rollout: Rollout) -> bool:
        known = self._noted.get(rollout.service)
        return rollout.state.loser is Role.CANDIDATE and (known is None or known.id != rollout.id)

    def _write(self, noted: Mapping[str, TakenBack]) -> None:
        """Write over the older of the two places, so that one is whole whatever happens; the newest notes go first."""
        kept = dict(noted)
        while len(text := _notes().dump_json(tuple(kept.values()))) > SLOT_BYTES - _HEAD_BYTES:
            kept.popitem()
        turn = self._turn + 1
        numbers = turn.to_bytes(8, "big") + len(text).to_bytes(8, "big")
        checksum = zlib.crc32(numbers + text).to_bytes(4, "big")
        os.pwrite(self._descriptor, numbers + checksum + text, turn % SLOTS * SLOT_BYTES)
        os.fdatasync(self._descriptor)
        self._turn, self._noted = turn, kept


def open_reserve(folder: Path) -> Reserve:
    """Open the reserve of a data folder; its room is taken now, when it is missing. Raises OSError."""
    descriptor = os.open(folder / RESERVE_NAME, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        lacking = SLOTS * SLOT_BYTES - os.fstat(descriptor).st_size
        if lacking > 0:
            with contextlib.suppress(OSError):  # full already: the server starts all the same, and tries at the next
                os.pwrite(descriptor, bytes(lacking), SLOTS * SLOT_BYTES - lacking)  # written: a hole has no room
                os.fsync(descriptor)
        return Reserve(descriptor)
    except BaseException:
        os.close(descriptor)
        raise


def unsaved(noted: Iterable[TakenBack], rollouts: Iterable[Rollout]) -> tuple[TakenBack, ...]:
    """Return those whose rollout was saved last before it was taken back."""
    forward = {(each.service, each.id): each.revision for each in rollouts if each.state.loser is not Role.CANDIDATE}
    return tuple(each for each in noted if forward.get((each.service, each.id), each.revision) < each.revision)


def _taken_back(rollout: Rollout) -> TakenBack:
    return TakenBack(rollout.service, rollout.id, rollout.revision, rollout.state.reason)


def _newest(descriptor: int) -> tuple[int, dict[str, TakenBack]]:
    """Return the newer of the two places that are whole; a torn one counts for nothing."""
    places = [_place(os.pread(descriptor, SLOT_BYTES, number * SLOT_BYTES)) for number in range(SLOTS)]
    turn, noted = max(places, key=lambda each: each[0])
    return turn, {each.service: each for each in noted}


def _place(found: bytes) -> tuple[int, tuple[TakenBack, ...]]:
    turn, length = int.from_bytes(found[:8], "big"), int.from_bytes(found[8:16], "big")
    text = found[_HEAD_BYTES : _HEAD_BYTES + length]
    if not turn or zlib.crc32(found[:16] + text) != int.from_bytes(found[16:_HEAD_BYTES], "big"):
        return 0, ()
    try:
        return turn, _notes().validate_json(text)
    except ValidationError:  # whole, and of another version: what it said is in the database or was judged again
        return turn, ()


@cache
def _notes() -> TypeAdapter[tuple[TakenBack, ...]]:
    return TypeAdapter(tuple[TakenBack, ...])
