"""What stable does on real Envoys is known before any rollout, and after a restart of the server."""

from pathlib import Path
from typing import Any

import pytest

from rollout.client import path_of
from rollout.demo.backend import Behaviour
from rollout.demo.processes import until
from rollout.demo.world import SERVICE, Cast, World
from tests.envoy.conftest import UnderLoad

pytestmark = pytest.mark.envoy

RATE_PER_S = 100.0
CAST = Cast({"v1": 2}, {"v1": Behaviour(error_share=0.1, median_ms=20)}, (("eu/eu-1", False), ("us/us-1", True)))


async def history(world: World) -> dict[str, Any]:
    found: dict[str, Any] | None = (await world.service())["history"]
    return found or {"requests": 0, "requests_per_s": None}


async def test_rate_errors_and_latency_are_known_and_outlast_the_server(tmp_path: Path, under_load: UnderLoad) -> None:
    async with World(tmp_path, CAST) as world:
        async with under_load(*await world.targets(), rate_per_s=RATE_PER_S):

            async def known() -> bool:
                seen = await history(world)
                rate_per_s = seen["requests_per_s"] or 0.0
                return bool(seen["requests"] > 200 and abs(rate_per_s - RATE_PER_S) < 0.35 * RATE_PER_S)

            await until(known, within_s=90, what="the rate of the stable version to be known")
        before = await history(world)
        assert before["error_share"] == pytest.approx(0.1, abs=0.06)
        assert 15 < before["p50_ms"] < 250 < before["p99_ms"] < 5000  # a part of the load takes half a second
        assert before["phi"] == 1.0

        assert await world.server.terminate() == 0
        await world.start_server()
        after = await history(world)
        assert after["requests"] >= before["requests"]
        assert after["requests_per_s"] == pytest.approx(before["requests_per_s"], rel=0.3)
        assert after["p50_ms"] == pytest.approx(before["p50_ms"], rel=0.3)

        await world.client.post(path_of("services", SERVICE, "adopt"), {"version": "v1"})
        assert (await history(world))["requests"] == after["requests"]
