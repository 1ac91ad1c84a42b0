"""How the page looks and reads: to everybody, in light and dark, on narrow screens, by keys, with hostile texts."""

import re
from collections.abc import AsyncIterator
from functools import partial

import pytest
import pytest_asyncio
from playwright.async_api import Page, expect

from rollout.demo.processes import until
from tests.page import axe
from tests.page.browsing import LIMIT_MS, Visits
from tests.page.busy import LONG, MARKUP, VIEWS, hostile_shop
from tests.page.shop import LIMIT_S, Shop

pytestmark = pytest.mark.asyncio(loop_scope="session")

WIDE, NARROW = {"width": 1280, "height": 900}, {"width": 360, "height": 740}
LOOKS = (("light", WIDE), ("dark", NARROW))
WIDTHS = "[document.documentElement.scrollWidth, document.documentElement.clientWidth]"
HURT = "[window.hurt ?? 0, document.querySelectorAll('main img, main script, dialog img').length]"
WRONG_CLOCK = """
const right = Date.now.bind(Date);
Date.now = () => right() + 7 * 3600_000;
"""
DASH = "\u2013"
AGES = "[...document.querySelectorAll('main time')].map((each) => each.textContent)"
ALONE = {"requests": [90], "error_share": [0.05], "p50_ms": [4.0], "p99_ms": [9.0]}
POINTS = {
    "at": [1_700_000_000.0],
    "wanted_percent": [50],
    "measured_percent": [None],
    "stable": {**ALONE, "requests": [0]},
    "candidate": ALONE,
}
"""One point, in which the stable version has no requests, but old ones that end."""
DOTS = """canvas => {
  const probe = document.createElement('i');
  probe.style.color = getComputedStyle(canvas).getPropertyValue('--candidate');
  canvas.parentElement.append(probe);
  const wanted = getComputedStyle(probe).color.match(/[0-9]+/g).slice(0, 3).join();
  probe.remove();
  const { data } = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height);
  let found = 0;
  for (let at = 0; at < data.length; at += 4) if (data.slice(at, at + 3).join() === wanted) found += 1;
  return found;
}"""
FOCUS = """() => {
  const style = getComputedStyle(document.activeElement);
  return {
    words: document.activeElement.textContent.trim(),
    ring: style.outlineStyle === 'none' ? 0 : parseFloat(style.outlineWidth),
    inside: document.activeElement.closest('dialog') !== null,
  };
}"""


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def busy(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Shop]:
    async with hostile_shop(tmp_path_factory.mktemp("busy")) as found:
        yield found


async def show(page: Page, view: str) -> None:
    """Go to a view, and wait until it has what it shows."""
    await page.evaluate("view => { location.hash = `#/${view}`; }", view)
    await expect(page.get_by_role("heading", level=1, name=VIEWS[view], exact=True)).to_be_visible()
    await expect(page.get_by_text("Asking ")).to_have_count(0)
    if view.startswith("services/"):
        await expect(page.locator(".card").first).to_be_visible()


async def test_every_view_can_be_read_by_everybody(visit: Visits, busy: Shop) -> None:
    seen = await visit(busy.url, bypass_csp=True)  # for axe alone
    await axe.bring(seen.page)
    faults: list[str] = []
    for scheme, size in LOOKS:
        await seen.page.emulate_media(color_scheme=scheme)  # type: ignore[arg-type]  # one of two words
        await seen.page.set_viewport_size(size)  # type: ignore[arg-type]  # a TypedDict of the same shape
        for view in VIEWS:
            await show(seen.page, view)
            faults += await axe.violations(seen.page, f"{view} {scheme}")
    await show(seen.page, "services/checkout")
    await seen.page.get_by_role("button", name="Deploy").click()
    faults += await axe.violations(seen.page, "dialog")
    assert faults == []


