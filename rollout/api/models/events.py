"""What is said of what happens: events, services at a glance, points of charts, the audit log."""

from typing import Any

from typing_extensions import TypedDict

from rollout.api.models.values import Instant
from rollout.gate.verdict import VerdictName
from rollout.happenings import EventKind, Severity
from rollout.state import Awaited, Phase


class Event(TypedDict):
    """One thing that has happened."""

    id: int
    """Its number: it counts up over all events, and none is given twice."""
    at: Instant
    """When."""
    kind: EventKind
    """What has happened."""
    severity: Severity
    """How much it matters."""
    service: str
    """The service that it is about, "" for the whole fleet."""
    rollout: int | None
    """The rollout that it is about; null for none."""
    text: str
    """It in one sentence, for people."""
    detail: dict[str, Any]
    """Its numbers and names, for programs."""


class Reset(TypedDict):
    """That some of what was asked for is gone."""

    oldest: int
    """The oldest event that is kept: what was known before should be read anew."""


class Events(TypedDict):
    """Events in the order in which they happened."""

    events: list[Event]
    """The events."""
    next: int
    """The `after` that goes on from here, though nothing before it may have been wanted."""
    reset: Reset | None
    """That events after `after` are gone; null where all are here."""


class Glance(TypedDict):
    """A service at a glance, with its rollout in progress or the last one; what only a rollout has is null without."""

    service: str
    """Its name."""
    stable: str
    """Its stable version."""
    rollout: int | None
    """The rollout's number."""
    candidate: str | None
    """The version that the rollout goes to."""
    in_progress: bool
    """Whether it goes on."""
    phase: Phase | None
    """Where the rollout is."""
    outcome: str | None
    """`completed`, `rolled_back` or `in_progress`."""
    stage: int | None
    """Its stage, from 0."""
    stages: list[float]
    """The weights as they will be, in percent; empty without a rollout."""
    weight_percent: float | None
    """The candidate's wanted share of the traffic."""
    verdict: VerdictName | None
    """What the gate says."""
    reason: str
    """Why it is in this phase, "" without a rollout."""
    waiting: str
    """What is waited for, in words."""
    awaiting: Awaited | None
    """Who is waited for; null: only Envoys and evidence."""
    unhealthy: int
    """How many of its backends are unhealthy."""
    draining: int
    """How many single backends are being let go."""
    changed_at: Instant | None
    """When the rollout changed last."""


class Overview(TypedDict):
    """All services at a glance."""

    services: list[Glance]
    """The services by name."""


class Sides(TypedDict):
    """What one version did, column by column; null where it had no requests to tell it by."""

    requests: list[int]
    """Its requests in the seconds of each point."""
    error_share: list[float | None]
    """Errors by requests, a part of 1."""
    p50_ms: list[float | None]
    """The median of its latency."""
    p99_ms: list[float | None]
    """The 99th percentile of its latency."""


class Points(TypedDict):
    """A rollout over time, in columns of equal length: a point each second, of what is long ago rarer."""

    at: list[float]
    """The time of each point, in seconds since 1970."""
    seconds: list[float]
    """How many seconds before it were measured."""
    wanted_percent: list[float]
    """The candidate's wanted share of the traffic."""
    measured_percent: list[float | None]
    """Its share of the requests; null where there were none."""
    stable: Sides
    """The old version."""
    candidate: Sides
    """The new version."""


class AuditRow(TypedDict):
    """One row of the audit log."""

    id: int
    """Its number, from 1, without gaps."""
    at: Instant
    """When it was asked for."""
    service: str
    """The service, "" for what concerns the whole fleet."""
    verb: str
    """What was asked for."""
    who: str
    """Who asked."""
    origin: str
    """How they have shown who they are, and from where they asked."""
    detail: str
    """What it was about."""
    result: str
    """What came of it, or why it was refused."""
    hash: str
    """SHA-256 of the hash before and this row."""


class Audit(TypedDict):
    """A page of the audit log, the newest row first."""

    rows: list[AuditRow]
    """The rows."""
    head: str
    """The hash of the newest row of all: noted elsewhere, it shows later that nothing was cut off."""
    next: str | None
    """The `cursor` of the next page; null on the last one."""


class Broken(TypedDict):
    """Where the chain of the audit log is broken."""

    row: int
    """The first row that is wrong, or missing."""
    why: str
    """What is wrong with it."""


class AuditVerified(TypedDict):
    """What came of going through the whole audit log."""

    rows: int
    """How many rows are right, from the first one on."""
    head: str
    """The hash of the last row that is right."""
    broken: Broken | None
    """The first row that is wrong; null where all are right."""
