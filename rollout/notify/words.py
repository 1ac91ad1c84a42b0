"""What a message says of an event, or of many: title and body, by our templates or a user's."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from string import Template

from rollout.happenings import Event, EventKind, Severity

BODY_CHARACTERS = 3_000  # what most chats take in one message
LISTED = 10  # events of a folded message that are written out
VALUES = (
    "service",
    "rollout",
    "kind",
    "severity",
    "at",
    "id",
    "text",
    "reason",
    "stable",
    "candidate",
    "phase",
    "stage",
    "weight",
    "verdict",
    "by",
    "node",
    "link",
    "explain",
)
"""What a template may name, as $service."""

_TITLES: Mapping[EventKind, str] = {
    EventKind.ROLLOUT_STARTED: "$service: $candidate goes out",
    EventKind.ROLLOUT_PHASE: "$service: $candidate is $phase",
    EventKind.ROLLOUT_STAGE: "$service: $candidate gets $weight",
    EventKind.ROLLOUT_PAUSED: "$service: $candidate is paused at $weight",
    EventKind.ROLLOUT_AWAITING: "$service: $candidate waits for you",
    EventKind.ROLLOUT_VERDICT: "$service: the gate says $verdict of $candidate",
    EventKind.ROLLOUT_LOCATION: "$service: $candidate in a location",
    EventKind.ROLLING_BACK: "$service: $candidate is taken back",
    EventKind.ROLLED_BACK: "$service: $candidate was rolled back",
    EventKind.COMPLETED: "$service: $candidate has all traffic",
    EventKind.OPERATION: "$by asked for something",
    EventKind.BACKEND_DRAINING: "$service: a backend is drained",
    EventKind.BACKEND_REMOVED: "$service: a backend may stop",
    EventKind.PROXY_CONNECTED: "An Envoy has connected",
    EventKind.PROXY_DISCONNECTED: "An Envoy has gone",
    EventKind.PROXY_NACK: "An Envoy has refused what it was sent",
    EventKind.CONFIG_LOADED: "A configuration is served",
    EventKind.CONFIG_REFUSED: "A configuration was refused",
    EventKind.DISCOVERY_STALE: "$service: its endpoints cannot be looked up",
    EventKind.DISCOVERY_FRESH: "$service: its endpoints are looked up again",
    EventKind.SERVER_STARTED: "The rollout server has started",
}
_REMEDIES: Mapping[EventKind, str] = {
    EventKind.ROLLOUT_PAUSED: "Go on: rollout resume $service. Take it back: rollout abort $service",
    EventKind.ROLLOUT_AWAITING: "Agree: rollout approve $service. Take it back: rollout abort $service",
    EventKind.ROLLING_BACK: "Nothing is to be done for it to go back. Again, once it is mended: rollout retry $service",
    EventKind.ROLLED_BACK: "Again, once it is mended: rollout retry $service",
    EventKind.COMPLETED: "Go back, if you must: rollout undo $service",
    EventKind.PROXY_NACK: "Who has what: rollout fleet",
    EventKind.DISCOVERY_STALE: "The last ones found stay in use.",
    EventKind.CONFIG_REFUSED: "The last good one is served. Check the files: rollout lint envoy-configs",
}


@dataclass(frozen=True, slots=True)
class Message:
    """What a target is told. `last` is the id of the newest event in it, `events` how many it is about."""

    title: str
    body: str
    severity: Severity
    last: int
    events: int = 1


@dataclass(frozen=True, slots=True)
class Words:
    """How messages are written: a user's own title and body by kind, None for ours; where links lead, None for nowhere.

    `home` is the link of what has no service, `link` of what has one.
    """

    own: Mapping[EventKind, tuple[str | None, str | None]] = field(default_factory=dict)
    home: str | None = None
    link: str | None = None

    def message(self, event: Event) -> Message:
        """Return what is said of one event."""
        values = self._values(event)
        title, body = self.own.get(event.kind, (None, None))
        titled = Template(_TITLES.get(event.kind, "$kind") if title is None else title).safe_substitute(values)
        said = self._body(event, values) if body is None else Template(body).safe_substitute(values)
        return Message(" ".join(titled.split()), said[:BODY_CHARACTERS], event.severity, event.id)

    def folded(self, events: Sequence[Event]) -> Message:
        """Return what is said of many events at once: how many of which, and the worst and newest of them."""
        if len(events) == 1:
            return self.message(events[0])
        worst = sorted(events, key=lambda each: (tuple(Severity).index(each.severity), each.id), reverse=True)[:LISTED]
        counts = Counter(each.kind for each in events).most_common()
        lines = [f"{len(events)} events, told together: " + ", ".join(f"{count} x {kind}" for kind, count in counts)]
        lines += [f"- {each.at:%H:%M:%S} {each.severity} {each.text}" for each in sorted(worst, key=lambda e: e.id)]
        if len(events) > len(worst):
            lines.append(f"... and {len(events) - len(worst)} more: rollout events")
        services = sorted({each.service for each in events if each.service})
        about = f" of {', '.join(services[:3])}{' and others' if len(services) > 3 else ''}" if services else ""
        return Message(
            f"{len(events)} events{about}",
            "\n".join(lines)[:BODY_CHARACTERS],
            worst[0].severity,
            events[-1].id,
            len(events),
        )

    def _body(self, event: Event, values: Mapping[str, str]) -> str:
        remedy = Template(_REMEDIES.get(event.kind, "")).substitute(values)
        explain = f"Why: {values['explain']}" if values["explain"] else ""
        return "\n".join(filter(None, (values["text"], remedy, explain, values["link"])))

    def _values(self, event: Event) -> dict[str, str]:
        detail, verdict = event.detail, event.detail.get("verdict")
        weight, stage = detail.get("weight_percent"), detail.get("stage")
        values = dict.fromkeys(VALUES, "") | {
            "service": event.service,
            "rollout": "" if event.rollout is None else str(event.rollout),
            "kind": event.kind.value,
            "severity": event.severity.value,
            "at": event.at.isoformat(timespec="seconds"),
            "id": str(event.id),
            "text": event.text,
            "weight": "" if weight is None else f"{weight:g} %",
            "stage": "" if stage is None else str(stage + 1),
            "phase": str(detail.get("phase", "")).replace("_", " "),
            "verdict": str(verdict.get("verdict", "")) if isinstance(verdict, Mapping) else "",
            "explain": "" if event.rollout is None else f"rollout explain {event.service} --rollout {event.rollout}",
        }
        values |= {name: str(detail.get(name, "")) for name in ("reason", "stable", "candidate", "by", "node")}
        link = self.link if event.service else self.home
        return values | {"link": "" if link is None else Template(link).safe_substitute(values)}


def fault_of(text: str) -> str | None:
    """Return what is wrong with a user's template, None when nothing is."""
    template = Template(text)
    if not template.is_valid():
        return "has a $ that begins no name; write $$ for a dollar"
    unknown = [name for name in template.get_identifiers() if name not in VALUES]
    return f"${unknown[0]} is not known; there are {', '.join(f'${name}' for name in VALUES)}" if unknown else None
