"""The audit log: written with each operation, and whatever is changed in it afterwards is found."""

import json
import sqlite3
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest
from sqlite_utils import Database
from structlog.testing import capture_logs
from typer.testing import CliRunner

from rollout.chain import FIRST, AuditRow, Verified, hash_of, verify
from rollout.cli import app
from rollout.demo.processes import until
from rollout.errors import Conflict
from rollout.record import Operation, PutAudit, PutOperation
from rollout.rights import Asker
from rollout.store import NEWEST
from rollout.store.chronicle import SqliteChronicle, verified
from rollout.store.copies import copy
from rollout.store.folder import DATABASE_NAME
from rollout.store.schema import MIGRATIONS
from rollout.store.sqlite import open_store
from tests.rollout.operating import deployment, running
from tests.rollout.served import Running, settings_in
from tests.rollout.served import running as serving

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
WORDS = ("at", "service", "verb", "who", "origin", "detail", "result")
CAROL = Asker("carol", "token carol from 10.0.0.7")
V2 = deployment("v2", "10.0.0.11:80")


def operation(number: int) -> Operation:
    return Operation(NOON, "checkout", "deploy", "ann", f"v{number}", "done", "root from 127.0.0.1")


async def filled(folder: Path, rows: int = 5) -> Path:
    store = await open_store(folder)
    await store.save([PutOperation(operation(each + 1)) for each in range(rows)], engine_s=1.0)
    await store.close()
    return folder / DATABASE_NAME


def tamper(path: Path, *statements: str) -> None:
    """Do what nobody may, as somebody who has the file can."""
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("DROP TRIGGER audit_no_update")
        connection.execute("DROP TRIGGER audit_no_delete")
        for statement in statements:
            connection.execute(statement)
        connection.commit()


def chained(*rows: AuditRow) -> list[AuditRow]:
    before, found = FIRST, []
    for row in rows:
        found.append(replace(row, hash=hash_of(before, row)))
        before = found[-1].hash
    return found


def row(number: int) -> AuditRow:
    return AuditRow(number, "2026-03-01", "checkout", "deploy", "ann", "", f"v{number}", "done")


def test_each_field_of_a_row_is_in_its_hash() -> None:
    one = row(1)
    others = [AuditRow(1, *("other" if name == each else getattr(one, each) for each in WORDS)) for name in WORDS]
    hashes = {hash_of(FIRST, each) for each in (one, replace(one, id=2), *others)} | {hash_of("1" * 64, one)}
    assert len(hashes) == 10
    # What is one field's end is not the next one's beginning.
    assert hash_of(FIRST, replace(one, who="a", origin="b")) != hash_of(FIRST, replace(one, who="ab", origin=""))


def test_a_chain_that_is_whole_ends_in_its_head() -> None:
    rows = chained(row(1), row(2), row(3))
    assert verify(rows) == Verified(3, rows[2].hash)
    assert verify([]) == Verified(0, FIRST)
    assert verify(rows, rows[1].hash) == Verified(3, rows[2].hash)  # a head of before


def test_a_chain_that_was_written_anew_has_not_the_head_that_was_noted() -> None:
    rows = chained(row(1), row(2))
    anew = chained(row(1), replace(row(2), who="bob"))
    found = verify(anew, rows[1].hash)
    assert found.broken == 3
    assert rows[1].hash in found.why


async def test_an_operation_is_in_the_audit_log_with_where_it_came_from(tmp_path: Path) -> None:
    async with running(tmp_path) as engine:
        engine.connect()
        await engine.operations.deploy(V2, CAROL)
        with pytest.raises(Conflict):
            await engine.operations.deploy(deployment("v3", "10.0.0.12:80"), CAROL)
        await engine.saved()
        await engine.store.save([PutAudit(replace(operation(1), verb="identify", service=""))], engine_s=1.0)
        log = await engine.log()
    rows = await SqliteChronicle(tmp_path).audit(NEWEST, 10, {})
    assert [(each.id, each.verb, each.who, each.origin) for each in rows] == [
        (3, "identify", "ann", "root from 127.0.0.1"),
        (2, "deploy", "carol", "token carol from 10.0.0.7"),
        (1, "deploy", "carol", "token carol from 10.0.0.7"),
    ]
    assert rows[1].result.startswith("Conflict: ")
    assert [verb for verb, _, _ in log] == ["deploy", "deploy"]
    assert (await SqliteChronicle(tmp_path).verified()).broken is None
    chronicle = SqliteChronicle(tmp_path)
    assert [each.id for each in await chronicle.audit(NEWEST, 10, {"verb": "identify"})] == [3]
    assert [each.id for each in await chronicle.audit(2, 10, {"who": "carol", "service": "checkout"})] == [1]


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE audit SET who = 'bob'",
        "DELETE FROM audit WHERE id = 2",
        "INSERT OR REPLACE INTO audit VALUES (2, '', '', '', 'bob', '', '', '', '')",
        "INSERT INTO audit VALUES (9, '', '', '', 'bob', '', '', '', '')",
        "INSERT OR IGNORE INTO audit VALUES (NULL, '', '', '', 'bob', '', '', '', '')",
    ],
)
async def test_the_database_refuses_to_change_it(tmp_path: Path, statement: str) -> None:
    path = await filled(tmp_path)
    with closing(sqlite3.connect(path)) as connection, pytest.raises(sqlite3.IntegrityError, match="append-only"):
        connection.execute(statement)


