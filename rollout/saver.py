"""What was decided and is not saved yet: kept in order, written in batches, tried again while the disk fails."""

import asyncio
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from rollout.errors import Conflict, Unavailable
from rollout.record import Change
from rollout.store import Store

RETRY_S = 0.5
WAIT_LIMIT_S = 5.0


@dataclass(slots=True)
class Saving:
    """Changes that are saved together; `service` is whose acting waits for it.

    `then` takes into the books what is not there before it is saved, None for nothing.
    """

    changes: tuple[Change, ...]
    service: str = ""
    then: Callable[[], None] | None = None
    saved: asyncio.Event = field(default_factory=asyncio.Event)


class Saver:
    """Writes what it is given. `failed` hears each fault of the disk, `done` each batch that was saved."""

    def __init__(
        self,
        store: Store,
        clock: Callable[[], float],
        failed: Callable[[str], None],
        done: Callable[[Sequence[Change]], None],
    ) -> None:
        self._store = store
        self._clock = clock
        self._failed = failed
        self._done = done
        self._waiting: list[Saving] = []
        self._unsaved: Counter[str] = Counter()
        self._awake = asyncio.Event()
        self.limit_s = WAIT_LIMIT_S
        """So long somebody waits for a save at the most."""
        self.fault = ""
        """What is wrong with the disk; "" while it works."""

    def unsaved(self, service: str) -> int:
        """Return how many steps of a service wait for the disk."""
        return self._unsaved[service]

    @property
    def waiting(self) -> int:
        """How many savings wait for the disk."""
        return len(self._waiting)

    def put(self, saving: Saving) -> Saving:
        self._waiting.append(saving)
        self._unsaved[saving.service] += 1
        self._awake.set()
        return saving

    def last(self, service: str) -> Saving | None:
        return next((each for each in reversed(self._waiting) if each.service == service), None)

    def last_change(self, service: str) -> Saving | None:
        """Return the last one that the books of a service do not have yet."""
        waiting = (each for each in reversed(self._waiting) if each.service == service)
        return next((each for each in waiting if each.then is not None), None)

    async def wait(self, saving: Saving) -> None:
        """Return once it is saved. Raises Unavailable after `limit_s`; it is tried again all the same."""
        try:
            async with asyncio.timeout(self.limit_s):
                await saving.saved.wait()
        except TimeoutError as error:
            why = self.fault or "the disk does not answer"
            raise Unavailable(f"not saved within {self.limit_s:g} s: {why}; it is tried again until it is") from error

    async def run(self) -> None:
        """Save in order, until cancelled."""
        while True:
            await self._awake.wait()
            self._awake.clear()
            while self._waiting:
                await self._save(tuple(self._waiting))

    async def _save(self, batch: tuple[Saving, ...]) -> None:
        changes = [change for saving in batch for change in saving.changes]
        try:
            await self._store.save(changes, engine_s=self._clock())
        except Conflict as error:  # somebody else wrote to the database: to go on would be to overwrite it
            self._failed(str(error))
            raise
        except Unavailable as error:
            if self.fault != str(error):
                self.fault = str(error)
                self._failed(self.fault)
            await asyncio.sleep(RETRY_S)
            return
        self.fault = ""
        del self._waiting[: len(batch)]
        for saving in batch:
            self._unsaved[saving.service] -= 1
            if saving.then is not None:
                saving.then()
            saving.saved.set()
        self._done(changes)
