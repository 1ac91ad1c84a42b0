"""Saved events: what steps, operations and drains tell, in one order, and who follows them."""

import asyncio
import sqlite3
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from rollout.errors import Unknown
from rollout.feed import Feed
from rollout.happenings import Event, EventKind, Severity, Wanted
from rollout.record import PutEvent
from rollout.state import Command, Phase
from rollout.store.chronicle import SqliteChronicle
from rollout.store.copies import GAP_EVENTS, copy, restore
from rollout.store.folder import DATABASE_NAME
from rollout.store.sqlite import open_store
from tests.rollout.operating import ANN, Engine, deployment, running

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
V2 = deployment("v2", "10.0.0.11:80", "10.0.0.12:80")
KIND = EventKind


def event(number: int, service: str = "checkout", severity: Severity = Severity.INFO) -> PutEvent:
    return PutEvent(Event(NOON, KIND.ROLLOUT_PHASE, severity, service, 1, f"event {number}", {"number": number}))


async def save(folder: Path, *changes: PutEvent) -> None:
    store = await open_store(folder)
    await store.save(changes, engine_s=1.0)
    await store.close()


async def told(folder: Path, after: int = 0) -> tuple[Event, ...]:
    return await SqliteChronicle(folder).events(after, 10_000, Wanted())


async def followed(engine: Engine, folder: Path) -> Feed:
    """Have a feed follow an engine, as a server has it."""
    feed = Feed(SqliteChronicle(folder))
    await feed.open()
    engine.controller.outside = replace(engine.controller.outside, saved=feed.saved)
    return feed


async def test_events_of_a_rollout_agree_with_its_journal(tmp_path: Path) -> None:
    async with running(tmp_path) as engine:
        engine.connect()
        await engine.operations.deploy(V2, ANN)
        await engine.completed()
        journal = {each.revision: each for each in await engine.store.journal("checkout", 1)}
    found = await told(tmp_path)
    assert [each.id for each in found] == list(range(1, len(found) + 1))
    mine = [each for each in found if each.rollout == 1]
    assert [each.kind for each in mine if each.kind is not KIND.ROLLOUT_PHASE] == [
        KIND.ROLLOUT_STARTED,
        KIND.ROLLOUT_STAGE,
        KIND.ROLLOUT_STAGE,
        KIND.COMPLETED,
    ]
    for each in mine:
        state = journal[each.detail["revision"]].state
        assert (each.detail["phase"], each.detail["stage"]) == (state.phase, state.stage)
    said = [(each.kind, each.detail["verb"], each.detail["by"]) for each in found if each.kind is KIND.OPERATION]
    assert said[0] == (KIND.OPERATION, "deploy", "ann")


async def test_a_way_back_is_critical_when_the_gate_wants_it_and_a_warning_when_somebody_does(tmp_path: Path) -> None:
    async with running(tmp_path) as engine:
        engine.connect()
        await engine.operations.deploy(V2, ANN)
        await engine.until(Phase.SHIFTING)
        await engine.order(Command.PAUSE)
        await engine.order(Command.ABORT)
        await engine.ended()
    found = {each.kind: each for each in await told(tmp_path)}
    assert found[KIND.ROLLOUT_PAUSED].severity is Severity.NOTICE
    back = found[KIND.ROLLING_BACK]
    assert (back.severity, back.detail["command"], back.detail["by"]) == (Severity.WARNING, "abort", "ann")
    assert (found[KIND.ROLLED_BACK].severity, found[KIND.ROLLED_BACK].service) == (Severity.WARNING, "checkout")


async def test_a_refusal_is_an_event_and_so_is_a_drain(tmp_path: Path) -> None:
    async with running(tmp_path) as engine:
        engine.connect()
        with pytest.raises(Unknown):
            await engine.backends.drain("checkout", "10.0.0.99:80", ANN)
        await engine.backends.drain("checkout", "10.0.0.1:80", ANN)
        for _ in range(30):
            await engine.step(1.0)
    found = await told(tmp_path)
    kinds = [KIND.OPERATION, KIND.BACKEND_DRAINING, KIND.OPERATION, KIND.BACKEND_REMOVED]
    assert [each.kind for each in found] == kinds
    assert [each.severity for each in found if each.kind is KIND.OPERATION] == [Severity.NOTICE, Severity.INFO]


