"""A page that hears of changes in another way: late, without a stream, or after another login."""

from pathlib import Path

import pytest
from playwright.async_api import Route, expect

from tests.page.browsing import Visits
from tests.page.shop import ROOT_TOKEN, serving, settings_in

pytestmark = pytest.mark.asyncio(loop_scope="session")


HELD = """
const [frame, timer] = [window.requestAnimationFrame, window.setTimeout];
const held = [];
window.requestAnimationFrame = window.setTimeout = (call) => held.push(call);
window.setInterval = () => 0;
window.release = () => {
  Object.assign(window, { requestAnimationFrame: frame, setTimeout: timer });
  for (const call of held) call();
};
"""
"""Nothing of a page looks at what it knows before it is let: neither after it was drawn, nor from time to time."""


async def refused(route: Route) -> None:
    """Answer as a proxy does that passes no streams on."""
    if "text/event-stream" in route.request.headers.get("accept", ""):
        await route.fulfill(status=502, body="no streams here")
    else:
        await route.continue_()


async def test_where_the_stream_is_refused_events_are_asked_for(visit: Visits, tmp_path: Path) -> None:
    async with serving(settings_in(tmp_path)) as server:
        seen = await visit("about:blank")
        await seen.page.route("**/v1/events*", refused)
        await seen.page.goto(f"{server.url}#/events")
        await expect(seen.page.locator(".state")).to_have_text("asking every 2 s")
        assert (await server.ask("POST", "/v1/services/checkout/adopt", {"version": "v1"})).status == 200
        await expect(seen.page.get_by_text("adopt v1")).to_be_visible()


async def test_a_login_in_another_tab_is_taken_over_with_nothing_of_before(visit: Visits, tmp_path: Path) -> None:
    async with serving(settings_in(tmp_path, services=("checkout", "cart"), token=ROOT_TOKEN)) as server:
        first, second = await server.door.token("ann", "operator"), await server.door.token("bob", "viewer", "cart")
        seen = await visit(f"{server.url}#/events")
        await seen.page.get_by_label("Token").fill(first)
        await seen.page.get_by_role("button", name="Log in").click()
        assert (await server.ask("POST", "/v1/services/checkout/adopt", {"version": "v1"})).status == 200
        await expect(seen.page.get_by_text("adopt v1")).to_be_visible()
        (old,) = await seen.context.cookies()
        page = await server.door.login(second)
        await seen.context.add_cookies([{"name": old["name"], "value": page.cookie, "url": server.url}])
        assert (await server.ask("DELETE", "/v1/tokens/ann")).status == 200  # its streams end
        await expect(seen.page.locator(".who")).to_contain_text("bob viewer")
        await expect(seen.page.get_by_text("adopt v1")).to_have_count(0)
        await expect(seen.page.locator(".state")).to_have_text("live")


async def test_what_comes_before_a_part_of_the_page_listens_is_shown(visit: Visits, tmp_path: Path) -> None:
    async with serving(settings_in(tmp_path)) as server:
        seen = await visit("about:blank")
        await seen.page.add_init_script(HELD)
        async with seen.page.expect_response("**/v1/me"):
            await seen.page.goto(f"{server.url}#/events")
        await seen.page.evaluate(
            "fetch('/v1/me').then((answer) => answer.text())"
        )  # so that the page has its own by now
        await expect(seen.page.get_by_text("Asking the server how things are")).to_be_visible()
        await seen.page.evaluate("window.release()")
        await expect(seen.page.get_by_role("heading", level=1, name="Events")).to_be_visible()
        seen.check()
