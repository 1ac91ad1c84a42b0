"""Trying a change before it is made: the answer says what would happen, and nothing is changed."""

import asyncio
import json
import sqlite3
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rollout.api.offline import offline_routes
from rollout.demo.processes import until
from tests.rollout.commandline import configuration
from tests.rollout.doors import ROOT_TOKEN, settings
from tests.rollout.doors import running as at_door
from tests.rollout.served import Running, running, settings_in

SERVICES = ("cart", "checkout", "search", "users")
MOVING = ("meta", "points", "histories", "nodes", "sqlite_sequence")  # what changes while nobody asks for anything
CART, CHECKOUT, SEARCH, USERS = (f"/v1/services/{each}" for each in SERVICES)
NEW = "127.0.0.1:7009"
STRATEGY = {"stages": ["10%", "100%"]}

# By method and route: what is asked for, and a word of the answer; without a word: nothing is to be done there.
Asked = tuple[str, object, str]
REHEARSED: Mapping[tuple[str, str], tuple[Asked, ...]] = {
    ("POST", "/v1/services/{service}/rollouts"): (
        (f"{CART}/rollouts", {"version": "v2", "endpoints": [NEW]}, "initial -> v2 on 1 backend (127.0.0.1:7009)"),
        (f"{CHECKOUT}/rollouts", {"version": "v3", "endpoints": [NEW], "supersede": True}, "when it has ended"),
        (f"{CHECKOUT}/rollouts", {"version": "v2", "endpoints": ["127.0.0.1:7003"]}, ""),
    ),
    ("POST", "/v1/services/{service}/undo"): ((f"{CHECKOUT}/undo", {}, "removing"), (f"{SEARCH}/undo", {}, "")),
    ("POST", "/v1/services/{service}/retry"): ((f"{SEARCH}/retry", {}, "rollout 2 of 'search' begins"),),
    ("DELETE", "/v1/services/{service}/queue"): ((f"{CHECKOUT}/queue", None, ""),),
    ("POST", "/v1/services/{service}/commands/{command}"): (
        (f"{CHECKOUT}/commands/abort", {}, "all traffic goes to initial"),
        (f"{CHECKOUT}/commands/resume", {}, "goes from paused to warming"),
        (f"{CHECKOUT}/commands/pause", {}, ""),
    ),
    ("POST", "/v1/services/{service}/drains"): (
        (f"{CART}/drains", {"backend": "127.0.0.1:7001"}, "'initial' of 'cart' drained"),
        (f"{USERS}/drains", {"backend": "127.0.0.1:7001"}, ""),
    ),
    ("POST", "/v1/services/{service}/undrains"): (
        (f"{USERS}/undrains", {"backend": "127.0.0.1:7001"}, "gets requests again"),
        (f"{CART}/undrains", {"backend": "127.0.0.1:7001"}, ""),
    ),
    ("POST", "/v1/services/{service}/health"): (
        (f"{CART}/health", {"backend": "127.0.0.1:7001", "health": "unhealthy"}, "no Envoy sends 127.0.0.1:7001"),
        (f"{CART}/health", {"backend": "127.0.0.1:7001", "health": "healthy"}, ""),
    ),
    ("POST", "/v1/services/{service}/adopt"): (
        (f"{CART}/adopt", {"version": "v1"}, "is called 'v1'"),
        (f"{CART}/adopt", {"version": "initial"}, ""),
    ),
    ("PUT", "/v1/services/{service}/versions/{version}"): (
        (f"{CART}/versions/initial", {"endpoints": ["127.0.0.1:7001", NEW]}, "1 backend (127.0.0.1:7009) added"),
    ),
    ("PATCH", "/v1/services/{service}/versions/{version}"): (
        (
            f"{CART}/versions/initial",
            {"add": [NEW], "remove": ["127.0.0.1:7002"]},
            "1 backend (127.0.0.1:7002) drained",
        ),
        (f"{CART}/versions/initial", {"add": ["127.0.0.1:7001"]}, ""),
    ),
    ("DELETE", "/v1/services/{service}/versions/{version}"): ((f"{SEARCH}/versions/v2", None, "is forgotten"),),
    ("POST", "/v1/config/reload"): (("/v1/config/reload", {}, "routes: 1 changed"),),
    ("PUT", "/v1/strategies/{name}"): (("/v1/strategies/slow", {"strategy": STRATEGY}, "'slow' is added"),),
    ("DELETE", "/v1/strategies/{name}"): (("/v1/strategies/quick", None, "'quick' is removed"),),
    ("POST", "/v1/tokens"): (("/v1/tokens", {"name": "cd", "role": "operator"}, "create the token cd"),),
    ("DELETE", "/v1/tokens/{id}"): (("/v1/tokens/TOKEN", None, "revoke the token ci"),),
    ("PUT", "/v1/services/{service}/versions/{version}/discovery"): (
        (f"{CART}/versions/initial/discovery", {"dns": {"name": "localhost", "port": 80}}, "are found by"),
    ),
    ("DELETE", "/v1/services/{service}/versions/{version}/discovery"): (),
    ("POST", "/v1/notify/test"): (),  # without a file of targets there is none to be tested
    ("POST", "/v1/apply"): (),  # `POST /v1/plan` says what it would do, see test_declared
    ("POST", "/v1/plan"): (),
}


