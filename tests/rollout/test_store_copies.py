"""`rollout store`: a database is looked through and copied while a server writes to it, and put back when none does."""

import asyncio
import contextlib
import json
import os
import sqlite3
import stat
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from rollout.cli import app
from rollout.errors import Conflict
from rollout.machine import advance
from rollout.record import Contents, PutNodes, PutRollout, PutService, Rollout, Service
from rollout.spec import Strategy
from rollout.state import Role, Seen, Split, start
from rollout.store import Store
from rollout.store.copies import copy
from rollout.store.schema import MIGRATIONS
from rollout.store.sqlite import open_store

NOON = datetime(2025, 6, 1, 12, 0, tzinfo=UTC)
FIRST = Rollout("checkout", 1, "v1", "v2", Strategy(), start(1.0, "deployed by ann"), 1, NOON, NOON)
SEEN = Seen(2.0, connected=1, fleet=1, served=Split(0, frozenset({Role.STABLE})))
WARMING = replace(FIRST, revision=2, state=advance(FIRST.strategy, FIRST.state, SEEN)[0])


@asynccontextmanager
async def opened(folder: Path) -> AsyncIterator[Store]:
    store = await open_store(folder)
    try:
        yield store
    finally:
        await store.close()


async def filled(folder: Path) -> Contents:
    """A rollout in its second step, as a server leaves it; return what a server would find."""
    async with opened(folder) as store:
        await store.save([PutService(Service("checkout", "v1")), PutRollout(FIRST, None)], engine_s=1.0)
        await store.save([PutRollout(WARMING, SEEN), PutNodes(("envoy-1",))], engine_s=2.0)
        return await store.load()


async def loaded(folder: Path) -> Contents:
    async with opened(folder) as store:
        return await store.load()


def names(folder: Path) -> list[str]:
    return sorted(each.name for each in folder.iterdir())


def call(*words: object) -> Result:
    return CliRunner().invoke(app, ["store", *map(str, words)])


def told(result: Result) -> dict[str, Any]:
    return dict(json.loads(result.stdout))


async def test_check_says_what_is_in_a_database_and_that_its_journals_replay(tmp_path: Path) -> None:
    await filled(tmp_path)
    before = (tmp_path / "rollout.db").read_bytes()
    result = await asyncio.to_thread(call, "check", "--data", tmp_path)
    assert result.exit_code == 0, result.output
    assert "no server uses it" in result.stdout
    assert "1 service, 0 versions, 1 rollout, 1 envoy" in result.stdout
    assert "in progress: checkout/1 warming" in result.stdout
    assert "2 steps of journals; 1 rollout the same" in result.stdout
    assert "whole" in result.stdout
    assert (tmp_path / "rollout.db").read_bytes() == before


async def test_check_names_the_server_that_uses_a_database(tmp_path: Path) -> None:
    await filled(tmp_path)
    async with opened(tmp_path) as store:
        await store.save([PutNodes(("envoy-1", "envoy-2"))], engine_s=3.0)  # in the write-ahead log only
        result = await asyncio.to_thread(call, "check", "--data", tmp_path, "--json")
        assert result.exit_code == 0, result.output
        assert {name: told(result)[name] for name in ("server", "envoys")} == {"server": str(os.getpid()), "envoys": 2}
        await store.save([PutNodes(())], engine_s=4.0)  # nothing was held


async def test_check_tells_a_step_that_comes_out_otherwise(tmp_path: Path) -> None:
    await filled(tmp_path)
    with closing(sqlite3.connect(tmp_path / "rollout.db")) as other, other:
        other.execute("""UPDATE journal SET state = json_set(state, '$.reason', 'a whim') WHERE revision = 2""")
    result = await asyncio.to_thread(call, "check", "--data", tmp_path)
    assert result.exit_code == 1
    assert "otherwise: checkout/1, step 2: reason: a whim / " in result.stdout


@pytest.mark.parametrize("damage", ["overwritten", "cut", "another file"])
async def test_what_is_damaged_is_told_and_left_as_it_is(tmp_path: Path, damage: str) -> None:
    await filled(tmp_path)
    file = tmp_path / "rollout.db"
    whole = file.read_bytes()
    half = len(whole) // 2 // 4096 * 4096
    broken = {
        "overwritten": whole[:half] + b"\x55" * 4096 + whole[half + 4096 :],
        "cut": whole[:half],
        "another file": b"not a database, but long enough to be one" * 100,
    }[damage]
    file.write_bytes(broken)
    result = await asyncio.to_thread(call, "check", "--data", tmp_path)
    assert result.exit_code == 1
    assert "damaged: " in result.stdout
    assert "rollout store restore" in result.stdout
    assert (await asyncio.to_thread(call, "check", "--data", tmp_path, "--json")).exit_code == 1
    copied = await asyncio.to_thread(call, "backup", "--data", tmp_path, tmp_path / "backup.db")
    assert (copied.exit_code, (tmp_path / "backup.db").exists()) == (1, False)
    assert file.read_bytes() == broken


