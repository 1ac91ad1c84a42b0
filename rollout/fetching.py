"""One bounded GET of what lies outside; its faults name host and path, and nothing that may be a secret."""

import asyncio
import os
from collections.abc import Mapping
from dataclasses import dataclass, field

import aiohttp
from yarl import URL

from rollout.concealed import host_of
from rollout.errors import Unavailable

_NO_LIMIT = aiohttp.ClientTimeout(total=None)  # ours counts: what is asked for may take longer than aiohttp waits


@dataclass(frozen=True, slots=True)
class Question:
    """What to get, how long that may take, and how much it may be.

    A user and password in the URL are sent as basic authentication.
    """

    url: URL = field(repr=False)
    headers: Mapping[str, str] = field(repr=False)
    timeout_s: float
    most_bytes: int = 1024 * 1024

    @property
    def where(self) -> str:
        return host_of(self.url) + self.url.path


@dataclass(frozen=True, slots=True)
class Page:
    """What was answered. Names of `headers` are in lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes = field(repr=False)


def open_session() -> aiohttp.ClientSession:
    """A client for what lies outside: one that hangs takes no connection from others, and none can leave a cookie."""
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0),
        cookie_jar=aiohttp.DummyCookieJar(),
        auto_decompress=False,  # some bytes may become very many
    )


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
            if len(body) > question.most_bytes:
                raise ValueError(f"its answer is longer than {question.most_bytes} bytes")
        return Page(response.status, {name.lower(): value for name, value in response.headers.items()}, bytes(body))


def what_happened(error: Exception) -> str:
    """What happened, in words of our own or the system's: the client's have the URL, and all that is in it."""
    match error:
        case aiohttp.ClientConnectorCertificateError():
            return f"its certificate is not good: {getattr(error.certificate_error, 'verify_message', '')}"
        case aiohttp.ClientSSLError():
            return "the TLS handshake failed"
        case aiohttp.ClientConnectorError():
            return _system_words(error.os_error)
        case aiohttp.ClientError():
            return type(error).__name__
        case OSError():
            return _system_words(error)
        case _:
            return str(error)


def _system_words(error: OSError) -> str:
    """What the system says; asyncio's text has the address, and names that are not found have numbers below 0."""
    known = error.errno is not None and error.errno > 0
    return os.strerror(error.errno or 0) if known else error.strerror or "cannot connect"
