"""What is served for which splits: weights, clusters, endpoints, and that equal splits give equal bytes everywhere."""

import copy
import json
import os
import subprocess
import sys
from collections.abc import Mapping
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from rollout.exposure import FULL_BP
from rollout.spec import parse_endpoint
from rollout.traffic.compiler import Compiler, ServiceTraffic, VersionTraffic
from rollout.traffic.publisher import INITIAL, check, untouched
from rollout.traffic.routing import WEIGHTS_LIMIT
from tests.golden.cases import CASES, compiled, files, words
from xds import proto
from xds.resources import CLUSTERS, ENDPOINTS, LISTENERS, ROUTES, TYPES
from xds.snapshot import Snapshot, inconsistencies

ROOT = Path(__file__).parents[2]
EDS = {"eds_config": {"ads": {}, "resource_api_version": "V3"}}
NEW = tuple(map(parse_endpoint, ("10.0.0.1:80@eu/eu-1", "10.0.0.2:80@eu/eu-2")))


def shop(*actions: Mapping[str, Any], mirror: str = "", **cluster: Any) -> Compiler:
    """A compiler of two services, `checkout` and `cart`, and these routes."""
    items = [{"match": {"prefix": f"/{number}"}, "route": action} for number, action in enumerate(actions)]
    host: dict[str, Any] = {"name": "all", "domains": ["*"], "routes": items}
    if mirror:
        host["request_mirror_policies"] = [{"cluster": mirror}]
    address = {"socket_address": {"address": "127.0.0.1", "port_value": 8081}}
    endpoints = [{"locality": {"region": "eu", "zone": "eu-1"}, "lb_endpoints": [{"endpoint": {"address": address}}]}]
    document = {
        "routes": [{"name": "edge", "virtual_hosts": [host]}],
        "clusters": [
            {"name": name, "type": "EDS", "eds_cluster_config": EDS, **cluster} for name in ("checkout", "cart")
        ]
        + [{"name": "files"}],
        "endpoints": [{"cluster_name": name, "endpoints": endpoints} for name in ("checkout", "cart")],
    }
    return check({"shop.yaml": yaml.safe_dump(document)}).compiler.common


def split(candidate_bp: int, **candidate: Any) -> ServiceTraffic:
    """v1 on the endpoints of the files and v2 on new ones."""
    stable = VersionTraffic("v1", FULL_BP - candidate_bp, None)
    return ServiceTraffic("v1", (stable, VersionTraffic("v2", candidate_bp, NEW, **candidate)))


def served(compiler: Compiler, **services: ServiceTraffic) -> Snapshot:
    return compiler.compile({name: untouched(INITIAL) for name in compiler.overlay.services} | services)


def actions(snapshot: Snapshot) -> list[dict[str, Any]]:
    [configuration] = words(snapshot)["routes"]
    return [route["route"] for host in configuration["virtual_hosts"] for route in host["routes"]]


def weights(action: Mapping[str, Any]) -> dict[str, int]:
    return {each.get("name", ""): each.get("weight", 0) for each in action["weighted_clusters"]["clusters"]}


def assigned(snapshot: Snapshot, name: str) -> dict[str, str]:
    """Health by address of what a cluster is assigned."""
    [found] = [each for each in words(snapshot)["endpoints"] if each["cluster_name"] == name]
    return {
        f"{socket['address']}:{socket['port_value']}": each.get("health_status", "UNKNOWN")
        for locality in found["endpoints"]
        for each in locality["lb_endpoints"]
        for socket in [each["endpoint"]["address"]["socket_address"]]
    }


def test_untouched_service_is_served_as_its_first_version() -> None:
    assert weights(actions(served(shop({"cluster": "checkout"})))[0]) == {"checkout@initial": FULL_BP}


@pytest.mark.parametrize("candidate_bp", [1, 100, 5000, 9999])
def test_route_is_split_in_basis_points(candidate_bp: int) -> None:
    compiler = shop({"cluster": "checkout", "timeout": "3s"})
    [action] = actions(served(compiler, checkout=split(candidate_bp)))
    assert weights(action) == {"checkout@v1": FULL_BP - candidate_bp, "checkout@v2": candidate_bp}
    assert (action["timeout"], "total_weight" in action["weighted_clusters"]) == ("3s", False)


