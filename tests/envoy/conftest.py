"""Worlds of real parts for tests."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable

import pytest

from rollout.demo.load import LoadPlan, Tally, Target, mix, run_load

UnderLoad = Callable[..., contextlib.AbstractAsyncContextManager[Tally]]


@contextlib.asynccontextmanager
async def _under_load(*targets: Target, rate_per_s: float = 200) -> AsyncIterator[Tally]:
    tally, stop = Tally(), asyncio.Event()
    plan = LoadPlan(targets, rate_per_s=rate_per_s, paths=mix(slow_ms=500, stream_ms=700))
    async with asyncio.TaskGroup() as group:
        group.create_task(run_load(plan, tally.record, stop))
        try:
            yield tally
        finally:
            stop.set()


@pytest.fixture
def under_load() -> UnderLoad:
    """Keep a load on these targets inside `async with`, and yield its tally."""
    return _under_load
