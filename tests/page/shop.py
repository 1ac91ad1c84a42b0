"""A whole server in this process for a browser to look at: its services, its fleet, and what is asked of it."""

import contextlib
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from rollout.demo.processes import until
from rollout.demo.world import configuration
from rollout.settings import Settings
from tests.page.pretended import Proxy, fleet
from tests.rollout.doors import ROOT_TOKEN, Door, Said, running

LIMIT_S = 60.0
QUICK_GATE = {"warmup": "0s", "margin": "25%", "latency_tolerance": 4.0}
LAST = {"weight": "100%", "hold": "0s"}
ASKS = {"stages": [{"weight": "10%", "hold": "0s", "approve": True}, LAST], "gate": QUICK_GATE, "drain_timeout": "2s"}
"""A strategy whose first stage passes quickly, and then waits for somebody."""
STAYS = {"stages": [{"weight": "10%", "hold": "1h"}, "50%", LAST], "gate": QUICK_GATE, "drain_timeout": "2s"}
"""A strategy that stays in its first stage."""


def write_configs(folder: Path, services: Sequence[str], stat_prefix: str = "edge") -> None:
    """Write envoy-configs with these services, each with three backends; the first one has the route of everything."""
    words = configuration(["10.0.0.1:8080", "10.0.0.2:8080", "10.0.0.3:8080"])
    words["listeners"][0]["filter_chains"][0]["filters"][0]["typed_config"]["stat_prefix"] = stat_prefix
    first = services[0]
    words["clusters"] = [{**words["clusters"][0], "name": name} for name in services]
    words["endpoints"] = [{**words["endpoints"][0], "cluster_name": name} for name in services]
    (host,) = words["routes"][0]["virtual_hosts"]
    (rest,) = host["routes"]
    others = [{"match": {"prefix": f"/{name}"}, "route": {"cluster": name}} for name in services[1:]]
    host["routes"] = [*others, {**rest, "route": {**rest["route"], "cluster": first}}]
    folder.mkdir(exist_ok=True)
    (folder / "shop.yaml").write_text(yaml.safe_dump(words))


@dataclass(frozen=True, slots=True)
class Shop:
    """A running server, where its page is, and what is asked of it beside the page."""

    door: Door
    settings: Settings
    token: str | None

    @property
    def url(self) -> str:
        return f"http://{self.door.address}/"

    async def ask(self, method: str, path: str, body: object = None, **headers: str) -> Said:
        return await self.door.ask(method, path, body, self.token, **headers)

    async def get(self, path: str) -> Any:
        said = await self.ask("GET", path)
        assert said.status == 200, said.raw
        return said.body

    async def deploy(self, strategy: Mapping[str, Any], service: str = "checkout", **headers: str) -> None:
        body = {"version": "v2", "endpoints": ["10.0.0.7:8080", "10.0.0.8:8080"], "strategy": strategy}
        said = await self.ask("POST", f"/v1/services/{service}/rollouts", body, **headers)
        assert said.status == 201, said.raw

    async def command(self, verb: str, service: str = "checkout", **headers: str) -> None:
        said = await self.ask("POST", f"/v1/services/{service}/commands/{verb}", {}, **headers)
        assert said.status == 200, said.raw

    async def rollout(self, service: str = "checkout") -> dict[str, Any]:
        return dict((await self.get(f"/v1/services/{service}"))["rollout"] or {"phase": "", "awaiting": None})

    async def until(self, service: str = "checkout", **wanted: object) -> dict[str, Any]:
        """Wait until the rollout has these values; return it."""
        found: dict[str, Any] = {}

        async def reached() -> bool:
            found.update(await self.rollout(service))
            return all(found.get(name) == value for name, value in wanted.items())

        await until(reached, within_s=LIMIT_S, what=f"{service} to be {wanted}")
        return found


def settings_in(folder: Path, services: Sequence[str] = ("checkout",), **more: Any) -> Settings:
    write_configs(folder / "configs", services)
    return Settings(folder / "configs", folder / "data", "127.0.0.1:0", "127.0.0.1:0", **more)


@contextlib.asynccontextmanager
async def serving(settings: Settings) -> AsyncIterator[Shop]:
    """Run a server while inside; with a root token where the settings have one."""
    async with running(settings) as door:
        yield Shop(door, settings, settings.token)


@contextlib.asynccontextmanager
async def shop(folder: Path, proxies: Iterable[Proxy], token: str | None = None) -> AsyncIterator[Shop]:
    """Run a server with one service and these proxies, which have told of the usual traffic."""
    async with serving(settings_in(folder, token=token)) as found, fleet(found.door.listening.xds, tuple(proxies)):
        await connected(found)
        yield found


async def connected(found: Shop, count: int = 1) -> None:
    async def all_there() -> bool:
        nodes = (await found.get("/v1/fleet?limit=1000"))["nodes"]
        return len([node for node in nodes if node["connected"]]) >= count

    await until(all_there, within_s=4 * LIMIT_S, what=f"{count} proxies to be connected")


__all__ = ["ASKS", "LIMIT_S", "QUICK_GATE", "ROOT_TOKEN", "STAYS", "Proxy", "Shop", "connected", "serving", "shop"]
