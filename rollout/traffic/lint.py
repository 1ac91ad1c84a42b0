"""What in a configuration cannot work or cannot be shifted: where it stands, what it is, and what to do."""

import difflib
import re
from collections.abc import Container, Iterable, Iterator, Mapping
from typing import Any as Message

from google.protobuf.descriptor import FieldDescriptor

from rollout.spec import VERSION_NAME
from rollout.traffic.routing import SHADOW
from xds import proto
from xds.config import Config, Entry
from xds.errors import Problem
from xds.resources import (
    CLUSTERS,
    ENDPOINTS,
    EXTENSION_CONFIGS,
    LISTENERS,
    ROUTED,
    ROUTES,
    SCOPED_ROUTES,
    SOTW,
    TYPES,
    VIRTUAL_HOSTS,
    ResourceType,
    assignment_name,
    by_ads,
    references,
    route_of,
    walk,
)
from xds.snapshot import Snapshot

TCP_PROXY = "envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy"
TCP_FIELDS = {TCP_PROXY: "cluster", f"{TCP_PROXY}.WeightedCluster.ClusterWeight": "name"}
SCOPED_RDS = "envoy.extensions.filters.network.http_connection_manager.v3.ScopedRds"
ON_DEMAND_CDS = "envoy.extensions.filters.http.on_demand.v3.OnDemandCds"
ASSIGNMENT = "envoy.config.endpoint.v3.ClusterLoadAssignment"
CHOOSERS = frozenset({"cluster_header", "cluster_specifier_plugin", "inline_cluster_specifier_plugin"})
FREE_TEXT = frozenset({"google.protobuf.Value", "google.protobuf.StringValue"})
_UNEVEN = {
    "LEAST_REQUEST": "a version's share is near the square root of its weight (10 % gets 25 %)",
    "RING_HASH": "which version gets a connection is a matter of its client's address, and shares are near the weights",
    "MAGLEV": "which version gets a connection is a matter of its client's address, and shares are near the weights",
}
_BY_WEIGHT = frozenset({"ROUND_ROBIN", "RoundRobin", "RANDOM", "Random"})  # random ones are refused
_REMEDY = "write `lb_policy: ROUND_ROBIN`, whose shares are exact"
_NEEDS_DELTA = "needs delta, but bootstrap.yaml has `api_type: GRPC`; write `api_type: DELTA_GRPC` there"
_QUOTES = re.compile("[\"'`]")
_MATCHER = re.compile(r"(^|\.)matcher\.")


def problems(config: Config, services: Mapping[str, Entry]) -> Iterator[Problem]:
    """Yield what makes a configuration unfit to be served."""
    yield from _dangling(config, services)
    yield from _without_endpoints(config, services)
    yield from _unsplittable(config, services)
    yield from _taken(config, services)
    yield from _virtual_hosts(config)
    yield from _scopes(config)
    yield from _on_demand(config)
    yield from _expiring(config, services)


def choosers(config: Config) -> Iterator[Problem]:
    """Yield a warning for whatever picks a cluster at run time, when nobody can shift it any more."""
    for entry in _of(config, *ROUTED, LISTENERS, EXTENSION_CONFIGS):
        for path, part in walk(entry.message):
            for field, _ in part.ListFields():
                if field.name in CHOOSERS:
                    what = "chooses the cluster of each request itself, so a rollout cannot shift these requests"
                    yield Problem(at(entry, path, field.name), f"{what}; name the service by `cluster:` where you can")


def elsewhere(entries: Iterable[Entry], services: Mapping[str, Entry], tcp: Container[str] = ()) -> dict[str, Problem]:
    """Return a warning for each service that `entries` name, which are all that no rollout shifts.

    Those of `tcp` are split here as TCP proxies name them too. A name counts in a text field named *cluster*, and in
    quotes in any text: code of a filter may call it.
    """
    found: dict[str, Problem] = {}
    for entry in entries:
        for path, part in walk(entry.message):
            for field, value in part.ListFields():
                if field.type == FieldDescriptor.TYPE_STRING:
                    texts = value if field.is_repeated else (value,)
                    for name in sorted(each for each in _named(part, field, texts) if each in services):
                        what = (
                            f"names the service '{name}' other than in an HTTP route, so it moves here at once when a"
                        )
                        what = f"{what} rollout gives the candidate 100%; name another cluster if it must not"
                        if name in tcp:
                            what = f"names the service '{name}', which TCP proxies name too: so it is split here with"
                            what = f"{what} them, and judged by its failed connections only"
                        found.setdefault(name, Problem(at(entry, path, field.name), what))
    return found


