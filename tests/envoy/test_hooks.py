"""Hooks of a whole rollout on a real Envoy: who is called, in which order, and what a hook that hangs cannot do."""

import asyncio
import hashlib
import hmac
import time
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from rollout.client import ApiFault
from rollout.demo.processes import until
from rollout.demo.world import Cast, World
from rollout.hooks import HookKind
from tests.envoy.conftest import UnderLoad

pytestmark = pytest.mark.envoy

CAST = Cast({"v1": 1, "v2": 1}, {}, (("eu/eu-1", False),))
STAGES = [{"weight": weight, "hold": "0s"} for weight in ("10%", "100%")]
GATE = {"warmup": "0s", "margin": "40%"}  # which a healthy candidate passes at once
KEY = "hush"
VARIABLE = "ROLLOUT_HOOK_TEST_KEY"


@dataclass(slots=True)
class Desk:
    """A web server that hooks call: it writes down each call, and answers by its kind, or not while that is `held`."""

    url: str = ""
    calls: list[Mapping[str, Any]] = field(default_factory=list)
    held: set[str] = field(default_factory=set)
    answers: dict[str, web.Response] = field(default_factory=dict)
    provides: Callable[[], list[str]] = list

    async def answer(self, request: web.Request) -> web.Response:
        body = await request.read()
        stamp, _, given = request.headers["X-Rollout-Signature"].partition(",v1=")
        signed = stamp.removeprefix("t=").encode() + b"." + body
        assert hmac.compare_digest(given, hmac.new(KEY.encode(), signed, hashlib.sha256).hexdigest())
        said = await request.json()
        assert said["idempotency_key"] == request.headers["Idempotency-Key"]
        self.calls.append(said)
        if said["kind"] in self.held:
            await asyncio.Event().wait()
        if said["kind"] == HookKind.PROVISION:
            return web.json_response({"endpoints": self.provides()})
        return web.Response(status=404 if said["kind"] == HookKind.ROLLBACK else 204)

    def of(self, *kinds: str) -> list[Mapping[str, Any]]:
        return [said for said in self.calls if said["kind"] in kinds]

    def hooks(self, *kinds: str) -> list[dict[str, object]]:
        times = {"interval": "200ms", "backoff": "200ms", "timeout": "60s"}
        return [{"at": kind, "name": kind, "url": self.url, "secret": VARIABLE, **times} for kind in kinds]


@pytest.fixture
async def desk(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Desk]:
    monkeypatch.setenv(VARIABLE, KEY)
    known, app = Desk(), web.Application()
    app.router.add_post("/", known.answer)
    runner = web.AppRunner(app, shutdown_timeout=0.1, handler_cancellation=True)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    known.url = f"http://me:{KEY}@127.0.0.1:{runner.addresses[0][1]}/?key={KEY}"
    yield known
    await runner.cleanup()


async def deploy(world: World, hooks: list[dict[str, object]], endpoints: list[str]) -> None:
    strategy = {"stages": STAGES, "gate": GATE, "hooks": hooks, "drain_timeout": "2s"}
    body = {"version": "v2", "endpoints": endpoints, "strategy": strategy}
    await world.client.post("/v1/services/checkout/rollouts", body)


