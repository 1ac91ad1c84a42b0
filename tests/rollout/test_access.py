"""Who is let into the admin API, and what is left behind: tokens, sessions, a trusted proxy; over real HTTP."""

import contextlib
import os
import signal
import sqlite3
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from structlog.testing import capture_logs

from rollout.access import throttle
from rollout.api.guard import COOKIE
from rollout.demo.processes import until
from rollout.store.copies import copy
from tests.rollout.doors import OTHER, OWN, ROOT_TOKEN, Door, Page, ask_from, running, settings

ADOPT, VERSION = f"/v1/services/{OWN}/adopt", {"version": "v1"}
PROXY = {
    "from": ["127.0.0.2/32"],
    "user": "X-Forwarded-User",
    "groups": "X-Forwarded-Groups",
    "roles": {
        "dev": {"role": "viewer"},
        "shop": {"role": "operator", "services": [OWN]},
        "stock": {"role": "operator", "services": [OTHER]},
        "platform": {"role": "admin"},
    },
}


@pytest.fixture
async def door(tmp_path: Path) -> AsyncIterator[Door]:
    async with running(settings(tmp_path, token=ROOT_TOKEN)) as found:
        yield found


@pytest.fixture
async def open_door(tmp_path: Path) -> AsyncIterator[Door]:
    async with running(settings(tmp_path)) as found:
        yield found


async def signed(door: Door, name: str, origin: str, token: str | None = ROOT_TOKEN) -> None:
    """Return once what was asked for last is signed like this in the audit log."""

    async def noted() -> bool:
        row = (await door.ask("GET", "/v1/audit?limit=1", token=token)).body["rows"][0]
        return bool((row["who"], row["origin"]) == (name, origin))

    await until(noted, within_s=60, what=f"{name}, {origin}")


# --- who is who ---


async def test_without_tokens_everybody_on_loopback_is_an_admin(open_door: Door) -> None:
    me = (await open_door.ask("GET", "/v1/me")).body
    assert me == {
        "name": "",
        "role": "admin",
        "services": [],
        "via": "loopback",
        "authentication": False,
        "csrf": None,
    }
    assert (await open_door.ask("POST", ADOPT, VERSION, "any-token")).status == 200


async def test_the_first_token_turns_authentication_on_for_all(open_door: Door) -> None:
    refused = await open_door.ask("POST", "/v1/tokens", {"name": "ci", "role": "operator"})
    assert (refused.status, "must be an admin's without limits" in refused.raw) == (409, True)
    admin = await open_door.token("boss", "admin", by=None)
    assert (await open_door.ask("GET", "/v1/services")).status == 401
    me = (await open_door.ask("GET", "/v1/me", token=admin)).body
    assert (me["name"], me["role"], me["via"], me["authentication"]) == ("boss", "admin", "token", True)


async def test_nobody_signs_as_somebody_else(door: Door) -> None:
    ci = await door.token("ci", "operator")
    for token, said, name, origin in (
        (ci, "ann", "ci (said: ann)", "token ci from 127.0.0.1"),
        (ci, "ci", "ci", "token ci from 127.0.0.1"),
        (ROOT_TOKEN, "ci", "root (said: ci)", "root from 127.0.0.1"),
    ):
        await door.ask("POST", ADOPT, VERSION, token, X_Rollout_User=said)
        await signed(door, name, origin)


async def test_on_loopback_without_tokens_the_name_is_taken_at_its_word(open_door: Door) -> None:
    await open_door.ask("POST", ADOPT, VERSION, X_Rollout_User="ann")
    await signed(open_door, "ann", "loopback from 127.0.0.1", None)


async def test_wrong_tokens_are_refused_though_a_session_is_good(door: Door) -> None:
    page = await door.login(ROOT_TOKEN)
    for given in ("Bearer wrong", "Basic abc", "Bearer", ""):
        assert (await page.ask("GET", "/v1/me", Authorization=given)).status == 401, given


