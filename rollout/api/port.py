"""The admin API's port: where connections come in, what of them is no request, and how long they may keep quiet."""

import asyncio
import logging
import ssl
from http import HTTPStatus
from typing import Any

import structlog
from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError

from rollout.access.strangers import Strangers
from rollout.api.server import problem
from rollout.bootstrap import split_address
from rollout.errors import Unavailable
from xds.limits import Rate, TokenBucket

HANDSHAKE_LIMIT_S = 10.0
KEEPALIVE_S = 75.0  # without a request; proxies in front keep theirs for a minute
GRACE_S = 2.0
TOLD = Rate(per_s=0.1, burst=5)


class Port:
    """Listens. `strangers` hears of each connection."""

    def __init__(self, app: web.Application, strangers: Strangers) -> None:
        logger = logging.Logger("admin", logging.WARNING)  # noqa: LOG001 - nobody else's: what it hears goes here only
        logger.addHandler(_Malformed())
        self._ways: dict[str, Any] = {
            "access_log": None,
            "logger": logger,
            "keepalive_timeout": KEEPALIVE_S,
            "auto_decompress": False,  # aiohttp would unpack what no handler reads, too, and does it on the loop
        }
        self._runner = web.AppRunner(app, shutdown_timeout=GRACE_S, **self._ways)
        self._strangers = strangers
        self._server: asyncio.Server | None = None

    async def start(self, address: str, tls: ssl.SSLContext | None) -> int:
        """Listen; return the port. Raises Unavailable."""
        await self._runner.setup()
        host, port = split_address(address)
        loop, limit_s = asyncio.get_running_loop(), None if tls is None else HANDSHAKE_LIMIT_S
        try:
            self._server = await loop.create_server(self._admit, host, port, ssl=tls, ssl_handshake_timeout=limit_s)
        except OSError as error:
            what = f"cannot listen for the admin API on {address}: {error.strerror}"
            raise Unavailable(f"{what}; is another server running? give --admin another address") from error
        return int(self._server.sockets[0].getsockname()[1])

    async def stop(self) -> None:
        """Take no more connections, and let those that are there end."""
        if self._server is not None:
            self._server.close()
        await self._runner.cleanup()

    def _admit(self) -> asyncio.Protocol:
        assert self._runner.server is not None, "set up before"
        loop = asyncio.get_running_loop()
        protocol = _Connection(self._runner.server, loop=loop, **self._ways)
        self._strangers.came(protocol, loop.time())
        return protocol


class _Connection(web.RequestHandler):
    """Answers what is no HTTP by a problem without a word of it; aiohttp would say what was sent, be it a token."""

    __slots__ = ()

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        super().handle_error(request, status, exc, message)
        detail = "the request is no HTTP/1.1, or its head is too long" if status < 500 else "a bug of the server"
        answer = problem(status, HTTPStatus(status).phrase, detail)
        answer.force_close()
        return answer


class _Malformed(logging.Handler):
    """Tells of what is no HTTP in a line, and not always; aiohttp would tell what was sent, be it a token."""

    def __init__(self) -> None:
        super().__init__()
        self._told = TokenBucket()

    def emit(self, record: logging.LogRecord) -> None:
        error = record.exc_info[1] if record.exc_info else None
        if not isinstance(error, HttpProcessingError):
            structlog.get_logger().error("bug", reason=record.getMessage(), exc_info=record.exc_info)
        elif self._told.try_take(TOLD, record.created):
            address = str(record.args[0]) if isinstance(record.args, tuple) and record.args else ""
            structlog.get_logger().warning("malformed request", address=address, reason=type(error).__name__)
