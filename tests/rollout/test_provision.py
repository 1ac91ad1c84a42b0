"""A whole server without an Envoy, and a hook that says where the candidate runs."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import yaml
from aiohttp import web

from rollout.app import Listening, serve
from rollout.demo.processes import until
from rollout.demo.world import configuration
from rollout.settings import Settings

STABLE = "127.0.0.1:9001"
SERVICE = "/v1/services/checkout"


@contextlib.asynccontextmanager
async def server(folder: Path) -> AsyncIterator[aiohttp.ClientSession]:
    (folder / "configs").mkdir()
    (folder / "configs" / "shop.yaml").write_text(yaml.safe_dump(configuration([STABLE])))
    settings = Settings(folder / "configs", folder / "data", "127.0.0.1:0", "127.0.0.1:0")
    listening: asyncio.Future[Listening] = asyncio.get_running_loop().create_future()
    async with asyncio.TaskGroup() as group:
        task = group.create_task(serve(settings, listening.set_result))
        await asyncio.wait((task, listening), return_when=asyncio.FIRST_COMPLETED, timeout=20)
        async with aiohttp.ClientSession(f"http://{listening.result().admin}") as http:
            yield http
        task.cancel()


@contextlib.asynccontextmanager
async def hook(answer: str) -> AsyncIterator[dict[str, Any]]:
    async def said(_: web.Request) -> web.Response:
        return web.Response(text=answer)

    app = web.Application()
    app.router.add_post("/", said)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    yield {"at": "provision", "name": "up", "url": f"http://127.0.0.1:{runner.addresses[0][1]}/"}
    await runner.cleanup()


async def outcome(folder: Path, answer: str, endpoints: list[str], *, times: int = 1) -> dict[str, Any]:
    """Deploy so many times with a hook that answers so; return the service once the first phase is over."""
    found: dict[str, Any] = {}
    async with hook(answer) as written, server(folder) as http:
        body = {"version": "v2", "endpoints": endpoints, "strategy": {"hooks": [written]}}
        for _ in range(times):
            async with http.post(f"{SERVICE}/rollouts", json=body) as response:
                assert response.status == 201, await response.text()
                assert (await response.json())["id"] == 1

        async def left() -> bool:
            async with http.get(SERVICE) as response:
                found.update(await response.json())
            return str(found["rollout"]["phase"]) != "pending"

        await until(left, within_s=60, what="the hook's answer to count")
    return found


@pytest.mark.parametrize(
    ("answer", "endpoints", "backends"),
    [
        ('{"endpoints": ["127.0.0.1:9002@eu/eu-1", "127.0.0.1:9003"]}', [], ["127.0.0.1:9002", "127.0.0.1:9003"]),
        ('{"endpoints": ["127.0.0.1:9002"]}', ["127.0.0.1:9009"], ["127.0.0.1:9002"]),
        ("ok", ["127.0.0.1:9009"], ["127.0.0.1:9009"]),
    ],
)
async def test_the_candidate_runs_where_the_hook_says(
    tmp_path: Path, answer: str, endpoints: list[str], backends: list[str]
) -> None:
    service = await outcome(tmp_path, answer, endpoints, times=1 if endpoints else 2)  # the same again is harmless
    (candidate,) = [each for each in service["versions"] if each["version"] == "v2"]
    assert (service["rollout"]["phase"], candidate["backends"]) == ("warming", backends)
    (said,) = service["rollout"]["hooks"]
    assert said == {"name": "up", "at": "provision", "state": "agreed", "words": "", "attempts": said["attempts"]}


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        ("ok", 'it does not say where the candidate runs; answer {"endpoints": ["10.0.0.5:8080"]}'),
        (f'{{"endpoints": ["{STABLE}"]}}', f"{STABLE} belongs to 'initial'; provide backends of its own"),
        ('{"endpoints": ["localhost:1"]}', "'localhost' is no IP address; Envoy takes no host names in endpoints"),
    ],
)
async def test_a_hook_that_does_not_say_it_well_ends_the_rollout(tmp_path: Path, answer: str, words: str) -> None:
    service = await outcome(tmp_path, answer, [])
    assert service["rollout"]["phase"] in ("removing", "rolled_back")
    assert service["rollout"]["reason"].startswith("the provision hook 'up': ")
    assert service["rollout"]["reason"].endswith(words)
