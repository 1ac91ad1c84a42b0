"""What notifications say of themselves, and what asking for a test takes."""

from typing import NotRequired

from typing_extensions import TypedDict


class Target(TypedDict):
    """Somebody who is told of events."""

    target: str
    """Its name in the file."""
    address: str
    """Where it is, without what may be a secret."""
    delivered_at: str | None
    """When it took a message last; null when it has not since the server started."""
    waiting: int
    """How many events it is still to be told of."""
    fault: str
    """Why it does not take what it is sent; empty while it does."""
    delivered: int
    """How many messages it has taken since the server started."""
    given_up: int
    """How many messages it never got."""


class Targets(TypedDict):
    """All targets, by name."""

    targets: list[Target]
    """The targets."""


class Tested(TypedDict):
    """What became of a test message."""

    target: str
    """The target's name."""
    delivered: bool
    """Whether it has taken the message."""
    fault: str
    """Why it has not; empty when it has."""


class Tests(TypedDict):
    """What became of each test message."""

    targets: list[Tested]
    """The targets that were asked for."""


class Test(TypedDict):
    """Who gets a test message."""

    target: NotRequired[str | None]
    """A target's name; left out: all of them."""
