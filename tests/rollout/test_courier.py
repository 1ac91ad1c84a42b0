"""One call of a hook: a real web server and real programs, which agree, refuse, hang, lie and say too much."""

import asyncio
import contextlib
import hashlib
import hmac
import json
import os
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from rollout.courier import PROVIDED_BYTES, Agreed, Courier, Refused
from rollout.errors import InvalidSpec, Unavailable
from rollout.fetching import open_session
from rollout.hooks import Call, Hook
from rollout.message import Endpoints, Message, about, key_of_call, key_of_event, message
from rollout.metrics.sources import Commands
from rollout.permit import Permit
from rollout.record import Rollout
from rollout.spec import Strategy
from rollout.state import Phase, Role, State
from tests.rollout.waiting import ended, eventually

AT = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
ENDPOINTS = Endpoints(("10.0.0.1:80",), ("10.0.0.5:8080@eu/eu-1",))
VARIABLE = "ROLLOUT_HOOK_KEY"
ENVIRONMENT = {VARIABLE: "hush-key"}


@dataclass(slots=True)
class Site:
    """A web server that remembers what it was told."""

    address: str = ""
    told: list[tuple[Mapping[str, str], bytes]] = field(default_factory=list)

    async def agree(self, request: web.Request) -> web.Response:
        self.told.append((dict(request.headers), await request.read()))
        return web.Response(status=204)

    async def refuse(self, request: web.Request) -> web.Response:
        return web.Response(status=403, text="not before\nnoon\x1b[31m " + "x" * 1000)

    async def broken(self, request: web.Request) -> web.Response:
        return web.Response(status=503)

    async def busy(self, request: web.Request) -> web.Response:
        return web.Response(status=409, text="working on it")

    async def elsewhere(self, request: web.Request) -> web.Response:
        raise web.HTTPTemporaryRedirect("/agree")

    async def hang(self, request: web.Request) -> web.Response:
        await asyncio.Event().wait()
        return web.Response()

    async def endless(self, request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(status=int(request.query.get("status", "200")))
        await response.prepare(request)
        with contextlib.suppress(ConnectionError):
            while True:
                await response.write(b"1" * 65536)
        return response

    async def provide(self, request: web.Request) -> web.Response:
        return web.json_response({"endpoints": ["10.0.0.9:80"]})


@pytest.fixture
async def site() -> AsyncIterator[Site]:
    known, app = Site(), web.Application()
    for name in ("agree", "refuse", "broken", "busy", "elsewhere", "hang", "endless", "provide"):
        app.router.add_post(f"/{name}", getattr(known, name))
    runner = web.AppRunner(app, shutdown_timeout=0.1, handler_cancellation=True)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    known.address = f"127.0.0.1:{runner.addresses[0][1]}"
    yield known
    await runner.cleanup()


@pytest.fixture
async def courier(tmp_path: Path) -> AsyncIterator[Courier]:
    async with open_session() as session:
        yield Courier(session, Commands(tmp_path, os.environ["PATH"]), ENVIRONMENT.get, lambda: AT)


def rollout(hook: Hook) -> Rollout:
    strategy = Strategy(hooks=(hook,))
    return Rollout("checkout", 7, "v1", "v2", strategy, State(Phase.PENDING, 0.0, reason="deployed"), 1, AT, AT)


def letter(**written: object) -> Message:
    hook = Hook.model_validate({"at": "pre-rollout", "timeout": "10s", **written})
    known = rollout(hook)
    return message(known, hook, key_of_call(known, Call(0), 5.0), ENDPOINTS, AT)


async def fault(courier: Courier, said: Message) -> str:
    with pytest.raises(Unavailable) as caught:
        await courier.deliver(said, 1)
    return str(caught.value)


# --- webhooks ---


async def test_a_webhook_gets_the_moment_as_json_with_a_signature_and_a_key(courier: Courier, site: Site) -> None:
    headers = {"X-Team": "shop", "idempotency-key": "mine", "x-rollout-signature": "mine"}
    said = letter(url=f"http://{site.address}/agree", secret=VARIABLE, headers=headers)
    assert await courier.deliver(said, 2) == Agreed()
    ((told, body),) = site.told
    assert json.loads(body) == {
        "service": "checkout",
        "rollout": 7,
        "stable": "v1",
        "candidate": "v2",
        "kind": "pre-rollout",
        "hook": site.address,
        "phase": "pending",
        "stage": 0,
        "weight_percent": 0.0,
        "reason": "deployed",
        "endpoints": ["10.0.0.5:8080@eu/eu-1"],
        "at": "2026-03-01T12:00:00.000+00:00",
        "idempotency_key": said.key,
        "attempt": 2,
    }
    time, _, given = told["X-Rollout-Signature"].partition(",")
    unix_s = time.removeprefix("t=")
    wanted = hmac.new(b"hush-key", f"{unix_s}.".encode() + body, hashlib.sha256).hexdigest()
    assert (int(unix_s), given) == (int(AT.timestamp()), f"v1={wanted}")
    assert (told["Idempotency-Key"], told["Content-Type"], told["X-Team"]) == (said.key, "application/json", "shop")
    assert [name.lower() for name in told].count("idempotency-key") == 1


async def test_who_is_called_hears_where_in_a_trace_that_is(courier: Courier, site: Site, tmp_path: Path) -> None:
    given = f"00-{7:032x}-{8:016x}-01"
    traced = replace(courier, traceparent=lambda said: given if said.said["service"] == "checkout" else "")
    url, headers = f"http://{site.address}/agree", {"Traceparent": "mine"}
    await traced.deliver(letter(url=url, headers=headers), 1)
    await courier.deliver(letter(url=url, headers=headers), 1)
    await courier.deliver(letter(url=url), 1)
    heard = [{name.lower(): value for name, value in told.items()}.get("traceparent") for told, _ in site.told]
    assert heard == [given, "mine", None]
    script(tmp_path, "hook.sh", f'printf "%s" "$TRACEPARENT" > {tmp_path}/heard')
    for each, said in ((traced, given), (courier, "")):
        assert await each.deliver(letter(command=["hook.sh"]), 1) == Agreed()
        assert (tmp_path / "heard").read_text() == said


def test_an_event_that_a_server_tells_again_otherwise_has_another_key() -> None:
    known = rollout(Hook.model_validate({"at": "event", "command": "x"}))
    assert key_of_event(known, 0) == key_of_event(replace(known), 0)
    assert key_of_event(known, 0) != key_of_event(replace(known, changed_at=AT + timedelta(seconds=1)), 0)


async def test_without_a_secret_there_is_no_signature(courier: Courier, site: Site) -> None:
    await courier.deliver(letter(url=f"http://{site.address}/agree"), 1)
    assert "X-Rollout-Signature" not in site.told[0][0]


async def test_a_password_in_the_url_is_sent_and_never_told(courier: Courier, site: Site) -> None:
    await courier.deliver(letter(url=f"http://me:hush@{site.address}/agree?key=hush"), 1)
    assert site.told[0][0]["Authorization"].startswith("Basic ")
    for page in ("refuse", "broken", "elsewhere"):
        reply = await courier.deliver(letter(url=f"http://me:hush@{site.address}/{page}?key=hush"), 1)
        assert "hush" not in repr(reply)
    for url in ("http://me:hush@127.0.0.1:1/hush", f"https://me:hush@{site.address}/hush"):
        assert "hush" not in await fault(courier, letter(url=url))


@pytest.mark.parametrize(
    ("page", "words", "final"),
    [
        ("refuse", "403 from SITE: not before noon [31m " + "x" * 179, True),
        ("broken", "503 from SITE", False),
        ("busy", "409 from SITE: working on it", False),
        ("missing", "404 from SITE: 404: Not Found", True),
        ("elsewhere", "307 from SITE, and redirects are not followed; name where it leads", True),
        ("endless?status=500", "500 from SITE: " + "1" * 200, False),
    ],
)
async def test_whoever_does_not_answer_2xx_refuses_with_the_beginning_of_what_it_says(
    courier: Courier, site: Site, page: str, words: str, final: bool
) -> None:
    reply = await courier.deliver(letter(url=f"http://{site.address}/{page}"), 1)
    assert reply == Refused(words.replace("SITE", site.address), final=final)
    assert not site.told


async def test_who_hangs_or_is_not_there_does_not_answer(courier: Courier, site: Site) -> None:
    hanging = letter(url=f"http://{site.address}/hang", timeout="200ms")
    assert await fault(courier, hanging) == f"no answer from {site.address} within 0.2 s"
    assert await fault(courier, letter(url="http://127.0.0.1:1/")) == "no answer from 127.0.0.1:1: Connection refused"


async def test_who_agrees_is_not_listened_to_unless_it_provides(courier: Courier, site: Site) -> None:
    url = f"http://{site.address}/endless"
    assert await courier.deliver(letter(url=url), 1) == Agreed()
    too_long = Refused(f"the answer of {site.address} is longer than {PROVIDED_BYTES} bytes", final=True)
    assert await courier.deliver(letter(url=url, at="provision"), 1) == too_long
    said = letter(url=f"http://{site.address}/provide", at="provision")
    assert await courier.deliver(said, 1) == Agreed('{"endpoints": ["10.0.0.9:80"]}')


async def test_a_secret_that_is_gone_keeps_the_message_here(courier: Courier, site: Site) -> None:
    said = letter(url=f"http://{site.address}/agree", secret=VARIABLE)
    poor = replace(courier, secret=lambda _: None)
    assert await fault(poor, said) == f"the environment variable {VARIABLE} of the server is not set"
    assert not site.told


# --- commands ---


def script(folder: Path, name: str, text: str) -> None:
    path = folder / name
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)


