"""The whole server without an Envoy: bad input gets a clear answer and changes nothing."""

import asyncio
import contextlib
import os
import signal
import socket
import sqlite3
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import yaml

from rollout.app import Listening, serve
from rollout.demo.processes import until
from rollout.demo.world import configuration
from rollout.errors import Conflict, RolloutError
from rollout.settings import Settings
from xds.errors import InvalidConfig, XdsError

CHECKOUT = "/v1/services/checkout"
V2 = {"version": "v2", "endpoints": ["127.0.0.1:9002"]}


def resources() -> dict[str, Any]:
    return configuration(["127.0.0.1:9001", "127.0.0.1:9011"])


def write(folder: Path, content: dict[str, Any] | str) -> None:
    folder.mkdir(exist_ok=True)
    (folder / "shop.yaml").write_text(content if isinstance(content, str) else yaml.safe_dump(content))


class Running:
    """A server under test, and a client of it."""

    def __init__(self, listening: Listening, http: aiohttp.ClientSession, configs: Path) -> None:
        self.listening = listening
        self.http = http
        self.configs = configs

    async def get(self, path: str) -> tuple[int, dict[str, Any]]:
        async with self.http.get(path) as answer:
            return answer.status, await answer.json(content_type=None)

    async def post(self, path: str, body: object, **headers: str) -> tuple[int, dict[str, Any]]:
        async with self.http.post(path, json=body, headers=headers) as answer:
            return answer.status, await answer.json(content_type=None)

    async def begin(self) -> None:
        """Start a rollout, and wait until its candidate is pushed."""
        assert (await self.post(f"{CHECKOUT}/rollouts", V2))[0] == 201

        async def warming() -> bool:
            return bool((await self.get(CHECKOUT))[1]["rollout"]["phase"] == "warming")

        await until(warming, within_s=30, what="the candidate to be pushed")
        await self.post(f"{CHECKOUT}/commands/pause", {})

    async def snapshot(self) -> str:
        return str((await self.get("/readyz"))[1]["snapshot"])


@contextlib.asynccontextmanager
async def running(settings: Settings) -> AsyncIterator[Running]:
    listening: asyncio.Future[Listening] = asyncio.get_running_loop().create_future()
    async with asyncio.TaskGroup() as group:
        server = group.create_task(serve(settings, listening.set_result))
        await asyncio.wait((server, listening), return_when=asyncio.FIRST_COMPLETED, timeout=30)
        if not server.done():
            found = listening.result()
            async with aiohttp.ClientSession(f"http://{found.admin}") as http:
                yield Running(found, http, settings.configs)
            server.cancel()


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    write(tmp_path / "configs", resources())
    return Settings(tmp_path / "configs", tmp_path / "data", "127.0.0.1:0", "127.0.0.1:0")


@pytest.fixture
async def server(settings: Settings) -> AsyncIterator[Running]:
    async with running(settings) as found:
        yield found


async def test_service_of_the_files_has_its_first_version(server: Running) -> None:
    status, service = await server.get(CHECKOUT)
    assert (status, service["stable"], service["in_progress"], service["rollout"]) == (200, "initial", False, None)
    assert service["versions"] == [
        {"version": "initial", "weight_percent": 100.0, "backends": ["127.0.0.1:9001", "127.0.0.1:9011"]}
    ]


async def test_adopt_names_the_first_version_and_is_idempotent(server: Running) -> None:
    for _ in range(2):
        status, service = await server.post(f"{CHECKOUT}/adopt", {"version": "v1"})
        assert (status, service["stable"]) == (200, "v1")
    assert (await server.post(f"{CHECKOUT}/adopt", {"version": "v 1"}))[0] == 400


