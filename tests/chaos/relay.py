"""A TCP relay that can hang and refuse: what a network, or a program that does not answer, looks like from outside."""

import asyncio
import contextlib
from types import TracebackType
from typing import Self

CHUNK_BYTES = 64 * 1024


class Relay:
    """Passes bytes on to `target` (HOST:PORT) until it is told otherwise; `address` is where it listens."""

    def __init__(self, target: str = "") -> None:
        self.target = target
        self.address = ""
        self._moving = asyncio.Event()
        self._moving.set()
        self._server: asyncio.Server | None = None
        self._open: dict[asyncio.StreamWriter, asyncio.Task[None] | None] = {}

    def stall(self) -> None:
        """Take connections and bytes from now on, and pass nothing on: nobody is told that anything is wrong."""
        self._moving.clear()

    def go_on(self) -> None:
        """Pass on what is waiting, and what comes."""
        self._moving.set()

    async def refuse(self) -> None:
        """Cut all connections, and take none."""
        assert self._server is not None
        self._server.close()
        for writer in tuple(self._open):
            writer.transport.abort()

    async def listen(self) -> None:
        """Take connections, on the same port as before."""
        port = int(self.address.rpartition(":")[2] or 0)
        self._server = await asyncio.start_server(self._relay, "127.0.0.1", port)
        self.address = f"127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    async def _relay(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._open[writer] = asyncio.current_task()
        host, _, port = self.target.rpartition(":")
        with contextlib.suppress(OSError, asyncio.CancelledError):
            await self._moving.wait()
            there, beyond = await asyncio.open_connection(host, int(port))
            self._open[beyond] = None
            try:
                async with asyncio.TaskGroup() as group:
                    group.create_task(self._pump(reader, beyond))
                    group.create_task(self._pump(there, writer))
            except* OSError:
                pass
            finally:
                del self._open[beyond]
                beyond.transport.abort()
        del self._open[writer]
        writer.transport.abort()

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while chunk := await reader.read(CHUNK_BYTES):
            await self._moving.wait()
            writer.write(chunk)
            await writer.drain()
        raise ConnectionResetError  # ends the other direction, too

    async def __aenter__(self) -> Self:
        await self.listen()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.refuse()
        tasks = [task for task in self._open.values() if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