async def test_hostile_texts_are_shown_as_text_and_make_nothing_wider_than_the_screen(
    visit: Visits, busy: Shop
) -> None:
    seen = await visit(busy.url)
    for size in (WIDE, NARROW):
        await seen.page.set_viewport_size(size)  # type: ignore[arg-type]  # a TypedDict of the same shape
        for view in VIEWS:
            await show(seen.page, view)
            assert await seen.page.evaluate(HURT) == [0, 0], view
            has, may = await seen.page.evaluate(WIDTHS)
            assert has <= may, f"{view} at {size}"
    for view in ("services/checkout", "services/users", "strategies", "config", "events", "audit"):
        await show(seen.page, view)
        await until(partial(shows, seen.page, MARKUP), within_s=LIMIT_S, what=f"{view} to show the markup")
    await show(seen.page, "fleet")
    await seen.page.locator("details.nack summary").click()
    await expect(seen.page.locator("details.nack pre")).to_contain_text(f"{MARKUP} {LONG}")
    await show(seen.page, "services/stock")
    await seen.page.get_by_role("button", name="Deploy").click()
    dialog = seen.page.get_by_role("dialog")
    await dialog.get_by_label("Version").fill(MARKUP)
    await dialog.get_by_label("Backends").fill(f"{MARKUP}\n{LONG}")
    await expect(seen.page.get_by_text("The server would refuse this")).to_be_visible()
    assert await seen.page.evaluate(HURT) == [0, 0]
    has, may = await seen.page.evaluate(WIDTHS)
    assert has <= may
    seen.check(refused=(400,))


async def shows(page: Page, words: str) -> bool:
    """Look for words, behind the newest events too: a busy machine may be blind for a moment, which is one each."""
    more = page.get_by_role("button", name="Show all")
    if await more.count():
        await more.first.click()
    return await page.get_by_text(words).first.is_visible()


async def test_a_deployment_is_asked_for_with_keys_alone(visit: Visits, busy: Shop) -> None:
    seen = await visit(f"{busy.url}#/services/users")
    page, keys = seen.page, seen.page.keyboard
    await show(page, "services/users")
    await page.evaluate("document.activeElement.blur()")
    await keys.press("Tab")
    assert "To the content" in (await page.evaluate(FOCUS))["words"]
    for _ in range(20):
        await keys.press("Tab")
        focus = await page.evaluate(FOCUS)
        assert focus["ring"] >= 2, focus
        if focus["words"] == "Deploy":
            break
    await keys.press("Enter")
    await expect(page.get_by_role("dialog")).to_be_visible()
    await expect(page.get_by_role("dialog").get_by_label("Version")).to_be_focused()
    await keys.type("v3")
    await keys.press("Tab")
    await keys.type("10.0.0.5:8080")
    await keys.press("Tab")
    await expect(page.get_by_text("The server says:")).to_be_visible()
    for _ in range(12):  # round in the dialog, or to the browser's own controls, but never to what is below
        await keys.press("Tab")
        focus = await page.evaluate(FOCUS)
        assert focus["inside"] or not focus["words"] or await page.evaluate("document.activeElement === document.body")
    await keys.press("Escape")
    await expect(page.get_by_role("dialog")).to_have_count(0)
    assert (await page.evaluate(FOCUS))["words"] == "Deploy"
    seen.check()


async def test_keys_lead_to_views_the_filter_and_the_list_of_keys(visit: Visits, busy: Shop) -> None:
    seen = await visit(busy.url)
    page, keys = seen.page, seen.page.keyboard
    await show(page, "services")
    views = {"f": "Fleet", "c": "Configuration", "r": "Strategies", "e": "Events", "t": "Tokens", "s": "Services"}
    for key, name in views.items():
        await until(partial(jumps, page, key, name), within_s=LIMIT_S, what=f"g {key} to lead to {name}")
        await expect(page).to_have_title(re.compile(f"^{name} . rollout$"))
    await keys.press("/")
    await keys.type("cart")
    await expect(page.locator("table.services tbody tr")).to_have_count(1)
    await keys.press("Escape")
    await expect(page.locator("table.services tbody tr")).to_have_count(6)
    await page.evaluate("document.activeElement.blur()")
    await keys.press("?")
    await expect(page.get_by_role("dialog", name="Keys")).to_be_visible()
    await keys.press("Escape")
    await expect(page.get_by_role("dialog")).to_have_count(0)
    seen.check()


async def jumps(page: Page, key: str, name: str) -> bool:
    """Press both keys, again where a busy machine let too much time pass between them."""
    await page.keyboard.press("g")
    await page.keyboard.press(key)
    return await page.get_by_role("heading", level=1, name=name).is_visible()


