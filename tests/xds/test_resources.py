"""What a resource is named, what it needs, and its version."""

from typing import Any

import pytest

from tests.xds.client import ADS, assignment, cluster, listener, route
from xds import proto
from xds.resources import (
    BY_URL,
    BY_WORD,
    CLUSTERS,
    ENDPOINTS,
    EXTENSION_CONFIGS,
    LISTENERS,
    ROUTES,
    RUNTIMES,
    SCOPED_ROUTES,
    TYPES,
    VIRTUAL_HOSTS,
    Reference,
    assignment_name,
    content_version,
    expiring,
    is_eds,
    references,
    resource,
    route_of,
    walk,
)

ROUTE_PATH = "virtual_hosts[0].routes[0].route"


def of_route(action: dict[str, Any]) -> list[tuple[str, str]]:
    routes = [{"match": {"prefix": "/"}, "route": action}]
    words = {"name": "r", "virtual_hosts": [{"name": "h", "domains": ["*"], "routes": routes}]}
    message = proto.parse(ROUTES.message, words)
    assert all(each.type is CLUSTERS for each in references(message))
    return [(each.name, each.field) for each in references(message)]


def test_what_is_needed_goes_before_what_needs_it() -> None:
    order = [TYPES.index(each) for each in (CLUSTERS, ENDPOINTS, LISTENERS, SCOPED_ROUTES, ROUTES, VIRTUAL_HOSTS)]
    assert order == sorted(order)
    assert [each for each in TYPES if each.full_state] == [CLUSTERS, LISTENERS, SCOPED_ROUTES]
    assert [each for each in TYPES if each.wildcard] == [CLUSTERS, LISTENERS, SCOPED_ROUTES, VIRTUAL_HOSTS]


def test_types_are_found_by_word_and_url() -> None:
    for type_ in TYPES:
        assert BY_WORD[type_.word] is BY_URL[type_.url] is type_
        assert proto.message_class(type_.message).DESCRIPTOR.fields_by_name[type_.name_field]


def test_resource_has_name_canonical_bytes_and_their_hash() -> None:
    made = assignment("a")
    assert (made.type, made.name, made.version) == (ENDPOINTS, "a", content_version(made.body))
    assert proto.message_class(ENDPOINTS.message).FromString(made.body).cluster_name == "a"


def test_equal_maps_in_another_order_are_the_same_resource() -> None:
    names = [f"filter-{number}" for number in range(20)]
    hosts = [
        {"name": "h", "domains": ["*"], "typed_per_filter_config": {name: {} for name in order}}
        for order in (names, names[::-1])
    ]
    one, other = (
        resource(ROUTES, proto.parse(ROUTES.message, {"name": "r", "virtual_hosts": [host]})) for host in hosts
    )
    assert one == other


def test_route_needs_its_cluster() -> None:
    assert of_route({"cluster": "a"}) == [("a", f"{ROUTE_PATH}.cluster")]


def test_weighted_route_needs_each_cluster_once_even_at_weight_0() -> None:
    clusters = [{"name": "a", "weight": 100}, {"name": "b", "weight": 0}, {"name": "a", "weight": 1}]
    path = f"{ROUTE_PATH}.weighted_clusters.clusters"
    assert of_route({"weighted_clusters": {"clusters": clusters}}) == [
        ("a", f"{path}[0].name"),
        ("b", f"{path}[1].name"),
    ]


def test_mirror_is_needed_too() -> None:
    found = of_route({"cluster": "a", "request_mirror_policies": [{"cluster": "shadow"}]})
    assert [name for name, _ in found] == ["a", "shadow"]


def test_route_that_takes_its_cluster_from_a_header_needs_none() -> None:
    assert of_route({"cluster_header": "x-to"}) == []


def test_listener_needs_its_route_configuration() -> None:
    (found,) = listener("edge", "main").references
    assert found == Reference(ROUTES, "main", "filter_chains[0].filters[0].typed_config.rds.route_config_name")


def scoped(**fields: Any) -> list[tuple[str, str, str]]:
    words = {"name": "s", "key": {"fragments": [{"string_key": "a"}]}, **fields}
    found = references(proto.parse(SCOPED_ROUTES.message, words))
    return [(each.type.word, each.name, each.field) for each in found]


def test_scope_needs_the_routes_that_it_names_or_what_its_own_lead_to() -> None:
    assert scoped(route_configuration_name="main") == [("routes", "main", "route_configuration_name")]
    hosts = [{"name": "h", "domains": ["*"], "routes": [{"match": {"prefix": "/"}, "route": {"cluster": "a"}}]}]
    path = f"route_configuration.{ROUTE_PATH}.cluster"
    assert scoped(route_configuration={"name": "own", "virtual_hosts": hosts}) == [("clusters", "a", path)]


