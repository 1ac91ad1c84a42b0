"""A real Prometheus that scrapes what a test gives it."""

import asyncio
import contextlib
import json
import os
import shutil
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

LIMIT_S = 40.0


def program(name: str) -> str:
    """Return where a program of Prometheus is. Without it a test is skipped, and fails in CI."""
    found = shutil.which(name)
    if found is None:
        why = f"there is no {name} here; on Debian: apt-get install --no-install-recommends prometheus"
        if os.environ.get("CI"):
            pytest.fail(why)
        pytest.skip(why)
    return found


@contextlib.asynccontextmanager
async def prometheus_of(target: str, folder: Path, *rule_files: Path) -> AsyncIterator[str]:
    """Run one that scrapes `target`, HOST:PORT; yield its URL once it is ready."""
    scraped = [{"job_name": "backends", "static_configs": [{"targets": [target]}]}]
    often = {"scrape_interval": "1s", "scrape_timeout": "1s"}  # what it fails to scrape in time is gone until the next
    config = {"global": often, "scrape_configs": scraped, "rule_files": [str(path) for path in rule_files]}
    (folder / "prometheus.yml").write_text(json.dumps(config))
    process = await asyncio.create_subprocess_exec(
        program("prometheus"),
        f"--config.file={folder / 'prometheus.yml'}",
        f"--storage.tsdb.path={folder / 'tsdb'}",
        "--web.listen-address=127.0.0.1:0",
        "--log.format=json",
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE,
    )
    assert process.stderr is not None
    try:
        async with asyncio.timeout(LIMIT_S):
            address = await _listening(process.stderr)
            await _read_all(process.stderr, until="ready to receive web requests")
        yield f"http://{address}"
    finally:
        process.terminate()
        await asyncio.gather(process.wait(), _read_all(process.stderr))


async def _listening(log: asyncio.StreamReader) -> str:
    async for line in log:
        entry = json.loads(line)
        if entry.get("msg") == "Listening on":
            return str(entry["address"])
    raise AssertionError("it ended before it listened")


async def _read_all(log: asyncio.StreamReader, until: str = "\0") -> None:
    async for line in log:
        if until in line.decode():
            return