async def test_a_command_has_the_json_on_stdin_and_its_values_in_the_environment(
    courier: Courier, tmp_path: Path
) -> None:
    script(tmp_path, "migrate", f"cat > {tmp_path}/stdin; env > {tmp_path}/env; echo $1 > {tmp_path}/words")
    said = letter(command=["migrate", "$candidate"])
    assert await courier.deliver(said, 1) == Agreed()
    assert (tmp_path / "stdin").read_bytes() == said.body(1)
    environment = dict(line.partition("=")[::2] for line in (tmp_path / "env").read_text().splitlines())
    wanted = {
        "ROLLOUT_ID": "7",
        "ROLLOUT_SERVICE": "checkout",
        "ROLLOUT_CANDIDATE": "v2",
        "ROLLOUT_ENDPOINTS": "10.0.0.5:8080@eu/eu-1",
        "ROLLOUT_IDEMPOTENCY_KEY": said.key,
        "ROLLOUT_ATTEMPT": "1",
    }
    assert wanted.items() <= environment.items()
    assert VARIABLE not in environment
    assert (tmp_path / "words").read_text() == "$candidate\n"


async def test_what_is_too_long_for_an_environment_is_on_stdin_only(courier: Courier, tmp_path: Path) -> None:
    script(tmp_path, "migrate", f"cat > {tmp_path}/stdin; env > {tmp_path}/env")
    said = letter(command="migrate")
    said = replace(said, said={**said.said, "endpoints": ("10.100.100.100:8080@europe-west/eu-1",) * 10_000})
    assert await courier.deliver(said, 1) == Agreed()
    assert (tmp_path / "stdin").read_bytes() == said.body(1)
    environment = (tmp_path / "env").read_text()
    assert "ROLLOUT_SERVICE=checkout" in environment
    assert "ROLLOUT_ENDPOINTS" not in environment


