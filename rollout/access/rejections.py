"""Who was not let in, and what was refused, for the records: one by one while they are few, then their number."""

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum

from rollout.record import Operation
from xds.limits import Rate, TokenBucket

NOTED = Rate(per_s=0.1, burst=20)  # who guesses tokens must fill neither the log nor the audit log
REFUSED = "refused"


class Kind(StrEnum):
    """Why: nobody knows who asks, they may not do it, or what they ask for is wrong in itself."""

    IDENTIFY = "identify"
    DENIED = "denied"
    MISTAKEN = "mistaken"


NOBODY = {Kind.IDENTIFY: "somebody unknown", Kind.DENIED: "several", Kind.MISTAKEN: "several"}
"""Who stands in notes on those who have no name, or more than one."""


@dataclass(slots=True)
class _Crowd:
    """Those of one kind: how many were left out since the last note, and the last of them in words."""

    bucket: TokenBucket = field(default_factory=TokenBucket)
    left_out: int = 0
    last: str = ""

    def fits(self, now_s: float) -> bool:
        return not self.left_out and self.bucket.try_take(NOTED, now_s)

    def leave_out(self, last: str) -> None:
        self.left_out, self.last = self.left_out + 1, last


class Rejections:
    """Bounds how much is noted of them. `note` takes a row of the audit log."""

    def __init__(self, note: Callable[[Operation], None], wall: Callable[[], datetime]) -> None:
        self._note = note
        self._wall = wall
        self._crowds = {kind: _Crowd() for kind in Kind}

    def stranger(self, whence: str, why: str, now_s: float) -> None:
        """Note somebody who did not show who they are."""
        kind = Kind.IDENTIFY
        crowd = self._crowds[kind]
        if crowd.fits(now_s):
            self._note(Operation(self._wall(), "", kind, NOBODY[kind], why, REFUSED, whence))
        else:
            crowd.leave_out(f"from {whence}: {why}")

    def change(self, kind: Kind, done: Operation, now_s: float) -> None:
        """Note a change that somebody asked for who is known."""
        crowd = self._crowds[kind]
        if crowd.fits(now_s):
            self._note(done)
        else:
            crowd.leave_out(f"by {done.by}, {done.origin}: {done.verb}")

    def look(self, now_s: float) -> None:
        """Note how many were left out, when it is time."""
        for kind, crowd in self._crowds.items():
            if crowd.left_out and crowd.bucket.try_take(NOTED, now_s):
                what = f"{crowd.left_out} more were refused, and are not here one by one; the last {crowd.last}"
                self._note(Operation(self._wall(), "", kind, NOBODY[kind], what, REFUSED, ""))
                crowd.left_out = 0