async def test_check_of_nothing_makes_nothing(tmp_path: Path) -> None:
    result = await asyncio.to_thread(call, "check", "--data", tmp_path / "data")
    assert result.exit_code == 1
    assert f"there is no database {tmp_path / 'data' / 'rollout.db'}" in result.output
    assert names(tmp_path) == []


async def test_check_of_another_format_says_which(tmp_path: Path) -> None:
    await filled(tmp_path)
    with closing(sqlite3.connect(tmp_path / "rollout.db")) as connection:
        connection.execute("PRAGMA user_version = 999")
    result = await asyncio.to_thread(call, "check", "--data", tmp_path)
    assert result.exit_code == 1
    assert f"its format is 999, this version knows up to {len(MIGRATIONS)}" in result.output


async def test_a_backup_is_one_moment_of_a_server_that_goes_on_saving(tmp_path: Path) -> None:
    data, target = tmp_path / "data", tmp_path / "backup.db"
    await filled(data)
    async with opened(data) as store:
        saves = 0

        async def save() -> None:
            nonlocal saves
            while True:
                saves += 1
                await store.save([PutNodes((f"envoy-{saves}",)), PutService(Service("n", str(saves)))], engine_s=9.0)

        saving = asyncio.ensure_future(save())
        try:
            result = await asyncio.to_thread(call, "backup", "--data", data, target)
        finally:
            saving.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await saving
        assert result.exit_code == 0, result.output
    assert stat.S_IMODE(target.stat().st_mode) == 0o600
    assert names(tmp_path) == ["backup.db", "data"]
    copied = tmp_path / "copied"
    copied.mkdir()
    copy(target, copied / "rollout.db")
    contents = await loaded(copied)
    assert contents.rollouts == (WARMING,)
    number = next((each.stable for each in contents.services if each.name == "n"), None)
    assert contents.nodes == (("envoy-1",) if number is None else (f"envoy-{number}",))


async def test_a_backup_overwrites_nothing(tmp_path: Path) -> None:
    await filled(tmp_path)
    (tmp_path / "precious").write_text("all I have")
    result = await asyncio.to_thread(call, "backup", "--data", tmp_path, tmp_path / "precious")
    assert result.exit_code == 1
    assert f"{tmp_path / 'precious'} exists already" in result.output
    assert (tmp_path / "precious").read_text() == "all I have"
    nowhere = await asyncio.to_thread(call, "backup", "--data", tmp_path, tmp_path / "no" / "folder.db")
    assert (nowhere.exit_code, "No such file" in nowhere.output) == (1, True)


@pytest.mark.parametrize("state", ["whole", "damaged", "missing"])
async def test_a_backup_is_put_back_and_what_was_there_is_kept(tmp_path: Path, state: str) -> None:
    data, target = tmp_path / "data", tmp_path / "backup.db"
    before = await filled(data)
    copy(data / "rollout.db", target)
    file = data / "rollout.db"
    async with opened(data) as store:
        await store.save([PutNodes(("later",))], engine_s=9.0)
    if state == "damaged":
        file.write_bytes(b"\x55" * 8192)
    if state == "missing":
        file.unlink()
    result = await asyncio.to_thread(call, "restore", "--data", data, target, "--json")
    assert result.exit_code == 0, result.output
    assert await loaded(data) == before
    aside = told(result)["before"]
    assert (aside is None) is (state == "missing")
    if state == "whole":
        again = await asyncio.to_thread(call, "restore", "--data", data, aside)
        assert again.exit_code == 0, again.output
        assert (await loaded(data)).nodes == ("later",)


async def test_a_backup_is_not_put_under_a_running_server(tmp_path: Path) -> None:
    data, target = tmp_path / "data", tmp_path / "backup.db"
    await filled(data)
    copy(data / "rollout.db", target)
    async with opened(data) as store:
        result = await asyncio.to_thread(call, "restore", "--data", data, target)
        assert result.exit_code == 1
        assert f"in use by another server (pid {os.getpid()})" in result.output
        await store.save([PutNodes(("later",))], engine_s=9.0)
    assert (await loaded(data)).nodes == ("later",)


@pytest.mark.parametrize(("text", "says"), [(b"\x55" * 8192, "damaged"), (None, "there is no file")])
async def test_what_is_no_backup_is_not_put_back(tmp_path: Path, text: bytes | None, says: str) -> None:
    data, target = tmp_path / "data", tmp_path / "backup.db"
    before = await filled(data)
    if text is not None:
        target.write_bytes(text)
    result = await asyncio.to_thread(call, "restore", "--data", data, target)
    assert (result.exit_code, says in result.output) == (1, True)
    assert await loaded(data) == before
    assert "rollout.db.coming" not in names(data)


async def test_the_refusal_of_a_damaged_database_names_the_ways_out(tmp_path: Path) -> None:
    (tmp_path / "rollout.db").write_bytes(b"\x55" * 8192)
    with pytest.raises(Exception, match="damaged") as refusal:
        await open_store(tmp_path)
    assert not isinstance(refusal.value, Conflict)
    assert f"rollout store check --data {tmp_path}" in str(refusal.value)
    assert "rollout store restore" in str(refusal.value)
