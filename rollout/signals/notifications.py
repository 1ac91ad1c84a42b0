"""Metrics of notifications: what each target was told, and what it is still to be told of."""

from collections.abc import Iterator

from prometheus_client import CollectorRegistry
from prometheus_client.core import Metric
from prometheus_client.registry import Collector

from rollout.notify.office import Office
from rollout.signals.families import counters, gauges


class NotificationSignals(Collector):
    """Asks the notifier when it is scraped; a server without one has none of these."""

    def __init__(self, registry: CollectorRegistry, office: Office) -> None:
        self._office = office
        registry.register(self)

    def describe(self) -> Iterator[Metric]:
        """Name nothing before it is asked for."""
        return iter(())

    def collect(self) -> Iterator[Metric]:
        reports = self._office.notifier.reports() if self._office.is_open else ()
        text = "Messages to a target: those that it took, and those that were given up."
        delivered = [((each.target, "delivered"), float(each.delivered)) for each in reports]
        given_up = [((each.target, "given_up"), float(each.given_up)) for each in reports]
        yield counters("rollout_notifications", text, ("target", "result"), [*delivered, *given_up])
        text = "Events that a target is still to be told of."
        yield gauges("rollout_notifications_waiting", text, ("target",), [((r.target,), r.waiting) for r in reports])
        text = "1 while a target does not take what it is sent."
        failing = [((each.target,), float(bool(each.fault))) for each in reports]
        yield gauges("rollout_notifications_failing", text, ("target",), failing)
