"""How all stands, written as the documents that a plan finds unchanged."""

from collections.abc import Collection, Iterator, Mapping
from typing import Any

from rollout.concealed import WITH_SECRETS
from rollout.declared.planning import content_of, parsed
from rollout.declared.secrets import concealed, restored
from rollout.declared.steps import Placed, Situation, Standing
from rollout.discovery.source import Discover
from rollout.errors import InvalidSpec
from rollout.record import Origin
from rollout.spec import Strategy
from rollout.state import Role


def documents(now: Situation, services: Collection[str]) -> Iterator[dict[str, Any]]:
    """Yield the strategies, and then these services, secrets left out."""
    for name, strategy in sorted(now.strategies.items()):
        yield {"kind": "strategy", "name": name, **concealed(content_of(strategy))}
    by_meaning = dict(_meanings(now))
    for service, standing in sorted(now.services.items()):
        if service in services:
            yield _service(standing, by_meaning)


def only_named(written: Collection[Mapping[str, Any]]) -> Iterator[dict[str, Any]]:
    """Yield documents without the strategies that no service among them names."""
    named = {each["strategy"] for each in written if isinstance(each.get("strategy"), str)}
    yield from (dict(each) for each in written if each["kind"] == "service" or each["name"] in named)


def _meanings(now: Situation) -> Iterator[tuple[str, Strategy]]:
    for name, strategy in sorted(now.strategies.items()):
        try:
            yield name, parsed(strategy)
        except InvalidSpec:  # nothing can have begun by it in this release
            continue


def _service(standing: Standing, meanings: Mapping[str, Strategy]) -> dict[str, Any]:
    version, placed = _heading(standing)
    document: dict[str, Any] = {"kind": "service", "name": standing.service, "version": version}
    if placed.discover is not None:
        document.update(concealed({"discover": _source(placed.discover)}))
    elif placed.staying() and not placed.from_files:  # what is left out is kept
        document["endpoints"] = list(map(str, placed.staying()))
    strategy = _strategy(standing)
    if strategy is None or strategy == Strategy():
        return document
    name = next((name for name, meaning in meanings.items() if meaning == strategy), None)
    return {**document, "strategy": name or concealed(as_written(strategy))}


def _heading(standing: Standing) -> tuple[str, Placed]:
    """Return the version that will have the traffic when all has ended that was begun, and where it runs."""
    queued, rollout = standing.queued, standing.rollout
    if queued is not None and not queued.fault:
        source = queued.version.discovery
        return queued.version.name, Placed(queued.version.endpoints or (), discover=source.discover if source else None)
    if rollout is None or not standing.in_progress:
        return standing.stable, standing.versions[standing.stable]
    version = rollout.stable if rollout.state.loser is Role.CANDIDATE else rollout.candidate
    return version, standing.versions.get(version, Placed(()))


def _sources(standing: Standing) -> Iterator[Discover]:
    """Yield where the backends of its versions are found."""
    yield from (each.discover for each in standing.versions.values() if each.discover is not None)
    if standing.queued is not None and standing.queued.version.discovery is not None:
        yield standing.queued.version.discovery.discover


def _source(discover: Discover) -> dict[str, Any]:
    return discover.model_dump(mode="json", by_alias=True, exclude_defaults=True, context=WITH_SECRETS)


def _strategy(standing: Standing) -> Strategy | None:
    """Return the strategy that was last deployed by; that of a way back leaves out stages, and is for that alone."""
    queued, rollout = standing.queued, standing.rollout
    if queued is not None and not queued.fault:
        return queued.strategy
    return rollout.strategy if rollout is not None and rollout.origin is Origin.DEPLOY else None


def as_written(strategy: Strategy) -> dict[str, Any]:
    """Return a strategy as a user may write it, without what is so by default."""
    written = strategy.model_dump(mode="json", by_alias=True, exclude_defaults=True, context=WITH_SECRETS)
    if "gate" in written:  # one field to pydantic, which has it whole once anything in it is set
        usual = Strategy().model_dump(mode="json", include={"gate"})["gate"]
        written["gate"] = {name: value for name, value in written["gate"].items() if value != usual[name]}
    return written


def with_secrets(document: Any, now: Situation) -> Any:
    """Return a document with the secrets that are known, wherever it says `[redacted]` as `documents` does."""
    if not isinstance(document, Mapping):
        return document
    name, kind = document.get("name"), document.get("kind")
    if kind == "strategy" and isinstance(name, str) and name in now.strategies:
        return restored(document, {"kind": kind, "name": name, **content_of(now.strategies[name])})
    standing = now.services.get(name) if kind == "service" and isinstance(name, str) else None
    if standing is None:
        return document
    strategy, found = _strategy(standing), {**document}
    for source in map(_source, _sources(standing)):
        found = restored(found, {"discover": source})
    if strategy is not None and isinstance(document.get("strategy"), Mapping):
        found["strategy"] = restored(document["strategy"], as_written(strategy))
    return found
