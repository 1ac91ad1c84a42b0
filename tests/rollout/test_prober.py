"""When checks are read outside of Envoy: by the stage, each at its own pace, whatever the others do."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime

import pytest

from rollout.checks import CheckSpec, Names
from rollout.errors import Unavailable
from rollout.gate.checks import Reading
from rollout.metrics.sources import Answer, Source
from rollout.prober import KEPT, Prober, World
from rollout.record import Rollout
from rollout.spec import Strategy
from rollout.state import Phase, State
from tests.rollout.waiting import eventually

TICK_S = 0.01
NAMES = Names("checkout", "v1", "v2", "checkout@v1", "checkout@v2")


@dataclass(slots=True)
class Programmed:
    """A source that answers as it is told to; `asked` counts, `running` are those that wait for an answer now."""

    answer: Callable[[], Answer] = lambda: Answer(0.0)
    hold: asyncio.Event | None = None
    asked: int = 0
    running: int = 0

    async def read(self) -> Answer:
        self.asked += 1
        self.running += 1
        try:
            if self.hold is not None:
                await self.hold.wait()
            return self.answer()
        finally:
            self.running -= 1


@dataclass(slots=True)
class Setup:
    """A world whose clock stands until it is moved."""

    now_s: float = 100.0
    rollouts: list[Rollout] = field(default_factory=list)
    sources: dict[str, Programmed] = field(default_factory=dict)

    def source(self, check: CheckSpec, names: Names) -> Source | None:
        assert names == NAMES
        return self.sources.get(check.label)


def rollout(*commands: str, service: str = "checkout") -> Rollout:
    """Return one at its first stage, which has a check for each command, every second."""
    checks = [{"command": [name], "interval": "1s"} for name in commands]
    strategy = Strategy.model_validate({"checks": [{"metric": "p99", "max": "1s"}, *checks]})
    at = datetime(2025, 1, 1, tzinfo=UTC)
    return Rollout(service, 1, "v1", "v2", strategy, State(Phase.SHIFTING, 0.0, converged_s=1.0), 1, at, at)


def in_state(known: Rollout, **changes: object) -> Rollout:
    return replace(known, state=replace(known.state, **changes))  # type: ignore[arg-type]  # fields of State


@asynccontextmanager
async def probing(setup: Setup) -> AsyncIterator[Prober]:
    prober = Prober(World(lambda: setup.rollouts, lambda _: NAMES, setup.source, lambda: setup.now_s), tick_s=TICK_S)
    task = asyncio.get_running_loop().create_task(prober.run())
    await asyncio.sleep(0)  # it has seen the rollouts
    try:
        yield prober
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def taken(prober: Prober, known: Rollout, count: int = 1) -> list[Reading]:
    found: list[Reading] = []

    def enough() -> bool:
        found.extend(prober.take(known))
        return len(found) >= count

    await eventually(enough)
    return found


async def test_a_check_is_read_each_interval_and_first_when_one_has_gone_by() -> None:
    known, source = rollout("smoke"), Programmed(lambda: Answer(3.0, "no cart"))
    setup = Setup(rollouts=[known], sources={"smoke": source})
    async with probing(setup) as prober:
        setup.now_s = 100.9
        await asyncio.sleep(2 * TICK_S)
        assert (source.asked, prober.take(known)) == (0, ())
        setup.now_s = 101.1
        assert await taken(prober, known) == [Reading("smoke", 101.1, 3.0, "no cart")]
        assert prober.take(known) == ()
        setup.now_s = 102.0
        assert await taken(prober, known) == [Reading("smoke", 102.0, 3.0, "no cart")]
        assert source.asked == 2


async def test_a_late_reading_is_not_made_up_for() -> None:
    known, source = rollout("smoke"), Programmed()
    setup = Setup(rollouts=[known], sources={"smoke": source})
    async with probing(setup) as prober:
        setup.now_s = 150.0
        await taken(prober, known)
        setup.now_s = 150.9
        await asyncio.sleep(2 * TICK_S)
        assert source.asked == 1
        setup.now_s = 151.0
        assert await taken(prober, known) == [Reading("smoke", 151.0, 0.0)]


async def test_a_hanging_source_is_asked_once_and_delays_nobody() -> None:
    known = rollout("stuck", "smoke")
    stuck = Programmed(hold=asyncio.Event())
    setup = Setup(rollouts=[known], sources={"stuck": stuck, "smoke": Programmed()})
    async with probing(setup) as prober:
        for now_s in (101.0, 102.0, 103.0):
            setup.now_s = now_s
            assert await taken(prober, known) == [Reading("smoke", now_s, 0.0)]
        assert (stuck.asked, stuck.running) == (1, 1)
        assert stuck.hold is not None
        stuck.hold.set()
        assert Reading("stuck", 103.0, 0.0) in await taken(prober, known)


@pytest.mark.parametrize(
    "left",
    [
        {"phase": Phase.ROLLING_BACK},
        {"phase": Phase.RETAINING},
        {"stage": 1, "converged_s": None},
        {"phase": Phase.PAUSED, "resume": Phase.WARMING, "converged_s": None},
    ],
)
async def test_what_is_read_ends_with_the_stage(left: dict[str, object]) -> None:
    known, stuck = rollout("stuck"), Programmed(hold=asyncio.Event())
    setup = Setup(rollouts=[known], sources={"stuck": stuck})
    async with probing(setup) as prober:
        setup.now_s = 101.0
        await eventually(lambda: stuck.running == 1)
        setup.rollouts = [in_state(known, **left)]
        await eventually(lambda: stuck.running == 0)
        setup.now_s = 200.0
        await asyncio.sleep(2 * TICK_S)
        assert (stuck.asked, prober.take(known), prober.take(setup.rollouts[0])) == (1, (), ())


async def test_readings_of_one_stage_are_not_those_of_the_next() -> None:
    known, source = rollout("smoke"), Programmed()
    setup = Setup(rollouts=[known], sources={"smoke": source})
    async with probing(setup) as prober:
        setup.now_s = 101.0
        await eventually(lambda: source.asked == 1)
        later = in_state(known, stage=1, converged_s=101.5)
        assert prober.take(later) == ()
        setup.rollouts = [later]
        await asyncio.sleep(2 * TICK_S)
        setup.now_s = 102.9
        assert await taken(prober, later) == [Reading("smoke", 102.9, 0.0)]


async def test_a_pause_at_a_stage_goes_on_reading() -> None:
    known, source = rollout("smoke"), Programmed()
    setup = Setup(rollouts=[known], sources={"smoke": source})
    async with probing(setup) as prober:
        paused = in_state(known, phase=Phase.PAUSED, resume=Phase.SHIFTING)
        setup.rollouts = [paused]
        setup.now_s = 101.0
        assert await taken(prober, paused) == [Reading("smoke", 101.0, 0.0)]


@pytest.mark.parametrize(
    ("error", "fault"),
    [
        (Unavailable("no answer from prometheus:9090"), "no answer from prometheus:9090"),
        (Unavailable("x" * 1000), "x" * 300),
        (KeyError("hush"), "a bug of the server: KeyError"),
    ],
)
async def test_an_outage_is_a_reading_without_a_value_and_ends_nothing(error: Exception, fault: str) -> None:
    def fail() -> Answer:
        raise error

    known = rollout("smoke")
    setup = Setup(rollouts=[known], sources={"smoke": Programmed(fail)})
    async with probing(setup) as prober:
        for now_s in (101.0, 102.0):
            setup.now_s = now_s
            assert await taken(prober, known) == [Reading("smoke", now_s, fault=fault)]


async def test_readings_that_nobody_takes_are_bounded() -> None:
    known, source = rollout(*(f"check{number}" for number in range(19))), Programmed()
    setup = Setup(rollouts=[known], sources={f"check{number}": source for number in range(19)})
    async with probing(setup) as prober:
        for turn in range(1, 8):
            setup.now_s = 100.0 + turn
            await eventually(lambda: source.asked == 19 * turn)  # noqa: B023 - it is over before the next turn
        assert len(prober.take(known)) == KEPT


async def test_rollouts_of_several_services_are_kept_apart() -> None:
    one, two = rollout("smoke"), rollout("smoke", service="cart")
    setup = Setup(rollouts=[one, two], sources={"smoke": Programmed()})
    async with probing(setup) as prober:
        setup.now_s = 101.0
        await taken(prober, one)
        await taken(prober, two)
        assert (prober.take(one), prober.take(two)) == ((), ())
