"""Follows rollouts and pushes, and hands their spans to the exporter; without traces it does nothing at all."""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from importlib import import_module
from itertools import pairwise
from typing import Any, Protocol

import structlog

from rollout.calls import Calls
from rollout.errors import InvalidSpec, Unavailable
from rollout.message import Message
from rollout.pushes import Push, Pushes, changed_types
from rollout.record import JournalEntry, Rollout
from rollout.state import ENDED
from rollout.traces.spans import Span, Track, begun, place, pushed, stepped, traceparent
from xds.cache import Cache, Fleet, NodeStatus
from xds.node import Node
from xds.stream import Answer, Response

TICK_S = 1.0
GRACE_S = 2.0
ENDPOINTS = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
_REMEDY = "install `envoy-rollout[traces]`"

Journal = Callable[[str, int], Awaitable[tuple[JournalEntry, ...]]]


class Export(Protocol):
    """Where spans go."""

    def export(self, spans: Iterable[Span]) -> None: ...
    def close(self) -> None: ...


@dataclass(frozen=True, slots=True)
class Clocks:
    """The engine's seconds, and the time for people."""

    engine: Callable[[], float]
    wall: Callable[[], datetime]


class Telemetry:
    """A rollout's trace goes on after a restart: its ids follow from the rollout, its times from the journal."""

    def __init__(self, clocks: Clocks, cache: Cache, journal: Journal) -> None:
        self._clocks = clocks
        self._cache = cache
        self._fleet: Fleet | None = None
        self._pushes = Pushes()
        self._tracks: dict[str, tuple[Rollout, Track]] = {}
        self._journal = journal
        self._exporter: Export | None = None
        self._unknown: tuple[Rollout, ...] = ()

    def send(self, exporter: Export | None, rollouts: Iterable[Rollout]) -> None:
        """Send traces from now on, of these rollouts, which go on, too; None: send none."""
        self._exporter, self._fleet = exporter, self._cache.fleet
        self._unknown = tuple(rollouts)

    async def run(self) -> None:
        """Until cancelled."""
        if self._exporter is None:
            await asyncio.Event().wait()
        try:
            await self._restore()
            while True:
                await asyncio.sleep(TICK_S)
                self._tell_of_pushes()
        finally:
            await self._close()

    def changed(self, rollout: Rollout, before: Rollout | None) -> None:
        """Hear of a step."""
        if self._exporter is None:
            return
        _, track = self._tracks.get(rollout.service, (None, None))
        if before is None:
            self._tracks[rollout.service] = rollout, begun(rollout)
        elif track is not None or place(before) != place(rollout):  # else its journal is being read
            track, spans = stepped(track or begun(before), before, rollout)
            self._tracks[rollout.service] = rollout, track
            self._exporter.export(spans)

    def served(self, service: str) -> None:
        """Hear of a publish: of a service's split, "" for a configuration."""
        if self._exporter is not None:
            before, self._fleet = self._fleet, self._cache.fleet
            self._pushes.published(service, changed_types(before, self._fleet), self._clocks.engine())

    def responded(self, node: Node, response: Response) -> None:
        """Hear of a response on its way."""
        if self._exporter is not None:
            self._pushes.responded(node.id, response.type)

    def answered(self, node: Node, answer: Answer) -> None:
        """Hear of an ACK or a NACK."""
        if self._exporter is not None:
            note = self._pushes.refused if answer.rejected else self._pushes.answered
            note(node.id, answer.type, len(answer.subscription.unanswered), self._clocks.engine())

    def left(self, status: NodeStatus) -> None:
        """Hear of a proxy that has gone."""
        if self._exporter is not None:
            self._pushes.left(status.node.id)

    def traceparent(self, said: Message) -> str:
        """Return where in the trace a hook is called now, "" where there is none."""
        rollout, track = self._tracks.get(str(said.said["service"]), (None, None))
        if self._exporter is None or rollout is None or track is None or rollout.id != said.said["rollout"]:
            return ""
        return traceparent(track, rollout)

    async def _restore(self) -> None:
        """Take up traces where the journals are: these may be long, so nobody waits for them."""
        for rollout in self._unknown:
            with contextlib.suppress(Unavailable):  # its present stage will seem to begin later than it did
                entries = await self._journal(rollout.service, rollout.id)
                track = await asyncio.to_thread(_restored, rollout, entries)
                self._tracks.setdefault(rollout.service, (rollout, track))

    def _tell_of_pushes(self) -> None:
        assert self._exporter is not None
        now_s, now = self._clocks.engine(), self._clocks.wall()
        spans = (self._span(push, now_s, now) for push in self._pushes.take(now_s))
        self._exporter.export(tuple(filter(None, spans)))

    def _span(self, push: Push, now_s: float, now: datetime) -> Span | None:
        known = self._tracks.get(push.cause)
        began, ended = (now - timedelta(seconds=now_s - at_s) for at_s in (push.began_s, push.last_s))
        if known is None or not known[1].stages or began < known[0].started_at:
            return None  # of no rollout: a configuration, or a backend that was drained
        rollout, track = known
        if rollout.state.phase in ENDED and began > rollout.changed_at:
            return None
        return pushed(track, rollout, push, began, ended)

    async def _close(self) -> None:
        assert self._exporter is not None
        with contextlib.suppress(Unavailable):  # a collector that is away must not hold up the end
            await Calls().run(self._exporter.close, GRACE_S)


def opened(*, asked: bool, environment: Mapping[str, str]) -> Export | None:
    """Return what sends spans, None where nobody wants any; it loads OpenTelemetry only then. It may run in a thread.

    Raises InvalidSpec where somebody has asked for traces and the library is not there.
    """
    named = any(environment.get(each) for each in ENDPOINTS)
    off = (
        environment.get("OTEL_SDK_DISABLED", "").lower() == "true" or environment.get("OTEL_TRACES_EXPORTER") == "none"
    )
    if off or not (asked or named):
        return None
    try:
        module: Any = import_module("rollout.traces.otlp")
        exporter: Export = module.Exporter()
    except ImportError as error:
        if asked:
            raise InvalidSpec(f"--traces needs a library that is not here: {_REMEDY}") from error
        structlog.get_logger().warning("no traces, though an endpoint is named", remedy=_REMEDY)
        return None
    except ValueError as error:
        raise InvalidSpec(f"the OTEL_... variables of the environment: {error}") from error
    structlog.get_logger().info("traces are sent")
    return exporter


def _restored(rollout: Rollout, entries: tuple[JournalEntry, ...]) -> Track:
    """Return the track of a rollout as its journal tells it."""
    if not entries:
        return begun(rollout)
    steps = [replace(rollout, state=each.state, changed_at=each.at) for each in entries]
    track = begun(steps[0])
    for before, after in pairwise(steps):
        track, _ = stepped(track, before, after)
    return track
