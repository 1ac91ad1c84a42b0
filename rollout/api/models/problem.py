"""What is answered when something is refused, and by the probes."""

from typing import Literal

from typing_extensions import TypedDict


class Problem(TypedDict):
    """Why something was refused (RFC 9457), as `application/problem+json`."""

    type: str
    """`about:blank`: the status says what kind of problem it is."""
    title: str
    """The kind of problem in a few words."""
    status: int
    """The HTTP status."""
    detail: str
    """What is wrong, where, and what to do."""


class Status(TypedDict):
    """That the server runs."""

    status: Literal["ok"]
    """That it is so."""


class Ready(TypedDict):
    """That a configuration is served."""

    status: Literal["ok"]
    """That it is so."""
    snapshot: str
    """The version of what is served: a hash of its content."""
    saving: bool
    """Whether the disk takes what is to be saved. While it does not, Envoys are served, but nothing goes forward."""
