"""The latest snapshot, the clients that follow it, and who ACKed and who NACKed what."""

from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Protocol

from xds.node import Node
from xds.resources import ResourceType
from xds.snapshot import Snapshot, of_views
from xds.stream import Stream
from xds.subscription import Held, Lag, Rejection

RECENT_LIMIT = 16  # full states of each snapshot that a reconnecting SotW client may hold: what it has stays a while
GONE_NODES = 4096  # disconnected nodes that are remembered, newest first


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

    @property
    def node(self) -> Node: ...
    @property
    def stream(self) -> Stream: ...
    def wake(self) -> None: ...
    def warm(self, names: frozenset[str]) -> None: ...
    def status(self) -> NodeStatus: ...
    def lag(self, wanted: Wanted) -> Lag | None: ...
    def may_need(self, type_: ResourceType, name: str) -> bool: ...


@dataclass(frozen=True, slots=True)
class Fleet:
    """What the whole fleet is served: a snapshot for each group of nodes, and `common` for all other nodes."""

    common: Snapshot
    groups: Mapping[str, Snapshot] = field(default_factory=lambda: MappingProxyType({}))
    group_of: Callable[[Node], str] = lambda node: node.cluster

    def of(self, node: Node) -> Snapshot:
        return self.groups.get(self.group_of(node), self.common) if self.groups else self.common


class Cache:
    """Publishes snapshots to sessions. Every method is synchronous: state never changes between check and use.

    `changed` is called when something else is served, if there is an edge that gathers changes and then calls `wake`.
    """

    def __init__(self) -> None:
        self.fleet: Fleet | None = None
        self.changed: Callable[[], None] | None = None
        self._woken_for: Fleet | None = None
        self._snapshots = 1  # different ones in the fleet
        self.recent: OrderedDict[str, Held] = OrderedDict()
        self._members: dict[str, list[Member]] = {}
        self._gone: OrderedDict[str, NodeStatus] = OrderedDict()

    def publish(self, fleet: Fleet | Snapshot) -> bool:
        """Serve this from now on; return whether any content changed. A snapshot alone is served to every node."""
        before = self.fleet
        following = _sharing(fleet if isinstance(fleet, Fleet) else Fleet(fleet), before)
        if before is not None and _versions(before) == _versions(following) and before.group_of == following.group_of:
            return False
        self.fleet = following
        self._snapshots = len({each.version for each in (following.common, *following.groups.values())})
        (self.changed or self.wake)()
        return True

    def wake(self) -> None:
        """Wake the members that are served something else than when they were last woken."""
        before, following = self._woken_for, self.fleet
        if following is None:
            return
        self._woken_for = following
        for members in self._members.values():
            for member in members:
                if before is None or before.of(member.node) is not following.of(member.node):
                    member.wake()

    def served(self, node: Node) -> Snapshot | None:
        """Return what this node is served, None before the first publish."""
        return None if self.fleet is None else self.fleet.of(node)

    def remember(self, version: str, held: Held) -> None:
        """Keep what a SotW client holds that shows this version when it reconnects."""
        self.recent[version] = held
        self.recent.move_to_end(version)
        while len(self.recent) > RECENT_LIMIT * self._snapshots:
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

    def members(self) -> tuple[Member, ...]:
        """Return all sessions, sorted by node id, the oldest of a node first."""
        return tuple(member for _, members in sorted(self._members.items()) for member in members)

    def sessions(self, node_id: str) -> int:
        """Return how many sessions a node has."""
        return len(self._members.get(node_id, ()))

    def beside(self, member: Member) -> tuple[Member, ...]:
        """Return the other sessions of a member's node."""
        return tuple(each for each in self._members.get(member.node.id, ()) if each is not member)

    def connected(self) -> tuple[NodeStatus, ...]:
        """Return the connected nodes, sorted by id."""
        return tuple(_status(members) for _, members in sorted(self._members.items()))

    def gone(self) -> tuple[NodeStatus, ...]:
        """Return nodes that were connected and are not any more, sorted by id."""
        return tuple(status for _, status in sorted(self._gone.items()))

    def lagging(self, wanted: Callable[[Snapshot], Iterable[Wanted]]) -> Mapping[str, Lag]:
        """Return by node id why a node does not have all that is wanted of its snapshot; empty means converged."""
        fleet = self.fleet
        if fleet is None:
            return {}
        wanted_of = {each: tuple(wanted(each)) for each in {fleet.common, *fleet.groups.values()}}
        lags: dict[str, Lag] = {}
        for node_id, members in sorted(self._members.items()):
            # All of them: two Envoys that were given one id are as far as the slower one.
            found = [
                lag
                for member in members
                for each in wanted_of[fleet.of(member.node)]
                if (lag := member.lag(each)) is not None
            ]
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


def _status(members: Sequence[Member]) -> NodeStatus:
    """Return the status of a node: that of its newest session, with the types that only others of it have."""
    newest = members[-1].status()
    if len(members) == 1:
        return newest
    types = (each.types for each in (*(member.status() for member in members[:-1]), newest))
    return replace(newest, types={type_: status for each in types for type_, status in each.items()})


def _versions(fleet: Fleet) -> tuple[str, Mapping[str, str]]:
    return fleet.common.version, {group: snapshot.version for group, snapshot in fleet.groups.items()}


def _sharing(fleet: Fleet, before: Fleet | None) -> Fleet:
    """Return the fleet with equal content as one object, so that what is encoded of it is encoded once."""
    older = () if before is None else (before.common, *before.groups.values())
    views = {(view.type, view.version): view for each in older for view in each.views.values()}
    snapshots = {each.version: each for each in older}

    def shared(snapshot: Snapshot) -> Snapshot:
        if snapshot.version not in snapshots:
            same = of_views(views.setdefault((view.type, view.version), view) for view in snapshot.views.values())
            snapshots[snapshot.version] = same
        return snapshots[snapshot.version]

    groups = {name: shared(each) for name, each in fleet.groups.items()}
    return replace(fleet, common=shared(fleet.common), groups=groups)
