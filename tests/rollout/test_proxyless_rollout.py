"""Rollouts in a fleet with gRPC clients that have no proxy: the whole server, real clients, an Envoy beside them."""

import contextlib
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest
import yaml

from rollout.bootstrap import Proxy, bootstrap
from rollout.client import Client, connect, path_of
from rollout.demo.processes import PACKAGE_PARENT, Envoy, Process, free_port, until
from rollout.errors import RolloutError
from tests.xds.proxyless import (
    ADS,
    MANAGER,
    ROUTER,
    Shopper,
    assignment_words,
    cluster_words,
    listener_words,
    route_words,
    shop,
)
from xds import proto
from xds.edge.status import CSDS
from xds.status import ACKED, SYNCED

START_S = 60.0
END_S = 180.0
OPTIONS = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"


class Server:
    """A rollout server with one service, `checkout`, on a port of this machine."""

    def __init__(self, folder: Path, client: Client, xds: str, admin: str) -> None:
        self.folder = folder
        self.xds = xds
        self.client = client
        self.process = Process("server", folder)
        self.status = f"127.0.0.1:{free_port()}"
        self._words = ("--configs", str(folder / "configs"), "--data", str(folder / "data"), "--xds", xds)
        self._ports = ("--admin", admin, "--xds-status", self.status)

    def configure(self, *ports: int) -> None:
        """Write envoy-configs: one route for who names the listener `checkout`, and for who comes through an Envoy."""
        cluster = cluster_words("checkout")
        http2 = {"@type": f"type.googleapis.com/{OPTIONS}", "explicit_http_config": {"http2_protocol_options": {}}}
        words = {
            "listeners": [listener_words("checkout", "shop"), _edge()],
            "routes": [route_words("shop", {"cluster": "checkout"})],
            "clusters": [{**cluster, "typed_extension_protocol_options": {OPTIONS: http2}}],
            "endpoints": [assignment_words("checkout", *ports)],
        }
        (self.folder / "configs").mkdir(exist_ok=True)
        (self.folder / "configs" / "shop.yaml").write_text(yaml.safe_dump(words))

    async def start(self) -> None:
        command = ("-m", "rollout.cli", "serve", *self._words, *self._ports)
        await self.process.start(sys.executable, *command, cwd=PACKAGE_PARENT)
        await self.process.until(self._answers, within_s=START_S, what="the server to be ready")

    async def _answers(self) -> bool:
        with contextlib.suppress(RolloutError):
            await self.client.get("/readyz")
            return True
        return False

    async def deploy(self, version: str, port: int, strategy: dict[str, Any]) -> None:
        body = {"version": version, "endpoints": [f"127.0.0.1:{port}"], "strategy": strategy}
        await self.client.post(path_of("services", "checkout", "rollouts"), body)

    async def promote(self) -> None:
        await self.client.post(path_of("services", "checkout", "commands", "promote"), {})

    async def until_phase(self, phase: str) -> dict[str, Any]:
        found: dict[str, Any] = {}

        async def reached() -> bool:
            with contextlib.suppress(RolloutError):
                found.update((await self.client.get(path_of("services", "checkout")))["rollout"])
            return found.get("phase") == phase

        await until(reached, within_s=END_S, what=f"the rollout to be {phase}, but is {found}")
        return found

    async def until_verdict(self, words: str) -> None:
        found: dict[str, Any] = {}

        async def reached() -> bool:
            found.update((await self.client.get(path_of("services", "checkout")))["rollout"])
            return words in str(found["verdict"])

        await until(reached, within_s=START_S, what=f"the verdict to say '{words}', but it is {found}")

    async def until_connected(self, node_id: str) -> None:
        async def there() -> bool:
            nodes = (await self.client.get(path_of("fleet")))["nodes"]
            return any(each["node"] == node_id and each["connected"] for each in nodes)

        await until(there, within_s=START_S, what=f"{node_id} to be connected")


