"""What is seen of each location in a rollout in waves: who is there, who has what, and looks of its Envoys only."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace

from rollout.gate import Look, Past
from rollout.gate.checks import Reading
from rollout.looks import Looks, Sides, total
from rollout.machine import due, in_waves, strategy_of
from rollout.machine.planned import DONE
from rollout.metrics import Scrape
from rollout.readings import Readings
from rollout.record import Rollout
from rollout.split import Route, worst
from rollout.state import Place, Seen, State
from xds.cache import NodeStatus

FIRST_BASE_S = 0.25  # until every Envoy that has a new weight was read once, which is what increments count from
ROUND_S = 0.25
LANE_LOOK_S = 0.02  # each look is a line of the journal: with 200 locations there is one of each in 4 s


@dataclass(frozen=True, slots=True)
class Crowd:
    """The fleet at one moment, to be told apart by location.

    `missing` says why those are waited for that are gone, `gone` has the locations of those of them that are known.
    `refused` are the NACKs of what is served now; `fresh` returns all that came since a time. `blind` says of whom
    nothing can be read, `past` what stable did; both cost something. `readings` are those taken outside of Envoy.
    """

    connected: Mapping[str, NodeStatus]
    missing: Mapping[str, str]
    gone: Mapping[str, str]
    refused: Mapping[str, str]
    latest: Mapping[str, Scrape]
    fresh: Callable[[Mapping[str, NodeStatus], float], Mapping[str, str]]
    blind: Callable[[], Mapping[str, str]]
    past: Callable[[], Past]
    readings: Callable[[], tuple[Reading, ...]]


@dataclass(slots=True)
class _Watch:
    """The looks at one location: at which time the last one was, and the checks of Envoy's stats."""

    looks: Looks
    looked_s: float
    readings: Readings = field(default_factory=lambda: Readings(lambda _: ()))


@dataclass(frozen=True, slots=True)
class _Here:
    """One location at one moment: its Envoys on the line, those that are waited for, and its lane."""

    connected: Mapping[str, NodeStatus]
    missing: Mapping[str, str]
    lagging: Mapping[str, str]


class Places:
    """Collects looks for each location of a rollout. It decides nothing.

    `every_s` says how long it is from one look to the next, by the lane's state, how many Envoys it has, and the time.
    All locations whose look is due are looked at together, so that their number does not make steps of the journal.
    """

    def __init__(self, new_looks: Callable[[Rollout], Looks], every_s: Callable[[State, int, float], float]) -> None:
        self._new_looks = new_looks
        self._every_s = every_s
        self._watches: dict[str, dict[str, _Watch]] = {}
        self._round_s: dict[str, float] = {}

    def see(self, rollout: Rollout, seen: Seen, crowd: Crowd) -> Seen:
        """Return the observation with what there is of each location that moves, or may begin to."""
        state, here = rollout.state, _apart(rollout.state, seen, crowd)
        free = tuple(sorted({status.node.location for status in crowd.connected.values()} - state.lanes.keys()))
        moving = [location for location, lane in state.lanes.items() if lane.phase not in DONE]
        _, joining = due(rollout.strategy, state, free)
        places = {location: self._place(location, here, seen, crowd) for location in (*moving, *joining)}
        for location in moving:
            since_s = state.lanes[location].since_s
            refused = {**crowd.fresh(here[location].connected, since_s), **places[location].refused}
            places[location] = replace(places[location], refused=refused)
        looks = self._looks(rollout, seen, crowd, {location: here[location] for location in moving})
        for location, look in looks.items():
            places[location] = replace(places[location], looked_s=seen.now_s, look=look)
        told = {node for location in places for node in here[location].lagging}
        return replace(
            seen,
            lagging={node: why for node, why in seen.lagging.items() if node not in told},
            refused={},
            past=crowd.past() if joining else None,
            locations=free,
            places=places,
        )

    def forget(self, service: str) -> None:
        """Drop what was collected for a rollout that is over."""
        self._watches.pop(service, None)
        self._round_s.pop(service, None)

    def recent(self, service: str, location: str | None = None) -> Sides:
        """Return what stable and candidate did in the last looks, everywhere that moves or at one location."""
        found = [each.looks.recent() for each in self._some(service, location)]
        return Sides(total(each.stable for each in found), total(each.candidate for each in found))

    def routes(self, service: str, limit: int) -> tuple[Route, ...]:
        """Return how Envoys split a service's requests: those who deviate most from what they have ACKed."""
        return worst((route for each in self._some(service, None) for route in each.looks.routes(limit)), limit)

    def _some(self, service: str, location: str | None) -> Iterator[_Watch]:
        watches = self._watches.get(service, {})
        return (watch for name, watch in watches.items() if location in (None, name))

    def _place(self, location: str, here: Mapping[str, _Here], seen: Seen, crowd: Crowd) -> Place:
        there = here[location]
        gone = tuple(node for node in seen.missing if crowd.gone.get(node, location) == location)
        return Place(
            len(there.connected),
            fleet=len(there.connected) + len(there.missing.keys() - there.connected.keys()),
            lagging=there.lagging,
            refused={node: crowd.refused[node] for node in there.connected.keys() & crowd.refused.keys()},
            missing=gone,
        )

    def _looks(
        self, rollout: Rollout, seen: Seen, crowd: Crowd, here: Mapping[str, _Here]
    ) -> Iterator[tuple[str, Look]] | dict[str, Look]:
        service, lanes = rollout.service, rollout.state.lanes
        watches = self._watches.setdefault(service, {})
        for location in watches.keys() - here.keys():
            del watches[location]
        weights = {} if seen.served is None else seen.served.by_location
        served = {location: weights[location] for location in here if weights.get(location)}
        for location, weight_bp in served.items():
            self._watch(rollout, location, seen.now_s, crowd).looks.acked(
                here[location].connected.keys() - here[location].lagging.keys(), weight_bp, seen.now_s
            )
        return {}


def _apart(state: State, seen: Seen, crowd: Crowd) -> Mapping[str, _Here]:
    return {}
