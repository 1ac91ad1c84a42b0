"""The reconcile loop: turns of bounded length, ends that are seen whole, drains that are saved together."""

import asyncio
import contextlib
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from rollout.api.backstage import Moment
from rollout.api.views import service_view
from rollout.backends import Scaling
from rollout.controller import Order
from rollout.errors import Conflict, Unavailable
from rollout.exposure import FULL_BP
from rollout.observer import LOOK_EVERY_S
from rollout.record import Change, DropBackend, PutRollout, Rollout
from rollout.state import ENDED, Command, Phase
from rollout.traffic.groups import Files
from rollout.turns import TURN_S
from tests.rollout.operating import ANN, Engine, deployment, files, running
from xds.errors import InvalidConfig

CART = files(cart={"": ("10.1.0.1:80",)})
EU, EU_TWO, US = "10.0.0.1:80", "10.0.0.2:80", "10.0.0.3:80"
V2 = deployment("v2", "10.0.0.11:80", "10.0.0.12:80")
SERVICES = tuple(f"s{number}" for number in range(8))


class Disk:
    """Between the engine and its store: knows each save, writes what `keeps` says, an end once `works` is set."""

    def __init__(self, engine: Engine) -> None:
        self.works, self.asked = asyncio.Event(), asyncio.Event()
        self.keeps: Callable[[Change], bool] = lambda _: True
        self.saves: list[Sequence[Change]] = []
        self._save = engine.store.save
        engine.store.save = self._saved  # type: ignore[method-assign]  # the store itself stays as it is

    async def _saved(self, changes: Sequence[Change], *, engine_s: float) -> None:
        self.saves.append(changes)
        if any(isinstance(each, PutRollout) and each.rollout.state.phase in ENDED for each in changes):
            self.asked.set()
            await self.works.wait()
        await self._save(list(filter(self.keeps, changes)), engine_s=engine_s)


def seen(engine: Engine) -> tuple[object, ...]:
    """Return what the API says of the end of the rollout: of one moment."""
    view = service_view(engine.controller, "checkout", Moment(engine.now_s, engine.controller.users()))
    assert view["rollout"] is not None
    names = tuple(each["version"] for each in view["versions"])
    return view["rollout"]["phase"], view["stable"], names, view["in_progress"]


async def until_removing(engine: Engine) -> None:
    engine.connect()
    await engine.operations.deploy(V2, ANN)
    await engine.until(Phase.SHIFTING)
    while engine.rollout().state.phase is Phase.SHIFTING:
        await engine.order(Command.PROMOTE_FULL)
        await engine.step()
    await engine.until(Phase.REMOVING)


async def test_an_end_is_seen_with_all_that_follows_from_it_however_slow_the_disk(tmp_path: Path) -> None:
    async with running(tmp_path) as engine:
        told: list[Phase] = []
        engine.changed = lambda rollout, _before: told.append(rollout.state.phase)
        await until_removing(engine)
        disk = Disk(engine)
        ending = asyncio.get_running_loop().create_task(engine.ended())
        async with asyncio.timeout(20):
            await disk.asked.wait()
        assert seen(engine) == (Phase.REMOVING, "initial", ("initial", "v2"), True)
        assert told[-1] is Phase.REMOVING
        with pytest.raises(Conflict, match="its old version is being let go"):
            engine.controller.obey("checkout", Order(Command.ABORT, ANN))
        disk.works.set()
        await ending
        assert seen(engine) == (Phase.COMPLETED, "v2", ("v2",), False)
        assert told.count(Phase.COMPLETED) == 1
    async with running(tmp_path, now_s=engine.now_s) as engine:
        assert seen(engine) == (Phase.COMPLETED, "v2", ("v2",), False)


async def test_an_end_that_was_saved_without_what_follows_from_it_is_made_whole(tmp_path: Path) -> None:
    async with running(tmp_path) as engine:
        await until_removing(engine)
        disk = Disk(engine)
        disk.keeps = lambda change: isinstance(change, PutRollout)  # all that older servers saved with an end
        disk.works.set()
        await engine.ended()
    async with running(tmp_path, now_s=engine.now_s) as engine:
        assert seen(engine) == (Phase.COMPLETED, "initial", ("initial", "v2"), True)
        engine.connect()
        await engine.step()
        assert seen(engine) == (Phase.COMPLETED, "v2", ("v2",), False)