async def test_refusals_say_which_role_is_needed(door: Door) -> None:
    viewer, shop = await door.token("reader", "viewer"), await door.token("shop", "operator", OWN)
    said = (await door.ask("POST", ADOPT, VERSION, viewer)).body
    assert said["status"] == 403
    assert said["detail"].startswith(f"this needs the role operator of '{OWN}', but 'reader' is viewer; ")
    said = (await door.ask("POST", "/v1/config/reload", {}, shop)).body
    assert f"the role admin without limits to services, but 'shop' is operator of {OWN}; " in said["detail"]


async def test_documents_change_only_what_a_token_is_for(door: Door) -> None:
    viewer, shop = await door.token("reader", "viewer"), await door.token("shop", "operator", OWN)
    strategy = {"kind": "strategy", "name": "quick", "stages": ["100%"]}
    for token, status, document in (
        (viewer, 403, {"kind": "service", "name": OWN, "version": "v1"}),
        (viewer, 403, {"kind": "service", "name": OWN, "version": "initial"}),  # nothing is to do, and still
        (shop, 403, strategy),
        (shop, 400, {"kind": "service", "name": OTHER, "version": "v1"}),
        (shop, 200, {"kind": "service", "name": OWN, "version": "v1"}),
    ):
        said = await door.ask("POST", "/v1/apply", {"documents": [document]}, token)
        assert said.status == status, said.raw


# --- pages of others ---


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Origin": "http://evil.example"}, 403),
        ({"Origin": "null"}, 403),
        ({"Sec_Fetch_Site": "cross-site"}, 403),
        ({"Sec_Fetch_Site": "same-site"}, 403),
        ({"Sec_Fetch_Site": "same-origin"}, 200),
        ({}, 200),
    ],
)
async def test_changes_that_pages_of_others_ask_for_are_refused(
    open_door: Door, headers: dict[str, str], status: int
) -> None:
    assert (await open_door.ask("POST", ADOPT, VERSION, **headers)).status == status
    assert (await open_door.ask("GET", "/v1/services", **headers)).status == 200


async def test_host_that_is_made_to_lead_to_loopback_is_refused_while_nobody_is_asked(open_door: Door) -> None:
    assert (await open_door.ask("GET", "/v1/services", Host="evil.example")).status == 403


# --- sessions ---


async def test_page_logs_in_works_and_logs_out(door: Door) -> None:
    said = await door.ask("POST", "/v1/session", {"token": await door.token("ann", "operator", "check*")})
    cookie = said.headers["Set-Cookie"]
    assert (said.status, said.body["name"], said.body["via"]) == (201, "ann", "session")
    assert {"HttpOnly", "SameSite=Strict", "Path=/", "Max-Age=43200"} <= set(cookie.split("; "))
    assert "Secure" not in cookie  # in clear, on loopback
    page = await door.login(ROOT_TOKEN)
    assert (await page.ask("GET", "/v1/me")).body["csrf"] == page.csrf
    assert (await page.ask("POST", ADOPT, VERSION)).status == 200
    out = await page.ask("DELETE", "/v1/session")
    assert (out.status, out.cookies) == (200, {COOKIE: ""})
    assert (await page.ask("GET", "/v1/me")).status == 401


async def test_session_changes_nothing_without_its_csrf_token(door: Door) -> None:
    page, other = await door.login(ROOT_TOKEN), await door.login(ROOT_TOKEN)
    for token in ("", "wrong", other.csrf):
        said = await page.ask("POST", ADOPT, VERSION, X_CSRF_Token=token)
        assert (said.status, "X-CSRF-Token" in said.raw) == (403, True)
        assert (await page.ask("DELETE", "/v1/session", X_CSRF_Token=token)).status == 403
    assert (await page.ask("GET", "/v1/me", X_CSRF_Token="")).status == 200


async def test_session_outlives_a_restart_and_ends_with_its_token(tmp_path: Path) -> None:
    given = settings(tmp_path, token=ROOT_TOKEN)
    async with running(given) as door:
        ann = await door.login(await door.token("ann", "viewer"))
        root = await door.login(ROOT_TOKEN)
    async with running(given) as door:
        for page in (ann, root):
            assert (await Page(door, page.cookie, page.csrf).ask("GET", "/v1/me")).body["csrf"] == page.csrf
        assert (await door.ask("DELETE", "/v1/tokens/ann", token=ROOT_TOKEN)).status == 200
        assert (await Page(door, ann.cookie, ann.csrf).ask("GET", "/v1/me")).status == 401
    async with running(settings(tmp_path, token=ROOT_TOKEN[::-1])) as door:
        assert (await Page(door, root.cookie, root.csrf).ask("GET", "/v1/me")).status == 401


