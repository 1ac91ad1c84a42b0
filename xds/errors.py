"""What can go wrong in the control plane.

XdsError
├── InvalidConfig    the user's fault: one or more Problems, each with where, what, and what to do
├── InvalidRequest   a client broke the protocol; its stream ends with INVALID_ARGUMENT
├── Forbidden        a client asks for what its identity may not have; its stream ends with PERMISSION_DENIED
├── Overloaded       a limit is reached; the stream ends with RESOURCE_EXHAUSTED or UNAVAILABLE
└── NotReady         nothing to serve yet; the stream ends with UNAVAILABLE and the client tries again
"""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Problem:
    """One fault in a configuration; `where` names file, resource and field path."""

    where: str
    what: str

    def __str__(self) -> str:
        return f"{self.where}: {self.what}"


class XdsError(Exception):
    """Base of all errors of this package."""


class InvalidConfig(XdsError):
    """A configuration that was refused whole; `problems` lists every fault found, not only the first."""

    def __init__(self, problems: tuple[Problem, ...]) -> None:
        super().__init__("\n".join(map(str, problems)))
        self.problems = problems


class InvalidRequest(XdsError):
    """A discovery request that breaks the protocol."""


class Forbidden(XdsError):
    """A client asked for something that its identity may not have."""


class Overloaded(XdsError):
    """A client, or all of them together, want more than a limit allows."""


class NotReady(XdsError):
    """No snapshot has been published yet. An empty one is never served: it would delete every cluster."""
