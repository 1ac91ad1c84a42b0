"""Backends found by DNS, Consul and http_sd, on real Envoys under load: who comes and goes costs nobody a request."""

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from rollout.client import path_of
from rollout.demo.load import Tally
from rollout.demo.processes import until
from rollout.demo.world import SERVICE, Cast, World
from tests.envoy.conftest import UnderLoad
from tests.rollout.commandline import rollout
from tests.rollout.consul_server import Instance, consul_server
from tests.rollout.dns_server import name_server
from tests.rollout.sd_server import sd_server

pytestmark = pytest.mark.envoy

CAST = Cast({"v1": 2, "v2": 2}, {}, (("eu/eu-1", False), ("us/us-1", True)))
WITHIN_S = 90.0
QUICK = {"stages": [{"weight": "50%", "hold": "1h"}, {"weight": "100%", "hold": "0s"}], "drain_timeout": "10s"}
NAME = "_checkout._tcp.internal"


def addresses(world: World, version: str) -> list[str]:
    return [backend.address for backend in world.backends[version]]


async def there(world: World, wanted: set[str], version: str = "initial") -> None:
    """Wait until a version runs on just these, and nothing is drained."""

    async def reached() -> bool:
        view = await world.service()
        found = {address for each in view["versions"] if each["version"] == version for address in each["backends"]}
        return found == wanted and not view["drains"]

    await until(reached, within_s=WITHIN_S, what=f"'{version}' to run on {sorted(wanted)}")


async def answered(world: World, tally: Tally, version: str) -> None:
    before = tally.answers[200, version]

    async def more() -> bool:
        return tally.answers[200, version] > before

    await until(more, within_s=WITHIN_S, what=f"answers by {version}")


async def source(world: World, status: str) -> dict[str, Any]:
    found: dict[str, Any] = {}

    async def reached() -> bool:
        (found["it"],) = (await world.client.get(path_of("discoveries")))["discoveries"]
        return bool(found["it"]["status"] == status)

    await until(reached, within_s=WITHIN_S, what=f"the source to be {status}")
    return dict(found["it"])


async def called(world: World, *words: str) -> dict[str, Any]:
    """Call a verb of the command line, which must end well; return its JSON."""
    result = await asyncio.to_thread(rollout, *words, "--json", server=f"http://{world.admin}")
    assert result.exit_code == 0, result.output
    return dict(json.loads(result.stdout))


async def deployed_by_http_sd(world: World, backend: str) -> None:
    """Have the command line deploy to what an endpoint names, and take it back."""
    async with sd_server() as sd:
        sd.targets(backend, __meta_location="eu/eu-1")
        begun = await called(world, "deploy", SERVICE, "v2", "--discover", f"http_sd:{sd.url}")
        assert begun["candidate"] == "v2"
        assert (await source(world, "fresh"))["backends"] == [f"{backend}@eu/eu-1"]
        view = await world.client.get(path_of("services", SERVICE, "versions", "v2", "discovery"))
        assert (view["source"]["http_sd"]["url"], view["status"]) == (sd.url, "fresh")
        await world.command("abort")


async def test_dns_scales_a_version_up_and_down_over_a_killed_server(tmp_path: Path, under_load: UnderLoad) -> None:
    async with World(tmp_path, CAST) as world, name_server() as dns, under_load(*await world.targets()) as tally:
        one, two = addresses(world, "v1")
        three, four = addresses(world, "v2")

        def serve(*backends: str) -> None:
            ports = [backend.rpartition(":")[2] for backend in backends]
            dns.has(NAME, "SRV", *(f"0 0 {port} host.internal." for port in ports))

        dns.has("host.internal", "A", "127.0.0.1")
        serve(one, two, three)
        body = {"dns": {"name": NAME, "server": dns.address}, "every": "200ms"}
        (tmp_path / "source.yaml").write_text(json.dumps({"discover": body}))
        set_ = await called(world, "discovery", "set", SERVICE, "initial", str(tmp_path / "source.yaml"))
        assert set_["label"] == f"dns {NAME}"
        await there(world, {one, two, three})
        await answered(world, tally, "v2")

        serve()  # none: nobody is let go by it
        assert (await source(world, "stale"))["fault"] == "it names no backend; nothing was changed"
        await there(world, {one, two, three})

        serve(two, three, four)
        await world.kill_server()
        await world.start_server()
        await there(world, {two, three, four})
        assert (await source(world, "fresh"))["by"] == "ann"

        listed = await called(world, "discovery", "list")
        assert [each["status"] for each in listed["discoveries"]] == ["fresh"]
        assert await called(world, "discovery", "remove", SERVICE, "initial") == {"discoveries": [], "next": None}
        names = {each["by"] for each in (await world.client.get(path_of("operations")))["operations"]}
        assert names == {"ann", f"discovery dns {NAME}"}
        await deployed_by_http_sd(world, one)
    assert (tally.dropped, dict(tally.bad)) == (0, {}), tally.first_drops


async def test_a_rollout_goes_to_what_consul_knows_and_follows_it(tmp_path: Path, under_load: UnderLoad) -> None:
    async with World(tmp_path, CAST) as world, consul_server() as consul, under_load(*await world.targets()) as tally:
        instances = [Instance("127.0.0.1", int(each.rpartition(":")[2])) for each in addresses(world, "v2")]
        path = path_of("services", SERVICE, "rollouts")
        given = {"consul": {"url": consul.url, "service": SERVICE, "wait": "30s"}, "every": "200ms"}
        body = {"version": "v2", "discover": given, "strategy": QUICK}
        with pytest.raises(Exception, match=r"discover: consul checkout answers, but names no backend"):
            await world.client.post(path, body)
        assert (await world.service())["rollout"] is None

        consul.register(instances[0])
        await world.client.post(path, body)
        await world.until_phase("shifting", within_s=WITHIN_S)
        await answered(world, tally, "v2")
        consul.register(*instances)  # it is heard at once: a query waits for it
        await there(world, set(addresses(world, "v2")), "v2")
        consul.status = 500
        consul.nudge()
        assert "HTTP 500" in (await source(world, "stale"))["fault"]
        consul.status = 200
        consul.register(instances[1])
        await there(world, {addresses(world, "v2")[1]}, "v2")
        await world.backends["v2"][0].kill()
        await answered(world, tally, "v2")
    assert (tally.dropped, dict(tally.bad)) == (0, {}), tally.first_drops
