"""The client of an Envoy's admin endpoint: one bounded scrape."""

import asyncio
import re
from collections.abc import Callable

import aiohttp
from yarl import URL

from rollout.errors import Unavailable
from rollout.metrics.envoy import ClusterStats, Query, Scrape, chunks, parse_stats, stats_query

MAX_ANSWER_BYTES = 4 * 1024 * 1024
# With `stats_flush_on_admin` histograms lag one scrape behind: this one is thrown away and makes Envoy merge them.
FLUSH_QUERY = "filter=%5E%24"

_ADDRESS = re.compile(r"(?P<host>[A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\]):(?P<port>[0-9]{1,5})")


class EnvoyAdmin:
    """Reads cluster stats of Envoys; `clock` is in seconds and stamps the scrapes."""

    def __init__(self, session: aiohttp.ClientSession, clock: Callable[[], float], *, timeout_s: float = 1.0) -> None:
        self.clock = clock
        self._session = session
        self._timeout_s = timeout_s

    async def scrape(self, address: str, query: Query) -> Scrape:
        """The stats of these clusters at `host:port`; Unavailable, with the address and why, when it cannot be had."""
        started_s = self.clock()
        try:
            async with asyncio.timeout(self._timeout_s):
                clusters = await self._clusters(address, query)
        except TimeoutError as error:
            raise Unavailable(f"no answer from {address} within {self._timeout_s:g} s") from error
        except (aiohttp.ClientError, OSError, ValueError) as error:
            raise Unavailable(f"no stats from {address}: {error or type(error).__name__}") from error
        return Scrape(started_s, self.clock(), clusters)

    async def _clusters(self, address: str, query: Query) -> dict[str, ClusterStats]:
        await self._get(_stats_url(address, FLUSH_QUERY))
        clusters: dict[str, ClusterStats] = {}
        for names in chunks(query.stat_names):
            answer = await self._get(_stats_url(address, stats_query(names, query.backends)))
            clusters |= parse_stats(answer, names, query.backends)
        return clusters

    async def _get(self, url: URL) -> bytes:
        headers = {"Accept-Encoding": "identity"}
        async with self._session.get(url, headers=headers, allow_redirects=False) as response:
            if response.status != 200:
                raise ValueError(f"HTTP {response.status} from its admin endpoint")
            return await _read(response)


async def _read(response: aiohttp.ClientResponse) -> bytes:
    """The body, as long as it is not longer than any honest one."""
    body = bytearray()
    async for chunk in response.content.iter_any():
        body += chunk
        if len(body) > MAX_ANSWER_BYTES:
            raise ValueError(f"its answer is longer than {MAX_ANSWER_BYTES} bytes")
    return bytes(body)


def _stats_url(address: str, query_string: str) -> URL:
    """Built from parts, so that an address can name a host and a port and nothing else."""
    match = _ADDRESS.fullmatch(address)
    if match is None or not 0 < int(match["port"]) < 65536:
        raise ValueError("not an address of the form HOST:PORT")
    host, port = match["host"], int(match["port"])
    return URL.build(scheme="http", host=host, port=port, path="/stats", query_string=query_string, encoded=True)
