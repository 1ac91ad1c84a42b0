"""Changing things on the page: each asks first, says what it will do, and is there only for who may do it."""

import re
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio
from playwright.async_api import Page, expect

from tests.page.browsing import Visit, Visits
from tests.page.pretended import Proxy, fleet
from tests.page.shop import ASKS, ROOT_TOKEN, STAYS, Shop, connected, serving, settings_in

pytestmark = pytest.mark.asyncio(loop_scope="session")

SERVICES = ("checkout", "cart", "payments", "search", "stock")
RETYPED = """async dialog => {
  const field = dialog.querySelector('textarea');
  field.value = 'nowhere else';
  field.dispatchEvent(new Event('input', { bubbles: true }));
  await new Promise(requestAnimationFrame);
  await new Promise(requestAnimationFrame);
  return dialog.querySelector('.would').textContent;
}"""
ALL = ["Promote", "Skip stage", "To 100 %", "Pause", "Abort", "Deploy"]


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def server(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Shop]:
    """A server whose services are in mid-stage, but for `cart`; `payments` waits for an approval."""
    settings = settings_in(tmp_path_factory.mktemp("changes"), SERVICES, token=ROOT_TOKEN)
    async with serving(settings) as found, fleet(found.door.listening.xds, [Proxy("edge-1")]):
        await connected(found)
        for service in ("checkout", "search", "stock"):
            await found.deploy(STAYS, service)
        await found.deploy(ASKS, "payments")
        for service in ("checkout", "search", "stock"):
            await found.until(service, phase="shifting")
        yield found


async def log_in(visit: Visits, server: Shop, service: str, token: str) -> Visit:
    return await visit.log_in(f"{server.url}#/services/{service}", token)


async def offers(page: Page) -> list[str]:
    """Return what the buttons in the view of a service say."""
    await expect(page.get_by_role("heading", name="Versions and backends")).to_be_visible()
    return await page.locator(".head button").all_inner_texts()


async def asked(server: Shop, verb: str) -> list[dict[str, Any]]:
    return list((await server.get(f"/v1/audit?verb={verb}"))["rows"])


async def test_a_stage_is_approved_on_the_page_and_the_rollout_ends(visit: Visits, server: Shop) -> None:
    seen = await log_in(visit, server, "payments", ROOT_TOKEN)
    page, dialog = seen.page, seen.page.get_by_role("dialog")
    await expect(page.get_by_text("waits for an approval").first).to_be_visible()
    await expect(page.get_by_role("list", name="Stages of the rollout")).to_contain_text("asks for approval")
    await page.get_by_role("button", name="Approve").click()
    await expect(dialog).to_contain_text(re.compile("You agree .* goes on to 100 %"))
    await expect(dialog).to_contain_text("rollout approve payments")
    await expect(dialog.get_by_text("The server says:")).to_be_visible()
    await dialog.get_by_role("button", name="Approve").click()
    await expect(dialog).to_be_hidden()
    await expect(page.get_by_label("Rollout", exact=True).locator(".badge")).to_contain_text("completed")
    assert await offers(page) == ["Undo", "Deploy"]
    await expect(page.locator(".head .lead")).to_have_text("v2 has all traffic")
    await page.get_by_role("button", name="Deploy").click()
    await expect(dialog.get_by_role("heading")).to_have_text("Deploy payments, now on v2")
    await dialog.get_by_role("button", name="Cancel").click()
    seen.check(refused=(401,))


async def test_an_abort_says_what_it_will_do_and_does_it_only_when_confirmed(visit: Visits, server: Shop) -> None:
    seen = await log_in(visit, server, "stock", ROOT_TOKEN)
    page, dialog = seen.page, seen.page.get_by_role("dialog")
    await page.get_by_role("button", name="Abort").click()
    await expect(dialog).to_contain_text("All traffic goes back to initial at once.")
    await expect(dialog.get_by_text("The server says:")).to_be_visible()
    await expect(dialog.locator("code")).to_have_text("rollout abort stock")
    await dialog.get_by_role("button", name="Cancel").click()
    await expect(dialog).to_be_hidden()
    assert (await server.rollout("stock"))["phase"] == "shifting"
    assert not [each for each in await asked(server, "abort") if each["result"] == "done"]

    await page.get_by_role("button", name="Abort").click()
    await dialog.get_by_role("button", name="Abort").click()
    await expect(page.get_by_label("Rollout", exact=True).locator(".badge")).to_contain_text("rolled back")
    await expect(page.get_by_text("initial has all traffic")).to_be_visible()
    assert (await server.rollout("stock"))["outcome"] == "rolled_back"
    (done,) = [each for each in await asked(server, "abort") if each["result"] == "done"]
    assert (done["who"], done["service"]) == ("root", "stock")
    seen.check(refused=(401,))


