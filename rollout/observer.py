"""What the controller sees: the fleet's ACKs and stats, put together into the observation that a decision rests on."""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime

from rollout.activity import Activity
from rollout.books import Books, name_of
from rollout.bootstrap import ADMIN_METADATA
from rollout.checkup import Checkup
from rollout.gate import Gate, Past
from rollout.gate.checks import Reading
from rollout.gate.settings import Errors
from rollout.health import Probed
from rollout.historian import Historian, Key, watched
from rollout.hooks import Answer
from rollout.looks import Exposure, Looks, Sides, exposed
from rollout.machine import in_waves
from rollout.metrics import Failure, Query, Scrape, Shared
from rollout.places import FIRST_BASE_S, Crowd, Places
from rollout.readiness import Senses
from rollout.readings import Readings
from rollout.record import Backend, Rollout
from rollout.refusals import fresh_rejections, shortened
from rollout.roster import Roster, named
from rollout.split import Route
from rollout.state import Command, Phase, Seen, State
from rollout.traffic.publisher import Publisher
from xds.cache import Cache, NodeStatus
from xds.node import Node

LOOK_EVERY_S = 0.5
LOOK_SOON_S, SOON_S = 0.25, 3.0  # so long after a stage began: a version that fails every request costs by the second
LONG_LOOK_EVERY_S = 2.0  # each look is a line of the journal, and a stage may last for a day
LONG_STAGE_S = 600.0  # looks become that rare until then
PAUSED_LOOK_EVERY_S = 10.0  # a pause may last for days
SCRAPE_S = 0.5
SCRAPE_SOON_S = 0.1  # while something is let go, and when a stage has begun: then seconds count
SCRAPE_ENVOY_S = 0.002  # of a large fleet each Envoy is asked less often
STALE_SCRAPE_S = 5.0
STALE_ROUNDS = 3
BLAMABLE_BACKENDS = 200
WATCH_EVERY_S = 300.0
NO_STATS = "none"  # what a client without stats, as gRPC's own is, says under ADMIN_METADATA
_GOING_FORWARD = frozenset({Phase.PENDING, Phase.WARMING, Phase.SHIFTING, Phase.PAUSED, Phase.RETAINING})


@dataclass(frozen=True, slots=True)
class Stats:
    """The fleet's latest stats by node id, as the scraper has them; what checks have read, and hooks have said.

    `probed` has what our own probes of a version's backends have shown, by address, None where there are no probes at
    all. `wall` is for the calendar of freezes only.
    """

    latest: Callable[[], Mapping[str, Scrape]]
    failures: Callable[[], Mapping[str, Failure]]
    readings: Callable[[Rollout], Iterable[Reading]] = lambda _: ()
    answers: Callable[[Rollout], Mapping[str, Answer]] = lambda _: {}
    probed: Callable[[str, str], Mapping[str, Probed] | None] = lambda _service, _version: None
    wall: Callable[[], datetime] = lambda: datetime.fromtimestamp(0, UTC)

    @property
    def senses(self) -> Senses:
        """What is known of backends."""
        return Senses(self.latest, self.failures, self.probed)