async def test_a_command_that_fails_refuses_with_the_end_of_what_it_says(courier: Courier, tmp_path: Path) -> None:
    script(tmp_path, "bad", "echo no table orders >&2; exit 3")
    assert await courier.deliver(letter(command="bad"), 1) == Refused("bad ended with 3: no table orders")
    script(tmp_path, "crash", "kill -SEGV $$")
    assert await courier.deliver(letter(command="crash"), 1) == Refused("crash ended with 139")


async def test_a_hanging_command_is_killed_with_all_that_it_has_started(courier: Courier, tmp_path: Path) -> None:
    script(tmp_path, "hang", f"sleep 1000 & echo $! > {tmp_path}/child; sleep 1000")
    said = letter(command="hang", timeout="2s")
    assert await fault(courier, said) == "hang did not end within 2 s, and was killed"
    child = int((tmp_path / "child").read_text())
    await eventually(lambda: ended(child))


async def test_what_a_providing_command_writes_is_kept(courier: Courier, tmp_path: Path) -> None:
    script(tmp_path, "bring-up", "echo starting >&2; echo '{}'")
    assert await courier.deliver(letter(command="bring-up", at="provision"), 1) == Agreed("starting\n{}\n")


# --- what is told ---


def test_the_key_is_the_same_for_the_same_call_and_for_no_other() -> None:
    once = Hook.model_validate({"at": "pre-rollout", "command": "a"})
    known = rollout(once)
    key = key_of_call(known, Call(0), 5.0)
    assert key == key_of_call(replace(known, revision=9, state=State(Phase.WARMING, 3.0)), Call(0), 6.0)
    others = [
        key_of_call(replace(known, id=8), Call(0), 5.0),
        key_of_call(replace(known, service="cart"), Call(0), 5.0),
        key_of_call(known, Call(0, "1"), 5.0),
        key_of_call(replace(known, started_at=datetime(2026, 1, 1, tzinfo=UTC)), Call(0), 5.0),
    ]
    assert len({key, *others}) == 5


