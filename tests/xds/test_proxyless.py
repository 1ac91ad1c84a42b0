"""gRPC's own xDS client without a proxy, against the xDS port: it names everything, and has no wildcard."""

import contextlib
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.xds.client import served
from tests.xds.proxyless import Shopper, shop, world
from xds.cache import Cache
from xds.edge.grpcio import GrpcEdge
from xds.resources import CLUSTERS, ENDPOINTS, LISTENERS, ROUTES
from xds.session import ControlPlane


class Port:
    """A control plane that may come back on the same port with nothing remembered."""

    def __init__(self) -> None:
        self.address = "127.0.0.1:0"
        self.cache = Cache()
        self._edge = GrpcEdge(ControlPlane(self.cache), time.monotonic)

    async def start(self) -> None:
        self.address = f"127.0.0.1:{await self._edge.start(self.address)}"

    async def stop(self) -> None:
        await self._edge.stop(0)

    async def lose_all(self) -> None:
        """Stop, and forget everything."""
        await self.stop()
        self.cache = Cache()
        self._edge = GrpcEdge(ControlPlane(self.cache), time.monotonic)


@pytest.fixture
async def port() -> AsyncIterator[Port]:
    running = Port()
    await running.start()
    yield running
    await running.stop()


@contextlib.asynccontextmanager
async def shopping(folder: Path, port: Port) -> AsyncIterator[Shopper]:
    shopper = Shopper(folder, port.address)
    await shopper.start()
    try:
        yield shopper
    finally:
        await shopper.kill()


async def test_client_without_a_proxy_follows_weights_and_endpoints(port: Port, tmp_path: Path) -> None:
    async with shop("v1") as old, shop("v2") as new, shop("v3") as newest:
        port.cache.publish(served(*world({"a": (old,), "b": (new,)}, {"a": 100})))
        async with shopping(tmp_path, port) as shopper:
            assert (await shopper.bought(50)).keys() == {"v1"}
            port.cache.publish(served(*world({"a": (old,), "b": (new,)}, {"a": 70, "b": 30})))
            await shopper.until(lambda answers: answers["v2"], "the first call to v2")
            answers = await shopper.bought(600)
            assert answers.keys() == {"v1", "v2"}
            assert 0.2 < answers["v2"] / answers.total() < 0.4  # 30 %, within five standard deviations
            port.cache.publish(served(*world({"a": (old,), "b": (newest,)}, {"b": 100})))
            await shopper.until(lambda answers: answers["v3"], "the first call to v3")
            assert (await shopper.bought(50)).keys() == {"v3"}
            [status] = port.cache.connected()
            assert (status.node.id, status.protocol) == ("shopper-1", "sotw")
            assert status.types.keys() == {LISTENERS, ROUTES, CLUSTERS, ENDPOINTS}
            assert not any(each.rejection for each in status.types.values())


async def test_client_without_a_proxy_loses_no_call_while_the_server_is_away(port: Port, tmp_path: Path) -> None:
    async with shop("v1") as old, shop("v2") as new:
        port.cache.publish(served(*world({"a": (old,)}, {"a": 100})))
        async with shopping(tmp_path, port) as shopper:
            await shopper.bought(20)
            await port.lose_all()
            assert (await shopper.bought(100)).keys() == {"v1"}
            port.cache.publish(served(*world({"a": (old,), "b": (new,)}, {"b": 100})))
            await port.start()
            await shopper.until(lambda answers: answers["v2"], "the first call by the new configuration")
            assert shopper.answers().keys() == {"v1", "v2"}
            assert (await shopper.bought(50)).keys() == {"v2"}


async def test_client_that_keeps_what_is_deleted_loses_no_call_when_its_cluster_went_while_the_server_was_away(
    port: Port, tmp_path: Path
) -> None:
    """A server that remembers nothing cannot keep a cluster for who still uses it; it can for streams that it has."""
    async with shop("v1") as old, shop("v2") as new:
        port.cache.publish(served(*world({"a": (old,)}, {"a": 100})))
        shopper = Shopper(tmp_path, port.address)
        shopper.keep_what_is_deleted(port.address)
        await shopper.start()
        try:
            await shopper.bought(20)
            await port.lose_all()
            port.cache.publish(served(*world({"b": (new,)}, {"b": 100})))
            await port.start()
            await shopper.until(lambda answers: answers["v2"], "the first call by the new configuration")
            assert shopper.all_answers().keys() == {"v1", "v2"}
        finally:
            await shopper.kill()


async def test_client_without_a_proxy_loses_no_call_when_its_cluster_is_replaced(port: Port, tmp_path: Path) -> None:
    async with shop("v1") as old, shop("v2") as new:
        before, after = world({"a": (old,)}, {"a": 100}), world({"b": (new,)}, {"b": 100})
        port.cache.publish(served(*before))
        async with shopping(tmp_path, port) as shopper:
            await shopper.bought(20)
            for _ in range(5):
                for resources, version in ((after, "v2"), (before, "v1")):
                    shopper.forget()
                    port.cache.publish(served(*resources))
                    await shopper.until(lambda answers, version=version: answers[version], f"calls to {version}")
            assert shopper.all_answers().keys() == {"v1", "v2"}


async def test_client_without_a_proxy_waits_for_names_that_come_later(port: Port, tmp_path: Path) -> None:
    async with shop("v1") as old, shop("v2") as new:
        others = world({"other": (old,)}, {"other": 100}, target="other")
        port.cache.publish(served(*others))
        async with shopping(tmp_path, port) as shopper:
            await shopper.process.until(
                lambda: any(LISTENERS in each.types for each in port.cache.connected()),
                within_s=30,
                what="the question for the listener",
            )
            target = world({"a": (new,)}, {"a": 100})
            port.cache.publish(served(*others, *target[:2]))  # the listener and the route, not the cluster yet
            await shopper.process.until(
                lambda: any(CLUSTERS in each.types for each in port.cache.connected()),
                within_s=30,
                what="the question for the cluster",
            )
            port.cache.publish(served(*others, *target))
            assert (await shopper.bought(20)).keys() == {"v2"}
