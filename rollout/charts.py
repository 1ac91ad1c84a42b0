"""Points of charts as they come: one each second of a rollout whose traffic is shifted, saved a few at a time."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field

from rollout.controller import Controller
from rollout.gate import Errors, Past
from rollout.looks import Sides, total
from rollout.metrics import Counts, tally
from rollout.points import Point, Side, point
from rollout.record import PutPoints, Rollout
from rollout.saver import Saving
from rollout.state import Phase

POINT_EVERY_S = 1.0
SAVE_EVERY_S = 5.0
UNSAVED_LIMIT = 600  # points of one rollout that wait for the disk; beyond, the oldest go
_SHOWN = frozenset({Phase.SHIFTING, Phase.PAUSED, Phase.ROLLING_BACK})

Key = tuple[str, int]


@dataclass(slots=True)
class _Chart:
    """What one rollout has shown since its last point, and the points that wait to be saved.

    `looked_s` has when its last look was, in waves that of each location.
    """

    began_s: float
    looked_s: dict[str, float] = field(default_factory=dict)
    sides: list[Sides] = field(default_factory=list)
    waiting: list[Point] = field(default_factory=list)
    saving: list[Point] = field(default_factory=list)


class Charts:
    """Adds up what looks have seen. It decides nothing, and what is lost in a crash are some seconds of a picture."""

    def __init__(self, controller: Controller, unix_s: Callable[[], float]) -> None:
        self._controller = controller
        self._unix_s = unix_s
        self._charts: dict[Key, _Chart] = {}

    async def run(self) -> None:
        """Take a point each second, and save them every few, until cancelled."""
        saved_s = self._unix_s()
        while True:
            await asyncio.sleep(POINT_EVERY_S)
            self.take()
            if self._unix_s() - saved_s >= SAVE_EVERY_S:
                saved_s = self._unix_s()
                self.save()

    def saw(self, rollout: Rollout) -> None:
        """Take in what the last look at a rollout has seen, each look once."""
        state = rollout.state
        if state.phase not in _SHOWN:
            return
        observer = self._controller.observer
        chart = self._charts.setdefault((rollout.service, rollout.id), _Chart(self._unix_s()))
        looked_s = {"": state.looked_s, **{location: lane.looked_s for location, lane in state.lanes.items()}}
        for location, at_s in looked_s.items():
            if at_s <= chart.looked_s.get(location, 0.0):
                continue
            chart.looked_s[location] = at_s
            sides = observer.recent_at(rollout.service, location) if location else observer.recent(rollout.service)
            chart.sides.append(sides)

    def take(self) -> None:
        """Make a point of each rollout that was looked at since the last one."""
        now_s = self._unix_s()
        active = {(each.service, each.id): each for each in self._controller.books.active()}
        for key, chart in self._charts.items():
            rollout = active.get(key)
            if rollout is None or not chart.sides:
                continue
            wanted = self._controller.weight_bp(rollout) / 100
            chart.waiting.append(_point(chart, now_s, wanted, rollout.strategy.gate.errors))
            del chart.waiting[:-UNSAVED_LIMIT]
            chart.sides, chart.began_s = [], now_s

    def save(self) -> None:
        """Save what waits, unless the disk is behind already."""
        active = {(each.service, each.id) for each in self._controller.books.active()}
        ready = {key: chart for key, chart in self._charts.items() if chart.waiting and not chart.saving}
        for key in [key for key, chart in self._charts.items() if key not in active and not _unsaved(chart)]:
            del self._charts[key]
        if not ready or self._controller.saver.unsaved(""):
            return
        for chart in ready.values():
            chart.saving, chart.waiting = chart.waiting, []

        def saved() -> None:
            for chart in ready.values():
                chart.saving = []

        puts = tuple(PutPoints(*key, tuple(chart.saving)) for key, chart in ready.items())
        self._controller.saver.put(Saving(puts, "", saved))

    def unsaved(self, service: str, rollout: int) -> tuple[Point, ...]:
        """Return the points that the store does not have yet."""
        chart = self._charts.get((service, rollout))
        return tuple(_unsaved(chart)) if chart is not None else ()


def _unsaved(chart: _Chart) -> list[Point]:
    return [*chart.saving, *chart.waiting]


def _point(chart: _Chart, now_s: float, wanted_percent: float, errors: Errors) -> Point:
    stable = _side(total(each.stable for each in chart.sides), errors)
    candidate = _side(total(each.candidate for each in chart.sides), errors)
    return point(now_s, now_s - chart.began_s, wanted_percent, stable, candidate)


def _side(counts: Counts, errors: Errors) -> Side:
    judged = tally(counts, Past(), errors)
    share = judged.error_share if judged.requests else None
    quantiles = (counts.latency.quantile(0.5), counts.latency.quantile(0.99))
    p50_ms, p99_ms = (None if each is None else round(each, 3) for each in quantiles)
    return Side(judged.requests, share if share is None else round(share, 6), p50_ms, p99_ms)
