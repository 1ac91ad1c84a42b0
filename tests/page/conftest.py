"""A Chromium for each file of tests, and visits to a server in it."""

import shutil
from collections.abc import AsyncIterator

import pytest_asyncio
from playwright.async_api import Browser, async_playwright, expect

import build_page
from tests.page.browsing import LIMIT_MS, Visits, missing


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def browser() -> AsyncIterator[Browser]:
    """Run one; if it dies, the next file has another."""
    program = shutil.which("chromium")
    if program is None:
        missing("there is no chromium here; on Debian: apt-get install --no-install-recommends chromium")
    if build_page.built_from(build_page.WEB) is None:
        missing("the page is not built here: `make page` needs node and npm")
    expect.set_options(timeout=LIMIT_MS)
    async with async_playwright() as playwright:
        found = await playwright.chromium.launch(executable_path=program, args=["--no-sandbox"])
        yield found
        await found.close()


@pytest_asyncio.fixture(loop_scope="session")
async def visit(browser: Browser) -> AsyncIterator[Visits]:
    found = Visits(browser)
    yield found
    await found.end()
