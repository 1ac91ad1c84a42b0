"""A service behind TCP proxies is split by weights of its endpoints: shares are exact, and nothing else changes."""

from collections import Counter
from collections.abc import Iterator, Mapping
from fractions import Fraction
from typing import Any

import pytest
import yaml

from rollout.errors import InvalidSpec
from rollout.spec import Endpoint, Strategy, parse_endpoint
from rollout.traffic.compiler import Compiler, ServiceTraffic, VersionTraffic
from rollout.traffic.fitting import check_fits
from rollout.traffic.overlay import overlay
from rollout.traffic.publisher import Publisher
from tests.rollout.test_overlay import FILTERS, assignment, listener, manager, refused, routes, service, warnings
from xds import proto
from xds.cache import Cache
from xds.config import parse
from xds.resources import CLUSTERS, ENDPOINTS, LISTENERS, ROUTES
from xds.snapshot import Snapshot

ASSIGNMENT = "envoy.config.endpoint.v3.ClusterLoadAssignment"
DRAINING, UNHEALTHY = 3, 2
TCP = {"@type": f"{FILTERS}.network.tcp_proxy.v3.TcpProxy", "stat_prefix": "tcp", "cluster": "store"}
STORE = {
    "listeners": [listener("store", TCP)],
    "clusters": [service("store")],
    "endpoints": [assignment("store", 81, 82)],
}
V2 = tuple(map(parse_endpoint, ("10.0.0.1:80", "10.0.0.2:80", "10.0.0.3:80")))
BY_LOCALITY: Mapping[str, Any] = {"common_lb_config": {"locality_weighted_lb_config": {}}}


def compiler(document: Mapping[str, Any] = STORE) -> Compiler:
    return Compiler(overlay(parse({"store.yaml": yaml.safe_dump(document)})))


def split(weight_bp: int, endpoints: tuple[Endpoint, ...] = V2, **fields: Any) -> Mapping[str, ServiceTraffic]:
    stable = VersionTraffic("v1", 10_000 - weight_bp, None)
    candidate = VersionTraffic("v2", weight_bp, endpoints, **fields)
    return {"store": ServiceTraffic("v1" if weight_bp < 10_000 else "v2", (stable, candidate))}


def decoded(snapshot: Snapshot, name: str = "store") -> Any:
    resource = snapshot.get(ENDPOINTS, name)
    assert resource is not None
    return proto.message_class(ASSIGNMENT).FromString(resource.body)


def chances(assigned: Any, priority: int = 0, *, locality_weighted: bool = False) -> Mapping[int, Fraction]:
    """By port what part of new connections Envoy sends there, as its weighted round robin does."""
    localities = [
        (locality.load_balancing_weight.value, [each for each in locality.lb_endpoints if not each.health_status])
        for locality in assigned.endpoints
        if locality.priority == priority
    ]
    found: Counter[int] = Counter()
    for weight, endpoints in localities:
        here = sum(each.load_balancing_weight.value or 1 for each in endpoints)
        everywhere = sum(each.load_balancing_weight.value or 1 for _, group in localities for each in group)
        part = (
            Fraction(weight, sum(each for each, _ in localities)) if locality_weighted else Fraction(here, everywhere)
        )
        for each in endpoints:
            own = Fraction(each.load_balancing_weight.value or 1, here)
            found[each.endpoint.address.socket_address.port_value] += part * own  # type: ignore[assignment]
    return found  # type: ignore[return-value]


def own_weights(assigned: Any) -> list[int]:
    return [each.load_balancing_weight.value for locality in assigned.endpoints for each in locality.lb_endpoints]


def statuses(assigned: Any) -> Iterator[tuple[str, int]]:
    for locality in assigned.endpoints:
        for each in locality.lb_endpoints:
            yield each.endpoint.address.socket_address.address, each.health_status


@pytest.mark.parametrize("weight_bp", [1, 10, 100, 1000, 3333, 5000, 9999])
@pytest.mark.parametrize("endpoints", [1, 3, 700])
def test_shares_are_exactly_the_weights(weight_bp: int, endpoints: int) -> None:
    versions = tuple(parse_endpoint(f"10.0.{number // 200}.{number % 200 + 1}:90") for number in range(endpoints))
    assigned = decoded(compiler().compile(split(weight_bp, versions)))
    found = chances(assigned)
    assert found[90] == Fraction(weight_bp, 10_000)
    assert found[81] == found[82]
    weights = own_weights(assigned)
    assert min(weights) >= 1
    assert sum(weights) < 2**32


def test_weights_that_have_no_small_terms_are_rounded() -> None:
    odd = {80 + number: 1_000_003 + 2 * number for number in range(40)}
    document = {**STORE, "endpoints": [{"cluster_name": "store", "endpoints": weighted(("a", 0, 0, odd))}]}
    assigned = decoded(compiler(document).compile(split(1, (parse_endpoint("10.0.0.1:9000"),))))
    found = chances(assigned)
    assert abs(found[9000] - Fraction(1, 10_000)) <= Fraction(1, 10**8)
    assert abs(found[80] - Fraction(9999, 10_000) * Fraction(odd[80], sum(odd.values()))) <= Fraction(1, 10**8)
    assert sum(own_weights(assigned)) < 2**32


