"""A small world of real parts: a rollout server, Envoys in several locations, backends of several versions."""

import asyncio
import contextlib
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import yaml

from rollout.bootstrap import Proxy, bootstrap
from rollout.client import Client, connect, path_of
from rollout.demo.backend import Behaviour
from rollout.demo.load import Target
from rollout.demo.processes import Backend, Envoy, Process, free_port
from rollout.errors import RolloutError, Unavailable

SERVICE = "checkout"
EXAMPLE = Path(__file__).parents[2] / "envoy-configs" / "checkout.yaml"
START_S = 60.0


@dataclass(frozen=True, slots=True)
class Cast:
    """Who takes part: backends by version (the first is in envoy-configs), and Envoys.

    `behaviour` is by version (`v2`) or by backend (`v2-0`, which goes first); others behave well. An Envoy is
    (location, whether it speaks delta).
    """

    backends: Mapping[str, int]
    behaviour: Mapping[str, Behaviour] = field(default_factory=dict)
    envoys: tuple[tuple[str, bool], ...] = (("eu/eu-1", False), ("us/us-1", False), ("ap/ap-1", True))


class World:
    """Everything in one folder, on loopback, each process on ports of its own; `async with` starts and ends it all."""

    def __init__(self, folder: Path, cast: Cast) -> None:
        self.folder = folder
        self.configs = folder / "envoy-configs"
        self.server = Process("server", folder)
        self.xds = f"127.0.0.1:{free_port()}"
        self.admin = f"127.0.0.1:{free_port()}"
        self.backends = {
            version: tuple(
                Backend(version, folder, name=name, behaviour=cast.behaviour.get(name, cast.behaviour.get(version)))
                for name in (f"{version}-{number}" for number in range(count))
            )
            for version, count in cast.backends.items()
        }
        self.envoys = tuple(
            self._envoy(f"envoy-{number}", location, delta=delta)
            for number, (location, delta) in enumerate(cast.envoys, start=1)
        )
        self.client: Client
        self._stack = contextlib.AsyncExitStack()

    async def __aenter__(self) -> Self:
        self.configs.mkdir(parents=True, exist_ok=True)
        try:
            everyone = (each for group in self.backends.values() for each in group)
            await asyncio.gather(*(backend.start(START_S) for backend in everyone))
            first = next(iter(self.backends))
            self.write_configs(configuration([backend.address for backend in self.backends[first]]))
            self.client = await self._stack.enter_async_context(
                connect(f"http://{self.admin}", token=None, user="demo")
            )
            await self.start_server()
            await asyncio.gather(*(envoy.start(START_S) for envoy in self.envoys))
            await asyncio.gather(*(envoy.until_ready(START_S) for envoy in self.envoys))
        except BaseException:
            await self.end()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.end()

    async def end(self) -> None:
        """End every process that was started."""
        await asyncio.gather(*(envoy.kill() for envoy in self.envoys))
        await asyncio.gather(*(each.kill() for group in self.backends.values() for each in group))
        await self.server.kill()
        await self._stack.aclose()

    def write_configs(self, resources: Mapping[str, Any]) -> None:
        (self.configs / "shop.yaml").write_text(yaml.safe_dump(dict(resources), sort_keys=False))

    async def start_server(self) -> None:
        """Start the rollout server on the world's ports and data, and wait until it is ready."""
        options = {
            "--configs": str(self.configs),
            "--data": str(self.folder / "data"),
            "--xds": self.xds,
            "--admin": self.admin,
        }
        words = (word for pair in options.items() for word in pair)
        await self.server.start(sys.executable, "-m", "rollout.cli", "serve", *words, cwd=Path(__file__).parents[2])
        await self.server.until(self.answers, within_s=START_S, what="the rollout server to be ready")

    async def kill_server(self) -> None:
        await self.server.kill()

    async def answers(self) -> bool:
        with contextlib.suppress(RolloutError):
            await self.client.get("/readyz")
            return True
        return False

    async def targets(self) -> tuple[Target, ...]:
        """Return where each Envoy takes the shop's requests."""
        return tuple([Target.parse((await envoy.listeners())["edge"]) for envoy in self.envoys])

    async def service(self) -> dict[str, Any]:
        return await self.client.get(path_of("services", SERVICE))

    async def deploy(
        self, version: str, strategy: Mapping[str, Any] | None = None, *, on: str | None = None
    ) -> dict[str, Any]:
        """Ask for a rollout of this version, on the backends of that name or else of `on`."""
        endpoints = [backend.address for backend in self.backends[on or version]]
        body = {"version": version, "endpoints": endpoints, "strategy": strategy or {}}
        return await self.client.post(path_of("services", SERVICE, "rollouts"), body)

    async def command(self, command: str) -> dict[str, Any]:
        return await self.client.post(path_of("services", SERVICE, "commands", command), {})

    async def until_phase(self, *phases: str, within_s: float) -> dict[str, Any]:
        """Wait until the rollout is in one of these phases; return the service.

        Raises Unavailable after `within_s`, or with what the server wrote when it has ended.
        """
        found: dict[str, Any] = {}

        async def reached() -> bool:
            with contextlib.suppress(Unavailable):
                found.update(await self.service())
            rollout = found.get("rollout")
            return rollout is not None and rollout["phase"] in phases

        await self.server.until(reached, within_s=within_s, what=f"the rollout to be {' or '.join(phases)}")
        return found

    def _envoy(self, name: str, location: str, *, delta: bool) -> Envoy:
        region, _, zone = location.partition("/")
        admin = f"127.0.0.1:{free_port()}"
        return Envoy(name, bootstrap(Proxy(name, "edge", region, zone, self.xds, admin, delta=delta)), self.folder)


def configuration(addresses: list[str]) -> dict[str, Any]:
    """Return the example of envoy-configs on these backends, with a listener on a port of each Envoy's own."""
    resources: dict[str, Any] = yaml.safe_load(EXAMPLE.read_text())
    resources["listeners"][0]["address"]["socket_address"] = {"address": "127.0.0.1", "port_value": 0}
    split = [address.rpartition(":") for address in addresses]
    resources["endpoints"][0]["endpoints"][0]["lb_endpoints"] = [
        {"endpoint": {"address": {"socket_address": {"address": host, "port_value": int(port)}}}}
        for host, _, port in split
    ]
    return resources
