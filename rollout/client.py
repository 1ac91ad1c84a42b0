"""The admin API from outside: requests and answers as JSON, faults as errors, one path followed over time."""

import asyncio
import contextlib
import json
import os
import secrets
import socket
import ssl
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any
from urllib.parse import quote, urlencode

import aiohttp
from yarl import URL

from rollout.errors import InvalidSpec, Rehearsed, RolloutError, Unavailable

TIMEOUT_S = 10.0
POLL_S = 0.5
AWAY_LIMIT_S = 60.0  # so long a server that did answer is waited for: it may be starting anew
HEADER_LIMIT = 64
KEY_HEADER, KEY_BYTES = "Idempotency-Key", 16
NO_HEADERS: Mapping[str, str] = MappingProxyType({})
PAGE_LIMIT = 1000  # the most that the API gives at once
UNSTEADY = ("phase_seconds",)  # what differs at each glance though nothing has changed
Json = Mapping[str, Any]


class ApiFault(RolloutError):
    """The server refused; `status` and `title` are those of its problem document, `detail` says what and what now."""

    def __init__(self, status: int, title: str, detail: str) -> None:
        super().__init__(detail)
        self.status = status
        self.title = title
        self.detail = detail


class Client:
    """Asks one server. Every method raises ApiFault when it refuses, Unavailable when none answers."""

    def __init__(self, http: aiohttp.ClientSession, server: str) -> None:
        self._http = http
        self._server = server.rstrip("/")
        self.rehearses = False
        """Whether it only asks what would happen: then every change raises Rehearsed, which says it."""
        self.limit_s = TIMEOUT_S
        """How long one answer may take."""

    async def get(self, path: str) -> dict[str, Any]:
        """Return the answer's JSON object."""
        return await self._ask("GET", path, None)

    async def listed(self, path: str, field: str, most: int | None = None) -> dict[str, Any]:
        """Return a list with all of its pages, or with at most so many items, as one answer."""
        sign = "&" if "?" in path else "?"
        answer = await self.get(_sized(path, most))
        items: list[Any] = answer[field]
        while answer.get("next") is not None and (most is None or len(items) < most):
            left = None if most is None else most - len(items)
            following = await self.get(_sized(f"{path}{sign}cursor={quote(answer['next'], safe='')}", left))
            items += following[field]
            answer["next"] = following["next"]
        return answer

    async def post(self, path: str, body: Json) -> dict[str, Any]:
        """Ask for a change; return the answer's JSON object."""
        return await self._change("POST", path, json.dumps(body).encode())

    async def put(self, path: str, body: Json) -> dict[str, Any]:
        """Ask for something to be just so; return the answer's JSON object."""
        return await self._change("PUT", path, json.dumps(body).encode())

    async def patch(self, path: str, body: Json) -> dict[str, Any]:
        """Ask for a part of something to be changed; return the answer's JSON object."""
        return await self._change("PATCH", path, json.dumps(body).encode())

    async def delete(self, path: str) -> dict[str, Any]:
        """Ask for something to go; return the answer's JSON object."""
        return await self._change("DELETE", path, None)

    async def _change(self, method: str, path: str, body: bytes | None) -> dict[str, Any]:
        if self.rehearses:
            path = f"{path}{'&' if '?' in path else '?'}dry_run=true"
            answer = await self._ask(method, path, body)
            if "dry_run" not in answer:
                raise Unavailable(f"the server at {self._server} knows no dry run, and has done it; it is an older one")
            raise Rehearsed(str(answer.get("would", "")), changes=bool(answer.get("changes")))
        return await self._ask(method, path, body, {KEY_HEADER: secrets.token_hex(KEY_BYTES)})

    async def _ask(
        self, method: str, path: str, body: bytes | None, headers: Mapping[str, str] = NO_HEADERS
    ) -> dict[str, Any]:
        url = URL(self._server + path, encoded=True)
        try:
            return await self._answered(method, url, body, headers)
        except TimeoutError as error:
            raise Unavailable(f"the server at {self._server} did not answer within {self.limit_s:g} s") from error
        except aiohttp.ClientSSLError as error:
            how = "set ROLLOUT_CA to a file with its authority, and look at the host's name and at both clocks"
            raise Unavailable(f"no secure connection to {self._server}: {error}; {how}") from error
        except aiohttp.ClientConnectorError as error:
            raise Unavailable(_absent(self._server, _why(error.os_error))) from error
        except aiohttp.ClientError as error:
            why = "the connection was closed" if isinstance(error, aiohttp.ServerDisconnectedError) else str(error)
            raise Unavailable(_absent(self._server, why)) from error

    async def _answered(self, method: str, url: URL, body: bytes | None, headers: Mapping[str, str]) -> dict[str, Any]:
        try:
            return await self._sent(method, url, body, headers)
        except (aiohttp.ServerDisconnectedError, aiohttp.ClientOSError, aiohttp.ClientPayloadError) as error:
            if KEY_HEADER not in headers or isinstance(error, aiohttp.ClientConnectorError):
                raise
        return await self._sent(method, url, body, headers)  # with its key it is not done twice

    async def _sent(self, method: str, url: URL, body: bytes | None, headers: Mapping[str, str]) -> dict[str, Any]:
        limit = aiohttp.ClientTimeout(total=self.limit_s)
        asked = self._http.request(method, url, data=body, headers=headers, allow_redirects=False, timeout=limit)
        async with asked as response:
            return _answer(self._server, response.status, await response.read())