async def ask(server: Running, method: str, path: str, body: object = None) -> tuple[int, Any]:
    async with server.http.request(method, path, json=body) as answer:
        return answer.status, await answer.json(content_type=None)


async def prepared(server: Running, configs: Path) -> str:
    """Have something in progress, something that has ended, something drained; return a token's id."""
    deployment = {"version": "v2", "endpoints": ["127.0.0.1:7003"]}
    for service in (CHECKOUT, SEARCH):
        assert (await ask(server, "POST", f"{service}/rollouts", deployment))[0] == 201
    assert (await ask(server, "POST", f"{SEARCH}/commands/abort?wait=20s", {}))[0] == 200

    async def warming() -> bool:
        return bool((await ask(server, "GET", CHECKOUT))[1]["rollout"]["phase"] == "warming")

    await until(warming, within_s=60, what="the candidate to be pushed")
    await ask(server, "POST", f"{CHECKOUT}/commands/pause", {})
    assert (await ask(server, "POST", f"{USERS}/drains", {"backend": "127.0.0.1:7001"}))[0] == 201
    assert (await ask(server, "PUT", "/v1/strategies/quick", {"strategy": STRATEGY}))[0] == 201
    text = configuration(SERVICES, "    - { match: { prefix: /new }, direct_response: { status: 200 } }\n")
    (configs / "shop.yaml").write_text(text)
    status, token = await ask(server, "POST", "/v1/tokens", {"name": "ops", "role": "admin"})
    assert status == 201, token
    server.http.headers["Authorization"] = f"Bearer {token['token']}"
    status, token = await ask(server, "POST", "/v1/tokens", {"name": "ci", "role": "viewer"})
    assert status == 201, token
    return str(token["id"])


