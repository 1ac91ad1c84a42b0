"""The store: nothing that was saved is lost, nothing is saved by halves, and nobody else gets in."""

import asyncio
import contextlib
import os
import signal
import sqlite3
import stat
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, closing, contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

import pytest

from rollout.drain import Active, Drain
from rollout.errors import Conflict, Unavailable
from rollout.gate import Look, Pass, Past, Quantile, Stratum, Tally
from rollout.record import (
    Backend,
    Change,
    Contents,
    DropVersion,
    JournalEntry,
    PutBackend,
    PutNodes,
    PutRollout,
    PutService,
    PutVersion,
    Rollout,
    Service,
    Version,
)
from rollout.spec import Strategy, parse_endpoint
from rollout.state import Phase, Role, Seen, Split, State, start
from rollout.store import Store
from rollout.store.changes import KEPT_JOURNALS, KEPT_ROLLOUTS
from rollout.store.sqlite import open_store

ROOT = Path(__file__).parents[2]
NOON = datetime(2025, 6, 1, 12, 0, tzinfo=UTC)
DONE = Tally(100, 3, 98, {Quantile.P95: 7}, {Quantile.P95: 2}, retries=2, timeouts=1, started=101, active=4)
LOOK = Look(12.5, (Stratum(1000, DONE, DONE, "b"),), Past(slow_ms={Quantile.P95: 45.0}), ("envoy-2: no answer",))
SEEN = Seen(
    2.0,
    connected=3,
    fleet=3,
    served=Split(1000, frozenset(Role)),
    lagging={"envoy-1": "waits for EDS"},
    look=LOOK,
    looked_s=1.9,
    active=Active(1.8, {"envoy-1": 2, "envoy-2": None}),
)
EMPTY = Contents(0.0, (), (), (), (), ())


@asynccontextmanager
async def opened(folder: Path) -> AsyncIterator[Store]:
    store = await open_store(folder)
    try:
        yield store
    finally:
        await store.close()
        await store.close()  # twice does no harm


