"""What is remembered: services, versions, rollouts and their journal; states and observations as JSON."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from enum import StrEnum
from functools import cache

from pydantic import TypeAdapter

from rollout.answered import AnswerChange, Answered
from rollout.concealed import WITH_SECRETS
from rollout.credentials import CredentialChange, Session, Token
from rollout.cursors import CursorChange
from rollout.discovery.kept import Discovery
from rollout.drain import Drain
from rollout.happenings import Event
from rollout.history import History
from rollout.points import Point
from rollout.spec import Endpoint, Strategy
from rollout.state import Seen, State

KEPT_VERSIONS = 20  # of each service, those that ended last
KEPT_OPERATIONS = 1000  # of each service, the newest


class Origin(StrEnum):
    """What began a rollout."""

    DEPLOY = "deploy"
    UNDO = "undo"
    RETRY = "retry"


@dataclass(frozen=True, slots=True)
class Version:
    """A version of a service. `endpoints` None: those that envoy-configs gives the service, whatever they are now.

    `discovery` says where they are found, None where somebody says them.
    """

    service: str
    name: str
    endpoints: tuple[Endpoint, ...] | None
    discovery: Discovery | None = None


@dataclass(frozen=True, slots=True)
class Service:
    """A service that has been touched; `stable` is the version that has its traffic outside a rollout."""

    name: str
    stable: str


@dataclass(frozen=True, slots=True)
class Rollout:
    """One rollout. `id` counts from 1 in each service; `revision` counts its saved states."""

    service: str
    id: int
    stable: str
    candidate: str
    strategy: Strategy
    state: State
    revision: int
    started_at: datetime
    changed_at: datetime
    origin: Origin = Origin.DEPLOY


@dataclass(frozen=True, slots=True)
class Queued:
    """A deployment that begins when the rollout in progress has ended; `fault` says why it could not, "" before."""

    version: Version
    strategy: Strategy
    by: str
    at: datetime
    fault: str = ""


@dataclass(frozen=True, slots=True)
class NamedStrategy:
    """A strategy that deployments may name: `text` is the JSON of what a user wrote, `revision` counts its changes."""

    name: str
    text: str
    by: str
    at: datetime
    revision: int = 1


@dataclass(frozen=True, slots=True)
class Ended:
    """When something ended: by the engine's clock, and for people."""

    engine_s: float
    at: datetime


@dataclass(frozen=True, slots=True)
class PastVersion:
    """A version that was let go: `addresses` are its backends at the end, `endpoints` and `discovery` as in Version.

    `strategy` is that of its last rollout. `served`: it was stable once.
    """

    service: str
    name: str
    endpoints: tuple[Endpoint, ...] | None
    addresses: tuple[str, ...]
    strategy: Strategy
    served: bool
    ended: Ended
    discovery: Discovery | None = None


@dataclass(frozen=True, slots=True)
class Operation:
    """What somebody asked for, and what came of it; `service` "" is the whole fleet's configuration.

    `origin` is how they asked and from where, as Asker has it; only the audit log keeps it. `id` is its number in
    the store, 0 before it is there.
    """

    at: datetime
    service: str
    verb: str
    by: str
    detail: str
    result: str
    origin: str = ""
    id: int = field(default=0, compare=False)


@dataclass(frozen=True, slots=True)
class Backend:
    """A single backend that is let go, or was (`removed`): its address within a version.

    One that `leaves` is no backend of its version any more when it is let go.
    """

    service: str
    version: str
    address: str
    drain: Drain
    removed: bool = False
    leaves: bool = False


@dataclass(frozen=True, slots=True)
class Mark:
    """A backend that somebody has found unhealthy: who, since when and why. No Envoy sends it anything new."""

    service: str
    address: str
    by: str
    at: datetime
    reason: str = ""


@dataclass(frozen=True, slots=True)
class VersionHistory:
    """What a version of a service has done."""

    service: str
    version: str
    history: History


@dataclass(frozen=True, slots=True)
class JournalEntry:
    """One saved step: the state, and the observation that led to it (None for the first).

    The state comes back from a store without its evidence, which the observations give again when they are replayed.
    """

    revision: int
    at: datetime
    state: State
    because: Seen | None


@dataclass(frozen=True, slots=True)
class TakenBack:
    """A rollout that was taken back in this revision, which may not have been saved; `reason` is why."""

    service: str
    id: int
    revision: int
    reason: str


