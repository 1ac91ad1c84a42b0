"""A whole server in this process on one service, `checkout`, and a client of it."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import aiohttp
import yaml

from rollout.app import Listening, serve
from rollout.demo.world import configuration
from rollout.settings import Settings

BACKENDS = ["127.0.0.1:9001", "127.0.0.1:9011"]


@dataclass(frozen=True, slots=True)
class Running:
    """Where the server listens, and a client with its admin API's address."""

    listening: Listening
    http: aiohttp.ClientSession


def settings_in(folder: Path) -> Settings:
    """Write envoy-configs into a folder; return the settings of a server on them."""
    configs = folder / "configs"
    configs.mkdir(exist_ok=True)
    (configs / "shop.yaml").write_text(yaml.safe_dump(configuration(BACKENDS)))
    return Settings(configs, folder / "data", "127.0.0.1:0", "127.0.0.1:0")


@contextlib.asynccontextmanager
async def running(settings: Settings) -> AsyncIterator[Running]:
    """Run a server while inside."""
    listening: asyncio.Future[Listening] = asyncio.get_running_loop().create_future()
    async with asyncio.TaskGroup() as group:
        server = group.create_task(serve(settings, listening.set_result))
        await asyncio.wait((server, listening), return_when=asyncio.FIRST_COMPLETED, timeout=30)
        if not server.done():
            found = listening.result()
            async with aiohttp.ClientSession(f"http://{found.admin}") as http:
                yield Running(found, http)
            server.cancel()
