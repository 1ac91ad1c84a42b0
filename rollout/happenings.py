"""What happens that people and programs want to hear of: events, which are saved in one order with what caused them."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any


class Severity(StrEnum):
    """How much an event matters, the least first."""

    INFO = "info"
    NOTICE = "notice"
    WARNING = "warning"
    CRITICAL = "critical"

    def covers(self, least: "Severity") -> bool:
        """Say whether this matters at least as much."""
        order = tuple(Severity)
        return order.index(self) >= order.index(least)


class EventKind(StrEnum):
    """What has happened."""

    ROLLOUT_STARTED = "rollout.started"
    ROLLOUT_PHASE = "rollout.phase"  # any phase that has no kind of its own below
    ROLLOUT_STAGE = "rollout.stage"  # it has gone to the next stage
    ROLLOUT_PAUSED = "rollout.paused"
    ROLLOUT_AWAITING = "rollout.awaiting"  # somebody is asked to approve
    ROLLOUT_VERDICT = "rollout.verdict"  # the gate says something else than before
    ROLLOUT_LOCATION = "rollout.location"  # a location of a wave has moved
    ROLLING_BACK = "rollout.rolling_back"
    ROLLED_BACK = "rollout.rolled_back"
    COMPLETED = "rollout.completed"
    OPERATION = "operation"  # somebody has asked for something, and got it or not
    BACKEND_DRAINING = "backend.draining"
    BACKEND_REMOVED = "backend.removed"
    PROXY_CONNECTED = "proxy.connected"
    PROXY_DISCONNECTED = "proxy.disconnected"
    PROXY_NACK = "proxy.nack"
    DISCOVERY_STALE = "discovery.stale"  # a source of backends is not followed now
    DISCOVERY_FRESH = "discovery.fresh"  # and is again
    CONFIG_LOADED = "config.loaded"
    CONFIG_REFUSED = "config.refused"
    SERVER_STARTED = "server.started"


@dataclass(frozen=True, slots=True)
class Event:
    """One thing that has happened. `service` "" is the whole fleet, `rollout` None no rollout.

    `id` counts up over all events, for ever; it is 0 until the event is saved. `detail` is JSON.
    """

    at: datetime
    kind: EventKind
    severity: Severity
    service: str
    rollout: int | None
    text: str
    detail: Mapping[str, Any] = field(default_factory=dict)
    id: int = 0


def everything(_service: str) -> bool:
    """Say that any service is wanted."""
    return True


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which events somebody wants: of these services and kinds, () for all, and at least this severe.

    `sees` says whether they may know of a service; what concerns the whole fleet everybody may.
    """

    services: tuple[str, ...] = ()
    kinds: tuple[EventKind, ...] = ()
    least: Severity = Severity.INFO
    sees: Callable[[str], bool] = everything

    def takes(self, event: Event) -> bool:
        """Say whether an event is one of those."""
        return (
            (not self.services or event.service in self.services)
            and (not self.kinds or event.kind in self.kinds)
            and event.severity.covers(self.least)
            and (not event.service or self.sees(event.service))
        )