@dataclass(frozen=True, slots=True)
class Contents:
    """All that a server needs to go on where it was. `engine_s` is the engine's clock at the last save.

    `taken_back` are the rollouts that Envoys have back already, though that could not be saved. `ill` has by service
    the addresses of backends that Envoys were told not to use, whether that is so still or not.
    `cursors` has by name the id of the last event that somebody was told of.
    """

    engine_s: float
    services: tuple[Service, ...]
    versions: tuple[Version, ...]
    rollouts: tuple[Rollout, ...]
    backends: tuple[Backend, ...]
    nodes: tuple[str, ...]
    histories: tuple[VersionHistory, ...] = ()
    marks: tuple[Mark, ...] = ()
    queued: tuple[Queued, ...] = ()
    past: tuple[PastVersion, ...] = ()
    strategies: tuple[NamedStrategy, ...] = ()
    tokens: tuple[Token, ...] = ()
    sessions: tuple[Session, ...] = ()
    answers: tuple[Answered, ...] = ()
    cursors: Mapping[str, int] = field(default_factory=dict)
    taken_back: tuple[TakenBack, ...] = ()
    ill: Mapping[str, frozenset[str]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class PutService:
    service: Service


@dataclass(frozen=True, slots=True)
class PutVersion:
    version: Version


@dataclass(frozen=True, slots=True)
class DropVersion:
    """Forget a version, the drains of its backends and its history."""

    service: str
    name: str


@dataclass(frozen=True, slots=True)
class PutRollout:
    """Save a rollout's next state. `rollout.revision` must be the saved one plus 1 (1 for a new rollout)."""

    rollout: Rollout
    because: Seen | None


@dataclass(frozen=True, slots=True)
class PutBackend:
    backend: Backend


@dataclass(frozen=True, slots=True)
class DropBackend:
    """Forget that a backend was let go."""

    service: str
    version: str
    address: str


@dataclass(frozen=True, slots=True)
class PutQueued:
    """Queue a deployment, in place of the one that its service may have in the queue."""

    queued: Queued


@dataclass(frozen=True, slots=True)
class DropQueued:
    service: str


@dataclass(frozen=True, slots=True)
class PutStrategy:
    strategy: NamedStrategy


@dataclass(frozen=True, slots=True)
class DropStrategy:
    name: str


@dataclass(frozen=True, slots=True)
class PutPast:
    """Remember a version that was let go, and forget those beyond KEPT_VERSIONS."""

    past: PastVersion


@dataclass(frozen=True, slots=True)
class DropPast:
    service: str
    name: str


@dataclass(frozen=True, slots=True)
class PutOperation:
    """Note an operation, also in the audit log, and forget those beyond KEPT_OPERATIONS; `event` tells of it."""

    operation: Operation
    event: Event | None = None


@dataclass(frozen=True, slots=True)
class PutAudit:
    """Note an operation in the audit log alone: what anybody may do so often that it would push others out."""

    operation: Operation


@dataclass(frozen=True, slots=True)
class PutEvent:
    """Save what has happened. It gets its id then, the next of all."""

    event: Event


@dataclass(frozen=True, slots=True)
class PutPoints:
    """Add points to a rollout's charts; older ones become rarer where there are more than POINTS_LIMIT."""

    service: str
    rollout: int
    points: tuple[Point, ...]


@dataclass(frozen=True, slots=True)
class PutMark:
    mark: Mark


@dataclass(frozen=True, slots=True)
class DropMark:
    service: str
    address: str


@dataclass(frozen=True, slots=True)
class PutIll:
    """Replace the addresses of a service's backends that were found unhealthy."""

    service: str
    addresses: frozenset[str]


@dataclass(frozen=True, slots=True)
class PutNodes:
    """Replace the ids of the nodes that belong to the fleet."""

    ids: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class PutHistory:
    history: VersionHistory


Change = (
    PutService
    | PutVersion
    | DropVersion
    | PutRollout
    | PutBackend
    | DropBackend
    | PutMark
    | DropMark
    | PutIll
    | PutQueued
    | DropQueued
    | PutPast
    | DropPast
    | PutStrategy
    | DropStrategy
    | PutOperation
    | PutAudit
    | PutEvent
    | PutPoints
    | PutNodes
    | PutHistory
    | CredentialChange
    | AnswerChange
    | CursorChange
)


@cache
def _states() -> TypeAdapter[State]:
    return TypeAdapter(State)


@cache
def _observations() -> TypeAdapter[Seen]:
    return TypeAdapter(Seen)


@cache
def _endpoints() -> TypeAdapter[tuple[Endpoint, ...]]:
    return TypeAdapter(tuple[Endpoint, ...])


@cache
def _histories() -> TypeAdapter[History]:
    return TypeAdapter(History)


@cache
def _drains() -> TypeAdapter[Drain]:
    return TypeAdapter(Drain)


def dump_state(state: State) -> str:
    return _states().dump_json(state).decode()


def dump_step(state: State) -> str:
    """Without its evidence, the largest part, and of locations without the numbers of verdicts: a journal grows by a
    step at each look, and there may be hundreds of locations.
    """
    short = replace(state, lanes={location: _shortened(lane) for location, lane in state.lanes.items()})
    return _states().dump_json(short, exclude={"evidence": True, "lanes": {"__all__": {"evidence"}}}).decode()


def _shortened(lane: State) -> State:
    verdict = None if lane.verdict is None else replace(lane.verdict, numbers={})
    return replace(lane, verdict=verdict, passed=None if lane.passed is None else replace(lane.passed, numbers={}))


def load_state(text: str) -> State:
    return _states().validate_json(text)


def dump_seen(seen: Seen) -> str:
    return _observations().dump_json(seen).decode()


def load_seen(text: str) -> Seen:
    return _observations().validate_json(text)


def dump_endpoints(endpoints: tuple[Endpoint, ...]) -> str:
    return _endpoints().dump_json(endpoints).decode()


def load_endpoints(text: str) -> tuple[Endpoint, ...]:
    return _endpoints().validate_json(text)


def dump_drain(drain: Drain) -> str:
    return _drains().dump_json(drain).decode()


def load_drain(text: str) -> Drain:
    return _drains().validate_json(text)


def dump_history(history: History) -> str:
    return _histories().dump_json(history).decode()


def load_history(text: str) -> History:
    return _histories().validate_json(text)


def dump_strategy(strategy: Strategy) -> str:
    return strategy.model_dump_json(by_alias=True, context=WITH_SECRETS)


def load_strategy(text: str) -> Strategy:
    return Strategy.model_validate_json(text)
