"""What the API says of a strategy's stages: each with its kind, and what tells the requests that match."""

from collections.abc import Iterator
from typing import Literal

from rollout.api import models
from rollout.exposure import Match, Matcher
from rollout.spec import Stage


def stage_view(stage: Stage, weight_bp: int) -> models.Stage:
    """A stage as it will be: `kind` is weight, match, mirror or preview, and says which other field is not null."""
    return {
        "kind": _kind(stage),
        "weight_percent": weight_bp / 100 if stage.weight_bp else None,
        "mirror_percent": None if stage.mirror_bp is None else stage.mirror_bp / 100,
        "match": " or ".join(map(match_words, stage.match)) or None,
        "hold_seconds": stage.hold.total_seconds(),
        "approve": stage.approve,
    }


def _kind(stage: Stage) -> Literal["weight", "match", "mirror", "preview"]:
    if stage.match:
        return "match"
    if stage.mirror_bp is not None:
        return "mirror"
    return "weight" if stage.weight_bp else "preview"


def match_words(match: Match) -> str:
    """Say what a request must have, as `x-beta=1 and cookie team`."""
    headers = (_matcher_words(name, matcher) for name, matcher in match.headers.items())
    cookies = (f"cookie {_matcher_words(name, matcher)}" for name, matcher in match.cookies.items())
    return " and ".join((*headers, *cookies))


def _matcher_words(name: str, matcher: Matcher) -> str:
    return "".join((name, *_value_words(matcher)))


def _value_words(matcher: Matcher) -> Iterator[str]:
    if matcher.exact is not None:
        yield f"={matcher.exact}"
    if matcher.prefix is not None:
        yield f"={matcher.prefix}*"
    if matcher.regex is not None:
        yield f"~{matcher.regex}"
