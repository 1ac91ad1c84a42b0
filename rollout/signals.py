"""The server's own metrics, for Prometheus."""

from collections import Counter
from collections.abc import Iterator, Mapping

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from rollout.controller import Controller
from rollout.state import ENDED
from xds.cache import Cache
from xds.resources import TYPES, ResourceType
from xds.stream import Answer, Response


class Signals(Collector):
    """Counts pushes and answers as they happen; asks the controller and the cache when it is scraped."""

    def __init__(self, registry: CollectorRegistry, controller: Controller, cache: Cache) -> None:
        self._controller = controller
        self._cache = cache
        self._pushes, self._bytes = Counter[ResourceType](), Counter[ResourceType]()
        self._acks, self._nacks = Counter[ResourceType](), Counter[ResourceType]()
        registry.register(self)

    def responded(self, response: Response) -> None:
        self._pushes[response.type] += 1
        self._bytes[response.type] += len(response.body)

    def answered(self, answer: Answer) -> None:
        (self._nacks if answer.rejected else self._acks)[answer.type] += 1

    def describe(self) -> Iterator[Metric]:
        """Name nothing before it is asked for: collect() needs a loaded configuration."""
        return iter(())

    def collect(self) -> Iterator[Metric]:
        yield _by_type("rollout_xds_pushes", "Discovery responses sent.", self._pushes)
        yield _by_type("rollout_xds_pushed_bytes", "Bytes of discovery responses sent.", self._bytes)
        yield _by_type("rollout_xds_acks", "Discovery responses that proxies accepted.", self._acks)
        yield _by_type("rollout_xds_nacks", "Discovery responses that proxies refused.", self._nacks)
        envoys = GaugeMetricFamily("rollout_xds_connected_proxies", "Proxies connected over ADS.")
        envoys.add_metric((), len(self._cache.connected()))
        yield envoys
        weight = GaugeMetricFamily(
            "rollout_candidate_weight_ratio",
            "Wanted share of the service's traffic on the candidate.",
            labels=("service", "candidate"),
        )
        phase = GaugeMetricFamily(
            "rollout_phase_info",
            "1 for the phase that the service's rollout is in.",
            labels=("service", "candidate", "phase"),
        )
        for service in self._controller.services():
            rollout = self._controller.rollout(service)
            if rollout is None:
                continue
            phase.add_metric((service, rollout.candidate, rollout.state.phase.value), 1)
            if rollout.state.phase not in ENDED:
                weight.add_metric((service, rollout.candidate), self._controller.weight_bp(rollout) / 10_000)
        yield weight
        yield phase


def _by_type(name: str, text: str, counts: Mapping[ResourceType, int]) -> Metric:
    metric = CounterMetricFamily(name, text, labels=("type",))
    for type_ in TYPES:
        metric.add_metric((type_.word,), counts[type_])
    return metric
