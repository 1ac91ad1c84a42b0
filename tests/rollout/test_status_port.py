"""The status port of the whole server: where it is open, and to whom."""

import asyncio
from dataclasses import replace
from pathlib import Path

import grpc
import grpc.aio
import pytest
import yaml
from grpc_health.v1 import health_pb2, health_pb2_grpc

from rollout.app import Listening, serve
from rollout.demo.world import configuration
from rollout.errors import InvalidSpec
from rollout.settings import Settings
from rollout.starting import status_token
from xds.edge.grpcio import SERVICE as ADS
from xds.edge.status import CSDS

LIMIT_S = 20.0


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs" / "shop.yaml").write_text(yaml.safe_dump(configuration(["127.0.0.1:9001"])))
    return Settings(tmp_path / "configs", tmp_path / "data", xds="127.0.0.1:0", admin="127.0.0.1:0")


async def started(group: asyncio.TaskGroup, settings: Settings) -> tuple[asyncio.Task[None], Listening]:
    """Start a server; return its task, and where it listens."""
    listening: asyncio.Future[Listening] = asyncio.get_running_loop().create_future()
    server = group.create_task(serve(settings, listening.set_result))
    async with asyncio.timeout(LIMIT_S):
        return server, await listening


async def test_server_tells_its_health_and_its_clients_on_a_port_of_their_own(settings: Settings) -> None:
    async with asyncio.TaskGroup() as group:
        server, listening = await started(group, replace(settings, xds_status="127.0.0.1:0"))
        assert listening.xds_status not in (None, "127.0.0.1:0", listening.xds)
        async with grpc.aio.insecure_channel(listening.xds_status) as channel:
            for service in ("", ADS):
                asked = health_pb2.HealthCheckRequest(service=service)
                answer = await health_pb2_grpc.HealthStub(channel).Check(asked, timeout=LIMIT_S)
                assert answer.status == health_pb2.HealthCheckResponse.SERVING
            assert await channel.unary_unary(f"/{CSDS}/FetchClientStatus")(b"", timeout=LIMIT_S) == b""
            watch = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest(service=ADS))
            async with asyncio.timeout(LIMIT_S):
                assert (await watch.read()).status == health_pb2.HealthCheckResponse.SERVING
                server.cancel()
                assert (await watch.read()).status == health_pb2.HealthCheckResponse.NOT_SERVING
            watch.cancel()


async def test_there_is_no_status_port_unless_it_is_asked_for(settings: Settings) -> None:
    async with asyncio.TaskGroup() as group:
        server, listening = await started(group, settings)
        assert listening.xds_status is None
        server.cancel()


@pytest.mark.parametrize(
    ("address", "text"),
    [("0.0.0.0:0", "is not loopback, so what it shows of the fleet needs a token"), ("nowhere", "is no address")],
)
async def test_status_port_that_others_reach_needs_a_token(settings: Settings, address: str, text: str) -> None:
    with pytest.raises(InvalidSpec, match=text):
        await serve(replace(settings, xds_status=address), lambda _: None)


def test_token_is_asked_for_where_others_reach_the_port_only() -> None:
    assert status_token(Settings(xds_status="0.0.0.0:18001", token="s3cret")) == "s3cret"  # noqa: S106 - a test's
    assert status_token(Settings(xds_status="127.0.0.1:18001", token="s3cret")) is None  # noqa: S106 - a test's
