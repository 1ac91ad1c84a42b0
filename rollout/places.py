"""What is seen of each location in a rollout in waves: who is there, who has what, and looks of its Envoys only."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace

from rollout.gate import Look, Past
from rollout.gate.checks import Reading
from rollout.looks import Looks, Sides, total
from rollout.machine import due, strategy_of
from rollout.machine.planned import DONE
from rollout.metrics import Scrape
from rollout.readings import Readings
from rollout.record import Rollout
from rollout.roster import named
from rollout.split import Route, worst
from rollout.state import Phase, Place, Seen, State
from xds.cache import NodeStatus

FIRST_BASE_S = 0.25  # until every Envoy that has a new weight was read once, which is what increments count from
ROUND_S = 0.25
USUAL_EVERY_S = 0.5
AT_ONCE = 100  # they take a tenth of a second
LANE_LOOK_S = 0.02  # each look is a line of the journal: with 200 locations there is one of each in 4 s


@dataclass(frozen=True, slots=True)
class Crowd:
    """The fleet at one moment, to be told apart by location.

    `missing` says why those are waited for that are gone, `missed` are those that were for too long; `gone` has the
    locations of those of them that are known.
    `refused` are the NACKs of what is served now; `fresh` returns all that came since a time. `blind` says of whom
    nothing can be read, `past` what stable did; both cost something. `readings` are those taken outside of Envoy.
    """

    connected: Mapping[str, NodeStatus]
    missing: Mapping[str, str]
    missed: frozenset[str]
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


@dataclass(frozen=True, slots=True)
class _Round:
    """What all looks that are taken at one time have in common."""

    at_s: float
    past: Past
    blind: Mapping[str, str]
    readings: tuple[Reading, ...]


class Places:
    """Collects looks for each location of a rollout. It decides nothing.

    `every_s` says how long it is from one look to the next, by the lane's state, how many Envoys it has, and the time.
    Locations whose look is due are looked at together, so that not each makes a step of the journal; but not more than
    AT_ONCE, for nothing else is done meanwhile.
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
        places = {location: _place(location, here[location], crowd) for location in (*moving, *joining)}
        for location in moving:
            since_s = state.lanes[location].since_s
            refused = {**crowd.fresh(here[location].connected, since_s), **places[location].refused}
            places[location] = replace(places[location], refused=refused)
        told = {node for location in places for node in here[location].lagging}
        watched = (*moving, *(location for location, lane in state.lanes.items() if lane.phase is Phase.RETAINING))
        looks = self._looks(rollout, seen, crowd, {location: here[location] for location in watched})
        for location, look in looks.items():
            known = places.get(location) or _place(location, here[location], crowd)
            places[location] = replace(known, looked_s=seen.now_s, look=look)
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

    def _looks(self, rollout: Rollout, seen: Seen, crowd: Crowd, here: Mapping[str, _Here]) -> Mapping[str, Look]:
        service, weights = rollout.service, {} if seen.served is None else seen.served.by_location
        watches = self._watches.setdefault(service, {})
        for location in watches.keys() - here.keys():
            del watches[location]
        for location in here.keys() & weights.keys():
            if location not in watches:
                watches[location] = _Watch(self._new_looks(rollout), seen.now_s)
            _count(watches[location], weights[location], here[location], seen.now_s, crowd)
        lanes = rollout.state.lanes
        every_s = {
            location: self._every_s(lanes[location], len(here[location].connected), seen.now_s)
            for location in watches.keys() & weights.keys()
        }
        # A command may be refused, and a look that is taken is gone: leave it to the next observation.
        if not every_s or seen.command is not None or not self._is_time(service, every_s, seen.now_s):
            return {}
        due_now = _oldest(watches, every_s, seen.now_s)
        if not due_now:
            return {}
        self._round_s[service] = seen.now_s
        now = _Round(seen.now_s, crowd.past(), crowd.blind(), crowd.readings())
        for location in due_now:
            watches[location].looked_s = seen.now_s
        return {
            location: _look(_alone(rollout, location), watches[location], here[location], weights[location], now)
            for location in due_now
        }

    def _is_time(self, service: str, every_s: Mapping[str, float], now_s: float) -> bool:
        """Say whether there may be looks again: the more locations and the longer their stages, the rarer."""
        slower = max(1.0, min(every_s.values()) / USUAL_EVERY_S)
        between_s = max(ROUND_S, LANE_LOOK_S * min(len(every_s), AT_ONCE) * slower)
        return now_s - self._round_s.get(service, 0.0) >= between_s


