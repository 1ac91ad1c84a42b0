"""The pictures of the page in docs/images: ROLLOUT_GOLDEN=write takes them anew, of a shop on a busy day."""

import base64
import os
import re
from collections.abc import Mapping
from pathlib import Path

import pytest
from playwright.async_api import Page, expect

from rollout.demo.processes import until
from tests.page.browsing import Visits
from tests.page.busy import busy_shop, proxies
from tests.page.shop import LIMIT_S, Shop

DOCS = Path(__file__).parents[2] / "docs"
IMAGES = DOCS / "images"
PAGES = (DOCS.parent / "README.md", DOCS / "page.md")
SIZE_LIMIT = 200_000
SCALE, QUALITY = 1.5, 82
POINTS = 30
SHOTS = {
    "services-light": ("services", 1180, 540),
    "rollout-light": ("services/checkout", 1180, 1010),
    "rollout-dark": ("services/checkout", 1180, 1010),
    "taken-back-dark": ("services/cart", 1180, 790),
    "phone-light": ("services/payments", 390, 780),
}
"""Pictures by name: the view, and how wide and high it is."""


def test_pictures_are_small_and_shown_somewhere() -> None:
    shown = {name for page in PAGES for name in re.findall(r"images/([a-z-]+\.webp)", page.read_text())}
    assert shown == {f"{name}.webp" for name in SHOTS}
    assert shown == {each.name for each in IMAGES.iterdir()}
    for each in IMAGES.iterdir():
        assert each.stat().st_size < SIZE_LIMIT, each.name


@pytest.mark.skipif(os.environ.get("ROLLOUT_GOLDEN") != "write", reason="takes pictures with ROLLOUT_GOLDEN=write")
@pytest.mark.asyncio(loop_scope="session")
async def test_pictures_are_taken(visit: Visits, tmp_path: Path) -> None:
    IMAGES.mkdir(exist_ok=True)
    async with busy_shop(tmp_path, proxies()) as server:
        await until(lambda: drawn(server), within_s=4 * LIMIT_S, what="the charts to have something to show")
        for name, (view, width, height) in SHOTS.items():
            size, scheme = {"width": width, "height": height}, name.rpartition("-")[2]
            seen = await visit(f"{server.url}#/{view}", viewport=size, color_scheme=scheme, bypass_csp=True)
            await seen.page.add_style_tag(content="html { scrollbar-gutter: auto }")
            await expect(seen.page.locator(".state")).to_have_text("live")
            await expect(seen.page.get_by_text("Asking ")).to_have_count(0)
            await expect(seen.page.locator("canvas")).to_have_count(4 if "/" in view else 0)
            (IMAGES / f"{name}.webp").write_bytes(await picture(seen.page, size))


async def drawn(server: Shop) -> bool:
    found = await server.get("/v1/services/checkout/rollouts/last/points")
    return len(found["at"]) >= POINTS


async def picture(page: Page, size: Mapping[str, int]) -> bytes:
    """Take a picture with more points than the page has, for screens that show them."""
    session = await page.context.new_cdp_session(page)
    clip = {"x": 0, "y": 0, **size, "scale": SCALE}
    taken = await session.send("Page.captureScreenshot", {"format": "webp", "quality": QUALITY, "clip": clip})
    return base64.b64decode(taken["data"])
