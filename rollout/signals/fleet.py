"""Metrics of the fleet: who is connected, what was pushed and how fast it was ACKed, and how stats are read."""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterator

from prometheus_client import CollectorRegistry
from prometheus_client.core import Metric
from prometheus_client.registry import Collector

from rollout.metrics import EnvoyAdmin
from rollout.signals.families import counters, gauges, histograms
from rollout.spread import QUICK_S, Spread
from xds.cache import Cache, NodeStatus
from xds.errors import Forbidden, InvalidRequest, NotReady, Overloaded, XdsError
from xds.node import Node
from xds.resources import TYPES, ResourceType
from xds.stream import Answer, Response

REFUSALS: dict[type[XdsError], str] = {
    Forbidden: "forbidden",
    InvalidRequest: "invalid",
    NotReady: "not_ready",
    Overloaded: "overloaded",
}
"""Why a stream is refused, as the metric has it."""


class FleetSignals(Collector):
    """Counts pushes and answers as they happen; asks the cache who is there when it is scraped."""

    def __init__(
        self, registry: CollectorRegistry, cache: Cache, clock: Callable[[], float], admin: EnvoyAdmin | None = None
    ) -> None:
        self._cache = cache
        self._clock = clock
        self._admin = admin
        self._pushes, self._bytes = Counter[ResourceType](), Counter[ResourceType]()
        self._acks, self._nacks = Counter[ResourceType](), Counter[ResourceType]()
        self._refused = Counter[str]()
        self._sent_s: dict[str, dict[ResourceType, float]] = defaultdict(dict)  # by node id, what is not answered yet
        self._answered_s = {type_: Spread(QUICK_S) for type_ in TYPES}
        registry.register(self)

    def responded(self, node: Node, response: Response) -> None:
        self._pushes[response.type] += 1
        self._bytes[response.type] += len(response.body)
        self._sent_s[node.id][response.type] = self._clock()

    def answered(self, node: Node, answer: Answer) -> None:
        (self._nacks if answer.rejected else self._acks)[answer.type] += 1
        sent_s = self._sent_s[node.id].pop(answer.type, None)
        if sent_s is not None:
            self._answered_s[answer.type].add(self._clock() - sent_s)

    def left(self, status: NodeStatus) -> None:
        """Wait for no answer of a proxy that has gone."""
        self._sent_s.pop(status.node.id, None)

    def refused(self, error: XdsError) -> None:
        self._refused[REFUSALS.get(type(error), "other")] += 1

    def describe(self) -> Iterator[Metric]:
        """Name nothing before it is asked for: collect() needs a loaded configuration."""
        return iter(())

    def collect(self) -> Iterator[Metric]:
        yield _by_type("rollout_xds_pushes", "Discovery responses sent.", self._pushes)
        yield _by_type("rollout_xds_pushed_bytes", "Bytes of discovery responses sent.", self._bytes)
        yield _by_type("rollout_xds_acks", "Discovery responses that proxies accepted.", self._acks)
        yield _by_type("rollout_xds_nacks", "Discovery responses that proxies refused.", self._nacks)
        spreads = {(type_.word,): spread for type_, spread in self._answered_s.items()}
        text = "From a discovery response to its ACK or NACK."
        yield histograms("rollout_xds_answer_seconds", text, ("type",), spreads.items())
        yield from self._proxies()
        refused = {(why,): float(self._refused[why]) for why in (*REFUSALS.values(), "other")}
        yield counters(
            "rollout_xds_refused_streams", "Streams that were refused or ended.", ("reason",), refused.items()
        )
        if self._admin is not None:
            yield from _reading(self._admin)

    def _proxies(self) -> Iterator[Metric]:
        connected = self._cache.connected()
        text = "Clients with a stream: proxies over ADS, and those of a single type."
        yield gauges("rollout_xds_connected_proxies", text, (), [((), len(connected))])
        rejecting = [each for each in connected if any(of.rejection for of in each.types.values())]
        text = "Connected proxies that refuse what is served now."
        yield gauges("rollout_xds_rejecting_proxies", text, (), [((), len(rejecting))])
        text = "Proxies that were connected and are not any more."
        yield gauges("rollout_xds_disconnected_proxies", text, (), [((), len(self._cache.gone()))])


def _reading(admin: EnvoyAdmin) -> Iterator[Metric]:
    text = "How long it took to read an Envoy's stats."
    yield histograms("rollout_scrape_seconds", text, (), [((), admin.taken)])
    yield counters("rollout_scrape_failures", "Readings of an Envoy's stats that failed.", (), [((), admin.failed)])


def _by_type(name: str, text: str, counts: Counter[ResourceType]) -> Metric:
    return counters(name, text, ("type",), [((type_.word,), counts[type_]) for type_ in TYPES])
