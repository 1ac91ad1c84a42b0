"""Waits for what has no event of its own, with a limit."""

import asyncio
from collections.abc import Callable
from pathlib import Path

LIMIT_S = 40.0


async def eventually(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(LIMIT_S):
        while not condition():  # noqa: ASYNC110 - what is waited for says nothing by itself
            await asyncio.sleep(0.005)


def ended(pid: int) -> bool:
    """Say whether a process runs no more; whoever is to collect it may take a while."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][0] == "Z"
    except OSError:
        return True
