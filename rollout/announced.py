"""What was asked for, as the log says it: once it is saved, or as not saved yet while the disk does not take it."""

from collections import deque
from collections.abc import Iterable

import structlog

from rollout.record import Change, Operation, PutOperation
from rollout.saver import Saver

HELD_LIMIT = 200  # operations; of more the oldest are said at once, and not again


class Announced:
    """Holds each operation until the disk has answered, so that the log calls nothing done that may be lost."""

    def __init__(self, saver: Saver) -> None:
        self._saver = saver
        self._log = structlog.get_logger()
        self._held: deque[Operation] = deque()
        self._unsaved: deque[Operation] = deque(maxlen=HELD_LIMIT)

    def asked(self, done: Operation) -> None:
        """Take an operation whose result is known, and which is given to the disk now."""
        self._held.append(done)
        if self._saver.fault:
            self.failed()
        elif len(self._held) > HELD_LIMIT:
            self._say_unsaved(self._held.popleft())

    def saved(self, changes: Iterable[Change]) -> None:
        """Say what the disk has taken, also of what was said as not saved yet."""
        for done in (change.operation for change in changes if isinstance(change, PutOperation)):
            known = next((each for each in (self._held, self._unsaved) if done in each), None)
            if known is not None:
                known.remove(done)
                self._log.info("asked", **_words(done))
        if not self._saver.waiting:
            self.failed()  # what is left was never given to the disk: refusals, while too many waited for it

    def failed(self) -> None:
        """Say what is held as not saved: the disk does not take it now, or the server ends."""
        while self._held:
            self._say_unsaved(self._held.popleft())

    def _say_unsaved(self, done: Operation) -> None:
        self._unsaved.append(done)
        self._log.warning("asked", **_words(done), saved="not yet")


def _words(done: Operation) -> dict[str, str]:
    return {"verb": done.verb, "service": done.service, "by": done.by, "detail": done.detail, "result": done.result}
