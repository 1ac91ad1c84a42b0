"""What weights Envoys give versions, looked at all the time, and whether a rollout's journal explains them."""

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

from rollout.demo.world import World
from rollout.errors import Unavailable
from rollout.machine import weight_bp
from rollout.replay import Recording, replay
from rollout.state import Command

WATCH_S = 0.1
ROUTES = "/config_dump?resource=dynamic_route_configs"
FORWARD = (Command.PROMOTE, Command.PROMOTE_FULL, Command.SKIP_STAGE)


@dataclass(slots=True)
class Weights:
    """What weight each Envoy gave each version when: told only when it changed. Unix seconds, percent."""

    world: World
    changes: dict[tuple[str, str], list[tuple[float, float]]] = field(default_factory=dict)

    async def watch(self) -> None:
        """Ask every Envoy, again and again, until cancelled."""
        while True:
            for envoy in self.world.envoys:
                with contextlib.suppress(Unavailable):
                    self._note(envoy.name, weights(json.loads(await envoy.admin_get(ROUTES))))
            await asyncio.sleep(WATCH_S)

    def _note(self, envoy: str, found: Mapping[str, float]) -> None:
        now_s = time.time()
        known = {version for name, version in self.changes if name == envoy}
        for version in known | found.keys():
            changes, weight = self.changes.setdefault((envoy, version), []), found.get(version, 0.0)
            if not changes or changes[-1][1] != weight:
                changes.append((now_s, weight))

    def of(self, version: str) -> Mapping[str, Sequence[tuple[float, float]]]:
        return {envoy: changes for (envoy, name), changes in self.changes.items() if name == version}


@contextlib.asynccontextmanager
async def watched(world: World) -> AsyncIterator[Weights]:
    """Look at the Envoys' weights inside `async with`."""
    weights = Weights(world)
    async with asyncio.TaskGroup() as group:
        watch = group.create_task(weights.watch())
        try:
            yield weights
        finally:
            watch.cancel()


def weights(dump: Any) -> dict[str, float]:
    """Return the percent of each version in the first weighted route of a route dump."""
    for route in _weighted(dump):
        total = sum(each.get("weight", 0) for each in route)
        return {each["name"].partition("@")[2]: round(100 * each.get("weight", 0) / total, 2) for each in route}
    return {}


def _weighted(part: Any) -> Iterator[Sequence[Mapping[str, Any]]]:
    if isinstance(part, dict):
        if "weighted_clusters" in part:
            yield part["weighted_clusters"]["clusters"]
        for each in part.values():
            yield from _weighted(each)
    elif isinstance(part, list):
        for each in part:
            yield from _weighted(each)


def differences(recording: Recording, seen: Mapping[str, Sequence[tuple[float, float]]]) -> Iterator[str]:
    """Yield what a rollout's journal cannot explain: a rise without a pass, an Envoy's weight, another decision."""
    path = [(entry.at.timestamp(), weight_bp(recording.strategy, entry.state) / 100) for entry in recording.entries]
    for (before, was), (entry, weight) in pairwise(zip(recording.entries, (each for _, each in path), strict=True)):
        decided = entry.state.passed is not None or (entry.because is not None and entry.because.command in FORWARD)
        if weight > was and was > 0 and not decided:
            yield f"from {was:g} % to {weight:g} % without a pass, in step {entry.revision} after {before.revision}"
    for envoy, changes in seen.items():
        yield from (f"{envoy} {what}" for what in _unexplained(path, changes))
    found = replay(recording.strategy, recording.entries).difference
    if found is not None:
        yield f"step {found.entry.revision} replays otherwise: {found.what}: {found.recorded} / {found.replayed}"


def _unexplained(path: Sequence[tuple[float, float]], changes: Sequence[tuple[float, float]]) -> Iterator[str]:
    """Yield the weights that an Envoy had against the order of the steps, or before their time."""
    at = 0
    for seen_s, weight in changes:
        found = next((number for number in range(at, len(path)) if path[number][1] == weight), None)
        if found is None:
            yield f"had {weight:g} % at {seen_s:.3f}, after {path[at][1]:g} %, and no step from there on gave that"
        elif weight > 0 and seen_s < path[found][0]:
            yield f"had {weight:g} % {path[found][0] - seen_s:.3f} s before that was decided"
        else:
            at = found
