"""The memory of a server: what a store must do for the engine, whatever it is made of."""

from collections.abc import Sequence
from typing import Protocol

from rollout.record import Change, Contents, JournalEntry, Operation, Rollout


class Store(Protocol):
    """Remembers all that a restarted server needs. Every verb raises Unavailable while the store cannot be reached.

    A verb that is cancelled may still happen later: who gives up on a `save` must `load` before the next one.
    """

    async def load(self) -> Contents:
        """Return where everything stands: of each service the rollouts in progress and the newest one."""

    async def save(self, changes: Sequence[Change], *, engine_s: float) -> None:
        """Save all of the changes, or none. `engine_s` is the engine's clock now.

        Raises Conflict if a rollout's revision is not the saved one plus 1 (1 for a new rollout).
        """

    async def rollouts(self, service: str | None, limit: int) -> tuple[Rollout, ...]:
        """Return at most `limit` rollouts, the newest first; those of all services for None."""

    async def journal(self, service: str, rollout_id: int) -> tuple[JournalEntry, ...]:
        """Return each step of a rollout, the oldest first; nothing for a rollout that is not known."""

    async def operations(self, service: str | None, limit: int) -> tuple[Operation, ...]:
        """Return at most `limit` operations, the newest first; those of all services, and on the whole, for None."""

    async def close(self) -> None:
        """Let go of the store; it may then be opened by another server."""
