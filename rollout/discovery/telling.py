"""When people are told how a source stands: soon of what is new, seldom of what goes to and fro."""

from dataclasses import dataclass, field

from xds.limits import Rate, TokenBucket

TURNS = Rate(per_s=1 / 300, burst=6)  # it is followed, or no longer
REASONS = Rate(per_s=1 / 3_600, burst=3)  # other words for not being followed: a list that is another at each look


@dataclass(slots=True)
class Telling:
    """`said` is why a source is not followed, as people know it, "" while it is; it lags behind what turns often."""

    said: str = ""
    _turns: TokenBucket = field(default_factory=TokenBucket)
    _reasons: TokenBucket = field(default_factory=TokenBucket)

    def is_due(self, why: str, now_s: float) -> bool:
        """Say whether this is to be told now; what is held back is, at a later look, if it still is so then."""
        if why == self.said:
            return False
        turned = bool(why) != bool(self.said)
        if not (self._turns.try_take(TURNS, now_s) if turned else self._reasons.try_take(REASONS, now_s)):
            return False
        self.said = why
        return True
