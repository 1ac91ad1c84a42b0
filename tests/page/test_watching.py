"""A rollout watched on the page from its start to its end: real Envoys, real backends, real requests."""

import asyncio
import contextlib
import re
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from playwright.async_api import Page, expect

from rollout.demo.load import LoadPlan, PathShare, Tally, run_load
from rollout.demo.processes import until
from rollout.demo.world import Cast, World
from tests.page.browsing import Visits

pytestmark = [pytest.mark.envoy, pytest.mark.asyncio(loop_scope="session")]

CAST = Cast({"v1": 2, "v2": 2}, envoys=(("eu/eu-1", False), ("us/us-1", True)))
STRATEGY = {
    "stages": [{"weight": weight, "hold": hold} for weight, hold in (("10%", "3s"), ("50%", "3s"), ("100%", "3s"))],
    "gate": {"margin": "25%", "warmup": "0s", "latency_tolerance": 4.0},
    "keep_stable": "0s",
}
PATHS = (PathShare("/fast", 0.97), PathShare("/stream?ms=4000", 0.03))
LOOK = """() => {
  const text = (selector) => document.querySelector(selector)?.textContent ?? '';
  return {
    here: text('.track .here .name'),
    weight: text('.weight .legend'),
    drain: text('.drain'),
    proven: [...document.querySelectorAll('.bounds .for [role=meter]')].map((each) => Number(each.ariaValueNow)),
  };
}"""
DRAWN = """canvas => {
  const { data } = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height);
  const colours = new Set();
  for (let at = 0; at < data.length; at += 4) if (data[at + 3] > 200) colours.add(data.slice(at, at + 3).join());
  return colours.size;
}"""


@dataclass
class Watched:
    """What was seen on the way."""

    here: set[str] = field(default_factory=set)
    weights: set[str] = field(default_factory=set)
    drains: set[str] = field(default_factory=set)
    proven: int = 0

    async def look(self, page: Page) -> bool:
        found = await page.evaluate(LOOK)
        self.here.add(found["here"])
        self.weights.add(found["weight"])
        self.drains.add(found["drain"])
        self.proven = max(self.proven, *found["proven"], 0)
        return bool(found["here"] == "done")


@contextlib.asynccontextmanager
async def loaded(world: World) -> AsyncIterator[Tally]:
    tally, stop = Tally(), asyncio.Event()
    plan = LoadPlan(await world.targets(), rate_per_s=200, paths=PATHS)
    async with asyncio.TaskGroup() as group:
        group.create_task(run_load(plan, tally.record, stop))
        try:
            yield tally
        finally:
            stop.set()


async def test_a_rollout_is_watched_from_start_to_end(visit: Visits, tmp_path: Path) -> None:
    watched = Watched()
    async with World(tmp_path, CAST) as world, loaded(world) as tally:
        seen = await visit(f"http://{world.admin}/#/services/checkout")
        page = seen.page
        await expect(page.get_by_text("initial has all traffic")).to_be_visible()
        await world.deploy("v2", STRATEGY)
        await until(lambda: watched.look(page), within_s=60, what="the page to show that it is done")
        assert {"10 %", "50 %", "100 %"} < watched.here, watched  # to warm may take less than the page needs to open
        wanted = {weights.split("measured")[0].strip() for weights in watched.weights if "measured" in weights}
        assert {f"v2 wanted {weight} %" for weight in (10, 50, 100)} <= wanted, watched
        measured = {float(found[1]) for each in watched.weights if (found := re.search(r"measured ([0-9.]+) %", each))}
        assert any(3 < each < 25 for each in measured), measured
        assert any(35 < each < 65 for each in measured), measured
        assert watched.proven > 20  # a stage may be left as soon as there is enough, before that is shown
        assert any("draining" in each and "running" in each for each in watched.drains), watched.drains
        await expect(page.locator(".drain")).to_contain_text("safe to stop")
        await expect(page.locator(".lead")).to_have_text("v2 has all traffic")
        await _charts_have_points(page)
        await page.get_by_role("link", name="Events").click()
        await expect(page.locator("[data-kind='rollout.completed']")).to_be_visible()
        kinds = await page.locator(".events li").evaluate_all("all => all.map((each) => each.dataset.kind)")
        assert {"rollout.started", "rollout.stage", "proxy.connected"} <= set(kinds)
        await page.get_by_role("link", name="Fleet").click()
        await expect(page.locator("table.fleet tbody tr")).to_have_count(2)
        seen.check()
    assert tally.dropped == 0, tally.first_drops


async def _charts_have_points(page: Page) -> None:
    charts = page.locator("figure.chart")
    await expect(charts).to_have_count(4)
    for number in range(4):
        chart = charts.nth(number)
        assert await chart.locator("canvas").evaluate(DRAWN) > 3
        await chart.get_by_text("Values").click()
        await expect(chart.locator("tbody tr").nth(2)).to_be_visible()
    await expect(charts.first.locator("tbody")).to_contain_text("100 %")