@pytest.mark.parametrize(("candidate_bp", "version"), [(0, "v1"), (FULL_BP, "v2")])
def test_version_without_weight_is_not_named_by_routes_but_is_served(candidate_bp: int, version: str) -> None:
    snapshot = served(shop({"cluster": "checkout"}), checkout=split(candidate_bp))
    assert weights(actions(snapshot)[0]) == {f"checkout@{version}": FULL_BP}
    assert snapshot.get(CLUSTERS, "checkout@v1") is not None
    assert snapshot.get(ENDPOINTS, "checkout@v2") is not None


def test_entry_of_weighted_clusters_is_split_with_its_own_fields() -> None:
    entries = [{"name": "checkout", "weight": 20, "host_rewrite_literal": "shop"}, {"name": "files", "weight": 80}]
    compiler = shop({"weighted_clusters": {"clusters": entries, "total_weight": 100, "header_name": "x-bucket"}})
    [action] = actions(served(compiler, checkout=split(1000)))
    assert action["weighted_clusters"] == {
        "header_name": "x-bucket",
        "clusters": [
            {"name": "checkout@v1", "weight": 9000, "host_rewrite_literal": "shop"},
            {"name": "checkout@v2", "weight": 1000, "host_rewrite_literal": "shop"},
            {"name": "files", "weight": 40000},
        ],
    }


def test_entry_without_weight_is_split_into_entries_without_weight() -> None:
    compiler = shop(
        {"weighted_clusters": {"clusters": [{"name": "checkout", "weight": 0}, {"name": "files", "weight": 7}]}}
    )
    [action] = actions(served(compiler, checkout=split(1000)))
    assert weights(action) == {"checkout@v1": 0, "checkout@v2": 0, "files": FULL_BP}


def test_two_services_of_one_route_are_split_each_for_itself() -> None:
    compiler = shop(
        {"weighted_clusters": {"clusters": [{"name": "checkout", "weight": 1}, {"name": "cart", "weight": 1}]}}
    )
    [action] = actions(served(compiler, checkout=split(1000), cart=split(5000)))
    assert weights(action) == {"checkout@v1": 4500, "checkout@v2": 500, "cart@v1": 2500, "cart@v2": 2500}


@given(
    entries=st.lists(st.integers(0, 2**30), min_size=1, max_size=3).filter(any),
    candidate_bp=st.integers(0, FULL_BP),
    hashed=st.booleans(),
)
def test_existing_weights_are_split_in_proportion_and_hashed_ones_keep_their_sum(
    entries: list[int], candidate_bp: int, *, hashed: bool
) -> None:
    clusters = [{"name": "checkout", "weight": entries[0]}]
    clusters += [{"name": "files", "weight": weight} for weight in entries[1:]]
    compiler = shop({"weighted_clusters": {"clusters": clusters, **({"use_hash_policy": True} if hashed else {})}})
    served_weights = [
        each.get("weight", 0)
        for each in actions(served(compiler, checkout=split(candidate_bp)))[0]["weighted_clusters"]["clusters"]
    ]
    before = actions(served(compiler))[0]["weighted_clusters"]["clusters"]
    total = sum(served_weights)
    assert total % FULL_BP == 0 or total == WEIGHTS_LIMIT
    assert not hashed or total == sum(each.get("weight", 0) for each in before)
    share = Fraction(entries[0] * candidate_bp, sum(entries) * FULL_BP)
    candidate = served_weights[-len(entries)] if candidate_bp else 0
    assert abs(Fraction(candidate, sum(served_weights)) - share) <= Fraction(1, 2**31)


