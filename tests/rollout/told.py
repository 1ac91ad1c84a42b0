"""Somebody who is told, over real HTTP, and an office that tells from a real store."""

import asyncio
import contextlib
import threading
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from rollout.feed import Feed
from rollout.happenings import Event, EventKind, Severity
from rollout.notify.office import Office, Surroundings
from rollout.record import PutEvent
from rollout.saver import Saver, Saving
from rollout.store.chronicle import SqliteChronicle
from rollout.store.sqlite import open_store

AT = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
DETAIL = {"stable": "v1", "candidate": "v2", "phase": "rolled_back", "stage": 1, "weight_percent": 10.0}


def event(number: int = 0, **changes: Any) -> Event:
    words = {
        "at": AT,
        "kind": EventKind.ROLLED_BACK,
        "severity": Severity.WARNING,
        "service": "checkout",
        "rollout": 3,
        "text": f"checkout: rollout 3 was rolled back: number {number}",
        "detail": {**DETAIL, "reason": "errors 9 % against 0.1 %"},
    }
    return Event(**{**words, **changes})


@dataclass
class Receiver:
    """What was sent to an HTTP server: the path and the body of each request. While it hangs it answers nobody.

    One that `drips` answers without an end, which no timeout of a read ever finds.
    """

    port: int = 0
    status: int = 200
    drips: bool = False
    got: list[tuple[str, bytes]] = field(default_factory=list)
    free: threading.Event = field(default_factory=threading.Event)

    def bodies(self) -> list[str]:
        return [body.decode() for _, body in self.got]


@contextlib.contextmanager
def receiving() -> Iterator[Receiver]:
    receiver = Receiver()
    receiver.free.set()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            receiver.got.append((self.path, body))
            receiver.free.wait(30)
            with contextlib.suppress(OSError):
                if receiver.drips:
                    self._drip()
                    return
                self.send_response(receiver.status)
                self.send_header("Content-Length", "2")
                self.end_headers()
                self.wfile.write(b"{}")

        def _drip(self) -> None:
            self.send_response(200)
            self.send_header("Content-Length", "1000000")
            self.end_headers()
            ended = threading.Event()
            while receiver.drips:
                self.wfile.write(b"x")
                ended.wait(0.1)

        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - its name there
            pass

    class Server(ThreadingHTTPServer):
        daemon_threads = True

    with Server(("127.0.0.1", 0), Handler) as http:
        receiver.port = http.server_port
        thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield receiver
        finally:
            receiver.free.set()
            receiver.drips = False
            http.shutdown()
            thread.join()


@dataclass
class Bench:
    """An office with a feed, on a real store."""

    office: Office
    saver: Saver
    feed: Feed

    async def happens(self, *events: Event) -> None:
        saving = self.saver.put(Saving(tuple(map(PutEvent, events))))
        await self.saver.wait(saving)


@contextlib.asynccontextmanager
async def telling(folder: Path, text: str) -> AsyncIterator[Bench]:
    """Yield an office that goes by this file, with what is kept in the folder."""
    (folder / "notify.yaml").write_text(text)
    store = await open_store(folder)
    feed = Feed(SqliteChronicle(folder))
    saver = Saver(store, time.monotonic, lambda _: None, feed.saved)
    around = Surroundings(feed, saver, time.monotonic, lambda: datetime.now(UTC), "https://rollout.example.com")
    office = Office(folder / "notify.yaml", around)
    try:
        contents = await store.load()
        await feed.open()
        await office.open(contents.cursors)
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(each()) for each in (saver.run, feed.run, office.run)]
            yield Bench(office, saver, feed)
            for task in tasks:
                task.cancel()
    finally:
        await store.close()
