"""What people try at the admin API who should not be there, or should not do that; over real HTTP."""

import asyncio
import contextlib
import io
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import yaml
from structlog.testing import capture_logs

from rollout.access.rejections import Kind, Rejections
from rollout.access.strangers import MOST, SILENCE_S, Strangers
from rollout.api.guard import COOKIE
from rollout.demo.processes import until
from rollout.record import Operation
from tests.rollout.doors import OTHER, OWN, ROOT_TOKEN, Door, ask_from, running, settings

PROXY = {
    "from": ["127.0.0.2/32", "10.0.0.0/24"],
    "user": "X-Forwarded-User",
    "groups": "X-Forwarded-Groups",
    "roles": {"platform": {"role": "admin"}},
}
PROXY_ADDRESS = "127.0.0.2"
JSON = {"Content-Type": "application/json"}
NOON = datetime(2026, 6, 1, 12, tzinfo=UTC)


@pytest.fixture
async def door(tmp_path: Path) -> AsyncIterator[Door]:
    async with running(settings(tmp_path, token=ROOT_TOKEN)) as found:
        yield found


def trusting(folder: Path, **proxy: Any) -> Path:
    path = folder / "access.yaml"
    path.write_text(yaml.safe_dump({"proxy": PROXY | proxy}))
    return path


@contextlib.asynccontextmanager
async def behind(folder: Path, **proxy: Any) -> AsyncIterator[Door]:
    async with running(settings(folder, token=ROOT_TOKEN, admin_access=trusting(folder, **proxy))) as found:
        yield found


async def newest(door: Door, verb: str) -> dict[str, Any]:
    """Return the newest row of the audit log that asked for this, once there is one."""
    found: list[dict[str, Any]] = []

    async def noted() -> bool:
        found[:] = (await door.ask("GET", f"/v1/audit?limit=1000&verb={verb}", token=ROOT_TOKEN)).body["rows"]
        return bool(found)

    await until(noted, within_s=60, what=f"a row of {verb}")
    return found[0]


# --- who may not ---


async def test_change_that_is_not_allowed_is_in_the_audit_log(door: Door) -> None:
    token = await door.token("reader", "viewer")
    assert (await door.ask("POST", f"/v1/services/{OWN}/retry?dry_run=true", token=token)).status == 403
    assert (await door.ask("POST", f"/v1/services/{OWN}/undo", token=token)).status == 403
    row = await newest(door, "POST+/v1/services/%7Bservice%7D/undo")
    assert (row["who"], row["origin"], row["service"]) == ("reader", "token reader from 127.0.0.1", OWN)
    assert row["result"].startswith("NotAllowed: this needs the role operator of")
    document = {"kind": "service", "name": OWN, "version": "v1"}
    assert (await door.ask("POST", "/v1/apply", {"documents": [document]}, token)).status == 403
    assert (await newest(door, "POST+/v1/apply"))["who"] == "reader"
    rows = (await door.ask("GET", "/v1/audit?limit=1000", token=ROOT_TOKEN)).body["rows"]
    assert not any("retry" in each["verb"] for each in rows)


async def test_change_that_is_wrong_in_itself_is_in_the_audit_log_once(door: Door) -> None:
    token, service = await door.token("ann", "operator"), f"/v1/services/{OWN}"
    key = {**JSON, "Idempotency-Key": "one"}
    wrong: tuple[tuple[str, Mapping[str, str], str | io.BytesIO], ...] = (
        ("rollouts", JSON, '{"verion": "v2"}'),
        ("drains", {}, "{}"),
        ("undo?dry=1", JSON, "{}"),
        ("health", JSON, io.BytesIO(b"x" * 1_100_000)),
        ("retry", key, "{}"),  # which its verb notes
        ("retry", key, "{}"),  # which is answered from memory
        ("rollouts?dry_run=true", JSON, "{}"),
    )
    for below, headers, body in wrong:
        sent = {"Authorization": f"Bearer {token}", **headers}
        async with door.http.post(f"{service}/{below}", headers=sent, data=body) as answer:
            assert 400 <= answer.status < 500, await answer.text()
    assert (await door.ask("POST", "/v1/plan", {"document": []}, token)).status == 400
    assert (await door.ask("POST", f"/v1/services/nowhere%20{token}/undo", {}, token)).status == 404
    seen: list[dict[str, Any]] = []

    async def noted() -> bool:
        seen[:] = (await door.ask("GET", "/v1/audit?limit=1000&who=ann", token=ROOT_TOKEN)).body["rows"]
        return any("nowhere" in row["result"] for row in seen)

    await until(noted, within_s=60, what="the last row")
    told = [
        (row["verb"].partition("{service}/")[2] or row["verb"], row["service"], row["result"]) for row in seen[::-1]
    ]
    assert [(verb, about, result.partition(":")[0]) for verb, about, result in told] == [
        ("rollouts", OWN, "InvalidSpec"),
        ("drains", OWN, "InvalidSpec"),
        ("undo", OWN, "InvalidSpec"),
        ("health", OWN, "Request Entity Too Large"),
        ("retry", OWN, "Conflict"),
        ("undo", "", "Unknown"),
    ]
    assert {row["origin"] for row in seen} == {"token ann from 127.0.0.1"}
    assert token not in str(seen)


