"""Who belongs to the fleet: Envoys that were here and are gone, and for how long they are waited for."""

from collections.abc import Collection, Iterable
from datetime import timedelta

from rollout.record import Rollout
from rollout.spec import Disconnected, WhenGone

MISSED_S = 60.0  # so long one that stayed away is named; by then the rollout has failed
NAMED = 5  # of those; each is in the journal
_USUAL = Disconnected()  # where no rollout says otherwise: for the drain of a backend


class Roster:
    """Remembers by node id when each was here last; `note` is told at each look who is."""

    def __init__(self) -> None:
        self._seen_s: dict[str, float] = {}
        self._began_s: dict[tuple[str, int], float] | None = None

    def expect(self, nodes: Iterable[str], now_s: float) -> None:
        """Wait for these nodes as for ones that have just gone away: they were here before a restart."""
        self._seen_s = dict.fromkeys(nodes, now_s)

    def note(self, here: Iterable[str], active: Iterable[Rollout], now_s: float) -> tuple[str, ...] | None:
        """Remember who is here, and forget whom no rollout waits for; return the ids when they are others than before.

        What is in progress at the first call began before a restart.
        """
        rollouts = tuple(active)
        known, new_s = (self._began_s, now_s) if self._began_s is not None else ({}, float("-inf"))
        self._began_s = {(each.service, each.id): known.get((each.service, each.id), new_s) for each in rollouts}
        kept_s = max((_kept(each.strategy.disconnected) for each in rollouts), default=0.0)
        kept_s = max(kept_s, _seconds(_USUAL.limit))
        before = self._seen_s.keys()
        everyone = {**self._seen_s, **dict.fromkeys(here, now_s)}
        after = {node: seen_s for node, seen_s in everyone.items() if now_s - seen_s <= kept_s}
        changed = after.keys() != before
        self._seen_s = after
        return tuple(sorted(after)) if changed else None

    def waited_for(self, rollout: Rollout | None, here: Collection[str], now_s: float) -> dict[str, str]:
        """Return by node id why one that is gone is waited for."""
        policy = rollout.strategy.disconnected if rollout is not None else _USUAL
        if policy.policy is WhenGone.IGNORE:
            return {}
        limit_s = _seconds(policy.limit)
        absent = (node for node in self._seen_s if node not in here and now_s - self._seen_s[node] < limit_s)
        return dict.fromkeys(sorted(absent), f"is disconnected (waited for up to {limit_s:g} s)")

    def missed(self, rollout: Rollout, here: Collection[str], now_s: float) -> frozenset[str]:
        """Return who has been away for longer than a rollout bears, of those that were here since it began."""
        policy = rollout.strategy.disconnected
        if policy.policy is not WhenGone.FAIL:
            return frozenset()
        began_s = (self._began_s or {}).get((rollout.service, rollout.id), now_s)
        limit_s = _seconds(policy.limit)
        return frozenset(
            node
            for node, seen_s in self._seen_s.items()
            if node not in here and seen_s >= began_s and now_s - seen_s >= limit_s
        )


def named(nodes: Collection[str]) -> tuple[str, ...]:
    """Return the first of them, and how many more there are."""
    first = tuple(sorted(nodes))[:NAMED]
    more = len(nodes) - len(first)
    return (*first, f"{more} more") if more else first


def _kept(policy: Disconnected) -> float:
    limit_s = _seconds(policy.limit)
    return limit_s + MISSED_S if policy.policy is WhenGone.FAIL else limit_s


def _seconds(span: timedelta) -> float:
    return span.total_seconds()
