"""Notifications delivered: over real HTTP and from a real store, in order, at least once, and never for ever."""

import json
import time
from pathlib import Path

import pytest

from rollout.calls import Calls
from rollout.errors import Unavailable, Unknown
from rollout.happenings import EventKind, Severity
from tests.rollout.told import Bench, Receiver, event, receiving, telling
from tests.rollout.waiting import eventually

ONE = """
targets: {{ team: {{ url: "json://127.0.0.1:{port}/hook" }} }}
rules: [ {{ tell: [team] }} ]
limit: {{ {limit} }}
"""


def file(receiver: Receiver, limit: str = "per_minute: 600") -> str:
    return ONE.format(port=receiver.port, limit=limit)


def said(receiver: Receiver) -> list[str]:
    return [json.loads(body)["message"].splitlines()[0] for body in receiver.bodies()]


async def kept(bench: Bench, folder: Path) -> None:
    """Wait until it is saved how far everybody was told."""
    notifier = bench.office.notifier
    await eventually(lambda: all(box.saved == bench.feed.last for box in notifier._boxes.values()))


async def test_a_target_is_told_what_happened_and_what_can_be_done(tmp_path: Path) -> None:
    with receiving() as receiver:
        async with telling(tmp_path, file(receiver)) as bench:
            await bench.happens(event())
            await eventually(lambda: receiver.got)
            (report,) = bench.office.notifier.reports()
    ((path, body),) = receiver.got
    message = json.loads(body)
    assert (path, message["title"], message["type"]) == ("/hook", "checkout: v2 was rolled back", "warning")
    assert message["message"].splitlines() == [
        "checkout: rollout 3 was rolled back: number 0",
        "Again, once it is mended: rollout retry checkout",
        "Why: rollout explain checkout --rollout 3",
        "https://rollout.example.com/#/services/checkout",
    ]
    assert report.address == f"json://127.0.0.1:{receiver.port}/[redacted]"


async def test_events_come_in_order_and_only_those_that_a_rule_names(tmp_path: Path) -> None:
    with receiving() as receiver:
        text = file(receiver).replace("tell: [team]", "tell: [team], services: ['check*'], severity: warning")
        async with telling(tmp_path, text) as bench:
            others = event(service="cart"), event(severity=Severity.NOTICE), event(9, kind=EventKind.COMPLETED)
            await bench.happens(event(1), *others, event(2))
            await eventually(lambda: len(receiver.got) == 3)
    assert [words.rpartition(" ")[2] for words in said(receiver)] == ["1", "9", "2"]


async def test_a_service_gets_its_own_format(tmp_path: Path) -> None:
    with receiving() as receiver:
        text = file(receiver).replace("json://", "gotify://").replace("/hook", "/AToken12")
        async with telling(tmp_path, text) as bench:
            await bench.happens(event(severity=Severity.CRITICAL))
            await eventually(lambda: receiver.got)
    ((path, body),) = receiver.got
    assert path == "/message"
    assert json.loads(body)["title"] == "checkout: v2 was rolled back"


async def test_a_new_target_is_not_told_of_the_past_and_a_known_one_goes_on(tmp_path: Path) -> None:
    with receiving() as receiver:
        async with telling(tmp_path, "targets: {}") as bench:
            await bench.happens(event(1))
        async with telling(tmp_path, file(receiver)) as bench:
            await bench.happens(event(2))
            await eventually(lambda: receiver.got)
            await kept(bench, tmp_path)
        async with telling(tmp_path, file(receiver)) as bench:
            await bench.happens(event(3))
            await eventually(lambda: len(receiver.got) == 2)
    assert [words.rpartition(" ")[2] for words in said(receiver)] == ["2", "3"]


async def test_what_was_not_delivered_is_delivered_after_a_restart(tmp_path: Path) -> None:
    with receiving() as receiver:
        receiver.status = 503
        async with telling(tmp_path, file(receiver)) as bench:
            await kept(bench, tmp_path)
            await bench.happens(event(1), event(2))
            await eventually(lambda: receiver.got)
        receiver.status, receiver.got = 200, []
        async with telling(tmp_path, file(receiver)):
            await eventually(lambda: len(receiver.got) == 2)
    assert [words.rpartition(" ")[2] for words in said(receiver)] == ["1", "2"]


async def test_a_flood_is_told_in_few_messages(tmp_path: Path) -> None:
    with receiving() as receiver:
        async with telling(tmp_path, file(receiver, "per_minute: 5")) as bench:
            receiver.status = 503  # until all has happened: what comes bit by bit is folded as it comes
            worst = event(7777, severity=Severity.CRITICAL, kind=EventKind.ROLLING_BACK)
            await bench.happens(*(event(number) for number in range(499)), worst, *(event(n) for n in range(500, 1000)))
            await eventually(lambda: receiver.got and bench.feed.last == 1000)
            receiver.status, receiver.got = 200, []
            await eventually(lambda: len(receiver.got) == 5)
            (report,) = bench.office.notifier.reports()
            assert report.delivered <= 5
    titles = [json.loads(body)["title"] for body in receiver.bodies()]
    assert titles[:4] == ["checkout: v2 was rolled back"] * 4
    assert titles[4] == "996 events of checkout"
    folded = json.loads(receiver.bodies()[4])
    assert "995 x rollout.rolled_back, 1 x rollout.rolling_back" in folded["message"]
    assert "number 7777" in folded["message"]
    assert folded["type"] == "failure"
    assert "... and 986 more" in folded["message"]


