"""Rows of the tables as values."""

import json
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Any

from rollout.discovery.kept import Discovery, load_discovery
from rollout.record import (
    Backend,
    Ended,
    JournalEntry,
    Mark,
    NamedStrategy,
    Operation,
    Origin,
    PastVersion,
    Queued,
    Rollout,
    Version,
    VersionHistory,
    load_drain,
    load_endpoints,
    load_history,
    load_seen,
    load_state,
    load_strategy,
)
from rollout.spec import Endpoint


def to_version(row: Mapping[str, Any]) -> Version:
    return Version(row["service"], row["name"], _endpoints(row["endpoints"]), _discovery(row["discovery"]))


def to_queued(row: Mapping[str, Any]) -> Queued:
    version = Version(row["service"], row["version"], _endpoints(row["endpoints"]), _discovery(row["discovery"]))
    at = datetime.fromisoformat(row["at"])
    return Queued(version, load_strategy(row["strategy"]), row["who"], at, row["fault"])


def to_strategy(row: Mapping[str, Any]) -> NamedStrategy:
    return NamedStrategy(row["name"], row["text"], row["who"], datetime.fromisoformat(row["at"]), row["revision"])


def to_past(row: Mapping[str, Any]) -> PastVersion:
    return PastVersion(
        service=row["service"],
        name=row["name"],
        endpoints=_endpoints(row["endpoints"]),
        addresses=tuple(json.loads(row["addresses"])),
        strategy=load_strategy(row["strategy"]),
        served=bool(row["served"]),
        ended=Ended(row["ended_s"], datetime.fromisoformat(row["ended_at"])),
        discovery=_discovery(row["discovery"]),
    )


def to_operation(row: Mapping[str, Any]) -> Operation:
    words = (row["verb"], row["who"], row["detail"], row["result"])
    return Operation(datetime.fromisoformat(row["at"]), row["service"], *words, id=row["id"])


def _discovery(text: str | None) -> Discovery | None:
    return None if text is None else load_discovery(text)


def _endpoints(text: str | None) -> tuple[Endpoint, ...] | None:
    return None if text is None else load_endpoints(text)


def to_rollout(row: Mapping[str, Any]) -> Rollout:
    return Rollout(
        service=row["service"],
        id=row["id"],
        stable=row["stable"],
        candidate=row["candidate"],
        strategy=load_strategy(row["strategy"]),
        state=load_state(row["state"]),
        revision=row["revision"],
        started_at=datetime.fromisoformat(row["started_at"]),
        changed_at=datetime.fromisoformat(row["changed_at"]),
        origin=Origin(row["origin"]),
    )


def to_backend(row: Mapping[str, Any]) -> Backend:
    removed, leaves = bool(row["removed"]), bool(row["leaves"])
    return Backend(row["service"], row["version"], row["address"], load_drain(row["drain"]), removed, leaves)


def to_history(row: Mapping[str, Any]) -> VersionHistory:
    return VersionHistory(row["service"], row["version"], load_history(row["history"]))


def to_mark(row: Mapping[str, Any]) -> Mark:
    return Mark(row["service"], row["address"], row["by"], datetime.fromisoformat(row["at"]), row["reason"])


def to_ill(rows: Iterable[Mapping[str, Any]]) -> dict[str, frozenset[str]]:
    found: dict[str, set[str]] = {}
    for row in rows:
        found.setdefault(row["service"], set()).add(row["address"])
    return {service: frozenset(addresses) for service, addresses in found.items()}


def to_entry(row: Mapping[str, Any]) -> JournalEntry:
    because = row["because"]
    return JournalEntry(
        revision=row["revision"],
        at=datetime.fromisoformat(row["at"]),
        state=load_state(row["state"]),
        because=None if because is None else load_seen(because),
    )


def to_text(at: datetime) -> str:
    """All digits, always: then the order of the texts is the order of the times."""
    return at.astimezone(UTC).isoformat(timespec="microseconds")
