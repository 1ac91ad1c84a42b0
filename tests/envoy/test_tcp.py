"""Rollouts of a service behind TCP proxies, on real Envoys: shares by weights, drains, and gates on connections."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from rollout.client import path_of
from rollout.demo.processes import until
from rollout.demo.world import SERVICE, Cast, World
from tests.envoy.tcp import Echo, Held, configuration, connecting, hold

pytestmark = pytest.mark.envoy

CAST = Cast({"v1": 1}, envoys=(("eu/eu-1", False), ("us/us-1", True)))
CHECKED = {
    "health_checks": [
        {
            "timeout": "1s",
            "interval": "1s",
            "no_traffic_interval": "1s",
            "unhealthy_threshold": 2,
            "healthy_threshold": 1,
            "tcp_health_check": {},
        }
    ]
}
QUICK = {
    "stages": [{"weight": weight, "hold": hold} for weight, hold in (("10%", "5s"), ("50%", "1s"), ("100%", "1s"))],
    "gate": {"margin": "20%", "warmup": "0s", "min_rps": 0},
    "checks": [{"metric": "connect_fail_share", "max": "5%", "interval": "1s"}],
    "keep_stable": "0s",
    "drain_timeout": "30s",
}


class Store(World):
    """A world whose service is a TCP one: two backends of each version, in this process."""

    def __init__(self, folder: Path, cluster: Mapping[str, Any]) -> None:
        super().__init__(folder, CAST)
        self._cluster = cluster
        self.echoes: Mapping[str, tuple[Echo, ...]] = {}
        self._held: list[Held] = []

    def write_configs(self, _: Mapping[str, Any]) -> None:
        super().write_configs(configuration((each.address for each in self.echoes["v1"]), **self._cluster))

    async def deploy_tcp(self, version: str, strategy: Mapping[str, Any]) -> None:
        endpoints = [each.address for each in self.echoes[version]]
        body = {"version": version, "endpoints": endpoints, "strategy": strategy}
        await self.client.post(path_of("services", SERVICE, "rollouts"), body)

    async def hold(self, each: int) -> list[Held]:
        """Open so many connections through each Envoy; they end with the store."""
        held = await hold(await self.targets(), each)
        self._held += held
        return held

    async def end(self) -> None:
        for each in self._held:
            each.close()
        await super().end()

    async def until_weight(self, percent: float) -> None:
        async def reached() -> bool:
            rollout = (await self.service())["rollout"]
            return rollout["weight_percent"] == percent and not rollout["waiting_for"]

        await until(reached, within_s=90, what=f"{percent:g} %")

    async def gauge(self, name: str) -> list[int]:
        texts = [await envoy.admin_get(f"/stats?filter=^{name}$") for envoy in self.envoys]
        return [int(text.rpartition(": ")[2]) for text in texts]


@contextlib.asynccontextmanager
async def a_store(folder: Path, **cluster: Any) -> AsyncIterator[Store]:
    store = Store(folder, cluster)
    store.echoes = {version: tuple([await Echo(version).start() for _ in range(2)]) for version in ("v1", "v2")}
    try:
        async with store:
            yield store
    finally:
        for each in (echo for group in store.echoes.values() for echo in group):
            await each.end()


async def all_answer(held: list[Held]) -> bool:
    return all(await asyncio.gather(*(each.answers() for each in held)))


async def test_connections_move_by_weight_and_none_is_cut(tmp_path: Path) -> None:
    async with a_store(tmp_path, **CHECKED) as store, connecting(await store.targets()) as seen:
        first = await store.hold(10)
        changed = (
            await store.gauge("listener_manager.listener_modified"),
            await store.gauge("cluster_manager.cluster_modified"),
        )
        await store.deploy_tcp("v2", QUICK)
        await store.until_weight(10)
        await store.command("pause")
        before = seen.copy()
        await until(lambda: (seen - before).total() >= 400, within_s=90, what="400 connections at 10 %")
        counted = seen - before
        assert abs(counted["v2"] / counted.total() - 0.1) < 0.06, counted  # four standard deviations
        await store.command("resume")
        await store.until_phase("draining", within_s=90)
        assert await all_answer(first)
        assert {each.version for each in first} == {"v1"}
        later = await store.hold(5)
        assert {each.version for each in later} == {"v2"}
        (drain,) = [(await store.service())["rollout"]["drain"]]
        assert drain["timed_out"] is False
        for each in first:
            each.close()
        service = await store.until_phase("completed", within_s=120)
        assert service["rollout"]["drain"]["cut"] == {}
        for echo in store.echoes["v1"]:
            echo.kill()
        assert await all_answer(later)
        assert changed == (
            await store.gauge("listener_manager.listener_modified"),
            await store.gauge("cluster_manager.cluster_modified"),
        )
    assert set(seen) == {"v1", "v2"}, seen


async def test_a_version_that_refuses_connections_is_taken_back_and_long_ones_are_counted(tmp_path: Path) -> None:
    async with a_store(tmp_path) as store, connecting(await store.targets()) as seen:
        await store.deploy_tcp(
            "v2", {**QUICK, "stages": [{"weight": "50%", "hold": "1h"}, "100%"], "drain_timeout": "2s"}
        )
        await store.until_weight(50)
        held = [each for each in await store.hold(15) if each.version == "v2"]  # half of them, by chance
        assert len(held) >= 4
        for each in store.echoes["v2"]:
            each.refuse()
        service = await store.until_phase("rolled_back", within_s=90)
        drain, reason = service["rollout"]["drain"], service["rollout"]["reason"]
        assert "errors in" in reason, reason
        assert drain["timed_out"] is True
        assert sum(drain["cut"].values()) == len(held)
        assert await all_answer(held)  # until their backends stop
        failed = seen[""]
        assert failed > 0
        before = seen.copy()
        await until(lambda: (seen - before).total() >= 100, within_s=120, what="100 connections after the rollback")
        assert set(seen - before) == {"v1"}
        service = await store.service()
        assert (service["stable"], service["history"]["p99_ms"]) == ("initial", None)
        assert service["history"]["requests"] > 100