def test_what_is_left_out_of_the_audit_log_is_counted() -> None:
    notes: list[Operation] = []
    rejections = Rejections(notes.append, lambda: NOON)
    for number in range(120):
        rejections.stranger("10.0.0.7", "wrong", float(number) / 100)
    assert len(notes) == 20
    rejections.look(15.0)
    assert len(notes) == 21
    assert (notes[-1].verb, notes[-1].result) == ("identify", "refused")
    assert {each.by for each in notes} == {"somebody unknown"}
    assert notes[-1].detail == "100 more were refused, and are not here one by one; the last from 10.0.0.7: wrong"
    denied = Operation(NOON, "", "POST /v1/tokens", "ann", "", "NotAllowed: no", "token ann")
    wrong = Operation(NOON, "", "POST /v1/apply", "ci", "", "InvalidSpec: no", "token ci")
    for _ in range(50):
        rejections.change(Kind.DENIED, denied, 15.0)
    rejections.look(60.0)
    rejections.look(120.0)
    assert [each.by for each in notes[21:]] == ["ann"] * 20 + ["several"]
    assert notes[-1].detail.startswith("30 more were refused")
    for _ in range(50):  # who is wrong all the time leaves room for those who may not
        rejections.change(Kind.MISTAKEN, wrong, 600.0)
    rejections.change(Kind.DENIED, denied, 600.0)
    rejections.look(620.0)
    assert [each.by for each in notes[42:]] == ["ci"] * 20 + ["ann", "several"]
    assert notes[-1].verb == "mistaken"


async def test_refusals_name_no_service_that_a_token_is_not_for(door: Door) -> None:
    token = await door.token("shop", "operator", f"{OWN}*")
    for method, path in (
        ("GET", f"/v1/services/{OWN}-2"),
        ("POST", f"/v1/services/{OWN}-2/undo"),
        ("GET", f"/v1/documents?services={OWN}-2"),
        ("GET", f"/v1/events?views=service:{OWN}-2"),
    ):
        said = await door.ask(method, path, token=token, Accept="text/event-stream")
        assert (said.status, OTHER in said.raw) == (404, False), said.raw
    assert OTHER in (await door.ask("GET", f"/v1/services/{OWN}-2", token=ROOT_TOKEN)).raw


async def test_key_of_somebody_else_of_the_same_name_gives_no_answer(tmp_path: Path) -> None:
    async with behind(tmp_path) as door:
        token = await door.token("ann", "operator")
        path, body = f"/v1/services/{OWN}/adopt", {"version": "v1"}
        first = await door.ask("POST", path, body, token, Idempotency_Key="k")
        again = await door.ask("POST", path, body, token, Idempotency_Key="k")
        assert (first.status, again.headers.get("Idempotency-Replayed")) == (200, "true")
        sent = {"X-Forwarded-User": "ann", "X-Forwarded-Groups": "platform", "Idempotency-Key": "k"}
        status, _ = await ask_from(PROXY_ADDRESS, door, "POST", f"/v1/services/{OWN}/undo", sent)
        assert status != 422  # its own key, that was never used


async def test_proxy_in_front_of_a_server_that_asks_nobody_opens_it_to_nobody(tmp_path: Path) -> None:
    async with running(settings(tmp_path)) as door:
        for name in ("X_Forwarded_For", "X_Forwarded_Host", "X_Real_IP", "Forwarded"):
            for method, path in (("GET", "/v1/services"), ("POST", "/v1/config/reload")):
                said = await door.ask(method, path, **{name: "192.0.2.7"})
                assert (said.status, "a proxy has passed this on" in said.raw) == (403, True)
        secret = await door.token("boss", "admin", by=None)
        assert (await door.ask("GET", "/v1/services", token=secret, X_Forwarded_For="192.0.2.7")).status == 200


# --- requests that are none ---


