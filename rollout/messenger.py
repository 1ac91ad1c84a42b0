"""Calls the hooks that rollouts want now, keeps what they say, and tells who listens of each change."""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from enum import StrEnum
from typing import NamedTuple

from rollout.courier import Agreed, Refused, Reply
from rollout.errors import InvalidSpec, RolloutError
from rollout.hooks import RETRIED, Answer, Call, Hook, HookKind, at
from rollout.machine import calls
from rollout.message import Endpoints, Message, about, key_of_call, key_of_event, message
from rollout.record import Rollout
from rollout.state import Awaited

TICK_S = 0.1
KEPT_EVENTS = 100  # of one hook that is slow to hear of them; the oldest go first
LONGEST_BACKOFF_S = 60.0
WORDS_CHARACTERS = 400


@dataclass(frozen=True, slots=True)
class World:
    """What the messenger is given.

    `saved` says whether all that was decided for a service is saved; before, nobody new is called. `deliver` tries
    once. `provided` takes what a `provision` hook has said. `answered` is told of each new answer, `untold` of an event
    that a hook did not hear of, and why. `clock` has the engine's seconds, `wall` is for people.
    """

    rollouts: Callable[[], Iterable[Rollout]]
    saved: Callable[[str], bool]
    endpoints: Callable[[Rollout], Endpoints]
    deliver: Callable[[Message, int], Awaitable[Reply]]
    provided: Callable[[Rollout, str], Awaitable[None]]
    answered: Callable[[], None]
    untold: Callable[[Message, str], None]
    clock: Callable[[], float]
    wall: Callable[[], datetime]


class Progress(StrEnum):
    """Where the calls of a hook stand."""

    IDLE = "idle"
    CALLING = "calling"
    AGREED = "agreed"
    REFUSED = "refused"


@dataclass(frozen=True, slots=True)
class Report:
    """What became of one hook of a rollout so far; `words` is why it did not agree last, `attempts` counts tries."""

    hook: Hook
    progress: Progress
    words: str = ""
    attempts: int = 0


class _Place(NamedTuple):
    """Which call: of which service's which rollout."""

    service: str
    rollout: int
    key: str


@dataclass(slots=True)
class _Effort:
    """How often a hook was called, and what came of it last."""

    attempts: int = 0
    words: str = ""


@dataclass(slots=True)
class _Asking:
    """One call that is wanted: the rollout as it stands, its answer, None before there is one, and who works on it."""

    rollout: Rollout
    call: Call
    effort: _Effort = field(default_factory=_Effort)
    answer: Answer | None = None
    task: asyncio.Task[None] | None = None

    @property
    def hook(self) -> Hook:
        return self.rollout.strategy.hooks[self.call.number]


@dataclass(slots=True)
class _Telling:
    """What one event hook of a service has yet to hear of, in order; `dropped` counts what was too much."""

    rollout: int
    effort: _Effort = field(default_factory=_Effort)
    waiting: deque[Message] = field(default_factory=deque)
    dropped: int = 0
    task: asyncio.Task[None] | None = None

    def add(self, event: Message) -> None:
        if len(self.waiting) == KEPT_EVENTS:
            self.waiting.popleft()
            self.dropped += 1
        self.waiting.append(event)

    def take(self) -> Message:
        """Return the next one; it says how many before it are lost."""
        event, dropped, self.dropped = self.waiting.popleft(), self.dropped, 0
        return replace(event, said={**event.said, "dropped": dropped}) if dropped else event


