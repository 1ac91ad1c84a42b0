"""A rollout's story: what happened, when, and on which evidence, made from the admin API's JSON. Pure."""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from rollout.gate.words import points
from rollout.screen import (
    NOTES_LIMIT,
    WAITING_LIMIT,
    against,
    awaited_words,
    duration,
    instant,
    move,
    percent,
    phase_words,
    plain,
    plural,
    progress,
    progress_words,
    seconds_between,
    share,
    station,
    steps,
    style_of,
    verdict_text,
)

Json = Mapping[str, Any]
LOCATIONS_LIMIT = 24
JUDGED = ("shifting", "paused")
WAITS = ("approval", "thaw", "hook")  # a pause says why by its reason


@dataclass(frozen=True, slots=True)
class Chapter:
    """Consecutive journal entries of one phase and stage.

    `seconds` until the next chapter, and its first entry, `following`; both None for the last.
    """

    entries: tuple[Json, ...]
    seconds: float | None = None
    following: Json | None = None

    @property
    def first(self) -> Json:
        return self.entries[0]

    @property
    def last(self) -> Json:
        return self.entries[-1]


def chapters(journal: Iterable[Json]) -> tuple[Chapter, ...]:
    """Fold a journal: one chapter for each change of phase or stage."""
    groups = [tuple(group) for _, group in groupby(journal, key=_place)]
    following = [*(group[0] for group in groups[1:]), None]
    return tuple(
        Chapter(group) if after is None else Chapter(group, seconds_between(group[0]["at"], after["at"]), after)
        for group, after in zip(groups, following, strict=True)
    )


def _place(entry: Json) -> tuple[object, ...]:
    return entry["phase"], entry["stage"], entry.get("wave")


def story(rollout: Json) -> RenderableType:
    """For `explain`: what happened, when, at which weight, and why."""
    head = plain(f"rollout {rollout['id']} of {rollout['service']}: {move(rollout)}, ", "bold")
    head.append(phase_words(rollout["phase"]), style_of(rollout["phase"]))
    took = duration(seconds_between(rollout["started_at"], rollout["changed_at"]))
    when = Text(f"started {instant(rollout['started_at']):%Y-%m-%d %H:%M:%S} UTC, {took} until its last change", "dim")
    table = Table.grid(padding=(0, 2), pad_edge=False)
    table.add_column(no_wrap=True)
    table.add_column(no_wrap=True, justify="right")
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    day = instant(rollout["started_at"]).date()
    before = ""
    for chapter in chapters(rollout["journal"]):
        at = instant(chapter.first["at"])
        if at.date() != day:
            day = at.date()
            table.add_row(f"{day}")
        table.add_row(
            f"{at:%H:%M:%S}",
            percent(chapter.first["weight_percent"]),
            _name(chapter),
            Group(*_telling(rollout, chapter, before)),
        )
        before = chapter.first["reason"]
    notes = [rollout["stages_note"]] if rollout["stages_note"] else []
    if not rollout["journal"]:
        notes.append(
            f"it ended: {rollout['reason']}; its steps are not kept any more, only those of the newest rollouts"
        )
    return Group(head, when, *(plain(note, "dim") for note in notes), Text(), table)


def _name(chapter: Chapter) -> Text:
    phase = chapter.first["phase"]
    stage = f"stage {chapter.first['stage'] + 1}"
    if chapter.first.get("wave", -1) >= 0:
        stage = f"wave {chapter.first['wave'] + 1}"
    name = stage if phase == "shifting" else phase_words(phase)
    return Text(name, style_of(phase))


def _telling(rollout: Json, chapter: Chapter, before: str) -> Iterator[RenderableType]:
    """What a chapter has to say; its reason only where it is another than the one `before`."""
    first = chapter.first
    if first["phase"] == "shifting" and rollout["track"][first["stage"]]["kind"] != "weight":
        yield plain(station(rollout["track"][first["stage"]]), "bold")
    if first["reason"] != before:
        yield plain(first["reason"])
    if first["by"] and first["by"] not in first["reason"]:
        yield plain(f"asked for by {first['by']}")
    yield from _asked(chapter)
    if len(chapter.entries) > 1:
        lasted = f" in {duration(chapter.seconds)}" if chapter.seconds is not None else ""
        yield Text(f"{len(chapter.entries)} steps{lasted}", "dim")
    yield from _locations(chapter)
    if first["phase"] in JUDGED:
        yield from _judged(rollout, chapter)
    for node, why in sorted(chapter.last["waiting_for"].items())[:WAITING_LIMIT]:
        if chapter.seconds is None:
            yield Text.assemble(("waiting for ", "bold"), plain(f"{node}: {why}"))


def _asked(chapter: Chapter) -> Iterator[RenderableType]:
    """What people and hooks said in a chapter behind its first step, and what was waited for, in the order of time."""
    for awaiting, group in groupby(chapter.entries, key=lambda entry: entry["awaiting"]):
        entries = tuple(group)
        if awaiting in WAITS:
            yield _wait(chapter, entries)
        for entry in entries:
            if entry["command"] and entry is not chapter.first:
                asked = f"{phase_words(entry['command'])} by {entry['by'] or 'an operator'}"
                yield Text.assemble((f"{instant(entry['at']):%H:%M:%S} ", "dim"), plain(asked))
            yield from map(_answer, entry["answers"])