@pytest.mark.parametrize(
    ("path", "body", "status", "says"),
    [
        (f"{CHECKOUT}/rollouts", {"version": "v2", "endpoints": []}, 400, "endpoints"),
        (f"{CHECKOUT}/rollouts", {"version": "v2", "endpoints": ["backend:80"]}, 400, "backend"),
        (f"{CHECKOUT}/rollouts", {"version": "v2", "endpoints": ["127.0.0.1"]}, 400, "127.0.0.1"),
        (f"{CHECKOUT}/rollouts", {"version": "v/2", "endpoints": ["127.0.0.1:80"]}, 400, "version name"),
        (f"{CHECKOUT}/rollouts", {**V2, "strategy": {"stages": ["120%"]}}, 400, "strategy.stages[0]"),
        (f"{CHECKOUT}/rollouts", {**V2, "strategy": {"stagse": []}}, 400, "stagse"),
        (f"{CHECKOUT}/rollouts", {**V2, "version": "initial"}, 409, "exists already"),
        ("/v1/services/cart/rollouts", V2, 404, "there are checkout"),
        (f"{CHECKOUT}/commands/abort", {}, 409, "no rollout"),
        (f"{CHECKOUT}/commands/explode", {}, 404, "promote"),
        (f"{CHECKOUT}/drains", {"backend": "127.0.0.1:1"}, 404, "127.0.0.1:9001"),
        (f"{CHECKOUT}/drains", {"backend": "nowhere"}, 400, "nowhere"),
        (f"{CHECKOUT}/drains", {}, 400, "backend"),
        (f"{CHECKOUT}/drains", [], 400, "JSON object"),
        (f"{CHECKOUT}/rollouts", {**V2, "service": "cart"}, 400, "service: is not 'checkout'"),
        (f"{CHECKOUT}/undo", {"to": "\ud800"}, 400, "surrogates not allowed"),  # what cannot be saved ends no server
        (f"{CHECKOUT}/undo", {"to": 7}, 400, "to: must be text, but is 7"),
        (f"{CHECKOUT}/undo", {"to": "v 7", "endpoints": ["127.0.0.1:80"]}, 400, "version name"),
        (f"{CHECKOUT}/adopt", {"version": "v1", "verison": "v2"}, 400, "verison"),
        (f"{CHECKOUT}/health", {"backend": "127.0.0.1:9001", "health": "unhealthy", "resaon": "x"}, 400, "resaon"),
        (f"{CHECKOUT}/health", {"backend": "127.0.0.1:9001", "health": "unhealthy", "reason": [1]}, 400, "reason"),
        ("/v1/config/reload", {"force": True}, 400, "force: is no field here; there are none"),
        ("/v1/nowhere", {}, 404, "Not Found"),
    ],
)
async def test_bad_request_is_a_problem_and_changes_nothing(
    server: Running, path: str, body: object, status: int, says: str
) -> None:
    before = await server.get(CHECKOUT), await server.snapshot()
    found, problem = await server.post(path, body)
    assert (found, problem["status"]) == (status, status)
    assert says in problem["detail"]
    assert (await server.get(CHECKOUT), await server.snapshot()) == before


@pytest.mark.parametrize(("number", "status"), [("0", 404), ("9" * 18, 404), ("9" * 5_000, 400), ("-1", 400)])
async def test_a_number_that_is_no_rollouts_is_said(server: Running, number: str, status: int) -> None:
    await server.begin()
    found, problem = await server.get(f"{CHECKOUT}/rollouts/{number}")
    assert (found, problem["status"]) == (status, status)


async def test_second_rollout_is_refused_and_the_same_again_is_not(server: Running) -> None:
    assert (await server.post(f"{CHECKOUT}/rollouts", V2))[0] == 201
    again = await server.post(f"{CHECKOUT}/rollouts", V2)
    assert (again[0], again[1]["id"]) == (201, 1)
    status, problem = await server.post(f"{CHECKOUT}/rollouts", {**V2, "version": "v3"})
    assert (status, "in progress" in problem["detail"]) == (409, True)
    status, problem = await server.post(f"{CHECKOUT}/rollouts", {**V2, "endpoints": ["127.0.0.1:9003"]})
    assert (status, "in progress" in problem["detail"]) == (409, True)


