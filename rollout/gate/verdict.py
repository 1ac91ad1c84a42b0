"""What a look ends in: Pass, Fail, Inconclusive or Blind, with the sentence and the numbers that explain it.

`notes` are beside the decision: Envoys that are astray, and what checks on trial would have said.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, ClassVar, TypeAlias


class VerdictName(StrEnum):
    """How a verdict is called in JSON, on the command line and in metrics."""

    PASS = "pass"  # noqa: S105  # a verdict, no password
    FAIL = "fail"
    INCONCLUSIVE = "inconclusive"
    BLIND = "blind"


@dataclass(frozen=True, slots=True)
class Pass:
    """The stage has shown enough: go on."""

    name: ClassVar[VerdictName] = VerdictName.PASS
    reason: str
    numbers: Mapping[str, float] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Fail:
    """The candidate is worse: roll back. `host`: the address of the one backend that explains it, "" when none does."""

    name: ClassVar[VerdictName] = VerdictName.FAIL
    reason: str
    numbers: Mapping[str, float] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    host: str = ""


@dataclass(frozen=True, slots=True)
class Inconclusive:
    """Not enough evidence for either: keep the weight and look again."""

    name: ClassVar[VerdictName] = VerdictName.INCONCLUSIVE
    reason: str
    numbers: Mapping[str, float] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Blind:
    """Some of the data is missing: keep the weight."""

    name: ClassVar[VerdictName] = VerdictName.BLIND
    reason: str
    numbers: Mapping[str, float] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


Verdict: TypeAlias = Pass | Fail | Inconclusive | Blind

_TYPES: Mapping[VerdictName, type[Pass | Fail | Inconclusive | Blind]] = {
    verdict_type.name: verdict_type for verdict_type in (Pass, Fail, Inconclusive, Blind)
}


def verdict_to_json(verdict: Verdict) -> dict[str, Any]:
    """Plain values for a JSON document."""
    known = {
        "verdict": str(verdict.name),
        "reason": verdict.reason,
        "numbers": dict(verdict.numbers),
        "notes": list(verdict.notes),
    }
    return known | {"host": verdict.host} if isinstance(verdict, Fail) else known


def verdict_from_json(saved: Mapping[str, Any]) -> Verdict:
    """The verdict that `verdict_to_json` wrote; ValueError for a name that no verdict has."""
    name, reason, numbers = VerdictName(saved["verdict"]), saved["reason"], saved["numbers"]
    notes = tuple(saved.get("notes", ()))
    if name is VerdictName.FAIL:
        return Fail(reason, numbers, notes, saved.get("host", ""))
    return _TYPES[name](reason, numbers, notes)
