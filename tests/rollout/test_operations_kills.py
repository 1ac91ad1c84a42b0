"""A server that dies before or after any of its saves: the next one goes on with what was asked for, or without."""

import asyncio
import contextlib
from collections.abc import Awaitable, Sequence
from pathlib import Path

import pytest

from rollout.errors import Conflict
from rollout.record import Change
from rollout.state import Command, Phase, Role
from tests.rollout.operating import ANN, BOB, LIMIT_S, Engine, deployment, running

V2 = deployment("v2", "10.0.0.11:80")
V3 = deployment("v3", "10.0.0.21:80", stages=["100%"])


class Death:
    """Before or after the save with this number nothing is saved any more."""

    def __init__(self, engine: Engine, number: int, *, saved: bool) -> None:
        self._left, self._saved = number, saved
        self._save = engine.store.save
        self.came = asyncio.Event()
        engine.store.save = self._until_then  # type: ignore[method-assign]  # the store itself stays as it is

    async def _until_then(self, changes: Sequence[Change], *, engine_s: float) -> None:
        self._left -= 1
        if self._left or self._saved:
            await self._save(changes, engine_s=engine_s)
        if not self._left:
            self.came.set()
            await asyncio.Event().wait()


async def to_the_end(engine: Engine) -> None:
    """Let time pass, and promote what goes forward, until nothing is in progress or waits."""
    end_s = engine.now_s + LIMIT_S
    while engine.controller.in_progress("checkout") or engine.controller.books.queued:
        assert engine.now_s < end_s, engine.rollout().state
        await engine.step()
        if engine.rollout().state.phase is Phase.SHIFTING:
            with contextlib.suppress(Conflict):
                await engine.order(Command.PROMOTE_FULL)


async def until_death(work: Awaitable[None], death: Death) -> bool:
    """Return whether the work was done before."""
    working = asyncio.ensure_future(work)
    waiting = asyncio.ensure_future(death.came.wait())
    await asyncio.wait((working, waiting), return_when=asyncio.FIRST_COMPLETED)
    finished = working.done()
    working.cancel()
    waiting.cancel()
    await asyncio.gather(working, waiting, return_exceptions=True)
    return finished


@pytest.mark.parametrize("saved", [True, False])
async def test_a_superseding_deployment_outlasts_a_death_at_any_save(tmp_path: Path, saved: bool) -> None:
    number, finished, answered = 0, False, set[int]()

    async def superseded(engine: Engine) -> None:
        await engine.operations.supersede(V3, BOB)
        answered.add(number)
        await to_the_end(engine)

    while not finished:
        number += 1
        folder = tmp_path / str(number)
        async with running(folder) as engine:
            engine.connect()
            await engine.operations.deploy(V2, ANN)
            await engine.until(Phase.SHIFTING)
            finished = await until_death(superseded(engine), Death(engine, number, saved=saved))
            now_s = engine.now_s
        async with running(folder, now_s=now_s) as engine:
            engine.connect()
            # The first one goes back and the second one waits, or neither; what was answered is so.
            back, queued = engine.rollout().state.loser is Role.CANDIDATE, bool(engine.controller.books.queued)
            assert back == queued or number in answered
            expected = "v3" if queued or number in answered else "v2"
            await to_the_end(engine)
            assert [each.name for each in engine.controller.books.versions("checkout")] == [expected]
    assert number > 5