async def test_what_is_refused_is_said_in_the_dialog_and_changes_nothing(visit: Visits, server: Shop) -> None:
    seen = await log_in(visit, server, "cart", ROOT_TOKEN)
    page, dialog = seen.page, seen.page.get_by_role("dialog")
    await page.get_by_role("button", name="Deploy").click()
    await dialog.get_by_label("Version").fill("v2")
    await dialog.get_by_label("Backends").fill("nowhere")
    await expect(dialog.get_by_text("The server would refuse this")).to_be_visible()
    assert await dialog.evaluate(RETYPED) == "Asking the server …"
    await expect(dialog.get_by_text("The server would refuse this")).to_be_visible()
    await dialog.get_by_role("button", name="Deploy").click()
    await expect(dialog.get_by_role("alert")).to_contain_text("nowhere")
    await dialog.get_by_label("Strategy", exact=True).select_option("json")
    await dialog.get_by_label("Strategy as JSON").fill("{")
    await dialog.get_by_role("button", name="Deploy").click()
    await expect(dialog.get_by_role("alert")).to_contain_text("Strategy as JSON")
    await dialog.get_by_role("button", name="Cancel").click()
    assert (await server.get("/v1/services/cart"))["rollout"] is None
    seen.check(refused=(400, 401))


async def test_what_is_meant_for_one_stage_is_not_done_in_the_next(visit: Visits, server: Shop) -> None:
    seen = await log_in(visit, server, "search", ROOT_TOKEN)
    page, dialog = seen.page, seen.page.get_by_role("dialog")
    await page.get_by_role("button", name="Skip stage").click()
    await expect(dialog.get_by_text("The server says:")).to_be_visible()
    await server.command("promote", "search")
    await server.until("search", stage=1)
    await dialog.get_by_role("button", name="Skip stage").click()
    await expect(dialog.get_by_role("alert")).to_contain_text("stage")
    assert (await server.rollout("search"))["stage"] == 1
    seen.check(refused=(401, 409, 412))


@pytest.mark.parametrize(
    ("role", "services", "buttons"),
    [("viewer", (), []), ("operator", (), ALL), ("operator", ("cart", "check*"), ALL), ("admin", (), ALL)],
)
async def test_buttons_are_there_for_who_may_use_them(
    visit: Visits, server: Shop, role: str, services: tuple[str, ...], buttons: list[str]
) -> None:
    token = await server.door.token(f"{role}-{len(services)}", role, *services)
    seen = await log_in(visit, server, "checkout", token)
    assert await offers(seen.page) == buttons
    backends = seen.page.get_by_label("Versions and backends", exact=True)
    for name in ("Drain", "Scale", "Discovery"):
        assert bool(await backends.get_by_role("button", name=name).count()) is bool(buttons)
    for name in ("Audit", "Tokens"):
        assert await seen.page.get_by_role("link", name=name).count() == (role == "admin")
    await seen.page.goto(f"{server.url}#/strategies")
    await expect(seen.page.get_by_text("None has a name yet.")).to_be_visible()
    assert await seen.page.get_by_role("button", name="New strategy").count() == bool(buttons and not services)
    await seen.page.goto(f"{server.url}#/config")
    await expect(seen.page.get_by_role("heading", name="Served now")).to_be_visible()
    assert await seen.page.get_by_role("button", name="Reload").count() == (role == "admin")
    await seen.page.goto(f"{server.url}#/audit")
    await expect(seen.page.locator("main .fault" if role != "admin" else "main tbody tr").first).to_be_visible()
    assert await seen.page.get_by_role("button", name="Verify").count() == (role == "admin")
    await seen.page.goto(f"{server.url}#/tokens")
    await expect(seen.page.locator("main .fault" if role != "admin" else "main tbody tr").first).to_be_visible()
    assert await seen.page.get_by_role("button", name="New token").count() == (role == "admin")
    seen.check(refused=(401, 403))


async def test_an_operator_of_another_service_does_not_see_this_one(visit: Visits, server: Shop) -> None:
    seen = await log_in(visit, server, "checkout", await server.door.token("of-cart", "operator", "cart"))
    await expect(seen.page.locator(".fault")).to_contain_text("checkout")
    assert await seen.page.get_by_role("button", name="Abort").count() == 0
    await seen.page.get_by_role("link", name="Services").first.click()
    await expect(seen.page.locator("table.services tbody th a")).to_have_text(["cart"])
    seen.check(refused=(401, 403, 404))
