"""Overlay and splits -> snapshot: a pure function of both, which makes again only what changed."""

import hashlib
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import chain
from types import MappingProxyType
from typing import Any as Message

from rollout.exposure import FULL_BP
from rollout.spec import Endpoint
from rollout.traffic.assignment import (
    UNHEALTHY,
    Group,
    deployed,
    drained,
    encoded,
    joined,
    marked,
    policy,
    without,
    written,
)
from rollout.traffic.copies import RULES, Renewal, known_to
from rollout.traffic.overlay import Overlay, RouteKey, RouteTemplate, ServiceTemplate
from rollout.traffic.places import Places, change, copied
from rollout.traffic.routing import NOBODY, PLAIN, SHADOW, Lead, Routing, cluster_name, lead, shadow_name
from rollout.traffic.shares import Part, shared
from rollout.traffic.splice import Knife, Splice, grafts_of
from xds.resources import (
    CLUSTERS,
    ENDPOINTS,
    TYPES,
    VIRTUAL_HOSTS,
    Reference,
    Resource,
    ResourceType,
    content_version,
    expiring,
    resource,
)
from xds.snapshot import Snapshot, edited, of_views, view

_PLAIN_STAT = re.compile(r"[^.:]+")


@dataclass(frozen=True, slots=True)
class VersionTraffic:
    """What is served of one version. `endpoints` None: those of envoy-configs.

    `draining` marks all of them, `let_go` some addresses as DRAINING; `removed` leaves addresses out. `unhealthy` are
    those that no Envoy should use, whatever it finds itself.
    """

    name: str
    weight_bp: int
    endpoints: tuple[Endpoint, ...] | None
    draining: bool = False
    let_go: frozenset[str] = frozenset()
    removed: frozenset[str] = frozenset()
    unhealthy: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class ServiceTraffic:
    """What is served of one service: its versions, the stable one among them; their weights sum to FULL_BP."""

    stable: str
    versions: tuple[VersionTraffic, ...]
    routing: Routing = PLAIN

    def __post_init__(self) -> None:
        assert sum(version.weight_bp for version in self.versions) == FULL_BP, self
        names = {version.name for version in self.versions}
        assert self.stable in names, self
        assert self.routing.candidate in {"", *names}, self


@dataclass(frozen=True, slots=True, eq=False)
class Made:
    """What is served of one service, and what it was made of.

    `groups` holds by version the endpoints and their groups, `assignments` by name what it was made from.
    `locality_weighted`: its clusters balance by the weights of localities.
    """

    policy: bytes
    groups: Mapping[str, tuple[tuple[Endpoint, ...] | None, tuple[Group, ...]]]
    clusters: Mapping[str, Resource]
    assignments: Mapping[str, tuple[tuple[VersionTraffic, ...], Resource]]
    locality_weighted: bool = False

    def resources(self) -> Iterator[Resource]:
        yield from self.clusters.values()
        for _, each in self.assignments.values():
            yield each


@dataclass(frozen=True, slots=True, eq=False)
class MadeRoute:
    """A route configuration as it is served, in pieces too; `versions` are its references to those of each service."""

    splice: Splice
    versions: Mapping[str, tuple[Reference, ...]]
    resource: Resource


def stat_name(service: ServiceTemplate, version: str) -> str:
    """Return the name of a version's cluster in Envoy's stats: a dot there would end the name of the cluster."""
    name = cluster_name(service.stat, version)
    if _PLAIN_STAT.fullmatch(name):
        return name
    mark = hashlib.sha256(name.encode()).hexdigest()[:6]  # v2.1 and v2_1 must not meet
    return f"{re.sub('[.:]', '_', name)}-{mark}"


def shadow_stat_name(service: ServiceTemplate, version: str) -> str:
    """Return the name of the stats of a version's shadow cluster."""
    return stat_name(service, f"{version}{SHADOW}")