def test_virtual_host_needs_its_clusters() -> None:
    routes = [{"match": {"prefix": "/"}, "route": {"cluster": "a"}}]
    message = proto.parse(VIRTUAL_HOSTS.message, {"name": "main/h", "domains": ["h"], "routes": routes})
    assert list(references(message)) == [Reference(CLUSTERS, "a", "routes[0].route.cluster")]


@pytest.mark.parametrize(
    ("virtual_host", "routes"), [("edge/shop.example", "edge"), ("a/b/shop.example", "a/b"), ("shop.example", "")]
)
def test_virtual_host_belongs_to_the_routes_before_the_last_slash(virtual_host: str, routes: str) -> None:
    assert route_of(virtual_host) == routes


@pytest.mark.parametrize(
    ("discovery", "needed"),
    [
        ({"config_source": ADS}, ["ext"]),
        ({"config_source": {"path_config_source": {"path": "/etc/ext.yaml"}}}, []),
        (
            {
                "config_source": ADS,
                "default_config": {"@type": "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router"},
            },
            [],
        ),
    ],
)
def test_filter_needs_its_config_that_is_discovered_here_unless_it_has_another(
    discovery: dict[str, Any], needed: list[str]
) -> None:
    kinds = (
        "envoy.config.cluster.v3.Filter",
        "envoy.config.listener.v3.Filter",
        "envoy.config.listener.v3.ListenerFilter",
        "envoy.extensions.filters.http.composite.v3.DynamicConfig",
        "envoy.extensions.filters.network.http_connection_manager.v3.HttpFilter",
        "envoy.extensions.filters.udp.udp_proxy.v3.UdpProxyConfig.SessionFilter",
    )
    for kind in kinds:
        found = list(references(proto.parse(kind, {"name": "ext", "config_discovery": discovery})))
        assert found == [Reference(EXTENSION_CONFIGS, name, "name") for name in needed]


def test_ttl_is_told_by_the_version() -> None:
    words = {"name": "fault", "layer": {"share": 50}}
    without, short, long = (resource(RUNTIMES, proto.parse(RUNTIMES.message, words), each) for each in (None, 1.0, 2.0))
    assert without.version == content_version(without.body)
    assert len({without.version, short.version, long.version}) == 3
    assert expiring(without, 1.0) == short


def test_route_configuration_from_elsewhere_is_not_ours() -> None:
    message = proto.message_class("envoy.extensions.filters.network.http_connection_manager.v3.Rds")
    words = {"route_config_name": "main", "config_source": {"path_config_source": {"path": "/etc/routes.yaml"}}}
    assert list(references(proto.parse(message.DESCRIPTOR.full_name, words))) == []


@pytest.mark.parametrize(
    "filter_words",
    [
        {
            "@type": "type.googleapis.com/envoy.extensions.filters.http.ext_authz.v3.ExtAuthz",
            "grpc_service": {"envoy_grpc": {"cluster_name": "authz"}},
        },
        {
            "@type": "type.googleapis.com/envoy.extensions.filters.http.ext_authz.v3.ExtAuthz",
            "http_service": {"server_uri": {"uri": "http://authz", "cluster": "authz", "timeout": "1s"}},
        },
    ],
)
def test_filter_inside_any_needs_its_cluster(filter_words: dict[str, Any]) -> None:
    words = {"filter_chains": [{"filters": [{"name": "f", "typed_config": filter_words}]}]}
    (found,) = references(proto.parse(LISTENERS.message, words))
    assert (found.type, found.name) == (CLUSTERS, "authz")


def test_eds_cluster_needs_its_load_assignment_by_service_name_or_own_name() -> None:
    assert cluster("a").names(ENDPOINTS) == {"a"}
    assert cluster("a", service_name="b").names(ENDPOINTS) == {"b"}
    assert cluster("a").names(ROUTES) == frozenset()


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ({"type": "EDS", "eds_cluster_config": {"eds_config": ADS}}, True),
        ({"type": "EDS", "eds_cluster_config": {"eds_config": {"self": {}}}}, True),
        ({"type": "EDS", "eds_cluster_config": {"eds_config": {"path_config_source": {"path": "/x"}}}}, False),
        ({"type": "EDS"}, False),
        ({"type": "STATIC"}, False),
    ],
)
def test_eds_cluster_is_ours_when_its_source_is_ads(words: dict[str, Any], expected: bool) -> None:
    message = proto.parse(CLUSTERS.message, {"name": "a", **words})
    assert is_eds(message) is expected
    assert assignment_name(message) == "a"


def test_walk_goes_into_lists_maps_and_anys() -> None:
    options = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"
    words = {"typed_extension_protocol_options": {"x": {"@type": f"type.googleapis.com/{options}"}}}
    found = {path: part.DESCRIPTOR.full_name for path, part in walk(proto.parse(CLUSTERS.message, words))}
    assert found == {"": CLUSTERS.message, "typed_extension_protocol_options['x']": options}


def test_route_is_made_of_what_it_was_given() -> None:
    assert [each.name for each in route("r", "a", "b").references] == ["a", "b"]