async def test_who_follows_is_woken_when_it_is_saved_and_not_before(tmp_path: Path) -> None:
    async with running(tmp_path) as engine:
        engine.connect()
        feed = await followed(engine, tmp_path)
        async with asyncio.TaskGroup() as group:
            following = group.create_task(feed.run())
            waiting = group.create_task(feed.changed(0))
            await asyncio.sleep(0)
            assert not waiting.done()
            await engine.operations.deploy(V2, ANN)
            async with asyncio.timeout(20):
                await waiting
            assert feed.last >= 1
            first = await feed.read(0)
            assert [each.id for each in first] == list(range(1, feed.last + 1))
            assert await told(tmp_path) == first
            following.cancel()


async def test_a_reader_gets_what_it_wants_and_goes_on_behind_what_it_does_not(tmp_path: Path) -> None:
    await save(
        tmp_path,
        *(event(each, "cart") for each in range(1, 6)),
        event(6, "checkout", Severity.WARNING),
        *(event(each, "cart") for each in range(7, 10)),
    )
    feed = Feed(SqliteChronicle(tmp_path))
    await feed.open()
    page = await feed.page(0, 10, Wanted(services=("checkout",)))
    assert ([each.detail["number"] for each in page.events], page.next) == ([6], 9)
    page = await feed.page(0, 3, Wanted(services=("cart",)))
    assert ([each.detail["number"] for each in page.events], page.next) == ([1, 2, 3], 3)
    page = await feed.page(0, 10, Wanted(least=Severity.WARNING))
    assert [each.detail["number"] for each in page.events] == [6]
    page = await feed.page(0, 10, Wanted(kinds=(KIND.COMPLETED,)))
    assert (page.events, page.next) == ((), 9)
    page = await feed.page(0, 10, Wanted(sees=lambda service: service == "checkout"))
    assert [each.detail["number"] for each in page.events] == [6]
    page = await feed.page_before(10, 2, Wanted(services=("cart",)))
    assert [each.detail["number"] for each in page.events] == [8, 9]
    # From the disk it is the same as from memory.
    chronicle = SqliteChronicle(tmp_path)
    assert await chronicle.events(2, 3, Wanted(services=("cart",))) == await feed.read(2, 3, Wanted(("cart",)))


async def test_old_events_go_their_ids_do_not_come_again_and_a_reader_of_them_is_told(tmp_path: Path) -> None:
    await save(tmp_path, *map(event, range(1, 11)))
    with closing(sqlite3.connect(tmp_path / DATABASE_NAME)) as connection:  # as if many had come since
        connection.execute("UPDATE sqlite_sequence SET seq = 59950 WHERE name = 'events'")
        connection.commit()
    await save(tmp_path, *map(event, range(1, 101)))
    feed = Feed(SqliteChronicle(tmp_path))
    await feed.open()
    assert (feed.oldest, feed.last) == (59_951, 60_050)
    assert await feed.gone(3) == 59_951
    assert await feed.gone(59_950) is None
    assert await feed.gone(60_050) is None
    assert await feed.gone(60_051) == 59_951  # of another database
    with closing(sqlite3.connect(tmp_path / DATABASE_NAME)) as connection:
        connection.execute("DELETE FROM events")
        connection.commit()
    await save(tmp_path, event(1))
    assert [each.id for each in await told(tmp_path)] == [60_051]


async def test_reader_of_what_a_restored_backup_has_not_is_told(tmp_path: Path) -> None:
    await save(tmp_path / "data", *map(event, range(1, 6)))
    copy(tmp_path / "data" / DATABASE_NAME, tmp_path / "backup.db")
    await save(tmp_path / "data", *map(event, range(6, 11)))
    restore(tmp_path / "backup.db", tmp_path / "data")
    await save(tmp_path / "data", *map(event, range(1, 8)))
    feed = Feed(SqliteChronicle(tmp_path / "data"))
    await feed.open()
    fresh = 10 + GAP_EVENTS + 1
    assert [each.id for each in await told(tmp_path / "data")] == [1, 2, 3, 4, 5, *range(fresh, fresh + 7)]
    assert [await feed.gone(heard) for heard in (0, 3, 5, fresh, fresh + 6)] == [None] * 5
    assert [await feed.gone(heard) for heard in (6, 10, fresh - 1, fresh + 7)] == [1] * 4
    assert await feed.read(5, 2) == (await told(tmp_path / "data"))[5:7]
