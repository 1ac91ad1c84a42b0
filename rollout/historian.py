"""Collects histories from scrapes: what to ask whom in the background, what they answered, and what is to be saved."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from zlib import crc32

from rollout.books import Books, name_of
from rollout.gate import Gate, Histogram, Past
from rollout.gate.sample import Host
from rollout.history import WINDOW_S, History, Window
from rollout.metrics import ClusterStats, Counts, Scrape, increments
from rollout.record import Rollout
from rollout.state import Role
from rollout.traffic.publisher import Publisher
from xds.node import Node

EVERY_S, YOUNG_EVERY_S = 10.0, 2.0
SPAN_LIMIT_S = 60.0
YOUNG_S = 60.0  # so long after it is first asked for, a version is asked for more often
QUESTIONS_LIMIT = 5000  # of clusters, in each round over the fleet
ENVOYS_LEAST = 2
NAMES_AT_ONCE = 100
BACKENDS_LIMIT = 200  # each makes a question longer, and they go to all Envoys
SAVE_EVERY_S = 60.0
SAVE_AT_ONCE = 50
_SLACK_S = 0.5  # rounds of scrapes are never on the dot

Key = tuple[str, str]
"""A service and its version."""


@dataclass(frozen=True, slots=True)
class Watched:
    """A version that is in use: its cluster's name in stats, and the Envoys that have it."""

    service: str
    version: str
    stat_name: str
    nodes: tuple[str, ...]

    @property
    def key(self) -> Key:
        return self.service, self.version


@dataclass(slots=True)
class _Question:
    """One cluster of one Envoy: when it was asked for last, and the scrape that increments count from."""

    key: Key
    asked_s: float = float("-inf")
    base: Scrape | None = None


@dataclass(slots=True)
class _Open:
    """A window that is being filled, with the spans that began within WINDOW_S: of each Envoy as many."""

    began_s: float
    counts: Counts = field(default_factory=Counts)  # but for the latencies
    latency: dict[tuple[float, float], int] = field(default_factory=dict)
    hosts: dict[str, Host] = field(default_factory=dict)
    node_s: float = 0.0
    nodes: set[str] = field(default_factory=set)

    def add(self, node: str, span_s: float, counts: Counts) -> None:
        """Take in what a node did in so many seconds."""
        self.node_s += span_s
        self.nodes.add(node)
        self.counts = self.counts.merge(replace(counts, latency=Histogram()))
        for lower_ms, width_ms, samples in counts.latency.buckets:
            known = self.latency.get((lower_ms, width_ms), 0)
            self.latency[lower_ms, width_ms] = known + samples

    def window(self, having: int) -> Window:
        """Return what it has, where so many Envoys have the service."""
        counts, read = self.counts, len(self.nodes)
        return Window(
            seconds=self.node_s / read,
            requests=counts.requests,
            errors=counts.errors,
            lost=counts.timeouts + counts.refused,
            latency=Histogram.of((*bucket, samples) for bucket, samples in self.latency.items()),
            hosts=self.hosts,
            grpc_answers=counts.grpc_answers,
            grpc_faults=counts.grpc_faults,
            fleet=max(1.0, having / read),
        )


@dataclass(slots=True)
class _Line:
    """One watched version: the backends that are asked for, and since when."""

    watched: Watched
    backends: tuple[str, ...] = ()
    since_s: float | None = None
    open: _Open | None = None
    full: History | None = None  # with what is in the open window; None: to be summed up

    def every_s(self, now_s: float) -> float:
        young = self.since_s is None or now_s - self.since_s < YOUNG_S
        return YOUNG_EVERY_S if young else EVERY_S


