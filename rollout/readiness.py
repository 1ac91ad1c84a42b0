"""Whether enough backends are healthy: before a candidate's first traffic, and of both versions in between."""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import median_low

from rollout.health import Probed
from rollout.metrics import Failure, Scrape

NAMED = 20  # of what is not ready; it is in the journal
FEW_FOR_S = 3.0  # so long it must last: a backend that was added is unhealthy until its first check


@dataclass(frozen=True, slots=True)
class Senses:
    """What is known of backends: the Envoys' latest stats by node id, why they have none, and our own probes.

    `probed` is by address of a version's backends, None where there are no probes at all.
    """

    latest: Callable[[], Mapping[str, Scrape]]
    failures: Callable[[], Mapping[str, Failure]]
    probed: Callable[[str, str], Mapping[str, Probed] | None]


@dataclass(frozen=True, slots=True)
class Hopeful:
    """A version before its first traffic: its cluster's name in stats, its backends, and how many must be healthy."""

    version: str
    stat_name: str
    addresses: tuple[str, ...]
    share: float

    @property
    def needed(self) -> int:
        return enough(self.share, len(self.addresses))


@dataclass(frozen=True, slots=True)
class Census:
    """How many of a version's backends are healthy."""

    version: str
    healthy: int
    total: int

    def below(self, share: float) -> str:
        """Say that these are too few, "" when they are not."""
        if self.healthy >= enough(share, self.total):
            return ""
        return f"{self.version}: {self.healthy} of {self.total} backends healthy (min_healthy {100 * share:g}%)"


@dataclass(frozen=True, slots=True)
class Health:
    """What is wrong, "" where nothing is: `few` healthy backends; a candidate that is `dead` beside a stable one."""

    few: str = ""
    dead: str = ""


def dead(candidate: Census | None, stable: Census | None) -> str:
    """Say that no backend of the candidate is healthy while some of stable are, "" when that is not so."""
    if candidate is None or stable is None or candidate.healthy or not stable.healthy:
        return ""
    return f"no backend of {candidate.version} is healthy, and {stable.version} has {stable.healthy} of {stable.total}"


def enough(share: float, backends: int) -> int:
    return math.ceil(share * backends - 1e-9)  # 0.07 * 100 is a little more than 7


def unready(hopeful: Hopeful, by_node: Mapping[str, int | str], probed: Mapping[str, Probed] | None) -> tuple[str, ...]:
    """Return what is not healthy yet. `by_node` has what is healthy through each Envoy, or why that is not known.

    `probed` are our own probes, None where Envoys' health checks alone decide.
    """
    nobody = () if hopeful.addresses else (f"{hopeful.version} has no backends",)
    reasons = [*nobody, *_through(hopeful, by_node), *(_by_probe(hopeful, probed) if probed is not None else ())]
    more = len(reasons) - NAMED
    return (*reasons[:NAMED], f"{more} more") if more > 0 else tuple(reasons)


def healthy_through(scrape: Scrape | None, failure: Failure | None, stat_name: str, since_s: float) -> int | str:
    """Return how many backends of a cluster one Envoy finds healthy, or why that is not known."""
    if failure is not None:
        return failure.why
    if scrape is None or scrape.started_s < since_s:
        return "no stats yet"
    stats = scrape.clusters.get(stat_name)
    return stats.membership_healthy if stats else 0


def census(version: str, stat_name: str, scrapes: Iterable[Scrape], leaving: int) -> Census | None:
    """Count as at least half of the Envoys do, who find so many or fewer healthy; None where none can tell.

    `leaving` are those that are let go, which no Envoy counts as healthy.
    """
    found: list[tuple[float, int, int]] = []
    for scrape in scrapes:
        stats = scrape.clusters.get(stat_name)
        total = stats.membership_total - leaving if stats else 0
        if stats and total > 0:
            healthy = min(total, stats.membership_healthy)
            found.append((healthy / total, healthy, total))
    if not found:
        return None
    _, healthy, total = median_low(found)
    return Census(version, healthy, total)


def with_probes(counted: Census | None, version: str, probed: Sequence[Probed]) -> Census | None:
    """Count what our probes find unhealthy, too: the smaller number is the true one."""
    if not probed:
        return counted
    answering = sum(each.healthy is not False for each in probed)
    if counted is None or answering < counted.healthy:
        return Census(version, answering, len(probed))
    return counted


def _through(hopeful: Hopeful, by_node: Mapping[str, int | str]) -> Iterator[str]:
    total, needed = len(hopeful.addresses), hopeful.needed
    wanted = f" ({needed} needed)" if needed < total else ""
    for node, healthy in sorted(by_node.items()):
        if isinstance(healthy, str):
            yield f"{node}: {healthy}"
        elif healthy < needed:
            yield f"{node}: {healthy} of {total} backends healthy{wanted}"


def _by_probe(hopeful: Hopeful, probed: Mapping[str, Probed]) -> Iterator[str]:
    known = {address: probed.get(address, Probed()) for address in hopeful.addresses}
    if sum(each.healthy is True for each in known.values()) >= hopeful.needed:
        return
    for address, each in known.items():
        if each.healthy is not True:
            yield f"{address}: {each.why or 'not probed often enough yet'} (probed by the control plane)"
