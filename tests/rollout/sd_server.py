"""An endpoint in the http_sd format: targets that a test sets, an ETag, faults."""

import contextlib
import hashlib
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web


@dataclass
class SdServer:
    """Answers `document`, or `raw` where that is set. `answered` has the status of each answer."""

    document: Any = field(default_factory=list)
    raw: bytes | None = None
    content_type: str = "application/json"
    status: int = 200
    key: str = ""
    answered: list[int] = field(default_factory=list)
    url: str = ""

    def targets(self, *targets: str, **labels: str) -> None:
        self.document = [{"targets": list(targets), "labels": labels}]

    async def answer(self, request: web.Request) -> web.Response:
        response = self._answer(request)
        self.answered.append(response.status)
        return response

    def _answer(self, request: web.Request) -> web.Response:
        if self.key and request.headers.get("Authorization") != self.key:
            return web.Response(status=401)
        body = self.raw if self.raw is not None else json.dumps(self.document).encode()
        etag = f'"{hashlib.sha256(body).hexdigest()}"'
        if request.headers.get("If-None-Match") == etag:
            return web.Response(status=304)
        return web.Response(body=body, status=self.status, content_type=self.content_type, headers={"ETag": etag})


@contextlib.asynccontextmanager
async def sd_server() -> AsyncIterator[SdServer]:
    """Yield an endpoint on a port of its own."""
    server, app = SdServer(), web.Application()
    app.router.add_get("/targets", server.answer)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    server.url = f"http://127.0.0.1:{runner.addresses[0][1]}/targets"
    try:
        yield server
    finally:
        await runner.cleanup()
