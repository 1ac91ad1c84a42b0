"""Asking twice with one key: what was done is not done again, also when the server dies in between."""

import asyncio
import re
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import aiohttp

from rollout.answered import KEPT, KEPT_ANSWERS, Answered, Answers, Question
from rollout.demo.processes import until
from tests.rollout.commandline import python
from tests.rollout.served import running, settings_in

CHECKOUT = "/v1/services/checkout"
V2 = {"version": "v2", "endpoints": ["127.0.0.1:9002"]}
LIMIT_S = 60.0
NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)


async def post(http: aiohttp.ClientSession, path: str, body: object, key: str) -> tuple[int, Any, bool]:
    """Return status and answer, and whether it was given again."""
    async with http.post(path, json=body, headers={"Idempotency-Key": key}) as answer:
        return answer.status, await answer.json(content_type=None), "Idempotency-Replayed" in answer.headers


async def verbs(http: aiohttp.ClientSession) -> list[str]:
    """Return what was asked for."""
    async with http.get("/v1/operations") as answer:
        return [each["verb"] for each in (await answer.json())["operations"]]


async def begun(http: aiohttp.ClientSession) -> bool:
    return bool(await verbs(http))


async def test_the_first_answer_is_given_again_and_nothing_is_done_twice(tmp_path: Path) -> None:
    settings = settings_in(tmp_path)
    async with running(settings) as server:
        status, first, replayed = await post(server.http, f"{CHECKOUT}/rollouts", V2, "a")
        assert (status, first["id"], replayed) == (201, 1, False)
        assert await post(server.http, f"{CHECKOUT}/commands/abort", {}, "b") != (201, first, True)
        assert await post(server.http, f"{CHECKOUT}/rollouts", V2, "a") == (201, first, True)
        done = await verbs(server.http)
    async with running(settings) as server:
        assert await post(server.http, f"{CHECKOUT}/rollouts", V2, "a") == (201, first, True)
        assert sorted(await verbs(server.http)) == sorted(done) == ["abort", "deploy"]


async def test_a_key_is_for_one_change_of_one_person(tmp_path: Path) -> None:
    async with running(settings_in(tmp_path)) as server:
        assert (await post(server.http, f"{CHECKOUT}/adopt", {"version": "v1"}, "k"))[0] == 200
        for path, body in ((f"{CHECKOUT}/adopt", {"version": "v2"}), (f"{CHECKOUT}/retry", {"version": "v1"})):
            status, answer, _ = await post(server.http, path, body, "k")
            assert (status, "was used for POST" in answer["detail"]) == (422, True)
        server.http.headers["X-Rollout-User"] = "bob"
        assert (await post(server.http, f"{CHECKOUT}/adopt", {"version": "v1"}, "k"))[2] is False
        for key in ("", "k" * 256, "naïve"):
            assert (await post(server.http, f"{CHECKOUT}/adopt", {"version": "v1"}, key))[0] == 400


async def test_refusals_are_kept_and_rehearsals_use_up_no_key(tmp_path: Path) -> None:
    async with running(settings_in(tmp_path)) as server:
        for _ in range(2):
            status, _, replayed = await post(server.http, f"{CHECKOUT}/adopt?dry_run=true", {"version": "v1"}, "k")
            assert (status, replayed) == (200, False)
        refused = await post(server.http, f"{CHECKOUT}/undo", {}, "n")
        assert refused[0] == 409
        assert await post(server.http, f"{CHECKOUT}/undo", {}, "n") == (409, refused[1], True)


async def test_what_is_being_done_is_not_begun_again(tmp_path: Path) -> None:
    async with running(settings_in(tmp_path)) as server, asyncio.TaskGroup() as group:
        first = group.create_task(post(server.http, f"{CHECKOUT}/rollouts?wait=60s", V2, "k"))
        await until(lambda: begun(server.http), within_s=60, what="the deployment")
        status, answer, _ = await post(server.http, f"{CHECKOUT}/rollouts?wait=60s", V2, "k")
        assert (status, "is being made just now" in answer["detail"]) == (409, True)
        async with server.http.post(f"{CHECKOUT}/commands/abort", json={}) as aborted:
            assert aborted.status == 200
        status, ended, _ = await first
        assert (status, ended["phase"]) == (201, "rolled_back")


async def test_a_token_is_shown_once_and_kept_nowhere(tmp_path: Path) -> None:
    settings = settings_in(tmp_path)
    async with running(settings) as server:
        wanted = {"name": "ops", "role": "admin"}
        status, token, _ = await post(server.http, "/v1/tokens", wanted, "k")
        assert status == 201
        server.http.headers["Authorization"] = f"Bearer {token['token']}"
        server.http.headers["X-Rollout-User"] = "api client 127.0.0.1"
        for _ in range(2):
            status, answer, _ = await post(server.http, "/v1/tokens", {"name": "ci", "role": "viewer"}, "l")
        assert (status, "its answer is kept nowhere" in answer["detail"]) == (409, True)
    for file in settings.data.iterdir():
        assert token["token"].encode() not in file.read_bytes()


@asynccontextmanager
async def killed(folder: Path) -> AsyncIterator[aiohttp.ClientSession]:
    """Run a server in a process of its own, and end it by SIGKILL."""
    places = ("--configs", str(folder / "configs"), "--data", str(folder / "data"))
    with python("serve", *places, "--xds", "127.0.0.1:0", "--admin", "127.0.0.1:0") as process:
        try:
            assert process.stderr is not None
            async with asyncio.timeout(LIMIT_S):
                found = None
                while found is None and (line := await asyncio.to_thread(process.stderr.readline)):
                    found = re.search(r"admin API on (http://[\d.:]+)", line)
            assert found is not None, "the server did not become ready"
            async with aiohttp.ClientSession(found[1]) as http:
                yield http
        finally:
            process.send_signal(signal.SIGKILL)


async def test_after_a_kill_what_was_begun_is_not_done_again(tmp_path: Path) -> None:
    settings = settings_in(tmp_path)
    async with killed(tmp_path) as http:
        waiting = asyncio.ensure_future(post(http, f"{CHECKOUT}/rollouts?wait=60s", V2, "k"))
        await until(lambda: begun(http), within_s=60, what="the deployment")
    await asyncio.gather(waiting, return_exceptions=True)
    async with running(settings) as server:
        status, answer, _ = await post(server.http, f"{CHECKOUT}/rollouts?wait=60s", V2, "k")
        assert (status, "it is not known whether it was done" in answer["detail"]) == (409, True)
        assert await verbs(server.http) == ["deploy"]


def test_the_oldest_answers_go_first() -> None:
    answers = Answers()
    for number in range(KEPT_ANSWERS + 2):
        answers.put(Answered(_question(number), NOON + timedelta(seconds=number), 200, "{}"))
    assert answers.outdated(NOON) == (("ann", "0"), ("ann", "1"))
    assert answers.get(_question(1)) is None
    assert answers.get(_question(2)) is not None
    assert len(answers.outdated(NOON + KEPT + timedelta(seconds=11))) == 10  # 2 to 11


def _question(number: int) -> Question:
    return Question("ann", str(number), "POST", CHECKOUT, "")
