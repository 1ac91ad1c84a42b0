"""envoy-configs seen as services: which routes move with which service, and what is served just as it is written."""

from collections import Counter
from collections.abc import Iterator, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any as Message

from rollout.traffic import lint
from rollout.traffic.places import Places, change, copied, find
from xds import proto
from xds.config import Config, Entry
from xds.errors import InvalidConfig, Problem
from xds.resources import (
    CLUSTERS,
    ENDPOINTS,
    EXTENSION_CONFIGS,
    LISTENERS,
    ROUTED,
    ROUTES,
    TYPES,
    Reference,
    Resource,
    ResourceType,
    assignment_name,
    is_eds,
    references,
    resource,
    walk,
)

ROUTE_ACTION = "envoy.config.route.v3.RouteAction"
CONNECTION_MANAGER = "envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager"
RDS = "envoy.extensions.filters.network.http_connection_manager.v3.Rds"
RouteKey = tuple[ResourceType, str]


@dataclass(frozen=True, slots=True)
class ServiceTemplate:
    """An EDS cluster of envoy-configs and its load assignment, both as written.

    `stat` begins the names of its versions in Envoy's stats. `bare`: something other than a route may name it, so that
    it is served under its own name too. `tcp`: TCP proxies name it, and weights of its endpoints split what they send.
    """

    name: str
    stat: str
    cluster: Message
    assignment: Message
    bare: bool
    tcp: bool = False

    @property
    def locality_weighted(self) -> bool:
        """Whether a locality is chosen by its weight, before an endpoint in it is."""
        return any(part.DESCRIPTOR.name == "LocalityWeightedLbConfig" for _, part in walk(self.cluster))


@dataclass(frozen=True, slots=True)
class RouteTemplate:
    """A resource of one of the ROUTED types as written, and where in it the routes are that name services.

    `services` has the path of the first such route of each; `references` is what it needs besides their versions.
    """

    type: ResourceType
    name: str
    message: Message
    places: Places
    services: Mapping[str, str]
    references: tuple[Reference, ...]
    ttl_s: float | None = None

    @property
    def key(self) -> RouteKey:
        return self.type, self.name


@dataclass(frozen=True, slots=True)
class Overlay:
    """A configuration split into what moves with services and what does not.

    `elsewhere` names clusters that the proxies have from their bootstrap.
    """

    services: Mapping[str, ServiceTemplate]
    routes: tuple[RouteTemplate, ...]
    fixed: tuple[Resource, ...]
    elsewhere: frozenset[str]
    warnings: tuple[Problem, ...]


def overlay(config: Config) -> Overlay:
    """Split a configuration. Raises InvalidConfig with every problem that lint finds in it."""
    services = {name: entry for name, entry in config.of(CLUSTERS).items() if is_eds(entry.message)}
    problems = tuple(lint.problems(config, services))
    if problems:
        raise InvalidConfig(problems)
    choosers = tuple(lint.choosers(config))
    config = _with_routes_of_their_own(config, frozenset(services))
    routes = {(type_, name): entry for type_ in ROUTED for name, entry in config.of(type_).items()}
    places = {key: _places(entry.message, services) for key, entry in routes.items()}
    stripped = {key: _stripped(entry, places[key], services) for key, entry in routes.items()}
    templates = tuple(
        _route(key, entry, found, stripped[key].message, services)
        for key, entry in routes.items()
        if (found := places[key]) is not None
    )
    others = (entry for type_ in (LISTENERS, CLUSTERS, EXTENSION_CONFIGS) for entry in config.of(type_).values())
    tcp = lint.behind_tcp(config, services)
    elsewhere = lint.elsewhere((*others, *stripped.values()), services, tcp)
    reached = {name for template in templates for name in template.services} | elsewhere.keys() | tcp.keys()
    unreached = lint.unreached((name for name in services if name not in reached), services)
    bare = services.keys() if choosers else elsewhere.keys() | tcp.keys()
    return Overlay(
        MappingProxyType({each.name: each for each in _services(config, services, frozenset(bare), tcp.keys())}),
        templates,
        tuple(_fixed(config, services, {template.key for template in templates})),
        config.elsewhere,
        (
            *choosers,
            *elsewhere.values(),
            *unreached,
            *lint.unobservable(services),
            *lint.panicking(services),
            *lint.uneven(tcp, services),
            *(each for key, found in places.items() if found for each in _unmultiplied(key, routes[key], found)),
        ),
    )


def _unmultiplied(key: RouteKey, entry: Entry, places: Places) -> Iterator[Problem]:
    return lint.without_copies(key[0], entry, places.paths())


