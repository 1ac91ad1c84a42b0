"""What is wrong with what a user wrote: pydantic's errors in our words, each with the path that leads to it."""

import re
from collections.abc import Mapping
from dataclasses import dataclass

from pydantic import ValidationError
from pydantic_core import ErrorDetails

Path = tuple[str | int, ...]
# What is wrong there may be a password or a key misplaced.
_PRIVATE = frozenset({"prometheus", "web", "hooks", "consul", "http_sd"})
_WORDS = {
    "Extra inputs are not permitted": "is no setting; look for a typing error",
    "Field required": "is missing",
    "Input should be": "must be",
    r"a (valid )?dictionary( or (an )?instance of \w+)?": "a mapping",
    "a valid tuple": "a list",
}


@dataclass(frozen=True, slots=True)
class Fault:
    """One thing that is wrong: keys and positions that lead to it, () for the whole, and what it is."""

    path: Path
    what: str

    def __str__(self) -> str:
        return f"{path_words(self.path)}: {self.what}" if self.path else self.what


def path_words(path: Path) -> str:
    """Write a path as stages[1].hold."""
    return "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path).lstrip(".")


def faults(error: ValidationError) -> tuple[Fault, ...]:
    return tuple(Fault(each["loc"], _what(each)) for each in error.errors(include_url=False))


def described(error: ValidationError) -> str:
    """Say all that is wrong in one line."""
    return "; ".join(map(str, faults(error)))


def _what(fault: ErrorDetails) -> str:
    message, given = fault["msg"].removeprefix("Value error, "), fault["input"]
    for theirs, ours in _WORDS.items():
        message = re.sub(theirs, ours, message)
    # Our own messages have the value in them.
    shown = fault["type"] not in ("value_error", "extra_forbidden") and _PRIVATE.isdisjoint(fault["loc"])
    if shown and not isinstance(given, Mapping | list | tuple):
        message += f", but is {repr(given)[:80]}"
    return message
