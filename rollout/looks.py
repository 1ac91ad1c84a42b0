"""Scrapes -> looks: what both versions did since the look before, on Envoys grouped by how they route."""

from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from rollout.gate.attribution import add
from rollout.gate.histogram import Histogram
from rollout.gate.sample import Host, Look, Past, Quantile, Stratum, Tally
from rollout.gate.settings import Errors
from rollout.machine import stage_of
from rollout.metrics import BackendStats, ClusterStats, Counts, Scrape, begun, increments, sessions_between, tally
from rollout.spec import Strategy
from rollout.split import Route, Sent, is_astray, words, worst
from rollout.state import SETTLE_S, Split, State

OWN_GROUPS = 20
"""So many Envoys that are astray have a group for each, and are named; further ones share a group."""
FURTHER = "others astray"
BLIND_NAMED = 20  # at most: each look is a line of the journal, and where a location is cut off there are hundreds
NOTHING_KNOWN = Past()
ASIDE_BP = 5_000
"""Stands for the candidate's weight where it gets its requests in another way, as by a header or as copies."""


@dataclass(frozen=True, slots=True)
class Exposure:
    """How the candidate gets requests: by its weight, or `aside`, where what is here tells one way from another.

    `of_users`: they are requests of users, who get its answers.
    """

    weight_bp: int
    aside: object = None  # None: by weight
    of_users: bool = True


@dataclass(frozen=True, slots=True)
class Sides:
    """What both versions did in the same span."""

    stable: Counts = field(default_factory=Counts)
    candidate: Counts = field(default_factory=Counts)


@dataclass(slots=True)
class _Envoy:
    """One Envoy's weight since when, and what its next increments count from and belong to."""

    weight_bp: int
    since_s: float
    first: Scrape | None = None  # None: not read yet since it has this weight
    base: Scrape | None = None  # None: as `first`
    past: Past = field(default_factory=Past)  # as it was known at `base`
    sent: Sent = field(default_factory=Sent)
    active: tuple[int, int] = (0, 0)  # of stable and of the candidate at `base`
    group: str = ""

    def route(self, node: str) -> Route:
        return Route(node, self.weight_bp, self.sent, is_astray(self.sent, self.weight_bp))


@dataclass(frozen=True, slots=True)
class _Span:
    """What one Envoy did between two scrapes, and by which edges it is counted."""

    weight_bp: int
    group: str
    past: Past
    sides: Sides