def unreached(names: Iterable[str], services: Mapping[str, Entry]) -> Iterator[Problem]:
    """Yield a warning for each of these services, which nothing names."""
    for name in names:
        what = "is named by no route, so a rollout of it has no traffic to shift; add a route to it, or remove it"
        yield Problem(services[name].where, what)


def unobservable(services: Mapping[str, Entry]) -> Iterator[Problem]:
    """Yield a warning for each service whose own settings hide when one of its backends is idle."""
    for entry in services.values():
        stats = entry.message.track_cluster_stats
        if entry.message.HasField("track_cluster_stats") and not stats.per_endpoint_stats:
            what = "leaves out per_endpoint_stats, so the drain of a backend cannot see when it is idle; set it to true"
            yield Problem(at(entry, "track_cluster_stats"), what)


def panicking(services: Mapping[str, Entry]) -> Iterator[Problem]:
    """Yield a warning for each service whose own settings send requests to backends that are let go or bad."""
    for entry in services.values():
        threshold = entry.message.common_lb_config.healthy_panic_threshold.value
        if threshold:
            what = f"is {threshold:g}: where fewer % of backends are healthy, Envoys send requests to those that are"
            what = f"{what} drained or marked unhealthy, too; leave it out, or write 0"
            yield Problem(at(entry, "common_lb_config.healthy_panic_threshold"), what)


def without_copies(type_: ResourceType, entry: Entry, paths: Iterable[str]) -> Iterator[Problem]:
    """Yield a warning where routes to services are that a rollout puts none before; `paths` are those of the routes."""
    inside = next((path for path in paths if _MATCHER.search(path)), None)
    if inside is not None:
        what = "is in a matcher, where the preview header, `match` and a `sticky` cookie of strategies do nothing"
        yield Problem(at(entry, inside), f"{what}; write it among `routes:` if you need them")
    if type_ is VIRTUAL_HOSTS:
        what = "is a resource of its own, so Envoy cannot remove the preview header from requests from outside: it does"
        what = f"{what} nothing here without `preview: {{external: true}}`; move it into its routes if you need it"
        yield Problem(entry.where, what)


def at(entry: Entry, *path: str) -> str:
    """Return where a field of an entry stands: file, resource and field path."""
    field = ".".join(part for part in path if part)
    return f"{entry.where}: {field}" if field else entry.where


def _of(config: Config, *types: ResourceType) -> Iterator[Entry]:
    for type_ in types:
        yield from config.of(type_).values()


def _named(part: Message, field: FieldDescriptor, texts: Iterable[str]) -> set[str]:
    kind = part.DESCRIPTOR.full_name
    if kind == ASSIGNMENT or TCP_FIELDS.get(kind) == field.name:
        return set()
    if "cluster" in field.name or kind in FREE_TEXT or (field.name == "name" and kind.endswith(".ClusterWeight")):
        return {word for text in texts for word in (text, *_quoted(text))}
    return {word for text in texts for word in _quoted(text)}


def _quoted(text: str) -> list[str]:
    return _QUOTES.split(text)[1:-1]


def _dangling(config: Config, services: Mapping[str, Entry]) -> Iterator[Problem]:
    """Envoy ACKs a route to an unknown cluster and answers 503 to its requests, so only we can refuse it."""
    names = {type_: frozenset(config.of(type_)) for type_ in TYPES}
    names[CLUSTERS] |= config.elsewhere
    for entry in _of(config, *TYPES):
        for each in references(entry.message):
            if each.type is not ENDPOINTS and each.name not in names[each.type]:
                remedy = _remedy(each.name, names[each.type], services)
                what = f"names '{each.name}', which is not among the {each.type}; {remedy}"
                yield Problem(at(entry, each.field), what)


def _remedy(name: str, known: Iterable[str], services: Mapping[str, Entry]) -> str:
    service = name.rpartition("@")[0]
    if service in services:
        return f"routes name services and rollouts choose versions: write '{service}'"
    near = difflib.get_close_matches(name, sorted(known), n=1)
    return f"did you mean '{near[0]}'?" if near else "add it there or correct the name"


def _without_endpoints(config: Config, services: Mapping[str, Entry]) -> Iterator[Problem]:
    for entry in services.values():
        name = assignment_name(entry.message)
        assignment = config.of(ENDPOINTS).get(name)
        if assignment is None:
            what = f"has no endpoints; add an item with `cluster_name: {name}` to a list `endpoints:`"
            yield Problem(entry.where, what)
        elif not any(_has_endpoints(locality) for locality in assignment.message.endpoints):
            what = f"holds no endpoint of the service '{entry.message.name}'; add lb_endpoints, its first version"
            yield Problem(at(assignment, "endpoints"), what)


