"""Checks beside the statistics: limits that a user sets on a measured value, and what their readings come to."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

CANDIDATE = "the candidate"
NO_ANSWER_MS = 3_600_000.0
"""Stands for the latency of a request that was never answered: JSON knows no infinity."""


class Outage(StrEnum):
    """What it means when a check's source does not answer."""

    BLIND = "blind"  # hold, as for an Envoy that cannot be read
    FAIL = "fail"  # as if the limit were broken
    IGNORE = "ignore"  # as if there were no such check until it answers


class Unit(StrEnum):
    """What a check's value is, for the words that are made of it."""

    NUMBER = "number"
    SHARE = "share"  # a part of 1
    MILLISECONDS = "milliseconds"
    PER_SECOND = "per_second"
    EXIT_CODE = "exit_code"


@dataclass(frozen=True, slots=True)
class Check:
    """A limit on one measured value, `name` unique in its strategy.

    It is broken when `consecutive` readings in a row lie above `maximum` or below `minimum`. A broken one that is
    `critical` fails the candidate; any other holds the stage. A `dry_run` is only reported. `what` is measured, in
    words, with `$candidate` for the version; "": its name says it.
    """

    name: str
    maximum: float | None = None
    minimum: float | None = None
    consecutive: int = 1
    critical: bool = False
    dry_run: bool = False
    outage: Outage = Outage.BLIND
    unit: Unit = Unit.NUMBER
    what: str = ""


@dataclass(frozen=True, slots=True)
class Reading:
    """One measurement for a check; `value` None: its source did not answer.

    `fault` says why there is none, or what a command said that ended badly.
    """

    check: str
    at_s: float
    value: float | None = None
    fault: str = ""


@dataclass(frozen=True, slots=True)
class Watched:
    """What a check's readings have come to in this stage: the last one, and how many in a row broke the limit."""

    last: Reading
    broken: int = 0


def watch(
    checks: Sequence[Check], watched: Mapping[str, Watched], readings: Sequence[Reading]
) -> Mapping[str, Watched]:
    """What is known after these readings; those of checks that are not in the strategy are left out.

    A reading without a value neither breaks a limit nor keeps it, so the count goes on where it was; but with
    `Outage.FAIL` it breaks it.
    """
    known = {check.name: check for check in checks}
    after = {name: each for name, each in watched.items() if name in known}
    for reading in readings:
        check = known.get(reading.check)
        if check is not None:
            before = after.get(check.name)
            after[check.name] = Watched(reading, _broken(check, reading, before.broken if before else 0))
    return after


def failed(checks: Sequence[Check], watched: Mapping[str, Watched], candidate: str = CANDIDATE) -> str | None:
    """Why a critical check fails the candidate; None when none does."""
    causes = (
        _told(check, watched[check.name], candidate)
        for check in checks
        if not check.dry_run and check.critical and _is_broken(check, watched)
    )
    return next(causes, None)


def blind(checks: Sequence[Check], watched: Mapping[str, Watched]) -> tuple[str, ...]:
    """The checks whose source does not answer, each with why."""
    return tuple(
        _unread(check, watched[check.name])
        for check in checks
        if not check.dry_run and check.outage is Outage.BLIND and _is_out(check, watched)
    )


def doubts(checks: Sequence[Check], watched: Mapping[str, Watched], candidate: str = CANDIDATE) -> Iterator[str]:
    """Why the checks do not let a stage pass: not measured in it yet, or beyond the limit.

    One reading beyond it is enough: a stage that passed then would forget it, however many in a row were to break it.
    """
    for check in checks:
        if not check.dry_run:
            yield from _doubts(check, watched.get(check.name), candidate)


def notes(checks: Sequence[Check], watched: Mapping[str, Watched], candidate: str = CANDIDATE) -> tuple[str, ...]:
    """What counts for nothing but should be known: what dry runs would have done, and outages that are ignored."""
    return tuple(note for check in checks for note in _notes(check, watched, candidate))


def _notes(check: Check, watched: Mapping[str, Watched], candidate: str) -> Iterator[str]:
    last = watched.get(check.name)
    if last is None:
        return
    if _is_out(check, watched) and check.outage is Outage.IGNORE:
        yield f"{check.name} does not count while its source does not answer: {last.last.fault}"
    elif check.dry_run and check.critical and _is_broken(check, watched):
        yield f"{check.name} would have failed it: {_told(check, last, candidate)}"
    elif check.dry_run and _is_out(check, watched) and check.outage is Outage.BLIND:
        yield f"{check.name} would have been blind: {_unread(check, last)}"
    elif check.dry_run:
        yield from (f"{check.name} would have held it: {why}" for why in _doubts(check, last, candidate))


def _doubts(check: Check, last: Watched | None, candidate: str) -> Iterator[str]:
    if last is None:
        yield f"{_what(check, candidate)} has not been measured at this stage yet"
    elif last.last.value is None:
        if check.outage is not Outage.IGNORE:
            yield _unread(check, last)
    elif _beyond(check, last.last.value):
        yield _told(check, last, candidate)


def _broken(check: Check, reading: Reading, before: int) -> int:
    if reading.value is None:
        return before + 1 if check.outage is Outage.FAIL else before
    return before + 1 if _beyond(check, reading.value) else 0


def _beyond(check: Check, value: float) -> bool:
    """Written so that what is no number lies beyond every limit."""
    above = check.maximum is not None and not value <= check.maximum
    return above or (check.minimum is not None and not value >= check.minimum)


def _is_broken(check: Check, watched: Mapping[str, Watched]) -> bool:
    known = watched.get(check.name)
    return known is not None and known.broken >= check.consecutive


def _is_out(check: Check, watched: Mapping[str, Watched]) -> bool:
    known = watched.get(check.name)
    return known is not None and known.last.value is None


def _told(check: Check, known: Watched, candidate: str) -> str:
    """What a check has measured, against its limit."""
    value, row = known.last.value, f"{known.broken} times in a row" if known.broken > 1 else ""
    if value is None and check.outage is Outage.FAIL:
        return f"{_unread(check, known)}{row and f', {row}'}"
    what, limits = _what(check, candidate), _limits(check)
    if value is None:
        return f"{what} was beyond its limit ({limits}){row and f' {row}'}, and cannot be read now"
    said = f": {known.last.fault}" if known.last.fault else ""
    return f"{what} was {_in_words(check.unit, value)} ({limits}){row and f', beyond its limit {row}'}{said}"


def _unread(check: Check, known: Watched) -> str:
    return f"{check.name}: {known.last.fault or 'no data'}"


def _what(check: Check, candidate: str) -> str:
    return check.what.replace("$candidate", candidate) or check.name


def _limits(check: Check) -> str:
    most = () if check.maximum is None else (f"limit {_in_words(check.unit, check.maximum)}",)
    least = () if check.minimum is None else (f"at least {_in_words(check.unit, check.minimum)}",)
    return ", ".join((*most, *least))


def _in_words(unit: Unit, value: float) -> str:
    match unit:
        case Unit.NUMBER | Unit.EXIT_CODE:
            return f"{value:.6g}"
        case Unit.SHARE:
            return f"{100 * value:.3g} %"
        case Unit.MILLISECONDS if value >= NO_ANSWER_MS:
            return "no answer"
        case Unit.MILLISECONDS:
            return f"{value:.4g} ms"
        case Unit.PER_SECOND:
            return f"{value:.4g} a second"