@dataclass(slots=True)
class Looks:
    """Collects one rollout's increments. Not a decision: only sums, which `take` hands out and forgets.

    The edges by which latencies count are those that were known before the increments began. They stay for as long as
    the weight does, so that all of a stage is counted alike; edges that were not known when it began come later.
    """

    stable_stat: str
    candidate_stat: str
    names: tuple[str, str] = ("stable", "the candidate")
    errors: Errors = Errors.HTTP
    aside: object = None
    _envoys: dict[str, _Envoy] = field(default_factory=dict)
    _pasts: dict[int, Past] = field(default_factory=dict)
    _spans: list[_Span] = field(default_factory=list)
    _hosts: dict[str, Host] = field(default_factory=dict)
    _restarted: set[str] = field(default_factory=set)
    _weight_bp: int = 0
    _recent: Sides = field(default_factory=Sides)

    def turned(self, candidate_stat: str, exposure: Exposure) -> "Looks":
        """Return these looks for a candidate that gets its requests like this: empty ones, if it did not before."""
        if exposure.aside == self.aside:
            return self
        known = dict(enumerate(list(self._pasts.values())[-1:]))  # not forgotten, though of no weight that there is
        return Looks(self.stable_stat, candidate_stat, self.names, self.errors, exposure.aside, _pasts=known)

    def know(self, weight_bp: int, past: Past) -> None:
        """Note what is known of stable. Only the first time counts, and later edges that were missing then.

        What stable does in the rollout itself is in the evidence; an incident in it must not become its past.
        """
        latest = next(reversed(self._pasts.values()), past)
        self._pasts[weight_bp] = _filled(self._pasts.get(weight_bp, latest), past)

    def knows(self, weight_bp: int) -> bool:
        """Say whether a weight has begun."""
        return weight_bp in self._pasts

    def lacks_edges(self, weight_bp: int) -> bool:
        """Say whether more may still become known of stable for a weight that has begun."""
        return len(self._pasts[weight_bp].slow_ms) < len(Quantile)

    def acked(self, nodes: Iterable[str], weight_bp: int, now_s: float) -> None:
        """Note that these nodes have this weight now. Counting starts anew where it is another than before."""
        self._weight_bp = weight_bp
        self._pasts.setdefault(weight_bp, NOTHING_KNOWN)
        for node in nodes:
            known = self._envoys.get(node)
            if known is None or known.weight_bp != weight_bp:
                self._envoys[node] = _Envoy(weight_bp, now_s)

    def add(self, node: str, scrape: Scrape) -> None:
        """Count what a node did since its scrape before. A span in which its weight changed counts for nothing."""
        envoy = self._envoys.get(node)
        if envoy is None or scrape.started_s < envoy.since_s + SETTLE_S or scrape is envoy.base:
            return
        before, past = envoy.base, envoy.past
        envoy.base, envoy.past = scrape, self._pasts[envoy.weight_bp]
        if before is None or envoy.first is None:
            envoy.first = scrape
            return
        stable = increments(before, scrape, self.stable_stat)
        candidate = increments(before, scrape, self.candidate_stat)
        if stable is None or candidate is None:
            self._restarted.add(node)
            envoy.first, envoy.sent = scrape, Sent()
            return
        envoy.active = (stable.active, candidate.active)
        envoy.sent = self._sent(envoy.first, scrape)
        self._spans.append(_Span(envoy.weight_bp, envoy.group, past, Sides(stable, candidate)))
        self._add_hosts(before, scrape)

    def take(self, now_s: float, connected: Collection[str], blind: Mapping[str, str]) -> Look:
        """Return what was counted since the last call; `blind` says why a node could not be read."""
        for node in self._envoys.keys() - set(connected):
            del self._envoys[node]
        reasons = [f"{node}: {why}" for node, why in sorted(blind.items())]
        reasons += [f"{node}: its counters began anew" for node in sorted(self._restarted - blind.keys())]
        look = Look(
            now_s,
            tuple(self._strata()),
            self._pasts.get(self._weight_bp, NOTHING_KNOWN),
            tuple(_some(reasons)),
            hosts=add({}, self._hosts),
            names=self.names,
        )
        self._recent = self._sides()
        self._spans, self._hosts, self._restarted = [], {}, set()
        return replace(look, astray=tuple(self._regroup()))

    def recent(self) -> Sides:
        """Return what the last look saw at the present weight, with latencies, for people."""
        return self._recent

    def routes(self, limit: int) -> tuple[Route, ...]:
        """Return how Envoys have routed since they ACKed their weights: those who deviate most."""
        if self.aside is not None:
            return ()
        return worst((envoy.route(node) for node, envoy in self._envoys.items()), limit)

    def _sent(self, first: Scrape, last: Scrape) -> Sent:
        """Between the first scrape and the last, for a sum over spans would count twice what waits between two."""
        stable = _begun(first.clusters[self.stable_stat], last.clusters[self.stable_stat])
        candidate = _begun(first.clusters[self.candidate_stat], last.clusters[self.candidate_stat])
        return Sent(stable + candidate, candidate)

    def _add_hosts(self, before: Scrape, after: Scrape) -> None:
        earlier, later = (scrape.clusters[self.candidate_stat].backends for scrape in (before, after))
        for address in earlier.keys() & later.keys():
            host = _since(earlier[address], later[address])
            if host is not None:
                known = self._hosts.get(address, Host(0, 0))
                self._hosts[address] = Host(known.requests + host.requests, known.errors + host.errors)

    def _strata(self) -> Iterator[Stratum]:
        groups: dict[tuple[int, str], list[_Span]] = {}
        for span in self._spans:
            groups.setdefault((span.weight_bp, span.group), []).append(span)
        for (weight_bp, group), spans in sorted(groups.items()):
            stable_active, candidate_active = self._active(weight_bp, group)
            stable, candidate = self._tallies(spans)
            yield Stratum(
                weight_bp, replace(stable, active=stable_active), replace(candidate, active=candidate_active), group
            )

    def _tallies(self, spans: Iterable[_Span]) -> tuple[Tally, Tally]:
        """Summed up first, for a tally of many histograms costs as much as one of a single one."""
        by_past: dict[int, list[_Span]] = {}
        for span in spans:
            by_past.setdefault(id(span.past), []).append(span)
        stable, candidate = Tally(), Tally()
        for alike in by_past.values():
            past = alike[0].past
            stable = stable.merge(tally(total(span.sides.stable for span in alike), past, self.errors))
            candidate = candidate.merge(tally(total(span.sides.candidate for span in alike), past, self.errors))
        return stable, candidate

    def _active(self, weight_bp: int, group: str) -> tuple[int, int]:
        """What runs by the latest scrapes: a gauge adds up over Envoys, not over time."""
        alike = [each.active for each in self._envoys.values() if (each.weight_bp, each.group) == (weight_bp, group)]
        return sum(stable for stable, _ in alike), sum(candidate for _, candidate in alike)

    def _sides(self) -> Sides:
        present = [span.sides for span in self._spans if span.weight_bp == self._weight_bp]
        return Sides(total(each.stable for each in present), total(each.candidate for each in present))

    def _regroup(self) -> Iterator[str]:
        """Put each Envoy where its next increments belong, by the numbers of its requests only; name those astray."""
        if self.aside is not None:
            return
        routes = {node: envoy.route(node) for node, envoy in sorted(self._envoys.items())}
        astray = [node for node, route in routes.items() if route.astray]
        # Who has a group of its own keeps it, however many join.
        own = sorted(astray, key=lambda node: self._envoys[node].group != node)[:OWN_GROUPS]
        for node, envoy in self._envoys.items():
            envoy.group = node if node in own else FURTHER if routes[node].astray else ""
        yield from (words(routes[node], self.names[1]) for node in sorted(own))
        if len(astray) > len(own):
            yield f"{len(astray) - len(own)} more Envoys route otherwise than they have ACKed"


