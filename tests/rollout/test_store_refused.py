"""A database that this version cannot use is refused, and left as it is."""

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from rollout.errors import Conflict, RolloutError, Unavailable
from rollout.record import PutRollout
from rollout.store.sqlite import open_store
from tests.rollout.test_store import SEEN, child, opened, rollout, said


async def assert_refused_untouched(folder: Path, error: type[RolloutError], message: str) -> None:
    database = folder / "rollout.db"
    before = database.read_bytes()
    with pytest.raises(error, match=message) as refusal:
        await open_store(folder)
    assert str(database) in str(refusal.value)
    assert database.read_bytes() == before
    with pytest.raises(error, match=message):
        await open_store(folder)  # the lock was let go of


async def test_a_database_of_a_newer_version_is_refused(tmp_path: Path) -> None:
    async with opened(tmp_path):
        pass
    with closing(sqlite3.connect(tmp_path / "rollout.db")) as connection:
        connection.execute("PRAGMA user_version = 999")
    await assert_refused_untouched(tmp_path, Conflict, "newer version of rollout .*format is 999.*give --data another")


async def test_a_killed_server_of_a_newer_version_is_refused_by_its_write_ahead_log(tmp_path: Path) -> None:
    newer = "import os, sqlite3, sys; connection = sqlite3.connect(sys.argv[1]); "
    newer += "connection.execute('PRAGMA user_version = 999'); print('set', flush=True); os.kill(os.getpid(), 9)"
    async with opened(tmp_path):
        pass
    with child(newer, tmp_path / "rollout.db") as process:
        assert said(process) == "set"
        process.wait(timeout=30)
    assert (tmp_path / "rollout.db-wal").stat().st_size > 0
    await assert_refused_untouched(tmp_path, Conflict, "newer version of rollout")
    assert (tmp_path / "rollout.db-wal").stat().st_size > 0


async def test_a_database_of_another_program_is_refused(tmp_path: Path) -> None:
    with closing(sqlite3.connect(tmp_path / "rollout.db")) as connection:
        connection.execute("CREATE TABLE songs (title TEXT)")
    await assert_refused_untouched(tmp_path, Conflict, "another program's; give --data another folder")


async def test_a_file_that_is_no_database_is_refused(tmp_path: Path) -> None:
    (tmp_path / "rollout.db").write_bytes(b"not a database, but long enough to be one" * 100)
    await assert_refused_untouched(tmp_path, Unavailable, "damaged: file is not a database; restore a backup")


@pytest.mark.parametrize("damage", ["overwritten", "cut"])
async def test_a_damaged_database_is_refused(tmp_path: Path, damage: str) -> None:
    async with opened(tmp_path) as store:
        for revision in range(1, 30):
            await store.save([PutRollout(rollout(revision=revision), SEEN)], engine_s=1.0)
    whole = (tmp_path / "rollout.db").read_bytes()
    half = len(whole) // 2 // 4096 * 4096
    broken = whole[:half] if damage == "cut" else whole[:half] + b"\x55" * 4096 + whole[half + 4096 :]
    (tmp_path / "rollout.db").write_bytes(broken)
    await assert_refused_untouched(tmp_path, Unavailable, "damaged: .*restore a backup of it, or move it away")
