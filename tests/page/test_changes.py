"""Changing things on the page: each asks first, says what it will do, and is there only for who may do it."""

from pathlib import Path

import pytest
from playwright.async_api import expect

from tests.page.browsing import Visits
from tests.page.pretended import Proxy
from tests.page.shop import ASKS, STAYS, shop

pytestmark = pytest.mark.asyncio(loop_scope="session")


async def test_a_stage_is_approved_on_the_page(visit: Visits, tmp_path: Path) -> None:
    async with shop(tmp_path, [Proxy("edge-1")]) as server:
        await server.deploy(ASKS)
        seen = await visit(f"{server.url}#/services/checkout")
        page = seen.page
        await expect(page.get_by_text("waits for an approval").first).to_be_visible()
        await page.get_by_role("button", name="Approve").click()
        dialog = page.get_by_role("dialog")
        await expect(dialog.get_by_text("The server says:")).to_be_visible()
        await dialog.get_by_role("button", name="Approve").click()
        await expect(dialog).to_be_hidden()
        await expect(page.get_by_role("region", name="Rollout").get_by_text("completed")).to_be_visible()
        seen.check()
