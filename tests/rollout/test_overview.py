"""A whole server seen from outside: services at a glance, views in a stream, the audit log's pages, a quick end."""

import asyncio
import contextlib
import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from rollout.demo.processes import until
from rollout.settings import Settings
from tests.rollout.listening import STREAM, blocks, first
from tests.rollout.test_app import CHECKOUT, V2, Running, resources, running, write


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    write(tmp_path / "configs", resources())
    return Settings(tmp_path / "configs", tmp_path / "data", "127.0.0.1:0", "127.0.0.1:0")


@pytest.fixture
async def server(settings: Settings) -> AsyncIterator[Running]:
    async with running(settings) as found:
        yield found


async def row(server: Running) -> dict[str, Any]:
    (found,) = (await server.get("/v1/overview"))[1]["services"]
    return dict(found)


async def test_a_service_at_a_glance(server: Running) -> None:
    found = await row(server)
    assert (found["service"], found["stable"], found["rollout"], found["stages"]) == ("checkout", "initial", None, [])
    await server.begin()
    found = await row(server)
    assert (found["candidate"], found["in_progress"], found["outcome"]) == ("v2", True, "in_progress")
    assert (found["stage"], found["weight_percent"], found["draining"]) == (0, 0.0, 0)
    assert len(found["stages"]) > 1


async def test_a_stream_shows_views_when_they_differ(server: Running) -> None:
    query = "kind=operation&views=services,service:checkout,fleet"
    async with asyncio.timeout(20), server.http.get(f"/v1/events?{query}", headers=STREAM) as response:
        told = blocks(response)
        seen = [each async for each in _until(told, "fleet")]
        assert [each.event for each in seen if each.data] == ["services", "service", "fleet"]
        assert {each.id for each in seen} == {""}
        assert seen[-1].data["nodes"] == []
        assert (await server.get(CHECKOUT))[1] == seen[-2].data
        assert (await server.post(f"{CHECKOUT}/adopt", {"version": "v1"}))[0] == 200
        seen = [each async for each in _until(told, "service")]
        assert [each.event for each in seen] == ["journal", "services", "service"]
        assert (seen[0].data["kind"], seen[1].data["services"][0]["stable"]) == ("operation", "v1")
        assert seen[2].data["stable"] == "v1"


async def _until(told: AsyncIterator[Any], event: str) -> AsyncIterator[Any]:
    async for each in told:
        yield each
        if each.event == event:
            return


@pytest.mark.parametrize(("view", "status"), [("other", 400), ("service:cart", 404), ("services,service:", 404)])
async def test_a_view_that_there_is_not_is_refused(server: Running, view: str, status: int) -> None:
    async with server.http.get(f"/v1/events?views={view}", headers=STREAM) as response:
        assert response.status == status


async def test_a_refused_configuration_is_told_with_what_is_wrong(server: Running) -> None:
    write(server.configs, "clusters: [{ nome: checkout }]")
    async with server.http.get("/v1/events?kind=config.*,operation", headers=STREAM) as response:
        assert (await server.post("/v1/config/reload", {}))[0] == 422
        told = await first(response, 2)
    assert {each.data["kind"] for each in told} == {"config.refused", "operation"}
    assert all("nome" in each.data["text"] for each in told)


async def test_the_audit_log_page_by_page_with_its_head(server: Running) -> None:
    for version in ("v1", "v2", "v3"):
        await server.post(f"{CHECKOUT}/adopt", {"version": version}, **{"X-Rollout-User": "ann"})
    await server.post(f"{CHECKOUT}/rollouts", {**V2, "version": "v3"})

    async def refusal_saved() -> bool:  # for which its answer does not wait
        return bool((await server.get("/v1/audit/verify"))[1]["rows"] == 4)

    await until(refusal_saved, within_s=30, what="the refused deployment to be in the log")
    _, page = await server.get("/v1/audit?verb=adopt&limit=2")
    assert [(each["id"], each["who"], each["detail"]) for each in page["rows"]] == [(3, "ann", "v3"), (2, "ann", "v2")]
    assert "127.0.0.1" in page["rows"][0]["origin"]
    _, rest = await server.get(f"/v1/audit?verb=adopt&limit=2&cursor={page['next']}")
    assert ([each["id"] for each in rest["rows"]], rest["next"]) == ([1], None)
    _, all_of_it = await server.get("/v1/audit/verify")
    assert all_of_it == {"rows": 4, "head": page["head"], "broken": None}
    _, noted = await server.get(f"/v1/audit/verify?head={'0' * 63}1")
    assert noted["broken"]["row"] == 5


async def test_open_streams_do_not_hold_up_the_end_of_the_server(settings: Settings) -> None:
    async with contextlib.AsyncExitStack() as streams, running(settings) as server:
        responses = [
            await streams.enter_async_context(server.http.get("/v1/events?views=services", headers=STREAM))
            for _ in range(20)
        ]
        os.kill(os.getpid(), signal.SIGTERM)
        async with asyncio.timeout(20):
            await asyncio.gather(*(each.read() for each in responses))
