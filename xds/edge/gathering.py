"""Takes changes together that follow each other closely, without holding up one that comes alone."""

import asyncio
from collections.abc import Callable

WINDOW_S = 0.02


class Gathering:
    """Calls `act` at the first change at once, and after it once per window while there are more."""

    def __init__(self, loop: asyncio.AbstractEventLoop, act: Callable[[], None]) -> None:
        self._loop = loop
        self._act = act
        self._window: asyncio.TimerHandle | None = None  # None: no change for a window's time
        self._more = False

    def changed(self) -> None:
        if self._window is not None:
            self._more = True
            return
        self._window = self._loop.call_later(WINDOW_S, self._over)
        self._act()

    def cancel(self) -> None:
        if self._window is not None:
            self._window.cancel()

    def _over(self) -> None:
        self._window = None
        if self._more:
            self._more = False
            self.changed()
