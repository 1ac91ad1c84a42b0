"""Which backends the fleet is told not to use because probes, or most Envoys, find them unhealthy."""

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass

from rollout.books import Books, name_of
from rollout.health import Opinion, Votes, Ward, polled
from rollout.probe import ProbeSpec
from rollout.readiness import Senses
from rollout.record import Rollout
from rollout.state import Phase, Role
from rollout.traffic.compiler import VersionTraffic
from rollout.traffic.publisher import Publisher
from xds.cache import Cache

POLL_EVERY_S = 1.0
SETTLED_S = 1.0  # after Envoys were told that they may use a backend again, what they say is their own finding
CONNECTING = ProbeSpec(tcp=True)
_BEFORE_TRAFFIC = frozenset({Phase.PENDING, Phase.WARMING})
_LEAVING = frozenset({Phase.DRAINING, Phase.REMOVING, Phase.COMPLETED, Phase.ROLLED_BACK})

Key = tuple[str, str, str]
"""A service, its version, and a backend's address."""


@dataclass(frozen=True, slots=True)
class Finding:
    """A backend that is unhealthy by what was seen, and since when. `kept`: it is used, as all others are, too."""

    version: str
    address: str
    why: str
    since_s: float
    kept: bool = False


class Ailing:
    """Looks at services with a rollout or a drain; of all others it forgets what was found."""

    def __init__(
        self, books: Books, publisher: Publisher, cache: Cache, senses: Senses, clock: Callable[[], float]
    ) -> None:
        self._books = books
        self._publisher = publisher
        self._cache = cache
        self._senses = senses
        self._clock = clock
        self._opinions: dict[tuple[str, str], dict[str, Opinion]] = {}  # by service and version, then by address
        self._shunned_s: dict[Key, float] = {}
        self._polled_s: dict[str, float] = {}
        self._found: dict[str, tuple[Finding, ...]] = {}
        self._before: dict[str, frozenset[str]] = {}
        self._restored_s = 0.0
        self._saved: Mapping[str, frozenset[str]] = {}

    def restore(self, ill: Mapping[str, frozenset[str]]) -> None:
        """Go on with what was found before a restart, until the first probes tell."""
        self._before, self._saved, self._restored_s = dict(ill), dict(ill), self._clock()

    def to_save(self) -> Mapping[str, frozenset[str]]:
        """Return by service which backends are ill, where that is other than at the last call."""
        before, self._saved = self._saved, dict(self._books.ill)
        either = sorted(before.keys() | self._saved.keys())
        now = {service: self._saved.get(service, frozenset()) for service in either}
        return {service: ill for service, ill in now.items() if ill != before.get(service)}

    def forget_all_but(self, busy: Collection[str]) -> tuple[str, ...]:
        """Forget what was found of services where nothing goes on; return those that have ill backends no more."""
        well = tuple(sorted(self._books.ill.keys() - busy))
        for service in well:
            del self._books.ill[service]
        self._found = {service: found for service, found in self._found.items() if service in busy}
        self._before = {service: ill for service, ill in self._before.items() if service in busy}
        self._opinions = {key: known for key, known in self._opinions.items() if key[0] in busy}
        self._shunned_s = {key: at_s for key, at_s in self._shunned_s.items() if key[0] in busy}
        return well

    def look_at(self, service: str) -> bool:
        """Note in the books which backends of a service are ill now; return whether these are others than before."""
        self._found[service] = found = self._findings(service)
        ill, before = frozenset(each.address for each in found if not each.kept), self._books.ill.pop(service, None)
        if ill:
            self._books.ill[service] = ill
        return ill != (before or frozenset())

    def findings(self, service: str) -> tuple[Finding, ...]:
        """Return what is found unhealthy now."""
        return self._found.get(service, ())

    def forgive(self, service: str, address: str) -> None:
        """Ask the Envoys anew of a backend."""
        for (owner, _), known in self._opinions.items():
            if owner == service:
                known.pop(address, None)

    def wards(self) -> Iterator[Ward]:
        """Yield whom the control plane probes itself: both versions where the strategy says how.

        Else it connects to the backends of a candidate that waits for its first traffic, where no Envoy checks them.
        """
        for rollout in self._books.active():
            service, probe, phase = rollout.service, rollout.strategy.probe, rollout.state.phase
            if probe is not None and phase not in _LEAVING:
                for role in Role:
                    yield self._ward(service, name_of(rollout, role), probe)
            elif (rollout.state.resume or phase) is Phase.WARMING and not self._publisher.health_checked(service):
                yield self._ward(service, rollout.candidate, CONNECTING)

    def _ward(self, service: str, version: str, probe: ProbeSpec) -> Ward:
        return Ward(service, version, self._books.addresses(service, version), probe)

    def _findings(self, service: str) -> tuple[Finding, ...]:
        rollout = self._books.under_way(service)
        versions = [each for each in self._books.traffic(service).versions if not each.draining]
        if self._publisher.health_checked(service):
            self._poll(service, versions)
        found: list[Finding] = []
        for version in versions:
            ill = {**self._by_envoys(service, version.name), **self._by_probe(service, version.name, rollout)}
            for address in version.let_go | self._books.marked(service):
                ill.pop(address, None)  # it gets nothing new as it is
            kept = self._kept(service, version, ill) if _is_needed(version.name, rollout) else frozenset()
            found += [
                Finding(version.name, address, why, since_s, address in kept)
                for address, (why, since_s) in sorted(ill.items())
            ]
        return tuple(found)

    def _by_probe(self, service: str, version: str, rollout: Rollout | None) -> dict[str, tuple[str, float]]:
        if rollout is None or rollout.strategy.probe is None or rollout.state.phase in _LEAVING:
            return {}
        known = self._senses.probed(service, version) or {}
        decided = frozenset(address for address, each in known.items() if each.healthy is not None)
        before = self._before[service] = self._before.get(service, frozenset()) - decided
        why = "probe: it was unhealthy when the server before this one ended"
        return dict.fromkeys(before.intersection(self._books.addresses(service, version)), (why, self._restored_s)) | {
            address: (f"probe: {each.why or 'it has only begun to answer again'}", each.since_s)
            for address, each in known.items()
            if each.healthy is False
        }

    def _by_envoys(self, service: str, version: str) -> dict[str, tuple[str, float]]:
        found: dict[str, tuple[str, float]] = {}
        for address, opinion in self._opinions.get((service, version), {}).items():
            if opinion.marked_s is not None:
                votes = opinion.votes
                why = f"unhealthy to {votes.unhealthy} of {votes.healthy + votes.unhealthy} Envoys"
                found[address] = (why, opinion.marked_s)
        return found

    def _kept(self, service: str, version: VersionTraffic, ill: Mapping[str, object]) -> frozenset[str]:
        """Return whom to use all the same, so that no proxy is left without a backend of this version.

        Where all are ill that is all of them: one alone would get the traffic of many, when it may be the worst, and
        when our own way to them may be what fails.
        """
        unusable = version.let_go | self._books.marked(service)
        groups = (group - unusable for group in self._publisher.backends(service, version.name))
        return frozenset(address for mine in groups if not mine - ill.keys() for address in mine)

    def _poll(self, service: str, versions: Iterable[VersionTraffic]) -> None:
        now_s = self._clock()
        for version in versions:
            shunned = version.let_go | self._books.unhealthy(service, version.name)
            self._shunned_s.update({(service, version.name, address): now_s for address in shunned})
        if now_s - self._polled_s.get(service, float("-inf")) < POLL_EVERY_S:
            return
        self._polled_s[service] = now_s
        for version in versions:
            votes = self._votes(service, version.name)
            mine = (service, version.name)
            before = self._opinions.get(mine, {})
            self._opinions[mine] = {
                address: polled(before.get(address, Opinion()), votes.get(address, Votes()), now_s)
                for address in self._books.addresses(*mine)
            }

    def _votes(self, service: str, version: str) -> dict[str, Votes]:
        """Count by address what those Envoys find that have what is served of its endpoints."""
        stat, lags = self._publisher.stat_name(service, version), self._publisher.endpoint_lags(service, version)
        latest = self._senses.latest()
        for_it: dict[str, int] = {}
        against: dict[str, int] = {}
        for status in self._cache.connected():
            scrape = None if status.node.id in lags else latest.get(status.node.id)
            stats = scrape.clusters.get(stat) if scrape else None
            if scrape is None or stats is None or scrape.started_s < status.since_s:
                continue
            for address, backend in stats.backends.items():
                shunned_s = self._shunned_s.get((service, version, address), float("-inf"))
                if scrape.started_s >= shunned_s + SETTLED_S:
                    counted = for_it if backend.healthy else against
                    counted[address] = counted.get(address, 0) + 1
        either = for_it.keys() | against.keys()
        return {address: Votes(for_it.get(address, 0), against.get(address, 0)) for address in either}


def _is_needed(version: str, rollout: Rollout | None) -> bool:
    """Say whether a version has traffic or may get it back at any moment; a candidate before its first has none."""
    if rollout is None:
        return True
    before = (rollout.state.resume or rollout.state.phase) in _BEFORE_TRAFFIC
    return not (before and version == rollout.candidate)
