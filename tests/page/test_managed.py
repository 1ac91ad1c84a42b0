"""What is managed on the page: tokens, strategies by name, where versions run and where their backends are found."""

import re
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio
from playwright.async_api import Browser, Locator, Page, expect

from rollout.demo.processes import until
from tests.page import axe
from tests.page.browsing import Visits
from tests.page.shop import LIMIT_S, ROOT_TOKEN, Shop, serving, settings_in
from tests.rollout.sd_server import sd_server

pytestmark = pytest.mark.asyncio(loop_scope="session")

KEPT = "[document.documentElement.outerHTML, document.cookie, JSON.stringify({...localStorage})].join()"
STAGES = '{"stages": ["10%", "100%"]}'


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def server(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Shop]:
    settings = settings_in(tmp_path_factory.mktemp("managed"), ("checkout", "cart"), token=ROOT_TOKEN)
    async with serving(settings) as found:
        yield found


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def page(browser: Browser, server: Shop) -> AsyncIterator[Page]:
    """A page on which an admin has logged in."""
    visits = Visits(browser)
    seen = await visits.log_in(server.url, ROOT_TOKEN)
    yield seen.page
    seen.check(refused=(401, 412, 503))
    await visits.end()


async def show(page: Page, view: str) -> None:
    await page.evaluate("view => { location.hash = `#/${view}`; }", view)


async def press(page: Page, name: str, *says: str) -> Locator:
    """Press a button; return the dialog that it opens, once the server has said this in it."""
    await page.get_by_role("button", name=name, exact=True).click()
    dialog = page.get_by_role("dialog")
    for words in says:
        await expect(dialog.locator(".would")).to_contain_text(f"The server says: {words}")
    return dialog


async def confirm(dialog: Locator, name: str) -> None:
    await dialog.get_by_role("button", name=name, exact=True).click()
    await expect(dialog).to_be_hidden()


async def remembers(page: Page, words: str) -> bool:
    """Say whether anything in the memory of a page's scripts has these words."""
    session = await page.context.new_cdp_session(page)
    parts: list[str] = []
    session.on("HeapProfiler.addHeapSnapshotChunk", lambda each: parts.append(each["chunk"]))
    await session.send("HeapProfiler.collectGarbage")
    await session.send("HeapProfiler.takeHeapSnapshot", {"reportProgress": False})
    await session.detach()
    return words in "".join(parts)


async def test_a_token_is_shown_once_and_the_page_forgets_it(page: Page, server: Shop) -> None:
    await show(page, "tokens")
    await page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    dialog = await press(page, "New token")
    await dialog.get_by_label("Name").fill("ci-shop")
    await dialog.get_by_label("Role").select_option("operator")
    await dialog.get_by_label("Services").fill("shop-*, checkout")
    await expect(dialog.locator(".would")).to_contain_text("create the token ci-shop: operator of shop-*, checkout")
    await dialog.get_by_role("button", name="New token").click()
    field = dialog.get_by_label("Token")
    await expect(field).to_be_focused()
    secret = await field.input_value()
    assert await remembers(page, secret)
    await dialog.get_by_role("button", name="Copy").click()
    await expect(dialog.get_by_role("status")).to_have_text("Copied.")
    assert await page.evaluate("navigator.clipboard.readText()") == secret
    await confirm(dialog, "Close")
    assert secret not in await page.evaluate(KEPT)

    async def forgotten() -> bool:
        return not await remembers(page, secret)

    await until(forgotten, within_s=LIMIT_S, what="the page to forget the token")

    row = page.get_by_role("row", name="ci-shop")
    await expect(row).to_contain_text("operator")
    await expect(row).to_contain_text("shop-*, checkout")
    await expect(row).to_contain_text("not since the server started")
    assert (await server.door.ask("GET", "/v1/me", token=secret)).body["services"] == ["shop-*", "checkout"]
    dialog = await press(page, "Revoke ci-shop", "revoke the token ci-shop")
    await expect(dialog).to_contain_text("rollout token revoke ci-shop")
    await confirm(dialog, "Revoke")
    await expect(page.get_by_text("None was given out.")).to_be_visible()
    assert (await server.door.ask("GET", "/v1/me", token=secret)).status == 401


