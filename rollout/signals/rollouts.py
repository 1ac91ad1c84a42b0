"""Metrics of rollouts: where each stands, on which evidence, and how those before it ended."""

from collections import Counter
from collections.abc import Callable, Iterator

from prometheus_client import CollectorRegistry
from prometheus_client.core import Metric
from prometheus_client.registry import Collector

from rollout.controller import Controller
from rollout.drain import Drain
from rollout.ledger import NO_CHANGE
from rollout.record import Backend, Operation, Rollout
from rollout.signals.families import Labels, counters, histograms
from rollout.signals.standing import standing
from rollout.spread import LONG_S, Spread
from rollout.state import ENDED

OUTCOMES = tuple(sorted(phase.value for phase in ENDED))
DRAINS = ("idle", "timed_out")
REFUSALS = ("Conflict", "InvalidSpec", "InvalidConfig", "Unknown", "Unavailable")


class RolloutSignals(Collector):
    """Counts what ends as it happens; asks the controller where everything stands when it is scraped."""

    def __init__(self, registry: CollectorRegistry, controller: Controller, clock: Callable[[], float]) -> None:
        self._controller = controller
        self._clock = clock
        self._ended, self._verdicts, self._operations = Counter[Labels](), Counter[Labels](), Counter[Labels]()
        self._drains, self._cut = Counter[Labels](), Counter[Labels]()
        self._took = {(phase.value,): Spread(LONG_S) for phase in ENDED}
        registry.register(self)

    def changed(self, rollout: Rollout, before: Rollout | None) -> None:
        """Hear a step of a rollout, with the one before."""
        state, was = rollout.state, None if before is None else before.state
        if state.verdict is not None and (was is None or was.verdict is None or was.verdict.name != state.verdict.name):
            self._verdicts[rollout.service, state.verdict.name.value] += 1
        if state.drain is not None and state.drain.done and not (was and was.drain and was.drain.done):
            self._drained(rollout.service, state.drain)
        if state.phase in ENDED and (was is None or was.phase not in ENDED):
            self._ended[rollout.service, state.phase.value] += 1
            self._took[(state.phase.value,)].add((rollout.changed_at - rollout.started_at).total_seconds())

    def let_go(self, backend: Backend) -> None:
        """Hear that the drain of a single backend is done."""
        self._drained(backend.service, backend.drain)

    def asked(self, done: Operation) -> None:
        """Hear what somebody asked for, and what came of it."""
        refused = done.result.partition(":")[0] in REFUSALS
        result = "refused" if refused else "no_change" if done.result == NO_CHANGE else "done"
        self._operations[done.verb, result] += 1

    def _drained(self, service: str, drain: Drain) -> None:
        self._drains[service, "timed_out" if drain.timed_out else "idle"] += 1
        self._cut[(service,)] += sum(max(1, count) for count in drain.cut.values())

    def _from_zero(self, counts: Counter[Labels], words: tuple[str, ...]) -> list[tuple[Labels, float]]:
        """Return the counts of every service: of one that appears with its first 1, Prometheus sees no increase."""
        return [((service, word), counts[service, word]) for service in self._controller.services() for word in words]

    def describe(self) -> Iterator[Metric]:
        """Name nothing before it is asked for: collect() needs a loaded configuration."""
        return iter(())

    def collect(self) -> Iterator[Metric]:
        yield from standing(self._controller, self._clock())
        text = "Rollouts that have ended since the server started."
        yield counters("rollout_ended", text, ("service", "outcome"), self._from_zero(self._ended, OUTCOMES))
        text = "How long rollouts took, pauses and drains in it."
        yield histograms("rollout_duration_seconds", text, ("outcome",), self._took.items())
        text = "Verdicts that differ from the one before."
        yield counters("rollout_verdicts", text, ("service", "verdict"), self._verdicts.items())
        text = "Versions and backends that were let go: proven idle, or at the end of their drain_timeout."
        yield counters("rollout_drains", text, ("service", "result"), self._from_zero(self._drains, DRAINS))
        text = "Requests that still ran when a drain_timeout ended; 1 for an Envoy that could not be asked."
        cut = [((service,), self._cut[service,]) for service in self._controller.services()]
        yield counters("rollout_cut_requests", text, ("service",), cut)
        text = "What people and programs asked for."
        yield counters("rollout_operations", text, ("verb", "result"), self._operations.items())
