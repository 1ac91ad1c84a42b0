"""A Consul of our own, as far as its health endpoint goes: blocking queries, checks, tags, tokens, stale answers."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web

SERVICE = "/v1/health/service/{service}"
WAIT_LIMIT_S = 600.0


@dataclass
class Instance:
    """One registered instance of a service."""

    host: str
    port: int
    passing: bool = True
    tags: tuple[str, ...] = ()
    meta: dict[str, str] = field(default_factory=dict)
    node_meta: dict[str, str] = field(default_factory=dict)
    node_address: str = ""

    def document(self) -> dict[str, Any]:
        node = {"Node": "n1", "Address": self.node_address or self.host, "Datacenter": "dc1", "Meta": self.node_meta}
        service = {"ID": f"{self.host}-{self.port}", "Address": "" if self.node_address else self.host}
        checks = [{"CheckID": "web", "Status": "passing" if self.passing else "critical"}]
        return {"Node": node, "Service": {**service, "Port": self.port, "Meta": self.meta}, "Checks": checks}


@dataclass
class ConsulServer:
    """Answers queries; each change raises `index` and ends those that wait. `asked` has the query of each.

    `stale_ms` is what an answer in stale mode says of its age; `leader` whether there is one; `status` what it answers
    in place of the truth, with the words `said`.
    """

    instances: tuple[Instance, ...] = ()
    index: int = 10
    token: str = ""
    stale_ms: int = 0
    leader: bool = True
    status: int = 200
    said: str = "rpc error"
    asked: list[dict[str, str]] = field(default_factory=list)
    waiting: int = 0
    url: str = ""
    _changed: asyncio.Event = field(default_factory=asyncio.Event)

    def register(self, *instances: Instance) -> None:
        """Have just these; who waits is answered."""
        self.instances = instances
        self.index += 1
        self.nudge()

    def nudge(self) -> None:
        """End the queries that wait."""
        self._changed.set()
        self._changed = asyncio.Event()

    async def answer(self, request: web.Request) -> web.Response:
        query = request.query
        self.asked.append(dict(query))
        if self.token and request.headers.get("X-Consul-Token") != self.token:
            return web.Response(status=403, text="Permission denied: token with AccessorID lacks permission")
        if self.status != 200:
            return web.Response(status=self.status, text=self.said)
        if int(query.get("index", "0")) >= self.index:
            await self._wait(float(query["wait"].removesuffix("s")))
        stale = "stale" in query
        headers = {
            "X-Consul-Index": str(self.index),
            "X-Consul-KnownLeader": str(self.leader).lower(),
            "X-Consul-LastContact": str(self.stale_ms if stale else 0),
        }
        tags = set(query.getall("tag", ()))
        found = [each for each in self.instances if tags <= set(each.tags)]
        found = [each for each in found if each.passing or "passing" not in query]
        return web.json_response([each.document() for each in found], headers=headers)

    async def _wait(self, seconds: float) -> None:
        self.waiting += 1
        try:
            async with asyncio.timeout(min(seconds, WAIT_LIMIT_S)):
                await self._changed.wait()
        except TimeoutError:
            pass
        finally:
            self.waiting -= 1


@contextlib.asynccontextmanager
async def consul_server() -> AsyncIterator[ConsulServer]:
    """Yield a Consul on a port of its own."""
    server, app = ConsulServer(), web.Application()
    app.router.add_get(SERVICE, server.answer)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    server.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    try:
        yield server
    finally:
        server.nudge()
        await runner.cleanup()