async def test_the_first_token_is_an_admins_and_who_has_made_it_can_log_in(visit: Visits, tmp_path: Path) -> None:
    async with serving(settings_in(tmp_path)) as server:
        seen = await visit(f"{server.url}#/tokens")
        page = seen.page
        dialog = await press(page, "New token")
        await dialog.get_by_label("Name").fill("ann")
        await expect(dialog.locator(".would")).to_contain_text("The server would refuse this: the first token")
        await dialog.get_by_label("Role").select_option("admin")
        await expect(dialog.locator(".would")).to_contain_text("The server says: create the token ann: admin")
        await dialog.get_by_role("button", name="New token").click()
        shown = dialog.get_by_label("Token")
        secret = await shown.input_value()
        await expect(page.locator("main").get_by_text("An admin makes tokens")).to_be_attached()
        await shown.press("Enter")  # which would have closed it, had it been pressed twice before
        await expect(shown).to_be_visible()
        await confirm(dialog, "Close")
        await expect(page.get_by_role("textbox", name="Token")).to_be_focused()
        await page.get_by_role("textbox", name="Token").fill(secret)
        await page.get_by_role("button", name="Log in").click()
        await expect(page.get_by_role("row", name="ann")).to_contain_text("admin")
        dialog = await press(page, "Revoke ann")
        await expect(dialog).to_contain_text("You are logged in by it.")
        await expect(dialog.locator(".would")).to_contain_text("The server would refuse this")
        seen.check(refused=(401, 409))


async def test_strategies_are_added_edited_and_removed(page: Page, server: Shop) -> None:
    await show(page, "strategies")
    dialog = await press(page, "New strategy")
    await dialog.get_by_label("Name").fill("careful")
    await dialog.get_by_label("Strategy as JSON").fill("stages: [10%]")
    await dialog.get_by_role("button", name="New strategy").click()
    await expect(dialog.get_by_role("alert")).to_contain_text("Strategy as JSON: ")
    await dialog.get_by_label("Strategy as JSON").fill(STAGES)
    await expect(dialog.locator(".would")).to_contain_text("the strategy 'careful' is added")
    await confirm(dialog, "New strategy")
    row = page.get_by_role("row", name="careful")
    await expect(row.locator("[data-label=stages]")).to_have_text("10 %, 100 %")

    dialog = await press(page, "Edit careful", "nothing")
    await dialog.get_by_label("Strategy as JSON").fill('{"stages": ["5%", "100%"]}')
    await server.ask("PUT", "/v1/strategies/careful", {"strategy": {"stages": ["20%", "100%"]}})
    await dialog.get_by_role("button", name="Edit").click()
    await expect(dialog.get_by_role("alert")).to_contain_text("the view was stale")
    await confirm(dialog, "Cancel")
    await expect(row.locator("[data-label=stages]")).to_have_text("20 %, 100 %")

    await page.route("**/v1/strategies/careful", lambda route: route.fulfill(status=503), times=1)
    dialog = await press(page, "Edit careful")
    await expect(dialog.locator(".would")).to_contain_text("The server would refuse this: it has changed")
    await confirm(dialog, "Cancel")
    dialog = await press(page, "Edit careful", "nothing")
    await expect(dialog.get_by_label("Strategy as JSON")).to_have_value(re.compile("20%"))
    await dialog.get_by_label("Strategy as JSON").fill(STAGES)
    await expect(dialog.locator(".would")).to_contain_text("the strategy 'careful' is changed")
    await confirm(dialog, "Edit")
    await expect(row).to_contain_text("revision 3")
    await confirm(await press(page, "Remove careful", "the strategy 'careful' is removed"), "Remove")
    await expect(page.get_by_text("None has a name yet.")).to_be_visible()


