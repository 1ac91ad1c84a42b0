"""What versions have done is remembered beside all else, one row for each, and goes with its version."""

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from sqlite_utils import Database

from rollout.errors import Unavailable
from rollout.gate import Histogram
from rollout.gate.sample import Host
from rollout.history import History, Window
from rollout.record import DropVersion, PutHistory, VersionHistory
from rollout.store.folder import DATABASE_NAME
from rollout.store.schema import MIGRATIONS
from rollout.store.sqlite import open_store

HOSTS = {"10.0.0.1:80": Host(30, 6), "10.0.0.2:80": Host(30, 0)}


def history(requests: int = 60) -> History:
    latency = Histogram.of(((0.0, 0.0, 3), (5.0, 0.1, 40), (20.0, 1.0, requests - 43)))
    return History().after(Window(9.7, requests, 6, 1, latency, HOSTS, grpc_answers=5, grpc_faults=2, fleet=3.5))


def of(version: str, requests: int = 60, service: str = "checkout") -> VersionHistory:
    return VersionHistory(service, version, history(requests))


async def test_histories_come_back_as_they_were_saved(tmp_path: Path) -> None:
    store = await open_store(tmp_path)
    await store.save([PutHistory(of("v2")), PutHistory(of("v1")), PutHistory(of("v1", 50, "cart"))], engine_s=1.0)
    await store.close()

    store = await open_store(tmp_path)
    assert (await store.load()).histories == (of("v1", 50, "cart"), of("v1"), of("v2"))
    await store.close()


async def test_a_version_has_one_history_the_newest(tmp_path: Path) -> None:
    store = await open_store(tmp_path)
    for requests in range(50, 60):
        await store.save([PutHistory(of("v1", requests))], engine_s=1.0)
    assert (await store.load()).histories == (of("v1", 59),)
    await store.close()


async def test_a_history_goes_with_its_version(tmp_path: Path) -> None:
    store = await open_store(tmp_path)
    await store.save([PutHistory(of("v1")), PutHistory(of("v2")), PutHistory(of("v1", 50, "cart"))], engine_s=1.0)
    await store.save([DropVersion("checkout", "v1")], engine_s=2.0)
    assert (await store.load()).histories == (of("v1", 50, "cart"), of("v2"))
    await store.close()


async def test_a_database_of_the_first_format_is_taken_up(tmp_path: Path) -> None:
    with closing(sqlite3.connect(tmp_path / DATABASE_NAME)) as connection:
        MIGRATIONS[0](Database(connection))
        connection.execute("PRAGMA user_version = 1")
        connection.commit()

    store = await open_store(tmp_path)
    await store.save([PutHistory(of("v1"))], engine_s=1.0)
    assert (await store.load()).histories == (of("v1"),)
    await store.close()
    with closing(sqlite3.connect(tmp_path / DATABASE_NAME)) as database:
        assert database.execute("PRAGMA user_version").fetchone() == (len(MIGRATIONS),)


async def test_a_history_that_nobody_saved_is_refused_with_where_it_lies(tmp_path: Path) -> None:
    store = await open_store(tmp_path)
    await store.save([PutHistory(of("v1"))], engine_s=1.0)
    with closing(sqlite3.connect(tmp_path / DATABASE_NAME)) as database, database:
        database.execute("UPDATE histories SET history = '[]'")
    with pytest.raises(Unavailable, match=f"cannot read {tmp_path / DATABASE_NAME}: it holds what no rollout saves"):
        await store.load()
    await store.close()
