"""When hooks are called: as long as they are wanted, each at its own pace, again when they fail, and in order."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from itertools import pairwise

import pytest

from rollout.courier import Agreed, Refused, Reply
from rollout.errors import Conflict, InvalidSpec, Unavailable
from rollout.hooks import Answer, Hook
from rollout.message import Endpoints, Message
from rollout.messenger import KEPT_EVENTS, Messenger, Progress, Report, World, backoff_s
from rollout.record import Rollout
from rollout.spec import Strategy
from rollout.state import Awaited, Phase, State
from tests.rollout.waiting import eventually

AT = datetime(2026, 3, 1, tzinfo=UTC)
FAST = {"interval": "10ms", "backoff": "10ms", "timeout": "1s"}
PENDING = State(Phase.PENDING, 0.0, awaited=Awaited.HOOK)
PAUSED = State(Phase.PAUSED, 0.0, resume=Phase.PENDING)
Script = Callable[[Message, int], Awaitable[Reply]]


@dataclass(slots=True)
class Setup:
    """A world whose hooks answer as they are told to; `told` has each try."""

    rollouts: list[Rollout] = field(default_factory=list)
    scripts: dict[str, Script] = field(default_factory=dict)
    told: list[tuple[str, Message, int]] = field(default_factory=list)
    running: set[str] = field(default_factory=set)
    provided: list[str] = field(default_factory=list)
    refusal: Exception | None = None
    untold: list[str] = field(default_factory=list)
    saved: bool = True
    answers: int = 0
    now_s: float = 5.0

    async def deliver(self, said: Message, attempt: int) -> Reply:
        name = said.hook.label
        self.told.append((name, said, attempt))
        self.running.add(name)
        try:
            return await self.scripts[name](said, attempt)
        finally:
            self.running.discard(name)

    async def provide(self, _: Rollout, text: str) -> None:
        if self.refusal is not None:
            raise self.refusal
        self.provided.append(text)

    def answered(self) -> None:
        self.answers += 1

    def calls(self, name: str) -> list[tuple[Message, int]]:
        return [(said, attempt) for told, said, attempt in self.told if told == name]


async def agree(_: Message, __: int) -> Reply:
    return Agreed()


async def hang(_: Message, __: int) -> Reply:
    await asyncio.Event().wait()
    raise AssertionError


def replies(*given: Reply | Exception) -> Script:
    """Answer one after the other; the last one again and again."""
    left = list(given)

    async def script(_: Message, __: int) -> Reply:
        reply = left.pop(0) if len(left) > 1 else left[0]
        if isinstance(reply, Exception):
            raise reply
        return reply

    return script


def rollout(*hooks: dict[str, object], state: State = PENDING, service: str = "checkout") -> Rollout:
    strategy = Strategy(hooks=tuple(Hook.model_validate({**FAST, "command": "x", **hook}) for hook in hooks))
    return Rollout(service, 1, "v1", "v2", strategy, state, 1, AT, AT)


@asynccontextmanager
async def messaging(setup: Setup) -> AsyncIterator[Messenger]:
    world = World(
        lambda: setup.rollouts,
        lambda _: setup.saved,
        lambda _: Endpoints(),
        setup.deliver,
        setup.provide,
        setup.answered,
        lambda _, why: setup.untold.append(why),
        lambda: setup.now_s,
        lambda: AT,
    )
    messenger = Messenger(world, tick_s=0.005)
    task = asyncio.get_running_loop().create_task(messenger.run())
    try:
        yield messenger
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        assert not setup.running


async def some_ticks() -> None:
    await asyncio.sleep(0.05)


async def test_a_hook_is_called_once_and_its_answer_is_kept() -> None:
    known = rollout({"at": "provision", "name": "up"})
    setup = Setup([known], {"up": agree})
    async with messaging(setup) as messenger:
        await eventually(lambda: messenger.answers(known))
        setup.now_s = 9.0
        await some_ticks()
        assert messenger.answers(known) == {"0": Answer(True, 5.0)}
        assert messenger.reports(known) == (Report(known.strategy.hooks[0], Progress.AGREED, "", 1),)
        assert (len(setup.told), setup.answers, setup.provided) == (1, 1, [""])


async def test_a_failing_hook_is_tried_again_by_the_same_key() -> None:
    known = rollout({"at": "provision", "name": "up"})
    setup = Setup([known], {"up": replies(Refused("500 from h"), Unavailable("no answer from h"), Agreed())})
    async with messaging(setup) as messenger:
        await eventually(lambda: messenger.answers(known))
        assert messenger.answers(known) == {"0": Answer(True, 5.0)}
        assert [attempt for _, attempt in setup.calls("up")] == [1, 2, 3]
        assert len({said.key for said, _ in setup.calls("up")}) == 1


async def test_after_its_retries_it_does_not_agree_and_is_left_alone() -> None:
    known = rollout({"at": "provision", "name": "up", "retries": 2})
    setup = Setup([known], {"up": replies(Refused("503 from h"))})
    async with messaging(setup) as messenger:
        await eventually(lambda: messenger.answers(known))
        await some_ticks()
        assert messenger.answers(known) == {"0": Answer(False, 5.0, "503 from h (3 attempts)")}
        assert len(setup.told) == 3


@pytest.mark.parametrize(
    ("reply", "words"),
    [
        (Refused("403 from h: no", final=True), "403 from h: no"),
        (InvalidSpec("secret: x"), "secret: x"),
    ],
)
async def test_who_would_say_the_same_again_is_not_tried_again(reply: Reply | Exception, words: str) -> None:
    known = rollout({"at": "provision", "name": "up"})
    setup = Setup([known], {"up": replies(reply)})
    async with messaging(setup) as messenger:
        await eventually(lambda: messenger.answers(known))
        assert messenger.answers(known) == {"0": Answer(False, 5.0, words)}
        assert len(setup.told) == 1


async def test_what_nobody_foresaw_is_a_refusal_and_ends_nothing() -> None:
    known = rollout({"at": "provision", "name": "up", "retries": 0})
    setup = Setup([known], {"up": replies(KeyError("hush"))})
    async with messaging(setup) as messenger:
        await eventually(lambda: messenger.answers(known))
        assert messenger.answers(known) == {"0": Answer(False, 5.0, "a bug of the server: KeyError")}


async def test_a_confirming_hook_is_asked_until_it_agrees_each_time_anew() -> None:
    known = rollout({"at": "confirm-rollout", "name": "ok"})
    gone = Unavailable("no answer from h")
    setup = Setup([known], {"ok": replies(Refused("403 from h: later"), gone, gone, Agreed())})
    found: list[Answer] = []
    async with messaging(setup) as messenger:

        def agreed() -> bool:
            setup.now_s += 1.0
            found.extend(answer for answer in messenger.answers(known).values() if answer not in found[-1:])
            return bool(found) and found[-1].agreed

        await eventually(agreed)
        assert [(each.agreed, each.words) for each in found] == [
            (False, "403 from h: later"),
            (False, "no answer from h"),
            (True, ""),
        ]
        assert {attempt for _, attempt in setup.calls("ok")} == {1}
        assert len({said.key for said, _ in setup.calls("ok")}) == len(setup.calls("ok"))


async def test_an_answer_that_says_the_same_is_the_same() -> None:
    known = rollout({"at": "confirm-rollout", "name": "ok"})
    setup = Setup([known], {"ok": replies(Refused("403 from h"))})
    async with messaging(setup) as messenger:
        await eventually(lambda: len(setup.told) > 1)
        first = messenger.answers(known)
        setup.now_s = 50.0
        before = len(setup.told)
        await eventually(lambda: len(setup.told) > before + 2)
        assert (messenger.answers(known), setup.answers) == (first, 1)


async def test_the_rollout_kind_is_tried_again_before_it_does_not_agree() -> None:
    state = State(Phase.SHIFTING, 0.0)
    known = rollout({"at": "rollout", "name": "load", "retries": 1}, state=state)
    setup = Setup([known], {"load": replies(Agreed(), Refused("500 from h"), Agreed(), Refused("500 from h"))})
    found: list[Answer] = []
    async with messaging(setup) as messenger:

        def refused() -> bool:
            found.extend(answer for answer in messenger.answers(known).values() if answer not in found[-1:])
            return bool(found) and not found[-1].agreed

        await eventually(refused)
        assert found == [Answer(True, 5.0), Answer(False, 5.0, "500 from h (2 attempts)")]


async def test_a_hanging_hook_delays_no_other_and_is_left_alone_when_it_is_not_wanted() -> None:
    known = rollout({"at": "confirm-rollout", "name": "stuck"}, {"at": "confirm-rollout", "name": "ok"})
    setup = Setup([known], {"stuck": hang, "ok": agree})
    async with messaging(setup) as messenger:
        await eventually(lambda: messenger.answers(known))
        assert (messenger.answers(known), setup.running) == ({"1": Answer(True, 5.0)}, {"stuck"})
        setup.rollouts = [replace(known, state=State(Phase.REMOVING, 1.0))]
        await eventually(lambda: not setup.running)
        assert messenger.answers(setup.rollouts[0]) == {}


async def test_who_was_not_wanted_for_a_while_is_called_again_by_the_same_key() -> None:
    known = rollout({"at": "provision", "name": "up", "retries": 0})
    setup = Setup([known], {"up": replies(Refused("503 from h"), Agreed())})
    async with messaging(setup) as messenger:
        await eventually(lambda: messenger.answers(known))
        setup.rollouts = [replace(known, state=PAUSED)]
        await some_ticks()
        assert messenger.answers(setup.rollouts[0]) == {}
        setup.rollouts = [known]
        await eventually(lambda: messenger.answers(known).get("0") == Answer(True, 5.0))
        assert len({said.key for said, _ in setup.calls("up")}) == 1


async def test_who_has_agreed_before_a_restart_is_not_called() -> None:
    known = rollout(
        {"at": "provision", "name": "up"},
        {"at": "provision", "name": "more"},
        state=replace(PENDING, called=frozenset({"0"}), awaited=Awaited.HOOK),
    )
    setup = Setup([known], {"more": agree})
    async with messaging(setup) as messenger:
        await eventually(lambda: messenger.answers(known))
        assert [name for name, _, _ in setup.told] == ["more"]
        assert [each.progress for each in messenger.reports(known)] == [Progress.AGREED, Progress.AGREED]


async def test_nobody_is_called_for_what_is_not_saved() -> None:
    known = rollout({"at": "provision", "name": "up"})
    setup = Setup([known], {"up": agree}, saved=False)
    async with messaging(setup) as messenger:
        await some_ticks()
        assert (setup.told, messenger.reports(known)[0].progress) == ([], Progress.IDLE)
        setup.saved = True
        await eventually(lambda: messenger.answers(known))


@pytest.mark.parametrize(
    ("refusal", "tries", "words"),
    [
        (InvalidSpec("its endpoints: x"), 1, "its endpoints: x"),
        (Conflict("being saved"), 3, "being saved (3 attempts)"),
    ],
)
async def test_what_is_provided_must_be_taken(refusal: Exception, tries: int, words: str) -> None:
    known = rollout({"at": "provision", "name": "up", "retries": 2})
    setup = Setup([known], {"up": replies(Agreed("{}"))}, refusal=refusal)
    async with messaging(setup) as messenger:
        await eventually(lambda: messenger.answers(known))
        assert messenger.answers(known) == {"0": Answer(False, 5.0, words)}
        assert len(setup.told) == tries


# --- events ---


def moved(known: Rollout, number: int) -> Rollout:
    return replace(known, state=State(Phase.SHIFTING, 1.0, number % 4, reason=f"step {number}"), revision=number + 2)


async def test_each_change_of_phase_or_stage_is_told_once_and_in_order() -> None:
    known = rollout({"at": "event", "name": "log"})
    setup = Setup([known], {"log": replies(Agreed(), Unavailable("no answer"), Agreed())})
    async with messaging(setup) as messenger:
        messenger.changed(known, None)
        steps = [known, *(moved(known, number) for number in range(3))]
        for before, after in pairwise(steps):
            messenger.changed(after, before)
            messenger.changed(replace(after, revision=99), after)
        await eventually(lambda: len(setup.told) == 5)
        await eventually(lambda: messenger.reports(known)[0].progress is Progress.AGREED)
    standings = [(said.said["phase"], said.said["stage"], attempt) for said, attempt in setup.calls("log")]
    assert standings == [
        ("pending", 0, 1),
        ("shifting", 0, 1),
        ("shifting", 0, 2),
        ("shifting", 1, 1),
        ("shifting", 2, 1),
    ]
    assert len({said.key for said, _ in setup.calls("log")}) == 4
    assert setup.untold == []


async def test_who_listens_is_told_that_somebody_is_waited_for_but_not_of_hooks() -> None:
    known = rollout({"at": "event", "name": "log"}, state=State(Phase.SHIFTING, 0.0))
    setup = Setup([known], {"log": agree})
    async with messaging(setup) as messenger:
        whom = (None, Awaited.HOOK, Awaited.APPROVAL, None, Awaited.THAW)
        states = (replace(known.state, awaited=awaited, waiting=f"for {awaited}") for awaited in whom)
        for before, after in pairwise(replace(known, state=state) for state in states):
            messenger.changed(after, before)
        await eventually(lambda: len(setup.told) == 3)
    waiting = [(said.said.get("awaiting"), said.said.get("waiting")) for said, _ in setup.calls("log")]
    assert waiting == [("approval", "for approval"), (None, None), ("thaw", "for thaw")]


async def test_a_hook_that_is_slow_to_hear_misses_the_oldest_and_hears_how_many() -> None:
    known = rollout({"at": "event", "name": "log"})
    go_on = asyncio.Event()

    async def slow(_: Message, __: int) -> Reply:
        await go_on.wait()
        return Agreed()

    setup = Setup([known], {"log": slow})
    async with messaging(setup) as messenger:
        messenger.changed(known, None)
        await eventually(lambda: setup.running)
        for number in range(KEPT_EVENTS + 3):
            messenger.changed(moved(known, number), moved(known, number + 1))
        assert messenger.reports(known)[0].progress is Progress.CALLING
        go_on.set()
        await eventually(lambda: len(setup.told) == 1 + KEPT_EVENTS)
    second, third = setup.calls("log")[1][0].said, setup.calls("log")[2][0].said
    assert (second["reason"], second["dropped"], third["reason"]) == ("step 3", 3, "step 4")
    assert "dropped" not in third


async def test_an_event_that_cannot_be_told_is_said_and_the_next_one_follows() -> None:
    known = rollout({"at": "event", "name": "log", "retries": 1})
    setup = Setup([known], {"log": replies(Refused("503 from h"), Refused("503 from h"), Agreed())})
    async with messaging(setup) as messenger:
        messenger.changed(known, None)
        await eventually(lambda: setup.untold)
        assert setup.untold == ["503 from h (2 attempts)"]
        assert messenger.reports(known) == (Report(known.strategy.hooks[0], Progress.REFUSED, "503 from h", 2),)
        messenger.changed(moved(known, 0), known)
        await eventually(lambda: messenger.reports(known)[0].progress is Progress.AGREED)


def test_time_between_tries_doubles_up_to_a_minute() -> None:
    hook = Hook.model_validate({"at": "event", "command": "x", "backoff": "2s"})
    assert [backoff_s(hook, attempt) for attempt in (1, 2, 3, 6, 11)] == [2.0, 4.0, 8.0, 60.0, 60.0]
