"""Calls that may hang: each in a thread of its own which nobody waits for at the end, and only so many at once."""

import asyncio
import contextlib
import threading
from collections import Counter
from collections.abc import Callable

from rollout.errors import RolloutError, Unavailable

LIMIT = 256
LIMIT_EACH = 4  # one who hangs for ever takes these, and nobody else's


class Calls:
    """Threads of a pool would be joined at exit, and one that hangs would hold the server up."""

    def __init__(self, limit: int = LIMIT, limit_each: int = LIMIT_EACH) -> None:
        self._limit = limit
        self._limit_each = limit_each
        self._running = Counter[str]()

    @property
    def running(self) -> int:
        """How many have not come back."""
        return self._running.total()

    async def run(self, act: Callable[[], None], timeout_s: float, of: str = "") -> None:
        """Call it, and return when it does; `of` is whom it calls.

        Raises what it raises, or Unavailable: then it may still go on.
        """
        self._check_free(of)
        loop = asyncio.get_running_loop()
        done: asyncio.Future[None] = loop.create_future()

        def ended(error: Exception | None) -> None:
            self._running -= Counter((of,))  # who has none left is forgotten
            if done.done():
                return
            if error is None:
                done.set_result(None)
            else:
                done.set_exception(error)

        def work() -> None:
            error: Exception | None = None
            try:
                act()
            except RolloutError as known:
                error = known
            except Exception as foreign:  # noqa: BLE001 - a plugin's own fault, of which there are a hundred
                error = Unavailable(f"Apprise failed: {type(foreign).__name__}")
            with contextlib.suppress(RuntimeError):  # the loop has ended before it
                loop.call_soon_threadsafe(ended, error)

        self._running[of] += 1
        threading.Thread(target=work, name="call", daemon=True).start()
        try:
            async with asyncio.timeout(timeout_s):
                await done
        except TimeoutError as error:
            raise Unavailable(f"no answer within {timeout_s:g} s") from error

    def _check_free(self, of: str) -> None:
        if self._running[of] >= self._limit_each:
            raise Unavailable(f"{self._running[of]} calls to it hang already")
        if self.running >= self._limit:
            raise Unavailable(f"{self.running} calls hang already")
