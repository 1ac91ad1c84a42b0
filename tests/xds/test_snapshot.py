"""Versions by content, names once, and references that lead somewhere."""

import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.xds.client import ADS, assignment, cluster, listener, route, served, shop, tcp_listener
from xds import proto
from xds.errors import InvalidConfig
from xds.resources import CLUSTERS, ENDPOINTS, LISTENERS, ROUTES, SECRETS, TYPES, resource
from xds.snapshot import edited, inconsistencies, snapshot, view

ROOT = Path(__file__).parents[2]
FILTER = "filter_chains[0].filters[0].typed_config"


@given(st.permutations(shop("a", "b", "c")))
def test_order_of_resources_changes_nothing(resources: list[object]) -> None:
    made = snapshot(resources)  # type: ignore[arg-type]  # a permutation of resources
    expected = served(*shop("a", "b", "c"))
    assert made.version == expected.version
    assert {type_: made.views[type_].version for type_ in TYPES} == {
        type_: expected.views[type_].version for type_ in TYPES
    }


def test_change_of_a_type_changes_its_version_and_no_other() -> None:
    before, after = served(*shop("a", "b")), served(*shop("a", "b", routed=["b"]))
    changed = {type_ for type_ in TYPES if before.views[type_].version != after.views[type_].version}
    assert changed == {ROUTES}
    assert before.version != after.version


def test_versions_are_equal_in_every_process() -> None:
    code = "from tests.xds.client import served, shop; print(served(*shop('a', 'b', 'c')).version)"
    versions = {
        subprocess.run(
            [sys.executable, "-c", code],
            cwd=ROOT,
            env={"PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout.strip()
        for seed in ("1", "2")
    }
    assert versions == {served(*shop("a", "b", "c")).version}


def test_name_that_stands_twice_is_refused() -> None:
    with pytest.raises(InvalidConfig, match="clusters 'a': the name stands twice"):
        snapshot([cluster("a"), cluster("a", 1)])


CLUSTER_SETS = st.dictionaries(st.sampled_from("abcde"), st.integers(1, 3))


@given(st.lists(CLUSTER_SETS, min_size=2, max_size=4))
def test_view_that_is_edited_equals_one_that_is_made_at_once(steps: list[dict[str, int]]) -> None:
    made = [{name: cluster(name, seconds) for name, seconds in step.items()} for step in steps]
    edit = view(CLUSTERS, made[0].values())
    for before, after in pairwise(made):
        last, edit = edit, edited(edit, before.values(), after.values())
        whole = view(CLUSTERS, after.values())
        assert (edit.version, list(edit.resources)) == (whole.version, list(whole.resources))
        assert {name: each.body for name, each in edit.resources.items()} == {
            name: each.body for name, each in whole.resources.items()
        }
        assert (edit is last) == (last.version == whole.version)


def test_edit_that_gives_a_name_twice_is_refused() -> None:
    before = view(CLUSTERS, [cluster("a"), cluster("b")])
    for put in ([cluster("b")], [cluster("a"), cluster("a")]):
        with pytest.raises(InvalidConfig, match="the name stands twice"):
            edited(before, [cluster("a")], put)


def test_same_name_in_two_types_is_no_conflict() -> None:
    assert len(list(snapshot([cluster("a"), assignment("a")]).resources())) == 2


def test_resources_come_in_the_order_of_types_sorted_by_name() -> None:
    found = [(each.type, each.name) for each in served(*shop("b", "a")).resources()]
    expected = [(CLUSTERS, "a"), (CLUSTERS, "b"), (ENDPOINTS, "a"), (ENDPOINTS, "b"), (LISTENERS, "edge")]
    assert found == [*expected, (ROUTES, "main")]


def test_view_finds_by_name() -> None:
    made = served(*shop("a"))
    assert made.get(CLUSTERS, "a") == cluster("a")
    assert made.get(CLUSTERS, "b") is None
    assert list(view(CLUSTERS, [cluster("b"), cluster("a")]).resources) == ["a", "b"]


def test_whole_world_is_consistent() -> None:
    assert inconsistencies(served(*shop("a", "b"), tcp_listener("tcp", "a"))) == ()


@pytest.mark.parametrize(
    ("resources", "expected"),
    [
        (
            (route("main", "a"),),
            "routes 'main': virtual_hosts[0].routes[0].route.cluster: names 'a', which is not among the clusters",
        ),
        (
            (listener("edge", "main"),),
            f"listeners 'edge': {FILTER}.rds.route_config_name: names 'main', which is not among the routes",
        ),
        (
            (cluster("a", service_name="a-eds"),),
            "clusters 'a': eds_cluster_config.service_name: names 'a-eds', which is not among the endpoints",
        ),
        (
            (tcp_listener("tcp", "a"),),
            f"listeners 'tcp': {FILTER}.cluster: names 'a', which is not among the clusters",
        ),
    ],
)
def test_reference_to_nothing_names_both_ends(resources: tuple[object, ...], expected: str) -> None:
    (problem,) = inconsistencies(snapshot(resources))  # type: ignore[arg-type]  # resources
    assert str(problem).startswith(expected)


def test_cluster_of_the_bootstrap_counts_as_there() -> None:
    made = snapshot([route("main", "admin_local", "a")])
    (problem,) = inconsistencies(made, frozenset({"admin_local"}))
    assert "'a'" in problem.what


def test_secret_by_ads_must_be_served() -> None:
    tls = "envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext"
    config = {"common_tls_context": {"tls_certificate_sds_secret_configs": [{"name": "cert", "sds_config": ADS}]}}
    socket = {"name": "tls", "typed_config": {"@type": f"type.googleapis.com/{tls}", **config}}
    made = resource(CLUSTERS, proto.parse(CLUSTERS.message, {"name": "a", "transport_socket": socket}))
    (problem,) = inconsistencies(snapshot([made]))
    assert problem.what.startswith("names 'cert', which is not among the secrets")
    secret = resource(SECRETS, proto.parse(SECRETS.message, {"name": "cert"}))
    assert inconsistencies(snapshot([made, secret])) == ()