def exposed(strategy: Strategy, state: State, served: Split | None) -> Exposure | None:
    """Return how the candidate gets requests in a stage, None when it gets none by what is served now."""
    if served is None or served.candidate_bp:
        return None if served is None else Exposure(served.candidate_bp)
    stage = stage_of(strategy, state)
    if stage is None or stage.weight_bp or (stage.match, stage.mirror_bp or 0) != (served.match, served.mirror_bp):
        return None
    return Exposure(ASIDE_BP, (served.match, served.mirror_bp), of_users=bool(served.match))


def total(spans: Iterable[Counts]) -> Counts:
    """Return the sum of many spans; `active`, which does not add up over time, is left out."""
    counts = tuple(spans)
    grpc: Counter[int] = Counter()
    for each in counts:
        grpc.update(each.grpc)
    return Counts(
        requests=sum(each.requests for each in counts),
        errors=sum(each.errors for each in counts),
        retries=sum(each.retries for each in counts),
        timeouts=sum(each.timeouts for each in counts),
        refused=sum(each.refused for each in counts),
        started=sum(each.started for each in counts),
        grpc=dict(grpc),
        latency=Histogram.total(each.latency for each in counts),
        connections=sum(each.connections for each in counts),
        connect_fails=sum(each.connect_fails for each in counts),
    )


def _filled(known: Past, newer: Past) -> Past:
    """What was known, with what was not: the same object where nothing is added."""
    edges = [quantile for quantile in newer.slow_ms if quantile not in known.slow_ms]
    late_edges = [quantile for quantile in newer.late_ms if quantile not in known.late_ms]
    if not edges and not late_edges:
        return known
    return replace(
        known,
        slow={**known.slow, **{quantile: newer.slow[quantile] for quantile in edges if quantile in newer.slow}},
        late={**known.late, **{quantile: newer.late[quantile] for quantile in late_edges if quantile in newer.late}},
        slow_ms={**newer.slow_ms, **known.slow_ms},
        late_ms={**newer.late_ms, **known.late_ms},
        p99_ms=known.p99_ms or newer.p99_ms,
        rate_rps=newer.rate_rps if known.rate_rps is None else known.rate_rps,
    )


def _some(reasons: Sequence[str]) -> Iterator[str]:
    """The first of them, and how many more there are."""
    yield from reasons[:BLIND_NAMED]
    more = len(reasons) - BLIND_NAMED
    if more > 0:
        yield f"{more} more Envoy{'s' if more > 1 else ''} cannot be read"


def _begun(earlier: ClusterStats, later: ClusterStats) -> int:
    """Requests that began. What clients gave up has never completed; what found no connection was no attempt."""
    running = later.rq_active + later.rq_pending_active - earlier.rq_active - earlier.rq_pending_active
    connected = later.attempts - earlier.attempts - (later.retries - earlier.retries)
    answered = later.completed - earlier.completed
    return max(0, answered + running, connected) + begun(sessions_between(earlier, later))


def _since(earlier: BackendStats, later: BackendStats) -> Host | None:
    """None when nothing came, or when the counters began anew."""
    host = Host(later.requests - earlier.requests, later.errors - earlier.errors)
    return host if min(host.requests, host.errors) >= 0 and host != Host(0, 0) else None
