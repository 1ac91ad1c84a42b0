"""Who asked for what, and what came of it: noted with the change itself, or by itself when nothing was changed."""

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from datetime import datetime

from rollout.credentials import without_secrets
from rollout.errors import InvalidSpec, Outdated, Rehearsed, RolloutError
from rollout.events import of_operation
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
    stands: Callable[[], None] = lambda: None
    noted: bool = False

    def about_to(self, words: str) -> None:
        """Say what is done now, after all checks and before anything is changed. Raises Rehearsed where that is all.

        Raises Outdated when it was asked for another state than the present one: no await may follow before the change.
        """
        self.stands()
        if self.rehearses:
            raise Rehearsed(words)

    def same(self, words: str) -> None:
        """Say why nothing is to do. Raises Rehearsed where somebody only wants to know that."""
        if self.rehearses:
            raise Rehearsed(f"nothing: {words}", changes=False)

    def result(self, words: str = DONE) -> PutOperation:
        """Return the note of a change, to be saved together with it."""
        assert not self.rehearses, self.operation  # the verb lacks its about_to()
        self.noted = True
        self.operation = replace(self.operation, result=_words(words))
        self.told(self.operation)
        return PutOperation(self.operation, of_operation(self.operation))


def _words(text: str) -> str:
    """Return a text as it is noted: bounded, and without the token that somebody may have put into it."""
    return without_secrets(text)[:WORDS_LIMIT]


def _untagged(_service: str) -> str:
    return ""


class Ledger:
    """Notes operations. `told` hears each of them, too; `tag` tells a service's present state from all others."""

    def __init__(
        self,
        saver: Saver,
        wall: Callable[[], datetime],
        told: Callable[[Operation], None],
        tag: Callable[[str], str] = _untagged,
    ) -> None:
        self._saver = saver
        self._wall = wall
        self._told = told
        self._tag = tag

    @contextlib.contextmanager
    def asked(
        self, service: str, verb: str, by: Asker, detail: str = "", tag: Callable[[], str] | None = None
    ) -> Iterator[Entry]:
        """Note what is asked for inside: as the caller does with `result`, else that it was refused or changed nothing.

        `service` must exist, or be "" for what concerns the whole fleet. `tag` tells the present state of what is asked
        about from all others, where that is no service.
        """
        entry = Entry(
            Operation(self._wall(), service, verb, without_secrets(str(by)), _words(detail), "", by.origin),
            self._told,
            by.rehearses,
            lambda: self._check_tag(service, by, tag),
        )
        try:
            entry.stands()
            yield entry
            entry.same("what is asked for is so already")
        except Rehearsed:
            raise
        except (RolloutError, XdsError) as error:
            self._note(entry, f"{type(error).__name__}: {error}")
            if isinstance(error, RolloutError):
                error.noted = True
            raise
        self._note(entry, NO_CHANGE)

    def _check_tag(self, service: str, by: Asker, tag: Callable[[], str] | None) -> None:
        if not by.only_if:
            return
        if not service and tag is None:
            raise InvalidSpec("If-Match: what this is about has no ETag; leave it out")
        now = self._tag(service) if tag is None else tag()
        if now not in by.only_if:
            what = f'{repr(service) if service else "it"} has changed since you looked: its ETag is "{now}" now'
            raise Outdated(f"{what}; look again, and ask anew if it is still what you want; nothing was changed")

    def _note(self, entry: Entry, words: str) -> None:
        # What was noted is done, though it may not be saved yet; and notes of refusals must not fill the memory.
        if not entry.noted and not entry.rehearses:
            note = entry.result(words)
            if self._saver.unsaved("") < UNSAVED_LIMIT:
                self._saver.put(Saving((note,)))