def _place(location: str, here: _Here, crowd: Crowd) -> Place:
    return Place(
        len(here.connected),
        fleet=len(here.connected) + len(here.missing.keys() - here.connected.keys()),
        lagging=here.lagging,
        refused={node: crowd.refused[node] for node in here.connected.keys() & crowd.refused.keys()},
        missing=named([node for node in crowd.missed if crowd.gone.get(node, location) == location]),
    )


def _oldest(watches: Mapping[str, _Watch], every_s: Mapping[str, float], now_s: float) -> tuple[str, ...]:
    """Return the locations whose look is due, not more than are looked at in one go: those first that wait longest."""
    due_now = [location for location in sorted(every_s) if now_s - watches[location].looked_s >= every_s[location]]
    return tuple(sorted(due_now, key=lambda location: watches[location].looked_s)[:AT_ONCE])


def _count(watch: _Watch, weight_bp: int, here: _Here, now_s: float, crowd: Crowd) -> None:
    looks = watch.looks
    if not looks.knows(weight_bp):
        looks.know(weight_bp, crowd.past())
        watch.looked_s = now_s + FIRST_BASE_S  # sooner there would be nothing to see
    looks.acked(here.connected.keys() - here.lagging.keys(), weight_bp, now_s)
    for node in here.connected.keys() & crowd.latest.keys():
        looks.add(node, crowd.latest[node])


def _look(alone: Rollout, watch: _Watch, here: _Here, weight_bp: int, now: _Round) -> Look:
    watch.looks.know(weight_bp, now.past)
    waited_for = here.connected.keys() | here.missing.keys()
    blind = {node: why for node, why in now.blind.items() if node in waited_for}
    look = watch.looks.take(now.at_s, here.connected, blind)
    # What an Envoy did at an earlier weight is no evidence for this stage: dropped at a change of weight.
    strata = tuple(each for each in look.strata if each.weight_bp == weight_bp)
    readings = watch.readings.after(alone, watch.looks.recent().candidate, now.at_s)
    return replace(look, strata=strata, readings=(*readings, *now.readings))


def _alone(rollout: Rollout, location: str) -> Rollout:
    """Return a rollout as if it were that of this location alone."""
    lane = rollout.state.lanes[location]
    return replace(rollout, strategy=strategy_of(rollout.strategy, lane), state=lane)


def _apart(state: State, seen: Seen, crowd: Crowd) -> Mapping[str, _Here]:
    """Tell the fleet apart. Whose location is not known, as after a restart, may be anywhere: it counts everywhere."""
    connected: dict[str, dict[str, NodeStatus]] = {location: {} for location in state.lanes}
    for node, status in crowd.connected.items():
        connected.setdefault(status.node.location, {})[node] = status
    missing = _by_location(crowd.missing, crowd, connected)
    lagging = _by_location(seen.lagging, crowd, connected)
    return {location: _Here(there, missing[location], lagging[location]) for location, there in connected.items()}


def _by_location(found: Mapping[str, str], crowd: Crowd, locations: Iterable[str]) -> Mapping[str, Mapping[str, str]]:
    apart: dict[str, dict[str, str]] = {location: {} for location in locations}
    for node, why in found.items():
        status = crowd.connected.get(node)
        location = crowd.gone.get(node) if status is None else status.node.location
        for each in apart if location is None else (location,):
            apart.setdefault(each, {})[node] = why
    return apart
