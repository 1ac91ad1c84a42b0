"""Each route with each role and with none, from the table of routes itself: a new route is tested by being there."""

import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from rollout.api import offline
from rollout.api.contract import READING, Route
from rollout.api.server import all_routes
from rollout.rights import Role
from tests.rollout.doors import LIMIT_S, OTHER, OWN, ROOT_TOKEN, Door, running, settings

PUBLIC = {"/", "/assets/{name}", "/healthz", "/readyz", "/v1/session"}
"""What everybody may ask, without any token: nothing of a fleet is in it."""
WHOLE_FLEET = {"/metrics", "/v1/config/resources"}
"""What tells of all services to all who may read anything, as the documentation says."""
BY_ITS_BODY = {"/v1/plan", "/v1/apply"}
"""Where what a body names says which role is needed: its handler asks for it."""


def nobody() -> Any:
    return offline._Nobody()


ROUTES: tuple[Route, ...] = all_routes(nobody())
RULED = tuple(route for route in ROUTES if route.need is not None)


def path_of(route: Route, service: str) -> str:
    filled = route.path.replace("{service}", service).replace("{id}", "1")
    return re.sub(r"\{[^}]*\}", "none", filled)


def name(route: Route) -> str:
    return f"{route.method} {route.path}"


@pytest.fixture
async def door(tmp_path: Path) -> AsyncIterator[Door]:
    async with running(settings(tmp_path, token=ROOT_TOKEN)) as found:
        yield found


async def status(door: Door, route: Route, service: str, token: str | None) -> int:
    """Ask a route for the least that it takes; a stream is left at once."""
    headers = {} if token is None else {"Authorization": f"Bearer {token}"}
    body = None if route.method in READING else b"{}"
    headers |= {"Content-Type": "application/json"} if body else {}
    limit = aiohttp.ClientTimeout(total=LIMIT_S)
    request = door.http.request(route.method, path_of(route, service), data=body, headers=headers, timeout=limit)
    async with request as answer:
        return answer.status


def test_every_route_says_who_may_use_it() -> None:
    assert {route.path for route in ROUTES if route.need is None} == PUBLIC
    changing = [route for route in RULED if route.method not in READING]
    assert {route.path for route in changing if route.need is Role.VIEWER} == BY_ITS_BODY
    assert len({name(route) for route in ROUTES}) == len(ROUTES)


async def test_without_a_token_only_what_is_public_is_answered(door: Door) -> None:
    for route in ROUTES:
        found = await status(door, route, OWN, None)
        assert (found == 401) is (route.need is not None), name(route)
    for route in RULED:
        assert await status(door, route, OWN, "rlt_wrong") == 401, name(route)


@pytest.mark.parametrize("role", [Role.VIEWER, Role.OPERATOR])
async def test_each_role_may_what_it_is_for_and_no_more(door: Door, role: Role) -> None:
    token = await door.token("somebody", role)
    for route in RULED:
        assert route.need is not None
        found = await status(door, route, OWN, token)
        assert (found == 403) is not role.covers(route.need), f"{name(route)}: {found}"
        assert found != 401


async def test_an_admin_may_everything(door: Door) -> None:
    token = await door.token("boss", Role.ADMIN)
    for route in RULED:
        assert await status(door, route, OWN, token) not in (401, 403, 500), name(route)


async def test_a_token_for_one_service_is_for_no_other_and_changes_nothing_of_the_whole(door: Door) -> None:
    token = await door.token("shop", Role.OPERATOR, OWN)
    for route in RULED:
        assert route.need is not None
        own, other = [await status(door, route, each, token) for each in (OWN, OTHER)]
        if "{service}" in route.path:
            assert other == 403, name(route)
            assert (own == 403) is not Role.OPERATOR.covers(route.need), name(route)
        else:
            assert (own == 403) is (route.need is not Role.VIEWER), f"{name(route)}: {own}"


async def test_lists_name_no_service_that_a_token_is_not_for(door: Door) -> None:
    limited, whole = await door.token("shop", Role.VIEWER, OWN), await door.token("all", Role.VIEWER)
    for service in (OWN, OTHER):
        body = {"version": "v2", "endpoints": ["127.0.0.1:9002"]}
        said = await door.ask("POST", f"/v1/services/{service}/rollouts", body, ROOT_TOKEN)
        assert said.status == 201, said.raw
    told = set()
    for route in RULED:
        if route.method != "GET" or "{" in route.path or route.need is not Role.VIEWER:
            continue
        if OTHER in (await door.ask("GET", route.path, token=whole)).raw:
            told.add(route.path)
        if route.path not in WHOLE_FLEET:
            assert OTHER not in (await door.ask("GET", route.path, token=limited)).raw, name(route)
    assert {"/v1/services", "/v1/rollouts", "/v1/operations", "/metrics"} <= told


async def test_what_there_is_not_is_not_there_for_everybody(door: Door) -> None:
    for token in (None, ROOT_TOKEN):
        assert (await door.ask("GET", "/v1/nothing", token=token)).status == 404
        assert (await door.ask("PATCH", "/v1/services", token=token)).status == 405


async def test_answers_say_what_browsers_may_do_with_them(door: Door) -> None:
    for route in ROUTES:
        if route.method != "GET" or "{" in route.path:
            continue
        said = await door.ask("GET", route.path, token=ROOT_TOKEN)
        assert said.headers["X-Content-Type-Options"] == "nosniff", name(route)
        assert said.headers["Referrer-Policy"] == "no-referrer", name(route)
        policy = said.headers["Content-Security-Policy"]
        assert "frame-ancestors 'none'" in policy, name(route)
        assert "default-src 'none'" in policy, name(route)
        assert "unsafe" not in policy, name(route)
        if route.path.startswith("/v1/"):
            assert said.headers["Cache-Control"] == "no-store", name(route)
    refused = await door.ask("GET", "/v1/services")
    assert (refused.status, refused.headers["X-Content-Type-Options"]) == (401, "nosniff")
    assert refused.headers["WWW-Authenticate"].startswith("Bearer")
    assert refused.headers["Content-Type"].startswith("application/problem+json")
