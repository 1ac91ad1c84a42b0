"""How long what is published takes to the last proxy: told of publishes, responses and answers; decides nothing."""

from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

from xds.cache import Fleet
from xds.resources import TYPES, ResourceType

SETTLE_S = 3.0  # longer than routes wait for their clusters: a push without news for so long has been told to everybody
LIMIT_S = 600.0  # a proxy that has not answered by then is not waited for
OPEN_LIMIT = 32  # pushes that are followed at once; beyond, the oldest is told of as it is


@dataclass(frozen=True, slots=True)
class Reach:
    """How far a push has come with one type: responses that were sent, that were refused, and that are waited for.

    `last_s` is when the last of them answered, None before the first did.
    """

    sent: int = 0
    refused: int = 0
    waiting: int = 0
    last_s: float | None = None


@dataclass(frozen=True, slots=True)
class Push:
    """One publish, with the types that it changed. `cause` is the service whose split has changed, "" a configuration.

    `waiting` are the answers that were not waited for any longer, 0 where every proxy that it was sent to has it.
    """

    number: int
    cause: str
    began_s: float
    types: dict[ResourceType, Reach]

    @property
    def last_s(self) -> float:
        """When the last answer came; when it began, where none did."""
        return max((each.last_s for each in self.types.values() if each.last_s is not None), default=self.began_s)

    @property
    def waiting(self) -> int:
        return sum(each.waiting for each in self.types.values())


class _Flight(NamedTuple):
    """A response on its way: it says all that was published from `first` to `last`, and has not said before."""

    first: int
    last: int


@dataclass(slots=True)
class _Line:
    """What one proxy was told of one type: up to which publish, and what of it is not answered yet."""

    told: int
    flights: deque[_Flight] = field(default_factory=deque)


def changed_types(before: Fleet | None, after: Fleet | None) -> frozenset[ResourceType]:
    """Return the types of which any proxies are served something else than before."""
    if after is None or before is None:
        return frozenset(TYPES if after is not before else ())
    groups = before.groups.keys() | after.groups.keys()
    pairs = [(before.common, after.common)]
    pairs += [(before.groups.get(each, before.common), after.groups.get(each, after.common)) for each in groups]
    return frozenset(
        type_ for old, new in pairs for type_ in TYPES if old.views[type_].version != new.views[type_].version
    )


class Pushes:
    """Follows pushes while they are young; each response and each answer costs the same, however large the fleet is.

    The latest publish wins, so a proxy may never hear of one by itself: a response counts for each publish that the
    proxy was told nothing of this type since. A push may so wait for a proxy that it did not concern, but it is never
    said to be everywhere too soon. What a proxy is told when it connects is no push.
    """

    def __init__(self) -> None:
        self._number = 0
        self._open: dict[int, Push] = {}
        self._ended: deque[Push] = deque(maxlen=OPEN_LIMIT)
        self._lines: dict[str, dict[ResourceType, _Line]] = {}

    def published(self, cause: str, types: Iterable[ResourceType], now_s: float) -> None:
        """Something else of these types is served from now on."""
        self._number += 1
        self._open[self._number] = Push(self._number, cause, now_s, {type_: Reach() for type_ in types})
        if len(self._open) > OPEN_LIMIT:
            self._end(next(iter(self._open)))

    def responded(self, node: str, type_: ResourceType) -> None:
        """A proxy is sent what is served now."""
        lines = self._lines.setdefault(node, {})
        line = lines.get(type_)
        if line is None:
            lines[type_] = _Line(self._number, deque((_Flight(self._number + 1, self._number),)))
            return
        flight = _Flight(min(line.told + 1, self._number), self._number)
        line.told = self._number
        line.flights.append(flight)
        for push in self._concerned(flight, type_):
            reach = push.types[type_]
            push.types[type_] = Reach(reach.sent + 1, reach.refused, reach.waiting + 1, reach.last_s)

    def answered(self, node: str, type_: ResourceType, unanswered: int, now_s: float) -> None:
        """A proxy has taken what it was sent; so many responses are still without an answer."""
        self._landed(node, type_, unanswered, now_s, refused=0)

    def refused(self, node: str, type_: ResourceType, unanswered: int, now_s: float) -> None:
        """A proxy has said no: it has been told, but does not have it."""
        self._landed(node, type_, unanswered, now_s, refused=1)

    def left(self, node: str) -> None:
        """A proxy has gone; it is not waited for any more."""
        for type_, line in self._lines.pop(node, {}).items():
            for flight in line.flights:
                for push in self._concerned(flight, type_):
                    reach = push.types[type_]
                    push.types[type_] = Reach(reach.sent, reach.refused, reach.waiting - 1, reach.last_s)

    def take(self, now_s: float) -> tuple[Push, ...]:
        """Return the pushes that have ended since this was asked before: those that nobody was sent are not told of."""
        for number, push in tuple(self._open.items()):
            quiet_s = now_s - push.last_s
            if (not push.waiting and quiet_s >= SETTLE_S) or now_s - push.began_s >= LIMIT_S:
                self._end(number)
        ended = tuple(self._ended)
        self._ended.clear()
        return ended

    def _landed(self, node: str, type_: ResourceType, unanswered: int, now_s: float, *, refused: int) -> None:
        line = self._lines.get(node, {}).get(type_)
        while line is not None and len(line.flights) > unanswered:
            for push in self._concerned(line.flights.popleft(), type_):
                reach = push.types[type_]
                push.types[type_] = Reach(reach.sent, reach.refused + refused, reach.waiting - 1, now_s)

    def _concerned(self, flight: _Flight, type_: ResourceType) -> Iterator[Push]:
        """Yield the open pushes that a response is about."""
        if self._open:
            oldest = next(iter(self._open))
            for number in range(max(flight.first, oldest), flight.last + 1):
                push = self._open.get(number)
                if push is not None and type_ in push.types:
                    yield push

    def _end(self, number: int) -> None:
        push = self._open.pop(number)
        if any(reach.sent for reach in push.types.values()):
            self._ended.append(push)