def _locations(chapter: Chapter) -> Iterator[RenderableType]:
    """What became of locations in a chapter of a rollout in waves."""
    told = [
        Text.assemble((f"{instant(entry['at']):%H:%M:%S} ", "dim"), line)
        for entry in chapter.entries
        if entry.get("locations")
        for line in steps(entry)
    ]
    yield from told[:LOCATIONS_LIMIT]
    if len(told) > LOCATIONS_LIMIT:
        yield Text(f"and {len(told) - LOCATIONS_LIMIT} more steps of locations", "dim")


def _wait(chapter: Chapter, entries: Sequence[Json]) -> Text:
    """One wait: for whom, and how long it was; what is still waited for has no length yet."""
    later = [entry for entry in chapter.entries if entry["revision"] > entries[-1]["revision"]]
    after = later[0] if later else chapter.following
    lasted = f", {duration(seconds_between(entries[0]['at'], after['at']))}" if after else ""
    words = awaited_words(entries[0])
    return Text.assemble((words, "yellow"), plain(f": {entries[-1]['waiting']}{lasted}"))


def _answer(answer: Json) -> Text:
    said = "agrees" if answer["agreed"] else answer["words"] or "does not agree"
    return Text.assemble(("hook ", "bold"), plain(f"{answer['hook']} ({answer['at']}): {said}"))


def _judged(rollout: Json, chapter: Chapter) -> Iterator[RenderableType]:
    """The backend that was let go in it; the verdict that ended a stage, or the last one in it, with its numbers."""
    let_go = next((entry for entry in rollout["journal"] if entry["let_go"]), None)
    if let_go in chapter.entries and let_go["verdict"] != chapter.last["verdict"]:
        yield plain(let_go["verdict"]["reason"])
    after, verdict = chapter.following, chapter.last["verdict"]
    if after is not None:
        decided = after["verdict"] if after["phase"] in ("rolling_back", "retaining") else after["passed"]
        verdict = decided or verdict
    if not verdict:
        return
    if verdict["reason"] != chapter.first["reason"]:
        yield Text.assemble(("last verdict ", "dim"), verdict_text(verdict))
    yield from (Text(line, "dim") for line in _numbers(rollout, verdict["numbers"]))
    if verdict.get("host"):
        yield Text.assemble(("blamed ", "bold"), plain(verdict["host"]))
    yield from _readings(chapter)
    notes = verdict["notes"]
    yield from (Text.assemble(("note ", "bold"), plain(note)) for note in notes[:NOTES_LIMIT])
    for words in _astray(chapter, notes):
        yield Text.assemble(("astray ", "bold"), plain(words))


def _numbers(rollout: Json, numbers: Json) -> Iterator[str]:
    """A verdict's figures in words: both versions, and the evidence against and for the candidate."""
    for role in ("candidate", "stable"):
        if numbers.get(f"{role}_requests"):
            yield f"{plain(rollout[role])}: {_counts(role, numbers)}"
    if numbers.get("excess_errors", 0.0) >= 1:
        cost = plural(round(numbers["excess_errors"]), "bad answer")
        yield f"cost: {cost} more than {plain(rollout['stable'])} would have given, in the whole rollout"
    if "ln_limit" in numbers:
        yield from _evidence(rollout, numbers)


def _counts(role: str, numbers: Json) -> str:
    requests, errors = int(numbers[f"{role}_requests"]), int(numbers.get(f"{role}_errors", 0))
    words = [plural(requests, "request"), f"{plural(errors, 'error')} ({share(numbers[f'{role}_error_share'])})"]
    timeouts, retries = (int(numbers.get(f"{role}_{noun}", 0)) for noun in ("timeouts", "retries"))
    if timeouts:
        words.append(plural(timeouts, "timeout"))
    if retries:
        words.append(f"{retries:,} retried")
    return ", ".join(words)


def _evidence(rollout: Json, numbers: Json) -> Iterator[str]:
    yield f"evidence against {plain(rollout['candidate'])}: {against(numbers)} (p {numbers['p_value']:.2g})"
    if numbers.get("stable_requests"):
        yield f"evidence that it is at most {points(numbers['margin'])} worse: {progress_words(progress(numbers))}"
    if "shown_margin" in numbers:
        sure = share(1 - math.exp(-numbers["ln_pass_limit"]))
        yield f"shown of errors, in the whole rollout: at most {points(numbers['shown_margin'])} worse, {sure}"


def _readings(chapter: Chapter) -> Iterator[RenderableType]:
    """What each check measured last, in the look that ended the chapter, too."""
    entries = chapter.entries if chapter.following is None else (*chapter.entries, chapter.following)
    last = {reading["check"]: reading for entry in entries for reading in entry["readings"]}
    for name, reading in sorted(last.items()):
        found = reading["fault"] if reading["value"] is None else f"{reading['value']:.4g}"
        yield Text.assemble(("check ", "bold"), plain(f"{name}: {found}"))


def _astray(chapter: Chapter, notes: Sequence[str]) -> Iterator[str]:
    """Envoys that routed otherwise than they had ACKed, each with what was said of it last, beside those of `notes`."""
    said = (words for entry in chapter.entries for words in entry["astray"])
    last = {words.partition(" ")[0]: words for words in said}
    names = [last[node] for node in sorted(last.keys() - {note.partition(" ")[0] for note in notes})]
    yield from names[:NOTES_LIMIT]
    if len(names) > NOTES_LIMIT:
        yield f"and {len(names) - NOTES_LIMIT} more"
