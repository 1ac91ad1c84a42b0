"""A backend of the demo: one real HTTP server, whose version marks every answer, and which may misbehave."""

import argparse
import asyncio
import json
import math
import random
import signal
import sys
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, fields
from pathlib import Path

from aiohttp import web

MARK = "x-backend"
"""The header by which a client knows that a backend, and not a proxy, made the answer; its value is the version."""

KEEPALIVE_S = 7200.0
"""Longer than Envoy's idle timeout of one hour: the proxy must be the one who closes, or it races with us."""

BEHAVIOUR_PATH = "/behaviour"
"""POST the JSON of a Behaviour here, and the backend behaves so from its next request on."""

OUTAGE_SHARE = 0.5
COLD_TIMES = 5.0
STREAM_PIECE_S = 0.1
SHUTDOWN_S = 30.0
BACKLOG = 1024


@dataclass(frozen=True, slots=True)
class Behaviour:
    """How a backend answers; times count from its first request with this behaviour.

    `error_share` of the answers (0 to 1) are 500. Each takes lognormal time with `median_ms` and `sigma`; a median of
    0 is at once. From `hang_after_s` on nothing is answered any more; None: it never hangs. While the file `outage` is
    there, which stands for a dependency that all backends share, half of the answers are 500; "": it has none. In the
    first `cold_s` seconds answers take five times as long, and `cold_error_share` of them are 500.
    """

    error_share: float = 0.0
    median_ms: float = 0.0
    sigma: float = 0.5
    hang_after_s: float | None = None
    outage: str = ""
    cold_s: float = 0.0
    cold_error_share: float = 0.0

    def __post_init__(self) -> None:
        for name in ("error_share", "cold_error_share"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} {getattr(self, name)} is not between 0 and 1")


NAMES = tuple(each.name for each in fields(Behaviour))


def option(name: str) -> str:
    """How a behaviour is called on the command line."""
    return f"--{name.replace('_', '-')}"


@dataclass(frozen=True, slots=True)
class BackendSettings:
    """What one backend is started with."""

    version: str
    host: str = "127.0.0.1"
    port: int = 0
    behaviour: Behaviour = Behaviour()
    port_file: Path | None = None


class Conduct:
    """A behaviour as it is lived: when it began, and what the next request gets. The latest one counts."""

    def __init__(self, behaviour: Behaviour) -> None:
        self._behaviour = behaviour
        self._first_s: float | None = None

    def change(self, behaviour: Behaviour) -> None:
        """From the next request on."""
        self._behaviour, self._first_s = behaviour, None

    async def status(self) -> int:
        """Take the time that the answer takes, for ever if it hangs; the answer's status."""
        behaviour, now_s = self._behaviour, time.monotonic()
        self._first_s = now_s if self._first_s is None else self._first_s
        age_s = now_s - self._first_s
        if behaviour.hang_after_s is not None and age_s >= behaviour.hang_after_s:
            await asyncio.Event().wait()
        cold = age_s < behaviour.cold_s
        if behaviour.median_ms > 0:
            median_s = behaviour.median_ms / 1000 * (COLD_TIMES if cold else 1)
            await asyncio.sleep(random.lognormvariate(math.log(median_s), behaviour.sigma))
        share = behaviour.cold_error_share if cold else behaviour.error_share
        if behaviour.outage and Path(behaviour.outage).exists():  # noqa: ASYNC240  # a stat of a few microseconds
            share = max(share, OUTAGE_SHARE)
        return 500 if random.random() < share else 200


def application(settings: BackendSettings) -> web.Application:
    """The server's paths: `/`, `/fast`, `/slow?ms=`, `/stream?ms=`, and `/healthz`, which is always well."""
    conduct = Conduct(settings.behaviour)

    async def fast(_request: web.Request) -> web.Response:
        return web.Response(status=await conduct.status(), text=f"{settings.version}\n")

    async def slow(request: web.Request) -> web.Response:
        await asyncio.sleep(duration_s(request, otherwise_ms=800))
        return web.Response(status=await conduct.status(), text=f"{settings.version}\n")

    async def stream(request: web.Request) -> web.StreamResponse:
        return await send_pieces(request, settings.version, duration_s(request, otherwise_ms=1500))

    async def change(request: web.Request) -> web.Response:
        conduct.change(behaviour_of(await request.text()))
        return web.Response(text="ok\n")

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
    app.add_routes([web.post(BEHAVIOUR_PATH, change)])
    app.on_response_prepare.append(mark)
    return app


def behaviour_of(text: str) -> Behaviour:
    """Read the JSON of a behaviour; what it leaves out is as in a good one."""
    try:
        return Behaviour(**json.loads(text))
    except (TypeError, ValueError) as error:
        raise web.HTTPBadRequest(text=f"{error}; give an object with any of {', '.join(NAMES)}\n") from error


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


def main() -> None:
    """Run one backend as the command line says."""
    parser = argparse.ArgumentParser(prog="python -m rollout.demo.backend", description=Behaviour.__doc__)
    parser.add_argument("--version", required=True, help=f"what the header {MARK} of each answer says")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=0, help="0: a free one, which is printed")
    parser.add_argument("--port-file", type=Path, help="where to write the bound port")
    for name in NAMES:
        kind = str if name == "outage" else float
        parser.add_argument(option(name), type=kind, default=getattr(Behaviour(), name), help="see above")
    given = vars(parser.parse_args())
    try:
        behaviour = Behaviour(**{name: given.pop(name) for name in NAMES})
    except ValueError as error:
        parser.error(str(error))
    asyncio.run(serve(BackendSettings(**given, behaviour=behaviour)))


if __name__ == "__main__":
    main()
