"""What a plan is made from and made of: how things stand, what is wished for, and the steps from here to there."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from rollout.declared.documents import ServiceDocument, StrategyDocument
from rollout.discovery.source import Discover
from rollout.exposure import percent
from rollout.record import NamedStrategy, PastVersion, Queued, Rollout
from rollout.spec import Endpoint, Strategy


class Action(StrEnum):
    """What a step does, or why it does nothing."""

    NONE = "none"  # it is so already, or is about to be
    CREATE = "create"
    CHANGE = "change"
    REMOVE = "remove"
    ADOPT = "adopt"  # the first version gets its name
    BACKENDS = "backends"  # some are added, others drained; or found elsewhere from now on
    ROLLOUT = "rollout"
    SUPERSEDE = "supersede"  # what is in progress is taken back, and this comes after it
    HELD = "held"  # it was rolled back, and is not tried again by itself
    WAITS = "waits"  # another rollout is in progress


IDLE = frozenset({Action.NONE, Action.HELD, Action.WAITS})


@dataclass(frozen=True, slots=True)
class Wishes:
    """What else is asked for: to try again what was rolled back, to take back what goes elsewhere, to remove others."""

    retry: bool = False
    supersede: bool = False
    prune: bool = False


@dataclass(frozen=True, slots=True)
class Placed:
    """Where a version runs. Those in `leaving` are drained; `from_files`: envoy-configs says where.

    `located`: the locations are known, too. `discover` finds the endpoints, None where somebody has said them.
    """

    endpoints: tuple[Endpoint, ...]
    leaving: frozenset[str] = frozenset()
    from_files: bool = False
    located: bool = True
    discover: Discover | None = None

    def staying(self) -> tuple[Endpoint, ...]:
        return tuple(each for each in self.endpoints if each.address not in self.leaving)

    def completed(self, wanted: Iterable[Endpoint]) -> tuple[Endpoint, ...]:
        """Return endpoints with the locations that are known of them, where none is given."""
        known = {each.address: each for each in self.endpoints}
        return tuple(each if each.location else known.get(each.address, each) for each in wanted)

    def lacks(self, wanted: Iterable[Endpoint]) -> tuple[Endpoint, ...]:
        """Return those of some endpoints that it does not have, or has elsewhere."""
        known = self.staying()
        if not self.located:
            addresses = {each.address for each in known}
            return tuple(each for each in wanted if each.address not in addresses)
        return tuple(each for each in self.completed(wanted) if each not in known)

    def beyond(self, wanted: Iterable[Endpoint]) -> tuple[str, ...]:
        """Return the addresses that it has beyond some endpoints."""
        addresses = {each.address for each in wanted}
        return tuple(each.address for each in self.staying() if each.address not in addresses)


@dataclass(frozen=True, slots=True)
class Standing:
    """How a service stands: its versions, its newest rollout, and what waits behind that."""

    service: str
    stable: str
    versions: Mapping[str, Placed]
    rollout: Rollout | None = None
    in_progress: bool = False
    queued: Queued | None = None
    past: Mapping[str, PastVersion] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Situation:
    """How all stands that a plan depends on."""

    strategies: Mapping[str, NamedStrategy]
    services: Mapping[str, Standing]


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a document wants of a service, by a strategy, which people know as `label`."""

    document: ServiceDocument
    strategy: Strategy
    label: str

    @property
    def version(self) -> str:
        return self.document.version

    @property
    def endpoints(self) -> tuple[Endpoint, ...] | None:
        return self.document.endpoints

    @property
    def discover(self) -> Discover | None:
        return self.document.discover


@dataclass(frozen=True, slots=True)
class Step:
    """One thing that would be done, or is left as it is; `before` and `after` are plain values.

    `lines` are a strategy's that change. `rollout` is the one that leads to what is wanted, None for none yet.
    `wish` is the document that is carried out, None for what is removed.
    """

    kind: str
    name: str
    action: Action
    words: str
    before: Mapping[str, Any] = field(default_factory=dict)
    after: Mapping[str, Any] = field(default_factory=dict)
    lines: tuple[str, ...] = ()
    rollout: int | None = None
    wish: StrategyDocument | Wanted | None = None

    @property
    def resource(self) -> str:
        return f"{self.kind}/{self.name}"


def stages_words(strategy: Strategy) -> str:
    """Say by which stages traffic moves."""
    weights = [stage.weight_bp for stage in strategy.stages if stage.weight_bp]
    words = f"{', '.join(f'{percent(each)[:-1]}' for each in weights)} %"
    aside = len(strategy.stages) - len(weights)
    words = f"{words}, after {aside} without a weight" if aside else words
    return f"{words}, in {len(strategy.waves)} waves" if strategy.waves else words


def step_view(step: Step) -> dict[str, Any]:
    return {
        "resource": step.resource,
        "action": step.action.value,
        "before": dict(step.before),
        "after": dict(step.after),
        "words": step.words,
        "lines": list(step.lines),
        "rollout": step.rollout,
    }
