"""What a peer may ask for, by the identity that its certificate proves."""

from dataclasses import dataclass
from typing import Protocol

from xds.node import Node, Peer


@dataclass(frozen=True, slots=True)
class Grant:
    """What a peer that was let in may have; `secrets` are patterns of names."""

    secrets: tuple[str, ...] = ()


class Access(Protocol):
    """Who may connect as which node."""

    def connect(self, peer: Peer) -> None:
        """Raise Forbidden when this peer may be no node at all; called before anything is read."""

    def admit(self, peer: Peer, node: Node) -> Grant:
        """Return what this peer may have as this node. Raises Forbidden when it may not be it."""


class Anyone:
    """Access without identities: every peer may be every node, and no secret is served."""

    def connect(self, _peer: Peer) -> None:
        pass

    def admit(self, _peer: Peer, _node: Node) -> Grant:
        return Grant()
