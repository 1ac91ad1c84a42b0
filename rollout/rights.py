"""Who somebody is and what they may do: roles, what a role is limited to, and who asks for something."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from fnmatch import fnmatchcase


class Role(StrEnum):
    """What somebody may do; each may do all that those before it may."""

    VIEWER = "viewer"
    OPERATOR = "operator"
    ADMIN = "admin"

    def covers(self, need: "Role") -> bool:
        """Say whether this role may do what `need` may."""
        order = tuple(Role)
        return order.index(self) >= order.index(need)


class Via(StrEnum):
    """How somebody has shown who they are."""

    LOOPBACK = "loopback"  # nothing is asked for: no token is set up, and only programs of this host can connect
    ROOT = "root"  # the token in the server's own environment
    TOKEN = "token"  # noqa: S105 - a word, no secret
    SESSION = "session"  # a login of the web page
    CERTIFICATE = "certificate"
    PROXY = "proxy"  # a header that a named proxy has set


@dataclass(frozen=True, slots=True)
class Grant:
    """A role, for all services or for some: `services` are names, or patterns such as `shop-*`; () is all of them."""

    role: Role
    services: tuple[str, ...] = ()

    def allows(self, need: Role, service: str | None) -> bool:
        """Say whether this is enough for `need` of a service; None is what concerns the whole fleet.

        What concerns the whole fleet may be read by all who may read anything, and changed without a limit only.
        """
        if not self.role.covers(need):
            return False
        return need is Role.VIEWER or not self.services if service is None else self.sees(service)

    def sees(self, service: str) -> bool:
        """Say whether a service is one of those that this is for."""
        return not self.services or any(fnmatchcase(service, pattern) for pattern in self.services)

    def seen(self, services: Sequence[str]) -> tuple[str, ...]:
        """Return those of some services that this is for."""
        return tuple(service for service in services if self.sees(service))


@dataclass(frozen=True, slots=True)
class Identity:
    """Who a request comes from. `key` names the token or session that showed it, "" for none; it is no secret."""

    name: str
    grant: Grant
    via: Via
    key: str = ""


ANYBODY = Identity("", Grant(Role.ADMIN), Via.LOOPBACK)
"""Who connects to a server on loopback that has no tokens."""


@dataclass(frozen=True, slots=True)
class Asker:
    """Who asks for something, for the records: `name`, and `origin`, how and from where, as `token ci from 10.0.0.7`.

    One that `rehearses` wants to know what would happen: nothing is changed, and the verb raises Rehearsed. `only_if`
    has the tags of what the request was made up for, () for whatever there is now: see standing.
    """

    name: str
    origin: str = ""
    rehearses: bool = False
    only_if: tuple[str, ...] = ()

    def __str__(self) -> str:
        return self.name
