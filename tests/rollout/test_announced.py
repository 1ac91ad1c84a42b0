"""What the log and the probe say while the disk takes nothing: no change is called done that may be lost."""

import asyncio
import sqlite3
from collections.abc import Mapping, Sequence
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import aiohttp
from structlog.testing import capture_logs

from rollout.announced import HELD_LIMIT, Announced
from rollout.demo.processes import until
from rollout.events import of_operation
from rollout.record import Change, Operation, PutOperation
from rollout.saver import Saver, Saving
from rollout.store.folder import DATABASE_NAME
from rollout.store.sqlite import open_store
from tests.rollout.served import Running, running, settings_in

LIMIT_S = 60.0
NOT_YET = "not yet"


def operation(number: int) -> Operation:
    return Operation(datetime(2026, 3, 1, tzinfo=UTC), "checkout", "adopt", "ann", f"v{number}", "done", "root")


def note(done: Operation) -> PutOperation:
    return PutOperation(done, of_operation(done))


def told(logs: Sequence[Mapping[str, Any]]) -> list[tuple[str, str]]:
    """Return what was said of each change, and whether as one that is not saved."""
    return [(each["detail"], each.get("saved", "")) for each in logs if each["event"] == "asked"]


async def test_a_change_is_said_once_it_is_saved_and_refusals_that_are_not_kept_all_the_same(tmp_path: Path) -> None:
    store = await open_store(tmp_path)
    announced: list[Announced] = []

    def done(changes: Sequence[Change]) -> None:
        announced[0].saved(changes)

    saver = Saver(store, lambda: 1.0, lambda _: announced[0].failed(), done)
    with capture_logs() as logs:
        announced.append(Announced(saver))
        announced[0].asked(operation(1))
        saving = saver.put(Saving((note(operation(1)),)))
        announced[0].asked(operation(2))  # too many wait for the disk: it is only in the log
        assert told(logs) == []
        run = asyncio.create_task(saver.run())
        await saver.wait(saving)
        assert told(logs) == [("v1", ""), ("v2", NOT_YET)]
        for number in range(HELD_LIMIT + 1):
            announced[0].asked(operation(100 + number))
        assert told(logs)[2:] == [("v100", NOT_YET)]
    run.cancel()
    await store.close()


async def test_log_and_probe_say_that_nothing_is_saved(tmp_path: Path) -> None:
    settings = settings_in(tmp_path)
    async with running(settings) as server, asyncio.TaskGroup() as group:
        assert await ready(server) is True
        with capture_logs() as logs, closing(sqlite3.connect(settings.data / DATABASE_NAME)) as other:
            other.execute("BEGIN IMMEDIATE")  # nobody else can write
            asking = group.create_task(adopt(server))
            await until(lambda: bool(told(logs)), within_s=LIMIT_S, what="the change in the log")
            assert told(logs) == [("v1", NOT_YET)]
            assert await ready(server) is False
            other.rollback()
            assert await asking in (200, 503)
            await until(lambda: len(told(logs)) > 1, within_s=LIMIT_S, what="the change to be saved")
            assert told(logs) == [("v1", NOT_YET), ("v1", "")]
            assert await ready(server) is True


async def adopt(server: Running) -> int:
    limit = aiohttp.ClientTimeout(total=LIMIT_S)
    async with server.http.post("/v1/services/checkout/adopt", json={"version": "v1"}, timeout=limit) as answer:
        return answer.status


async def ready(server: Running) -> bool:
    async with server.http.get("/readyz") as answer:
        assert answer.status == 200
        return bool((await answer.json())["saving"])