async def test_a_version_is_scaled_and_renamed(page: Page, server: Shop) -> None:
    await show(page, "services/cart")
    dialog = await press(page, "Scale initial of cart")
    field = dialog.get_by_label("Backends")
    await expect(field).to_have_value("10.0.0.1:8080\n10.0.0.2:8080\n10.0.0.3:8080")
    await dialog.get_by_role("button", name="Scale").click()
    await expect(dialog.get_by_role("alert")).to_contain_text("these are the present ones")
    await field.fill("10.0.0.1:8080\n10.0.0.3:8080\n10.0.0.4:8080@eu/eu-1")
    await expect(dialog.locator(".would")).to_contain_text("The server says:")
    for address in ("10.0.0.4:8080", "10.0.0.2:8080"):
        await expect(dialog.locator(".would")).to_contain_text(address)
    await confirm(dialog, "Scale")
    await expect(page.get_by_role("row", name="10.0.0.4:8080")).to_contain_text("in use")
    (scaled,) = (await server.get("/v1/audit?verb=scale"))["rows"]
    assert scaled["detail"] == "initial +10.0.0.4:8080@eu/eu-1 -10.0.0.2:8080"

    dialog = await press(page, "Rename initial of cart")
    await dialog.get_by_label("Version").fill("v1")
    await expect(dialog.locator(".would")).to_contain_text("'initial' of 'cart' is called 'v1'")
    await confirm(dialog, "Rename")
    await expect(page.locator(".lead")).to_have_text("v1 has all traffic")


async def test_backends_are_found_by_a_source_until_it_is_ended(page: Page, server: Shop) -> None:
    async with sd_server() as source:
        source.targets("10.0.0.1:8080", "10.0.0.2:8080", "10.0.0.3:8080")
        await show(page, "services/checkout")
        dialog = await press(page, "Discovery initial of checkout")
        for wrong in ("nowhere", "dns:@eu"):
            await dialog.get_by_label("Source").fill(wrong)
            await dialog.get_by_role("button", name="Discovery").click()
            await expect(dialog.get_by_role("alert")).to_contain_text(f"Source: '{wrong}' is none; write dns:NAME:PORT")
        await dialog.get_by_label("Source").fill(f"http_sd:{source.url}")
        await expect(dialog.locator(".would")).to_contain_text("The server says:")
        await confirm(dialog, "Discovery")
        told = page.locator(".source")
        await expect(told.locator(".badge")).to_have_text(re.compile("^.followed$"))
        assert source.answered
        dialog = await press(page, "End discovery initial of checkout", "")
        await expect(dialog).to_contain_text("rollout discovery remove checkout initial")
        await confirm(dialog, "End discovery")
        await expect(told).to_have_count(0)


async def test_what_is_managed_can_be_read_by_everybody(visit: Visits, server: Shop) -> None:
    await server.door.token("bob", "viewer", "cart", expires="1h")
    seen = await visit(f"{server.url}#/tokens", bypass_csp=True, viewport={"width": 360, "height": 740})
    page = seen.page
    await page.get_by_role("textbox", name="Token").fill(ROOT_TOKEN)
    await page.get_by_role("button", name="Log in").click()
    await expect(page.get_by_role("row", name="bob")).to_be_visible()
    await axe.bring(page)
    faults = await axe.violations(page, "tokens")
    dialog = await press(page, "New token")
    await dialog.get_by_label("Name").fill("eve")
    faults += await axe.violations(page, "dialog")
    await dialog.get_by_role("button", name="New token").click()
    await expect(dialog.get_by_label("Token")).to_be_focused()
    await page.emulate_media(color_scheme="dark")
    faults += await axe.violations(page, "secret")
    assert faults == []
    has, may = await page.evaluate("[document.documentElement.scrollWidth, document.documentElement.clientWidth]")
    assert has <= may