def test_weights_are_in_their_lowest_terms() -> None:
    assigned = decoded(compiler().compile(split(1000, V2[:1])))
    assert sorted(own_weights(assigned)) == [2, 9, 9]


def test_at_0_and_100_percent_the_other_version_is_draining_and_weights_are_as_written() -> None:
    made = compiler()
    for weight_bp, draining in ((0, {"10.0.0.1", "10.0.0.2", "10.0.0.3"}), (10_000, {"127.0.0.1"})):
        assigned = decoded(made.compile(split(weight_bp)))
        assert {address for address, status in statuses(assigned) if status == DRAINING} == draining
        assert not any(each.load_balancing_weight.value for group in assigned.endpoints for each in group.lb_endpoints)


def test_a_weight_changes_the_assignment_of_the_service_alone() -> None:
    made = compiler({**STORE, "listeners": [listener("store", TCP), listener("web", manager(rds=RDS))], **EDGE})
    before, after = (made.compile(split(weight_bp)) for weight_bp in (100, 5000))
    for type_ in (LISTENERS, CLUSTERS):
        assert before.views[type_] is after.views[type_]
    for version in ("store@v1", "store@v2"):
        assert before.get(ENDPOINTS, version) is after.get(ENDPOINTS, version)
    assert before.get(ENDPOINTS, "store") != after.get(ENDPOINTS, "store")
    assert before.get(ROUTES, "edge") != after.get(ROUTES, "edge")  # routes name versions, as ever
    assert made.compile(split(100)).get(ENDPOINTS, "store") == before.get(ENDPOINTS, "store")


RDS = {"route_config_name": "edge", "config_source": {"ads": {}, "resource_api_version": "V3"}}
EDGE = {"routes": [routes({"cluster": "store"})]}


def test_what_is_let_go_or_ill_leaves_its_part_to_the_others_of_its_version() -> None:
    made = compiler()
    let_go, ill = frozenset({"10.0.0.1:80"}), frozenset({"10.0.0.2:80"})
    assigned = decoded(made.compile(split(1000, let_go=let_go, unhealthy=ill)))
    assert chances(assigned)[80] == Fraction(1, 10)
    assert dict(statuses(assigned)) == {"127.0.0.1": 0, "10.0.0.1": DRAINING, "10.0.0.2": UNHEALTHY, "10.0.0.3": 0}
    assigned = decoded(made.compile(split(1000, removed=frozenset({"10.0.0.1:80"}))))
    assert chances(assigned)[80] == Fraction(1, 10)
    assert "10.0.0.1" not in dict(statuses(assigned))


def test_a_version_that_drains_gets_nothing() -> None:
    assigned = decoded(compiler().compile(split(0, draining=True)))
    assert chances(assigned)[80] == 0


def weighted(*parts: tuple[str, int, int, Mapping[int, int]]) -> list[Mapping[str, Any]]:
    """Localities by region, priority, weight, and endpoints by port with weights."""
    return [
        {
            "locality": {"region": region},
            "priority": priority,
            **({"load_balancing_weight": weight} if weight else {}),
            "lb_endpoints": [
                {
                    "endpoint": {"address": {"socket_address": {"address": "127.0.0.1", "port_value": port}}},
                    "load_balancing_weight": own,
                }
                for port, own in endpoints.items()
            ],
        }
        for region, priority, weight, endpoints in parts
    ]


def test_weights_of_endpoints_and_localities_keep_their_proportions_inside_a_version() -> None:
    localities = weighted(("a", 0, 3, {81: 1, 82: 3}), ("b", 0, 1, {83: 7}))
    document = {**STORE, "endpoints": [{"cluster_name": "store", "endpoints": localities}]}
    version = tuple(map(parse_endpoint, ("10.0.0.1:80@a", "10.0.0.2:90@c")))
    plain = chances(decoded(compiler(document).compile(split(2000, version))))
    assert plain == {
        81: Fraction(8, 110),
        82: Fraction(24, 110),
        83: Fraction(56, 110),
        80: Fraction(1, 10),
        90: Fraction(1, 10),
    }
    by_locality = compiler({**document, "clusters": [service("store", **BY_LOCALITY)]})
    found = chances(decoded(by_locality.compile(split(2000, version))), locality_weighted=True)
    assert found == {
        81: Fraction(15, 100),
        82: Fraction(45, 100),
        83: Fraction(20, 100),
        80: Fraction(1, 10),
        90: Fraction(1, 10),
    }


def test_each_priority_is_split_by_itself() -> None:
    localities = weighted(("a", 0, 0, {81: 1}), ("b", 1, 0, {82: 1}))
    document = {**STORE, "endpoints": [{"cluster_name": "store", "endpoints": localities}]}
    assigned = decoded(compiler(document).compile(split(1000)))
    assert chances(assigned) == {81: Fraction(9, 10), 80: Fraction(1, 10)}
    assert chances(assigned, 1) == {82: 1}


