"""Work in turns: how long one may go on before others have theirs, and what they are owed at the end. Pure."""

TURN_S, LONGEST_TURN_S = 0.02, 0.1


class Turns:
    """One round of work, which others interrupt. Half of the time is for them, and half for the work.

    A turn lasts as long as others just had: where all have much to do, the work gets its half, too.
    """

    def __init__(self, now_s: float) -> None:
        self._began_s = self._turned_s = now_s
        self._turn_s = TURN_S
        self._worked_s = 0.0

    def over(self, now_s: float) -> bool:
        """Say whether others are to have theirs."""
        return now_s - self._turned_s >= self._turn_s

    def gave(self, since_s: float, now_s: float) -> None:
        """Note since when others have had theirs."""
        self._worked_s += since_s - self._turned_s
        self._turned_s = now_s
        self._turn_s = min(max(TURN_S, now_s - since_s), LONGEST_TURN_S)

    def owed_s(self, now_s: float) -> float:
        """Return how long others must have at the end, until they have had as much as the work."""
        worked_s = self._worked_s + now_s - self._turned_s
        return max(0.0, 2 * worked_s - (now_s - self._began_s))
