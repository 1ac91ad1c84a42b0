"""What is said of the configuration that is served."""

from collections.abc import Mapping
from typing import Any

from typing_extensions import TypedDict


class ConfigFile(TypedDict):
    """A file of envoy-configs."""

    path: str
    """Where it is."""
    group: str
    """The `node.cluster` that it is for, "" for all Envoys."""
    resources: Mapping[str, int]
    """How many resources it has, by type."""


class ConfigProblem(TypedDict):
    """One thing that is wrong."""

    where: str
    """File, resource and field; "" where it is about all of it."""
    what: str
    """What is wrong, and what to do."""


class RefusedConfig(TypedDict):
    """A change of envoy-configs that is not served."""

    at: str
    """When it was read."""
    by: str
    """Who had it read: a name, or SIGHUP."""
    problems: list[ConfigProblem]
    """All that is wrong with it."""


class ServedConfig(TypedDict):
    """The configuration that is served, and the last one that was refused."""

    snapshot: str
    """The version of what is served to most Envoys: a hash of its content."""
    loaded_at: str | None
    """When envoy-configs was read last, and taken."""
    files: list[ConfigFile]
    """The files that were read."""
    last_refused: RefusedConfig | None
    """The last change that was refused since the server started, whatever was served since."""
    warnings: list[str]
    """What was remarked of what is served."""


class ServedResource(TypedDict):
    """One resource as it is served."""

    type: str
    """Its type, as its list in envoy-configs."""
    name: str
    """Its name."""
    version: str
    """A hash of its content: what Envoys ACK."""
    groups: list[str]
    """To whom it is served so: by `node.cluster`, with `@region/zone` where a place has weights of its own; "" for all
    others."""
    resource: Mapping[str, Any] | None
    """What it holds, in Envoy's words and without its secrets; null where `contents` was not asked for."""


class ServedResources(TypedDict):
    """Resources as they are served."""

    resources: list[ServedResource]
    """In the order of types and names."""
    next: str | None
    """The cursor of the next page, null on the last."""
