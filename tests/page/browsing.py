"""A page in a real Chromium that keeps account of what went wrong in it: errors, refused content, other hosts."""

import os
from collections.abc import Collection
from dataclasses import dataclass, field
from typing import NoReturn
from urllib.parse import urlsplit

import pytest
from playwright.async_api import Browser, BrowserContext, ConsoleMessage, Page, Request, Response, expect

LIMIT_MS = 60_000
LEFT = "net::ERR_ABORTED"  # of a stream that the page itself has let go of, or of what it no longer wants


def missing(why: str) -> NoReturn:
    """Say that a test cannot be run here; where all has to be tested, that is a fault."""
    assert not os.environ.get("CI"), why
    pytest.skip(why)


@dataclass
class Visit:
    """A page, and all that it asked for and complained of."""

    page: Page
    context: BrowserContext
    errors: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)

    def check(self, refused: Collection[int] = ()) -> None:
        """See that nothing went wrong, but for answers with these statuses, which were to come."""
        hosts = {urlsplit(url).netloc for url in self.requests if not url.startswith("data:")}
        assert hosts == {urlsplit(self.page.url).netloc}
        words = tuple(f"status of {status}" for status in refused)
        assert [each for each in self.errors if not any(word in each for word in words)] == []
        assert self.failed == []
        assert [each for each in self.refused if not each.startswith(tuple(map(str, refused)))] == []

    def _said(self, message: ConsoleMessage) -> None:
        if message.type in ("error", "warning"):
            self.errors.append(f"{message.type}: {message.text}")

    def _failed(self, request: Request) -> None:
        if request.failure != LEFT:
            self.failed.append(f"{request.url}: {request.failure}")

    def _answered(self, response: Response) -> None:
        if response.status >= 400:
            self.refused.append(f"{response.status} {response.request.method} {response.url}")

    def listen(self) -> None:
        self.page.on("console", self._said)
        self.page.on("pageerror", lambda error: self.errors.append(f"uncaught: {error}"))
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.on("requestfailed", self._failed)
        self.page.on("response", self._answered)


@dataclass
class Visits:
    """Makes visits, each as somebody who was never there, and ends them all."""

    browser: Browser
    open: list[BrowserContext] = field(default_factory=list)

    async def __call__(self, url: str, **looks: object) -> Visit:
        """Open a page; `looks` are Playwright's options of a context: viewport, color_scheme and the like."""
        context = await self.browser.new_context(**looks)  # type: ignore[arg-type]  # whatever a test gives
        self.open.append(context)
        visit = Visit(await context.new_page(), context)
        visit.page.set_default_timeout(LIMIT_MS)
        visit.listen()
        await visit.page.goto(url)
        return visit

    async def log_in(self, url: str, token: str) -> Visit:
        """Open a page, and log in."""
        visit = await self(url)
        await visit.page.get_by_label("Token").fill(token)
        await visit.page.get_by_role("button", name="Log in").click()
        await expect(visit.page.locator(".who")).to_be_visible()
        return visit

    async def end(self) -> None:
        for context in self.open:
            await context.close()