async def test_rollout_without_any_envoy_waits_and_can_be_aborted(server: Running) -> None:
    await server.post(f"{CHECKOUT}/rollouts", V2)
    status, rollout = await server.post(f"{CHECKOUT}/commands/abort", {}, **{"X-Rollout-User": "ann"})
    assert (status, rollout["weight_percent"], rollout["reason"]) == (200, 0, "aborted by ann")

    async def ended() -> bool:
        return (await server.get(CHECKOUT))[1]["in_progress"] is False

    await until(ended, within_s=45, what="the rollout to end")
    assert [each["version"] for each in (await server.get(CHECKOUT))[1]["versions"]] == ["initial"]
    history = (await server.get(f"{CHECKOUT}/rollouts"))[1]["rollouts"]
    assert [(each["id"], each["outcome"]) for each in history] == [(1, "rolled_back")]
    story = (await server.get(f"{CHECKOUT}/rollouts/last"))[1]
    assert story["journal"][0]["phase"] == "pending"
    assert "ann" in {entry["by"] for entry in story["journal"]}


def with_fault(name: str) -> dict[str, Any] | str:
    content = resources()
    route = content["routes"][0]["virtual_hosts"][0]["routes"][0]["route"]
    match name:
        case "broken YAML":
            return "clusters: [\n- name: x"
        case "unknown field":
            content["clusters"][0]["conect_timeout"] = "1s"
        case "unknown cluster":
            route["cluster"] = "chekout"
        case "weights":
            del route["cluster"]
            route["weighted_clusters"] = {"clusters": [{"name": "checkout", "weight": 0}]}
        case "service lost":
            content = {"clusters": [{"name": "files", "type": "STATIC"}]}
    return content


@pytest.mark.parametrize(
    ("fault", "says"),
    [
        ("broken YAML", ["shop.yaml:2", "YAML"]),
        ("unknown field", ["shop.yaml", "clusters[0] 'checkout'", "conect_timeout"]),
        ("unknown cluster", ["shop.yaml", "virtual_hosts[0].routes[0].route", "chekout"]),
        ("weights", ["shop.yaml", "weighted_clusters", "sum to 0"]),
        ("service lost", ["checkout", "in progress"]),
    ],
)
async def test_bad_configuration_is_refused_whole_and_the_last_good_one_serves(
    server: Running, fault: str, says: list[str]
) -> None:
    await server.begin()
    before = await server.snapshot()
    write(server.configs, with_fault(fault))
    status, problem = await server.post("/v1/config/reload", {})
    assert status == 422
    assert all(part in problem["detail"] for part in says), problem["detail"]
    os.kill(os.getpid(), signal.SIGHUP)
    assert await server.snapshot() == before
    write(server.configs, resources())
    assert (await server.post("/v1/config/reload", {}))[0] == 200

    async def told() -> bool:
        asked = (await server.get("/v1/operations"))[1]["operations"]
        return any(each["result"].startswith("InvalidConfig: ") for each in asked if each["verb"] == "config reload")

    await until(told, within_s=30, what="the refusal to be among the operations")


async def test_sighup_reads_the_configuration_again(server: Running) -> None:
    before = await server.snapshot()
    content = resources()
    content["clusters"][0]["connect_timeout"] = "3s"
    write(server.configs, content)
    os.kill(os.getpid(), signal.SIGHUP)

    async def changed() -> bool:
        return await server.snapshot() != before

    await until(changed, within_s=30, what="another snapshot")


async def test_all_but_the_probes_need_the_token_where_there_is_one(settings: Settings) -> None:
    async with running(replace(settings, token="s3cret")) as server:  # noqa: S106 - a test's
        for path, status in ((CHECKOUT, 401), ("/metrics", 401), ("/healthz", 200), ("/readyz", 200)):
            assert (await server.get(path))[0] == status
        for headers in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": "Basic s3cret"}):
            assert (await server.post(f"{CHECKOUT}/adopt", {"version": "v1"}, **headers))[0] == 401
        right = {"Authorization": "Bearer s3cret"}
        status, service = await server.post(f"{CHECKOUT}/adopt", {"version": "v1"}, **right)
        assert (status, service["stable"]) == (200, "v1")


async def test_changes_from_a_foreign_page_are_refused(server: Running) -> None:
    status, _ = await server.post(f"{CHECKOUT}/adopt", {"version": "v1"}, Origin="http://evil.example")
    assert status == 403
    async with server.http.post(f"{CHECKOUT}/adopt", data=b'{"version": "v1"}') as answer:
        assert answer.status == 400