async def test_backends_whose_drains_end_together_leave_in_one_save(tmp_path: Path) -> None:
    async with running(tmp_path) as engine:
        engine.connect()
        await engine.backends.scale("checkout", "initial", Scaling(remove=frozenset({EU, EU_TWO})), ANN)
        disk = Disk(engine)
        for _ in range(50):
            await engine.step()
        assert engine.controller.books.addresses("checkout", "initial") == (US,)
        left = [[each for each in changes if isinstance(each, DropBackend)] for changes in disk.saves]
        assert [len(each) for each in left if each] == [2]


async def test_a_service_that_leaves_when_its_rollout_has_ended_takes_its_ill_backends_with_it(tmp_path: Path) -> None:
    async with running(tmp_path) as engine:
        await until_removing(engine)
        await engine.ended()
        engine.controller.books.ill["checkout"] = frozenset({EU})  # as long as nobody has looked since
        engine.controller.reload(Files({"shop.yaml": CART}))
        await engine.step()
        assert engine.controller.books.ill == {}


async def test_a_service_does_not_leave_while_a_change_of_it_waits_for_the_disk(tmp_path: Path) -> None:
    async with running(tmp_path) as engine:
        engine.saving.cancel()
        engine.controller.saver.limit_s = 0.01
        with pytest.raises(Unavailable, match="it is tried again until it is"):
            await engine.operations.deploy(V2, ANN)
        with pytest.raises(InvalidConfig, match=r"service 'checkout'.* put its EDS cluster back"):
            engine.controller.reload(Files({"shop.yaml": CART}))


async def test_a_stage_begins_though_the_disk_is_always_behind_the_looks(tmp_path: Path) -> None:
    async with running(tmp_path) as engine:
        engine.connect()
        await engine.operations.deploy(V2, ANN)
        await engine.until(Phase.SHIFTING)
        await engine.steps(10)
        save, books, begun = engine.store.save, engine.controller.books, asyncio.Event()
        behind: list[int] = []

        async def slow(changes: Sequence[Change], *, engine_s: float) -> None:
            await save(changes, engine_s=engine_s)
            engine.now_s += 10 * LOOK_EVERY_S
            engine.controller.reconcile()
            if books.splits["checkout"].candidate_bp == FULL_BP:
                begun.set()
            behind.append(engine.controller.saver.unsaved("checkout"))

        engine.store.save = slow  # type: ignore[method-assign]  # as a disk that takes longer than a look is rare
        engine.controller.obey("checkout", Order(Command.PROMOTE_FULL, ANN))
        async with asyncio.timeout(20):
            await begun.wait()
        assert min(behind) > 1  # one is what was just written


async def test_an_abort_waits_for_no_look_at_other_services(tmp_path: Path) -> None:
    shop = files(**{each: {"": (f"10.1.{number}.1:80",)} for number, each in enumerate(SERVICES)})
    async with running(tmp_path, shop) as engine:
        engine.connect()
        for number, service in enumerate(SERVICES):
            await engine.operations.deploy(deployment("v2", f"10.2.{number}.1:80", service=service), ANN)
        looked: list[str] = []
        last, all_looked = SERVICES[-1], asyncio.Event()

        def changed(rollout: Rollout, _before: Rollout | None) -> None:
            if not looked:
                asyncio.get_running_loop().call_soon(engine.controller.obey, last, Order(Command.ABORT, ANN))
            looked.append(rollout.service)
            engine.now_s += 2 * TURN_S  # so long each look takes
            if len(looked) == len(SERVICES):
                all_looked.set()

        engine.changed = changed
        reconciling = asyncio.get_running_loop().create_task(engine.controller.run())
        try:
            async with asyncio.timeout(20):
                await all_looked.wait()
        finally:
            reconciling.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await reconciling
        assert looked[:2] == [SERVICES[0], last]
        assert engine.rollout(last).state.reason == "aborted by ann"
