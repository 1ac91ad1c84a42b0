"""axe-core's rules for pages that everybody can read, in a page whose context lets it in (`bypass_csp`)."""

from collections.abc import Iterator
from typing import Any

from playwright.async_api import Page

import build_page
from tests.page.browsing import missing

AXE = build_page.WEB / "node_modules" / "axe-core" / "axe.min.js"
RULES = "async () => (await axe.run(document, {resultTypes: ['violations']})).violations"


async def bring(page: Page) -> None:
    """Load the rules into a page; they are installed where they are not there yet."""
    if not AXE.exists():
        try:
            build_page.install(build_page.WEB, *build_page.NPM)
        except build_page.NotBuilt as error:
            missing(f"there is no axe-core: {error}")
    await page.add_script_tag(path=AXE)


async def violations(page: Page, where: str) -> list[str]:
    """Return what of the page breaks a rule, and how to mend it."""
    return [f"{where}: {each}" for each in _told(await page.evaluate(RULES))]


def _told(found: list[dict[str, Any]]) -> Iterator[str]:
    for each in found:
        for node in each["nodes"]:
            yield f"{each['id']}: {node['target']}: {node['failureSummary']}"
