"""The memory of a server: what a store must do for the engine, whatever it is made of."""

from collections.abc import Mapping, Sequence
from typing import Protocol

from rollout.chain import FIRST, AuditRow, Verified
from rollout.happenings import Event, Wanted
from rollout.points import Point
from rollout.record import Change, Contents, JournalEntry, Operation, Rollout
from rollout.store.filters import EVERY_OPERATION, EVERY_ROLLOUT, OperationFilter, RolloutFilter


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

    async def rollouts(
        self, service: str | None, limit: int, wanted: RolloutFilter = EVERY_ROLLOUT
    ) -> tuple[Rollout, ...]:
        """Return at most `limit` rollouts, the newest first; those of all services for None."""

    async def journal(self, service: str, rollout_id: int) -> tuple[JournalEntry, ...]:
        """Return each step of a rollout, the oldest first; nothing for a rollout that is not known."""

    async def operations(
        self, service: str | None, limit: int, wanted: OperationFilter = EVERY_OPERATION
    ) -> tuple[Operation, ...]:
        """Return at most `limit` operations, the newest first; those of all services, and on the whole, for None."""

    async def close(self) -> None:
        """Let go of the store; it may then be opened by another server."""


class Chronicle(Protocol):
    """What a store says of the past to those who only read it, beside whoever writes. Each verb raises Unavailable."""

    async def span(self) -> tuple[int, int]:
        """Return the ids of the oldest event that is kept and of the newest there ever was; (1, 0) without any."""

    async def events(self, after: int, limit: int, wanted: Wanted) -> tuple[Event, ...]:
        """Return at most `limit` events with greater ids, the oldest first."""

    async def events_before(self, before: int, limit: int, wanted: Wanted) -> tuple[Event, ...]:
        """Return the last `limit` events with smaller ids, the oldest first."""

    async def audit(self, before: int, limit: int, wanted: Mapping[str, str]) -> tuple[AuditRow, ...]:
        """Return at most `limit` rows with smaller ids, the newest first; `wanted` says what some columns must be."""

    async def verified(self, head: str = "", newest: int | None = None) -> Verified:
        """Go through the whole audit log, see `chain.verify`, or only through so many of its newest rows."""

    async def points(self, service: str, rollout: int) -> tuple[Point, ...]:
        """Return the points of a rollout's charts in the order of time."""


NEWEST = 2**62
"""Is after each id."""


async def audit_head(chronicle: Chronicle) -> str:
    """Return the hash of the audit log's newest row. Raises Unavailable."""
    rows = await chronicle.audit(NEWEST, 1, {})
    return rows[0].hash if rows else FIRST
