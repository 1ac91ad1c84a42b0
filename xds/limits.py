"""How much one client, and all of them together, may ask of the server; each limit is set on purpose."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Limits:
    """The limits of one server."""

    names: int = 100_000  # in one subscription: an Envoy with 60,000 clusters names as many load assignments
    node_id_characters: int = 256