async def test_who_wants_no_motion_gets_none(visit: Visits, busy: Shop) -> None:
    seen = await visit(f"{busy.url}#/services/search", reduced_motion="reduce")
    bar = seen.page.locator(".scale .wanted")
    await expect(bar).to_be_attached()
    moves = "each => [getComputedStyle(each).transitionDuration, document.getAnimations().length]"
    duration, animations = await bar.evaluate(moves)
    assert (duration.rstrip("s"), animations) in (("0", 0), ("1e-05", 0))


async def test_colours_follow_the_system_until_somebody_chooses(visit: Visits, busy: Shop) -> None:
    seen = await visit(busy.url, color_scheme="dark")
    page, paper = seen.page, "getComputedStyle(document.body).backgroundColor"
    dark = await page.evaluate(paper)
    await page.emulate_media(color_scheme="light")
    light = await page.evaluate(paper)
    assert light != dark
    button = page.get_by_role("button", name="Colours")
    await button.click()
    await button.click()
    await expect(button).to_have_accessible_name("Colours: dark; change")
    await page.reload(timeout=LIMIT_MS)
    await expect(button).to_have_accessible_name("Colours: dark; change")
    assert await page.evaluate(paper) == dark
    seen.check()


async def test_status_is_said_in_words_beside_each_colour(visit: Visits, busy: Shop) -> None:
    seen = await visit(busy.url)
    await show(seen.page, "services")
    for service, words, sign in (("checkout", "paused", "!"), ("cart", "rolled back", "✕"), ("search", "shift", "▶")):
        row = seen.page.locator("table.services tbody tr", has=seen.page.get_by_role("link", name=service))
        await expect(row.locator("td").first).to_contain_text(words)
        await expect(row.locator(".badge .sign").first).to_have_text(sign)
    seen.check()


async def test_times_are_the_servers_where_the_clock_here_is_wrong(visit: Visits, busy: Shop) -> None:
    seen = await visit(f"{busy.url}#/config")
    await seen.page.add_init_script(WRONG_CLOCK)
    await seen.page.reload()
    for view in ("services", "config"):
        await show(seen.page, view)
        ages = await seen.page.evaluate(AGES)
        assert ages, view
        assert [each for each in ages if not re.fullmatch(r"just now|\d+ s ago|\d+ min ago", each)] == [], view
    await show(seen.page, "services/search")
    await expect(seen.page.locator("section[aria-labelledby=card-rollout] .aside")).to_contain_text(
        re.compile(r"for (\d+ min )?[0-9.]+ s")
    )
    first = seen.page.locator("figure.chart").first
    await first.get_by_text("Values").click()
    at = first.locator("tbody tr th")
    was = await at.first.inner_text()
    await expect(at.first).not_to_have_text(was)  # what the page has measured itself
    newest, before = [_seconds(each) for each in (await at.all_inner_texts())[:2]]
    assert 0 < (newest - before) % 86_400 < 60
    seen.check()


def _seconds(clock: str) -> int:
    hours, minutes, seconds = map(int, clock.split(":"))
    return 3600 * hours + 60 * minutes + seconds


async def test_a_single_point_is_drawn_and_a_version_without_requests_has_no_figures(visit: Visits, busy: Shop) -> None:
    seen = await visit(busy.url)
    await seen.page.route("**/points", lambda route: route.fulfill(json=POINTS))
    await show(seen.page, "services/cart")
    latency = seen.page.locator("figure.chart").nth(2)
    assert await latency.locator("canvas").evaluate(DOTS) > 4
    await expect(latency.locator("figcaption .figure")).to_have_text([DASH, "4 ms"])
    await expect(seen.page.locator(".weight .legend")).to_contain_text("v2 wanted")
    await expect(seen.page.get_by_text("nothing measured now")).to_have_count(0)
    seen.check()


async def test_the_evidence_fits_a_narrow_screen(visit: Visits, busy: Shop) -> None:
    seen = await visit(busy.url, viewport=NARROW)
    await show(seen.page, "services/cart")
    table = seen.page.get_by_role("region", name="What both versions did in this stage")
    await expect(table.locator("[data-label='p99 now']")).to_have_count(2)
    has, may = await table.evaluate("each => [each.scrollWidth, each.clientWidth]")
    assert has <= may
    seen.check()