def test_who_is_asked_again_is_asked_something_new() -> None:
    known = rollout(Hook.model_validate({"at": "confirm-promotion", "command": "a"}))
    assert key_of_call(known, Call(0), 5.0) == key_of_call(known, Call(0), 5.0) != key_of_call(known, Call(0), 10.0)


@pytest.mark.parametrize(("loser", "name", "endpoints"), [("stable", "v1", 0), ("candidate", "v2", 1)])
def test_the_loser_is_told_once_it_is_known(loser: str, name: str, endpoints: int) -> None:
    hook = Hook.model_validate({"at": "terminate", "command": "a"})
    known = rollout(hook)
    known = replace(known, state=replace(known.state, phase=Phase.REMOVING, loser=Role(loser)))
    said: Mapping[str, Any] = message(known, hook, "k", ENDPOINTS, AT).said
    wanted = (ENDPOINTS.stable, ENDPOINTS.candidate)[endpoints]
    assert (said["loser"], said["loser_endpoints"], said["weight_percent"]) == (name, wanted, 100.0 * (1 - endpoints))


@pytest.mark.parametrize(
    ("occasion", "following"),
    [("", {}), ("2", {"next_stage": 2}), ("1.0", {"next_stage": 0, "next_wave": 1})],
)
def test_who_confirms_a_stage_is_told_which(occasion: str, following: dict[str, int]) -> None:
    said = letter(at="confirm-traffic-increase", command="a")
    assert about(said, Call(0, occasion)) == replace(said, said={**said.said, **following})


# --- what may be asked of this server ---


def test_a_strategy_is_refused_whose_hooks_this_server_cannot_call(tmp_path: Path) -> None:
    script(tmp_path, "known", "")
    fine = {"at": "event", "command": "known"}
    signed = {"at": "event", "url": "http://h/", "secret": VARIABLE}
    strategy = Strategy.model_validate({"hooks": [fine, signed]})
    Permit(Commands(tmp_path), ENVIRONMENT.get).check(strategy)
    told = rf"^hooks\[1\]\.secret: the server's environment has no {VARIABLE}; start the server with the key in it"
    for environment in ({}, {VARIABLE: ""}):
        with pytest.raises(InvalidSpec, match=told):
            Permit(Commands(tmp_path), environment.get).check(strategy)
    with pytest.raises(InvalidSpec, match=r"^hooks\[0\]\.command: this server runs no commands"):
        Permit(Commands(None), ENVIRONMENT.get).check(strategy)
    unknown = Strategy.model_validate({"hooks": [{"at": "event", "command": "unknown"}]})
    with pytest.raises(InvalidSpec, match=r"^hooks\[0\]\.command: 'unknown' is no file in the folder"):
        Permit(Commands(tmp_path), ENVIRONMENT.get).check(unknown)
    checked = Strategy.model_validate({"checks": [{"command": ["unknown"]}]})
    with pytest.raises(InvalidSpec, match=r"^checks\[0\]\.command: 'unknown' is no file in the folder"):
        Permit(Commands(tmp_path), ENVIRONMENT.get).check(checked)
