"""Operations that meet a slow disk, slow Envoys, each other or the end of a rollout: nothing is lost or done twice."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import time
from pathlib import Path
from typing import Any

import pytest

from rollout.backends import Scaling
from rollout.errors import Conflict, Rehearsed, RolloutError, Unavailable, Unknown
from rollout.ledger import Ledger
from rollout.marking import Marking
from rollout.metrics import Query
from rollout.record import Change, DropQueued
from rollout.rights import Asker
from rollout.spec import parse_endpoint
from rollout.state import Awaited, Command, Phase
from tests.rollout.operating import ANN, BOB, Engine, deployment, files, running
from xds.errors import InvalidConfig, Problem

EU, EU_TWO, US = "10.0.0.1:80", "10.0.0.2:80", "10.0.0.3:80"
STABLE = deployment("initial", EU, EU_TWO, US)
V2 = deployment("v2", "10.0.0.11:80", "10.0.0.12:80")
V3 = deployment("v3", "10.0.0.21:80")


def added(address: str) -> Scaling:
    return Scaling((parse_endpoint(address),))


class Disk:
    """Between the engine and its store: writes wait while `works` is not set, and `refuse` may say that they fail."""

    def __init__(self, engine: Engine) -> None:
        self.works = asyncio.Event()
        self.works.set()
        self.refuse: Callable[[Sequence[Change]], bool] = lambda _: False
        self._save = engine.store.save
        engine.store.save = self._saved  # type: ignore[method-assign]  # the store itself stays as it is

    async def _saved(self, changes: Sequence[Change], *, engine_s: float) -> None:
        await self.works.wait()
        if self.refuse(changes):
            raise Unavailable("the disk is full")
        await self._save(changes, engine_s=engine_s)


@pytest.mark.parametrize("verb", ["deploy", "scale"])
async def test_what_hangs_on_the_disk_keeps_others_out_until_it_is_saved(tmp_path: Path, verb: str) -> None:
    async with running(tmp_path) as engine:
        engine.controller.saver.limit_s = 0.05
        disk = Disk(engine)
        disk.works.clear()

        async def ask(version: str, address: str) -> None:
            if verb == "deploy":
                await engine.operations.deploy(deployment(version, address), ANN)
            else:
                await engine.backends.scale("checkout", "initial", added(address), ANN)

        with pytest.raises(Unavailable):
            await ask("v2", "10.0.0.8:80")
        for _ in range(2):
            with pytest.raises(Conflict, match="another change of 'checkout' is being saved"):
                await ask("v3", "10.0.0.9:80")
        disk.works.set()
        await engine.saved()
        assert not engine.saving.done()  # a second rollout 1 would have ended the server
        books = engine.controller.books
        assert "10.0.0.8:80" in books.addresses("checkout", "v2" if verb == "deploy" else "initial")
        await engine.backends.scale("checkout", "initial", added("10.0.0.10:80"), ANN)


def meanwhile(engine: Engine, happens: Callable[[], Awaitable[object]]) -> None:
    """Have something happen while Envoys are asked for the first time."""
    ask = engine.survey

    async def survey(query: Query) -> Mapping[str, Any]:
        engine.survey = ask
        found = await ask(query)
        await happens()
        return found

    engine.survey = survey


async def test_a_backend_that_leaves_while_envoys_are_asked_does_not_come_back(tmp_path: Path) -> None:
    async with running(tmp_path) as engine:
        engine.connect()
        await engine.backends.scale("checkout", "initial", Scaling((), frozenset({US})), ANN)

        async def left() -> None:
            while engine.controller.books.backends("checkout"):
                await engine.step()

        meanwhile(engine, left)
        await engine.backends.scale("checkout", "initial", Scaling((), frozenset({EU_TWO})), ANN)
        assert engine.health("checkout@initial") == {EU: "HEALTHY", EU_TWO: "DRAINING"}


@pytest.mark.parametrize("verb", ["drain", "scale", "mark"])
async def test_nothing_is_kept_of_a_version_that_ends_while_envoys_are_asked(tmp_path: Path, verb: str) -> None:
    async with running(tmp_path) as engine:
        engine.connect()
        await engine.operations.deploy(V2, ANN)
        await engine.until(Phase.SHIFTING)

        async def ended() -> None:
            await engine.order(Command.ABORT)
            await engine.ended()

        meanwhile(engine, ended)
        marking = Marking(engine.controller, Ledger(engine.controller.saver, engine.wall, engine.told.append))
        asked: Mapping[str, Callable[[], Awaitable[None]]] = {
            "drain": lambda: engine.backends.drain("checkout", "10.0.0.11:80", ANN),
            "scale": lambda: engine.backends.scale("checkout", "v2", Scaling((), frozenset({"10.0.0.11:80"})), ANN),
            "mark": lambda: marking.unhealthy("checkout", "10.0.0.11:80", "", ANN),
        }
        with pytest.raises((Unknown, Conflict)):
            await asked[verb]()
        books = engine.controller.books
        assert (books.backends("checkout"), books.marks, engine.controller.in_progress("checkout")) == ((), {}, False)
        # What would have been left over would have been drained, or marked, in the next rollout to that version.
        await engine.operations.retry("checkout", ANN)
        assert books.addresses("checkout", "v2") == ("10.0.0.11:80", "10.0.0.12:80")


async def test_superseding_by_the_stable_version_takes_back_once(tmp_path: Path) -> None:
    async with running(tmp_path) as engine:
        engine.connect()
        await engine.operations.deploy(V2, ANN)
        await engine.until(Phase.SHIFTING)
        for _ in range(2):
            assert (await engine.operations.supersede(STABLE, ANN)).candidate == "v2"
        await engine.ended()
        assert (await engine.operations.supersede(STABLE, ANN)).id == 1
        results = [result for verb, _, result in await engine.log() if verb == "supersede"]
        assert results == ["taken back", "no change"]


@pytest.mark.parametrize("verb", ["undo", "supersede"])
async def test_back_to_the_stable_version_is_not_followed_by_what_is_queued(tmp_path: Path, verb: str) -> None:
    async with running(tmp_path) as engine:
        engine.connect()
        await engine.operations.deploy(V2, ANN)
        await engine.until(Phase.SHIFTING)
        await engine.operations.supersede(V3, ANN)
        if verb == "undo":
            await engine.operations.undo("checkout", BOB)
        else:
            await engine.operations.supersede(STABLE, BOB)
        await engine.ended()
        await engine.step()
        assert (engine.rollout().candidate, engine.controller.books.queued) == ("v2", {})
        assert (await engine.log())[-1] == (verb, "bob", "v3 taken out of the queue")


async def test_what_is_taken_out_of_the_queue_while_another_service_begins_does_not_begin(tmp_path: Path) -> None:
    services = ("cart", "checkout")
    async with running(tmp_path, files(cart={"": ("10.1.0.1:80",)}, checkout={"": (EU,)})) as engine:
        for number, service in enumerate(services):
            await engine.operations.deploy(deployment("v2", f"10.2.{number}.1:80", service=service), ANN)
            await engine.operations.supersede(deployment("v3", f"10.3.{number}.1:80", service=service), ANN)
        while any(engine.controller.in_progress(service) for service in services):
            engine.now_s += 0.2
            engine.controller.reconcile()
            await engine.saved()
        # Both are written in one go, for the disk is full until both are there.
        Disk(engine).refuse = lambda changes: DropQueued("checkout") not in changes
        loop = asyncio.get_running_loop()
        beginning = loop.create_task(engine.operations.begin_queued())
        await asyncio.sleep(0)
        taking = loop.create_task(engine.operations.dequeue("checkout", ANN))
        await asyncio.gather(beginning, taking)
        candidates = [engine.rollout(service).candidate for service in services]
        assert candidates == ["v3", "v2"]


async def test_a_drained_backend_stays_so_when_its_version_gets_a_name(tmp_path: Path) -> None:
    async with running(tmp_path) as engine:
        engine.connect()
        await engine.backends.drain("checkout", US, ANN)
        while engine.controller.books.draining():
            await engine.step()
        await engine.operations.adopt("checkout", "v1", ANN)
        assert engine.controller.books.addresses("checkout", "v1") == (EU, EU_TWO)
    async with running(tmp_path) as engine:
        assert engine.controller.books.addresses("checkout", "v1") == (EU, EU_TWO)


@pytest.mark.parametrize("window", ["10m", "0s"])
async def test_no_freeze_keeps_a_version_from_coming_back(tmp_path: Path, window: str) -> None:
    freeze = {"windows": [{"from": "00:03", "to": "08:00"}]}
    async with running(tmp_path) as engine:
        engine.connect()
        second = deployment("v2", "10.0.0.11:80", freeze=freeze, rollback_window=window)
        await engine.operations.deploy(second, ANN)
        await engine.completed()
        engine.now_s = 200.0
        assert engine.wall().time() > time(0, 3)
        back = await engine.operations.undo("checkout", ANN)
        assert (back.candidate, back.strategy.freeze) == ("initial", None)
        await engine.completed()
        await engine.operations.deploy(second, ANN)
        await engine.step()
        assert engine.rollout().state.awaited is Awaited.THAW


async def test_retry_of_a_version_that_is_forgotten_says_what_retry_can_do(tmp_path: Path) -> None:
    async with running(tmp_path) as engine:
        await engine.operations.deploy(V2, ANN)
        await engine.order(Command.ABORT)
        await engine.ended()
        await engine.operations.forget("checkout", "v2", ANN)
        with pytest.raises(Unknown, match=r"runs \(known: none\); deploy it with its backends"):
            await engine.operations.retry("checkout", ANN)


@pytest.mark.parametrize("error", [InvalidConfig((Problem("all.yaml", "has no clusters"),)), Conflict("not now")])
async def test_a_refusal_is_noted_whoever_refuses(tmp_path: Path, error: Exception) -> None:
    async with running(tmp_path) as engine:
        ledger = Ledger(engine.controller.saver, engine.wall, engine.told.append)
        with pytest.raises((RolloutError, InvalidConfig)), ledger.asked("", "config reload", ANN):
            raise error
        assert await engine.log(None) == [("config reload", "ann", f"{type(error).__name__}: {error}")]


async def shifted(engine: Engine) -> None:
    """Have v1 replaced by v2, and v1 again."""
    for number, version in enumerate(("v1", "v2"), start=1):
        await engine.operations.deploy(deployment(version, f"10.0.{number}.1:80"), ANN)
        await engine.completed()
    await engine.operations.undo("checkout", ANN)


@pytest.mark.parametrize("end", ["completed", "aborted"])
async def test_an_undo_leaves_the_stages_to_later_ones(tmp_path: Path, end: str) -> None:
    async with running(tmp_path) as engine:
        engine.connect()
        await shifted(engine)
        if end == "completed":
            await engine.completed()
        else:
            await engine.order(Command.ABORT)
            await engine.ended()
        engine.now_s += 3600
        back = await engine.operations.undo("checkout", ANN, "v2" if end == "completed" else "v1")
        assert [stage.weight_bp for stage in back.strategy.stages] == [5_000, 10_000]


@pytest.mark.parametrize("way", ["leaves", "drained before", "version ends"])
async def test_a_mark_goes_with_its_backend(tmp_path: Path, way: str) -> None:
    async with running(tmp_path) as engine:
        engine.connect()
        marking = Marking(engine.controller, Ledger(engine.controller.saver, engine.wall, engine.told.append))
        await marking.unhealthy("checkout", US, "its disk is full", ANN)
        if way != "leaves":
            await engine.backends.drain("checkout", US, ANN)
            await engine.steps(20)
        if way == "version ends":
            await engine.operations.deploy(V2, ANN)
            await engine.completed()
        else:
            await engine.backends.scale("checkout", "initial", Scaling((), frozenset({US})), ANN)
            await engine.steps(20)
        version = "v2" if way == "version ends" else "initial"
        await engine.backends.scale("checkout", version, added(US), ANN)  # another machine has this address now
        assert engine.health(f"checkout@{version}")[US] == "HEALTHY"
    async with running(tmp_path) as engine:
        assert engine.controller.books.marks == {}


async def test_a_rehearsal_holds_up_nobody_while_envoys_are_asked(tmp_path: Path) -> None:
    async with running(tmp_path) as engine:
        engine.connect()
        await engine.step()
        asked, answers = engine.survey, asyncio.Event()

        async def slow(query: Query) -> Mapping[str, Any]:
            await answers.wait()
            return await asked(query)

        engine.survey = slow
        trying = asyncio.ensure_future(engine.backends.drain("checkout", EU, Asker("ann", rehearses=True)))
        await asyncio.sleep(0)
        await engine.backends.scale("checkout", "initial", added("10.0.0.9:80"), BOB)
        answers.set()
        with pytest.raises(Rehearsed, match="'initial' of 'checkout' drained"):
            await trying
        assert engine.controller.books.backends("checkout") == ()