async def test_a_dead_target_is_given_up_and_holds_nobody_up(tmp_path: Path) -> None:
    with receiving() as dead, receiving() as alive:
        dead.status = 500
        text = f"""
targets:
  dead: {{ url: "json://127.0.0.1:{dead.port}/d" }}
  alive: {{ url: "json://127.0.0.1:{alive.port}/a" }}
rules: [ {{ tell: [dead, alive] }} ]
limit: {{ per_minute: 600, give_up: 500ms }}
"""
        async with telling(tmp_path, text) as bench:
            await bench.happens(event(1))
            await eventually(lambda: alive.got)
            await eventually(lambda: bench.office.notifier.reports()[1].given_up == 1)
            report = bench.office.notifier.reports()[1]
            assert "500" in report.fault
            dead.status, dead.got = 200, []
            await bench.happens(event(2))
            await eventually(lambda: dead.got)
            assert "1 message was given up before this one" in dead.bodies()[0]
            await eventually(lambda: not bench.office.notifier.reports()[1].fault)


async def test_a_target_that_hangs_blocks_neither_others_nor_the_end(tmp_path: Path) -> None:
    with receiving() as slow, receiving() as alive:
        slow.free.clear()
        text = f"""
targets:
  slow: {{ url: "json://127.0.0.1:{slow.port}/d?rto=30" }}
  alive: {{ url: "json://127.0.0.1:{alive.port}/a" }}
rules: [ {{ tell: [slow, alive] }} ]
"""
        async with telling(tmp_path, text) as bench:
            await bench.happens(event(1))
            await eventually(lambda: slow.got and alive.got)
            began_s = time.monotonic()
        assert time.monotonic() - began_s < 20


async def test_calls_that_hang_are_left_alone_and_bounded() -> None:
    with receiving() as receiver:
        calls = Calls(limit=2)

        def hang() -> None:
            receiver.free.wait(30)

        receiver.free.clear()
        for _ in range(2):
            with pytest.raises(Unavailable, match=r"no answer within 0\.01 s"):
                await calls.run(hang, 0.01)
        with pytest.raises(Unavailable, match="2 calls hang already"):
            await calls.run(lambda: None, 1)
        receiver.free.set()
        await eventually(lambda: not calls.running)
        await calls.run(lambda: None, 1)


async def test_one_that_hangs_for_ever_takes_nobody_elses_place() -> None:
    with receiving() as receiver:
        calls = Calls(limit=5, limit_each=2)
        receiver.free.clear()
        for _ in range(2):
            with pytest.raises(Unavailable, match="no answer within"):
                await calls.run(lambda: wait(receiver), 0.01, of="json://one")
        for _ in range(4):
            with pytest.raises(Unavailable, match="2 calls to it hang already") as refused:
                await calls.run(lambda: None, 1, of="json://one")
            assert "json" not in str(refused.value)
        await calls.run(lambda: None, 1, of="json://two")
        receiver.free.set()
        await eventually(lambda: not calls.running)
        await calls.run(lambda: None, 1, of="json://one")


def wait(receiver: Receiver) -> None:
    receiver.free.wait(30)


async def test_a_plugin_that_breaks_is_a_fault_of_the_target() -> None:
    def broken() -> None:
        raise ZeroDivisionError("slack://secret")

    with pytest.raises(Unavailable, match="Apprise failed: ZeroDivisionError"):
        await Calls().run(broken, 5)


async def test_a_file_is_read_again_and_the_last_good_one_stays(tmp_path: Path) -> None:
    with receiving() as first, receiving() as second:
        async with telling(tmp_path, file(first)) as bench:
            path = tmp_path / "notify.yaml"
            path.write_text("targets: [")
            (fault,) = await bench.office.reload()
            assert f"{path}:1" in fault
            await bench.happens(event(1))
            await eventually(lambda: first.got)
            path.write_text(file(second).replace("team", "crew"))
            assert await bench.office.reload() == ()
            await bench.happens(event(2))
            await eventually(lambda: second.got)
            assert [each.target for each in bench.office.notifier.reports()] == ["crew"]
            await kept(bench, tmp_path)
            path.write_text("targets: { crew: { url: 'json://127.0.0.1' } }")
            (warning,) = await bench.office.reload()
            assert "no rule tells it" in warning
    assert len(first.got) == 1


async def test_a_new_address_is_tried_at_once(tmp_path: Path) -> None:
    with receiving() as first, receiving() as second:
        first.status = 500
        async with telling(tmp_path, file(first)) as bench:
            await bench.happens(event(1))
            await eventually(lambda: len(first.got) >= 4)  # the next try is in eight seconds
            (tmp_path / "notify.yaml").write_text(file(second))
            await bench.office.reload()
            began_s = time.monotonic()
            await eventually(lambda: second.got)
            assert time.monotonic() - began_s < 6


async def test_a_test_says_who_takes_it(tmp_path: Path) -> None:
    with receiving() as receiver:
        async with telling(tmp_path, file(receiver)) as bench:
            assert await bench.office.notifier.test(None) == {"team": ""}
            receiver.status = 401
            (fault,) = (await bench.office.notifier.test("team")).values()
            assert "json://127.0.0.1" in fault
            with pytest.raises(Unknown, match="there are team"):
                bench.office.notifier.check_target("crew")
    assert "nothing is wrong" in receiver.bodies()[0]