def _has_endpoints(locality: Message) -> bool:
    return bool(locality.lb_endpoints) or locality.WhichOneof("lb_config") is not None


def behind_tcp(config: Config, services: Mapping[str, Entry]) -> dict[str, str]:
    """Return the services that TCP proxies name, and where the first of them does."""
    found: dict[str, str] = {}
    for entry in _of(config, LISTENERS, EXTENSION_CONFIGS):
        for path, part in walk(entry.message):
            field = TCP_FIELDS.get(part.DESCRIPTOR.full_name)
            if field is not None and getattr(part, field) in services:
                found.setdefault(getattr(part, field), at(entry, path, field))
    return found


def uneven(tcp: Mapping[str, str], services: Mapping[str, Entry]) -> Iterator[Problem]:
    """Yield a warning for each setting of a cluster behind TCP proxies by which shares are not just its weights."""
    for name in tcp:
        entry = services[name]
        for field, what in _uneven(entry.message):
            remedy = f"and TCP proxies split '{name}' by weights of endpoints"
            yield Problem(at(entry, field), f"{what}, {remedy}; {_REMEDY}")


def _uneven(cluster: Message) -> Iterator[tuple[str, str]]:
    field, policy = _policy(cluster)
    if field == "lb_policy" and policy in _UNEVEN:
        yield field, f"is {policy}: {_UNEVEN[policy]}"
    elif policy not in _BY_WEIGHT:
        yield field, f"is {policy}, whose shares need not be those of weights"
    if cluster.HasField("lb_subset_config"):
        yield "lb_subset_config", "sends some connections to a part of the endpoints"
    if any(part.DESCRIPTOR.name == "SlowStartConfig" for _, part in walk(cluster)):
        yield "slow_start_config", "gives new endpoints less than their weight at first"


def _unsplittable(config: Config, services: Mapping[str, Entry]) -> Iterator[Problem]:
    """Yield what makes weights of endpoints mean nothing, or hides what became of connections."""
    for name, where in behind_tcp(config, services).items():
        entry = services[name]
        why = f"so TCP connections to '{name}' ({where})"
        field, policy = _policy(entry.message)
        if policy.upper() == "RANDOM":
            yield Problem(at(entry, field), f"is RANDOM, which ignores weights, {why} could not be split; {_REMEDY}")
        stats = entry.message.track_cluster_stats
        if entry.message.HasField("track_cluster_stats") and not stats.per_endpoint_stats:
            what = f"leaves out per_endpoint_stats, {why} could not be counted by version; set it to true"
            yield Problem(at(entry, "track_cluster_stats"), what)
        assigned = config.of(ENDPOINTS).get(assignment_name(entry.message))
        if assigned and any(each.WhichOneof("lb_config") is not None for each in assigned.message.endpoints):
            what = f"has endpoints of another source, {why} could not be split by weights; write `lb_endpoints`"
            yield Problem(at(assigned, "endpoints"), what)


def _policy(cluster: Message) -> tuple[str, str]:
    """Return the field that chooses how a cluster balances, and the name of what it chooses."""
    for each in cluster.load_balancing_policy.policies:
        return "load_balancing_policy", each.typed_extension_config.typed_config.type_url.rpartition(".")[2]
    numbers = cluster.DESCRIPTOR.fields_by_name["lb_policy"].enum_type.values_by_number
    return "lb_policy", str(numbers[cluster.lb_policy].name)


def _taken(config: Config, services: Mapping[str, Entry]) -> Iterator[Problem]:
    """Yield names that the cluster of a version could get."""
    assigned = {assignment_name(entry.message) for entry in services.values()}
    places = [(name, entry.where) for name, entry in config.of(CLUSTERS).items()]
    places += [(name, entry.where) for name, entry in config.of(ENDPOINTS).items() if name not in assigned]
    places += [(name, f"the bootstrap's cluster '{name}'") for name in sorted(config.elsewhere)]
    for name, where in places:
        service, _, version = name.rpartition("@")
        if service in services and VERSION_NAME.fullmatch(version.removesuffix(SHADOW)):
            yield Problem(where, f"has the name kept for version '{version}' of the service '{service}'; rename it")


