"""A rollout's recording, and whether machine and judge decide the same when its observations come again. Pure."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Final, Literal

from pydantic import TypeAdapter, ValidationError
from pydantic.main import IncEx

from rollout.errors import Conflict, InvalidSpec
from rollout.gate import Evidence, Verdict
from rollout.machine import advance, strategy_of, weight_bp
from rollout.record import JournalEntry, Rollout
from rollout.spec import Strategy
from rollout.state import State
from rollout.waves import words

FORMAT: Final = 1
_EVIDENCE: Final[Mapping[str, IncEx | bool]] = {"evidence": True, "lanes": {"__all__": {"evidence"}}}


@dataclass(frozen=True, slots=True)
class Recording:
    """All that decided a rollout: its strategy, its first state, and the observation behind each step after it."""

    format: Literal[1]
    service: str
    id: int
    stable: str
    candidate: str
    strategy: Strategy
    entries: tuple[JournalEntry, ...]


@dataclass(frozen=True, slots=True)
class Difference:
    """The first step that came out otherwise, and in what."""

    entry: JournalEntry
    what: str
    recorded: str
    replayed: str


@dataclass(frozen=True, slots=True)
class Replayed:
    """`looks` that were judged, and `decisions`: moves to another phase or stage. `difference` None: all the same."""

    looks: int
    decisions: int
    difference: Difference | None = None


@cache
def _recordings() -> TypeAdapter[Recording]:
    return TypeAdapter(Recording)


@cache
def _entries() -> TypeAdapter[JournalEntry]:
    return TypeAdapter(JournalEntry)


def recording(rollout: Rollout, entries: Sequence[JournalEntry]) -> Recording:
    """That of a rollout with this journal."""
    names = (rollout.service, rollout.id, rollout.stable, rollout.candidate)
    return Recording(FORMAT, *names, rollout.strategy, tuple(entries))


def dump_recording(given: Recording) -> bytes:
    """As JSON, a line for each step; of the states the evidence is left out, for the observations give it again."""
    head = _recordings().dump_json(given, by_alias=True, exclude={"entries"})
    steps = (_entries().dump_json(entry, exclude={"state": _EVIDENCE}) for entry in given.entries)
    return head[:-1] + b',"entries":[\n' + b",\n".join(steps) + b"\n]}\n"


def load_recording(text: bytes) -> Recording:
    """Raises InvalidSpec for what is none, or one that this version cannot read."""
    try:
        found = _recordings().validate_json(text)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(map(str, first["loc"])) or "it"
        raise InvalidSpec(
            f"is no recording of a rollout that this version can read: {where}: {first['msg']}"
        ) from error
    if b'"preview"' not in text:  # recorded before there was one
        found = replace(found, strategy=found.strategy.model_copy(update={"preview": None}))
    if not found.entries or found.entries[0].because is not None:
        raise InvalidSpec("is a recording without its beginning, so nothing can be replayed")
    unseen = next((number for number, entry in enumerate(found.entries[1:], 2) if entry.because is None), None)
    if unseen is not None:
        raise InvalidSpec(f"has step {unseen} of {len(found.entries)} without what was seen; record the rollout again")
    return found


def replay(strategy: Strategy, entries: Sequence[JournalEntry]) -> Replayed:
    """Take the first entry's state and advance it by each observation, up to the first difference."""
    state = replace(entries[0].state, evidence=Evidence.start())
    looks = decisions = 0
    for entry in entries[1:]:
        assert entry.because is not None, entry.revision
        before = state
        try:
            state, _ = advance(strategy, before, entry.because)
        except Conflict as error:
            refused = Difference(entry, "command", f"{entry.because.command} was obeyed", str(error))
            return Replayed(looks, decisions, refused)
        was = (before, *(before.lanes.get(location, before) for location in state.lanes))
        pairs = tuple(zip(was, (state, *state.lanes.values()), strict=True))
        looks += sum(following.looked_s > each.looked_s for each, following in pairs)
        decisions += sum((following.phase, following.stage) != (each.phase, each.stage) for each, following in pairs)
        difference = next(_differences(strategy, entry, state), None)
        if difference is not None:
            return Replayed(looks, decisions, difference)
    return Replayed(looks, decisions)


def _differences(strategy: Strategy, entry: JournalEntry, state: State) -> Iterator[Difference]:
    yield from _differing(strategy, entry, entry.state, state)
    for location in sorted(entry.state.lanes.keys() | state.lanes.keys()):
        lanes = entry.state.lanes.get(location), state.lanes.get(location)
        recorded, replayed = lanes
        if recorded is None or replayed is None:
            there = ["none" if lane is None else "there" for lane in lanes]
            yield Difference(entry, f"the location {words(location)}", there[0], there[1])
        else:
            found = _differing(strategy_of(strategy, recorded), entry, recorded, replayed)
            yield from (replace(each, what=f"{each.what} of {words(location)}") for each in found)


def _differing(strategy: Strategy, entry: JournalEntry, recorded: State, state: State) -> Iterator[Difference]:
    compared = (
        ("phase", recorded.phase, state.phase),
        ("stage", str(recorded.stage + 1), str(state.stage + 1)),
        ("weight", _percent(strategy, recorded), _percent(strategy, state)),
        ("verdict", _words(recorded.verdict), _words(state.verdict)),
        ("notes", _notes(recorded.verdict), _notes(state.verdict)),
        ("reason", recorded.reason, state.reason),
    )
    for what, before, after in compared:
        if before != after:
            yield Difference(entry, what, before, after)
    yield from _differing_numbers(entry, recorded, state)


def _differing_numbers(entry: JournalEntry, was: State, state: State) -> Iterator[Difference]:
    """Logarithms differ in their last digit from one machine to the next, and later versions may give more figures."""
    recorded = {} if was.verdict is None else was.verdict.numbers
    replayed = {} if state.verdict is None else state.verdict.numbers
    for name, before in sorted(recorded.items()):
        after = replayed.get(name)
        if not _close(before, after):
            yield Difference(entry, f"the verdict's {name}", str(before), str(after))


def _close(before: object, after: float | None) -> bool:
    """Whether they are the same number; what is recorded may be anything."""
    return (
        isinstance(before, int | float)
        and after is not None
        and math.isclose(before, after, rel_tol=1e-9, abs_tol=1e-9)
    )


def _words(verdict: Verdict | None) -> str:
    return "none" if verdict is None else f"{verdict.name}: {verdict.reason}"


def _notes(verdict: Verdict | None) -> str:
    return "" if verdict is None else "; ".join(verdict.notes)


def _percent(strategy: Strategy, state: State) -> str:
    return f"{weight_bp(strategy, state) / 100:g} %"
