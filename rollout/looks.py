"""Scrapes -> looks: what both versions did since the look before, on Envoys grouped by the weight they have ACKed."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from rollout.gate import Counts, Look, Stratum
from rollout.machine import SETTLE_S
from rollout.metrics import Scrape, increments


@dataclass(slots=True)
class _Envoy:
    """One Envoy's weight since when, and the scrape that the next increments count from (None: not yet one)."""

    weight_bp: int
    since_s: float
    base: Scrape | None = None


@dataclass(slots=True)
class Looks:
    """Collects one rollout's increments. Not a decision: only sums, which `take` hands out and forgets."""

    stable_stat: str
    candidate_stat: str
    _envoys: dict[str, _Envoy] = field(default_factory=dict)
    _strata: dict[int, Stratum] = field(default_factory=dict)
    _restarted: set[str] = field(default_factory=set)

    def acked(self, nodes: Iterable[str], weight_bp: int, now_s: float) -> None:
        """Note that these nodes have this weight now. Counting starts anew where it is another than before."""
        for node in nodes:
            known = self._envoys.get(node)
            if known is None or known.weight_bp != weight_bp:
                self._envoys[node] = _Envoy(weight_bp, now_s)

    def add(self, node: str, scrape: Scrape) -> None:
        """Count what a node did since its scrape before. A span in which its weight changed counts for nothing."""
        envoy = self._envoys.get(node)
        if envoy is None or scrape.started_s < envoy.since_s + SETTLE_S or scrape is envoy.base:
            return
        before, envoy.base = envoy.base, scrape
        if before is None:
            return
        stable = increments(before, scrape, self.stable_stat)
        candidate = increments(before, scrape, self.candidate_stat)
        if stable is None or candidate is None:
            self._restarted.add(node)
            return
        stratum = Stratum(envoy.weight_bp, stable, candidate)
        known = self._strata.get(envoy.weight_bp)
        self._strata[envoy.weight_bp] = known.merge(stratum) if known else stratum

    def take(self, connected: Iterable[str], blind: Mapping[str, str]) -> Look:
        """Return what was counted since the last call; `blind` says why a node could not be read."""
        gone = self._envoys.keys() - set(connected)
        for node in gone:
            del self._envoys[node]
        reasons = [f"{node}: {why}" for node, why in sorted(blind.items())]
        reasons += [f"{node}: its counters began anew" for node in sorted(self._restarted - blind.keys())]
        look = Look(tuple(stratum for _, stratum in sorted(self._strata.items())), tuple(reasons))
        self._strata, self._restarted = {}, set()
        return look


def total(look: Look) -> tuple[Counts, Counts]:
    """Return what stable and candidate did in a look, over all strata."""
    stable, candidate = Counts(), Counts()
    for stratum in look.strata:
        stable, candidate = stable.merge(stratum.stable), candidate.merge(stratum.candidate)
    return stable, candidate
