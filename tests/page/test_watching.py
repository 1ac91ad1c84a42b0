"""A rollout watched on the page from its start to its end: real Envoys, real backends, real requests."""

import asyncio
import contextlib
import re
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from playwright.async_api import Page, expect

from rollout.demo.load import LoadPlan, PathShare, Tally, run_load
from rollout.demo.processes import until
from rollout.demo.world import Cast, World
from rollout.errors import Unavailable
from tests.page.browsing import Visits

pytestmark = [pytest.mark.envoy, pytest.mark.asyncio(loop_scope="session")]

LIMIT_S = 60.0
CAST = Cast({"v1": 2, "v2": 2}, envoys=(("eu/eu-1", False), ("us/us-1", True)))
STAGES = {10: (3, 25), 50: (35, 65), 100: (95, 100)}
"""Weights in percent, and between which shares the page measures each."""
STRATEGY = {
    "stages": [{"weight": f"{weight}%", "hold": "0s", "approve": True} for weight in STAGES],
    "gate": {"margin": "25%", "warmup": "0s", "latency_tolerance": 4.0},
    "keep_stable": "0s",
    "drain_timeout": "5m",
}
"""Each stage lasts until the page has shown it."""
PATHS = (PathShare("/fast", 0.97), PathShare("/stream?ms=500", 0.03))
LONG = "/stream?ms=300000"
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
    """What the page shows now."""

    page: Page
    found: dict[str, Any] = field(default_factory=dict)

    async def until(self, holds: Callable[[dict[str, Any]], bool], what: str) -> None:
        async def seen() -> bool:
            self.found = await self.page.evaluate(LOOK)
            return holds(self.found)

        try:
            await until(seen, within_s=LIMIT_S, what=what)
        except Unavailable as error:
            raise AssertionError(f"{error}: {self.found}") from error


def in_stage(found: dict[str, Any], weight: int) -> bool:
    """Say whether the page shows this stage, with what is measured near what is wanted, and all of its evidence."""
    low, high = STAGES[weight]
    here, wanted = found["here"] == f"{weight} %", f"v2 wanted {weight} %" in found["weight"]
    measured = re.search(r"measured ([0-9.]+) %", found["weight"])
    near = measured is not None and low <= float(measured[1]) <= high
    proven = weight == 100 or 100 in found["proven"]  # at 100 % there is nothing to compare with
    return here and wanted and near and proven


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
    async with World(tmp_path, CAST) as world, loaded(world) as tally:
        seen = await visit(f"http://{world.admin}/#/services/checkout")
        page, watched = seen.page, Watched(seen.page)
        await expect(page.get_by_text("initial has all traffic")).to_be_visible()
        target, _ = await world.targets()
        async with aiohttp.ClientSession() as http, http.get(f"http://{target}{LONG}"):  # v1 answers it to the end
            await world.deploy("v2", STRATEGY)
            for weight in STAGES:
                await watched.until(partial(in_stage, weight=weight), f"{weight} % on the page")
                await world.command("approve")
            await watched.until(lambda found: "draining" in found["drain"] and "running" in found["drain"], "the drain")
        await watched.until(lambda found: found["here"] == "done", "the page to show that it is done")
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
