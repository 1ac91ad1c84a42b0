"""Processes of a measurement, and the lines of JSON by which they are asked and answer."""

import asyncio
import contextlib
import json
import resource
import sys
from collections.abc import AsyncIterator, Mapping
from typing import Any, Self

REPLY_LIMIT = 16 * 1024 * 1024


class Child:
    """A process of ours. `async with` starts it and ends it."""

    def __init__(self, module: str, *arguments: str) -> None:
        self._command = (sys.executable, "-m", module, *arguments)

    async def __aenter__(self) -> Self:
        pipe = asyncio.subprocess.PIPE
        self._process = await asyncio.create_subprocess_exec(*self._command, stdin=pipe, stdout=pipe, limit=REPLY_LIMIT)
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        try:
            async with asyncio.timeout(10):
                await self._process.wait()
        except TimeoutError:
            with contextlib.suppress(ProcessLookupError):
                self._process.kill()
            await self._process.wait()

    async def reply(self, timeout_s: float) -> Any:
        """Return its next line. Raises EOFError when it has ended, TimeoutError when it says nothing in time."""
        assert self._process.stdout is not None
        async with asyncio.timeout(timeout_s):
            line = await self._process.stdout.readline()
        if not line:
            raise EOFError(f"{' '.join(self._command[1:])} ended; its error is above")
        return json.loads(line)

    async def ask(self, question: Mapping[str, object], timeout_s: float = 60) -> Any:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(question).encode() + b"\n")
        return await self.reply(timeout_s)


async def questions() -> AsyncIterator[Any]:
    """Yield what a process is asked, until its stdin is closed."""
    reader = asyncio.StreamReader(limit=REPLY_LIMIT)
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    while line := await reader.readline():
        yield json.loads(line)


def answer(what: Mapping[str, object]) -> None:
    print(json.dumps(what), flush=True)


def raise_file_limit() -> None:
    """Allow as many connections as the system lets this process have."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