async def test_stream_ends_when_the_token_is_revoked(door: Door) -> None:
    token = await door.token("reader", "viewer")
    headers = {"Accept": "text/event-stream", "Authorization": f"Bearer {token}"}
    async with door.http.get("/v1/events?views=services", headers=headers) as stream:
        assert stream.status == 200
        await door.ask("DELETE", "/v1/tokens/reader", token=ROOT_TOKEN)
        with contextlib.suppress(ConnectionError):
            await stream.content.read()  # comes back once the server has ended it


async def test_wrong_logins_are_throttled_and_good_tokens_are_not(door: Door) -> None:
    good = await door.token("ann", "viewer")
    for _ in range(throttle.ONE.burst):
        assert (await door.ask("POST", "/v1/session", {"token": "guess"})).status == 401
    for secret in ("guess", ROOT_TOKEN):
        said = await door.ask("POST", "/v1/session", {"token": secret})
        assert said.status == 429
        assert 0 < int(said.headers["Retry-After"]) <= 1 / throttle.ONE.per_s
    assert (await door.ask("GET", "/v1/me", token=ROOT_TOKEN)).status == 429
    assert (await door.ask("GET", "/v1/me", token="rlt_gone")).status == 401  # noqa: S106 - of nobody
    assert (await door.ask("GET", "/v1/me", token=good)).status == 200
    await door.login(good)


# --- a proxy that has people log in ---


def trusting(folder: Path, **access: Any) -> Path:
    path = folder / "access.yaml"
    path.write_text(yaml.safe_dump(access))
    return path


@pytest.fixture
async def behind(tmp_path: Path) -> AsyncIterator[Door]:
    given = settings(tmp_path, token=ROOT_TOKEN, admin_access=trusting(tmp_path, proxy=PROXY))
    async with running(given) as found:
        yield found


def as_user(door: Door, user: str, groups: str, *, source: str = "127.0.0.2") -> Any:
    """Return a way to ask as the proxy does, or somebody else, from another address of loopback."""

    async def ask(method: str, path: str, **headers: str) -> tuple[int, Any]:
        sent = {**headers, "X-Forwarded-User": user, "X-Forwarded-Groups": groups}
        return await ask_from(source, door, method, path, sent)

    return ask


async def test_header_of_the_proxy_says_who_asks(behind: Door) -> None:
    for groups, role, services in (
        ("dev", "viewer", []),
        ("dev, shop", "operator", [OWN]),
        ("shop,stock", "operator", [OWN, OTHER]),
        ("shop, platform", "admin", []),
    ):
        status, me = await as_user(behind, "ann", groups)("GET", "/v1/me")
        assert (status, me["name"], me["role"], me["services"], me["via"]) == (200, "ann", role, services, "proxy")
    status, said = await as_user(behind, "ann", "sales")("GET", "/v1/me")
    assert (status, "'ann' is in no group that may use this" in said["detail"]) == (403, True)
    assert "platform" not in said["detail"]  # which groups there are is nobody's business outside of them
    assert (await as_user(behind, "", "platform")("GET", "/v1/me"))[0] == 401


async def test_header_counts_from_the_proxy_only(behind: Door) -> None:
    with capture_logs() as logs:
        for source in ("127.0.0.1", "127.0.0.3"):
            assert (await as_user(behind, "ann", "platform", source=source)("GET", "/v1/me"))[0] == 401
    assert {each["address"] for each in logs if each["event"] == "not let in"} == {"127.0.0.1", "127.0.0.3"}