async def sent_raw(door: Door, data: bytes) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    host, _, port = door.address.rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(data)
    await writer.drain()
    return reader, writer


async def test_malformed_request_puts_no_secret_anywhere(door: Door, capfd: pytest.CaptureFixture[str]) -> None:
    with capture_logs() as logs:
        for line in (f"Authorization: Bearer {ROOT_TOKEN}\x00", f"Authorization: {ROOT_TOKEN}{'x' * 9000}"):
            head = f"GET /v1/me HTTP/1.1\r\nHost: {door.address}\r\n{line}\r\n\r\n"
            reader, writer = await sent_raw(door, head.encode())
            async with asyncio.timeout(20):
                answer = await reader.read()
            assert b" 400 " in answer
            assert b"application/problem+json" in answer
            assert ROOT_TOKEN.encode() not in answer
            writer.close()
        for _ in range(60):
            _, writer = await sent_raw(door, b"nothing\r\n\r\n")
            writer.close()
        assert (await door.ask("GET", "/healthz")).status == 200
    said = capfd.readouterr()
    assert ROOT_TOKEN not in said.out + said.err + repr(logs)
    assert "Traceback" not in said.err
    told = [each for each in logs if each["event"] == "malformed request"]
    assert 0 < len(told) < 60
    assert told[0]["address"] == "127.0.0.1"


async def test_two_tokens_in_a_request_are_none(door: Door) -> None:
    """A proxy in front may have looked at the other one."""
    token = await door.token("reader", "viewer")
    for both in ((token, "other"), ("other", token), (token, token)):
        lines = "".join(f"Authorization: Bearer {each}\r\n" for each in both)
        reader, writer = await sent_raw(door, f"GET /v1/me HTTP/1.1\r\nHost: {door.address}\r\n{lines}\r\n".encode())
        async with asyncio.timeout(20):
            assert b" 401 " in await reader.readline()
        writer.close()


async def test_changes_of_nobody_fill_no_log(door: Door) -> None:
    with capture_logs() as logs:
        assert (await door.ask("POST", "/v1/config/reload")).status == 401
        assert (await door.ask("POST", "/v1/config/reload", token=ROOT_TOKEN)).status == 200
    assert [each["log_level"] for each in logs if each["event"] == "request"] == ["debug", "info"]


# --- connections that say nothing ---


@dataclass
class Line:
    """A connection's transport."""

    cuts: int = 0

    def abort(self) -> None:
        self.cuts += 1


@dataclass(eq=False)
class Visitor:
    """What strangers need of a connection."""

    transport: Line | None = field(default_factory=Line)


def test_who_says_nothing_is_cut_and_who_is_known_is_not() -> None:
    strangers = Strangers()
    silent, asking, known, shaking = Visitor(), Visitor(), Visitor(), Visitor(None)
    for each in (silent, asking, known, shaking):
        strangers.came(each, 1.0)
    strangers.asked(asking)
    strangers.known(known)
    strangers.look(1.0 + SILENCE_S + 1.0)
    assert [each.transport and each.transport.cuts for each in (silent, asking, known, shaking)] == [1, 0, 0, None]
    assert strangers.count == 1


def test_too_many_strangers_drive_out_the_oldest() -> None:
    strangers = Strangers()
    many = [Visitor() for _ in range(MOST + 3)]
    for each in many:
        strangers.came(each, 1.0)
        strangers.asked(each)
    assert [each.transport.cuts for each in many[:4] if each.transport] == [1, 1, 1, 0]
    assert strangers.count == MOST


async def test_a_flood_of_connections_leaves_those_who_are_known(door: Door) -> None:
    token = await door.token("reader", "viewer")
    headers = {"Accept": "text/event-stream", "Authorization": f"Bearer {token}"}
    async with door.http.get("/v1/events?after=0", headers=headers) as stream:
        writers = [(await sent_raw(door, b"GET / HTTP/1.1\r\nX-"))[1] for _ in range(MOST + 50)]
        assert (await door.ask("GET", "/v1/me", token=token)).status == 200
        async with asyncio.timeout(20):
            assert await stream.content.readline()
        for writer in writers:
            writer.close()
        assert not stream.content.at_eof()


# --- proxies ---


