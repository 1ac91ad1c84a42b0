"""What is said of a rollout: where it stands, what was measured, and who is waited for."""

from typing import Literal, NotRequired

from typing_extensions import TypedDict

from rollout.api.models.values import Instant
from rollout.gate import VerdictName
from rollout.hooks import HookKind
from rollout.messenger import Progress
from rollout.record import Origin
from rollout.state import Awaited, Phase

Outcome = Literal["completed", "rolled_back", "in_progress"]
"""How a rollout ended, or that it goes on."""
LocationPhase = Phase | Literal["later"]
"""The phase of a location; `later` where its wave has not begun."""


class RolloutSummary(TypedDict):
    """A rollout in one line."""

    service: str
    """The service that it moves."""
    id: int
    """Its number; they count from 1 in each service."""
    stable: str
    """The version that it comes from."""
    candidate: str
    """The version that it goes to."""
    phase: Phase
    """Where it is."""
    outcome: Outcome
    """How it ended, or that it goes on."""
    reason: str
    """Why it is in this phase; from the decision about the loser on, why that was decided."""
    origin: Origin
    """What began it."""
    started_at: Instant
    """When it began."""
    changed_at: Instant
    """When it last changed."""


class Rollouts(TypedDict):
    """A page of rollouts, the newest first."""

    rollouts: list[RolloutSummary]
    """The rollouts."""
    next: str | None
    """The `cursor` of the next page; null on the last one."""


class Stage(TypedDict):
    """A stage as it will be."""

    kind: Literal["weight", "match", "mirror", "preview"]
    """How requests get to the candidate in it; of the next three fields, the one that it needs is not null."""
    weight_percent: float | None
    """The candidate's share of the traffic."""
    mirror_percent: float | None
    """The share of requests that the candidate gets a copy of."""
    match: str | None
    """What a request must have to go to the candidate, in words."""
    hold_seconds: float
    """The least time in it."""
    approve: bool
    """Whether a person must agree that it is left."""


class Staged(TypedDict):
    """The stages of a rollout."""

    stages: list[float]
    """The weights as they will be, in percent; 0 of a stage without one."""
    track: list[Stage]
    """The stages one by one."""
    keep_stable_seconds: float
    """How long the old version stays warm after 100 %."""
    stages_note: str | None
    """Why the weights are not as they are written; null where they are."""


class VerdictReason(TypedDict):
    """What the gate says of a location, in short."""

    verdict: VerdictName
    """What it says."""
    reason: str
    """Why."""


class Verdict(VerdictReason):
    """What the gate says, and on which evidence."""

    numbers: dict[str, float]
    """The numbers behind it; docs/reference.md has their meanings."""
    notes: list[str]
    """What is to be known beside it: Envoys that are astray, what checks on trial would have said."""
    host: NotRequired[str]
    """Of `fail`: the one backend that explains the errors, "" where none does."""


class Location(TypedDict):
    """A location of a rollout in waves."""

    location: str
    """`region/zone`, or the part of it that is known."""
    wave: int | None
    """Its wave, from 0; null where it is in none yet."""
    phase: LocationPhase
    """Where it is."""
    stage: int
    """Its present stage, from 0."""
    stages: list[float]
    """The weights as they will be, in percent."""
    weight_percent: float
    """The candidate's wanted share of the traffic there."""
    envoys: int
    """How many Envoys are connected there."""
    verdict: VerdictReason | None
    """What the gate says of it."""
    waiting_for: dict[str, str]
    """By Envoy why it does not have what is wanted yet."""
    waiting: str
    """What is waited for, in words."""
    awaiting: Awaited | None
    """Who is waited for; null: only Envoys and evidence."""
    reason: str
    """Why it is in this phase."""


class Waving(TypedDict):
    """The waves of a rollout; all empty where it has none."""

    waves: list[str]
    """The waves in words."""
    wave: int | None
    """The present one, from 0."""
    locations: list[Location]
    """The locations, the worst first."""


class Counts(TypedDict):
    """What one version did."""

    requests: int
    """Its requests."""
    errors: int
    """Those that failed, by what the strategy's gate calls an error."""
    error_share: float | None
    """Errors by requests, a part of 1."""
    p50_ms: float | None
    """The median of its latency."""
    p99_ms: float | None
    """The 99th percentile of its latency."""


class EnvoySplit(TypedDict):
    """How one Envoy splits its requests."""

    node: str
    """Its node id."""
    weight_percent: float
    """The candidate's share of what it sent."""
    acked_percent: float
    """The weight that it has ACKed."""
    requests: int
    """How many it sent."""
    astray: bool
    """Whether it routes otherwise than it has ACKed."""


class Measured(TypedDict):
    """What the last look saw."""

    weight_percent: float
    """The candidate's share of the requests."""
    stable: Counts
    """What the old version did."""
    candidate: Counts
    """What the new version did."""
    envoys: list[EnvoySplit]
    """Those farthest from what they have ACKed."""


class HookReport(TypedDict):
    """What became of a hook so far."""

    name: str
    """Its name."""
    at: HookKind
    """When it is called."""
    state: Progress
    """Where its calls stand."""
    words: str
    """Why it did not agree last."""
    attempts: int
    """How often it was tried since this server started."""


class Drain(TypedDict):
    """How the version that goes is let go."""

    version: str
    """The version that goes."""
    running_on: dict[str, int | None]
    """On which Envoys something still runs, the busiest first; null where one cannot be asked."""
    running: int | None
    """Requests that still run on it, over all Envoys; null before the first look."""
    idle_looks: int
    """How often in a row nothing was seen to run on it."""
    timed_out: bool
    """Whether the strategy's `drain_timeout` has ended the drain."""
    cut: dict[str, int]
    """By Envoy how many requests still ran then; -1 where it could not be asked."""
    still_used: dict[str, list[str]]
    """By address which other versions run there."""
    safe_to_stop: bool
    """Whether its backends may be stopped."""


class Rollout(RolloutSummary, Staged, Waving):
    """A rollout as it stands."""

    in_progress: bool
    """Whether it goes on."""
    phase_seconds: float
    """For how long it has been in this phase."""
    stage: int
    """The present stage, from 0."""
    weight_percent: float
    """The candidate's wanted share of the service's traffic."""
    measured: Measured | None
    """What the last look saw while traffic is shifted, else null."""
    verdict: Verdict | None
    """What the gate says; in waves the worst of the locations that move."""
    waiting_for: dict[str, str]
    """By Envoy why it does not have what is wanted yet; also `the candidate` that is not healthy, `the disk`."""
    resume: Phase | None
    """In a pause the phase behind it."""
    awaiting: Awaited | None
    """Who is waited for; null: only Envoys and evidence."""
    waiting: str
    """What is waited for, in words."""
    approved: bool
    """Whether somebody has agreed that the present stage is left."""
    point_of_no_return: str
    """The hook that has run and cannot be undone, "" before."""
    hooks: list[HookReport]
    """Its hooks, while it goes on."""
    loser: str | None
    """The version that goes, null before that is decided."""
    drain: Drain | None
    """The drain of the version that goes; null before it begins."""
