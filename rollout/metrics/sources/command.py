"""A program from the server's own folder, run within bounds; as a source of a check its exit code is the value."""

import asyncio
import contextlib
import os
import signal
import stat
from collections.abc import AsyncIterator, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from rollout.checks import COMMAND_NAME, CheckSpec
from rollout.errors import InvalidSpec, Unavailable
from rollout.metrics.sources.answer import SAID_CHARACTERS, Answer, plain_line

MAX_OUTPUT_BYTES = 1024 * 1024
DEATH_S = 1.0  # a killed process ends at once, unless it hangs in the kernel
ARRIVAL_S = 0.1  # by then what was written before the end has come through the pipe


@dataclass(frozen=True, slots=True)
class Commands:
    """The folder of programs that strategies may name, None: no commands; `search_path` is their PATH."""

    folder: Path | None
    search_path: str = os.defpath

    def check_folder(self) -> None:
        """Raise InvalidSpec unless the folder is there, and nobody but its owners puts programs into it."""
        if self.folder is None:
            return
        try:
            mode = self.folder.stat().st_mode
        except OSError as error:
            raise InvalidSpec(f"--commands {self.folder}: {error.strerror}; name a folder with programs") from error
        if not stat.S_ISDIR(mode):
            raise InvalidSpec(f"--commands {self.folder} is no folder; name one with programs")
        if mode & stat.S_IWOTH:
            raise InvalidSpec(f"--commands {self.folder}: everybody may write to it; take that away with chmod o-w")

    def check(self, checks: tuple[CheckSpec, ...]) -> None:
        """Raise InvalidSpec when a check has a command that may not be run here."""
        for position, each in enumerate(checks):
            if each.command is not None:
                try:
                    self.find(each.command[0])
                except InvalidSpec as error:
                    raise InvalidSpec(f"checks[{position}].command: {error}") from error

    def find(self, name: str) -> Path:
        """Return a program's path. Raises InvalidSpec unless it lies in the folder itself."""
        if self.folder is None:
            raise InvalidSpec("this server runs no commands; start it with --commands DIR, and put the program there")
        folder = self.folder.resolve()
        path = folder / name
        if COMMAND_NAME.fullmatch(name) is None or not path.is_file() or path.resolve().parent != folder:
            raise InvalidSpec(f"'{name}' is no file in the folder {self.folder} of the server; put the program there")
        if not os.access(path, os.X_OK):
            raise InvalidSpec(f"'{name}' in the folder {self.folder} of the server cannot be run; do chmod +x")
        return path


@dataclass(frozen=True, slots=True)
class Ended:
    """How a program ended: its exit code, where a signal ended it as shells give that, and all that it wrote."""

    code: int
    output: bytes

    @property
    def said(self) -> str:
        """The end of it, as one line of plain text."""
        text = self.output[-4 * SAID_CHARACTERS :].decode(errors="replace")
        return plain_line(text)[-SAID_CHARACTERS:]


@dataclass(frozen=True, slots=True)
class Command:
    """Runs one without a shell, in a process group of its own, which is killed when its time is over.

    It reads `given` on stdin, and has no environment but PATH and `environment`. What it leaves running is its own
    affair.
    """

    commands: Commands
    words: tuple[str, ...]
    environment: Mapping[str, str]
    timeout_s: float
    given: bytes = b""

    async def read(self) -> Answer:
        ended = await self.run()
        return Answer(float(ended.code), ended.said if ended.code else "")

    async def run(self) -> Ended:
        """Run it to its end. Raises Unavailable when it does not come to one by itself."""
        name = self.words[0]
        try:
            code, output = await self._run(self.commands.find(name))
        except TimeoutError as error:
            raise Unavailable(f"{name} did not end within {self.timeout_s:g} s, and was killed") from error
        except InvalidSpec as error:
            raise Unavailable(str(error)) from error
        except OSError as error:
            raise Unavailable(f"{name} cannot be run: {error.strerror}") from error
        if output.too_long:
            raise Unavailable(f"{name} wrote more than {MAX_OUTPUT_BYTES} bytes; have it say less")
        # A signal as shells give it: below 0 it would pass where no failure does.
        return Ended(128 - code if code < 0 else code, output.written)

    async def _run(self, path: Path) -> tuple[int, "_Output"]:
        async with _collected() as (output, write_end):
            with write_end:
                process = await self._started(path, write_end)
            try:
                async with asyncio.timeout(self.timeout_s):
                    code = await process.wait()
            finally:
                await _end(process)
            # What it wrote is there; but something that it has left running may hold the pipe open.
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(ARRIVAL_S):
                    await output.closed.wait()
        return code, output

    async def _started(self, path: Path, write_end: BinaryIO) -> asyncio.subprocess.Process:
        with _readable(self.given) as stdin:
            return await asyncio.create_subprocess_exec(
                path,
                *self.words[1:],
                stdin=stdin,
                stdout=write_end,
                stderr=write_end,
                cwd=path.parent,
                env={"PATH": self.commands.search_path, **self.environment},
                start_new_session=True,
            )


async def _end(process: asyncio.subprocess.Process) -> None:
    """Kill what still runs; one that has ended is left alone, for its number may be another's by now."""
    if process.returncode is not None:
        return
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(DEATH_S):
            await process.wait()


class _Output(asyncio.Protocol):
    """What a command writes; too much of it is not listened to."""

    def __init__(self) -> None:
        self.closed = asyncio.Event()
        self.too_long = False
        self._transport: asyncio.BaseTransport | None = None
        self._written = bytearray()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._written += data
        if len(self._written) > MAX_OUTPUT_BYTES and self._transport is not None:
            self.too_long = True
            self._transport.close()  # which ends most programs, and its timeout the others

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - asyncio calls it so
        self.closed.set()

    @property
    def written(self) -> bytes:
        return bytes(self._written)


@contextlib.contextmanager
def _readable(given: bytes) -> Iterator[BinaryIO]:
    """Yield a file in memory to read from: no program that reads late, or never, can keep us waiting."""
    with os.fdopen(os.memfd_create("stdin"), "wb+", 0) as file:
        file.write(given)
        file.seek(0)
        yield file


@contextlib.asynccontextmanager
async def _collected() -> AsyncIterator[tuple[_Output, BinaryIO]]:
    """Yield what collects output, and the end of the pipe to write to.

    Not asyncio's own pipes: with them a command has not ended while anything that it started still runs.
    """
    read_end, write_end = os.pipe()
    reader, writer = os.fdopen(read_end, "rb", 0), os.fdopen(write_end, "wb", 0)
    transport, output = await asyncio.get_running_loop().connect_read_pipe(_Output, reader)
    try:
        yield output, writer
    finally:
        transport.close()
        await output.closed.wait()