class Historian:
    """Decides nothing and reads nothing itself. Only a fixed sample of a large fleet is asked."""

    def __init__(self) -> None:
        self._histories: dict[Key, History] = {}
        self._lines: dict[Key, _Line] = {}
        self._questions: dict[str, dict[str, _Question]] = {}
        self._changed: set[Key] = set()
        self._saved_s: dict[Key, float] = {}
        self._versions: dict[str, tuple[str, ...]] = {}
        self._pasts: dict[Key, tuple[History, Gate, tuple[float, ...], Past]] = {}

    # --- whom to watch ---

    def restore(self, histories: Mapping[Key, History]) -> None:
        """Take up what was saved."""
        self._histories = dict(histories)

    def watch(self, watched: Iterable[Watched], backends: Callable[[str, str], tuple[str, ...]]) -> None:
        """Collect for these from now on. What is known of others is kept, but does not grow.

        `backends` gives the addresses of a service's version; those with errors come first where they are too many.
        """
        before, self._lines = self._lines, {each.key: _Line(each) for each in watched}
        for key, known in before.items():
            line = self._lines.get(key)
            if line is not None and known.watched.stat_name == line.watched.stat_name:
                line.since_s, line.open = known.since_s, known.open
            else:
                self._close(known)
        self._versions = {}
        for service, version in self._lines:
            self._versions[service] = (*self._versions.get(service, ()), version)
        for service, version in before.keys() - self._lines.keys():
            self._hand_over(service, version)
        self._choose_backends(backends)
        self._ask()

    def rename(self, service: str, before: str, after: str) -> None:
        """Give a version's history to the name that it has now."""
        history = self._histories.get((service, before))
        self.drop(service, before)
        if history is not None:
            self._histories[service, after] = history
            self._changed.add((service, after))

    def drop(self, service: str, version: str) -> None:
        """Forget a version that is let go."""
        for known in (self._lines, self._histories, self._saved_s, self._pasts):
            known.pop((service, version), None)
        self._changed.discard((service, version))

    def _hand_over(self, service: str, loser: str) -> None:
        """Count the traffic of a version that lost as its winner's, who has it from now on."""
        known, winner = self._histories.get((service, loser)), next(iter(self._versions.get(service, ())), None)
        if known is None or winner is None:
            return
        self._close(self._lines[service, winner])
        self._histories[service, winner] = self._histories.get((service, winner), History()).with_rate_of(known)
        self._histories[service, loser] = replace(known, recent_requests=0.0)

    def _choose_backends(self, backends: Callable[[str, str], tuple[str, ...]]) -> None:
        left = BACKENDS_LIMIT
        for key, line in sorted(self._lines.items(), key=lambda item: (-self._errors(item[0]), item[0])):
            if not left:
                break
            line.backends = backends(*key) if line.watched.nodes else ()
            if len(line.backends) > left:
                line.backends = ()  # of some of its backends phi would be another
            left -= len(line.backends)

    def _errors(self, key: Key) -> float:
        known = self._histories.get(key)
        return known.errors if known else 0.0

    def _ask(self) -> None:
        before, self._questions = self._questions, {}
        most = max(ENVOYS_LEAST, QUESTIONS_LIMIT // max(1, len(self._lines)))
        samples: dict[tuple[str, ...], tuple[str, ...]] = {}
        for key, line in self._lines.items():
            nodes, stat_name = line.watched.nodes, line.watched.stat_name
            if nodes not in samples:
                samples[nodes] = sample(nodes, most)
            for node in samples[nodes]:
                known = before.get(node, {}).get(stat_name)
                question = known if known is not None and known.key == key else _Question(key)
                self._questions.setdefault(node, {})[stat_name] = question

    # --- asking and hearing ---

    def question(self, node: str, now_s: float) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """Return which clusters an Envoy is to be asked for now, and which backends; it counts as asked."""
        due = [
            (question.asked_s, stat_name)
            for stat_name, question in self._questions.get(node, {}).items()
            if (line := self._lines.get(question.key)) and now_s - question.asked_s >= line.every_s(now_s) - _SLACK_S
        ]
        names = tuple(sorted(stat_name for _, stat_name in sorted(due)[:NAMES_AT_ONCE]))
        backends: set[str] = set()
        for stat_name in names:
            question = self._questions[node][stat_name]
            question.asked_s = now_s
            line = self._lines[question.key]
            line.since_s = now_s if line.since_s is None else line.since_s
            backends.update(line.backends)
        return names, tuple(sorted(backends))

    def asked(self, node: str, names: Iterable[str]) -> tuple[Key, ...]:
        """Return the versions that these clusters are asked for."""
        return tuple(self._questions[node][name].key for name in names)

    def heard(self, node: str, scrape: Scrape) -> None:
        """Count what a node's clusters did since they were heard of before."""
        questions = self._questions.get(node, {})
        for stat_name in scrape.clusters.keys() & questions.keys():
            question = questions[stat_name]
            line = self._lines.get(question.key)
            if line is not None:
                self._count(node, question, line, scrape)

    def _count(self, node: str, question: _Question, line: _Line, scrape: Scrape) -> None:
        stat_name, base = line.watched.stat_name, question.base
        every_s = line.every_s(scrape.started_s)
        span_s = every_s if base is None else scrape.started_s - base.started_s
        if span_s < every_s - _SLACK_S:
            return  # a rollout asks more often
        question.base = replace(scrape, clusters={stat_name: scrape.clusters[stat_name]})
        if base is None or span_s > SPAN_LIMIT_S:
            return  # it could not be read for a while: no window is that long
        counts = increments(base, scrape, stat_name)
        if counts is None:
            return
        if line.open is not None and base.started_s >= line.open.began_s + WINDOW_S - _SLACK_S:
            self._close(line)
        filling = line.open = line.open or _Open(base.started_s)
        filling.add(node, span_s, counts)
        line.full = None
        for address, host in _hosts(base.clusters[stat_name], scrape.clusters[stat_name], line.backends):
            known = filling.hosts.get(address, Host(0, 0))
            filling.hosts[address] = Host(known.requests + host.requests, known.errors + host.errors)

    def _close(self, line: _Line) -> None:
        key, following = line.watched.key, self._full(line)
        line.open, line.full = None, None
        if following is not None:
            if _worth_saving(self._histories.get(key, History()), following):
                self._changed.add(key)
            self._histories[key] = following

    # --- what is to be saved ---

    def to_save(self, now_s: float) -> Mapping[Key, History]:
        """Return some of what has changed and was not saved for a while; it counts as saved."""
        due = [key for key in self._changed & self._lines.keys() if now_s - self._saved_s.get(key, 0.0) >= SAVE_EVERY_S]
        found = {key: self._histories[key] for key in sorted(due)[:SAVE_AT_ONCE]}
        self._saved_s.update(dict.fromkeys(found, now_s))
        self._changed -= found.keys()
        return found

    def all_to_save(self) -> Mapping[Key, History]:
        """Return all that has changed, up to the last answer: there will be no other time."""
        for line in self._lines.values():
            self._close(line)
        found = {key: self._histories[key] for key in sorted(self._changed & self._lines.keys())}
        self._changed.clear()
        return found

    # --- what is known ---

    def history(self, service: str, version: str) -> History | None:
        """Return what a version has done, up to the last answer; None while nothing is known."""
        line = self._lines.get((service, version))
        return self._histories.get((service, version)) if line is None else self._full(line)

    def past(self, service: str, version: str, gate: Gate) -> Past:
        """Return what the judge may know of a stable version. The rate is that of all versions that are in use."""
        known = self.history(service, version)
        if known is None:
            return Past()
        rates = tuple(self._rates_rps(service))
        cached = self._pasts.get((service, version))
        if cached is None or cached[0] is not known or cached[1:3] != (gate, rates):
            past = known.past(gate)
            cached = (known, gate, rates, replace(past, rate_rps=sum(rates)) if rates else past)
            self._pasts[service, version] = cached
        return cached[3]

    def _rates_rps(self, service: str) -> Iterator[float]:
        for version in self._versions.get(service, ()):
            known = self.history(service, version)
            if known is not None and known.rate_rps is not None:
                yield known.rate_rps

    def _full(self, line: _Line) -> History | None:
        """With the window that is being filled."""
        known = self._histories.get(line.watched.key)
        if line.open is None:
            return known
        if line.full is None:
            line.full = (known or History()).after(line.open.window(len(line.watched.nodes)))
        return line.full


def _worth_saving(before: History, after: History) -> bool:
    """A service that stays idle is not."""
    return before.requests != after.requests or round(before.rate_rps or 0, 1) != round(after.rate_rps or 0, 1)


def watched(books: Books, publisher: Publisher, nodes: Iterable[Node]) -> tuple[Watched, ...]:
    """Return the versions that are in use: each service's stable one, and a candidate for as long as it may win."""
    groups: dict[str, list[str]] = {}
    for node in nodes:
        groups.setdefault(publisher.compiler.grouping.cluster(node), []).append(node.id)
    having: dict[tuple[str, ...], tuple[str, ...]] = {}
    active = {rollout.service: rollout for rollout in books.active()}
    found: list[Watched] = []
    for service in sorted(publisher.services()):
        places = tuple(name for name in groups if service in publisher.compiler.overlays[name].services)
        if places not in having:
            having[places] = tuple(sorted(node for name in places for node in groups[name]))
        versions = _in_use(active.get(service), books.stable(service))
        found += (Watched(service, each, publisher.stat_name(service, each), having[places]) for each in versions)
    return tuple(found)


def _in_use(rollout: Rollout | None, stable: str) -> tuple[str, ...]:
    if rollout is None:
        return (stable,)
    return tuple(name_of(rollout, role) for role in Role if role is not rollout.state.loser)


def sample(nodes: Iterable[str], most: int) -> tuple[str, ...]:
    """Return at most so many of these nodes: always the same ones, whoever else comes or goes, as far as can be."""
    return tuple(sorted(nodes, key=lambda node: (crc32(node.encode()), node))[:most])


def _hosts(before: ClusterStats, after: ClusterStats, backends: Iterable[str]) -> Iterable[tuple[str, Host]]:
    """Yield what each backend answered in between; not those whose counters began anew."""
    for address in backends:
        earlier, later = before.backends.get(address), after.backends.get(address)
        if earlier is not None and later is not None:
            requests, errors = later.requests - earlier.requests, later.errors - earlier.errors
            if requests >= 0 and errors >= 0:
                yield address, Host(requests, errors)
