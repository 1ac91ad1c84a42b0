"""Operations that meet each other, a slow disk, slow Envoys and the end of a rollout: nothing is done twice or lost."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from rollout.backends import Scaling
from rollout.errors import Conflict, Unavailable, Unknown
from rollout.marking import Marking
from rollout.record import Change
from rollout.spec import parse_endpoint
from rollout.state import Command, Phase
from rollout.ledger import Ledger
from tests.rollout.operating import Engine, deployment, files, running

EU, EU_TWO, US = "10.0.0.1:80", "10.0.0.2:80", "10.0.0.3:80"
V2 = deployment("v2", "10.0.0.11:80", "10.0.0.12:80")
V3 = deployment("v3", "10.0.0.21:80")
V1 = deployment("initial", EU, EU_TWO, US)


async def test_what_hangs_on_the_disk_is_not_begun_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rollout.saver.WAIT_LIMIT_S", 0.05)
    async with running(tmp_path) as engine:
        engine.connect()
        goes_on = asyncio.Event()
        save = engine.store.save

        async def hanging(changes: list[Change], *, engine_s: float) -> None:
            await goes_on.wait()
            await save(changes, engine_s=engine_s)

        engine.store.save = hanging
        with pytest.raises(Unavailable):
            await engine.operations.deploy(V2, "ann")
        with pytest.raises(Conflict, match="being saved"):
            await engine.operations.deploy(V2, "ann")
        goes_on.set()
        await engine.saved()
        assert not engine.saving.done()
        assert engine.rollout().id == 1


async def test_scale_hang(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rollout.saver.WAIT_LIMIT_S", 0.05)
    async with running(tmp_path) as engine:
        engine.connect()
        goes_on = asyncio.Event()
        save = engine.store.save

        async def hanging(changes: list[Change], *, engine_s: float) -> None:
            await goes_on.wait()
            await save(changes, engine_s=engine_s)

        engine.store.save = hanging
        with pytest.raises(Unavailable):
            await engine.backends.scale("checkout", "initial", Scaling((parse_endpoint("10.0.0.8:80"),)), "ann")
        with pytest.raises(Conflict, match="being saved"):
            await engine.backends.scale("checkout", "initial", Scaling((parse_endpoint("10.0.0.9:80"),)), "ann")
        goes_on.set()
        await engine.saved()
        assert "10.0.0.8:80" in engine.controller.books.addresses("checkout", "initial")


def slow(engine: Engine, meanwhile: Callable[[], Awaitable[object]]) -> None:
    answers = engine.survey

    async def survey(query: Any) -> Mapping[str, Any]:
        engine.survey = answers
        found = await answers(query)
        await meanwhile()
        return found

    engine.survey = survey


async def test_a_backend_that_leaves_while_envoys_are_asked_does_not_come_back(tmp_path: Path) -> None:
    async with running(tmp_path) as engine:
        engine.connect()
        await engine.backends.scale("checkout", "initial", Scaling((), frozenset({US})), "ann")

        async def left() -> None:
            for _ in range(30):
                await engine.step()
            assert US not in engine.controller.books.addresses("checkout", "initial")

        slow(engine, left)
        await engine.backends.scale("checkout", "initial", Scaling((), frozenset({EU_TWO})), "ann")
        assert US not in engine.health("checkout@initial")


@pytest.mark.parametrize("verb", ["drain", "scale", "mark"])
async def test_orphans(tmp_path: Path, verb: str) -> None:
    async with running(tmp_path) as engine:
        engine.connect()
        await engine.operations.deploy(V2, "ann")
        await engine.until(Phase.SHIFTING)

        async def ended() -> None:
            await engine.order(Command.ABORT)
            await engine.ended()

        slow(engine, ended)
        marking = Marking(engine.controller, Ledger(engine.controller.saver, engine.wall, engine.told.append))
        with pytest.raises((Unknown, Conflict)):
            match verb:
                case "drain":
                    await engine.backends.drain("checkout", "10.0.0.11:80", "ann")
                case "scale":
                    await engine.backends.scale("checkout", "v2", Scaling((), frozenset({"10.0.0.11:80"})), "ann")
                case "mark":
                    await marking.unhealthy("checkout", "10.0.0.11:80", "", "ann")
        await engine.step()
        books = engine.controller.books
        assert books.backends("checkout") == ()
        assert books.marks == {}
        assert not engine.controller.in_progress("checkout")
        await engine.operations.retry("checkout", "ann")
        await engine.step()
        assert books.addresses("checkout", "v2") == ("10.0.0.11:80", "10.0.0.12:80")


async def test_supersede_back_twice(tmp_path: Path) -> None:
    async with running(tmp_path) as engine:
        engine.connect()
        await engine.operations.deploy(V2, "ann")
        await engine.until(Phase.SHIFTING)
        for _ in range(2):
            assert (await engine.operations.supersede(V1, "ann")).candidate == "v2"
        await engine.ended()
        await engine.operations.supersede(V1, "ann")


async def test_undo_in_a_freeze(tmp_path: Path) -> None:
    frozen = {"timezone": "UTC", "windows": [{"from": "00:02", "to": "23:59"}]}
    async with running(tmp_path) as engine:
        engine.connect()
        await engine.operations.deploy(deployment("v2", "10.0.0.11:80", freeze=frozen), "ann")
        await engine.completed()
        print(engine.wall())
        engine.now_s = 300
        back = await engine.operations.undo("checkout", "ann")
        print(back.strategy.freeze)
        await engine.completed()


async def test_adopt_keeps_drained(tmp_path: Path) -> None:
    async with running(tmp_path) as engine:
        engine.connect()
        await engine.backends.drain("checkout", US, "ann")
        for _ in range(50):
            await engine.step()
        assert US not in engine.controller.books.addresses("checkout", "initial")
        await engine.operations.adopt("checkout", "v1", "ann")
        assert US not in engine.controller.books.addresses("checkout", "v1")
    async with running(tmp_path) as engine:
        assert US not in engine.controller.books.addresses("checkout", "v1")


TWO = files(cart={"": ("10.1.0.1:80",)}, checkout={"": (EU,)})


async def test_dequeued_while_another_begins(tmp_path: Path) -> None:
    async with running(tmp_path, TWO) as engine:
        engine.connect()
        operations = engine.operations
        for service in ("cart", "checkout"):
            await operations.deploy(deployment("v2", f"10.2.0.{len(service)}:80", service=service), "ann")
        for service in ("cart", "checkout"):
            await operations.supersede(deployment("v3", f"10.3.0.{len(service)}:80", service=service), "ann")
        while engine.controller.in_progress("cart") or engine.controller.in_progress("checkout"):
            engine.now_s += 0.2
            engine.envoy.now_s = engine.now_s
            engine._take()
            engine.latest["edge-1"] = engine._scrape()
            engine.controller.reconcile()
            await engine.saved()
        goes_on = asyncio.Event()
        save = engine.store.save

        async def hanging(changes: list[Change], *, engine_s: float) -> None:
            await goes_on.wait()
            await save(changes, engine_s=engine_s)

        engine.store.save = hanging
        beginning = asyncio.get_running_loop().create_task(operations.begin_queued())
        await asyncio.sleep(0.01)
        taking = asyncio.get_running_loop().create_task(operations.dequeue("checkout", "ann"))
        await asyncio.sleep(0.01)
        goes_on.set()
        await taking
        await beginning
        assert engine.controller.rollout("checkout").candidate == "v2"


async def test_faulty_queue_asked_again(tmp_path: Path) -> None:
    async with running(tmp_path) as engine:
        engine.connect()
        await engine.operations.deploy(V2, "ann")
        await engine.until(Phase.SHIFTING)
        await engine.operations.supersede(V3, "ann")
        await engine.backends.scale("checkout", "initial", Scaling((parse_endpoint("10.0.0.21:80"),)), "ann")
        await engine.ended()
        await engine.step()
        assert engine.controller.books.queued["checkout"].fault
        await engine.backends.scale("checkout", "initial", Scaling((), frozenset({"10.0.0.21:80"})), "ann")
        for _ in range(30):
            await engine.step()
        print(engine.controller.books.queued, engine.rollout().state.phase)
        await engine.operations.retry("checkout", "ann")
        print("queued after retry", engine.controller.books.queued)


async def test_deploy_again_while_going_back(tmp_path: Path) -> None:
    async with running(tmp_path) as engine:
        engine.connect()
        await engine.operations.deploy(V2, "ann")
        await engine.until(Phase.SHIFTING)
        await engine.order(Command.ABORT)
        print((await engine.operations.deploy(V2, "ann")).state.phase)


async def test_queue_with_secrets_survives(tmp_path: Path) -> None:
    hooks = [{"at": "event", "url": "http://127.0.0.1:9/x", "headers": {"Authorization": "Bearer abc"}}]
    three = deployment("v3", "10.0.0.21:80", hooks=hooks, checks=[{"name":"x","metric": "p99", "max": "5ms"}], sticky={"cookie": "u", "ttl": "1h"}, gate={"alpha": 0.01}, hold_back="1m")
    async with running(tmp_path) as engine:
        engine.connect()
        await engine.operations.deploy(V2, "ann")
        await engine.until(Phase.SHIFTING)
        await engine.operations.supersede(three, "ann")
        now = engine.now_s
    async with running(tmp_path, now_s=now) as engine:
        await engine.operations.supersede(three, "ann")
        assert (await engine.log())[-1][-1] == "no change"


async def test_waves_undo(tmp_path: Path) -> None:
    async with running(tmp_path) as engine:
        engine.connect()
        await engine.operations.deploy(deployment("v2", "10.0.0.11:80"), "ann")
        await engine.completed()
        back = await engine.operations.undo("checkout", "ann")
        await engine.completed()
