"""What happens that people and programs want to hear of: events, which are saved in one order with what caused them."""

from collections.abc import Mapping
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