@dataclass(frozen=True, slots=True)
class TlsOptions:
    """PEM files of a client: the authorities that it believes, and its own certificate and key; "" for none."""

    ca: str = ""
    cert: str = ""
    key: str = ""

    def context(self) -> ssl.SSLContext:
        """Raises InvalidSpec for files that cannot be used."""
        if bool(self.cert) != bool(self.key):
            raise InvalidSpec("ROLLOUT_CERT and ROLLOUT_KEY go together: set both, or neither")
        try:
            context = ssl.create_default_context(cafile=self.ca or None)
        except (OSError, ValueError) as error:
            raise InvalidSpec(f"ROLLOUT_CA {self.ca}: holds no certificates in PEM that can be read") from error
        try:
            if self.cert:
                context.load_cert_chain(self.cert, self.key, password=lambda: b"")
        except (OSError, ValueError) as error:
            what = f"ROLLOUT_CERT {self.cert} and ROLLOUT_KEY {self.key}: are no certificate and its key in PEM"
            raise InvalidSpec(f"{what}, which can be read without a password") from error
        return context


@contextlib.asynccontextmanager
async def connect(server: str, *, token: str | None, user: str, tls: TlsOptions | None = None) -> AsyncIterator[Client]:
    """Yield a client of this server. `token` goes along as bearer; `user` is who asks, for the rollout's journal.

    `tls`: None for the authorities of this host. Raises InvalidSpec for a token that no header can carry.
    """
    headers = {"Content-Type": "application/json", "Accept": "application/json"}
    if user and user.isprintable() and user.isascii():
        headers["X-Rollout-User"] = user[:HEADER_LIMIT]
    if token is not None:
        if not (token.strip().isprintable() and token.isascii()):
            raise InvalidSpec(
                "ROLLOUT_TOKEN has characters that no header can carry; use letters, digits and signs of ASCII"
            )
        headers["Authorization"] = f"Bearer {token.strip()}"
    connector = aiohttp.TCPConnector(ssl=True if tls is None else tls.context())
    async with aiohttp.ClientSession(headers=headers, connector=connector) as http:
        yield Client(http, server)


def _sized(path: str, limit: int | None) -> str:
    """Return a list's path with how much of it is asked for; pages are large, so that they are few."""
    return f"{path}{'&' if '?' in path else '?'}limit={min(limit or PAGE_LIMIT, PAGE_LIMIT)}"


def queried(path: str, **given: object) -> str:
    """Return a path with a query of what is given; what is None is left out."""
    words = {name: value for name, value in given.items() if value is not None}
    return f"{path}?{urlencode(words)}" if words else path


def path_of(*parts: object) -> str:
    """Return the API's path of these parts, each quoted."""
    return "/v1/" + "/".join(quote(str(part), safe="") for part in parts)


@dataclass(frozen=True, slots=True)
class Glance:
    """What a path answered last; `away` says why the server does not answer now, "" when it does."""

    view: Json
    away: str = ""


async def glances(client: Client, path: str) -> AsyncIterator[Glance]:
    """Yield what a path answers, again and again, without end.

    The first answer must come at once; after it a server may be away for AWAY_LIMIT_S. Raises ApiFault or Unavailable.
    """
    clock = asyncio.get_running_loop().time
    view, answered_s = await client.get(path), clock()
    yield Glance(view)
    while True:
        await asyncio.sleep(POLL_S)
        try:
            view, answered_s = await client.get(path), clock()
            yield Glance(view)
        except Unavailable as error:
            if clock() - answered_s > AWAY_LIMIT_S:
                raise
            yield Glance(view, str(error))


def changed(before: Json, after: Json) -> bool:
    """Say whether two views of a service differ in more than the time that passed between them."""
    return _steady(before) != _steady(after)


def _steady(view: Json) -> Json:
    rollout = view.get("rollout")
    if not rollout:
        return view
    return {**view, "rollout": {name: value for name, value in rollout.items() if name not in UNSTEADY}}


def _answer(server: str, status: int, raw: bytes) -> dict[str, Any]:
    try:
        answer = json.loads(raw)
    except ValueError:
        answer = None
    if not isinstance(answer, dict) or (status >= 300 and "title" not in answer):
        raise Unavailable(
            f"what answers at {server} is no rollout server (HTTP {status}); give --server or ROLLOUT_SERVER"
        )
    if status >= 300:
        title = str(answer["title"])
        raise ApiFault(status, title, str(answer.get("detail") or title))
    return answer


def _absent(server: str, why: str) -> str:
    remedy = "start one with `rollout serve`, or give --server or ROLLOUT_SERVER"
    return f"no rollout server answers at {server} ({why}); {remedy}"


def _why(error: OSError) -> str:
    if isinstance(error, socket.gaierror) or not error.errno:
        return (error.strerror or str(error)).lower()
    return os.strerror(error.errno).lower()
