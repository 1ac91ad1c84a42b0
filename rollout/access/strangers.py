"""Connections of those who have not shown who they are: the silent ones are cut, and too many drive out the oldest."""

from collections import OrderedDict
from typing import Protocol

SILENCE_S = 10.0  # from connecting to the first whole head of a request
MOST = 256  # whoever is known, or is looked after by a proxy, needs none of these places


class Line(Protocol):
    """A transport."""

    def abort(self) -> None:
        """Close it at once."""


class Connection(Protocol):
    """What is known of a connection. `transport` is None before its TLS is agreed upon, and once it is closed."""

    @property
    def transport(self) -> Line | None:
        """What it goes over."""


class Strangers:
    """Bounds what they hold open: files and memory of the server, which those who are known need. It holds no clock."""

    def __init__(self) -> None:
        self._came_s: OrderedDict[Connection, float | None] = OrderedDict()  # None: it has asked for something

    @property
    def count(self) -> int:
        return len(self._came_s)

    def came(self, connection: Connection, now_s: float) -> None:
        """Take in a new connection."""
        self._came_s[connection] = now_s
        if len(self._came_s) > MOST:
            _cut(self._came_s.popitem(last=False)[0])

    def asked(self, connection: Connection) -> None:
        """Note that a connection has asked for something: from now on the server's own limits hold."""
        if connection in self._came_s:
            self._came_s[connection] = None

    def known(self, connection: Connection) -> None:
        """Let a connection go that is no stranger's."""
        self._came_s.pop(connection, None)

    def look(self, now_s: float) -> None:
        """Cut those that have said nothing for long, and forget those that are closed."""
        for connection, came_s in tuple(self._came_s.items()):
            late = came_s is not None and now_s - came_s >= SILENCE_S
            if late:
                _cut(connection)
            if late or (came_s is None and connection.transport is None):
                del self._came_s[connection]


def _cut(connection: Connection) -> None:
    if connection.transport is not None:
        connection.transport.abort()
