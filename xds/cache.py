"""The latest snapshot, the clients that follow it, and who ACKed and who NACKed what."""

from collections import OrderedDict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Protocol

from xds.resources import ResourceType
from xds.snapshot import Snapshot
from xds.subscription import Held, Lag, Rejection

RECENT_LIMIT = 16  # full states that a reconnecting SotW client may hold, so that nothing is taken away too soon
GONE_NODES = 4096  # disconnected nodes that are remembered, newest first


@dataclass(frozen=True, slots=True)
class Node:
    """A proxy, as it named itself in its first request."""

    id: str
    cluster: str
    region: str
    zone: str
    version: str
    metadata: Mapping[str, object]

    @property
    def location(self) -> str:
        return "/".join(part for part in (self.region, self.zone) if part)


@dataclass(frozen=True, slots=True)
class TypeStatus:
    """What a client last accepted of a type, and its NACK while what it refused is still what is served."""

    acked_version: str
    waiting: bool
    rejection: Rejection | None


@dataclass(frozen=True, slots=True)
class NodeStatus:
    """A client of the fleet; `since_s` is when it connected, or disconnected."""

    node: Node
    peer: str
    protocol: str
    connected: bool
    since_s: float
    types: Mapping[ResourceType, TypeStatus]


@dataclass(frozen=True, slots=True)
class Wanted:
    """A resource that clients should hold by now; version None: that they should have dropped."""

    type: ResourceType
    name: str
    version: str | None


class Member(Protocol):
    """A session, as the cache sees it."""

    def wake(self) -> None: ...
    def status(self) -> NodeStatus: ...
    def lag(self, wanted: Wanted) -> Lag | None: ...
    def may_need(self, type_: ResourceType, name: str) -> bool: ...


class Cache:
    """Publishes snapshots to sessions. Every method is synchronous: state never changes between check and use."""

    def __init__(self) -> None:
        self.snapshot: Snapshot | None = None
        self.recent: OrderedDict[str, Held] = OrderedDict()
        self._members: dict[str, list[Member]] = {}
        self._gone: OrderedDict[str, NodeStatus] = OrderedDict()

    def publish(self, snapshot: Snapshot) -> bool:
        """Serve this snapshot from now on; return False, and wake nobody, when it is what is served already."""
        if self.snapshot is not None and self.snapshot.version == snapshot.version:
            return False
        self.snapshot = snapshot
        for members in self._members.values():
            for member in members:
                member.wake()
        return True

    def remember(self, version: str, held: Held) -> None:
        """Keep what a SotW client holds that shows this version when it reconnects."""
        self.recent[version] = held
        self.recent.move_to_end(version)
        while len(self.recent) > RECENT_LIMIT:
            self.recent.popitem(last=False)

    def join(self, node_id: str, member: Member) -> None:
        """Add a session. Sessions of one node may overlap while it reconnects; its status is the newest's."""
        self._members.setdefault(node_id, []).append(member)
        self._gone.pop(node_id, None)

    def leave(self, node_id: str, member: Member, now_s: float) -> None:
        """Drop a session; the node counts as gone when it was its last."""
        members = self._members.get(node_id, [])
        if member not in members:
            return
        members.remove(member)
        if members:
            return
        del self._members[node_id]
        self._gone[node_id] = replace(member.status(), connected=False, since_s=now_s)
        while len(self._gone) > GONE_NODES:
            self._gone.popitem(last=False)

    def connected(self) -> tuple[NodeStatus, ...]:
        """Return the connected nodes, sorted by id."""
        return tuple(members[-1].status() for _, members in sorted(self._members.items()))

    def gone(self) -> tuple[NodeStatus, ...]:
        """Return nodes that were connected and are not any more, sorted by id."""
        return tuple(status for _, status in sorted(self._gone.items()))

    def lagging(self, wanted: Iterable[Wanted]) -> Mapping[str, Lag]:
        """Return by node id why a node does not have all that is wanted; empty means converged."""
        wanted = tuple(wanted)
        lags: dict[str, Lag] = {}
        for node_id, members in sorted(self._members.items()):
            # All of them: two Envoys that were given one id are as far as the slower one.
            found = [lag for member in members for each in wanted if (lag := member.lag(each)) is not None]
            if found:
                lags[node_id] = max(found, key=lambda lag: lag.refused)
        return lags

    def needing(self, type_: ResourceType, name: str) -> tuple[str, ...]:
        """Return the ids of nodes that may be working with something that needs `name`."""
        return tuple(
            node
            for node, members in sorted(self._members.items())
            if any(member.may_need(type_, name) for member in members)
        )
