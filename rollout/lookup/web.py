"""One bounded GET of a source, whose faults name host and path and nothing that may be a secret."""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field

import aiohttp
from yarl import URL

from rollout.concealed import host_of
from rollout.errors import Unavailable
from rollout.metrics.sources.answer import what_happened

MOST_BYTES = 32 * 1024 * 1024  # ten thousand instances of Consul with their checks are some 20 MB
_NO_LIMIT = aiohttp.ClientTimeout(total=None)  # ours counts: a query of Consul may wait for longer than aiohttp does


@dataclass(frozen=True, slots=True)
class Question:
    """What to get, and how long that may take."""

    url: URL = field(repr=False)
    headers: Mapping[str, str] = field(repr=False)
    timeout_s: float

    @property
    def where(self) -> str:
        return host_of(self.url) + self.url.path


@dataclass(frozen=True, slots=True)
class Page:
    """What was answered. Names of `headers` are in lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes = field(repr=False)


async def get(session: aiohttp.ClientSession, question: Question) -> Page:
    """Return what is answered. Raises Unavailable, for a redirect too."""
    try:
        async with asyncio.timeout(question.timeout_s):
            return await _get(session, question)
    except TimeoutError as error:
        raise Unavailable(f"no answer from {question.where} within {question.timeout_s:g} s") from error
    except (aiohttp.ClientError, OSError, ValueError) as error:
        raise Unavailable(f"no answer from {question.where}: {what_happened(error)}") from error


async def _get(session: aiohttp.ClientSession, question: Question) -> Page:
    headers = {"Accept": "application/json", "Accept-Encoding": "identity", **question.headers}
    async with session.get(question.url, headers=headers, allow_redirects=False, timeout=_NO_LIMIT) as response:
        if 300 <= response.status < 400 and response.status != 304:
            raise ValueError(f"HTTP {response.status}, and redirects are not followed; name where it leads")
        body = bytearray()
        async for chunk in response.content.iter_any():
            body += chunk
            if len(body) > MOST_BYTES:
                raise ValueError(f"its answer is longer than {MOST_BYTES} bytes")
        return Page(response.status, {name.lower(): value for name, value in response.headers.items()}, bytes(body))