@pytest.mark.parametrize(
    ("statements", "broken"),
    [
        (("UPDATE audit SET who = 'bob' WHERE id = 3",), 3),
        (("UPDATE audit SET origin = '' WHERE id = 5",), 5),
        (("UPDATE audit SET hash = (SELECT hash FROM audit WHERE id = 1) WHERE id = 2",), 2),
        (("DELETE FROM audit WHERE id = 2",), 3),
        (("DELETE FROM audit WHERE id = 1",), 2),
        (("DELETE FROM audit WHERE id = 5",), 5),
        (("DELETE FROM audit WHERE id > 2",), 3),
        (("DELETE FROM audit",), 1),
        (("DELETE FROM audit WHERE id = 2", "UPDATE audit SET id = id - 1 WHERE id > 2"), 2),
        (("UPDATE audit SET who = CAST(who AS BLOB) WHERE id = 4",), 4),
        (("UPDATE audit SET who = CAST(x'616eff' AS TEXT) WHERE id = 4",), 4),
        (("UPDATE audit SET hash = x'00' WHERE id = 4",), 4),
    ],
)
async def test_what_is_changed_in_the_file_is_found(tmp_path: Path, statements: tuple[str, ...], broken: int) -> None:
    path = await filled(tmp_path)
    assert verified(path) == Verified(5, verified(path).head)
    tamper(path, *statements)
    assert verified(path).broken == broken


async def test_an_end_that_was_cut_off_without_a_trace_is_found_by_a_head_that_was_noted(tmp_path: Path) -> None:
    path = await filled(tmp_path)
    head = verified(path).head
    tamper(path, "DELETE FROM audit WHERE id > 3", "UPDATE sqlite_sequence SET seq = 3 WHERE name = 'audit'")
    assert verified(path).broken is None
    assert verified(path, head).broken == 4


async def test_a_data_folder_and_a_backup_are_verified_without_a_server(tmp_path: Path) -> None:
    path = await filled(tmp_path)
    backup = tmp_path / "backup.db"
    copy(path, backup)
    for place in (tmp_path, backup):
        done = CliRunner().invoke(app, ["audit", "verify", "--data", str(place), "--json"])
        assert (done.exit_code, json.loads(done.stdout)["rows"]) == (0, 5)
    head = json.loads(done.stdout)["head"]
    tamper(backup, "UPDATE audit SET result = 'refused' WHERE id = 4")
    done = CliRunner().invoke(app, ["audit", "verify", "--data", str(backup), "--head", head])
    assert done.exit_code == 1
    assert "row 4" in done.stdout
    done = CliRunner().invoke(app, ["audit", "verify", "--data", str(tmp_path / "absent")])
    assert done.exit_code == 1


# --- looked at when a server starts ---


@pytest.mark.parametrize(
    ("statements", "broken"),
    [
        ((), None),
        (("UPDATE audit SET who = 'bob' WHERE id = 9",), 9),
        (("UPDATE audit SET who = 'bob' WHERE id = 2",), None),  # older than what is looked at
        (("DELETE FROM audit WHERE id = 8",), 9),
        (("DELETE FROM audit WHERE id > 8",), 9),
        (("DELETE FROM audit",), 1),
    ],
)
async def test_only_the_newest_rows_are_looked_at(
    tmp_path: Path, statements: tuple[str, ...], broken: int | None
) -> None:
    path = await filled(tmp_path, rows=10)
    tamper(path, *statements)
    assert (await SqliteChronicle(tmp_path).verified(newest=3)).broken == broken


async def test_a_server_says_at_its_start_that_its_audit_log_was_changed(tmp_path: Path) -> None:
    settings = settings_in(tmp_path)
    settings.data.mkdir()
    path = await filled(settings.data)
    for statements, broken in (((), 0.0), (("UPDATE audit SET who = x'ff' WHERE id = 4",), 1.0)):
        if statements:
            tamper(path, *statements)
        with capture_logs() as logs:
            async with serving(settings) as server:
                await until(lambda: metric(server, broken), within_s=60.0, what="the metric")  # noqa: B023
        faults = [each["reason"] for each in logs if each["event"] == "audit log broken"]
        assert [each.partition(":")[0] for each in faults] == ["row 4"] * int(broken)


async def metric(server: Running, value: float) -> bool:
    async with server.http.get("/metrics") as answer:
        return f"rollout_audit_broken {value}\n" in await answer.text()


async def test_an_audit_log_of_before_gets_its_trigger(tmp_path: Path) -> None:
    path = tmp_path / DATABASE_NAME
    with closing(sqlite3.connect(path)) as connection:
        for migrate in MIGRATIONS[:-1]:
            migrate(Database(connection))
        connection.execute(f"PRAGMA user_version = {len(MIGRATIONS) - 1}")
        connection.commit()
    await filled(tmp_path)
    with closing(sqlite3.connect(path)) as connection, pytest.raises(sqlite3.IntegrityError, match="append-only"):
        connection.execute("INSERT OR REPLACE INTO audit SELECT * FROM audit WHERE id = 3")
