"""What is served for requests that go by no weight: copies of routes, mirrors, hashes, and the candidate's shadow."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest
import yaml

from rollout.exposure import FULL_BP, Match, Preview, Sticky
from rollout.traffic.compiler import Compiler, ServiceTraffic
from rollout.traffic.publisher import INITIAL, check, untouched
from rollout.traffic.routing import Routing
from tests.golden.cases import words
from tests.rollout.test_compiler import EDS, actions, assigned, served, shop, split, weights
from xds.resources import CLUSTERS, ROUTES, VIRTUAL_HOSTS
from xds.snapshot import Snapshot, inconsistencies

SHADOW = Routing("v2", shadow=True)
PREVIEWED = replace(SHADOW, preview=Preview())
BETA = Match.model_validate({"headers": {"x-group": "beta"}})


def routed(candidate_bp: int, routing: Routing, **candidate: Any) -> ServiceTraffic:
    return replace(split(candidate_bp, **candidate), routing=routing)


def routes(snapshot: Snapshot) -> list[dict[str, Any]]:
    [configuration] = words(snapshot)["routes"]
    return [route for host in configuration["virtual_hosts"] for route in host["routes"]]


def header(route: Mapping[str, Any]) -> tuple[str, str]:
    [found] = route["match"]["headers"]
    return found["name"], found["string_match"]["exact"]


def body(snapshot: Snapshot) -> bytes:
    made = snapshot.get(ROUTES, "edge")
    assert made is not None
    return made.body


def cluster(snapshot: Snapshot, name: str) -> dict[str, Any]:
    return next(each for each in words(snapshot)["clusters"] if each["name"] == name)


def test_header_leads_to_each_version_before_the_route_that_is_split() -> None:
    snapshot = served(shop({"cluster": "checkout", "timeout": "3s"}), checkout=routed(1000, PREVIEWED))
    first, second, main = routes(snapshot)
    assert [header(each) for each in (first, second)] == [("x-rollout-version", "v1"), ("x-rollout-version", "v2")]
    assert first["route"] == {"cluster": "checkout@v1", "timeout": "3s"}
    assert second["route"] == {"cluster": "checkout@v2+shadow", "timeout": "3s"}
    assert first["match"]["prefix"] == main["match"]["prefix"] == "/0"
    assert weights(main["route"]) == {"checkout@v1": 9000, "checkout@v2": 1000}
    assert not inconsistencies(snapshot, frozenset())


def test_version_that_has_given_all_away_is_not_previewed_for_it_may_be_let_go() -> None:
    snapshot = served(shop({"cluster": "checkout"}), checkout=routed(FULL_BP, PREVIEWED))
    assert [header(each) for each in routes(snapshot)[:-1]] == [("x-rollout-version", "v2")]


@pytest.mark.parametrize(("external", "internal"), [(False, ["x-try"]), (True, None)])
def test_preview_header_is_internal_unless_it_is_external(*, external: bool, internal: list[str] | None) -> None:
    preview = Preview(header="x-try", external=external)
    snapshot = served(shop({"cluster": "checkout"}), checkout=routed(0, replace(SHADOW, preview=preview)))
    [configuration] = words(snapshot)["routes"]
    assert configuration.get("internal_only_headers") == internal
    assert header(routes(snapshot)[0]) == ("x-try", "v1")


def test_header_is_internal_for_both_services_where_one_says_so() -> None:
    compiler = shop({"cluster": "checkout"}, {"cluster": "cart"})
    external = replace(SHADOW, preview=Preview(external=True))
    snapshot = served(compiler, checkout=routed(0, external), cart=routed(0, PREVIEWED))
    assert words(snapshot)["routes"][0]["internal_only_headers"] == ["x-rollout-version"]
    assert len(routes(snapshot)) == 6


def test_header_that_the_user_made_internal_stands_once() -> None:
    document = yaml.safe_load(DOCUMENT)
    document["routes"][0]["internal_only_headers"] = ["X-Rollout-Version", "x-debug"]
    document["routes"][0]["request_headers_to_remove"] = ["x-last"]
    compiler = check({"shop.yaml": yaml.safe_dump(document)}).compiler.common
    [configuration] = words(served(compiler, checkout=routed(0, PREVIEWED)))["routes"]
    assert configuration["internal_only_headers"] == ["X-Rollout-Version", "x-debug"]
    assert configuration["request_headers_to_remove"] == ["x-last"]


def test_preview_of_one_service_leaves_the_others_of_a_route_split() -> None:
    entries = [{"name": "checkout", "weight": 1}, {"name": "cart", "weight": 1}]
    compiler = shop({"weighted_clusters": {"clusters": entries}})
    snapshot = served(compiler, checkout=routed(1000, PREVIEWED), cart=routed(5000, SHADOW))
    assert weights(actions(snapshot)[1]) == {"checkout@v2+shadow": 5000, "cart@v1": 2500, "cart@v2": 2500}
    moved = served(compiler, checkout=routed(1000, PREVIEWED), cart=routed(1000, SHADOW))
    assert weights(actions(moved)[1]) == {"checkout@v2+shadow": 5000, "cart@v1": 4500, "cart@v2": 500}


def test_services_with_versions_of_one_name_are_previewed_together() -> None:
    entries = [{"name": "checkout", "weight": 1}, {"name": "cart", "weight": 1}]
    compiler = shop({"weighted_clusters": {"clusters": entries}})
    snapshot = served(compiler, checkout=routed(0, PREVIEWED), cart=routed(0, PREVIEWED))
    assert [set(weights(each)) for each in actions(snapshot)[:2]] == [
        {"checkout@v1", "cart@v1"},
        {"checkout@v2+shadow", "cart@v2+shadow"},
    ]


def test_each_match_is_a_route_of_its_own_to_the_candidate() -> None:
    cookie = Match.model_validate({"headers": {"x-a": {"prefix": "b"}}, "cookies": {"c": {"present": True}}})
    routing = replace(PREVIEWED, match=(BETA, cookie))
    *_, beta, both, main = routes(served(shop({"cluster": "checkout"}), checkout=routed(0, routing)))
    assert header(beta) == ("x-group", "beta")
    assert both["match"]["headers"] == [{"name": "x-a", "string_match": {"prefix": "b"}}]
    assert both["match"]["cookies"] == [{"name": "c", "string_match": {"safe_regex": {"regex": ".*"}}}]
    assert beta["route"] == both["route"] == {"cluster": "checkout@v2"}
    assert weights(main["route"]) == {"checkout@v1": FULL_BP}


def test_route_that_names_no_service_in_a_rollout_has_no_copies() -> None:
    compiler = shop({"cluster": "checkout"}, {"cluster": "cart"}, {"cluster": "files"})
    snapshot = served(compiler, checkout=routed(0, PREVIEWED))
    assert [each["match"]["prefix"] for each in routes(snapshot)] == ["/0", "/0", "/0", "/1", "/2"]


def test_copies_of_requests_go_to_the_shadow_beside_the_mirrors_that_a_route_has() -> None:
    own = [{"cluster": "files"}]
    compiler = shop({"cluster": "checkout", "request_mirror_policies": own}, {"cluster": "checkout"})
    found = [each["request_mirror_policies"] for each in actions(served(compiler, checkout=routed(0, mirrored(25))))]
    assert [[policy["cluster"] for policy in each] for each in found] == [
        ["files", "checkout@v2+shadow"],
        ["checkout@v2+shadow"],
    ]
    share = found[1][0]["runtime_fraction"]["default_value"]
    assert share == {"numerator": 2500, "denominator": "TEN_THOUSAND"}


def test_mirrors_of_a_virtual_host_stay() -> None:
    compiler = shop({"cluster": "checkout"}, {"cluster": "cart"}, mirror="files")
    snapshot = served(compiler, checkout=routed(0, mirrored(1)))
    mirrors = [each.get("request_mirror_policies", []) for each in actions(snapshot)]
    assert [[policy["cluster"] for policy in each] for each in mirrors] == [["files", "checkout@v2+shadow"], []]


def test_requests_of_other_services_are_not_copied() -> None:
    entries = [{"name": "checkout", "weight": 1}, {"name": "cart", "weight": 1}]
    compiler = shop({"weighted_clusters": {"clusters": entries}})
    [action] = actions(served(compiler, checkout=routed(0, mirrored(10))))
    assert "request_mirror_policies" not in action


def mirrored(percent: int) -> Routing:
    return replace(SHADOW, mirror_bp=percent * 100)


def test_users_are_hashed_by_their_header_before_what_a_route_hashes_itself() -> None:
    compiler = shop({"cluster": "checkout", "hash_policy": [{"header": {"header_name": "x-cart"}}]})
    routing = replace(SHADOW, sticky=Sticky(header="x-user"))
    [action] = actions(served(compiler, checkout=routed(1000, routing)))
    assert action["weighted_clusters"]["use_hash_policy"] is True
    assert [each["name"] for each in action["weighted_clusters"]["clusters"]] == ["checkout@v1", "checkout@v2"]
    assert action["hash_policy"] == [
        {"header": {"header_name": "x-user"}, "terminal": True},
        {"header": {"header_name": "x-cart"}},
    ]
    [action] = actions(served(compiler, checkout=routed(0, routing)))  # nothing is to be chosen
    assert action["hash_policy"] == [{"header": {"header_name": "x-cart"}}]


def test_route_that_chooses_by_a_header_of_its_own_goes_on_doing_so() -> None:
    weighted = {"clusters": [{"name": "checkout", "weight": 1}], "header_name": "x-bucket"}
    routing = replace(SHADOW, sticky=Sticky(header="x-user"))
    [action] = actions(served(shop({"weighted_clusters": weighted}), checkout=routed(1000, routing)))
    assert action["weighted_clusters"]["header_name"] == "x-bucket"
    assert "hash_policy" not in action


def test_who_has_no_cookie_is_given_one_and_hashed_by_its_value() -> None:
    routing = replace(SHADOW, sticky=Sticky.model_validate({"cookie": "50%", "ttl": "1h"}))
    compiler = shop({"cluster": "checkout"})
    served(compiler, checkout=routed(1000, routing))
    giving, main = routes(served(compiler, checkout=routed(5000, routing)))
    assert giving["match"]["cookies"][0]["invert_match"] is True
    [given] = giving["response_headers_to_add"]
    value = "50%%=%REQ(x-request-id):13%; Max-Age=3600; Path=/; HttpOnly"
    assert given["header"] == {"key": "set-cookie", "value": value}
    assert giving["route"] == main["route"]
    assert weights(main["route"]) == {"checkout@v1": 5000, "checkout@v2": 5000}
    assert "response_headers_to_add" not in main


def test_shadow_has_the_candidates_endpoints_and_nothing_that_judges_them() -> None:
    checks = [{"timeout": "1s", "interval": "1s", "unhealthy_threshold": 1, "healthy_threshold": 1}]
    compiler = shop({"cluster": "checkout"}, health_checks=checks, outlier_detection={}, lb_policy="RANDOM")
    snapshot = served(compiler, checkout=routed(0, SHADOW, let_go=frozenset({"10.0.0.1:80"})))
    own, shadow = (cluster(snapshot, f"checkout@v2{end}") for end in ("", "+shadow"))
    assert own.keys() - shadow.keys() == {"health_checks", "outlier_detection"}
    assert shadow["lb_policy"] == "RANDOM"
    assert assigned(snapshot, "checkout@v2+shadow") == assigned(snapshot, "checkout@v2")
    assert assigned(snapshot, "checkout@v2+shadow")["10.0.0.1:80"] == "DRAINING"
    drained = served(compiler, checkout=routed(0, SHADOW, draining=True))
    assert set(assigned(drained, "checkout@v2+shadow").values()) == {"DRAINING"}


def test_shadow_of_a_version_with_dots_has_stats_of_its_own_name() -> None:
    stable, candidate = split(0).versions
    traffic = ServiceTraffic("v1", (stable, replace(candidate, name="v2.1")), Routing("v2.1", shadow=True))
    snapshot = served(shop({"cluster": "checkout"}), checkout=traffic)
    names = [cluster(snapshot, f"checkout@v2.1{end}")["alt_stat_name"].rpartition("-")[0] for end in ("", "+shadow")]
    assert names == ["checkout@v2_1", "checkout@v2_1+shadow"]


def test_clusters_do_not_change_with_weights_and_routing_but_for_the_shadow() -> None:
    compiler = shop({"cluster": "checkout"})
    before = served(compiler, checkout=routed(0, SHADOW))
    for routing in (PREVIEWED, replace(PREVIEWED, match=(BETA,)), replace(PREVIEWED, mirror_bp=1), SHADOW):
        after = served(compiler, checkout=routed(1000, routing))
        assert after.views[CLUSTERS] is before.views[CLUSTERS]
    assert served(compiler, checkout=split(0)).get(CLUSTERS, "checkout@v2+shadow") is None


STEPS = (
    routed(0, SHADOW),
    routed(0, PREVIEWED),
    routed(0, replace(PREVIEWED, mirror_bp=100)),
    routed(0, replace(PREVIEWED, match=(BETA,))),
    routed(100, replace(PREVIEWED, sticky=Sticky(cookie="user"))),
    routed(5000, replace(PREVIEWED, sticky=Sticky(cookie="user"))),
    routed(FULL_BP, PREVIEWED),
    routed(0, SHADOW),
    split(0),
    untouched(INITIAL),
)


@pytest.mark.parametrize("mirror", ["", "files"])
def test_same_routing_gives_the_same_bytes_whatever_was_served_before(mirror: str) -> None:
    entries = [{"name": "checkout", "weight": 1}, {"name": "cart", "weight": 3}]
    written = ({"cluster": "checkout"}, {"weighted_clusters": {"clusters": entries}}, {"cluster": "cart"})
    compiler = shop(*written, mirror=mirror)
    for number, step in enumerate(STEPS):
        cart = routed(number * 100, replace(PREVIEWED, sticky=Sticky(cookie="cart")))
        fresh = served(shop(*written, mirror=mirror), checkout=step, cart=cart)
        assert body(served(compiler, checkout=step, cart=cart)) == body(fresh), step
    outside = served(shop(*written, mirror=mirror))
    assert body(served(compiler)) == body(outside)


DOCUMENT = """
routes:
- name: edge
  virtual_hosts:
  - {name: all, domains: ["*"], routes: [{match: {prefix: /}, route: {cluster: checkout}}]}