async def test_where_somebody_is_behind_the_proxy_is_in_the_records(tmp_path: Path) -> None:
    async with behind(tmp_path) as door:
        user = {"X-Forwarded-User": "ann", "X-Forwarded-Groups": "platform"}
        for forwarded, origin in (
            ("6.6.6.6, 192.0.2.7, 10.0.0.9", "proxy ann from 192.0.2.7 through 127.0.0.2"),
            ("nonsense", "proxy ann from 127.0.0.2"),
            ("", "proxy ann from 127.0.0.2"),
        ):
            sent = {**user, "X-Forwarded-For": forwarded}
            assert (await ask_from(PROXY_ADDRESS, door, "POST", f"/v1/services/{OWN}/adopt", sent))[0] == 200
            await until(partial(_is_from, door, origin), within_s=60, what=origin)
        sent = {"Authorization": f"Bearer {ROOT_TOKEN}", "X-Forwarded-For": "192.0.2.7"}
        assert (await ask_from("127.0.0.3", door, "POST", f"/v1/services/{OWN}/adopt", sent))[0] == 200
        await until(lambda: _is_from(door, "root from 127.0.0.3"), within_s=60, what="the next row")


async def _is_from(door: Door, origin: str) -> bool:
    return bool((await newest(door, "adopt"))["origin"] == origin)


async def test_groups_that_a_client_adds_to_those_of_the_proxy_are_refused(tmp_path: Path) -> None:
    async with behind(tmp_path) as door:
        host, _, port = door.address.rpartition(":")
        reader, writer = await asyncio.open_connection(host, int(port), local_addr=(PROXY_ADDRESS, 0))
        lines = ("X-Forwarded-User: ann", "X-Forwarded-Groups: platform", "X-Forwarded-Groups: sales")
        writer.write("\r\n".join(("GET /v1/me HTTP/1.1", f"Host: {door.address}", *lines, "", "")).encode())
        async with asyncio.timeout(20):
            assert b" 403 " in await reader.readline()
        writer.close()
        names = set()
        for user in ("\u00e9va", "\u00ebva"):
            sent = {"X-Forwarded-User": user, "X-Forwarded-Groups": "platform"}
            names.add((await ask_from(PROXY_ADDRESS, door, "GET", "/v1/me", sent))[1]["name"])
        assert len(names) == 2


async def test_everybody_whom_the_proxy_lets_in_may_have_a_role(tmp_path: Path) -> None:
    async with behind(tmp_path, default={"role": "viewer", "services": [OWN]}) as door:
        for groups, role, services in (("sales", "viewer", [OWN]), ("", "viewer", [OWN]), ("platform", "admin", [])):
            sent = {"X-Forwarded-User": "ann", "X-Forwarded-Groups": groups}
            status, me = await ask_from(PROXY_ADDRESS, door, "GET", "/v1/me", sent)
            assert (status, me["role"], me["services"]) == (200, role, services)


async def test_stream_of_a_proxys_user_ends_when_the_file_says_otherwise(tmp_path: Path) -> None:
    async with behind(tmp_path) as door:
        host, _, port = door.address.rpartition(":")
        reader, writer = await asyncio.open_connection(host, int(port), local_addr=(PROXY_ADDRESS, 0))
        lines = (
            "Accept: text/event-stream",
            "Connection: close",
            "X-Forwarded-User: ann",
            "X-Forwarded-Groups: platform",
        )
        writer.write("\r\n".join(("GET /v1/events HTTP/1.1", f"Host: {door.address}", *lines, "", "")).encode())
        async with asyncio.timeout(20):
            assert b" 200 " in await reader.readline()
            await reader.readuntil(b"retry: ")
            trusting(tmp_path, roles={"platform": {"role": "viewer"}})
            assert (await door.ask("POST", "/v1/config/reload", token=ROOT_TOKEN)).status == 200
            await reader.read()  # comes back once the server has ended it
        writer.close()


async def test_cookie_of_a_page_that_came_by_tls_is_for_tls_only(door: Door) -> None:
    for origin, secure in ((f"https://{door.address}", True), (f"http://{door.address}", False)):
        said = await door.ask("POST", "/v1/session", {"token": ROOT_TOKEN}, Origin=origin)
        assert (said.status, "Secure" in said.headers["Set-Cookie"]) == (201, secure)
        gone = await door.ask("DELETE", "/v1/session", Origin=origin, Cookie=f"{COOKIE}=none")
        assert ("Secure" in gone.headers["Set-Cookie"]) == secure


# --- sessions ---


async def test_many_logins_of_one_end_nobody_elses(door: Door) -> None:
    ann, bob = await door.token("ann", "viewer"), await door.token("bob", "viewer")
    first = await door.login(ann)
    mine = await door.login(bob)
    for _ in range(51):
        last = await door.login(bob)
    assert (await first.ask("GET", "/v1/me")).status == 200
    assert (await last.ask("GET", "/v1/me")).status == 200
    assert (await mine.ask("GET", "/v1/me")).status == 401
