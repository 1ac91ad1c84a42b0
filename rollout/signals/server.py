"""Metrics of the server itself: what it is, whether its disk works, and what became of its configuration."""

import platform
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from importlib import metadata

from prometheus_client import GC_COLLECTOR, PROCESS_COLLECTOR, CollectorRegistry
from prometheus_client.core import Metric
from prometheus_client.registry import Collector

from rollout.saver import Saver
from rollout.signals.families import counters, gauges


@dataclass(slots=True)
class Loads:
    """How often envoy-configs was read, whether the last was `right`, and when one that was had been loaded.

    `loaded_at_s` is in seconds since 1970.
    """

    loaded: int = 0
    refused: int = 0
    loaded_at_s: float = 0.0
    right: bool = True


class ServerSignals(Collector):
    """Asks the parts of the server when it is scraped."""

    def __init__(self, registry: CollectorRegistry, saver: Saver, failures: Callable[[], Mapping[str, object]]) -> None:
        self._saver = saver
        self._failures = failures
        self.loads = Loads()
        self.audit_broken = False
        """Whether the audit log was found to be changed when the server started."""
        for collector in (self, PROCESS_COLLECTOR, GC_COLLECTOR):
            registry.register(collector)

    def describe(self) -> Iterator[Metric]:
        """Name nothing before it is asked for: collect() needs a loaded configuration."""
        return iter(())

    def collect(self) -> Iterator[Metric]:
        labels = {"version": _version(), "python": platform.python_version()}
        yield gauges("rollout_build_info", "What runs.", tuple(labels), [(tuple(labels.values()), 1)])
        text = "Proxies whose stats could not be read last time."
        yield gauges("rollout_unread_proxies", text, (), [((), len(self._failures()))])
        yield gauges("rollout_store_unsaved", "Savings that wait for the disk.", (), [((), self._saver.waiting)])
        text = "1 while the disk does not take what is to be saved."
        yield gauges("rollout_store_failing", text, (), [((), float(bool(self._saver.fault)))])
        text = "1 where the newest rows of the audit log were not as they were written when the server started."
        yield gauges("rollout_audit_broken", text, (), [((), float(self.audit_broken))])
        loads = {("loaded",): self.loads.loaded, ("refused",): self.loads.refused}
        yield counters("rollout_config_loads", "How often envoy-configs was read.", ("result",), loads.items())
        text = "Whether the last change of envoy-configs was right."
        yield gauges("rollout_config_right", text, (), [((), float(self.loads.right))])
        text = "When the configuration that is served was loaded, in seconds since 1970."
        yield gauges("rollout_config_loaded_timestamp_seconds", text, (), [((), self.loads.loaded_at_s)])


def _version() -> str:
    try:
        return metadata.version("envoy-rollout")
    except metadata.PackageNotFoundError:
        return "unknown"