def test_users_that_are_hashed_to_the_candidate_stay_there_when_its_weight_grows() -> None:
    """Envoy takes the cluster in whose range `hash % sum of weights` is."""
    entries = [{"name": "files", "weight": 2}, {"name": "checkout", "weight": 1}]
    compiler = shop({"weighted_clusters": {"clusters": entries, "use_hash_policy": True}})
    ranges = []
    for candidate_bp in (1, 100, 5000, FULL_BP):
        found = weights(actions(served(compiler, checkout=split(candidate_bp)))[0])
        ranges.append(range(sum(found.values()) - found["checkout@v2"], sum(found.values())))
    assert all(later.start < earlier.start and later.stop == earlier.stop for earlier, later in pairwise(ranges))


def test_only_routes_change_with_weights() -> None:
    compiler = shop({"cluster": "checkout"}, mirror="checkout")
    before, after = (served(compiler, checkout=split(candidate_bp)) for candidate_bp in (100, 9000))
    assert [type_ for type_ in TYPES if before.views[type_] is not after.views[type_]] == [ROUTES]


def test_listeners_do_not_change_with_weights() -> None:
    snapshots = [compiled("inline_routes")[0]]
    compiler = check({"in.yaml": (ROOT / "tests/golden/inline_routes/in.yaml").read_text()}).compiler.common
    snapshots.append(served(compiler, checkout=split(1)))
    assert len({snapshot.views[LISTENERS].version for snapshot in snapshots}) == 1


def test_what_is_equal_is_the_same_object_as_before() -> None:
    compiler = shop({"cluster": "checkout"}, {"cluster": "cart"})
    before, after = served(compiler, cart=split(1)), served(compiler, cart=split(1, draining=True))
    changed = {
        (each.type.word, each.name) for each in after.resources() if before.get(each.type, each.name) is not each
    }
    assert changed == {("endpoints", "cart@v2")}
    assert served(compiler, cart=split(1, draining=True)).version == after.version


def test_compiling_in_steps_gives_what_compiling_at_once_gives() -> None:
    compiler = shop({"cluster": "checkout"}, mirror="checkout")
    last = split(FULL_BP, let_go=frozenset({"10.0.0.1:80"}))
    for step in (split(0), split(5000), split(1, draining=True), last):
        served(compiler, checkout=step)
    assert (
        served(compiler, checkout=last).version
        == served(shop({"cluster": "checkout"}, mirror="checkout"), checkout=last).version
    )


def test_defaults_are_set_only_where_the_user_set_nothing() -> None:
    own: dict[str, Any] = {
        "common_lb_config": {"healthy_panic_threshold": {"value": 25}},
        "track_cluster_stats": {"timeout_budgets": True},
    }
    for given_fields, expected in (
        (
            {},
            {"common_lb_config": {"healthy_panic_threshold": {}}, "track_cluster_stats": {"per_endpoint_stats": True}},
        ),
        (
            own,
            {
                "common_lb_config": {"healthy_panic_threshold": {"value": 25.0}},
                "track_cluster_stats": {"timeout_budgets": True},
            },
        ),
    ):
        cluster = words(served(shop({"cluster": "checkout"}, **given_fields)))["clusters"][0]
        assert {key: cluster[key] for key in expected} == expected
        assert cluster["ignore_health_on_host_removal"] is True


def test_new_endpoints_are_grouped_by_locality_whatever_their_order() -> None:
    compiler = shop({"cluster": "checkout"})
    orders = [(VersionTraffic("v2", FULL_BP, order),) for order in (NEW, NEW[::-1])]
    one, other = (served(compiler, checkout=ServiceTraffic("v2", versions)) for versions in orders)
    assert one.version == other.version
    [found] = [each for each in words(one)["endpoints"] if each["cluster_name"] == "checkout@v2"]
    assert [(each["locality"]["zone"], each["load_balancing_weight"]) for each in found["endpoints"]] == [
        ("eu-1", 1),
        ("eu-2", 1),
    ]


