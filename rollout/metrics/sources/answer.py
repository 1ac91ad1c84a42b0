"""One bounded GET of JSON, whose faults name host and path and nothing that may be a secret."""

import asyncio
import json
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import aiohttp
from yarl import URL

from rollout.concealed import host_of
from rollout.errors import Unavailable

MAX_ANSWER_BYTES = 1024 * 1024
SAID_CHARACTERS = 200


@dataclass(frozen=True, slots=True)
class Answer:
    """A measured value; `said` is what a command that ended badly had to say, else ""."""

    value: float
    said: str = ""


@dataclass(frozen=True, slots=True)
class Request:
    """What to get, and how long that may take. A user and password in the URL are sent as basic authentication."""

    url: URL = field(repr=False)
    headers: Mapping[str, str] = field(repr=False)
    timeout_s: float

    @property
    def where(self) -> str:
        return host_of(self.url) + self.url.path


def open_session() -> aiohttp.ClientSession:
    """A client for sources: one that hangs takes no connection from others, and none can leave a cookie."""
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0),
        cookie_jar=aiohttp.DummyCookieJar(),
        auto_decompress=False,  # some bytes may become very many
    )


async def get_json(session: aiohttp.ClientSession, request: Request) -> tuple[int, Any]:
    """Return the HTTP status and the JSON. Raises Unavailable."""
    try:
        async with asyncio.timeout(request.timeout_s):
            status, body = await _get(session, request)
    except TimeoutError as error:
        raise Unavailable(f"no answer from {request.where} within {request.timeout_s:g} s") from error
    except (aiohttp.ClientError, OSError, ValueError) as error:
        raise Unavailable(f"no answer from {request.where}: {what_happened(error)}") from error
    try:
        return status, json.loads(body)
    except (ValueError, RecursionError) as error:
        what = "what it answers is no JSON" if status == 200 else f"HTTP {status}"
        raise Unavailable(f"no value from {request.where}: {what}") from error


def plain_line(text: str) -> str:
    """Return a text as one line that a terminal may be shown."""
    return " ".join("".join(each if each.isprintable() else " " for each in text).split())


def finite(value: object) -> float:
    """Return what a source gave as a number. Raises ValueError with what it is instead."""
    if isinstance(value, str | int | float):
        try:
            number = float(value)
        except (ValueError, OverflowError):
            number = math.nan
        if math.isfinite(number):
            return number
    if value is None or str(value).lower() == "nan":
        raise ValueError(f"no data: the value is {'null' if value is None else 'NaN'}")
    raise ValueError(f"{str(value)[:40]!r} is no number")


async def _get(session: aiohttp.ClientSession, request: Request) -> tuple[int, bytes]:
    headers = {"Accept": "application/json", "Accept-Encoding": "identity", **request.headers}
    async with session.get(request.url, headers=headers, allow_redirects=False) as response:
        if 300 <= response.status < 400:
            raise ValueError(f"HTTP {response.status}, and redirects are not followed; name where it leads")
        body = bytearray()
        async for chunk in response.content.iter_any():
            body += chunk
            if len(body) > MAX_ANSWER_BYTES:
                raise ValueError(f"its answer is longer than {MAX_ANSWER_BYTES} bytes")
        return response.status, bytes(body)


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
