"""A whole server in this process whose admin API asks who somebody is, and requests to it as one or another."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp

from rollout.app import Listening, serve
from rollout.settings import Settings
from tests.rollout.commandline import configuration

ROOT_TOKEN = "the-root-token-of-a-test"  # noqa: S105 - a test's
LIMIT_S = 60.0
OWN, OTHER = "checkout", "zebra"
"""Two services: one that a limited token is for, and one whose name stands in no text of ours."""


def settings(folder: Path, **more: Any) -> Settings:
    """Return the settings of a server with two services, on free ports of loopback."""
    (folder / "configs").mkdir(exist_ok=True)
    (folder / "configs" / "shop.yaml").write_text(configuration((OWN, OTHER)))
    return Settings(folder / "configs", folder / "data", "127.0.0.1:0", "127.0.0.1:0", **more)


@dataclass(frozen=True, slots=True)
class Said:
    """What was answered: the body as it came, and as JSON where it is some."""

    status: int
    headers: Mapping[str, str]
    raw: str
    cookies: Mapping[str, str] = field(default_factory=dict)

    @property
    def body(self) -> Any:
        return json.loads(self.raw)


class Door:
    """A running server, and a client without a memory for cookies."""

    def __init__(self, listening: Listening, http: aiohttp.ClientSession) -> None:
        self.listening = listening
        self.http = http

    @property
    def address(self) -> str:
        return self.listening.admin

    async def ask(self, method: str, path: str, body: object = None, token: str | None = None, **headers: str) -> Said:
        """Ask, with JSON for all but GET; `token` is the bearer's."""
        sent = {name.replace("_", "-"): value for name, value in headers.items()}
        if token is not None:
            sent["Authorization"] = f"Bearer {token}"
        if method in ("GET", "HEAD"):
            request = self.http.request(method, path, headers=sent)
        else:
            request = self.http.request(method, path, headers=sent, json={} if body is None else body)
        async with asyncio.timeout(LIMIT_S), request as answer:
            cookies = {name: morsel.value for name, morsel in answer.cookies.items()}
            return Said(answer.status, answer.headers, await answer.text(), cookies)

    async def token(self, name: str, role: str, *services: str, by: str | None = ROOT_TOKEN, **more: object) -> str:
        """Have a token made; return its secret."""
        body = {"name": name, "role": role, "services": list(services), **more}
        said = await self.ask("POST", "/v1/tokens", body, by)
        assert said.status == 201, said.raw
        return str(said.body["token"])

    async def login(self, token: str) -> "Page":
        """Log in as the page does."""
        said = await self.ask("POST", "/v1/session", {"token": token})
        assert said.status == 201, said.raw
        return Page(self, said.cookies["rollout_session"], said.body["csrf"])


@dataclass(frozen=True, slots=True)
class Page:
    """A browser that has logged in."""

    door: Door
    cookie: str
    csrf: str

    async def ask(self, method: str, path: str, body: object = None, **headers: str) -> Said:
        sent = {"Cookie": f"rollout_session={self.cookie}", "X_CSRF_Token": self.csrf, **headers}
        return await self.door.ask(method, path, body, **sent)


@contextlib.asynccontextmanager
async def running(given: Settings, ssl: Any = True) -> AsyncIterator[Door]:
    listening: asyncio.Future[Listening] = asyncio.get_running_loop().create_future()
    async with asyncio.TaskGroup() as group:
        server = group.create_task(serve(given, listening.set_result))
        await asyncio.wait((server, listening), return_when=asyncio.FIRST_COMPLETED, timeout=LIMIT_S)
        if not server.done():
            found = listening.result()
            url = f"{found.admin_scheme}://{found.admin}"
            jar, connector = aiohttp.DummyCookieJar(), aiohttp.TCPConnector(ssl=ssl, limit=0)
            async with aiohttp.ClientSession(url, cookie_jar=jar, connector=connector) as http:
                yield Door(found, http)
            server.cancel()


async def ask_from(source: str, door: Door, method: str, path: str, headers: Mapping[str, str]) -> tuple[int, Any]:
    """Ask from another address of this host; return the status and the JSON."""
    connector = aiohttp.TCPConnector(local_addr=(source, 0))
    sent = {"Content-Type": "application/json", **headers}
    data = None if method == "GET" else b'{"version": "v1"}'
    async with (
        aiohttp.ClientSession(f"http://{door.address}", connector=connector) as http,
        asyncio.timeout(LIMIT_S),
        http.request(method, path, data=data, headers=sent) as answer,
    ):
        return answer.status, await answer.json(content_type=None)
