"""envoy-configs seen as services: which routes move with which service, and what is served just as it is written."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any as Message

from google.protobuf.descriptor import FieldDescriptor

from xds import proto
from xds.config import Config, Entry
from xds.errors import InvalidConfig, Problem
from xds.resources import (
    ANY,
    CLUSTERS,
    ENDPOINTS,
    EXTENSION_CONFIGS,
    LISTENERS,
    ROUTES,
    TYPES,
    Resource,
    assignment_name,
    is_eds,
    resource,
    walk,
)

ROUTE_ACTION = "envoy.config.route.v3.RouteAction"
CLUSTER_WEIGHT = "envoy.config.route.v3.WeightedCluster.ClusterWeight"
TCP_PROXY = "envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy"
TCP_CLUSTER_WEIGHT = f"{TCP_PROXY}.WeightedCluster.ClusterWeight"
CONNECTION_MANAGER = "envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager"


@dataclass(frozen=True, slots=True)
class ServiceTemplate:
    """An EDS cluster of envoy-configs and its load assignment, both as written.

    `bare`: something else than a route names it, so that it is served under its own name too.
    """

    name: str
    cluster: Message
    assignment: Message
    bare: bool


@dataclass(frozen=True, slots=True)
class RouteTemplate:
    """A route configuration that names these services, as written."""

    name: str
    message: Message
    services: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Overlay:
    """A configuration split into what moves with services and what does not."""

    services: Mapping[str, ServiceTemplate]
    routes: tuple[RouteTemplate, ...]
    fixed: tuple[Resource, ...]
    elsewhere: frozenset[str]
    warnings: tuple[Problem, ...]


def overlay(config: Config) -> Overlay:
    """Split a configuration. Raises InvalidConfig for a service without endpoints, or behind a TCP proxy."""
    services = {name: entry for name, entry in config.of(CLUSTERS).items() if is_eds(entry.message)}
    problems = [*_without_endpoints(services, config), *_behind_tcp(services, config)]
    if problems:
        raise InvalidConfig(tuple(problems))
    listeners, extracted = _extract_routes(config, frozenset(services))
    routes = {name: entry.message for name, entry in config.of(ROUTES).items()} | extracted
    templates = tuple(
        RouteTemplate(name, message, named)
        for name, message in routes.items()
        if (named := tuple(sorted(_routed(message) & services.keys())))
    )
    moving = {template.name for template in templates}
    bare = _named_elsewhere((*listeners, *routes.values(), *_others(config)), frozenset(services))
    assigned = {assignment_name(entry.message) for entry in services.values()}
    return Overlay(
        MappingProxyType({
            name: ServiceTemplate(name, entry.message, _assignment(config, entry.message), name in bare)
            for name, entry in services.items()
        }),
        templates,
        tuple(
            [resource(LISTENERS, message) for message in listeners]
            + [resource(ROUTES, message) for name, message in routes.items() if name not in moving]
            + [resource(CLUSTERS, each.message) for name, each in config.of(CLUSTERS).items() if name not in services]
            + [resource(ENDPOINTS, each.message) for name, each in config.of(ENDPOINTS).items() if name not in assigned]
            + [
                resource(type_, each.message)
                for type_ in TYPES
                if type_ not in (LISTENERS, ROUTES, CLUSTERS, ENDPOINTS)
                for each in config.of(type_).values()
            ]
        ),
        config.elsewhere,
        tuple(_warnings(config)),
    )


def rewrite(message: Message, full_name: str, change: Callable[[Message], bool]) -> bool:
    """Change every message of this type inside `message`, in Any too, in place; return whether one changed."""
    if message.DESCRIPTOR.full_name == ANY:
        inner = proto.unpack(message)
        if inner is None or not rewrite(inner, full_name, change):
            return False
        message.value = proto.canonical(inner)
        return True
    changed = message.DESCRIPTOR.full_name == full_name and change(message)
    for field, value in message.ListFields():
        if field.type == FieldDescriptor.TYPE_MESSAGE:
            for item in _messages(field, value):
                changed = rewrite(item, full_name, change) or changed
    return changed


def _messages(field: Message, value: Message) -> Iterator[Message]:
    if not field.is_repeated:
        yield value
    elif not field.message_type.GetOptions().map_entry:
        yield from value
    elif field.message_type.fields_by_name["value"].message_type is not None:
        yield from value.values()


def copied(message: Message) -> Message:
    """Return a copy that may be changed."""
    copy = type(message)()
    copy.CopyFrom(message)
    return copy


def _assignment(config: Config, cluster: Message) -> Message:
    return config.of(ENDPOINTS)[assignment_name(cluster)].message


def _without_endpoints(services: Mapping[str, Entry], config: Config) -> Iterator[Problem]:
    for entry in services.values():
        name = assignment_name(entry.message)
        if name not in config.of(ENDPOINTS):
            yield Problem(entry.where, f"has no endpoints; add one with `cluster_name: {name}` to a list `endpoints:`")


def _behind_tcp(services: Mapping[str, Entry], config: Config) -> Iterator[Problem]:
    for entry in config.of(LISTENERS).values():
        for path, part in walk(entry.message):
            field = {TCP_PROXY: "cluster", TCP_CLUSTER_WEIGHT: "name"}.get(part.DESCRIPTOR.full_name)
            if field is not None and getattr(part, field) in services:
                what = f"a TCP proxy to the service '{getattr(part, field)}' cannot be shifted yet; use a cluster that is not EDS"
                yield Problem(f"{entry.where}: {path}", what)


def _extract_routes(config: Config, services: frozenset[str]) -> tuple[tuple[Message, ...], dict[str, Message]]:
    """Serve routes that listeners hold inline, and that move, by RDS: a changed listener would drain connections."""
    listeners: list[Message] = []
    extracted: dict[str, Message] = {}
    for name, entry in config.of(LISTENERS).items():

        def move(manager: Message, listener: str = name) -> bool:
            if manager.WhichOneof("route_specifier") != "route_config" or not _routed(manager.route_config) & services:
                return False
            routes = copied(manager.route_config)
            label = f"{listener}/{routes.name or manager.stat_prefix}"
            while label in extracted or label in config.of(ROUTES):
                label += "+"
            routes.name = label
            extracted[label] = routes
            manager.rds.route_config_name = label
            manager.rds.config_source.ads.SetInParent()
            manager.rds.config_source.resource_api_version = 2  # V3
            return True

        message = copied(entry.message)
        listeners.append(message if rewrite(message, CONNECTION_MANAGER, move) else entry.message)
    return tuple(listeners), extracted


def _routed(message: Message) -> frozenset[str]:
    """Return the clusters that the routes in `message` send requests to."""
    names = set()
    for _, part in walk(message):
        if part.DESCRIPTOR.full_name == ROUTE_ACTION:
            names.add(part.cluster)
        elif part.DESCRIPTOR.full_name == CLUSTER_WEIGHT:
            names.add(part.name)
    return frozenset(names - {""})


def _others(config: Config) -> Iterator[Message]:
    for type_ in (EXTENSION_CONFIGS, CLUSTERS):
        for entry in config.of(type_).values():
            yield entry.message


def _named_elsewhere(messages: tuple[Message, ...], services: frozenset[str]) -> frozenset[str]:
    """Return the services that anything but a route's choice of cluster names: by any text field named *cluster*."""
    found: set[str] = set()
    for message in messages:
        for _, part in walk(message):
            for field, value in part.ListFields():
                if field.type != FieldDescriptor.TYPE_STRING or "cluster" not in field.name:
                    continue
                if part.DESCRIPTOR.full_name == ROUTE_ACTION and field.name == "cluster":
                    continue
                found |= services.intersection(value if field.is_repeated else (value,))
    return frozenset(found)


def _warnings(config: Config) -> Iterator[Problem]:
    for type_ in (ROUTES, LISTENERS):
        for entry in config.of(type_).values():
            for path, part in walk(entry.message):
                if part.DESCRIPTOR.full_name == ROUTE_ACTION:
                    specifier = part.WhichOneof("cluster_specifier")
                    if specifier not in ("cluster", "weighted_clusters", None):
                        yield Problem(f"{entry.where}: {path}.{specifier}", "chooses its cluster itself: a rollout cannot shift it")