def _edge() -> dict[str, Any]:
    """Return an Envoy's listener on a port that is free, for the same route."""
    router = {"name": "router", "typed_config": {"@type": ROUTER}}
    rds = {"route_config_name": "shop", "config_source": ADS}
    manager = {"@type": MANAGER, "stat_prefix": "edge", "rds": rds, "http_filters": [router]}
    return {
        "name": "edge",
        "address": {"socket_address": {"address": "127.0.0.1", "port_value": 0}},
        "filter_chains": [{"filters": [{"name": "http", "typed_config": manager}]}],
    }


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[Server]:
    admin = f"127.0.0.1:{free_port()}"
    async with connect(f"http://{admin}", token=None, user="test") as client:
        running = Server(tmp_path, client, f"127.0.0.1:{free_port()}", admin)
        yield running
        await running.process.kill()


async def test_client_without_a_proxy_follows_a_rollout_through_a_crash_of_the_server(
    server: Server, tmp_path: Path
) -> None:
    async with shop("v1") as old, shop("v2") as new, contextlib.AsyncExitStack() as stack:
        server.configure(old)
        await server.start()
        shopper = Shopper(tmp_path, server.xds)
        stack.push_async_callback(shopper.kill)
        await shopper.start()
        assert (await shopper.bought(50)).keys() == {"v1"}
        stages = [{"weight": "30%", "hold": "0s"}, {"weight": "100%", "hold": "0s"}]
        await server.deploy("v2", new, {"stages": stages, "drain_timeout": "500ms"})
        await server.until_phase("shifting")
        await shopper.until(lambda answers: answers["v2"], "the first call to v2")
        answers = await shopper.bought(600)
        assert 0.2 < answers["v2"] / answers.total() < 0.4
        await server.process.kill()
        answers = await shopper.bought(300)
        assert 0.15 < answers["v2"] / answers.total() < 0.45
        await server.start()
        await server.until_connected(shopper.node_id)
        await server.until_verdict("no Envoy reports")
        await server.promote()
        await shopper.until(lambda answers: answers["v1"] and answers["v2"], "calls to both")
        await server.promote()
        await server.until_phase("completed")
        assert (await shopper.bought(50)).keys() == {"v2"}
        assert shopper.all_answers().keys() == {"v1", "v2"}, "a call failed"


@pytest.mark.envoy
async def test_rollout_is_judged_by_the_envoy_and_followed_by_the_client_without_a_proxy(
    server: Server, tmp_path: Path
) -> None:
    async with shop("v1") as old, shop("v2") as new, contextlib.AsyncExitStack() as stack:
        server.configure(old)
        await server.start()
        proxy = Proxy("envoy-1", "edge", "eu", "eu-1", server.xds, f"127.0.0.1:{free_port()}")
        envoy = await stack.enter_async_context(Envoy("envoy-1", bootstrap(proxy), tmp_path))
        await envoy.until_ready()
        edge = (await envoy.listeners())["edge"]
        through, without = Shopper(tmp_path, server.xds, edge, "through"), Shopper(tmp_path, server.xds)
        for each in (through, without):
            stack.push_async_callback(each.kill)
            await each.start()
            assert (await each.bought(20)).keys() == {"v1"}
        stages = [{"weight": "50%", "hold": "0s"}, {"weight": "100%", "hold": "0s"}]
        await server.deploy("v2", new, {"stages": stages, "drain_timeout": "500ms"})
        await server.until_phase("completed")
        for each in (through, without):
            assert (await each.bought(20)).keys() == {"v2"}
            assert each.all_answers().keys() == {"v1", "v2"}, "a call failed"
        async with grpc.aio.insecure_channel(server.status) as channel:
            fetch = channel.unary_unary(f"/{CSDS}/FetchClientStatus")
            raw = await fetch(b"", timeout=START_S)
        clients = proto.message_class("envoy.service.status.v3.ClientStatusResponse").FromString(raw).config
        assert [each.node.id for each in clients] == ["envoy-1", without.node_id]
        for each in clients:
            found = {(entry.config_status, entry.client_status) for entry in each.generic_xds_configs}
            assert found == {(SYNCED, ACKED)}, each