class Observer:
    """Reads the cache, the scrapes and the clock. It decides nothing."""

    def __init__(
        self, books: Books, publisher: Publisher, cache: Cache, stats: Stats, clock: Callable[[], float]
    ) -> None:
        self._books = books
        self._publisher = publisher
        self._cache = cache
        self._stats = stats
        self._clock = clock
        self.activity = Activity(books, publisher, cache, stats.senses, clock)
        self.historian = Historian()
        self._watching: object = None
        self._roster = Roster()
        self._unready: dict[str, tuple[str, ...]] = {}
        self._checkup = Checkup(books, publisher, stats.senses, clock)
        self._looks: dict[str, Looks] = {}
        self._looked_s: dict[str, float] = {}
        self._readings = Readings(stats.readings)
        self._places = Places(self._looks_at, _look_every_s)

    def observe(self, rollout: Rollout, command: Command | None, by: str) -> Seen:
        """Return all that a decision about this rollout may rest on now."""
        service, state = rollout.service, rollout.state
        everyone = self._connected()
        connected = self._having(service, everyone)
        lagging, refused = self._lags(rollout)
        missing = self._missing(service, everyone)
        seen = Seen(
            self._clock(),
            len(connected),
            fleet=len(connected.keys() | missing.keys()),
            served=self._books.splits.get(service),
            lagging={**missing, **lagging},
            refused={**fresh_rejections(connected, state.since_s), **refused},
            leaving=frozenset(each.address for each in self._books.backends(service) if _is_candidates(each, rollout)),
            answers=self._stats.answers(rollout),
            frozen=self._frozen(rollout),
            missing=named(self._missed(rollout, everyone)),
            command=command,
            by=by,
        )
        if (state.resume or state.phase) is Phase.SHIFTING:
            health = self._checkup.found(rollout, connected, stale_after_s(len(everyone)))
            seen = replace(seen, unhealthy=health.few, dead=health.dead)
        else:
            self._checkup.forget(service)
        self._unready.pop(service, None)
        if in_waves(rollout.strategy, state):
            return self._places.see(rollout, seen, self._crowd(rollout, connected, missing, refused))
        exposure = exposed(rollout.strategy, state, seen.served)
        match state.phase:
            case Phase.WARMING:
                with_stats = (node for node, status in connected.items() if has_stats(status.node))
                unready = self._checkup.unready(rollout, with_stats)
                self._unready[service] = unready
                return replace(seen, unready=unready, past=None if unready else self._past(rollout))
            case Phase.SHIFTING | Phase.PAUSED if exposure is not None:
                return self._with_look(seen, rollout, connected, exposure)
            case Phase.DRAINING if state.loser is not None:
                return replace(seen, active=self.activity.on_version(service, name_of(rollout, state.loser)))
            case Phase.COMPLETED | Phase.ROLLED_BACK if state.loser is not None:
                return replace(seen, retired=self._books.retired(rollout, state.loser))
            case _:
                return seen

    def forget(self, service: str) -> None:
        """Drop what was collected for a rollout that is over."""
        for collected in (self._looks, self._looked_s):
            collected.pop(service, None)
        self._readings.forget(service)
        self._places.forget(service)
        self._checkup.forget(service)

    def recent(self, service: str) -> Sides:
        """Return what stable and candidate did in the last look."""
        looks = self._looks.get(service)
        return looks.recent() if looks else self._places.recent(service)

    def recent_at(self, service: str, location: str) -> Sides:
        """Return what both versions did in the last look at one location of a wave."""
        return self._places.recent(service, location)

    def routes(self, service: str, limit: int) -> tuple[Route, ...]:
        """Return how Envoys split a service's requests: those who deviate most from what they have ACKed."""
        looks = self._looks.get(service)
        return looks.routes(limit) if looks else self._places.routes(service, limit)

    def connected(self) -> int:
        """Return how many Envoys are on the line."""
        return len(self._connected())

    def lagging(self, service: str) -> Mapping[str, str]:
        """Return by node id why a node does not have a service as it is served now."""
        everyone = self._connected()
        nobody = {} if self._having(service, everyone) else {"the fleet": "has no Envoy on the line"}
        rollout = self._books.rollouts.get(service)
        return {**nobody, **self._missing(service, everyone), **(self._lags(rollout)[0] if rollout else {})}

    def unready(self, service: str) -> tuple[str, ...]:
        """Return what of a candidate that waits for its first traffic is not healthy yet."""
        return self._unready.get(service, ())

    def whereabouts(self, service: str) -> Mapping[str, int]:
        """Return how many Envoys on the line have a service, by location."""
        return Counter(status.node.location for status in self._having(service, self._connected()).values())

    def lagging_by_location(self, service: str) -> Mapping[str, Mapping[str, str]]:
        """Return by location why its Envoys on the line do not have a service as it is served now."""
        where = {node: status.node.location for node, status in self._connected().items()}
        found: dict[str, dict[str, str]] = {}
        for node, why in self.lagging(service).items():
            if node in where:
                found.setdefault(where[node], {})[node] = why
        return found

    def backend_known(self, backend: Backend) -> bool:
        """Say whether every Envoy knows that a backend is let go."""
        lags = self._publisher.endpoint_lags(backend.service, backend.version)
        return not lags and not self._missing(backend.service, self._connected())

    def expect(self, nodes: tuple[str, ...]) -> None:
        """Wait for these nodes as for ones that have just gone away: they were here before a restart."""
        self._roster.expect(nodes, self._clock())

    def note_nodes(self) -> tuple[str, ...] | None:
        """Remember who belongs to the fleet; return the ids when they are others than before."""
        proxies = (node for node, status in self._connected().items() if _took_something(status))
        return self._roster.note(proxies, self._books.active(), self._clock())

    def watch(self) -> None:
        """Collect the histories of what is in use now, from the Envoys that are here."""
        nodes = [status.node for status in self._connected().values() if has_stats(status.node)]
        rollouts = [(each.service, each.candidate, each.state.loser) for each in self._books.active()]
        # Once in a while all the same: errors tell whose backends are asked for, where there are many.
        watching = (nodes, rollouts, self._publisher.compiler, self._clock() // WATCH_EVERY_S)
        if watching != self._watching:
            self._watching = watching
            self.historian.watch(watched(self._books, self._publisher, nodes), self._books.addresses)

    def renamed(self, service: str, before: str, after: str) -> None:
        """Go on with the history of a version that has another name now."""
        self.historian.rename(service, before, after)
        self._watching = None

    def scrape_every_s(self) -> float:
        """Return how long to wait before all Envoys are asked again."""
        now_s = self._clock()
        soon = self._books.draining() or any(_is_urgent(rollout.state, now_s) for rollout in self._books.active())
        return max(SCRAPE_SOON_S if soon else SCRAPE_S, SCRAPE_ENVOY_S * self.connected())

    def questions(self) -> Callable[[str], Query | None]:
        """Return what tells by node what to ask of it now; what all are asked is found once for them."""
        names: list[str] = []
        versions: list[Key] = []
        backends = {each.address for each in self._books.draining()}
        for service in sorted(self._books.busy()):
            traffic = self._books.traffic(service)
            mine = [each.name for each in traffic.versions]
            versions += ((service, each) for each in mine)
            names += (stat for each in mine for stat in self.activity.stat_names_by(traffic.routing, service, each))
            bare = self._publisher.bare_stat_names(service)
            if bare:
                names += bare
                backends.update(self._leaving(service))
            backends.update(self._blamable(service))
            backends.update(self._polled(service))
        everyones = Query(tuple(names), tuple(backends), tuple(self._shared(versions)))
        return lambda node: self._query(node, everyones)

    def _query(self, node: str, everyones: Query) -> Query | None:
        """Return what to ask of an Envoy now, for decisions and for histories; None when there is nothing."""
        names, backends = self.historian.question(node, self._clock())
        asked = tuple(dict.fromkeys((*everyones.stat_names, *names)))
        if not asked:
            return None
        shared = (*everyones.shared, *self._shared(self.historian.asked(node, names)))
        return Query(asked, tuple(sorted({*everyones.backends, *backends})), tuple(dict.fromkeys(shared)))

    def _shared(self, versions: Iterable[Key]) -> Iterator[Shared]:
        """Yield where TCP proxies have versions' connections: in the service's own cluster, with other versions'."""
        for service, version in versions:
            for cluster in self._publisher.tcp_stat_names(service):
                stat_name = self._publisher.stat_name(service, version)
                yield Shared(stat_name, cluster, self._books.addresses(service, version))

    def _blamable(self, service: str) -> tuple[str, ...]:
        """Return the candidate's backends while their errors count, unless they make questions too long."""
        rollout = self._books.under_way(service)
        if rollout is None or rollout.state.loser is not None:
            return ()
        addresses = self._books.addresses(service, rollout.candidate)
        return addresses if len(addresses) <= BLAMABLE_BACKENDS else ()

    def _polled(self, service: str) -> tuple[str, ...]:
        """Return the backends whose health Envoys are asked for, which is some questions more where they check it."""
        if not self._publisher.health_checked(service):
            return ()
        versions = [each.name for each in self._books.traffic(service).versions if not each.draining]
        addresses = tuple(each for name in versions for each in self._books.addresses(service, name))
        return addresses if len(addresses) <= BLAMABLE_BACKENDS else ()

    def _leaving(self, service: str) -> tuple[str, ...]:
        """Return the backends of a version that is drained."""
        rollout = self._books.rollouts.get(service)
        if rollout is None or rollout.state.loser is None:
            return ()
        return self._books.addresses(service, name_of(rollout, rollout.state.loser))

    def _connected(self) -> dict[str, NodeStatus]:
        return {status.node.id: status for status in self._cache.connected()}

    def _having(self, service: str, connected: Mapping[str, NodeStatus]) -> dict[str, NodeStatus]:
        """Return those of the connected Envoys whose configuration has a service."""
        return {name: status for name, status in connected.items() if self._publisher.has(status.node, service)}

    def _lags(self, rollout: Rollout) -> tuple[dict[str, str], dict[str, str]]:
        """Return who is waited for, and who of them refused; going forward needs more than letting a version go.

        On a gradual way back the loser still has a weight: nobody lets it go yet.
        """
        service, loser = rollout.service, rollout.state.loser
        if loser is None or rollout.state.back_bp:
            lags = self._publisher.lagging(service, (version.name for version in self._books.versions(service)))
        else:
            lags = self._publisher.letting_go(service, name_of(rollout, loser))
        return (
            {node: shortened(lag.why) for node, lag in lags.items()},
            {node: shortened(lag.why) for node, lag in lags.items() if lag.refused},
        )

    def _missing(self, service: str, connected: Mapping[str, NodeStatus]) -> dict[str, str]:
        """Return who is waited for though it is gone; not whose configuration had no such service."""
        absent = self._roster.waited_for(self._books.under_way(service), connected.keys(), self._clock())
        others = self._without(service) if absent else frozenset()
        return {node: why for node, why in absent.items() if node not in others}

    def _missed(self, rollout: Rollout, connected: Mapping[str, NodeStatus]) -> frozenset[str]:
        """Return who has been away for longer than the strategy bears."""
        if rollout.state.loser is not None:
            return frozenset()
        missed = self._roster.missed(rollout, connected.keys(), self._clock())
        return missed - self._without(rollout.service) if missed else missed

    def _without(self, service: str) -> frozenset[str]:
        """Return those that are gone and had no such service."""
        return frozenset(each.node.id for each in self._cache.gone() if not self._publisher.has(each.node, service))

    def _frozen(self, rollout: Rollout) -> str:
        freeze = rollout.strategy.freeze
        return freeze.why(self._stats.wall()) if freeze and rollout.state.phase in _GOING_FORWARD else ""

    def _with_look(self, seen: Seen, rollout: Rollout, connected: Mapping[str, NodeStatus], exposure: Exposure) -> Seen:
        service, weight_bp = rollout.service, exposure.weight_bp
        looks = self._looks[service] = self._turned(rollout, exposure)
        # A command may be refused, and a look that is taken is gone: leave it to the next observation.
        if not looks.knows(weight_bp):
            looks.know(weight_bp, self._past(rollout))
            self._looked_s[service] = seen.now_s + FIRST_BASE_S  # sooner there would be nothing to see
        due = seen.command is None and seen.now_s - self._looked_s.get(service, 0.0) >= _look_every_s(
            rollout.state, seen.connected, seen.now_s
        )
        if due and looks.lacks_edges(weight_bp):
            looks.know(weight_bp, self._past(rollout))
        looks.acked(connected.keys() - seen.lagging.keys(), weight_bp, seen.now_s)
        latest = self._stats.latest()
        for node in connected.keys() & latest.keys():
            looks.add(node, latest[node])
        if not due:
            return seen
        self._looked_s[service] = seen.now_s
        look = looks.take(seen.now_s, connected, self._blind(service, connected, seen.now_s))
        # What an Envoy did at an earlier weight is no evidence for this stage: dropped at a change of weight.
        look = replace(look, strata=tuple(each for each in look.strata if each.weight_bp == weight_bp))
        readings = self._readings.after(rollout, looks.recent().candidate, seen.now_s)
        return replace(seen, looked_s=seen.now_s, look=replace(look, readings=readings))

    def _crowd(
        self,
        rollout: Rollout,
        connected: Mapping[str, NodeStatus],
        missing: Mapping[str, str],
        refused: Mapping[str, str],
    ) -> Crowd:
        return Crowd(
            connected,
            missing=missing,
            missed=self._missed(rollout, self._connected()),
            gone={each.node.id: each.node.location for each in self._cache.gone()},
            refused=refused,
            latest=self._stats.latest(),
            fresh=fresh_rejections,
            blind=lambda: self._blind(rollout.service, connected, self._clock()),
            past=lambda: self._past(rollout),
            readings=lambda: tuple(self._stats.readings(rollout)),
        )

    def _past(self, rollout: Rollout) -> Past:
        past = self.historian.past(rollout.service, rollout.stable, self._gate(rollout))
        return replace(past, untimed=True) if self._publisher.takes_tcp_only(rollout.service) else past

    def _turned(self, rollout: Rollout, exposure: Exposure) -> Looks:
        """Return what collects looks; at the shadow while users get nothing from the candidate."""
        service = rollout.service
        looks = self._looks.get(service) or self._looks_at(rollout)
        if exposure.aside == looks.aside:
            return looks
        own, *shadow = self.activity.stat_names(service, rollout.candidate)
        return looks.turned(own if exposure.of_users or not shadow else shadow[0], exposure)

    def _looks_at(self, rollout: Rollout) -> Looks:
        names = (rollout.stable, rollout.candidate)
        stable, candidate = (self._publisher.stat_name(rollout.service, each) for each in names)
        return Looks(stable, candidate, names, self._gate(rollout).errors)

    def _gate(self, rollout: Rollout) -> Gate:
        """Return what a rollout is judged by: no TCP connection ends with a gRPC status."""
        gate = rollout.strategy.gate
        return replace(gate, errors=Errors.HTTP) if self._publisher.takes_tcp_only(rollout.service) else gate

    def _blind(self, service: str, connected: Mapping[str, NodeStatus], now_s: float) -> Mapping[str, str]:
        """Return why Envoys cannot be read now; one that is gone may still have traffic."""
        latest, failures = self._stats.latest(), self._stats.failures()
        everyone = self._connected()
        stale_s = stale_after_s(len(everyone))
        without = {each.node.id for each in self._cache.gone() if not has_stats(each.node)}
        blind = {node: why for node, why in self._missing(service, everyone).items() if node not in without}
        for node, status in connected.items():
            if not has_stats(status.node):
                continue
            failure, scrape = failures.get(node), latest.get(node)
            unseen = scrape is None or scrape.started_s < status.since_s
            if unseen or (scrape is not None and now_s - scrape.started_s > stale_s):
                blind[node] = failure.why if failure else "no stats yet"
        return blind


def _is_urgent(state: State, now_s: float) -> bool:
    """Say whether traffic is shifted or let go just now."""
    if state.phase is Phase.DRAINING:
        return True
    stages = (state, *state.lanes.values())
    return any(each.phase is Phase.SHIFTING and now_s - each.since_s < SOON_S for each in stages)


def _look_every_s(state: State, connected: int, now_s: float) -> float:
    lasted_s = now_s - state.since_s
    if state.phase is Phase.PAUSED:
        return PAUSED_LOOK_EVERY_S if lasted_s > 60 else LOOK_EVERY_S
    if state.phase is Phase.RETAINING:
        return LONG_LOOK_EVERY_S  # a location that is done, while others are not
    if lasted_s < SOON_S:
        return min(LOOK_EVERY_S, max(LOOK_SOON_S, 2 * SCRAPE_ENVOY_S * connected))
    return max(LOOK_EVERY_S, LONG_LOOK_EVERY_S * min(1.0, lasted_s / LONG_STAGE_S))


def stale_after_s(envoys: int) -> float:
    """Return how old an answer may be: a round over so many Envoys takes its time."""
    return max(STALE_SCRAPE_S, STALE_ROUNDS * SCRAPE_ENVOY_S * envoys)


def has_stats(node: Node) -> bool:
    """Say whether a client has stats to be read. One that has none is judged by what the others see.

    Its ACKs are waited for all the same, and nobody knows what runs on it: it makes drains last for their timeout.
    """
    return node.metadata.get(ADMIN_METADATA) != NO_STATS


def _is_candidates(backend: Backend, rollout: Rollout) -> bool:
    return backend.version == rollout.candidate


def _took_something(status: NodeStatus) -> bool:
    """Say whether a client accepted anything yet; one that only passed by need not be waited for when it is gone."""
    return any(each.acked_version for each in status.types.values())