def test_an_address_that_both_versions_have_gets_both_their_shares() -> None:
    both = tuple(map(parse_endpoint, ("127.0.0.1:81", "127.0.0.1:83")))
    assigned = decoded(compiler().compile(split(2000, both)))
    assert chances(assigned) == {81: Fraction(5, 10), 82: Fraction(4, 10), 83: Fraction(1, 10)}


@pytest.mark.parametrize(
    ("cluster", "where", "what"),
    [
        ({"lb_policy": "RANDOM"}, "clusters[0] 'store': lb_policy", "is RANDOM, which ignores weights"),
        (
            {"track_cluster_stats": {"timeout_budgets": True}},
            "clusters[0] 'store': track_cluster_stats",
            "leaves out per_endpoint_stats",
        ),
    ],
)
def test_a_cluster_that_weights_cannot_split_is_refused(cluster: Mapping[str, Any], where: str, what: str) -> None:
    (problem,) = refused({**STORE, "clusters": [service("store", **cluster)]})
    assert problem.startswith(f"store.yaml: {where}: {what}".replace("store.yaml", "shop.yaml"))
    assert "listeners[0] 'store': filter_chains[0].filters[0].typed_config.cluster" in problem


def test_endpoints_of_another_source_are_refused() -> None:
    localities = [{"leds_cluster_locality_config": {"leds_collection_name": "x"}}]
    document = {**STORE, "endpoints": [{"cluster_name": "store", "endpoints": localities}]}
    assert ["could not be split by weights; write `lb_endpoints`" in each for each in refused(document)] == [True]


@pytest.mark.parametrize(
    ("cluster", "found"),
    [
        ({"lb_policy": "LEAST_REQUEST"}, "lb_policy: is LEAST_REQUEST: a version's share is near the square root"),
        ({"lb_policy": "MAGLEV"}, "lb_policy: is MAGLEV"),
        ({"lb_subset_config": {"fallback_policy": "ANY_ENDPOINT"}}, "lb_subset_config: sends some"),
        (
            {"round_robin_lb_config": {"slow_start_config": {"slow_start_window": "10s"}}},
            "slow_start_config: gives new",
        ),
    ],
)
def test_policies_with_inexact_shares_are_warned_of(cluster: Mapping[str, Any], found: str) -> None:
    (warning,) = warnings({**STORE, "clusters": [service("store", **cluster)]})
    assert f"clusters[0] 'store': {found}" in warning
    assert warning.endswith("write `lb_policy: ROUND_ROBIN`, whose shares are exact")


def test_weighted_clusters_of_a_tcp_proxy_may_name_services() -> None:
    several = {"clusters": [{"name": "store", "weight": 1}, {"name": "store", "weight": 2}]}
    tcp = {name: value for name, value in TCP.items() if name != "cluster"}
    seen = overlay(
        parse(
            {"s.yaml": yaml.safe_dump({**STORE, "listeners": [listener("a", {**tcp, "weighted_clusters": several})]})}
        )
    )
    assert seen.services["store"].tcp
    assert seen.warnings == ()


def test_what_else_names_it_is_warned_of() -> None:
    log = {"@type": "type.googleapis.com/envoy.extensions.access_loggers.grpc.v3.TcpGrpcAccessLogConfig"}
    grpc = {"envoy_grpc": {"cluster_name": "store"}}
    common = {"log_name": "x", "transport_api_version": "V3", "grpc_service": grpc}
    proxy = {**TCP, "access_log": [{"name": "log", "typed_config": {**log, "common_config": common}}]}
    (warning,) = warnings({**STORE, "listeners": [listener("store", proxy)]})
    assert warning.endswith("so it is split here with them, and judged by its failed connections only")


@pytest.mark.parametrize(
    ("strategy", "path"),
    [
        ({"stages": [{"match": [{"headers": {"x": "1"}}]}, "100%"]}, "stages[0]: chooses requests"),
        ({"stages": [{"mirror": "5%"}, "100%"]}, "stages[0]: chooses requests"),
        ({"sticky": {"header": "x-user"}}, "sticky: keeps requests"),
    ],
)
def test_strategies_that_choose_requests_do_not_fit_a_service_with_tcp_proxies_only(
    strategy: Mapping[str, Any], path: str
) -> None:
    publisher = Publisher(Cache())
    publisher.load({"store.yaml": yaml.safe_dump(STORE)}, {})
    with pytest.raises(InvalidSpec) as caught:
        check_fits(publisher, "store", Strategy.model_validate(strategy))
    assert str(caught.value).startswith(path)
    check_fits(publisher, "store", Strategy())
    both = {**STORE, "listeners": [listener("s", TCP), listener("w", manager(rds=RDS))], **EDGE}
    publisher.load({"store.yaml": yaml.safe_dump(both)}, {})
    check_fits(publisher, "store", Strategy.model_validate(strategy))