def test_draining_version_and_backends_let_go_are_marked_and_removed_ones_left_out() -> None:
    compiler = shop({"cluster": "checkout"})
    let_go = served(compiler, checkout=split(1, let_go=frozenset({"10.0.0.2:80"})))
    assert assigned(let_go, "checkout@v2") == {"10.0.0.1:80": "UNKNOWN", "10.0.0.2:80": "DRAINING"}
    draining = served(compiler, checkout=split(0, draining=True, removed=frozenset({"10.0.0.2:80"})))
    assert assigned(draining, "checkout@v2") == {"10.0.0.1:80": "DRAINING"}
    [found] = [each for each in words(draining)["endpoints"] if each["cluster_name"] == "checkout@v2"]
    assert [each["locality"]["zone"] for each in found["endpoints"]] == ["eu-1"]


def test_ipv6_backend_is_let_go_by_its_address() -> None:
    endpoints = (parse_endpoint("[fd00::1]:80"), parse_endpoint("[fd00::2]:80"))
    version = VersionTraffic(
        "v2", FULL_BP, endpoints, let_go=frozenset({"[fd00::1]:80"}), removed=frozenset({"[fd00::2]:80"})
    )
    snapshot = served(shop({"cluster": "checkout"}), checkout=ServiceTraffic("v2", (version,)))
    assert assigned(snapshot, "checkout@v2") == {"fd00::1:80": "DRAINING"}


def test_cluster_of_the_service_itself_is_on_the_stable_version_and_knows_the_others() -> None:
    """Health checks have been to the candidate's backends by the time that it becomes stable."""
    compiler = shop({"cluster": "checkout"}, mirror="checkout")
    before = served(compiler, checkout=split(9000))
    after = served(compiler, checkout=ServiceTraffic("v2", split(FULL_BP).versions))
    old, new = {"127.0.0.1:8081"}, {"10.0.0.1:80", "10.0.0.2:80"}
    for snapshot, stable, other in ((before, old, new), (after, new, old)):
        expected = dict.fromkeys(stable, "UNKNOWN") | dict.fromkeys(other, "DRAINING")
        assert assigned(snapshot, "checkout") == expected
    assert before.views[CLUSTERS] is after.views[CLUSTERS]


def test_services_that_share_an_assignment_are_shifted_apart() -> None:
    snapshot, _ = compiled("shared_assignment")
    assert list(assigned(snapshot, "paid")) == ["127.0.0.1:8081", "127.0.0.1:8083"]
    assert list(assigned(snapshot, "unpaid")) == ["127.0.0.1:8081"]
    assert {each["eds_cluster_config"].get("service_name") for each in words(snapshot)["clusters"]} == {
        None,
        *("paid@v1", "paid@v2", "unpaid@initial"),
    }


def test_stat_names_have_no_dot_or_colon_and_never_meet() -> None:
    snapshot, _ = compiled("odd_names")
    clusters = words(snapshot)["clusters"]
    stats = [each.get("alt_stat_name") or each["name"] for each in clusters]
    assert len(set(stats)) == len(clusters) == 5
    assert not any(set(stat) & set(".:") for stat in stats)
    assert "checkout@v2_1" in stats  # of the version v2_1; that of v2.1 has a mark


@pytest.mark.parametrize("case", CASES)
def test_compiled_snapshot_is_consistent(case: str) -> None:
    snapshot, _ = compiled(case)
    assert inconsistencies(snapshot) == ()