async def test_a_whole_rollout_calls_each_hook_in_its_time_and_once_although_the_server_is_killed(
    tmp_path: Path, under_load: UnderLoad, desk: Desk
) -> None:
    desk.held.add(HookKind.PRE_ROLLOUT)
    async with World(tmp_path, CAST) as world, under_load(*await world.targets()) as tally:
        backend = f"{world.backends['v2'][0].address}@eu/eu-1"
        desk.provides = lambda: [backend]
        with pytest.raises(ApiFault, match=r"hooks\[0\]\.secret: the server's environment has no ROLLOUT_HOOK_NONE"):
            await deploy(world, [{**desk.hooks("event")[0], "secret": "ROLLOUT_HOOK_NONE"}], [backend])
        await deploy(world, desk.hooks(*HookKind), [])
        await until(lambda: bool(desk.of("pre-rollout")), within_s=90, what="the hook before traffic to be called")
        (held,) = desk.of("pre-rollout")
        assert (held["phase"], held["endpoints"]) == ("warming", [backend])
        await world.kill_server()
        desk.held.clear()
        await world.start_server()
        ended = await world.until_phase("completed", within_s=90)
        await until(lambda: desk.of("event")[-1]["phase"] == "completed", within_s=120, what="the last event")
        told = await world.client.get("/v1/services/checkout/rollouts/1")
        fleet = repr([ended, told, (tmp_path / "server.out").read_text()])
    again = desk.of("pre-rollout")[1]
    assert (again["idempotency_key"], again["attempt"]) == (held["idempotency_key"], 1)
    assert [len(desk.of(kind)) for kind in ("provision", "terminate", "post-rollout")] == [1, 1, 1]
    first = dict.fromkeys(said["kind"] for said in desk.calls if said["kind"] not in ("event", "rollout", "rollback"))
    assert list(first) == [
        "confirm-rollout",
        "provision",
        "pre-rollout",
        "confirm-traffic-increase",
        "confirm-promotion",
        "terminate",
        "post-rollout",
    ]
    increases = {(said["weight_percent"], said["next_stage"]) for said in desk.of("confirm-traffic-increase")}
    assert increases == {(0.0, 0), (10.0, 1)}
    assert {said["phase"] for said in desk.of("rollout")} == {"shifting"}
    assert {said["phase"] for said in desk.of("rollback")} <= {"warming", "shifting"}
    stable = world.backends["v1"][0].address
    assert [(said["loser"], said["loser_endpoints"]) for said in desk.of("terminate")] == [("initial", [stable])]
    phases = [said["phase"] for said in desk.of("event")]
    assert list(dict.fromkeys(phases)) == [
        "pending",
        "warming",
        "shifting",
        "retaining",
        "draining",
        "removing",
        "completed",
    ]
    states = {hook["at"]: hook["state"] for hook in ended["rollout"]["hooks"]}
    assert {kind for kind, state in states.items() if state == "agreed"} >= {"provision", "terminate", "post-rollout"}
    assert KEY not in fleet
    assert (tally.dropped, dict(tally.bad)) == (0, {}), tally.first_drops


async def test_a_hook_that_hangs_delays_no_abort(tmp_path: Path, under_load: UnderLoad, desk: Desk) -> None:
    desk.held.update(("confirm-promotion", "rollback", "event", "terminate"))
    async with World(tmp_path, CAST) as world, under_load(*await world.targets()):
        hooks = desk.hooks("confirm-promotion", "rollout", "rollback", "event")
        await deploy(world, hooks, [world.backends["v2"][0].address])
        await until(lambda: bool(desk.of("confirm-promotion")), within_s=90, what="the hook to be asked")
        wanted = dict.fromkeys(("confirm-promotion", "rollback", "event"), "calling") | {"rollout": "agreed"}

        async def told() -> bool:  # the rollout hook is called again and again
            waiting = (await world.service())["rollout"]
            why = waiting["waiting"] == "the confirm-promotion hook 'confirm-promotion': has not answered yet"
            return why and {hook["name"]: hook["state"] for hook in waiting["hooks"]} == wanted

        await until(told, within_s=90, what=f"the hooks to be {wanted}")
        desk.held.add("rollout")
        asked = len(desk.of("rollout"))
        await until(lambda: len(desk.of("rollout")) > asked, within_s=120, what="the rollout hook to hang")
        began_s = time.monotonic()
        await world.command("abort")
        service = await world.until_phase("rolling_back", "draining", "removing", "rolled_back", within_s=90)
        took_s = time.monotonic() - began_s
        assert (service["rollout"]["weight_percent"], took_s < 10) == (0.0, True), took_s  # hooks may take a minute
        await world.until_phase("rolled_back", within_s=120)
