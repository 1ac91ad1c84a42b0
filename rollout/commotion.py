"""What befalls Envoys as events: one for each while they are few, one for many in a storm."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime

from rollout.happenings import Event, EventKind, Severity
from xds.limits import Rate, TokenBucket

SINGLE = Rate(per_s=0.2, burst=20)  # events of one Envoy each, of every kind
SUMMED_EVERY_S = 5.0
NODES_NAMED = 10
TEXT_LIMIT = 600

_WORDS: Mapping[EventKind, tuple[Severity, str, str]] = {
    EventKind.PROXY_CONNECTED: (Severity.INFO, "has connected", "have connected"),
    EventKind.PROXY_DISCONNECTED: (Severity.NOTICE, "has disconnected", "have disconnected"),
    EventKind.PROXY_NACK: (Severity.WARNING, "has refused", "have refused"),
}


@dataclass(slots=True)
class _Crowd:
    """Those of one kind that had no event of their own since the last sum."""

    count: int = 0
    nodes: list[str] = field(default_factory=list)
    words: str = ""


@dataclass(slots=True)
class Commotion:
    """Bounds the events of one kind: twenty at once, one each five seconds, and a sum of all others every five."""

    _buckets: dict[EventKind, TokenBucket] = field(default_factory=dict)
    _crowds: dict[EventKind, _Crowd] = field(default_factory=dict)
    _summed_s: float = float("-inf")

    def happened(self, event: Event, now_s: float) -> tuple[Event, ...]:
        """Return what is told now of what befell one Envoy, which its detail names as `node`."""
        bucket = self._buckets.setdefault(event.kind, TokenBucket())
        if event.kind not in self._crowds and bucket.try_take(SINGLE, now_s):
            return (event,)
        crowd = self._crowds.setdefault(event.kind, _Crowd())
        crowd.count += 1
        crowd.words = event.text
        if len(crowd.nodes) < NODES_NAMED and event.detail["node"] not in crowd.nodes:
            crowd.nodes.append(event.detail["node"])
        return ()

    def due(self, at: datetime, now_s: float) -> tuple[Event, ...]:
        """Return the sums that are due."""
        if not self._crowds or now_s - self._summed_s < SUMMED_EVERY_S:
            return ()
        self._summed_s = now_s
        sums = tuple(_sum(kind, crowd, at) for kind, crowd in self._crowds.items())
        self._crowds.clear()
        return sums


def of_node(kind: EventKind, node: str, at: datetime, **detail: str) -> Event:
    """Return the event of one Envoy; a NACK's `reason` is Envoy's own words."""
    severity, what, _ = _WORDS[kind]
    about = ": ".join(filter(None, (detail.get("type"), detail.get("reason"))))
    text = f"Envoy {node} {what}" + (f" {about}" if about else "")
    said = {"node": node, **{name: words[:TEXT_LIMIT] for name, words in detail.items()}}
    return Event(at, kind, severity, "", None, text[:TEXT_LIMIT], said)


def _sum(kind: EventKind, crowd: _Crowd, at: datetime) -> Event:
    severity, _, what = _WORDS[kind]
    text = "".join(_words_of(crowd, what))
    return Event(at, kind, severity, "", None, text[:TEXT_LIMIT], {"count": crowd.count, "nodes": crowd.nodes})


def _words_of(crowd: _Crowd, what: str) -> Iterator[str]:
    yield f"{crowd.count} times more: Envoys {what} ({', '.join(crowd.nodes)}"
    yield ", ..." if crowd.count > len(crowd.nodes) else ""
    yield f"), the last: {crowd.words}"
