"""A bell: it rings for everybody who waits for something to change, and they look whether it is what they wait for."""

import asyncio


class Bell:
    """Who looks and then waits misses no ring, if there is no await between the two."""

    def __init__(self) -> None:
        self._rung = asyncio.Event()
        self.rings = 0
        """How often it has rung."""

    def ring(self) -> None:
        self.rings += 1
        self._rung.set()
        self._rung = asyncio.Event()

    async def heard(self) -> None:
        """Return at the next ring."""
        await self._rung.wait()
