"""A page that is open while the server goes away and comes back: it says so, goes on by itself, and misses nothing."""

from dataclasses import replace
from pathlib import Path

import pytest
from playwright.async_api import expect

from tests.page.browsing import Visits
from tests.page.shop import Shop, serving, settings_in

pytestmark = pytest.mark.asyncio(loop_scope="session")


async def happen(server: Shop, *versions: str) -> None:
    for version in versions:
        assert (await server.ask("POST", "/v1/services/checkout/adopt", {"version": version})).status == 200


async def test_a_page_goes_on_when_the_server_is_back_and_has_each_event_once(visit: Visits, tmp_path: Path) -> None:
    settings = settings_in(tmp_path)
    async with serving(settings) as server:
        settings = replace(settings, admin=server.door.address)
        seen = await visit(f"{server.url}#/events")
        page = seen.page
        await page.evaluate("window.same = 1")
        await happen(server, "v1", "v2")
        await expect(page.get_by_text("adopt v2")).to_be_visible()
        await expect(page.locator(".state")).to_have_text("live")
    await expect(page.locator(".state")).to_have_text("connection lost, trying again")
    await expect(page.get_by_text("adopt v2")).to_be_visible()
    async with serving(settings) as server:
        await happen(server, "v3", "v4")
        await expect(page.locator(".state")).to_have_text("live")
        await happen(server, "v5")
        await expect(page.get_by_text("adopt v5")).to_be_visible()
        assert await page.evaluate("window.same") == 1, "the page was loaded again"
        events = (await server.get("/v1/events?limit=100"))["events"]
        assert len(events) == len({each["id"] for each in events})
        await expect(page.locator(".event")).to_have_count(len(events))
        shown = await page.locator("ol.events li").evaluate_all("all => all.map((each) => each.dataset.kind)")
        assert shown == [each["kind"] for each in sorted(events, key=lambda each: -each["id"])]
        assert "server.started" in shown[1:]
        await page.get_by_role("link", name="Services").first.click()
        await expect(page.locator("table.services tbody tr")).to_have_count(1)
    assert all("ERR_" in each or "status of 503" in each for each in seen.errors), seen.errors
    assert all(each.startswith("503") for each in seen.refused), seen.refused  # by a server that is about to stop
