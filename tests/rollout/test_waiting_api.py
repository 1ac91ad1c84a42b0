"""Answers that wait until what was begun has ended or something has changed, and never for longer than they may."""

import asyncio
import contextlib
import os
import signal
import time
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp.test_utils import make_mocked_request

from rollout.api.waiting import WAITERS, Waiting
from rollout.app import Listening, serve
from rollout.controller import Order
from rollout.demo.processes import until
from rollout.state import Command, Phase
from tests.rollout.operating import ANN, deployment
from tests.rollout.operating import running as engine_in
from tests.rollout.served import Running, running, settings_in

CHECKOUT = "/v1/services/checkout"
V2 = {"version": "v2", "endpoints": ["127.0.0.1:9002"]}


async def ask(server: Running, method: str, path: str, body: object = None) -> tuple[int, Any]:
    async with server.http.request(method, path, json=body) as answer:
        return answer.status, await answer.json(content_type=None)


async def begun(server: Running) -> bool:
    return (await ask(server, "GET", CHECKOUT))[1]["rollout"] is not None


async def test_a_deployment_that_waits_answers_when_it_has_ended(tmp_path: Path) -> None:
    async with running(settings_in(tmp_path)) as server, asyncio.TaskGroup() as group:
        waiting = group.create_task(ask(server, "POST", f"{CHECKOUT}/rollouts?wait=5m", V2))
        await until(lambda: begun(server), within_s=60, what="the deployment")
        story = group.create_task(ask(server, "GET", f"{CHECKOUT}/rollouts/1?wait=5m"))
        assert (await ask(server, "POST", f"{CHECKOUT}/commands/abort?wait=20s", {}))[0] == 200
        status, rollout = await waiting
        assert (status, rollout["outcome"], rollout["in_progress"]) == (201, "rolled_back", False)
        assert (await story)[1]["outcome"] == "rolled_back"


async def test_when_the_time_is_over_it_says_where_it_stands(tmp_path: Path) -> None:
    async with running(settings_in(tmp_path)) as server:
        began_s = time.monotonic()
        status, rollout = await ask(server, "POST", f"{CHECKOUT}/rollouts?wait=300ms", V2)
        assert (status, rollout["in_progress"]) == (202, True)
        assert time.monotonic() - began_s >= 0.3
        status, view = await ask(server, "POST", f"{CHECKOUT}/drains?wait=10ms", {"backend": "127.0.0.1:9001"})
        assert (status, view["drains"][0]["removed"]) == (202, False)
        status, rollout = await ask(server, "POST", f"{CHECKOUT}/commands/pause?wait=10ms", {})
        assert (status, rollout["waiting_for"]) == (202, {"the fleet": "has no Envoy on the line"})


async def test_a_command_has_settled_when_every_envoy_has_what_it_led_to(tmp_path: Path) -> None:
    async with engine_in(tmp_path) as engine, asyncio.TaskGroup() as group:
        engine.connect()
        await engine.operations.deploy(deployment("v2", "10.0.0.11:80"), ANN)
        await engine.until(Phase.SHIFTING)
        waiting = Waiting(engine.controller)
        request = make_mocked_request("POST", f"{CHECKOUT}/commands/promote?wait=20s")
        rollout = await engine.order(Command.PROMOTE)
        settled = group.create_task(waiting.obeyed(request, rollout, Command.PROMOTE))
        await asyncio.sleep(0)
        assert not settled.done()
        await engine.steps(5)
        assert await settled


async def test_a_service_is_told_of_when_its_etag_differs(tmp_path: Path) -> None:
    async with running(settings_in(tmp_path)) as server, asyncio.TaskGroup() as group:
        async with server.http.get(CHECKOUT) as answer:
            known = answer.headers["ETag"].strip('"')
        assert (await ask(server, "GET", f"{CHECKOUT}?wait=5m&etag=another"))[1]["stable"] == "initial"
        waiting = group.create_task(ask(server, "GET", f"{CHECKOUT}?wait=5m&etag={known}"))
        await ask(server, "POST", f"{CHECKOUT}/adopt", {"version": "v1"})
        assert (await waiting)[1]["stable"] == "v1"


async def test_many_who_wait_for_a_service_cost_little_more_than_one(tmp_path: Path) -> None:
    many = [f"10.1.{number // 250}.{number % 250 + 1}:80" for number in range(400)]
    async with engine_in(tmp_path) as engine, asyncio.TaskGroup() as group:
        await engine.operations.deploy(deployment("v2", *many), ANN)
        waiting = Waiting(engine.controller)
        request = make_mocked_request("GET", f"{CHECKOUT}?wait=5m")
        waiters = [group.create_task(waiting.changed(request, "checkout")) for _ in range(WAITERS)]
        await asyncio.sleep(0)
        began_s = time.process_time()
        for _ in range(20):
            engine.controller.bell.ring()
            for _ in range(3):
                await asyncio.sleep(0)
        assert time.process_time() - began_s < 0.5  # each on its own: two seconds
        assert not any(each.done() for each in waiters)
        await engine.operations.command("checkout", Order(Command.ABORT, ANN))
        await asyncio.gather(*waiters)


@pytest.mark.parametrize(("wait", "says"), [("11m", "too long"), ("soon", "no duration"), ("5", "no duration")])
async def test_a_wrong_time_is_refused_before_anything_is_done(tmp_path: Path, wait: str, says: str) -> None:
    async with running(settings_in(tmp_path)) as server:
        status, answer = await ask(server, "POST", f"{CHECKOUT}/rollouts?wait={wait}", V2)
        assert (status, says in answer["detail"]) == (400, True)
        assert (await ask(server, "GET", CHECKOUT))[1]["rollout"] is None
        assert (await ask(server, "POST", f"{CHECKOUT}/adopt?wait=1s", {"version": "v1"}))[0] == 400


async def test_waiters_do_not_hold_up_the_end_of_the_server(tmp_path: Path) -> None:
    listening: asyncio.Future[Listening] = asyncio.get_running_loop().create_future()
    server = asyncio.ensure_future(serve(settings_in(tmp_path), listening.set_result))
    found = await listening
    async with aiohttp.ClientSession(f"http://{found.admin}") as http:
        here = Running(found, http)
        waiting = [asyncio.ensure_future(ask(here, "GET", f"{CHECKOUT}?wait=10m")) for _ in range(5)]
        waiting.append(asyncio.ensure_future(ask(here, "POST", f"{CHECKOUT}/rollouts?wait=10m", V2)))
        await until(lambda: begun(here), within_s=60, what="the deployment")
        began_s = time.monotonic()
        os.kill(os.getpid(), signal.SIGTERM)
        answers = await asyncio.gather(*waiting)
        await server
    assert time.monotonic() - began_s < 20
    assert [status for status, _ in answers] == [200, 200, 200, 200, 200, 202]
    with contextlib.suppress(asyncio.CancelledError):
        await server
