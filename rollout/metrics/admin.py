"""The client of Envoys' admin endpoints: one bounded scrape, over connections that are kept."""

import asyncio
import contextlib
from collections.abc import Callable, Collection

from rollout.errors import Unavailable
from rollout.metrics.connection import Connection
from rollout.metrics.envoy import Query, Scrape, parse_stats, stats_paths
from rollout.spread import QUICK_S, Spread

FLUSH_PATH = "/stats?type=TextReadouts&filter=%5E%24"
"""With `stats_flush_on_admin` histograms lag one request behind: the answer to this one is thrown away.

Asking for nothing of the rarest type makes an Envoy walk the fewest of its stats: with 500 clusters 11 ms, not 32.
"""
MERGE_S = 0.005
"""So long Envoy's workers get to hand in their histograms; on a busy host a few in a hundred take longer than an answer
does. What is late is not lost: the next scrape has it."""


class EnvoyAdmin:
    """Reads cluster stats of Envoys; `clock` is in seconds and stamps the scrapes.

    `taken` counts how long readings took, `failed` how many came to nothing.
    """

    def __init__(self, clock: Callable[[], float], *, timeout_s: float = 1.0) -> None:
        self.clock = clock
        self._timeout_s = timeout_s
        self._idle: dict[str, Connection] = {}
        self.taken, self.failed = Spread(QUICK_S), 0

    async def scrape(self, address: str, query: Query) -> Scrape:
        """The stats of these clusters at `host:port`; Unavailable, with the address and why, when it cannot be had."""
        started_s = self.clock()
        try:
            async with asyncio.timeout(self._timeout_s):
                answers = await self._ask(address, stats_paths(query))
            uptime_s, clusters = parse_stats(answers, query)
        except TimeoutError as error:
            self.failed += 1
            raise Unavailable(f"no answer from {address} within {self._timeout_s:g} s") from error
        except (OSError, ValueError) as error:
            self.failed += 1
            raise Unavailable(f"no stats from {address}: {error or type(error).__name__}") from error
        ended_s = self.clock()
        self.taken.add(ended_s - started_s)
        return Scrape(started_s, ended_s, clusters, uptime_s, address)

    def keep(self, addresses: Collection[str]) -> None:
        """Close what is kept open to anywhere else."""
        for address in self._idle.keys() - addresses:
            self._idle.pop(address).close()

    def close(self) -> None:
        """Close all connections that are not in use."""
        self.keep(())

    async def _ask(self, address: str, paths: tuple[str, ...]) -> tuple[bytes, ...]:
        await self._get(address, FLUSH_PATH)
        await asyncio.sleep(MERGE_S)
        return tuple([await self._get(address, path) for path in paths])

    async def _get(self, address: str, path: str) -> bytes:
        kept = self._idle.pop(address, None)
        if kept is not None:
            with contextlib.suppress(ConnectionError):  # it may have ended meanwhile
                return await self._get_on(kept, address, path)
        return await self._get_on(await Connection.open(address), address, path)

    async def _get_on(self, connection: Connection, address: str, path: str) -> bytes:
        try:
            answer = await connection.get(path)
        except BaseException:
            connection.close()
            raise
        if connection.kept and address not in self._idle:
            self._idle[address] = connection
        else:
            connection.close()
        return answer
