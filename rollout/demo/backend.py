"""A backend of the demo: one real HTTP server, whose version marks every answer and may fail a share of them."""

import argparse
import asyncio
import random
import signal
import sys
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

from aiohttp import web

MARK = "x-backend"
"""The header by which a client knows that a backend, and not a proxy, made the answer; its value is the version."""

KEEPALIVE_S = 7200.0
"""Longer than Envoy's idle timeout of one hour: the proxy must be the one who closes, or it races with us."""

STREAM_PIECE_S = 0.1
SHUTDOWN_S = 30.0
BACKLOG = 1024


@dataclass(frozen=True, slots=True)
class BackendSettings:
    """What one backend is started with; `error_share` of the answers (0 to 1) are 500."""

    version: str
    host: str = "127.0.0.1"
    port: int = 0
    error_share: float = 0.0
    port_file: Path | None = None


def application(settings: BackendSettings) -> web.Application:
    """The server's paths: `/`, `/fast`, `/slow?ms=`, `/stream?ms=` and `/healthz`, which is always well."""

    def status() -> int:
        return 500 if random.random() < settings.error_share else 200

    async def fast(_request: web.Request) -> web.Response:
        return web.Response(status=status(), text=f"{settings.version}\n")

    async def slow(request: web.Request) -> web.Response:
        await asyncio.sleep(duration_s(request, otherwise_ms=800))
        return web.Response(status=status(), text=f"{settings.version}\n")

    async def stream(request: web.Request) -> web.StreamResponse:
        return await send_pieces(request, settings.version, duration_s(request, otherwise_ms=1500))

    async def healthz(_request: web.Request) -> web.Response:
        return web.Response(text="ok\n")

    async def mark(_request: web.Request, response: web.StreamResponse) -> None:
        response.headers[MARK] = settings.version

    routes: dict[str, Callable[[web.Request], Awaitable[web.StreamResponse]]] = {
        "/": fast,
        "/fast": fast,
        "/slow": slow,
        "/stream": stream,
        "/healthz": healthz,
    }
    app = web.Application()
    app.add_routes([web.get(path, handler) for path, handler in routes.items()])
    app.on_response_prepare.append(mark)
    return app


def duration_s(request: web.Request, *, otherwise_ms: int) -> float:
    """The query's `ms` in seconds."""
    text = request.query.get("ms", str(otherwise_ms))
    if not text.isdecimal():
        raise web.HTTPBadRequest(text=f"ms={text}: give whole milliseconds, such as ms=800\n")
    return int(text) / 1000


async def send_pieces(request: web.Request, version: str, seconds: float) -> web.StreamResponse:
    """Answer in chunks which are spread over `seconds`."""
    response = web.StreamResponse()
    response.enable_chunked_encoding()
    await response.prepare(request)
    pieces = max(1, round(seconds / STREAM_PIECE_S))
    for number in range(pieces):
        await response.write(f"{version} {number}\n".encode())
        await asyncio.sleep(seconds / pieces)
    await response.write_eof()
    return response


async def serve(settings: BackendSettings) -> None:
    """Serve until SIGTERM or SIGINT, then let running requests end; the port is told when requests may come."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    runner = web.AppRunner(
        application(settings), access_log=None, keepalive_timeout=KEEPALIVE_S, shutdown_timeout=SHUTDOWN_S
    )
    await runner.setup()
    try:
        site = web.TCPSite(runner, settings.host, settings.port, backlog=BACKLOG)
        await site.start()
        announce(runner.addresses[0][1], settings.port_file)
        await stop.wait()
    finally:
        await runner.cleanup()


def announce(port: int, port_file: Path | None) -> None:
    """Tell the bound port; the file appears whole or not at all."""
    sys.stdout.write(f"{port}\n")
    sys.stdout.flush()
    if port_file is not None:
        beside = port_file.with_name(f"{port_file.name}.new")
        beside.write_text(f"{port}\n")
        beside.replace(port_file)


def share(text: str) -> float:
    """A share of 0 to 1 from the command line."""
    value = float(text)
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"{text} is not between 0 and 1")
    return value


def main() -> None:
    """Run one backend as the command line says."""
    parser = argparse.ArgumentParser(prog="python -m rollout.demo.backend", description=__doc__)
    parser.add_argument("--version", required=True, help=f"what the header {MARK} of each answer says")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=0, help="0: a free one, which is printed")
    parser.add_argument("--error-share", type=share, default=0.0, help="share of 500 answers, 0 to 1")
    parser.add_argument("--port-file", type=Path, help="where to write the bound port")
    asyncio.run(serve(BackendSettings(**vars(parser.parse_args()))))


if __name__ == "__main__":
    main()
