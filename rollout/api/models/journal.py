"""What is said of a rollout's past: each saved step, and what was seen before it."""

from collections.abc import Mapping
from typing import Any, Literal

from typing_extensions import TypedDict

from rollout.api.models.rollouts import RolloutSummary, Staged, Verdict
from rollout.api.models.values import Instant
from rollout.hooks import HookKind
from rollout.state import Awaited, Phase


class LocationStep(TypedDict):
    """What has become of a location in one step."""

    location: str
    """`region/zone`, or the part of it that is known."""
    wave: int
    """Its wave, from 0."""
    phase: Phase
    """Where it was."""
    stage: int
    """Its stage, from 0."""
    stages: list[float]
    """The weights as they will be, in percent."""
    weight_percent: float
    """The candidate's wanted share of the traffic there."""
    reason: str
    """Why it is in this phase."""
    waiting: str
    """What is waited for, in words."""
    awaiting: Awaited | None
    """Who is waited for; null: only Envoys and evidence."""
    passed: str | None
    """Why the stage before was passed."""
    waiting_for: dict[str, str]
    """By Envoy why it does not have what is wanted yet."""


class HookAnswer(TypedDict):
    """What a hook said that it had not said before."""

    hook: str
    """Its name."""
    at: HookKind
    """When it is called."""
    agreed: bool
    """Whether it has agreed."""
    words: str
    """What it said."""


class Reading(TypedDict):
    """What a check has measured."""

    check: str
    """Its name."""
    value: float | None
    """The value; null where its source did not answer."""
    fault: str
    """Why there is none."""


class Step(TypedDict):
    """One saved step of a rollout."""

    revision: int
    """Its number; they count from 1."""
    at: Instant
    """When it was saved."""
    phase: Phase
    """Where the rollout was."""
    stage: int
    """The stage, from 0."""
    wave: int
    """The wave, from 0; -1 before the first, and without waves."""
    weight_percent: float
    """The candidate's wanted share of the service's traffic."""
    reason: str
    """Why it is in this phase."""
    verdict: Verdict | None
    """What the gate said."""
    passed: Verdict | None
    """The verdict that ended the stage before."""
    converged: bool
    """Whether every Envoy had what was wanted."""
    waiting_for: dict[str, str]
    """By Envoy why it did not have what was wanted."""
    by: str
    """Who asked for it, "" where nobody did."""
    command: str
    """What was asked for, "" for nothing."""
    awaiting: Awaited | None
    """Who was waited for; null: only Envoys and evidence."""
    waiting: str
    """What was waited for, in words."""
    answers: list[HookAnswer]
    """What hooks said that they had not said before."""
    locations: list[LocationStep]
    """The locations in which something changed."""
    let_go: str
    """The one bad backend that was let go, "" for none."""
    astray: list[str]
    """Envoys that routed otherwise than they had ACKed."""
    readings: list[Reading]
    """What checks had measured."""


class Recording(TypedDict):
    """All that decided a rollout, for `rollout replay`: what is in its parts may change from release to release."""

    format: Literal[1]
    """The format of what follows."""
    service: str
    """The service that it moved."""
    id: int
    """Its number."""
    stable: str
    """The version that it came from."""
    candidate: str
    """The version that it went to."""
    strategy: Mapping[str, Any]
    """Its strategy, with all defaults."""
    entries: list[Mapping[str, Any]]
    """Each saved step: the state, and what was seen before it."""


class Story(RolloutSummary, Staged):
    """A rollout with its journal."""

    journal: list[Step]
    """Each saved step, the oldest first."""
