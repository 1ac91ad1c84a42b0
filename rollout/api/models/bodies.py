"""What changes take."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal, NotRequired

from pydantic import Field, WithJsonSchema
from typing_extensions import TypedDict

from rollout.discovery.source import Discover

EndpointText = Annotated[
    str, Field(pattern=r"^[^@\s]+:[0-9]{1,9}(@[^/\s]+(/\S+)?)?$", examples=["10.0.0.5:8080@eu/eu-1"])
]
"""A backend: `HOST:PORT`, with its location as `HOST:PORT@region/zone`; HOST is an IP address, an IPv6 one in []."""
Address = Annotated[str, Field(pattern=r"^[^@\s]+:[0-9]{1,9}(@[^/\s]+(/\S+)?)?$", examples=["10.0.0.5:8080"])]
VersionName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$", examples=["v2"])]
StrategyName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$", examples=["careful"])]
Strategy = Annotated[Mapping[str, Any], WithJsonSchema({"x-part": "StrategySpec"})]
"""As in a strategy's file. Its schema is not made from a model alone, so the document puts it in by its name."""


class Nothing(TypedDict):
    """An empty object: nothing needs to be said."""


class Deployment(TypedDict):
    """A wish: move the service's traffic to this version."""

    version: VersionName
    """The version's name, which no other version of the service has."""
    endpoints: NotRequired[list[EndpointText]]
    """Where it runs; may be left out where a `provision` hook of the strategy says it."""
    discover: NotRequired[Discover]
    """Where it is found, in place of `endpoints`: what is named there now is taken in, and then followed."""
    strategy: NotRequired[Strategy | StrategyName]
    """How it goes, or the name of a strategy; left out: stages of 1, 10, 50 and 100 %."""
    supersede: NotRequired[bool]
    """Whether the rollout in progress is taken back for it; without, there must be none."""
    service: NotRequired[str]
    """The service that the path names; best left out."""


class Undo(TypedDict):
    """Where to go back to; an empty object goes back to what was before."""

    to: NotRequired[VersionName | None]
    """A version that was stable once; left out: the last one."""
    endpoints: NotRequired[list[EndpointText] | None]
    """Where it runs now; left out: where it ran."""


class Command(TypedDict):
    """Which part of the rollout a command is for."""

    location: NotRequired[str | None]
    """One location of a rollout in waves, as `region/zone`; left out: all of it."""
    stage: NotRequired[Annotated[int, Field(ge=0)] | None]
    """To promote, skip or approve only this stage, as `stage` of the rollout says; left out: whichever it is in."""


class Drained(TypedDict):
    """What is let go, or taken back: a single backend, or all of the service's in a location. One of both."""

    backend: NotRequired[Address | None]
    """The backend's address."""
    location: NotRequired[str | None]
    """The location as `region/zone`, or a region, or a zone."""


class Mark(TypedDict):
    """What somebody knows of a backend's health."""

    backend: Address
    """The backend's address."""
    health: Literal["healthy", "unhealthy"]
    """`unhealthy` has the whole fleet not use it, `healthy` ends that."""
    reason: NotRequired[str | None]
    """Why, for others."""


class Adoption(TypedDict):
    """How the version is called that envoy-configs' endpoints are."""

    version: VersionName
    """Its name from now on."""


class Endpoints(TypedDict):
    """The endpoints that a version is to have, just these."""

    endpoints: Annotated[list[EndpointText], Field(min_length=1)]
    """All of them."""


class Scaling(TypedDict):
    """Endpoints that come and go; one of both at least."""

    add: NotRequired[list[EndpointText] | None]
    """Those that come."""
    remove: NotRequired[list[Address] | None]
    """Those that go, once nothing runs on them any more."""