def saved(data: Path) -> dict[str, list[Any]]:
    """Return all rows, but for what moves by itself."""
    with sqlite3.connect(f"file:{data / 'rollout.db'}?mode=ro", uri=True) as connection:
        tables = [name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        return {each: connection.execute(f"SELECT * FROM {each}").fetchall() for each in tables if each not in MOVING}  # noqa: S608


async def looks(server: Running, data: Path) -> str:
    """Return all that a change could show in."""
    seen: dict[str, Any] = {"rows": await asyncio.to_thread(saved, data)}
    for path in ("/readyz", "/v1/operations", "/v1/config", *SERVICES):
        status, view = await ask(server, "GET", path if path.startswith("/") else f"/v1/services/{path}")
        assert status == 200, view
        if view.get("rollout"):
            view["rollout"].pop("phase_seconds")
        seen[path] = view
    return json.dumps(seen, default=str)


async def test_no_route_changes_anything_in_a_dry_run(tmp_path: Path) -> None:
    settings = settings_in(tmp_path)
    (settings.configs / "shop.yaml").write_text(configuration(SERVICES))
    changing = {(each.method, each.path) for each in offline_routes() if each.changes}
    assert changing == set(REHEARSED), "say in REHEARSED what to ask of each route that changes something"
    faults: list[tuple[object, ...]] = []
    async with running(settings) as server:
        token = await prepared(server, settings.configs)
        before = await looks(server, settings.data)
        for method, path, body, says in (
            (method, path, body, says) for (method, _), asked in REHEARSED.items() for path, body, says in asked
        ):
            path = f"{path.replace('TOKEN', token)}?dry_run=true"  # noqa: PLW2901
            status, answer = await ask(server, method, path, body)
            right = status == 200 and answer["dry_run"] is True and answer["changes"] is bool(says)
            if not right or says not in answer["would"] or answer["would"].startswith("nothing: ") is bool(says):
                faults.append((method, path, says, status, answer))
            if (now := await looks(server, settings.data)) != before:
                faults.append((method, path, "changed something", before, now))
                before = now
    assert not faults


async def test_what_is_refused_is_refused_in_a_dry_run_too(tmp_path: Path) -> None:
    settings = settings_in(tmp_path)
    (settings.configs / "shop.yaml").write_text(configuration(SERVICES))
    both = ["127.0.0.1:7001", "127.0.0.1:7002"]
    async with running(settings) as server:
        for method, path, body in (
            ("POST", f"{CART}/rollouts", {"version": "initial", "endpoints": [NEW]}),
            ("POST", f"{CART}/rollouts", {"version": "v2", "endpoints": []}),
            ("POST", f"{CART}/undo", {}),
            ("POST", f"{CART}/commands/promote", {}),
            ("POST", "/v1/services/nobody/drains", {"backend": NEW}),
            ("PATCH", f"{CART}/versions/initial", {"remove": both}),
            ("DELETE", f"{CART}/versions/initial", None),
        ):
            rehearsed = await ask(server, method, f"{path}?dry_run=true", body)
            assert rehearsed == await ask(server, method, path, body)
            assert rehearsed[0] >= 400
        status, answer = await ask(server, "POST", f"{CART}/adopt?dry_run=perhaps", {"version": "v1"})
        assert (status, answer["detail"]) == (400, "dry_run: 'perhaps' is neither true nor false")
        assert (await ask(server, "GET", CART))[1]["stable"] == "initial"


async def test_reload_of_a_wrong_file_is_refused_and_not_noted_in_a_dry_run(tmp_path: Path) -> None:
    settings = settings_in(tmp_path)
    async with running(settings) as server:
        (settings.configs / "shop.yaml").write_text("clusters: 1")
        status, _ = await ask(server, "POST", "/v1/config/reload?dry_run=true", {})
        assert status == 422
        assert (await ask(server, "GET", "/v1/config"))[1]["last_refused"] is None


async def test_reload_of_wrong_rules_of_access_is_refused_in_a_dry_run_too(tmp_path: Path) -> None:
    rules = tmp_path / "access.yaml"
    rules.write_text("proxy: {from: [127.0.0.9/32], user: X-User, groups: X-Groups, roles: {ops: {role: admin}}}")
    async with at_door(settings(tmp_path, token=ROOT_TOKEN, admin_access=rules)) as door:
        rules.write_text("proxy: {from: [127.0.0.9/32]}")
        for path in ("/v1/config/reload?dry_run=true", "/v1/config/reload"):
            said = await door.ask("POST", path, {}, ROOT_TOKEN)
            assert (said.status, str(rules) in said.body["detail"]) == (422, True)
