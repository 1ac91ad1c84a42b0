"""Points of charts: made of looks, written as columns, bounded, and gone with the journal."""

from pathlib import Path

from rollout.charts import Charts
from rollout.points import POINTS_LIMIT, Point, Side, columns, from_row, point, to_row
from rollout.record import PutPoints
from rollout.state import Phase
from rollout.store.chronicle import SqliteChronicle
from rollout.store.sqlite import open_store
from tests.rollout.operating import ANN, deployment, running

BUSY, IDLE = Side(900, 0.01, 3.0, 20.0), Side()


def test_what_is_measured_follows_from_the_requests() -> None:
    found = point(10.0, 1.0, 10.0, BUSY, Side(100, 0.0, 2.0, 9.0))
    assert found.measured_percent == 10.0
    assert point(10.0, 1.0, 10.0, IDLE, IDLE).measured_percent is None


def test_a_row_comes_back_as_the_point_that_it_was() -> None:
    found = point(10.125, 1.0, 10.0, BUSY, IDLE)
    assert from_row(found.at_s, to_row(found)) == found


def test_columns_are_in_the_order_of_time_and_have_each_time_once() -> None:
    late, soon = point(2.0, 1.0, 50.0, BUSY, BUSY), point(1.0, 1.0, 10.0, BUSY, IDLE)
    found = columns((late, soon, late))
    assert (found["at"], found["wanted_percent"], found["measured_percent"]) == ([1.0, 2.0], [10.0, 50.0], [0.0, 50.0])
    assert found["candidate"]["error_share"] == [None, 0.01]
    assert found["stable"]["p99_ms"] == [20.0, 20.0]


async def test_a_long_rollout_has_rarer_points_of_long_ago(tmp_path: Path) -> None:
    store, chronicle = await open_store(tmp_path), SqliteChronicle(tmp_path)
    every = [point(float(each), 1.0, 10.0, BUSY, IDLE) for each in range(3 * POINTS_LIMIT)]
    for begin in range(0, len(every), 100):
        await store.save([PutPoints("checkout", 1, tuple(every[begin : begin + 100]))], engine_s=1.0)
    await store.save([PutPoints("cart", 1, tuple(every[:5]))], engine_s=1.0)
    found = await chronicle.points("checkout", 1)
    assert POINTS_LIMIT / 3 < len(found) <= POINTS_LIMIT
    assert found[0].at_s == 0.0
    assert found[-100:] == tuple(every[-100:])
    assert gaps(found[:50]) > gaps(found[-50:]) == 1.0
    assert len(await chronicle.points("cart", 1)) == 5
    await store.close()


def gaps(points: tuple[Point, ...]) -> float:
    return (points[-1].at_s - points[0].at_s) / (len(points) - 1)


async def test_a_second_of_looks_is_one_point_and_each_look_counts_once(tmp_path: Path) -> None:
    now_s = [1_000.0]
    async with running(tmp_path) as engine:
        engine.connect()
        charts = Charts(engine.controller, lambda: now_s[0])
        await engine.operations.deploy(deployment("v2", "10.0.0.11:80"), ANN)
        await engine.until(Phase.SHIFTING)
        for _ in range(20):
            await engine.step()
            charts.saw(engine.rollout())
            charts.saw(engine.rollout())
        now_s[0] += 4.0
        charts.take()
        charts.take()  # nothing was looked at since
        charts.save()
        (unsaved,) = charts.unsaved("checkout", 1)
        await engine.saved()
        assert charts.unsaved("checkout", 1) == ()
        assert await SqliteChronicle(tmp_path).points("checkout", 1) == (unsaved,)
        assert (unsaved.at_s, unsaved.seconds, unsaved.wanted_percent) == (1_004.0, 4.0, 50.0)
        assert (unsaved.measured_percent, unsaved.stable.error_share) == (None, None)
