"""Strategies by name, and documents of what shall be."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal, NotRequired

from pydantic import Field, WithJsonSchema
from typing_extensions import TypedDict

from rollout.api.models.bodies import Strategy
from rollout.api.models.values import Instant

Document = Annotated[Mapping[str, Any], WithJsonSchema({"type": "object", "additionalProperties": True})]
"""As in a file: `kind: strategy` or `kind: service`."""


class NamedStrategy(TypedDict):
    """A strategy that deployments may name."""

    name: str
    """Its name."""
    revision: int
    """How many times it was changed, from 1 on."""
    by: str
    """Who changed it last."""
    at: Instant
    """When that was."""
    strategy: Document
    """As it was written; what may be a secret is shown as `[redacted]`, and taken back so, too."""
    stages: list[float]
    """The weights of its stages, in percent; 0 for one without a weight."""
    warnings: list[str]
    """What is allowed in it but unwise."""


class NamedStrategies(TypedDict):
    """A page of the strategies, by name."""

    strategies: list[NamedStrategy]
    """The strategies."""
    next: str | None
    """The `cursor` of the next page; null on the last one."""


class StrategyBody(TypedDict):
    """What a strategy shall be from now on."""

    strategy: Strategy
    """As in a strategy's file."""


class RemovedStrategy(TypedDict):
    """Which strategy is gone."""

    name: str
    """Its name."""


class Documents(TypedDict):
    """Documents of what shall be, and how far one may go for it."""

    documents: list[Document]
    """Strategies and services, each name once."""
    retry: NotRequired[bool]
    """Whether a version that was rolled back is tried again."""
    supersede: NotRequired[bool]
    """Whether a rollout in progress to another version is taken back for it."""
    prune: NotRequired[bool]
    """Whether strategies go that no document names, and no rollout in progress goes by."""


class Appliance(Documents):
    """Documents to apply."""

    fingerprint: NotRequired[Annotated[str, Field(max_length=64)] | None]
    """That of a plan: nothing is done where another one would be made now."""


class PlanStep(TypedDict):
    """One thing that is done, or is left as it is."""

    resource: str
    """`strategy/NAME` or `service/NAME`."""
    action: Literal["none", "create", "change", "remove", "adopt", "backends", "rollout", "supersede", "held", "waits"]
    """What is done. `none`: it is so already; `held`: it was rolled back; `waits`: another rollout is in progress."""
    before: Document
    """How it is now."""
    after: Document
    """How it shall be."""
    words: str
    """The same in a sentence, with the reason."""
    lines: list[str]
    """The lines of a strategy that go and come."""
    rollout: int | None
    """The rollout in progress that leads there; null for none."""


class Plan(TypedDict):
    """What is done to have all as documents say."""

    steps: list[PlanStep]
    """Strategies first, then services, in the order of the documents."""
    changes: int
    """How many of the steps change something."""
    warnings: list[str]
    """What is allowed in the documents but unwise."""
    fingerprint: str
    """Equal for equal documents and options in the same state."""


class Export(TypedDict):
    """How all stands, as documents."""

    documents: list[Document]
    """Strategies, then services; secrets are left out."""
