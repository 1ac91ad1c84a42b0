"""Who asked for what, and what came of it: noted with the change itself, or by itself when nothing was changed."""

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from datetime import datetime

from rollout.errors import Rehearsed, RolloutError
from rollout.record import Operation, PutOperation
from rollout.rights import Asker
from rollout.saver import Saver, Saving
from xds.errors import XdsError

DONE, NO_CHANGE = "done", "no change"
WORDS_LIMIT = 1_000
UNSAVED_LIMIT = 50  # refusals that wait for the disk; beyond, they are only in the log


@dataclass(slots=True)
class Entry:
    """One operation while it is done; `told` hears of it once its result is known."""

    operation: Operation
    told: Callable[[Operation], None]
    rehearses: bool = False
    noted: bool = False

    def about_to(self, words: str) -> None:
        """Say what is done now, after all checks and before anything is changed. Raises Rehearsed where that is all."""
        if self.rehearses:
            raise Rehearsed(words)

    def result(self, words: str = DONE) -> PutOperation:
        """Return the note of a change, to be saved together with it."""
        self.noted = True
        self.operation = replace(self.operation, result=words[:WORDS_LIMIT])
        self.told(self.operation)
        return PutOperation(self.operation)


class Ledger:
    """Notes operations. `told` hears each of them, too."""

    def __init__(self, saver: Saver, wall: Callable[[], datetime], told: Callable[[Operation], None]) -> None:
        self._saver = saver
        self._wall = wall
        self._told = told

    @contextlib.contextmanager
    def asked(self, service: str, verb: str, by: Asker, detail: str = "") -> Iterator[Entry]:
        """Note what is asked for inside: as the caller does with `result`, else that it was refused or changed nothing.

        `service` must exist, or be "" for what concerns the whole fleet.
        """
        entry = Entry(
            Operation(self._wall(), service, verb, str(by), detail[:WORDS_LIMIT], ""), self._told, by.rehearses
        )
        try:
            yield entry
        except Rehearsed:
            raise
        except (RolloutError, XdsError) as error:
            self._note(entry, f"{type(error).__name__}: {error}")
            raise
        self._note(entry, NO_CHANGE)

    def _note(self, entry: Entry, words: str) -> None:
        # What was noted is done, though it may not be saved yet; and notes of refusals must not fill the memory.
        if not entry.noted and not entry.rehearses:
            note = entry.result(words)
            if self._saver.unsaved("") < UNSAVED_LIMIT:
                self._saver.put(Saving((note,)))
