"""Who is at the other end of a stream: the proxy that it says it is, and the peer that the connection proves."""

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Node:
    """A proxy, as it named itself in its first request; `features` are what it says that its client can do."""

    id: str
    cluster: str
    region: str
    zone: str
    version: str
    metadata: Mapping[str, object]
    features: frozenset[str] = frozenset()

    @property
    def location(self) -> str:
        return "/".join(part for part in (self.region, self.zone) if part)


@dataclass(frozen=True, slots=True)
class Peer:
    """The other end of a connection: its address as gRPC writes it (`ipv4:10.0.0.1:4711`).

    `identities` are the SPIFFE URIs and DNS names of its verified client certificate; None without mutual TLS.
    """

    address: str
    identities: frozenset[str] | None = None

    @property
    def origin(self) -> object:
        """Return what stands for who it is: its identities, else its host."""
        return self.identities or self.address.rpartition(":")[0]
