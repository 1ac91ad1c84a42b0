"""What is remembered of a version whose backends are found: its source, and who has said so."""

from dataclasses import dataclass, field
from datetime import datetime
from functools import cache

from pydantic import TypeAdapter

from rollout.concealed import WITH_SECRETS
from rollout.discovery.source import Discover


@dataclass(frozen=True, slots=True)
class Discovery:
    """Where a version's backends are found. Two are equal that look in the same place, whoever has asked for it."""

    discover: Discover
    by: str = field(default="", compare=False)
    at: datetime | None = field(default=None, compare=False)


@cache
def _discoveries() -> TypeAdapter[Discovery]:
    return TypeAdapter(Discovery)


def dump_discovery(discovery: Discovery) -> str:
    return _discoveries().dump_json(discovery, context=WITH_SECRETS).decode()


def load_discovery(text: str) -> Discovery:
    return _discoveries().validate_json(text)