class Messenger:
    """Each call is a task of its own, so a hook that hangs delays no other; who is not wanted any more is left alone.

    What it does not know after a restart it asks again: by the same key, so that nothing is done twice.
    """

    def __init__(self, world: World, *, tick_s: float = TICK_S) -> None:
        self._world = world
        self._tick_s = tick_s
        self._askings: dict[_Place, _Asking] = {}
        self._tellings: dict[tuple[str, int], _Telling] = {}
        self._wanted_of: dict[str, tuple[Rollout, tuple[Call, ...]]] = {}

    async def run(self) -> None:
        """Until cancelled."""
        async with asyncio.TaskGroup() as group:
            while True:
                self._follow(group)
                self._tell(group)
                await asyncio.sleep(self._tick_s)

    def answers(self, rollout: Rollout) -> Mapping[str, Answer]:
        """Return by key what hooks have said that this rollout wants to know now."""
        wanted = (self._asking(rollout, call) for call in self._wanted(rollout))
        return {each.call.key: each.answer for each in wanted if each is not None and each.answer is not None}

    def reports(self, rollout: Rollout) -> tuple[Report, ...]:
        """Return what became of each hook of a rollout so far."""
        askings = [each for call in self._wanted(rollout) if (each := self._asking(rollout, call)) is not None]
        askings.sort(key=lambda each: each.answer is None or not each.answer.agreed)  # in waves a hook has several
        wanted = {each.call.number: each for each in askings}
        called = {int(key.partition("/")[0]) for key in rollout.state.called}
        found = []
        for number, hook in enumerate(rollout.strategy.hooks):
            asking = wanted.get(number)
            if hook.at is HookKind.EVENT:
                found.append(self._report_of_event(rollout, number, hook))
            elif asking is not None:
                found.append(Report(hook, _progress(asking.answer), asking.effort.words, asking.effort.attempts))
            else:
                found.append(Report(hook, Progress.AGREED if number in called else Progress.IDLE))
        return tuple(found)

    def changed(self, rollout: Rollout, before: Rollout | None) -> None:
        """Have who listens told of a new phase, stage or wave, and when it waits for a person or the calendar."""
        if before is not None and _standing(before) == _standing(rollout):
            return
        for number in at(rollout.strategy.hooks, HookKind.EVENT):
            hook, key = rollout.strategy.hooks[number], key_of_event(rollout, number)
            telling = self._tellings.setdefault((rollout.service, number), _Telling(rollout.id))
            if telling.rollout != rollout.id:
                telling.rollout, telling.effort = rollout.id, _Effort()
            telling.add(self._message(rollout, hook, key))

    def _wanted(self, rollout: Rollout) -> tuple[Call, ...]:
        """Return who is wanted now; with many locations that takes a while, so it is kept until something changes."""
        if not rollout.strategy.hooks:
            return ()
        known = self._wanted_of.get(rollout.service)
        if known is None or known[0] is not rollout:
            known = self._wanted_of[rollout.service] = (rollout, calls(rollout.strategy, rollout.state))
        return known[1]

    def _asking(self, rollout: Rollout, call: Call) -> _Asking | None:
        return self._askings.get(_Place(rollout.service, rollout.id, call.key))

    def _report_of_event(self, rollout: Rollout, number: int, hook: Hook) -> Report:
        telling = self._tellings.get((rollout.service, number))
        if telling is None or telling.rollout != rollout.id:
            return Report(hook, Progress.IDLE)
        words, attempts = telling.effort.words, telling.effort.attempts
        if telling.waiting or telling.task is not None:
            return Report(hook, Progress.CALLING, words, attempts)
        return Report(hook, Progress.REFUSED if words else Progress.AGREED, words, attempts)

    # --- who is asked ---

    def _follow(self, group: asyncio.TaskGroup) -> None:
        """Leave alone who is not wanted any more; call who is wanted now."""
        wanted = {
            _Place(rollout.service, rollout.id, call.key): (rollout, call)
            for rollout in self._world.rollouts()
            for call in self._wanted(rollout)
        }
        for place in self._askings.keys() - wanted.keys():
            task = self._askings.pop(place).task
            if task is not None:
                task.cancel()
        for place, (rollout, call) in wanted.items():
            known = self._askings.get(place)
            if known is not None:
                known.rollout = rollout
            elif self._world.saved(rollout.service):  # what a hook does is not to be forgotten
                asking = self._askings[place] = _Asking(rollout, call)
                asking.task = group.create_task(self._ask(asking), name=f"hook {asking.hook.label}")

    async def _ask(self, asking: _Asking) -> None:
        """Call one hook; where its kind is asked again and again, until cancelled."""
        while True:
            rollout, hook = asking.rollout, asking.hook
            key = key_of_call(rollout, asking.call, self._world.clock())
            said = about(self._message(rollout, hook, key), asking.call)
            reply = await self._called(rollout, said, asking.effort)
            agreed, words = isinstance(reply, Agreed), "" if isinstance(reply, Agreed) else reply.words
            if asking.answer is None or (asking.answer.agreed, asking.answer.words) != (agreed, words):
                asking.answer = Answer(agreed, self._world.clock(), words)
                self._world.answered()
            if not hook.asked_again:
                return
            await asyncio.sleep(hook.interval.total_seconds())

    # --- who is told ---

    def _tell(self, group: asyncio.TaskGroup) -> None:
        for (service, _), telling in self._tellings.items():
            if telling.waiting and telling.task is None:
                telling.task = group.create_task(self._tell_all(telling), name=f"events of {service}")

    async def _tell_all(self, telling: _Telling) -> None:
        while telling.waiting:
            event = telling.take()
            reply = await self._called(None, event, telling.effort)
            if isinstance(reply, Refused):
                self._world.untold(event, reply.words)
        telling.task = None

    # --- how ---

    def _message(self, rollout: Rollout, hook: Hook, key: str) -> Message:
        return message(rollout, hook, key, self._world.endpoints(rollout), self._world.wall())

    async def _called(self, rollout: Rollout | None, said: Message, effort: _Effort) -> Reply:
        """Try until it agrees, or will not, or there were tries enough."""
        most = 1 + said.hook.retries if said.hook.at in RETRIED else 1
        reply: Reply = Refused("was not called")
        attempt = 0
        while attempt < most:
            attempt += 1
            effort.attempts += 1
            reply = await self._tried(rollout, said, attempt)
            effort.words = reply.words if isinstance(reply, Refused) else ""
            if isinstance(reply, Agreed) or reply.final:
                break
            if attempt < most:
                await asyncio.sleep(backoff_s(said.hook, attempt))
        if isinstance(reply, Refused) and attempt > 1:
            return replace(reply, words=f"{reply.words} ({attempt} attempts)")
        return reply

    async def _tried(self, rollout: Rollout | None, said: Message, attempt: int) -> Reply:
        try:
            reply = await self._world.deliver(said, attempt)
            if rollout is not None and said.hook.at is HookKind.PROVISION and isinstance(reply, Agreed):
                await self._world.provided(rollout, reply.text)
        except InvalidSpec as error:
            return Refused(str(error)[:WORDS_CHARACTERS], final=True)
        except RolloutError as error:
            return Refused(str(error)[:WORDS_CHARACTERS])
        except Exception as error:  # noqa: BLE001 - what nobody foresaw must not end the fleet's control plane
            return Refused(f"a bug of the server: {type(error).__name__}")
        return reply


def backoff_s(hook: Hook, attempt: int) -> float:
    """Return how long to wait after so many tries."""
    return min(LONGEST_BACKOFF_S, hook.backoff.total_seconds() * 2.0 ** (attempt - 1))


def _progress(answer: Answer | None) -> Progress:
    if answer is None:
        return Progress.CALLING
    return Progress.AGREED if answer.agreed else Progress.REFUSED


def _standing(rollout: Rollout) -> tuple[object, ...]:
    state = rollout.state
    # Hooks know that they are asked.
    awaited = None if state.awaited is Awaited.HOOK else state.awaited
    return rollout.id, state.phase, state.stage, state.wave, awaited
