"""What fails around a rollout: Envoys that die, hang or refuse, and backends that are let go one by one."""

import os
import signal
from pathlib import Path
from typing import Any

import pytest

from rollout.bootstrap import Proxy, bootstrap
from rollout.client import ApiFault, path_of
from rollout.demo.processes import Envoy, free_port, until
from rollout.demo.world import SERVICE, Cast, World, configuration
from tests.envoy.conftest import UnderLoad

pytestmark = pytest.mark.envoy

QUICK = {
    "stages": [{"weight": weight, "hold": "1s"} for weight in ("20%", "100%")],
    "gate": {"margin": "20%", "warmup": "0s"},
    "drain_timeout": "5s",
}
NEVER = {"stages": [{"weight": "20%", "hold": "1h"}, "100%"]}
CAST = Cast({"v1": 2, "v2": 2}, {}, (("eu/eu-1", False), ("us/us-1", True)))


async def waits_for(world: World, node: str) -> bool:
    return node in (await world.service())["rollout"]["waiting_for"]


async def test_an_envoy_that_is_killed_and_comes_back_only_delays(tmp_path: Path, under_load: UnderLoad) -> None:
    async with World(tmp_path, CAST) as world:
        steady, _ = await world.targets()
        async with under_load(steady) as tally:
            await world.deploy("v2", QUICK)
            await world.until_phase("shifting", within_s=120)
            await world.envoys[1].kill()
            await until(lambda: waits_for(world, "envoy-2"), within_s=90, what="the rollout to miss envoy-2")
            await world.envoys[1].start()
            await world.envoys[1].until_ready()
            await world.until_phase("completed", within_s=120)
            for backend in world.backends["v1"]:
                await backend.kill()
    assert (tally.dropped, dict(tally.bad)) == (0, {}), tally.first_drops


async def test_an_envoy_that_hangs_holds_the_rollout_but_not_an_abort(tmp_path: Path, under_load: UnderLoad) -> None:
    async with World(tmp_path, CAST) as world:
        steady, _ = await world.targets()
        pid = world.envoys[1].process.pid
        assert pid is not None
        async with under_load(steady) as tally:
            await world.deploy("v2", NEVER)
            await world.until_phase("shifting", within_s=120)
            os.kill(pid, signal.SIGSTOP)
            try:
                rollout = await world.command("promote")
                assert rollout["weight_percent"] == 100
                await until(lambda: waits_for(world, "envoy-2"), within_s=15, what="the rollout to wait for envoy-2")
                assert (await world.service())["rollout"]["phase"] == "shifting"
                await world.command("abort")

                async def back() -> bool:
                    waiting = (await world.service())["rollout"]["waiting_for"]
                    return set(waiting) == {"envoy-2"}

                await until(back, within_s=15, what="envoy-1 to have the rollback")
            finally:
                os.kill(pid, signal.SIGCONT)
            await world.until_phase("rolled_back", within_s=90)
    assert (tally.dropped, dict(tally.bad)) == (0, {}), tally.first_drops


async def test_an_envoy_that_refuses_stops_the_rollout_and_abort_works(tmp_path: Path, under_load: UnderLoad) -> None:
    async with World(tmp_path, CAST) as world, under_load(*await world.targets()) as tally:
        proxy = Proxy("picky", "edge", "ap", "ap-1", world.xds, f"127.0.0.1:{free_port()}")
        config: dict[str, Any] = bootstrap(proxy)
        # Envoy refuses per-endpoint stats beside load reporting, and so every cluster of a version.
        services = [{"envoy_grpc": {"cluster_name": "xds_cluster"}}]
        reports = {"api_type": "GRPC", "transport_api_version": "V3", "grpc_services": services}
        config["cluster_manager"] = {"load_stats_config": reports}
        async with Envoy("picky", config, tmp_path):

            async def refused() -> bool:
                nodes = (await world.client.get(path_of("fleet")))["nodes"]
                picky = next((node for node in nodes if node["node"] == "picky"), None)
                return picky is not None and bool(picky["types"].get("clusters", {}).get("nack"))

            await until(refused, within_s=90, what="the NACK to be seen")
            await world.deploy("v2", QUICK)
            service = await world.until_phase("paused", within_s=120)
            assert "picky" in service["rollout"]["reason"]
            assert "per_endpoint_stats" in service["rollout"]["reason"]
            await world.command("abort")
            await world.until_phase("rolled_back", within_s=90)
            for backend in world.backends["v2"]:
                await backend.kill()
    assert (tally.dropped, dict(tally.bad)) == (0, {}), tally.first_drops


