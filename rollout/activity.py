"""What still runs on backends that are let go, as each Envoy counts it."""

from collections.abc import Callable, Iterable, Mapping

from rollout.books import Books
from rollout.drain import Active
from rollout.metrics import Scrape
from rollout.readiness import Senses
from rollout.record import Backend
from rollout.traffic.publisher import Publisher
from rollout.traffic.routing import Routing
from xds.cache import Cache, NodeStatus
from xds.node import Node


class Activity:
    """Reads the Envoys' latest stats. It remembers nothing."""

    def __init__(
        self, books: Books, publisher: Publisher, cache: Cache, senses: Senses, clock: Callable[[], float]
    ) -> None:
        self._books = books
        self._publisher = publisher
        self._cache = cache
        self._senses = senses
        self._clock = clock

    def on_backend(self, backend: Backend) -> Active | None:
        """Return what runs on one backend, None when no Envoy on the line has it."""
        service, version, address = backend.service, backend.version, backend.address
        stats = self.stat_names(service, version)

        def running(node: Node, scrape: Scrape) -> int | None:
            bare = self._publisher.bare_stat_name(node, service)
            return _sum(_active_on(scrape, each, address) for each in (*stats, bare) if each is not None)

        having = {
            node: status
            for node, status in self._connected().items()
            if self._publisher.has_backend(status.node, service, version, address)
        }
        return self._active(having, running)

    def on_version(self, service: str, version: str) -> Active | None:
        """Return what runs on all of a version's backends, None when no Envoy on the line has the service."""
        stats = self.stat_names(service, version)
        addresses = self._books.addresses(service, version)

        def running(node: Node, scrape: Scrape) -> int | None:
            whole = [_active_in(scrape, each) for each in stats]
            bare = self._publisher.bare_stat_name(node, service)
            known = (each for each in addresses if self._publisher.has_backend(node, service, version, each))
            return _sum([*whole, *(_active_on(scrape, bare, address) for address in known if bare is not None)])

        having = {
            node: status for node, status in self._connected().items() if self._publisher.has(status.node, service)
        }
        return self._active(having, running)

    def stat_names(self, service: str, version: str) -> tuple[str, ...]:
        """Return the names of a version's clusters in stats: its own, then its shadow if it has one."""
        return self.stat_names_by(self._books.traffic(service).routing, service, version)

    def stat_names_by(self, routing: Routing, service: str, version: str) -> tuple[str, ...]:
        """The same, where it is known how requests reach the service's versions."""
        own = self._publisher.stat_name(service, version)
        if not (routing.shadow and routing.candidate == version):
            return (own,)
        return own, self._publisher.shadow_stat_name(service, version)

    def _connected(self) -> dict[str, NodeStatus]:
        return {status.node.id: status for status in self._cache.connected()}

    def _active(
        self, connected: Mapping[str, NodeStatus], running: Callable[[Node, Scrape], int | None]
    ) -> Active | None:
        """Return what runs by node, as of the oldest answer; an Envoy that cannot be asked counts as unknown."""
        if not connected:
            return None
        latest, failures = self._senses.latest(), self._senses.failures()
        answers = {node: latest[node] for node in connected if node in latest and node not in failures}
        by_node: dict[str, int | None] = {
            node: running(connected[node].node, scrape) for node, scrape in answers.items()
        }
        by_node |= dict.fromkeys(connected.keys() - answers.keys())
        asked_s = [scrape.started_s for scrape in answers.values()] or [self._clock()]
        return Active(min(asked_s), by_node, max(asked_s))


def _active_in(scrape: Scrape, stat_name: str) -> int | None:
    stats = scrape.clusters.get(stat_name)
    return None if stats is None else stats.rq_active + stats.rq_pending_active


def _active_on(scrape: Scrape, stat_name: str, address: str) -> int | None:
    stats = scrape.clusters.get(stat_name)
    found = stats.backends.get(address) if stats else None
    return None if found is None else found.active


def _sum(counts: Iterable[int | None]) -> int | None:
    """Add up; what is unknown in part is unknown."""
    known = list(counts)
    return None if None in known else sum(count for count in known if count is not None)
