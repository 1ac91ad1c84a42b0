"""What a rollout is made of: phases and the moves between them, what is served, what is seen, what is asked for."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from types import MappingProxyType
from typing import Annotated

from pydantic import BeforeValidator, PlainSerializer

from rollout.drain import Active, Drain
from rollout.exposure import Match
from rollout.gate import Evidence, Look, Past, Step, Verdict, verdict_from_json, verdict_to_json
from rollout.hooks import Answer

SETTLE_S = 0.1  # after the last ACK: Envoy's workers hear of a change by a posted callback


SavedVerdict = Annotated[
    Verdict,
    PlainSerializer(verdict_to_json),
    BeforeValidator(lambda saved: verdict_from_json(saved) if isinstance(saved, Mapping) else saved),
]

InOrder = PlainSerializer(sorted, when_used="json")
"""A set is written in order, so that the same thing is the same bytes."""


class Phase(StrEnum):
    PENDING = "pending"
    WARMING = "warming"
    SHIFTING = "shifting"
    PAUSED = "paused"
    RETAINING = "retaining"
    ROLLING_BACK = "rolling_back"
    DRAINING = "draining"
    REMOVING = "removing"
    COMPLETED = "completed"
    ROLLED_BACK = "rolled_back"


_FOLLOWING: dict[Phase, tuple[Phase, ...]] = {
    Phase.PENDING: (Phase.WARMING, Phase.PAUSED, Phase.REMOVING),
    Phase.WARMING: (Phase.SHIFTING, Phase.PAUSED, Phase.REMOVING),
    Phase.SHIFTING: (Phase.SHIFTING, Phase.PAUSED, Phase.RETAINING, Phase.ROLLING_BACK),
    Phase.PAUSED: (
        Phase.PENDING,
        Phase.WARMING,
        Phase.SHIFTING,
        Phase.RETAINING,
        Phase.ROLLING_BACK,
        Phase.REMOVING,
    ),
    Phase.RETAINING: (Phase.DRAINING, Phase.ROLLING_BACK),
    Phase.ROLLING_BACK: (Phase.DRAINING, Phase.REMOVING),
    Phase.DRAINING: (Phase.REMOVING,),
    Phase.REMOVING: (Phase.COMPLETED, Phase.ROLLED_BACK),
    Phase.COMPLETED: (),
    Phase.ROLLED_BACK: (),
}
TRANSITIONS: Mapping[Phase, tuple[Phase, ...]] = MappingProxyType(_FOLLOWING)
ENDED = frozenset({Phase.COMPLETED, Phase.ROLLED_BACK})


def diagram() -> str:
    """Draw TRANSITIONS for docs/machine.md."""
    arrows = [f"    {phase} --> {each}" for phase, following in TRANSITIONS.items() for each in following]
    ends = [f"    {phase} --> [*]" for phase in TRANSITIONS if phase in ENDED]
    return "\n".join(["stateDiagram-v2", f"    [*] --> {Phase.PENDING}", *arrows, *ends])


class Role(StrEnum):
    """The two versions of a rollout."""

    STABLE = "stable"
    CANDIDATE = "candidate"

    @property
    def other(self) -> "Role":
        return Role.CANDIDATE if self is Role.STABLE else Role.STABLE


class Command(StrEnum):
    """What an operator may ask of a rollout in progress."""

    PROMOTE = "promote"
    PROMOTE_FULL = "promote_full"
    SKIP_STAGE = "skip_stage"
    APPROVE = "approve"
    REJECT = "reject"
    PAUSE = "pause"
    RESUME = "resume"
    ABORT = "abort"


class Awaited(StrEnum):
    """Who is waited for: who paused it; somebody to decide; an approval; the end of a freeze; a hook."""

    OPERATOR = "operator"
    DECISION = "decision"
    APPROVAL = "approval"
    THAW = "thaw"
    HOOK = "hook"


@dataclass(frozen=True, slots=True)
class Split:
    """What Envoys should be served for a service: the candidate's weight, and which versions are there.

    A version that is not `present` has no cluster; one that is `draining` has all its endpoints DRAINING. `match`: only
    requests that one of these describes go to the candidate. `mirror_bp`: the share of requests that its shadow gets a
    copy of. `preview`: whether the preview header leads to the versions. `by_location` has the candidate's weight where
    it is another one.
    """

    candidate_bp: int
    present: Annotated[frozenset[Role], InOrder]
    draining: Role | None = None
    match: tuple[Match, ...] = ()
    mirror_bp: int = 0
    preview: bool = False
    by_location: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class State:
    """Where a rollout stands. `since_s` is when the phase, or in SHIFTING the stage, began.

    `converged_s`: since when every Envoy has what the phase asks for, None before; of a stage it is the first time,
    which neither an Envoy that restarts nor a pause takes back. `looked_s` stamps the last look that was judged.
    `passed`: the verdict that ended the stage before, None where none did, and from the next look on.
    `resume`: the phase behind a pause, None outside of one. `loser`: the version that goes, None until that is known.
    `reason`: why it is in this phase; from the decision about the loser on, why that was decided. `plan` has the stages
    as they will be, `stage` counts in it; () before that is known. `let_go`: the address of the candidate's backend
    that had all errors and is drained, "" while none is.
    `awaited`: who is waited for, None for nobody but Envoys and evidence, and `waiting` says it in words. `lapsed_s`:
    since when what was ready for a hook's answer is not so any more, None while it is, or never was. `approved`:
    the stage in the plan that a person has agreed to leave, -1 for none. `hurried`: an operator promoted it to 100 %,
    its stages are left without a verdict. `back_bp`: the weight on the way back, where that is gradual. `called` has
    the keys of the hooks that were called and have agreed. `point`: the hook that was called and cannot be undone, ""
    before. `wave` counts the waves from 0, `lanes` has by location how each one stands that has begun. `peers`: how
    many locations share a lane's chance of a false alarm.
    """

    phase: Phase
    since_s: float
    stage: int = 0
    converged_s: float | None = None
    looked_s: float = -1.0
    evidence: Evidence = field(default_factory=Evidence.start)
    verdict: SavedVerdict | None = None
    passed: SavedVerdict | None = None
    reason: str = ""
    resume: Phase | None = None
    loser: Role | None = None
    drain: Drain | None = None
    plan: tuple[Step, ...] = ()
    let_go: str = ""
    awaited: Awaited | None = None
    approved: int = -1
    hurried: bool = False
    back_bp: int = 0
    waiting: str = ""
    lapsed_s: float | None = None
    called: Annotated[frozenset[str], InOrder] = frozenset()
    point: str = ""
    wave: int = -1
    peers: int = 1
    lanes: Mapping[str, "State"] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Seen:
    """One observation of the world, all that a decision may rest on.

    `connected` counts the Envoys on the line, `fleet` also those that were there and are remembered.
    `served` is the split now published, None before the first. `lagging` says why a node does not have it yet;
    `refused` those that NACKed. `unready` says what of the candidate is not healthy through which Envoy, None where
    nobody has looked. `looked_s` stamps `look`, the increments since the look before. `past` is what stable did before,
    where stages are planned by it. `leaving` are the candidate's backends that are let go. `retired`: the loser's
    record is gone. `frozen` says why nothing may advance now, "" when it may. `dead` says that no backend of the
    candidate is healthy while some of stable are, "" when that is not so. `unhealthy` says which version has too few
    healthy backends, "" when none. `missing` are Envoys that stay away for longer than the strategy bears.
    `answers` has by key what hooks said that are wanted now. `locations` are those of the fleet that are in no
    wave yet, `places` has what is seen of each location that is in a wave, or may join one now. `command` is what `by`
    wants of `location` ("": of all), and `why` the reason that it has instead of its own.
    """

    now_s: float
    connected: int
    fleet: int = 0
    served: Split | None = None
    lagging: Mapping[str, str] = field(default_factory=dict)
    refused: Mapping[str, str] = field(default_factory=dict)
    unready: tuple[str, ...] | None = None
    looked_s: float = -1.0
    look: Look | None = None
    past: Past | None = None
    leaving: Annotated[frozenset[str], InOrder] = frozenset()
    active: Active | None = None
    retired: bool = False
    frozen: str = ""
    unhealthy: str = ""
    dead: str = ""
    missing: tuple[str, ...] = ()
    answers: Mapping[str, Answer] = field(default_factory=dict)
    locations: tuple[str, ...] = ()
    places: Mapping[str, "Place"] = field(default_factory=dict)
    command: Command | None = None
    location: str = ""
    by: str = ""
    why: str = ""


@dataclass(frozen=True, slots=True)
class Place:
    """What is seen of one location: of its Envoys only, as in Seen."""

    connected: int
    fleet: int = 0
    lagging: Mapping[str, str] = field(default_factory=dict)
    refused: Mapping[str, str] = field(default_factory=dict)
    missing: tuple[str, ...] = ()
    looked_s: float = -1.0
    look: Look | None = None


@dataclass(frozen=True, slots=True)
class Serve:
    """Publish this split."""

    split: Split


@dataclass(frozen=True, slots=True)
class Retire:
    """Forget the losing version: nothing serves it any more, its backends may stop."""

    role: Role


@dataclass(frozen=True, slots=True)
class LetGo:
    """Drain one backend of the candidate, and go on with the others."""

    address: str


Effect = Serve | Retire | LetGo


def start(now_s: float, reason: str, plan: tuple[Step, ...] = ()) -> State:
    """Return the state of a rollout that was just asked for; `plan` shows what is expected of its stages."""
    return State(Phase.PENDING, now_s, reason=reason, plan=plan)
