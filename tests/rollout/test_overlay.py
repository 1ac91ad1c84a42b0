"""Which parts of a configuration move with services, what is refused, and what is only warned of."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from rollout.traffic.overlay import Overlay, overlay
from tests.golden.cases import FOLDER, files
from xds.config import parse
from xds.errors import InvalidConfig
from xds.resources import LISTENERS

FILTERS = "type.googleapis.com/envoy.extensions.filters"
EXAMPLES = Path(__file__).parents[2] / "envoy-configs"


def service(name: str, **fields: Any) -> dict[str, Any]:
    source = {"ads": {}, "resource_api_version": "V3"}
    return {"name": name, "type": "EDS", "eds_cluster_config": {"eds_config": source}, **fields}


def assignment(name: str, *ports: int) -> dict[str, Any]:
    sockets = [{"socket_address": {"address": "127.0.0.1", "port_value": port}} for port in ports]
    return {"cluster_name": name, "endpoints": [{"lb_endpoints": [{"endpoint": {"address": one}} for one in sockets]}]}


def routes(*actions: Mapping[str, Any], name: str = "edge") -> dict[str, Any]:
    items = [{"match": {"prefix": f"/{number}"}, "route": action} for number, action in enumerate(actions)]
    return {"name": name, "virtual_hosts": [{"name": "all", "domains": ["*"], "routes": items}]}


def listener(name: str, *filters: Mapping[str, Any]) -> dict[str, Any]:
    chain = {"filters": [{"name": f"filter{number}", "typed_config": one} for number, one in enumerate(filters)]}
    return {"name": name, "filter_chains": [chain]}


def manager(**fields: Any) -> dict[str, Any]:
    router = {"name": "router", "typed_config": {"@type": f"{FILTERS}.http.router.v3.Router"}}
    kind = f"{FILTERS}.network.http_connection_manager.v3.HttpConnectionManager"
    return {"@type": kind, "stat_prefix": "http", "http_filters": [router], **fields}


def seen(document: Mapping[str, Any], bootstrap: Mapping[str, Any] | None = None) -> Overlay:
    texts = {"shop.yaml": yaml.safe_dump(document)}
    if bootstrap is not None:
        texts["bootstrap.yaml"] = yaml.safe_dump(bootstrap)
    return overlay(parse(texts))


def refused(document: Mapping[str, Any], bootstrap: Mapping[str, Any] | None = None) -> list[str]:
    with pytest.raises(InvalidConfig) as caught:
        seen(document, bootstrap)
    return str(caught.value).splitlines()


def warnings(document: Mapping[str, Any]) -> list[str]:
    return [str(warning) for warning in seen(document).warnings]


SHOP: Mapping[str, Any] = {"clusters": [service("checkout")], "endpoints": [assignment("checkout", 8081)]}


def test_example_has_one_service_and_nothing_to_warn_of() -> None:
    found = overlay(parse({"checkout.yaml": (EXAMPLES / "checkout.yaml").read_text()}))
    assert list(found.services) == ["checkout"]
    assert [dict(route.services) for route in found.routes] == [{"checkout": "virtual_hosts[0].routes[0].route"}]
    assert not found.services["checkout"].bare
    assert found.warnings == ()


def test_cluster_with_endpoints_from_a_file_is_no_service() -> None:
    from_disk = {"eds_config": {"path_config_source": {"path": "/dev/null"}, "resource_api_version": "V3"}}
    other = {"name": "disk", "type": "EDS", "eds_cluster_config": from_disk}
    found = seen({**SHOP, "clusters": [service("checkout"), other], "routes": [routes({"cluster": "checkout"})]})
    assert list(found.services) == ["checkout"]
    assert "disk" in {one.name for one in found.fixed}


def test_inline_routes_to_a_service_are_served_by_rds() -> None:
    found = overlay(parse(files("inline_routes")))
    assert [route.name for route in found.routes] == ["edge/local", "edge/local-2", "inside/local"]
    needs = {one.name: one.names for one in found.fixed if one.type is LISTENERS}
    assert sorted(needs) == ["edge", "health", "inside"]


def test_inline_routes_get_a_name_that_is_free() -> None:
    inline = listener("edge", manager(route_config=routes({"cluster": "checkout"}, name="local")))
    taken = routes({"cluster": "checkout", "timeout": "1s"}, name="edge/local")
    found = seen({**SHOP, "listeners": [inline], "routes": [taken]})
    assert [route.name for route in found.routes] == ["edge/local", "edge/local-2"]


def test_inline_routes_in_an_extension_config_are_served_by_rds() -> None:
    config = {"name": "http", "typed_config": manager(route_config=routes({"cluster": "checkout"}, name="local"))}
    found = seen({**SHOP, "extension_configs": [config]})
    assert [route.name for route in found.routes] == ["http/local"]
    assert not found.services["checkout"].bare


@pytest.mark.parametrize(
    "named",
    [
        {"cluster": "checkout", "request_mirror_policies": [{"cluster": "checkout"}]},
        {"cluster": "checkout", "rate_limits": [], "metadata_match": {"filter_metadata": {"x": {"to": "checkout"}}}},
    ],
)
def test_route_that_names_its_service_again_keeps_it_under_its_own_name(named: Mapping[str, Any]) -> None:
    found = seen({**SHOP, "routes": [routes(named)]})
    assert found.services["checkout"].bare


@pytest.mark.parametrize("name", ["auth", "logs", "words", "mirror", "first", "checkout"])
def test_service_that_something_else_names_keeps_its_own_name(name: str) -> None:
    assert overlay(parse(files("elsewhere"))).services[name].bare


def test_service_that_only_routes_name_does_not_keep_its_own_name() -> None:
    services = overlay(parse(files("existing_weights"))).services
    assert [one.bare for one in services.values()] == [False, False]


@pytest.mark.parametrize(
    ("action", "field"),
    [
        ({"cluster_header": "x-to"}, "cluster_header"),
        ({"inline_cluster_specifier_plugin": {"extension": {"name": "lua"}}}, "inline_cluster_specifier_plugin"),
        ({"weighted_clusters": {"clusters": [{"cluster_header": "x-to", "weight": 1}]}}, "weighted_clusters"),
    ],
)
def test_clusters_chosen_at_run_time_are_warned_of_and_all_services_keep_their_names(
    action: Mapping[str, Any], field: str
) -> None:
    document = {**SHOP, "routes": [routes({"cluster": "checkout"}, action)]}
    [warning] = warnings(document)
    assert warning.startswith(f"shop.yaml: routes[0] 'edge': virtual_hosts[0].routes[1].route.{field}")
    assert "a rollout cannot shift" in warning
    assert seen(document).services["checkout"].bare


def test_route_outside_a_route_configuration_is_warned_of_and_keeps_the_name() -> None:
    dubbo = {
        "@type": f"{FILTERS}.network.dubbo_proxy.v3.DubboProxy",
        "stat_prefix": "dubbo",
        "route_config": [
            {
                "name": "all",
                "interface": "*",
                "routes": [{"route": {"weighted_clusters": {"clusters": [{"name": "checkout", "weight": 1}]}}}],
            }
        ],
    }
    document = {**SHOP, "listeners": [listener("edge", dubbo)]}
    [warning] = warnings(document)
    path = "filter_chains[0].filters[0].typed_config.route_config[0].routes[0].route.weighted_clusters.clusters[0].name"
    assert warning.startswith(f"shop.yaml: listeners[0] 'edge': {path}: names the service 'checkout'")
    assert seen(document).services["checkout"].bare


def test_service_without_a_route_is_warned_of() -> None:
    assert warnings(SHOP) == [
        (
            "shop.yaml: clusters[0] 'checkout': is named by no route, so a rollout of it has no traffic to shift; "
            "add a route to it, or remove it"
        )
    ]


def test_service_that_would_use_drained_backends_in_a_panic_is_warned_of() -> None:
    for value, warned in ((0, 0), (50, 1)):
        cluster = service("checkout", common_lb_config={"healthy_panic_threshold": {"value": value}})
        found = warnings({**SHOP, "clusters": [cluster], "routes": [routes({"cluster": "checkout"})]})
        assert [each.partition(": where")[0] for each in found] == [
            "shop.yaml: clusters[0] 'checkout': common_lb_config.healthy_panic_threshold: is 50"
        ] * warned


def test_service_whose_backends_cannot_be_watched_is_warned_of() -> None:
    cluster = service("checkout", track_cluster_stats={"timeout_budgets": True})
    [warning] = warnings({**SHOP, "clusters": [cluster], "routes": [routes({"cluster": "checkout"})]})
    assert warning.startswith("shop.yaml: clusters[0] 'checkout': track_cluster_stats: leaves out per_endpoint_stats")


def test_service_without_endpoints_is_refused() -> None:
    assert refused({"clusters": [service("checkout")]}) == [
        (
            "shop.yaml: clusters[0] 'checkout': has no endpoints; "
            "add an item with `cluster_name: checkout` to a list `endpoints:`"
        )
    ]


def test_service_with_an_empty_list_of_endpoints_is_refused() -> None:
    assert refused({"clusters": [service("checkout")], "endpoints": [assignment("checkout")]}) == [
        (
            "shop.yaml: endpoints[0] 'checkout': endpoints: holds no endpoint of the service 'checkout'; "
            "add lb_endpoints, its first version"
        )
    ]


@pytest.mark.parametrize(
    ("name", "remedy"),
    [
        ("chekout", "did you mean 'checkout'?"),
        ("files", "add it there or correct the name"),
        ("checkout@v2", "routes name services and rollouts choose versions: write 'checkout'"),
    ],
)
def test_route_to_an_unknown_cluster_is_refused_with_its_place(name: str, remedy: str) -> None:
    assert refused({**SHOP, "routes": [routes({"cluster": "checkout"}, {"cluster": name})]}) == [
        (
            f"shop.yaml: routes[0] 'edge': virtual_hosts[0].routes[1].route.cluster: names '{name}', "
            f"which is not among the clusters; {remedy}"
        )
    ]


def test_clusters_of_the_bootstrap_are_known() -> None:
    bootstrap = {"static_resources": {"clusters": [{"name": "files"}]}}
    found = seen({**SHOP, "routes": [routes({"cluster": "checkout"}, {"cluster": "files"})]}, bootstrap)
    assert found.warnings == ()


def test_names_of_versions_are_kept_free() -> None:
    clusters = [service("checkout"), {"name": "checkout@v2"}, {"name": "checkout@local@v2"}, {"name": "cart@v2"}]
    endpoints = [assignment("checkout", 8081), assignment("checkout@v3", 8081)]
    bootstrap = {"static_resources": {"clusters": [{"name": "checkout@v4"}]}}
    kept = "has the name kept for version '{}' of the service 'checkout'; rename it"
    assert refused({"clusters": clusters, "endpoints": endpoints}, bootstrap) == [
        f"shop.yaml: clusters[1] 'checkout@v2': {kept.format('v2')}",
        f"shop.yaml: endpoints[1] 'checkout@v3': {kept.format('v3')}",
        f"the bootstrap's cluster 'checkout@v4': {kept.format('v4')}",
    ]


ADS = {"ads": {}, "resource_api_version": "V3"}


def vhds(*hosts: Mapping[str, Any], name: str = "edge", **fields: Any) -> dict[str, Any]:
    return {"routes": [{"name": name, "vhds": {"config_source": ADS}, **fields}], "virtual_hosts": list(hosts)}


def virtual_host(name: str, *domains: str, cluster: str = "checkout") -> dict[str, Any]:
    routes = [{"match": {"prefix": "/"}, "route": {"cluster": cluster}}]
    return {"name": name, "domains": list(domains or (name,)), "routes": routes}


def scope(name: str, key: str, **fields: Any) -> dict[str, Any]:
    return {"name": name, "key": {"fragments": [{"string_key": key}]}, **fields}


def test_routes_of_virtual_hosts_and_of_scopes_move_with_their_services() -> None:
    inside = scope("own", "own", route_configuration=routes({"cluster": "checkout"}, name="main"))
    document = {**SHOP, **vhds(virtual_host("edge/shop")), "scoped_routes": [inside]}
    document["routes"] = [*document["routes"], routes({"cluster": "checkout"}, name="main")]
    found = seen(document)
    assert [(each.type.word, each.name, dict(each.services)) for each in found.routes] == [
        ("scoped_routes", "own", {"checkout": "route_configuration.virtual_hosts[0].routes[0].route"}),
        ("routes", "main", {"checkout": "virtual_hosts[0].routes[0].route"}),
        ("virtual_hosts", "edge/shop", {"checkout": "routes[0].route"}),
    ]
    assert not found.services["checkout"].bare
    assert [each.where for each in found.warnings] == ["shop.yaml: virtual_hosts[0] 'edge/shop'"]
    assert [(each.type.word, each.name) for each in found.fixed] == [("routes", "edge")]


def test_one_name_of_a_scope_and_of_routes_is_two_resources() -> None:
    inside = scope("main", "a", route_configuration=routes({"cluster": "checkout"}, name="x"))
    found = seen({**SHOP, "scoped_routes": [inside], "routes": [{"name": "main"}]})
    assert [each.type.word for each in found.routes] == ["scoped_routes"]
    assert [(each.type.word, each.name) for each in found.fixed] == [("routes", "main")]


def test_ttl_of_a_virtual_host_that_moves_is_kept() -> None:
    lent = {"ttl": "30s", "resource": virtual_host("edge/shop")}
    [template] = seen({**SHOP, **vhds(lent)}).routes
    assert template.ttl_s == 30.0


@pytest.mark.parametrize("name", ["shop", "other/shop", "plain/shop", "edge/shop/x"])
def test_virtual_host_of_no_routes_that_ask_for_it_is_refused(name: str) -> None:
    document = {**SHOP, **vhds(virtual_host("edge/there"), virtual_host(name))}
    document["routes"] = [*document["routes"], {"name": "plain"}]
    [problem] = refused(document)
    assert problem.startswith(f"shop.yaml: virtual_hosts[1] '{name}': belongs to none of the routes that have `vhds:")


def test_routes_that_wait_for_a_virtual_host_without_end_are_refused() -> None:
    [problem] = refused({**SHOP, **vhds()})
    assert problem == (
        "shop.yaml: routes[0] 'edge': vhds: finds no virtual host, and an Envoy waits for the first one; "
        "add 'edge/HOST' to `virtual_hosts:`"
    )


def test_domain_that_two_virtual_hosts_of_one_route_configuration_have_is_refused() -> None:
    inline = [{"name": "inline", "domains": ["B.example"]}]
    hosts = virtual_host("edge/a", "a.example", "b.example"), virtual_host("edge/b", "c.example", "a.example")
    others = vhds(virtual_host("inside/a", "a.example"), name="inside")
    document = {**SHOP, **vhds(*hosts, virtual_hosts=inline)}
    document = {key: [*document.get(key, ()), *others.get(key, ())] for key in {**document, **others}}
    assert [problem.partition("; ")[0] for problem in refused(document)] == [
        (
            "shop.yaml: virtual_hosts[0] 'edge/a': has the domain 'b.example', "
            "which stands already in shop.yaml: routes[0] 'edge': virtual_hosts[0]"
        ),
        (
            "shop.yaml: virtual_hosts[1] 'edge/b': has the domain 'a.example', "
            "which stands already in shop.yaml: virtual_hosts[0] 'edge/a'"
        ),
    ]


def test_two_scopes_of_one_key_are_refused() -> None:
    scopes = [scope(name, "a", route_configuration_name="main") for name in ("one", "two")]
    [problem] = refused({**SHOP, "routes": [routes({"cluster": "checkout"}, name="main")], "scoped_routes": scopes})
    assert problem.startswith(
        "shop.yaml: scoped_routes[1] 'two': key: is that of shop.yaml: scoped_routes[0] 'one' too"
    )


def test_scope_of_unknown_routes_is_refused() -> None:
    [problem] = refused({**SHOP, "scoped_routes": [scope("one", "a", route_configuration_name="gone")]})
    assert "route_configuration_name: names 'gone', which is not among the routes" in problem


def test_listener_that_asks_for_scopes_of_which_there_are_none_is_refused() -> None:
    key = {"fragments": [{"header_value_extractor": {"name": "x", "index": 0}}]}
    scoped = {"name": "s", "scope_key_builder": key, "scoped_rds": {"scoped_rds_config_source": ADS}}
    [problem] = refused({**SHOP, "listeners": [listener("edge", manager(scoped_routes=scoped))]})
    assert "scoped_routes.scoped_rds: asks for scoped routes, of which there are none" in problem


SOTW_BOOTSTRAP = {"dynamic_resources": {"ads_config": {"api_type": "GRPC"}}}
DELTA_BOOTSTRAP = {"dynamic_resources": {"ads_config": {"api_type": "DELTA_GRPC"}}}
FOUND_ON_DEMAND = {
    "name": "envoy.filters.http.on_demand",
    "typed_config": {"@type": f"{FILTERS}.http.on_demand.v3.OnDemand", "odcds": {"source": ADS}},
}
ON_DEMAND = manager()
ON_DEMAND["http_filters"] = [FOUND_ON_DEMAND, *ON_DEMAND["http_filters"]]
LENT_SCOPE = {"ttl": "30s", "resource": scope("one", "a", route_configuration_name="main")}


@pytest.mark.parametrize(
    ("document", "field"),
    [
        (vhds(virtual_host("edge/shop")), "vhds"),
        ({"listeners": [listener("edge", ON_DEMAND)]}, "odcds.source"),
        ({"scoped_routes": [LENT_SCOPE], "routes": [routes({"cluster": "checkout"}, name="main")]}, "ttl"),
    ],
)
def test_what_needs_delta_is_refused_for_proxies_whose_bootstrap_has_none(
    document: Mapping[str, Any], field: str
) -> None:
    [problem] = refused({**SHOP, **document}, SOTW_BOOTSTRAP)
    assert f"{field}: needs delta, but bootstrap.yaml has `api_type: GRPC`" in problem
    for bootstrap in (DELTA_BOOTSTRAP, {}, None):
        assert seen({**SHOP, **document}, bootstrap).services


@pytest.mark.parametrize(
    ("document", "told"),
    [
        ({"runtimes": [{"ttl": "0.5s", "resource": {"name": "x"}}]}, "0.5s is below 1s"),
        ({"routes": [{"ttl": "9s", "resource": {"name": "x"}}]}, "is not for routes: an Envoy keeps them beyond it"),
        ({"clusters": [{"ttl": "9s", "resource": service("checkout")}]}, "is not for a service"),
    ],
)
def test_ttl_that_does_not_work_is_refused(document: Mapping[str, Any], told: str) -> None:
    [problem] = refused({**SHOP, **document})
    assert f"ttl: {told}" in problem


def test_every_problem_is_told_at_once() -> None:
    problems = refused({"clusters": [service("checkout"), service("cart")], "routes": [routes({"cluster": "shop"})]})
    assert len(problems) == 3


def test_golden_cases_are_all_here() -> None:
    assert {path.parent.name for path in FOLDER.glob("*/in.yaml")} == {
        path.parent.name for path in FOLDER.glob("*/out.yaml")
    }
