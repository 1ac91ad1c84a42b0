"""What is said of a service: its versions, its backends, and what was asked for."""

from typing import Literal

from typing_extensions import TypedDict

from rollout.api.models.rollouts import Rollout
from rollout.api.models.values import Instant


class VersionTraffic(TypedDict):
    """A version that is there."""

    version: str
    """Its name."""
    weight_percent: float
    """Its wanted share of the service's traffic."""
    backends: list[str]
    """Its addresses, as HOST:PORT."""


class DrainingBackend(TypedDict):
    """A single backend that is let go, or was."""

    version: str
    """The version that it belongs to."""
    backend: str
    """Its address, as HOST:PORT."""
    running: int | None
    """Requests that still run on it, over all Envoys; null before the first look."""
    idle_looks: int
    """How often in a row nothing was seen to run on it."""
    timed_out: bool
    """Whether the strategy's `drain_timeout` has ended the drain."""
    cut: dict[str, int]
    """By Envoy how many requests still ran then; -1 where it could not be asked."""
    removed: bool
    """Whether no Envoy sends it anything any more: it is safe to stop."""
    leaves: bool
    """Whether it is no backend of its version any more when the drain has ended."""
    running_on: dict[str, int | None]
    """On which Envoys something still runs, the busiest first; null where one cannot be asked."""


class UnhealthyBackend(TypedDict):
    """A backend that the fleet does not use because it is unhealthy."""

    version: str | None
    """The version that it belongs to; null where it belongs to none that is there."""
    backend: str
    """Its address, as HOST:PORT."""
    why: str
    """Who says so, and why."""
    marked_by: str | None
    """The operator who has marked it; null where probes or Envoys find it unhealthy."""
    since: Instant | None
    """Since when it is marked; null where nobody has marked it."""
    used: bool
    """Whether it is used all the same, because no other of its version is healthy."""


class History(TypedDict):
    """What the stable version has done lately; of its requests the older ones count less."""

    requests_per_s: float | None
    """In the whole fleet, over the last minute or so; null in the first seconds."""
    error_share: float | None
    """5xx by requests, a part of 1; null without requests."""
    p50_ms: float | None
    """The median of the latency as Envoys see it."""
    p99_ms: float | None
    """The 99th percentile of the latency as Envoys see it."""
    phi: float
    """The size of the clusters in which errors come; 1 in the first ten minutes, and without stats by endpoint."""
    requests: int
    """How many requests it rests on; those of 30 minutes ago count half."""
    minutes: float
    """How long it has had requests."""


class Queued(TypedDict):
    """The deployment that begins when the rollout in progress has ended."""

    version: str
    """The version's name."""
    backends: list[str]
    """Where it runs, as HOST:PORT."""
    by: str
    """Who asked for it."""
    at: Instant
    """When it was asked for."""
    fault: str | None
    """Why it could not begin; null while nothing is wrong."""


class Service(TypedDict):
    """A service: its stable version, its versions with their backends, and the rollout in progress or the last."""

    service: str
    """Its name: an EDS cluster of envoy-configs."""
    stable: str
    """The version that has its traffic outside a rollout."""
    in_progress: bool
    """Whether a rollout of it goes on."""
    versions: list[VersionTraffic]
    """The versions that are there."""
    drains: list[DrainingBackend]
    """Single backends that are let go, or were."""
    unhealthy: list[UnhealthyBackend]
    """Backends that the fleet does not use."""
    history: History | None
    """What the stable version has done lately; null before anything was heard of it."""
    rollout: Rollout | None
    """The rollout in progress, else the last one; null where there was none."""
    queued: Queued | None
    """The deployment that waits for the end of the rollout in progress."""


class Services(TypedDict):
    """A page of the services, by name."""

    services: list[Service]
    """The services."""
    next: str | None
    """The `cursor` of the next page; null on the last one."""


class Begun(Rollout):
    """The rollout that an operation is about, as it stands now."""

    queued: Queued | None
    """The deployment that waits for its end."""
    unchanged: str | None
    """Why nothing was changed and what to do; null where something was."""


class PresentVersion(VersionTraffic):
    """A version that is there, and what it is."""

    role: Literal["stable", "candidate"]
    """Whether it has the traffic outside a rollout, or is on its way."""
    from_files: bool
    """Whether its endpoints are those of envoy-configs."""
    discovery: str | None
    """The source that finds its backends, in short: `dns checkout.internal`; null where somebody has said them."""


class PastVersion(TypedDict):
    """A version that was let go."""

    version: str
    """Its name."""
    served: bool
    """Whether it was stable once."""
    ended_at: Instant
    """When it was let go."""
    backends: list[str]
    """Where it ran at its end, as HOST:PORT."""
    undo_seconds: int
    """For how long `undo` brings it back without stages; 0 when it needs them."""


class Versions(TypedDict):
    """The versions of a service."""

    service: str
    """The service's name."""
    versions: list[PresentVersion]
    """Those that are there."""
    past: list[PastVersion]
    """A page of those that were, the newest first."""
    next: str | None
    """The `cursor` of the next page of `past`; null on the last one."""


class Operation(TypedDict):
    """What somebody asked for, and what came of it."""

    id: int
    """Its number; a later one is higher."""
    at: Instant
    """When it was asked for."""
    service: str
    """The service that it is about; "" is the whole configuration."""
    verb: str
    """What was asked for."""
    by: str
    """Who asked."""
    detail: str
    """With which words."""
    result: str
    """`done`, `no change`, what came of it, or why it was refused."""


class Operations(TypedDict):
    """A page of what was asked for, the newest first."""

    operations: list[Operation]
    """What was asked for."""
    next: str | None
    """The `cursor` of the next page; null on the last one."""