async def test_browser_behind_the_proxy_needs_the_csrf_token(behind: Door) -> None:
    ask = as_user(behind, "ann", "platform")
    _, me = await ask("GET", "/v1/me")
    origin = {"Origin": f"http://{behind.address}"}
    assert (await ask("POST", ADOPT, **origin))[0] == 403
    assert (await ask("POST", ADOPT, **origin, **{"X-CSRF-Token": me["csrf"]}))[0] == 200
    _, bob = await as_user(behind, "bob", "platform")("GET", "/v1/me")
    assert (await ask("POST", ADOPT, **origin, **{"X-CSRF-Token": bob["csrf"]}))[0] == 403
    assert (await ask("POST", ADOPT))[0] == 200  # a program


async def test_access_file_is_read_again_and_a_wrong_one_changes_nothing(behind: Door, tmp_path: Path) -> None:
    trusting(tmp_path, proxy={**PROXY, "roles": {"dev": {"role": "boss"}}})
    said = await behind.ask("POST", "/v1/config/reload", {}, ROOT_TOKEN)
    assert (said.status, "access.yaml: proxy.roles.dev.role: must be 'viewer', 'operator' or 'admin'" in said.raw) == (
        422,
        True,
    )
    assert (await as_user(behind, "ann", "dev")("GET", "/v1/me"))[1]["role"] == "viewer"
    trusting(tmp_path, proxy={**PROXY, "roles": {"dev": {"role": "admin"}}})
    os.kill(os.getpid(), signal.SIGHUP)

    async def promoted() -> bool:
        return bool((await as_user(behind, "ann", "dev")("GET", "/v1/me"))[1]["role"] == "admin")

    await until(promoted, within_s=60, what="the file to be read again")


# --- secrets ---


async def test_no_secret_is_left_in_any_log_answer_or_file(tmp_path: Path) -> None:
    given = settings(tmp_path, token=ROOT_TOKEN)
    said: list[str] = []
    with capture_logs() as logs:
        async with running(given) as door:
            token = await door.token("ann", "admin")
            body = {"name": "bob", "role": "viewer"}
            keyed = [await door.ask("POST", "/v1/tokens", body, ROOT_TOKEN, Idempotency_Key="k") for _ in range(2)]
            second = str(keyed[0].body["token"])
            said.append(keyed[1].raw)  # the answer to a key is kept, but not this one
            page = await door.login(token)
            root = await door.login(ROOT_TOKEN)
            wrong = "rlt_somebody-elses-token-0123456789abcdef"
            for path in ("/metrics", "/v1/tokens", "/v1/audit", "/v1/operations", "/v1/events", "/v1/services", "/"):
                said.append((await page.ask("GET", path)).raw)
                said.append((await door.ask("GET", path, token=token)).raw)
            said.append((await door.ask("GET", "/v1/me", token=wrong)).raw)
            said.append((await door.ask("POST", "/v1/session", {"token": wrong})).raw)
            said.append((await door.ask("POST", "/v1/session", {"token": ROOT_TOKEN + "x"})).raw)
            said.append((await door.ask("DELETE", f"/v1/tokens/{token}", token=ROOT_TOKEN)).raw)
            said.append((await door.ask("POST", "/v1/tokens", {"name": token, "role": "admin"}, ROOT_TOKEN)).raw)
            said.append((await door.ask("POST", ADOPT, VERSION, ROOT_TOKEN, X_Rollout_User=token)).raw)
            said.append(
                (await door.ask("POST", f"/v1/services/{OWN}/undo", {"to": token}, ROOT_TOKEN)).raw.replace(token, "")
            )
            said.append((await root.ask("DELETE", "/v1/session")).raw)
    copy(given.data / "rollout.db", tmp_path / "backup.db")
    files = [path for path in (*given.data.rglob("*"), tmp_path / "backup.db") if path.is_file()]
    with contextlib.closing(sqlite3.connect(tmp_path / "backup.db")) as database:
        assert database.execute("SELECT count(*) FROM tokens").fetchone() == (2,)
        assert database.execute("SELECT count(*) FROM sessions").fetchone() == (1,)
    for secret in (token, second, page.cookie, page.csrf, root.cookie, ROOT_TOKEN, wrong):
        assert secret not in repr(logs)
        assert not any(secret.encode() in path.read_bytes() for path in files)
        if secret != page.csrf:
            assert secret not in "\n".join(said)
