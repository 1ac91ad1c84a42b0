"""Logging in and out: what the browser keeps, what it does not, and that no page of others speaks for somebody."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio
from aiohttp import web
from playwright.async_api import Page, expect

from tests.page import axe
from tests.page.browsing import Visit, Visits
from tests.page.shop import ROOT_TOKEN, Shop, serving, settings_in

pytestmark = pytest.mark.asyncio(loop_scope="session")

CHECKOUT = "#/services/checkout"
KEPT = "[document.cookie, JSON.stringify({...localStorage}), JSON.stringify({...sessionStorage})].join()"
PAUSE = "/v1/services/checkout/drains"
BODY = '{"backend": "10.0.0.1:8080"}'
FORGED = f"""async url => {{
  const asked = [];
  for (const type of ['text/plain', 'application/json']) {{
    for (const mode of ['no-cors', 'cors']) {{
      const headers = {{ 'Content-Type': type }};
      const sent = {{ method: 'POST', mode, credentials: 'include', headers, body: '{BODY}' }};
      asked.push(await fetch(url + '{PAUSE}', sent).then((answer) => answer.type, () => 'refused'));
    }}
  }}
  return asked;
}}"""
FORM = f"""<form method="post" enctype="text/plain" action="URL{PAUSE}"><input name='{BODY[:-1]}, "x' value='": 1}}'>
<button>Win a prize</button></form>"""
UNSIGNED = f"""async () => (await fetch('{PAUSE}', {{
  method: 'POST', headers: {{ 'Content-Type': 'application/json' }}, body: '{BODY}'
}})).status"""


@pytest_asyncio.fixture(loop_scope="session")
async def server(tmp_path: Path) -> AsyncIterator[Shop]:
    async with serving(settings_in(tmp_path, token=ROOT_TOKEN)) as found:
        yield found


async def try_token(page: Page, token: str) -> None:
    await page.get_by_label("Token").fill(token)
    await page.get_by_role("button", name="Log in").click()


async def inside(visit: Visits, server: Shop, token: str) -> Visit:
    seen = await visit(f"{server.url}{CHECKOUT}")
    await try_token(seen.page, token)
    await expect(seen.page.get_by_role("button", name="Deploy")).to_be_visible()
    return seen


async def test_a_wrong_token_is_refused_and_the_right_one_leads_to_the_view_that_was_asked_for(
    visit: Visits, server: Shop
) -> None:
    token = await server.door.token("ann", "operator")
    seen = await visit(f"{server.url}{CHECKOUT}")
    await try_token(seen.page, "rlt_wrong")
    await expect(seen.page.get_by_role("alert")).to_contain_text("this token is not known, or has expired")
    await try_token(seen.page, token)
    await expect(seen.page.get_by_role("heading", level=1, name="checkout")).to_be_visible()
    await expect(seen.page.locator(".who")).to_contain_text("ann operator")
    (cookie,) = await seen.context.cookies()
    assert (cookie["name"], cookie["httpOnly"], cookie["sameSite"]) == ("rollout_session", True, "Strict")
    kept = await seen.page.evaluate(KEPT)
    assert token not in kept
    assert cookie["value"] not in kept
    assert token not in await seen.page.content()
    seen.check(refused=(401,))


async def test_a_token_is_typed_without_a_look_and_no_key_of_it_does_anything_else(visit: Visits, server: Shop) -> None:
    seen = await visit(f"{server.url}{CHECKOUT}")
    page, field = seen.page, seen.page.get_by_label("Token")
    await expect(field).to_be_focused()
    await page.evaluate("document.activeElement.blur()")
    await page.keyboard.type("t?gfu")
    await expect(page.get_by_role("button", name="Colours")).to_have_accessible_name("Colours: as the system; change")
    await expect(page.get_by_role("dialog")).to_have_count(0)
    assert page.url.endswith(CHECKOUT)
    await page.reload()
    await expect(field).to_be_focused()
    await page.keyboard.type(await server.door.token("tug", "viewer"))
    await page.keyboard.press("Enter")
    await expect(page.locator(".who")).to_contain_text("tug viewer")
    seen.check(refused=(401,))


async def test_the_login_can_be_read_by_everybody(visit: Visits, server: Shop) -> None:
    seen = await visit(server.url, bypass_csp=True, color_scheme="dark")
    await axe.bring(seen.page)
    await try_token(seen.page, "rlt_wrong")
    await expect(seen.page.get_by_role("alert")).to_be_visible()
    dark = await axe.violations(seen.page, "dark")
    await seen.page.emulate_media(color_scheme="light")
    assert (dark, await axe.violations(seen.page, "light")) == ([], [])


async def test_logging_out_ends_the_session_on_the_server_too(visit: Visits, server: Shop) -> None:
    seen = await inside(visit, server, await server.door.token("ann", "operator"))
    (cookie,) = await seen.context.cookies()
    await seen.page.get_by_role("button", name="Log out").click()
    await expect(seen.page.get_by_label("Token")).to_be_visible()
    assert await seen.context.cookies() == []
    said = await server.door.ask("GET", "/v1/me", Cookie=f"rollout_session={cookie['value']}")
    assert said.status == 401
    seen.check(refused=(401,))


async def test_a_session_that_ends_brings_the_login_back_in_the_same_view(visit: Visits, server: Shop) -> None:
    made = await server.ask("POST", "/v1/tokens", {"name": "ann", "role": "operator"})
    seen = await inside(visit, server, made.body["token"])
    assert (await server.ask("DELETE", f"/v1/tokens/{made.body['id']}")).status < 300
    await expect(seen.page.get_by_label("Token")).to_be_visible()
    assert seen.page.url.endswith(CHECKOUT)
    await try_token(seen.page, await server.door.token("bob", "operator"))
    await expect(seen.page.get_by_role("heading", level=1, name="checkout")).to_be_visible()
    await expect(seen.page.locator(".who")).to_contain_text("bob")
    seen.check(refused=(401,))


async def test_guessing_is_slowed_down_and_the_page_says_so(visit: Visits, server: Shop) -> None:
    seen = await visit(server.url)
    alert = seen.page.get_by_role("alert")
    for number in range(30):
        await try_token(seen.page, f"rlt_wrong{number}")
        await expect(alert).to_be_visible()
        if "again in" in await alert.inner_text():
            break
    await expect(alert).to_contain_text("again in")
    seen.check(refused=(401, 429))


async def test_no_page_of_another_origin_changes_anything(visit: Visits, server: Shop) -> None:
    """The other page is on another port: of the same site, so that the cookie is sent along."""
    seen = await inside(visit, server, await server.door.token("ann", "operator"))
    url = server.url.removesuffix("/")

    async def lure(_: web.Request) -> web.Response:
        return web.Response(text=FORM.replace("URL", url), content_type="text/html")

    app = web.Application()
    app.router.add_get("/", lure)
    runner = web.AppRunner(app, shutdown_timeout=1)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        other = await seen.context.new_page()
        await other.goto("http://127.0.0.1:{1}/".format(*runner.addresses[0]))
        found = await other.evaluate(FORGED, url)
        assert set(found) <= {"opaque", "refused"}
        async with other.expect_navigation():
            await other.get_by_role("button", name="Win a prize").click()
        assert "not taken from pages" in await other.inner_text("body")
    finally:
        await runner.cleanup()
    assert await seen.page.evaluate(UNSIGNED) == 403
    assert (await server.get("/v1/services/checkout"))["drains"] == []
    assert [each for each in (await server.get("/v1/audit?verb=drain"))["rows"] if each["result"] == "done"] == []
