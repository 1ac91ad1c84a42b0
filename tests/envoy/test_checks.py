"""Checks of a strategy on a real Envoy: what is outside of it may hold a stage, and take a candidate back."""

from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from rollout.demo.processes import until
from rollout.demo.world import Cast, World
from tests.envoy.conftest import UnderLoad

pytestmark = pytest.mark.envoy

CAST = Cast({"v1": 1, "v2": 1}, {}, (("eu/eu-1", False),))
STAGES = [{"weight": weight, "hold": "1s"} for weight in ("10%", "100%")]

GATE = {"warmup": "0s", "margin": "40%"}  # which a healthy candidate passes at once


@dataclass(slots=True)
class Monitor:
    """A web endpoint that says how full a version is."""

    url: str = ""
    used: float = 0.1
    asked: int = 0

    async def answer(self, request: web.Request) -> web.Response:
        assert request.query["version"] == "v2"
        self.asked += 1
        return web.json_response({"used": self.used})


@pytest.fixture
async def monitor() -> AsyncIterator[Monitor]:
    known = Monitor()
    app = web.Application()
    app.router.add_get("/", known.answer)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    known.url = f"http://127.0.0.1:{runner.addresses[0][1]}/?version=$candidate"
    yield known
    await runner.cleanup()


async def until_verdict(world: World, words: str) -> None:
    found: dict[str, Any] = {}

    async def said() -> bool:
        found.update(await world.service())
        verdict = found["rollout"]["verdict"]
        return verdict is not None and words in verdict["reason"]

    await until(said, within_s=90, what=f"the verdict to say {words!r}")


async def test_a_check_outside_of_envoy_holds_a_stage_and_rolls_a_candidate_back(
    tmp_path: Path, under_load: UnderLoad, monitor: Monitor
) -> None:
    saturation = {
        "name": "saturation",
        "web": {"url": monitor.url, "path": "used"},
        "max": 0.8,
        "interval": "1s",
        "consecutive": 2,
        "critical": True,
    }
    rate = {"metric": "requests_per_s", "min": 0.1, "interval": "1s"}
    grpc = {"metric": "grpc_error_share", "max": "1%", "interval": "1s"}
    async with World(tmp_path, CAST) as world, under_load(*await world.targets()) as tally:
        await world.deploy("v2", {"stages": STAGES, "gate": GATE, "checks": [saturation, rate, grpc]})
        # Nothing here speaks gRPC, and no data is no pass.
        await until_verdict(world, "grpc_error_share of v2 has not been measured at this stage yet")
        assert monitor.asked
        monitor.used = 0.95
        service = await world.until_phase("rolling_back", "draining", "removing", "rolled_back", within_s=120)
        reason = service["rollout"]["reason"]
        assert reason == "saturation was 0.95 (limit 0.8), beyond its limit 2 times in a row"
        await world.until_phase("rolled_back", within_s=120)
    assert (tally.dropped, dict(tally.bad)) == (0, {}), tally.first_drops