def bare_stat_name(service: ServiceTemplate) -> str:
    """Return the name of a service's own cluster in Envoy's stats, where a colon is an underscore."""
    return str(service.cluster.alt_stat_name or service.name).replace(":", "_")


class Compiler:
    """Compiles the splits of one overlay. What is equal to the last time is not made again, but is the same object.

    What is remembered is replaced, never changed: a copy of a compiler goes on by itself from what both have made.
    """

    def __init__(self, overlay: Overlay) -> None:
        self.overlay = overlay
        self._knife = Knife(lambda message, places: _named(message, places, overlay.services), RULES)
        self._routes_of = _routes_by_service(overlay)
        self._traffic: Mapping[str, ServiceTraffic] = {}
        self._leads: Mapping[str, Lead] = {}
        self._made: Mapping[str, Made] = {}
        self._routes: Mapping[RouteKey, MadeRoute] = {}
        self._snapshot: Snapshot | None = None

    def compile(self, services: Mapping[str, ServiceTraffic]) -> Snapshot:
        """Return the snapshot for these splits; each service of the overlay must have one."""
        before = self._traffic
        other = [name for name in self.overlay.services if services[name] is not before.get(name)]
        changed = {name: services[name] for name in other if services[name] != before.get(name)}
        leads = {name: _lead(name, each) for name, each in changed.items()}
        shifted = {name: each for name, each in leads.items() if each != self._leads.get(name)}
        made = {name: self._service(name, each) for name, each in changed.items()}
        all_leads = {**self._leads, **shifted}
        routes = self._shifted_routes(all_leads, shifted)
        snapshot = self._edited(made, routes)
        self._traffic, self._leads = dict(services), all_leads
        self._made, self._routes = {**self._made, **made}, {**self._routes, **routes}
        self._snapshot = snapshot
        return snapshot

    def _service(self, name: str, traffic: ServiceTraffic) -> Made:
        return _service(self.overlay.services[name], traffic, self._made.get(name))

    def _shifted_routes(self, leads: Mapping[str, Lead], shifted: Mapping[str, Lead]) -> dict[RouteKey, MadeRoute]:
        if self._snapshot is None:
            templates = {each.key: each for each in self.overlay.routes}
        else:
            templates = {each.key: each for name in shifted for each in self._routes_of.get(name, ())}
        changed = {name: tuple(_renewed(name, self._leads.get(name), each)) for name, each in shifted.items()}
        renewals = {
            hosts: Renewal(known_to(VIRTUAL_HOSTS, leads) if hosts else leads, self._knife)
            for hosts in {each.type is VIRTUAL_HOSTS for each in templates.values()}
        }
        return {
            key: self._route(each, renewals[each.type is VIRTUAL_HOSTS], changed) for key, each in templates.items()
        }

    def _route(self, template: RouteTemplate, renewal: Renewal, changed: Mapping[str, tuple[str, ...]]) -> MadeRoute:
        before = self._routes.get(template.key)
        mine = {name: changed[name] for name in changed.keys() & template.services.keys()}
        if before is None:
            empty = self._knife.taken_apart(template.message, template.places)
            return _route(template, empty, dict.fromkeys(template.services, ()), mine, renewal)
        return _route(template, before.splice, before.versions, mine, renewal)

    def _edited(self, made: Mapping[str, Made], routes: Mapping[RouteKey, MadeRoute]) -> Snapshot:
        """Return the last snapshot with what was made again."""
        new = _resources(made.values(), routes.values())
        if self._snapshot is None:
            by_type = _by_type((*self.overlay.fixed, *new))
            return of_views(view(type_, by_type[type_]) for type_ in TYPES)
        if not new:
            return self._snapshot
        old = _resources((self._made[name] for name in made), (self._routes[name] for name in routes))
        gone, put = _by_type(old), _by_type(new)
        return of_views(edited(each, gone[type_], put[type_]) for type_, each in self._snapshot.views.items())