async def test_admin_that_does_not_answer_makes_the_gate_blind(tmp_path: Path, under_load: UnderLoad) -> None:
    """The proxy goes on, but its stats cannot be read: that is no verdict, and promotes nothing."""
    async with World(tmp_path, CAST) as world, under_load(*await world.targets()):
        proxy = Proxy("mute", "edge", "ap", "ap-1", world.xds, f"127.0.0.1:{free_port()}")
        config = bootstrap(proxy)
        config["node"]["metadata"]["rollout.admin"] = f"127.0.0.1:{free_port()}"
        await world.deploy("v2", QUICK)
        await world.until_phase("shifting", within_s=120)
        await world.command("pause")
        async with Envoy("mute", config, tmp_path) as mute:
            await mute.until_ready()
            await world.command("resume")

            async def blind() -> bool:
                verdict = (await world.service())["rollout"]["verdict"]
                return verdict is not None and verdict["verdict"] == "blind" and "mute" in verdict["reason"]

            await until(blind, within_s=90, what="a blind verdict that names the Envoy")
            assert (await world.service())["rollout"]["phase"] == "shifting"
            await world.command("abort")
            await world.until_phase("rolled_back", within_s=120)


async def test_requests_outside_of_routes_are_waited_for_too(tmp_path: Path, under_load: UnderLoad) -> None:
    """A mirror names the service itself, which is served under its own name, old backends DRAINING."""
    async with World(tmp_path, CAST) as world, under_load(*await world.targets()) as tally:
        mirrored = configuration([backend.address for backend in world.backends["v1"]])
        route = mirrored["routes"][0]["virtual_hosts"][0]["routes"][0]["route"]
        route["request_mirror_policies"] = [{"cluster": SERVICE}]
        world.write_configs(mirrored)
        await world.client.post(path_of("config", "reload"), {})
        await world.deploy("v2", {**QUICK, "drain_timeout": "40s"})
        service = await world.until_phase("completed", within_s=120)
        assert service["rollout"]["drain"]["timed_out"] is False
        for backend in world.backends["v1"]:
            await backend.kill()
    assert (tally.dropped, dict(tally.bad)) == (0, {}), tally.first_drops


async def test_backends_are_let_go_one_by_one_but_never_the_last(tmp_path: Path, under_load: UnderLoad) -> None:
    async with World(tmp_path, CAST) as world, under_load(*await world.targets()) as tally:
        first, last = (backend.address for backend in world.backends["v1"])
        await world.client.post(path_of("services", SERVICE, "drains"), {"backend": first})

        async def removed() -> bool:
            return [each["removed"] for each in (await world.service())["drains"]] == [True]

        await until(removed, within_s=90, what="the backend to be let go")
        drain = (await world.service())["drains"][0]
        assert (drain["backend"], drain["timed_out"], drain["cut"]) == (first, False, {})
        await world.backends["v1"][0].kill()
        with pytest.raises(ApiFault, match="last healthy backend"):
            await world.client.post(path_of("services", SERVICE, "drains"), {"backend": last})
        await world.kill_server()
        await world.start_server()
        assert [each["backends"] for each in (await world.service())["versions"]] == [[last]]
    assert (tally.dropped, dict(tally.bad)) == (0, {}), tally.first_drops