@contextmanager
def child(program: str, *arguments: object) -> Iterator[subprocess.Popen[str]]:
    """Another process that runs this program, killed at the end at the latest."""
    process = subprocess.Popen(
        [sys.executable, "-c", program, *map(str, arguments)],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        process.communicate(timeout=30)


def said(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def rollout(service: str = "checkout", rollout_id: int = 1, revision: int = 1, state: State | None = None) -> Rollout:
    return Rollout(
        service=service,
        id=rollout_id,
        stable="v1",
        candidate="v2",
        strategy=Strategy(),
        state=state or start(1.0, "deployed"),
        revision=revision,
        started_at=NOON + timedelta(hours=rollout_id),
        changed_at=NOON + timedelta(hours=rollout_id, seconds=revision),
    )


def ended(rollout_id: int, service: str = "checkout", revision: int = 1) -> Rollout:
    state = State(Phase.COMPLETED, 9.0, loser=Role.STABLE, reason="done")
    return rollout(service, rollout_id, revision, state)


async def test_a_new_store_is_empty(tmp_path: Path) -> None:
    async with opened(tmp_path / "made" / "on the way") as store:
        assert await store.load() == EMPTY
        assert await store.rollouts(None, 10) == ()
        assert await store.journal("checkout", 1) == ()


async def test_all_that_was_saved_is_there_after_opening_it_again(tmp_path: Path) -> None:
    services = (Service("checkout", "v1"), Service("cart", "initial"))
    versions = (
        Version("checkout", "v1", None),
        Version("checkout", "v2", (parse_endpoint("10.0.0.1:80@eu/a"), parse_endpoint("[::1]:80"))),
        Version("cart", "initial", ()),
    )
    cut = Drain(3.0, acked_s=4.0, looked_s=33.0, running=2, timed_out=True, cut={"envoy-1": 2, "envoy-2": -1})
    backends = (
        Backend("checkout", "v1", "10.0.0.9:80", Drain(1.0, cut={})),
        Backend("checkout", "v2", "10.0.0.1:80", cut, removed=True),
    )
    judged = State(Phase.SHIFTING, 1.0, 2, 1.5, 1.9, verdict=Pass("as good", {"ln_e": -0.5}), reason="promoted")
    first, second = rollout(), rollout(revision=2, state=judged)
    async with opened(tmp_path) as store:
        await store.save([*map(PutService, services), *map(PutVersion, versions)], engine_s=1.0)
        await store.save([PutRollout(first, None), *map(PutBackend, backends)], engine_s=2.0)
        await store.save([PutRollout(second, SEEN), PutNodes(("envoy-2", "envoy-1"))], engine_s=3.25)
    async with opened(tmp_path) as store:
        assert await store.load() == Contents(3.25, services, versions, (second,), backends, ("envoy-2", "envoy-1"))
        assert await store.rollouts("checkout", 10) == (second,)
        assert await store.journal("checkout", 1) == (
            JournalEntry(1, first.changed_at, first.state, None),
            JournalEntry(2, second.changed_at, second.state, SEEN),
        )


async def test_what_is_put_again_replaces_what_was_there(tmp_path: Path) -> None:
    endpoints = (parse_endpoint("10.0.0.1:80"),)
    backend = Backend("checkout", "v1", "10.0.0.1:80", Drain(1.0, cut={}))
    for engine_s in (1.0, 2.0):
        async with opened(tmp_path) as store:
            await store.save(
                [
                    PutService(Service("checkout", f"v{engine_s:g}")),
                    PutVersion(Version("checkout", "v1", None if engine_s == 1.0 else endpoints)),
                    PutBackend(replace(backend, removed=engine_s > 1.0)),
                    PutNodes((f"envoy-{engine_s:g}",)),
                ],
                engine_s=engine_s,
            )
    async with opened(tmp_path) as store:
        assert await store.load() == Contents(
            2.0,
            (Service("checkout", "v2"),),
            (Version("checkout", "v1", endpoints),),
            (),
            (replace(backend, removed=True),),
            ("envoy-2",),
        )


async def test_a_dropped_version_takes_its_backends_along_and_no_others(tmp_path: Path) -> None:
    backends = [Backend("checkout", version, "10.0.0.1:80", Drain(1.0, cut={})) for version in ("v1", "v2")]
    versions = [Version("checkout", version, None) for version in ("v1", "v2")]
    async with opened(tmp_path) as store:
        changes: list[Change] = [*map(PutVersion, versions), *map(PutBackend, backends)]
        await store.save(changes, engine_s=1.0)
        for _ in range(2):
            await store.save([DropVersion("checkout", "v1")], engine_s=2.0)
        contents = await store.load()
    assert contents.versions == (versions[1],)
    assert contents.backends == (backends[1],)


async def test_time_is_saved_in_utc(tmp_path: Path) -> None:
    abroad = timezone(timedelta(hours=5, minutes=30))
    local = replace(rollout(), started_at=NOON.astimezone(abroad), changed_at=NOON.astimezone(abroad))
    async with opened(tmp_path) as store:
        await store.save([PutRollout(local, None)], engine_s=1.0)
        (saved,) = await store.rollouts(None, 1)
    assert (saved.started_at, saved.started_at.utcoffset()) == (NOON, timedelta())


@pytest.mark.parametrize("revision", [0, 1, 2, 4])
async def test_a_rollout_is_saved_only_on_top_of_the_revision_before(tmp_path: Path, revision: int) -> None:
    async with opened(tmp_path) as store:
        await store.save([PutRollout(rollout(), None)], engine_s=1.0)
        await store.save([PutRollout(rollout(revision=2), SEEN)], engine_s=2.0)
        before = await store.load()
        changes: list[Change] = [
            PutService(Service("checkout", "v2")),
            PutNodes(("envoy-1",)),
            PutRollout(rollout(revision=revision), SEEN),
            PutVersion(Version("checkout", "v2", None)),
        ]
        with pytest.raises(Conflict, match=r"revision \d of rollout 1 of service 'checkout': its saved revision is 2"):
            await store.save(changes, engine_s=3.0)
        assert await store.load() == before
        assert len(await store.journal("checkout", 1)) == 2
        await store.save([PutRollout(rollout(revision=3), SEEN)], engine_s=3.0)
        assert (await store.load()).rollouts == (rollout(revision=3),)


async def test_a_rollout_that_was_never_saved_begins_at_revision_1(tmp_path: Path) -> None:
    async with opened(tmp_path) as store:
        with pytest.raises(Conflict, match="it was never saved"):
            await store.save([PutRollout(rollout(revision=2), SEEN)], engine_s=1.0)
        assert await store.load() == EMPTY


async def test_saves_that_are_asked_for_at_once_happen_in_order(tmp_path: Path) -> None:
    async with opened(tmp_path) as store:
        saves = (
            store.save([PutRollout(rollout(revision=revision), SEEN)], engine_s=float(revision))
            for revision in range(1, 21)
        )
        await asyncio.gather(*saves)
        assert (await store.load()).rollouts == (rollout(revision=20),)


async def test_load_gives_what_is_in_progress_and_the_newest_of_each_service(tmp_path: Path) -> None:
    saved = [ended(1), ended(2), rollout(rollout_id=3), ended(4), ended(1, "cart"), ended(2, "cart"), rollout("web")]
    async with opened(tmp_path) as store:
        await store.save([PutRollout(each, None) for each in saved], engine_s=1.0)
        contents = await store.load()
    assert contents.rollouts == (ended(2, "cart"), rollout(rollout_id=3), ended(4), rollout("web"))


async def test_rollouts_are_listed_newest_first_up_to_the_limit(tmp_path: Path) -> None:
    saved = [ended(2, "cart"), ended(1), ended(3), ended(4)]
    async with opened(tmp_path) as store:
        await store.save([PutRollout(each, None) for each in saved], engine_s=1.0)
        assert await store.rollouts("checkout", 2) == (ended(4), ended(3))
        assert await store.rollouts("unknown", 2) == ()
        assert await store.rollouts(None, 3) == (ended(4), ended(3), ended(2, "cart"))
        assert await store.rollouts(None, 100) == (ended(4), ended(3), ended(2, "cart"), ended(1))


async def test_only_the_newest_ended_rollouts_of_a_service_are_kept(tmp_path: Path) -> None:
    newest = KEPT_ROLLOUTS + 2
    async with opened(tmp_path) as store:
        await store.save([PutRollout(ended(7, "cart"), None), PutRollout(rollout(), None)], engine_s=1.0)
        for rollout_id in range(2, newest + 1):
            first, last = rollout(rollout_id=rollout_id), ended(rollout_id, revision=2)
            await store.save([PutRollout(first, None), PutRollout(last, SEEN)], engine_s=2.0)
        # All that ended are there until the next one starts; one in progress stays, however old.
        assert len(await store.rollouts("checkout", 1000)) == newest
        await store.save([PutRollout(rollout(rollout_id=newest + 1), None)], engine_s=3.0)
        kept = [each.id for each in await store.rollouts("checkout", 1000)]
        assert kept == [*range(newest + 1, 2, -1), 1]
        oldest = newest - KEPT_JOURNALS + 1
        assert await store.journal("checkout", oldest - 1) == ()
        assert len(await store.journal("checkout", oldest)) == 2
        assert len(await store.journal("checkout", 1)) == 1
        assert await store.rollouts("cart", 10) == (ended(7, "cart"),)


SAVES_FOREVER = """
import asyncio, sys
from dataclasses import replace
from pathlib import Path
from rollout.record import PutRollout, PutService, Service
from rollout.store.sqlite import open_store

async def main() -> None:
    store = await open_store(Path(sys.argv[1]))
    (rollout,) = (await store.load()).rollouts
    while True:
        rollout = replace(rollout, revision=rollout.revision + 1)
        changes = [PutService(Service("checkout", f"v{rollout.revision}")), PutRollout(rollout, None)]
        await store.save(changes, engine_s=float(rollout.revision))
        print(rollout.revision, flush=True)

asyncio.run(main())
"""


async def test_kill_9_in_the_middle_of_saving_loses_nothing_that_was_saved(tmp_path: Path) -> None:
    async with opened(tmp_path) as store:
        await store.save([PutRollout(rollout(), None)], engine_s=1.0)
    for saves in (1, 7, 40):
        with child(SAVES_FOREVER, tmp_path) as process:
            printed = [said(process) for _ in range(saves)]
            process.send_signal(signal.SIGKILL)
            process.wait(timeout=30)
            assert process.stdout is not None
            rest = process.stdout.read()  # not communicate(): it would leave out what was read ahead
        last = int([*printed, *rest.split()][-1])
        async with opened(tmp_path) as store:
            contents = await store.load()
            journal = await store.journal("checkout", 1)
        revision = contents.rollouts[0].revision
        # The save that was under way when it was killed may have happened, but then as a whole.
        assert revision in (last, last + 1)
        assert contents.services == (Service("checkout", f"v{revision}"),)
        assert contents.engine_s == revision
        assert [entry.revision for entry in journal] == list(range(1, revision + 1))


async def test_a_second_server_is_refused(tmp_path: Path) -> None:
    async with opened(tmp_path) as store:
        with pytest.raises(Conflict) as refusal:
            await open_store(tmp_path)
        assert str(refusal.value) == (
            f"the data folder {tmp_path} is in use by another server (pid {os.getpid()}); "
            "stop it or give --data another folder"
        )
        await store.save([PutNodes(("envoy-1",))], engine_s=1.0)
    async with opened(tmp_path) as store:
        assert (await store.load()).nodes == ("envoy-1",)


HOLDS = """
import asyncio, sys
from pathlib import Path
from rollout.store.sqlite import open_store

async def main() -> None:
    store = await open_store(Path(sys.argv[1]))
    print("open", flush=True)
    await asyncio.Event().wait()

asyncio.run(main())
"""


async def test_another_process_holds_the_folder_until_it_is_killed(tmp_path: Path) -> None:
    with child(HOLDS, tmp_path) as process:
        assert said(process) == "open"
        with pytest.raises(Conflict, match=rf"in use by another server \(pid {process.pid}\)"):
            await open_store(tmp_path)
        process.kill()
        process.wait(timeout=30)
        async with opened(tmp_path) as store:
            assert await store.load() == EMPTY


async def test_a_folder_that_cannot_be_made_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for folder in (tmp_path / "file" / "data", tmp_path / "file", Path("/proc/rollout-data")):
        with pytest.raises(Unavailable, match=f"cannot use the data folder {folder}: .*; give --data a folder that"):
            await open_store(folder)


async def test_only_the_user_may_read_what_is_saved(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    async with opened(folder) as store:
        await store.save([PutNodes(("envoy-1",))], engine_s=1.0)
        modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in (folder, *folder.iterdir())}
    assert modes == {
        "data": 0o700,
        "lock": 0o600,
        "rollout.db": 0o600,
        "rollout.db-shm": 0o600,
        "rollout.db-wal": 0o600,
        "taken-back": 0o600,
    }


async def test_a_database_locked_by_another_program_changes_nothing_and_heals(tmp_path: Path) -> None:
    async with opened(tmp_path) as store:
        with closing(sqlite3.connect(tmp_path / "rollout.db")) as other:
            other.execute("BEGIN IMMEDIATE")
            with pytest.raises(Unavailable, match=r"cannot write .*rollout\.db: database is locked; another program"):
                await store.save([PutNodes(("envoy-1",))], engine_s=1.0)
            assert await store.load() == EMPTY
        await store.save([PutNodes(("envoy-1",))], engine_s=1.0)
        assert (await store.load()).nodes == ("envoy-1",)


async def test_the_event_loop_runs_on_while_the_database_hangs(tmp_path: Path) -> None:
    async with opened(tmp_path) as store:
        with closing(sqlite3.connect(tmp_path / "rollout.db")) as other:
            other.execute("BEGIN IMMEDIATE")
            save = asyncio.ensure_future(store.save([PutNodes(("envoy-1",))], engine_s=1.0))
            _, waiting = await asyncio.wait([save], timeout=0.05)
            assert waiting == {save}
        await save
        assert (await store.load()).nodes == ("envoy-1",)


FILLS_THE_DISK = """
import asyncio, resource, sys
from dataclasses import replace
from pathlib import Path
from rollout.errors import Unavailable
from rollout.record import PutNodes, PutService, Service
from rollout.store.sqlite import open_store

async def main() -> None:
    store = await open_store(Path(sys.argv[1]))
    await store.save([PutNodes(("before",))], engine_s=1.0)
    resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, resource.RLIM_INFINITY))
    try:
        await store.save([PutService(Service("checkout", "v2")), PutNodes(("x" * 9_000_000,))], engine_s=2.0)
    except Unavailable as error:
        print(error, flush=True)
    print(await store.load(), flush=True)
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    await store.save([PutNodes(("after",))], engine_s=3.0)
    await store.close()

asyncio.run(main())
"""


async def test_a_full_disk_changes_nothing_and_the_store_goes_on_when_there_is_room(tmp_path: Path) -> None:
    with child(FILLS_THE_DISK, tmp_path) as process:
        output, _ = process.communicate(timeout=60)
    complaint, contents = output.splitlines()
    assert complaint.startswith(f"cannot write {tmp_path / 'rollout.db'}: ")
    assert "room on" in complaint
    assert contents == str(replace(EMPTY, engine_s=1.0, nodes=("before",)))
    async with opened(tmp_path) as store:
        assert await store.load() == replace(EMPTY, engine_s=3.0, nodes=("after",))


async def test_a_database_that_is_deleted_while_in_use_is_not_written_into_the_void(tmp_path: Path) -> None:
    async with opened(tmp_path) as store:
        database = tmp_path / "rollout.db"
        database.rename(tmp_path / "moved.db")
        with pytest.raises(Unavailable, match=r"cannot write .*rollout\.db: No such file"):
            await store.save([PutNodes(("envoy-1",))], engine_s=1.0)
        database.touch()
        with pytest.raises(Unavailable, match="it was replaced while in use"):
            await store.save([PutNodes(("envoy-1",))], engine_s=1.0)
        (tmp_path / "moved.db").rename(database)
        await store.save([PutNodes(("envoy-1",))], engine_s=1.0)
        assert (await store.load()).nodes == ("envoy-1",)


async def test_a_row_that_no_rollout_saves_is_reported_with_its_database(tmp_path: Path) -> None:
    async with opened(tmp_path) as store:
        await store.save([PutRollout(rollout(), None)], engine_s=1.0)
        with closing(sqlite3.connect(tmp_path / "rollout.db")) as other, other:
            other.execute("""UPDATE rollouts SET state = '{"phase": "dreaming"}'""")
        with pytest.raises(Unavailable, match=r"cannot read .*rollout\.db: .*phase"):
            await store.load()