def _resources(made: Iterable[Made], routes: Iterable[MadeRoute]) -> list[Resource]:
    return [*chain.from_iterable(each.resources() for each in made), *(each.resource for each in routes)]


def _by_type(resources: Iterable[Resource]) -> Mapping[ResourceType, list[Resource]]:
    by_type: dict[ResourceType, list[Resource]] = {type_: [] for type_ in TYPES}
    for each in resources:
        by_type[each.type].append(each)
    return by_type


def _routes_by_service(overlay: Overlay) -> Mapping[str, tuple[RouteTemplate, ...]]:
    found: dict[str, list[RouteTemplate]] = {}
    for template in overlay.routes:
        for name in template.services:
            found.setdefault(name, []).append(template)
    return MappingProxyType({name: tuple(templates) for name, templates in found.items()})


def _named(message: Message, places: Places, services: Mapping[str, ServiceTemplate]) -> frozenset[str]:
    """Return the services that the routes in these places lead to."""
    found: set[str] = set()

    def note(action: Message, _: str) -> None:
        found.update((action.cluster, *(each.name for each in action.weighted_clusters.clusters)))

    change(copied(message), places, note)
    return frozenset(found & services.keys())


def _lead(service: str, traffic: ServiceTraffic) -> Lead:
    return lead(service, {each.name: each.weight_bp for each in traffic.versions}, traffic.routing)


def _renewed(name: str, before: Lead | None, after: Lead) -> Iterator[str]:
    """Yield what has changed of where a service leads: see Graft.names."""
    shifted = before is None or before.main != after.main
    if shifted:
        yield name
    beside = before.aside if before is not None else NOBODY
    if beside != after.aside or (shifted and after.aside.cookie is not None):
        yield grafts_of(name)


def _service(template: ServiceTemplate, traffic: ServiceTraffic, before: Made | None) -> Made:
    """Return what is served of a service: that of `before` where what it is made of is the same."""
    before = before or Made(policy(template.assignment), {}, {}, {})
    groups = {}
    for version in traffic.versions:
        known = before.groups.get(version.name)
        same = known is not None and known[0] == version.endpoints
        groups[version.name] = known if known and same else (version.endpoints, _groups(template, version))
    placed = tuple(replace(version, weight_bp=0) for version in traffic.versions)
    names = {version.name: cluster_name(template.name, version.name) for version in placed}
    clusters = {name: before.clusters.get(name) or _cluster(template, each) for each, name in names.items()}
    wanted: dict[str, tuple[VersionTraffic, ...]] = {names[version.name]: (version,) for version in placed}
    candidate = traffic.routing.candidate
    if traffic.routing.shadow:
        shadow = shadow_name(template.name, candidate)
        clusters[shadow] = before.clusters.get(shadow) or _shadow_cluster(template, candidate)
        wanted[shadow] = wanted[names[candidate]]
    if template.bare:
        clusters[template.name] = before.clusters.get(template.name) or _bare_cluster(template)
        # The weights of endpoints split what TCP proxies send; nothing else that names it changes with a weight.
        versions = traffic.versions if template.tcp else placed
        wanted[template.name] = tuple(sorted(versions, key=lambda each: each.name != traffic.stable))
    made = Made(before.policy, groups, clusters, {}, template.locality_weighted)
    assignments = {}
    for name, versions in wanted.items():
        last = before.assignments.get(name)
        same = last is not None and last[0] == versions
        assignments[name] = last if last and same else (versions, _assignment(name, versions, made))
    return replace(made, assignments=assignments)


def _groups(template: ServiceTemplate, version: VersionTraffic) -> tuple[Group, ...]:
    return written(template.assignment) if version.endpoints is None else deployed(version.endpoints)