def _virtual_hosts(config: Config) -> Iterator[Problem]:
    """Yield faults of VHDS: Envoy ACKs a virtual host that belongs nowhere, and does not listen before it has one."""
    asking = {name: each for name, each in config.of(ROUTES).items() if by_ads(each.message.vhds.config_source)}
    hosts: dict[str, list[Entry]] = {}
    for name, entry in config.of(VIRTUAL_HOSTS).items():
        hosts.setdefault(route_of(name), []).append(entry)
        if route_of(name) not in asking:
            what = "belongs to none of the routes that have `vhds: {config_source: {ads: {}}}`"
            yield Problem(entry.where, f"{what}; name it after one of these, ROUTE/HOST, or move it into its routes")
    for name, entry in asking.items():
        if config.sotw:
            yield Problem(at(entry, "vhds"), _NEEDS_DELTA)
        if name not in hosts:
            what = f"finds no virtual host, and an Envoy waits for the first one; add '{name}/HOST' to `virtual_hosts:`"
            yield Problem(at(entry, "vhds"), what)
        yield from _domains(entry, hosts.get(name, ()))


def _domains(route: Entry, hosts: Iterable[Entry]) -> Iterator[Problem]:
    """Yield domains that stand twice in the virtual hosts of a route configuration, which Envoy refuses."""
    seen: dict[str, str] = {}
    inline = ((at(route, f"virtual_hosts[{i}]"), each) for i, each in enumerate(route.message.virtual_hosts))
    for where, host in (*inline, *((each.where, each.message) for each in hosts)):
        for domain in host.domains:
            first = seen.setdefault(domain.lower(), where)
            if first != where:
                yield Problem(where, f"has the domain '{domain}', which stands already in {first}; remove one of them")


def moved_keys(before: Snapshot, after: Snapshot) -> Iterator[Problem]:
    """Yield a problem for each key that one scope leaves to another: Envoy would lose it, and answer 404."""
    old, new = _scope_keys(before), _scope_keys(after)
    owners = {key: name for name, key in new.items()}
    for name, key in old.items():
        owner = owners.get(key, name)
        if owner != name and name in new:
            what = f"goes to scope '{owner}' while '{name}' gets another, and an Envoy would lose it; rename '{name}',"
            yield Problem(f"{SCOPED_ROUTES} '{name}': key", f"{what} or change one after the other")


def _scope_keys(snapshot: Snapshot) -> dict[str, bytes]:
    view = snapshot.views[SCOPED_ROUTES]
    scope = proto.message_class(SCOPED_ROUTES.message)
    return {name: proto.canonical(scope.FromString(each.body).key) for name, each in view.resources.items()}


def _scopes(config: Config) -> Iterator[Problem]:
    """Yield faults of scoped routes: two scopes of one key, which Envoy refuses, and none where some are asked for."""
    first: dict[bytes, Entry] = {}
    for entry in config.of(SCOPED_ROUTES).values():
        known = first.setdefault(proto.canonical(entry.message.key), entry)
        if known is not entry:
            yield Problem(at(entry, "key"), f"is that of {known.where} too; give each scope a key of its own")
    if first:
        return
    for entry in _of(config, LISTENERS, EXTENSION_CONFIGS):
        for path, part in walk(entry.message):
            if part.DESCRIPTOR.full_name == SCOPED_RDS and by_ads(part.scoped_rds_config_source):
                what = "asks for scoped routes, of which there are none; add a list `scoped_routes:`"
                yield Problem(at(entry, path), what)


def _on_demand(config: Config) -> Iterator[Problem]:
    """Yield clusters on demand over SotW: an Envoy that asks for one by name takes back its wish for all others."""
    if not config.sotw:
        return
    for entry in _of(config, *ROUTED, LISTENERS, EXTENSION_CONFIGS):
        for path, part in walk(entry.message):
            if part.DESCRIPTOR.full_name == ON_DEMAND_CDS and by_ads(part.source):
                yield Problem(at(entry, path, "source"), _NEEDS_DELTA)


def _expiring(config: Config, services: Mapping[str, Entry]) -> Iterator[Problem]:
    for type_ in TYPES:
        for name, entry in config.of(type_).items():
            if entry.ttl_s is not None:
                what = _ttl_fault(config, type_)
                if type_ is CLUSTERS and name in services:
                    what = "is not for a service, which rollouts keep in versions; remove it"
                if what:
                    yield Problem(at(entry, "ttl"), what)


def _ttl_fault(config: Config, type_: ResourceType) -> str:
    if not type_.expires_in:
        return f"is not for {type_}: an Envoy keeps them beyond it; remove it"
    return _NEEDS_DELTA if config.sotw and SOTW not in type_.expires_in else ""
