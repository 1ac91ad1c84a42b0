"""When nothing runs on a version or a backend any more: proven idle on every Envoy, or the time is up. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

IDLE_LOOKS = 3  # in a row, on every Envoy: one alone may fall between two requests


@dataclass(frozen=True, slots=True)
class Active:
    """What runs on what is drained: requests by node id, None where an Envoy could not be asked.

    `at_s` is when the oldest of these answers was asked for, `newest_s` the newest (0: at the same time).
    """

    at_s: float
    by_node: Mapping[str, int | None]
    newest_s: float = 0.0

    @property
    def idle(self) -> bool:
        return bool(self.by_node) and all(count == 0 for count in self.by_node.values())


@dataclass(frozen=True, slots=True)
class Drain:
    """A drain in progress: since when all Envoys know of it (None: not yet), and its looks.

    `cut` says by node id how many requests still ran when the time was up; -1 where the Envoy could not be asked.
    """

    began_s: float
    acked_s: float | None = None
    idle_looks: int = 0
    looked_s: float = 0.0
    running: int | None = None
    timed_out: bool = False
    cut: Mapping[str, int] = field(default_factory=dict)

    @property
    def done(self) -> bool:
        return self.idle_looks >= IDLE_LOOKS or self.timed_out


def look(drain: Drain, *, now_s: float, acked: bool, active: Active | None, limit_s: float) -> Drain:
    """Return the drain after a look. Only answers asked for after the last ACK count, each once.

    An Envoy that does not know of the drain (it came back) may still send to what is drained: all begins anew.
    """
    if drain.done:
        return drain
    if not acked:
        drain = replace(drain, acked_s=None, idle_looks=0)
    elif drain.acked_s is None:
        drain = replace(drain, acked_s=now_s)
    if drain.acked_s is not None and active is not None and active.at_s > max(drain.acked_s, drain.looked_s):
        known = [count for count in active.by_node.values() if count is not None]
        looks = drain.idle_looks + 1 if active.idle else 0
        drain = replace(drain, idle_looks=looks, looked_s=max(active.at_s, active.newest_s), running=sum(known))
    if drain.done or now_s <= drain.began_s or now_s - drain.began_s < limit_s:
        return drain
    by_node = active.by_node if active is not None else {}
    cut = {node: -1 if count is None else count for node, count in by_node.items() if count != 0}
    return replace(drain, timed_out=True, cut=cut)