def _assignment(name: str, versions: tuple[VersionTraffic, ...], made: Made) -> Resource:
    """Assign the endpoints of these versions to the cluster of this name.

    The cluster of a service itself holds all its versions, all but the stable one DRAINING: so they are health-checked
    before they become stable, when new hosts would be left out until their first check. Where TCP proxies name it, the
    weights of its endpoints split connections between the versions that have a weight.
    """
    stable, *others = versions
    groups = _with_health(made.groups[stable.name][1], stable)
    if sum(version.weight_bp > 0 for version in versions) > 1:
        groups = shared([_part(each, made) for each in versions], locality_weighted=made.locality_weighted)
    else:
        for version in others:
            groups = joined(groups, without(made.groups[version.name][1], version.removed))
    body = encoded(name, groups, made.policy)
    return Resource(ENDPOINTS, name, content_version(body), body, ())


def _part(version: VersionTraffic, made: Made) -> Part:
    idle = replace(version, draining=version.draining or not version.weight_bp)
    return Part(_with_health(made.groups[version.name][1], idle), version.weight_bp)


def _with_health(groups: tuple[Group, ...], version: VersionTraffic) -> tuple[Group, ...]:
    """Return what is served of a version's endpoints; one that is let go is DRAINING, ill or not.

    Where none else is left the ill ones are used: what is found and what is let go may meet on its way here.
    """
    there = without(groups, version.removed)
    if version.draining:
        return drained(there)
    ill = version.unhealthy - version.let_go
    if not any(group.by_address.keys() - ill - version.let_go for group in there):
        ill = frozenset()
    return marked(marked(there, ill, UNHEALTHY), version.let_go)


def _cluster(template: ServiceTemplate, version: str) -> Resource:
    cluster = _with_defaults(template.cluster)
    cluster.name = cluster_name(template.name, version)
    cluster.eds_cluster_config.service_name = cluster.name
    stat = stat_name(template, version)
    cluster.alt_stat_name = stat if stat != cluster.name else ""
    return resource(CLUSTERS, cluster)


def _shadow_cluster(template: ServiceTemplate, version: str) -> Resource:
    """Clone a version's cluster for requests that nobody judges: its own health checks would ask each backend twice."""
    cluster = _with_defaults(template.cluster)
    cluster.name = shadow_name(template.name, version)
    cluster.eds_cluster_config.service_name = cluster.name
    stat = shadow_stat_name(template, version)
    cluster.alt_stat_name = stat if stat != cluster.name else ""
    cluster.ClearField("health_checks")
    cluster.ClearField("outlier_detection")
    return resource(CLUSTERS, cluster)


def _bare_cluster(template: ServiceTemplate) -> Resource:
    cluster = _with_defaults(template.cluster)
    cluster.eds_cluster_config.service_name = ""  # another service may share it, but not its versions
    return resource(CLUSTERS, cluster)


def _with_defaults(written: Message) -> Message:
    """Copy a service's cluster, with what a rollout needs where the user left it unset."""
    cluster = copied(written)
    if not cluster.common_lb_config.HasField("healthy_panic_threshold"):
        cluster.common_lb_config.healthy_panic_threshold.value = 0  # panic would send requests to draining hosts
    if not cluster.HasField("track_cluster_stats"):
        cluster.track_cluster_stats.per_endpoint_stats = True
    cluster.ignore_health_on_host_removal = True  # else a removed host stays while its health checks pass
    return cluster


def _route(
    template: RouteTemplate,
    before: Splice,
    versions: Mapping[str, tuple[Reference, ...]],
    changed: Mapping[str, tuple[str, ...]],
    renewal: Renewal,
) -> MadeRoute:
    """Return routes as they were `before`, but for what changed of each service."""
    versions = {**versions, **{name: renewal.references(name, template.services[name]) for name in changed}}
    splice = before.filled(tuple(chain.from_iterable(changed.values())), renewal)
    body = splice.body()
    references = (*chain.from_iterable(versions.values()), *template.references)
    made = Resource(template.type, template.name, content_version(body), body, references)
    return MadeRoute(splice, versions, expiring(made, template.ttl_s))