async def refusal(settings: Settings) -> str:
    async def start() -> None:
        await asyncio.wait_for(serve(settings, lambda _: None), 30)

    with pytest.raises((RolloutError, XdsError)) as caught:
        await start()
    return f"{type(caught.value).__name__}: {caught.value}"


async def test_start_refuses_ports_in_use(settings: Settings) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        assert address in await refusal(replace(settings, admin=address))
        assert address in await refusal(replace(settings, xds=address))


async def test_start_refuses_a_data_folder_of_another_server(settings: Settings, server: Running) -> None:
    assert (await refusal(settings)).startswith(f"{Conflict.__name__}: the data folder {settings.data} is in use")


async def test_start_refuses_a_data_folder_that_it_cannot_write(settings: Settings, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert str(tmp_path / "file" / "data") in await refusal(replace(settings, data=tmp_path / "file" / "data"))


async def test_start_refuses_a_database_of_a_newer_version(settings: Settings) -> None:
    async with running(settings):
        pass
    with contextlib.closing(sqlite3.connect(settings.data / "rollout.db")) as database:
        database.execute("PRAGMA user_version = 999")
    assert "newer version" in await refusal(settings)


async def test_start_refuses_what_it_cannot_serve(settings: Settings, tmp_path: Path) -> None:
    assert "does not exist" in await refusal(replace(settings, configs=tmp_path / "nowhere"))
    (tmp_path / "empty").mkdir()
    assert "nothing to serve" in await refusal(replace(settings, configs=tmp_path / "empty"))
    write(settings.configs, with_fault("unknown cluster"))
    assert (await refusal(settings)).startswith(InvalidConfig.__name__)


async def test_start_refuses_an_open_admin_port_without_a_token(settings: Settings) -> None:
    assert "ROLLOUT_TOKEN" in await refusal(replace(settings, admin="0.0.0.0:0"))
    assert "is no address" in await refusal(replace(settings, admin="nonsense"))


async def test_restart_goes_on_where_it_was(settings: Settings) -> None:
    async with running(settings) as server:
        await server.post(f"{CHECKOUT}/adopt", {"version": "v1"})
        await server.begin()
        before = (await server.get(CHECKOUT))[1], await server.snapshot()
    async with running(settings) as server:
        after = (await server.get(CHECKOUT))[1], await server.snapshot()
    for service, _ in (before, after):
        service["rollout"].pop("phase_seconds")
    assert after == before


async def test_last_backend_is_never_let_go_even_of_a_version_without_weight(server: Running) -> None:
    await server.begin()
    status, problem = await server.post(f"{CHECKOUT}/drains", {"backend": "127.0.0.1:9002"})
    assert (status, "last healthy backend of 'v2'" in problem["detail"]) == (409, True)
    assert (await server.post(f"{CHECKOUT}/drains", {"backend": "127.0.0.1:9001"}))[0] == 201
    status, problem = await server.post(f"{CHECKOUT}/drains", {"backend": "127.0.0.1:9011"})
    assert (status, "last healthy backend of 'initial'" in problem["detail"]) == (409, True)


async def test_backends_cannot_be_let_go_side_by_side(server: Running) -> None:
    drains = [server.post(f"{CHECKOUT}/drains", {"backend": f"127.0.0.1:90{port}"}) for port in ("01", "11")]
    assert sorted([status for status, _ in await asyncio.gather(*drains)]) == [201, 409]


async def test_a_version_needs_backends_of_its_own(server: Running) -> None:
    status, problem = await server.post(f"{CHECKOUT}/rollouts", {"version": "v2", "endpoints": ["127.0.0.1:9001"]})
    assert (status, "backends of its own" in problem["detail"]) == (409, True)


async def test_a_name_that_leads_to_loopback_is_not_loopback(server: Running) -> None:
    for method in (server.http.get, server.http.post):
        async with method(CHECKOUT, headers={"Host": "evil.example"}) as answer:
            assert answer.status == 403


async def test_the_same_version_by_another_strategy_is_refused(server: Running) -> None:
    await server.begin()
    status, problem = await server.post(f"{CHECKOUT}/rollouts", {**V2, "strategy": {"keep_stable": "5m"}})
    assert (status, "another strategy" in problem["detail"]) == (409, True)
