"""Whether the backends of a rollout are healthy enough now, as Envoys and our own probes see them."""

from collections.abc import Callable, Iterable, Mapping

from rollout.books import Books
from rollout.metrics import Scrape
from rollout.readiness import (
    FEW_FOR_S,
    Census,
    Health,
    Hopeful,
    Senses,
    census,
    dead,
    healthy_through,
    unready,
    with_probes,
)
from rollout.record import Rollout
from rollout.traffic.publisher import Publisher
from xds.cache import NodeStatus


class Checkup:
    """Remembers only since when there are too few healthy backends."""

    def __init__(self, books: Books, publisher: Publisher, senses: Senses, clock: Callable[[], float]) -> None:
        self._books = books
        self._publisher = publisher
        self._senses = senses
        self._clock = clock
        self._few_s: dict[str, float] = {}

    def unready(self, rollout: Rollout, nodes: Iterable[str]) -> tuple[str, ...]:
        """Return what of the candidate is not healthy yet through these Envoys, or by our own probes."""
        service, version = rollout.service, rollout.candidate
        stat = self._publisher.stat_name(service, version)
        latest, failures, since_s = self._senses.latest(), self._senses.failures(), rollout.state.since_s
        by_node = {node: healthy_through(latest.get(node), failures.get(node), stat, since_s) for node in nodes}
        hopeful = Hopeful(version, stat, self._there(service, version), rollout.strategy.ready)
        checked = rollout.strategy.probe is None and self._publisher.health_checked(service)
        return unready(hopeful, by_node, None if checked else self._senses.probed(service, version))

    def found(self, rollout: Rollout, connected: Mapping[str, NodeStatus], stale_s: float) -> Health:
        """Say what has been wrong with the health of both versions for a while; older answers are `stale_s`."""
        now_s, service = self._clock(), rollout.service
        latest = self._senses.latest()
        fresh = [
            latest[node]
            for node, status in connected.items()
            if node in latest and latest[node].started_s >= max(now_s - stale_s, status.since_s)
        ]
        stable, candidate = (self._census(rollout, each, fresh) for each in (rollout.stable, rollout.candidate))
        found = (each.below(rollout.strategy.min_healthy) for each in (stable, candidate) if each is not None)
        now = Health("; ".join(why for why in found if why), dead(candidate, stable))
        if not now.few and not now.dead:
            self._few_s.pop(service, None)
            return now
        return now if now_s - self._few_s.setdefault(service, now_s) >= FEW_FOR_S else Health()

    def forget(self, service: str) -> None:
        """Drop what is known of a rollout that is over, or does not go on."""
        self._few_s.pop(service, None)

    def _census(self, rollout: Rollout, version: str, fresh: Iterable[Scrape]) -> Census | None:
        service = rollout.service
        leaving = sum(each.version == version and not each.removed for each in self._books.backends(service))
        counted = census(version, self._publisher.stat_name(service, version), fresh, leaving)
        if rollout.strategy.probe is None:
            return counted
        probed = self._senses.probed(service, version) or {}
        return with_probes(counted, version, [probed[each] for each in self._there(service, version) if each in probed])

    def _there(self, service: str, version: str) -> tuple[str, ...]:
        """Return a version's backends without those that are let go."""
        leaving = {each.address for each in self._books.backends(service)}
        return tuple(each for each in self._books.addresses(service, version) if each not in leaving)
