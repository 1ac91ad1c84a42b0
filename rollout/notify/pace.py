"""How often a target is told something, and how long one waits before a message is tried again."""

from dataclasses import dataclass

FIRST_BACKOFF_S, LONGEST_BACKOFF_S = 1.0, 60.0


@dataclass(slots=True)
class Budget:
    """So many messages at once as in a minute, and then one after the other: each comes back after its part of it."""

    spent: float = 0.0
    at_s: float = 0.0

    def left(self, per_minute: int, now_s: float) -> int:
        """Return how many messages may go now."""
        self.spent = max(0.0, self.spent - (now_s - self.at_s) * per_minute / 60)
        self.at_s = now_s
        return int(per_minute - self.spent + 1e-9)

    def take(self) -> None:
        self.spent += 1

    def wait_s(self, per_minute: int) -> float:
        """Return how long it takes until one more may go."""
        return max(0.0, (self.spent - per_minute + 1) * 60 / per_minute)


def backoff_s(attempt: int) -> float:
    """Return how long to wait after so many failed tries, from 1 on."""
    return min(LONGEST_BACKOFF_S, FIRST_BACKOFF_S * 2.0 ** min(attempt - 1, 10))