clusters:
- {name: checkout, type: EDS, eds_cluster_config: {eds_config: {ads: {}, resource_api_version: V3}}}
endpoints:
- cluster_name: checkout
  endpoints:
  - lb_endpoints: [{endpoint: {address: {socket_address: {address: 127.0.0.1, port_value: 80}}}}]
"""


def by_itself() -> Compiler:
    """The virtual host is a resource of its own, which Envoys ask for by its name."""
    document = yaml.safe_load(DOCUMENT)
    [host] = document["routes"][0].pop("virtual_hosts")
    document["routes"][0]["vhds"] = {"config_source": EDS["eds_config"]}
    document["virtual_hosts"] = [{**host, "name": "edge/all"}]
    return check({"shop.yaml": yaml.safe_dump(document)}).compiler.common


def test_header_leads_nowhere_where_it_cannot_be_removed_from_requests_from_outside() -> None:
    compiler = by_itself()
    for routing, copies in ((PREVIEWED, 0), (replace(SHADOW, preview=Preview(external=True)), 2)):
        snapshot = served(compiler, checkout=routed(0, routing))
        assert snapshot.get(VIRTUAL_HOSTS, "edge/all") is not None
        [host] = words(snapshot)["virtual_hosts"]
        assert len(host["routes"]) == copies + 1
