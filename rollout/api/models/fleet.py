"""What is said of the Envoys and of their configuration."""

from typing_extensions import TypedDict


class Nack(TypedDict):
    """What an Envoy refused, in its own words."""

    code: int
    """The gRPC code."""
    text: str
    """Its words."""
    seconds: float
    """How long ago."""


class TypeStatus(TypedDict):
    """What an Envoy has of one type of resources."""

    acked: str
    """The version that it ACKed last, "" for none."""
    waiting: bool
    """Whether it was sent something that it has not answered."""
    nack: Nack | None
    """What it refused, while that is still what is served."""


class Node(TypedDict):
    """An Envoy that is or was connected."""

    node: str
    """Its node id."""
    cluster: str
    """Its `node.cluster`: the group that it belongs to."""
    location: str
    """`region/zone`, or the part of it that is known, "" for none."""
    address: str
    """Where it connected from."""
    protocol: str
    """How it speaks xDS."""
    envoy: str
    """Its version."""
    connected: bool
    """Whether it is on the line."""
    seconds: float
    """For how long it has been so."""
    stats: str
    """`ok`, or why its stats cannot be read."""
    types: dict[str, TypeStatus]
    """By type of resources (`clusters`, `routes`, ...) what it has."""


class Fleet(TypedDict):
    """A page of the Envoys, by node id."""

    nodes: list[Node]
    """The Envoys."""
    next: str | None
    """The `cursor` of the next page; null on the last one."""


class Reloaded(TypedDict):
    """That envoy-configs was read again and is served."""

    warnings: list[str]
    """What is right, but surely not meant."""
