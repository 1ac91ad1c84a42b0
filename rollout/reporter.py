"""What the server tells by itself: Envoys that come, go and refuse, configurations, its own start."""

import asyncio
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any

from rollout.commotion import Commotion, of_node
from rollout.happenings import Event, EventKind, Severity
from rollout.record import PutEvent
from rollout.saver import Saver, Saving

TICK_S = 1.0
UNSAVED_LIMIT = 500  # events that wait for the disk; beyond, they are only in the log
TEXT_LIMIT = 1_000
WARNINGS_TOLD = 10


class Reporter:
    """Makes events and has them saved; nothing waits for that."""

    def __init__(self, saver: Saver, clock: Callable[[], float], wall: Callable[[], datetime]) -> None:
        self._saver = saver
        self._clock = clock
        self._wall = wall
        self._commotion = Commotion()

    async def run(self) -> None:
        """Tell of storms, until cancelled."""
        while True:
            await asyncio.sleep(TICK_S)
            self._tell(*self._commotion.due(self._wall(), self._clock()))

    def joined(self, node: str, location: str) -> None:
        self._of_node(of_node(EventKind.PROXY_CONNECTED, node, self._wall(), location=location))

    def left(self, node: str) -> None:
        self._of_node(of_node(EventKind.PROXY_DISCONNECTED, node, self._wall()))

    def refused(self, node: str, type_: str, reason: str) -> None:
        self._of_node(of_node(EventKind.PROXY_NACK, node, self._wall(), type=type_, reason=reason))

    def started(self, snapshot: str) -> None:
        what = f"the server has started, and serves snapshot {snapshot}"
        self._fleet(EventKind.SERVER_STARTED, Severity.NOTICE, what, {"snapshot": snapshot})

    def loaded(self, snapshot: str, by: str, warnings: Sequence[str]) -> None:
        more = f", with {len(warnings)} warning{'' if len(warnings) == 1 else 's'}" if warnings else ""
        what = f"{by} had envoy-configs read again: snapshot {snapshot} is served{more}"
        told = [each[:TEXT_LIMIT] for each in warnings[:WARNINGS_TOLD]]
        detail = {"snapshot": snapshot, "by": by, "warnings": told}
        self._fleet(EventKind.CONFIG_LOADED, Severity.NOTICE, what, detail)

    def config_refused(self, by: str, reason: str) -> None:
        what = f"envoy-configs is refused, and the last good one is served ({by} had it read again): {reason}"
        detail = {"by": by, "reason": reason[:TEXT_LIMIT]}
        self._fleet(EventKind.CONFIG_REFUSED, Severity.WARNING, what, detail)

    def _of_node(self, event: Event) -> None:
        self._tell(*self._commotion.happened(event, self._clock()))

    def _fleet(self, kind: EventKind, severity: Severity, text: str, detail: dict[str, Any]) -> None:
        self._tell(Event(self._wall(), kind, severity, "", None, text[:TEXT_LIMIT], detail))

    def _tell(self, *events: Event) -> None:
        if events and self._saver.unsaved("") < UNSAVED_LIMIT:
            self._saver.put(Saving(tuple(map(PutEvent, events))))