def test_equal_input_has_equal_versions_in_another_process() -> None:
    program = "from tests.golden.cases import CASES, compiled\nfor case in CASES: print(compiled(case)[0].version)"
    expected = [compiled(case)[0].version for case in CASES]
    for seed in ("1", "4711"):
        environment = {**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": str(ROOT)}
        done = subprocess.run(
            [sys.executable, "-c", program], env=environment, cwd=ROOT, stdout=-1, timeout=180, check=True
        )
        assert done.stdout.decode().split() == expected


@pytest.mark.parametrize("versions", [(("v1", 9000),), (("v1", 9000), ("v2", 2000)), (("v2", FULL_BP),)])
def test_traffic_without_stable_or_with_weights_that_do_not_sum_up_is_our_own_bug(
    versions: tuple[tuple[str, int], ...],
) -> None:
    with pytest.raises(AssertionError):
        ServiceTraffic("v1", tuple(VersionTraffic(name, weight, None) for name, weight in versions))


# what changes is put together with what was encoded before

ADDRESSES = ("10.0.0.1:80", "10.0.0.2:80", "10.0.0.3:80", "[fd00::1]:80")
PIPE = {"endpoint": {"address": {"pipe": {"path": "/run/x"}}}}
LB_ENDPOINTS = st.fixed_dictionaries(
    {"endpoint": st.sampled_from(ADDRESSES).map(lambda address: {"address": {"socket_address": socket(address)}})},
    optional={
        "health_status": st.sampled_from(["HEALTHY", "DRAINING", "UNKNOWN"]),
        "load_balancing_weight": st.integers(1, 300),
        "metadata": st.just({"filter_metadata": {"envoy.lb": {"b": 1, "a": [True]}}}),
    },
)
LOCALITIES = st.fixed_dictionaries(
    {"lb_endpoints": st.lists(LB_ENDPOINTS | st.just(PIPE), max_size=4)},
    optional={
        "locality": st.sampled_from([{}, {"region": "eu"}, {"region": "eu", "zone": "eu-1"}]),
        "load_balancing_weight": st.integers(1, 300),
        "priority": st.integers(0, 1),
        "metadata": st.just({"filter_metadata": {"x": {}}}),
    },
)
ASSIGNMENTS = st.fixed_dictionaries(
    {"endpoints": st.lists(LOCALITIES, max_size=3).map(lambda made: [{"lb_endpoints": [PIPE]}, *made])},
    optional={"policy": st.just({"overprovisioning_factor": 150}), "named_endpoints": st.just({"b": {}, "a": {}})},
)
DEPLOYED = st.lists(
    st.tuples(st.sampled_from(ADDRESSES), st.sampled_from(["", "@eu/eu-1"])).map("".join).map(parse_endpoint),
    min_size=1,
    max_size=4,
    unique_by=lambda endpoint: endpoint.address,
).map(tuple)
MARKS = {
    "draining": st.booleans(),
    "let_go": st.frozensets(st.sampled_from(ADDRESSES)),
    "removed": st.frozensets(st.sampled_from(ADDRESSES)),
}
STEPS = st.builds(
    lambda stable, *versions: ServiceTraffic(stable, versions),
    st.sampled_from(["v1", "v2"]),
    st.builds(VersionTraffic, st.just("v1"), st.just(4000), st.none() | DEPLOYED, **MARKS),
    st.builds(VersionTraffic, st.just("v2"), st.just(6000), DEPLOYED, **MARKS),
)


def socket(address: str) -> dict[str, Any]:
    host, _, port = address.rpartition(":")
    return {"address": host.strip("[]"), "port_value": int(port)}


def address_of(endpoint: Mapping[str, Any]) -> str:
    found = endpoint["endpoint"]["address"].get("socket_address")
    return next((each for each in ADDRESSES if socket(each) == found), "")


def placed(written: list[dict[str, Any]], version: VersionTraffic, *, leaving: bool) -> list[dict[str, Any]]:
    """What a version is assigned, in words."""
    found = copy.deepcopy(written)
    if version.endpoints is not None:
        found = []
        left = [each for each in version.endpoints if each.address not in version.removed]
        for region, zone in sorted({(each.region, each.zone) for each in left}):
            here = sorted(each.address for each in left if (each.region, each.zone) == (region, zone))
            endpoints = [{"endpoint": {"address": {"socket_address": socket(each)}}} for each in here]
            where = {"region": region, "zone": zone}
            found.append({"locality": where, "load_balancing_weight": len(here), "lb_endpoints": endpoints})
    for locality in found:
        kept = [each for each in locality["lb_endpoints"] if address_of(each) not in version.removed]
        locality["lb_endpoints"] = kept
        for each in kept:
            if leaving or version.draining or address_of(each) in version.let_go:
                each["health_status"] = "DRAINING"
    return found


def place(locality: Mapping[str, Any]) -> tuple[str, str, int]:
    where = locality.get("locality", {})
    return where.get("region", ""), where.get("zone", ""), locality.get("priority", 0)


def together(written: list[dict[str, Any]], traffic: ServiceTraffic) -> list[dict[str, Any]]:
    """What the service's own cluster is assigned, in words."""
    [stable], [other] = (
        [each for each in traffic.versions if (each.name == traffic.stable) is here] for here in (True, False)
    )
    found = placed(written, stable, leaving=False)
    known = {address_of(each) for locality in found for each in locality["lb_endpoints"]}
    there = {place(locality): locality for locality in found}
    for locality in placed(written, other, leaving=True):
        new = [each for each in locality["lb_endpoints"] if address_of(each) not in known]
        if place(locality) in there:
            there[place(locality)]["lb_endpoints"] += new
        elif new:
            found.append({**locality, "lb_endpoints": new})
    return found


@given(assignment=ASSIGNMENTS, steps=st.lists(STEPS, min_size=1, max_size=3))
def test_assignments_are_canonical_and_hold_what_the_versions_do(
    assignment: dict[str, Any], steps: list[ServiceTraffic]
) -> None:
    document = {
        "clusters": [{"name": "checkout", "type": "EDS", "eds_cluster_config": EDS}],
        "endpoints": [{"cluster_name": "checkout", **assignment}],
        "routes": [{"name": "edge", "virtual_hosts": [{"name": "all", "domains": ["*"], "routes": [
            {"match": {"prefix": "/"}, "route": {"cluster": "checkout"}}],
            "request_mirror_policies": [{"cluster": "checkout"}]}]}],
    }  # fmt: skip
    compiler = check({"in.json": json.dumps(document)}).compiler.common
    for traffic in steps:
        snapshot = compiler.compile({"checkout": traffic})
        expected = {"checkout": together(assignment["endpoints"], traffic)}
        for version in traffic.versions:
            expected[f"checkout@{version.name}"] = placed(assignment["endpoints"], version, leaving=False)
        assert snapshot.views[ENDPOINTS].resources.keys() == expected.keys()
        for name, endpoints in expected.items():
            message = proto.parse(ENDPOINTS.message, {**assignment, "cluster_name": name, "endpoints": endpoints})
            served = snapshot.get(ENDPOINTS, name)
            assert served is not None
            assert served.body == proto.canonical(message)


@pytest.mark.parametrize("case", CASES)
def test_weights_that_change_step_by_step_are_served_as_those_that_never_were_others(case: str) -> None:
    compiler = check(files(case)).compiler.common
    for candidate_bp in (0, 1, 5000, FULL_BP, 300):
        for name in (*compiler.overlay.services, ""):
            traffic = {each: split(candidate_bp if each <= name else 70) for each in compiler.overlay.services}
            snapshot = compiler.compile(traffic)
            assert snapshot.version == check(files(case)).compiler.common.compile(traffic).version
            for each in snapshot.resources():
                message = proto.message_class(each.type.message).FromString(each.body)
                assert proto.canonical(message) == each.body


def test_change_of_one_service_makes_nothing_of_another_again() -> None:
    compiler = shop({"cluster": "checkout"}, {"cluster": "cart"}, mirror="cart")
    before = served(compiler, checkout=split(1))
    after = served(compiler, checkout=split(2, let_go=frozenset({"10.0.0.2:80"})))
    changed = {each.name for each in after.resources() if before.get(each.type, each.name) is not each}
    assert changed == {"edge", "checkout@v2"}


def test_what_comes_back_to_what_it_was_changes_no_version() -> None:
    compiler = shop({"cluster": "checkout"}, mirror="checkout")
    first = served(compiler, checkout=split(1))
    served(compiler, checkout=split(9000, draining=True))
    served(compiler)
    again = served(compiler, checkout=split(1))
    assert {type_: view.version for type_, view in first.views.items()} == {
        type_: view.version for type_, view in again.views.items()
    }
