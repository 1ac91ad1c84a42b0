"""What a full disk cannot take: who was taken back is remembered all the same, in room that was reserved before."""

import os
import shutil
import subprocess
import sys
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from rollout.record import PutRollout, Rollout, TakenBack
from rollout.spec import Strategy
from rollout.state import Phase, Role, State, start
from rollout.store.reserve import RESERVE_NAME, SLOT_BYTES, open_reserve, unsaved
from rollout.store.sqlite import open_store

ROOT = Path(__file__).parents[2]
NOON = datetime(2025, 6, 1, 12, 0, tzinfo=UTC)
GOING = start(1.0, "deployed")
BACK = State(Phase.ROLLING_BACK, 9.0, loser=Role.CANDIDATE, reason="aborted by ann")


def rollout(service: str = "checkout", number: int = 1, revision: int = 1, state: State = GOING) -> Rollout:
    return Rollout(service, number, "v1", "v2", Strategy(), state, revision, NOON, NOON)


def noted(service: str = "checkout", number: int = 1, revision: int = 7) -> TakenBack:
    return TakenBack(service, number, revision, "aborted by ann")


def back(service: str = "checkout", number: int = 1, revision: int = 7) -> PutRollout:
    return PutRollout(rollout(service, number, revision, BACK), None)


def read(folder: Path) -> tuple[TakenBack, ...]:
    with closing(open_reserve(folder)) as reserve:
        return reserve.read()


def test_only_what_is_taken_back_is_noted_and_once(tmp_path: Path) -> None:
    with closing(open_reserve(tmp_path)) as reserve:
        reserve.note([PutRollout(rollout(), None)])
        assert reserve.read() == ()
        reserve.note([back()])
        before = (tmp_path / RESERVE_NAME).read_bytes()
        reserve.note([back(revision=8)])  # the next steps of the way back
        assert (tmp_path / RESERVE_NAME).read_bytes() == before
        reserve.note([back(number=2, revision=3), back("cart")])
    assert set(read(tmp_path)) == {noted(number=2, revision=3), noted("cart")}


def test_the_file_never_grows_and_the_newest_notes_are_kept_when_it_is_full(tmp_path: Path) -> None:
    with closing(open_reserve(tmp_path)) as reserve:
        size = (tmp_path / RESERVE_NAME).stat().st_size
        for number in range(SLOT_BYTES // 200):
            reserve.note([back("x" * 200 + str(number))])
    assert (tmp_path / RESERVE_NAME).stat().st_size == size == 2 * SLOT_BYTES
    found = read(tmp_path)
    assert found[0].service.endswith(str(SLOT_BYTES // 200 - 1))
    assert 50 < len(found) < SLOT_BYTES // 200


@pytest.mark.parametrize("torn_at", [0, 12, 19, 60])
def test_a_write_that_was_cut_short_leaves_the_note_before_it(tmp_path: Path, torn_at: int) -> None:
    with closing(open_reserve(tmp_path)) as reserve:
        reserve.note([back()])
        reserve.note([back("cart")])
    file = tmp_path / RESERVE_NAME
    whole = file.read_bytes()
    assert set(read(tmp_path)) == {noted(), noted("cart")}
    file.write_bytes(whole[:torn_at] + b"\xff" * 4 + whole[torn_at + 4 :])  # the second note is in the first place
    assert read(tmp_path) == (noted(),)


def test_a_note_counts_only_while_the_database_has_an_earlier_step() -> None:
    assert unsaved([noted()], [rollout(revision=6)]) == (noted(),)
    assert unsaved([noted()], [rollout(revision=7, state=BACK)]) == ()
    assert unsaved([noted()], [rollout(revision=5, state=BACK)]) == ()  # taken back again, by the server after it
    assert unsaved([noted()], [rollout(number=2, revision=1)]) == ()
    assert unsaved([noted()], [rollout("cart")]) == ()


async def test_what_was_saved_is_not_taken_back_again(tmp_path: Path) -> None:
    store = await open_store(tmp_path)
    await store.save([PutRollout(rollout(), None)], engine_s=1.0)
    await store.save([back(revision=2)], engine_s=2.0)
    assert (await store.load()).taken_back == ()
    await store.close()


TAKES_BACK_ON_A_FULL_DISK = """
import asyncio, os, sys
from dataclasses import replace
from pathlib import Path
from rollout.errors import Unavailable
from rollout.record import PutRollout
from rollout.store.sqlite import open_store
from tests.rollout.test_store_reserve import BACK, rollout

async def main(folder: Path) -> None:
    store = await open_store(folder)
    await store.save([PutRollout(rollout(), None)], engine_s=1.0)
    try:
        with (folder / "fills").open("wb") as file:
            while True:
                file.write(b"x" * 4096)
                file.flush()
    except OSError as error:
        print(error.strerror)
    try:
        state = replace(BACK, reason="aborted by ann")
        await store.save([PutRollout(rollout(revision=2, state=state), None)], engine_s=2.0)
    except Unavailable as error:
        print(error, flush=True)
    if not os.fork():
        os.kill(os.getppid(), 9)  # as if the server had died; its folder is seen from in here only
        os._exit(0)

async def again(folder: Path) -> None:
    store = await open_store(folder)
    print((await store.load()).taken_back, flush=True)

folder = Path(sys.argv[1])
asyncio.run(again(folder) if sys.argv[2:] else main(folder))
"""
ON_A_SMALL_DISK = 'mount -t tmpfs -o size=1m none "$1" && { "$2" -c "$3" "$1"; "$2" -c "$3" "$1" again; }'


def test_a_rollback_on_a_full_disk_outlasts_the_server(tmp_path: Path) -> None:
    """On a real full disk, a small one that only this test's child can see."""
    alone = ("unshare", "--user", "--map-root-user", "--mount")
    if shutil.which("unshare") is None or subprocess.run((*alone, "true"), check=False, capture_output=True).returncode:
        pytest.skip("no mount namespace of one's own is permitted here (unshare --user --mount)")
    command = (*alone, "sh", "-c", ON_A_SMALL_DISK, "sh", str(tmp_path), sys.executable, TAKES_BACK_ON_A_FULL_DISK)
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, check=True, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120)
    full, complaint, taken_back = done.stdout.splitlines()
    assert full == "No space left on device"
    assert complaint == f"cannot write {tmp_path / 'rollout.db'}: database or disk is full; make room on its disk"
    assert taken_back == str((replace(noted(), revision=2),))


def test_a_folder_without_room_is_opened_all_the_same(tmp_path: Path) -> None:
    program = f"""
import resource
from pathlib import Path
from rollout.store.reserve import open_reserve
resource.setrlimit(resource.RLIMIT_FSIZE, (4096, resource.RLIM_INFINITY))
print(open_reserve(Path({str(tmp_path)!r})).read())
"""
    command = (sys.executable, "-c", program)
    done = subprocess.run(command, check=True, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.stdout == "()\n"
    assert read(tmp_path) == ()
    assert (tmp_path / RESERVE_NAME).stat().st_size == 2 * SLOT_BYTES