def _services(
    config: Config, services: Mapping[str, Entry], bare: frozenset[str], tcp: AbstractSet[str]
) -> list[ServiceTemplate]:
    stats = Counter(entry.message.alt_stat_name or name for name, entry in services.items())
    templates = []
    for name, entry in services.items():
        own = entry.message.alt_stat_name or name
        stat = own if stats[own] == 1 else name  # services that share one could not be told apart
        assignment = config.of(ENDPOINTS)[assignment_name(entry.message)].message
        templates.append(ServiceTemplate(name, stat, entry.message, assignment, name in bare, name in tcp))
    return templates


def _fixed(config: Config, services: Mapping[str, Entry], moving: set[RouteKey]) -> list[Resource]:
    """Return what is served as it is written. A bare service is assigned its endpoints under its own name."""
    assigned = services.keys() | {assignment_name(entry.message) for entry in services.values()}
    left_out = {CLUSTERS: services.keys(), ENDPOINTS: assigned}
    return [
        resource(type_, entry.message, entry.ttl_s)
        for type_ in TYPES
        for name, entry in config.of(type_).items()
        if name not in left_out.get(type_, ()) and (type_, name) not in moving
    ]


def _names_service(action: Message, services: Mapping[str, Entry] | frozenset[str]) -> bool:
    if action.DESCRIPTOR.full_name != ROUTE_ACTION:
        return False
    return action.cluster in services or any(each.name in services for each in action.weighted_clusters.clusters)


def _places(routes: Message, services: Mapping[str, Entry]) -> Places | None:
    return find(routes, lambda part: _names_service(part, services))


def _stripped(entry: Entry, places: Places | None, services: Mapping[str, Entry]) -> Entry:
    """Return an entry with routes without the names of services that rollouts shift."""
    if places is None:
        return entry

    def strip(action: Message, _: str) -> None:
        if action.cluster in services:
            action.ClearField("cluster")
        for each in action.weighted_clusters.clusters:
            if each.name in services:
                each.ClearField("name")

    message = copied(entry.message)
    change(message, places, strip)
    return replace(entry, message=message)


def _route(
    key: RouteKey, entry: Entry, places: Places, stripped: Message, services: Mapping[str, Entry]
) -> RouteTemplate:
    named: dict[str, str] = {}

    def note(action: Message, path: str) -> None:
        for name in (action.cluster, *(each.name for each in action.weighted_clusters.clusters)):
            if name in services:
                named.setdefault(name, path)

    change(copied(entry.message), places, note)
    needs = tuple(references(stripped))
    return RouteTemplate(*key, entry.message, places, MappingProxyType(named), needs, entry.ttl_s)


def _with_routes_of_their_own(config: Config, services: frozenset[str]) -> Config:
    """Move inline routes that name services out of listeners: one that changed with each weight would drain."""
    routes = dict(config.of(ROUTES))
    entries = {
        type_: {name: _without_inline_routes(entry, name, services, routes) for name, entry in config.of(type_).items()}
        for type_ in (LISTENERS, EXTENSION_CONFIGS)
    }
    return replace(config, entries=MappingProxyType({**config.entries, **entries, ROUTES: routes}))


def _without_inline_routes(entry: Entry, owner: str, services: frozenset[str], routes: dict[str, Entry]) -> Entry:
    """Return an entry that asks for its inline routes by RDS, and add these to `routes`."""

    def inline(part: Message) -> bool:
        if part.DESCRIPTOR.full_name != CONNECTION_MANAGER or part.WhichOneof("route_specifier") != "route_config":
            return False
        return any(_names_service(action, services) for _, action in walk(part.route_config))

    def move(manager: Message, path: str) -> None:
        wanted = f"{owner}/{manager.route_config.name or manager.stat_prefix}"
        message = copied(manager.route_config)
        message.name = _free(wanted, message, routes)
        routes[message.name] = Entry(message, lint.at(entry, path, "route_config"))
        manager.rds.CopyFrom(_rds(message.name))

    places = find(entry.message, inline)
    if places is None:
        return entry
    message = copied(entry.message)
    change(message, places, move)
    return replace(entry, message=message)


def _free(wanted: str, message: Message, routes: Mapping[str, Entry]) -> str:
    """Return the wanted name, or with a number where it is taken by other routes."""
    name, number = wanted, 1
    while name in routes:
        message.name = name
        if routes[name].message == message:
            return name
        number += 1
        name = f"{wanted}-{number}"
    return name


def _rds(name: str) -> Message:
    source = {"ads": {}, "resource_api_version": "V3"}
    return proto.parse(RDS, {"route_config_name": name, "config_source": source})
