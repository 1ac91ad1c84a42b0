"""Text of envoy-configs: what is read from it, and faults that say where they are and what to do."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from xds import config, proto
from xds.config import Config, parse
from xds.errors import InvalidConfig
from xds.resources import CLUSTERS, ENDPOINTS, LISTENERS, ROUTES, RUNTIMES

MANAGER = "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager"
ROUTER = {
    "name": "envoy.filters.http.router",
    "typed_config": {"@type": "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router"},
}
CORS = {"name": "cors", "typed_config": {"@type": "type.googleapis.com/envoy.extensions.filters.http.cors.v3.Cors"}}


def faults(**files: str) -> list[str]:
    """Return what is wrong with these files; `_` in a name stands for the dot."""
    with pytest.raises(InvalidConfig) as caught:
        parse({name.replace("_", "."): text for name, text in files.items()})
    return [str(problem) for problem in caught.value.problems]


def clusters(text: str) -> Config:
    return parse({"a.yaml": f"clusters:\n{text}"})


def listener(*filters: dict[str, Any]) -> str:
    manager = {"@type": MANAGER, "stat_prefix": "edge", "route_config": {}, "http_filters": filters}
    chain = {"filters": [{"name": "http", "typed_config": manager}]}
    return json.dumps({"listeners": [{"name": "edge", "filter_chains": [chain]}]})


def route(action: dict[str, Any]) -> str:
    host = {"name": "h", "domains": ["*"], "routes": [{"match": {"prefix": "/"}, "route": action}]}
    return json.dumps({"routes": [{"name": "main", "virtual_hosts": [host]}]})


# what is read


def test_lists_of_several_files_come_together() -> None:
    config = parse({"b.yaml": "clusters: [{name: b}]\nroutes: [{name: r}]", "a.yaml": "clusters: [{name: a}]"})
    assert list(config.of(CLUSTERS)) == ["a", "b"]
    assert config.of(CLUSTERS)["b"].where == "b.yaml: clusters[0] 'b'"
    assert list(config.of(ROUTES)) == ["r"]
    assert config.of(ENDPOINTS) == {}


def test_endpoints_are_named_by_their_cluster() -> None:
    assert list(parse({"a.yaml": "endpoints: [{cluster_name: a}]"}).of(ENDPOINTS)) == ["a"]


def test_json_is_read_as_json() -> None:
    assert list(parse({"a.json": '{\n\t"clusters": [\n\t\t{"name": "a"}\n\t]\n}'}).of(CLUSTERS)) == ["a"]


def test_bootstrap_is_not_served_but_its_clusters_count_as_known() -> None:
    bootstrap = "static_resources: {clusters: [{name: xds_cluster}, {name: admin_local}]}"
    config = parse({"conf/bootstrap.yaml": bootstrap, "conf/a.yaml": "clusters: [{name: a}]"})
    assert config.elsewhere == {"xds_cluster", "admin_local"}
    assert list(config.of(CLUSTERS)) == ["a"]


def test_bootstrap_with_a_fault_names_its_path() -> None:
    (fault,) = faults(bootstrap_yaml="static_resources: {clusterz: []}", a_yaml="clusters: [{name: a}]")
    assert fault.startswith("bootstrap.yaml: static_resources: no field named 'clusterz'")


def test_empty_lists_are_lists() -> None:
    assert list(parse({"a.yaml": "clusters: [{name: a}]\nroutes:\nlisteners: []"}).of(CLUSTERS)) == ["a"]


@pytest.mark.parametrize("files", [{}, {"a_yaml": ""}, {"a_yaml": "clusters: []"}, {"bootstrap_yaml": "{}"}])
def test_nothing_at_all_is_refused_for_it_would_delete_every_cluster(files: dict[str, str]) -> None:
    (fault,) = faults(**files)
    assert fault.endswith("holds nothing to serve")


# YAML 1.2


@pytest.mark.parametrize("word", ["on", "off", "yes", "no", "y", "12:30", "2020-01-01", "1_000", "0b1", "=", "<<x"])
def test_words_that_yaml_1_1_would_change_are_texts(word: str) -> None:
    assert list(clusters(f"- name: {word}").of(CLUSTERS)) == [word]


@pytest.mark.parametrize(
    ("text", "expected"), [("012", 12), ("0o17", 15), ("0x1F", 31), ("+7", 7), ("12", 12), ("1e3", 1000), ("1.0", 1)]
)
def test_numbers_are_decimal_unless_they_say_otherwise(text: str, expected: int) -> None:
    config = clusters(f"- {{name: a, per_connection_buffer_limit_bytes: {text}}}")
    assert config.of(CLUSTERS)["a"].message.per_connection_buffer_limit_bytes.value == expected


@pytest.mark.parametrize(("text", "expected"), [("true", True), ("False", False), ("TRUE", True)])
def test_booleans_are_true_and_false(text: str, expected: bool) -> None:
    config = clusters(f"- {{name: a, ignore_health_on_host_removal: {text}}}")
    assert config.of(CLUSTERS)["a"].message.ignore_health_on_host_removal is expected


@pytest.mark.parametrize("text", ["~", "null", ""])
def test_null_is_a_field_left_out(text: str) -> None:
    assert clusters(f"- name: a\n  lb_policy: {text}").of(CLUSTERS)["a"].message.lb_policy == 0


def test_on_is_no_boolean() -> None:
    (fault,) = faults(a_yaml="clusters: [{name: a, ignore_health_on_host_removal: on}]")
    assert fault == "a.yaml: clusters[0] 'a': ignore_health_on_host_removal: 'on' is not a bool"


def test_merge_keys_may_be_overridden_at_any_depth() -> None:
    text = """
clusters:
- &first { name: a, connect_timeout: 1s, lb_policy: RANDOM }
- &second { <<: *first, name: b, connect_timeout: 2s }
- { <<: *second, name: c }
"""
    config = parse({"a.yaml": text})
    assert [entry.message.connect_timeout.seconds for entry in config.of(CLUSTERS).values()] == [1, 2, 2]


TOKENS = (
    *["a", "b", "name", "1", "0x1F", "1.5", "true", "null", "~", "on", "<<", "12:30", "=", ":", "{", "}", "[", "]"],
    *('"1"', "'a b'", '"\\n"', "a b", ": ", "- ", ", ", "? ", "&x ", "*x", "!!str ", "!x ", "\t", "\x00"),
    *("\n", "\n  ", "\n    ", "|\n", ">-\n", "# c\n", "---\n", "...\n", "%YAML 1.1\n"),
)


def by_nodes(text: str) -> object:
    return yaml.load(text, config._Loader)  # noqa: S506 - a safe loader


@given(st.lists(st.sampled_from(TOKENS), max_size=12).map("".join))
def test_yaml_means_the_same_without_nodes(text: str) -> None:
    try:
        found = config._read_usual(text)
    except (config._Unusual, yaml.YAMLError, ValueError):
        return  # _Loader judges it
    assert repr(found) == repr(by_nodes(text))


def test_yaml_as_it_is_usually_written_is_read_without_nodes() -> None:
    for path in (Path(__file__).parents[2] / "envoy-configs").glob("*.yaml"):
        assert config._read_usual(path.read_text()) == by_nodes(path.read_text())


# what is refused


def test_broken_yaml_names_file_line_and_column() -> None:
    (fault,) = faults(a_yaml="clusters:\n- name: a\n   type: EDS")
    assert fault.startswith("a.yaml:3:8: is no YAML: mapping values are not allowed")


def test_broken_json_names_file_line_and_column() -> None:
    assert faults(a_json='{"clusters":\n[,]}') == ["a.json:2:2: is no JSON: Expecting value"]


@pytest.mark.parametrize("text", ["clusters: *nobody", "a: b: c", "\x00", "[" * 5000, "a: 1\n---\nb: 2", "!x 1"])
def test_no_text_makes_more_than_an_error(text: str) -> None:
    assert "is no YAML" in faults(a_yaml=text)[0]


@pytest.mark.parametrize("text", ["just words", "[1, 2]", "3"])
def test_top_must_be_a_mapping_of_lists(text: str) -> None:
    assert faults(a_yaml=text)[0].startswith("a.yaml: must be a mapping of lists (secrets, runtimes, clusters, ")


def test_unknown_list_names_those_that_there_are() -> None:
    (fault,) = faults(a_yaml="cluster: [{name: a}]\nclusters: [{name: b}]")
    assert fault.startswith("a.yaml: cluster: is no list that is served; there are secrets, runtimes, clusters, ")


def test_list_that_is_none_is_refused() -> None:
    (fault,) = faults(a_yaml="clusters: {name: a}\nroutes: [{name: r}]")
    assert fault == "a.yaml: clusters: must be a list of envoy.config.cluster.v3.Cluster, but is a dict"


def test_entry_that_is_no_mapping_is_refused() -> None:
    assert faults(a_yaml="clusters: [a]") == [
        "a.yaml: clusters[0]: must be a mapping with the fields of envoy.config.cluster.v3.Cluster"
    ]


def test_unknown_field_names_file_resource_and_path() -> None:
    (fault,) = faults(a_yaml="clusters:\n- name: a\n  common_lb_config: {healthy_panic_treshold: 1}")
    assert fault.startswith("a.yaml: clusters[0] 'a': common_lb_config: no field named 'healthy_panic_treshold'")
    assert "did you mean 'healthy_panic_threshold'" in fault


def test_entry_without_a_name_is_refused() -> None:
    assert faults(a_yaml="clusters: [{type: EDS}]") == [
        "a.yaml: clusters[0]: has no `name`; every one of the clusters needs one"
    ]


def test_name_that_stands_twice_names_both_places() -> None:
    assert faults(a_yaml="clusters: [{name: x}]", b_yaml="clusters: [{name: y}, {name: x}]") == [
        "b.yaml: clusters[1] 'x': stands already in a.yaml: clusters[0] 'x'; remove or rename one of them"
    ]


@pytest.mark.parametrize(
    "text",
    ["clusters: []\nclusters: [{name: a}]", "clusters:\n- name: a\n  name: b", "clusters: [{name: a, 'name': b}]"],
)
def test_key_that_stands_twice_in_a_mapping_is_refused(text: str) -> None:
    assert "stands twice" in faults(a_yaml=text)[0]


def test_key_that_stands_twice_in_json_is_refused() -> None:
    assert faults(a_json='{"clusters": [{"name": "a", "name": "b"}]}') == [
        "a.json: is no JSON: the key 'name' stands twice"
    ]


def test_weights_that_sum_to_0_are_refused() -> None:
    action = {"weighted_clusters": {"clusters": [{"name": "a", "weight": 0}, {"name": "b"}]}}
    (fault,) = faults(a_json=route(action))
    where = "a.json: routes[0] 'main': virtual_hosts[0].routes[0].route.weighted_clusters.clusters"
    assert fault == f"{where}: weights [0, 0] sum to 0; give at least one a weight above 0"
    parse(
        {"a.json": route({"weighted_clusters": {"clusters": [{"name": "a", "weight": 0}, {"name": "b", "weight": 1}]}})}
    )


@pytest.mark.parametrize(
    ("filters", "expected"),
    [
        ((), "http_filters: is empty; the last HTTP filter must be envoy.filters.http.router"),
        ((CORS,), "http_filters[0]: the last HTTP filter is 'cors', but must be envoy.filters.http.router"),
        ((ROUTER, CORS), "http_filters[1]: the last HTTP filter is 'cors', but must be envoy.filters.http.router"),
        (({"name": "envoy.filters.http.router"},), "but must be envoy.filters.http.router with its typed_config"),
    ],
)
def test_manager_that_does_not_end_with_a_router_is_refused(filters: tuple[dict[str, Any], ...], expected: str) -> None:
    (fault,) = faults(a_json=listener(*filters))
    assert fault.startswith("a.json: listeners[0] 'edge': filter_chains[0].filters[0].typed_config")
    assert expected in fault


def test_manager_may_end_with_a_router_or_with_what_is_discovered() -> None:
    discovery = {
        "config_source": {"ads": {}},
        "type_urls": ["type.googleapis.com/envoy.extensions.filters.http.router.v3.Router"],
    }
    for last in (ROUTER, {"name": "any", "config_discovery": discovery}):
        assert list(parse({"a.json": listener(CORS, last)}).of(LISTENERS)) == ["edge"]


@pytest.mark.parametrize(
    "source", ["", ", eds_cluster_config: {service_name: b}", ", eds_cluster_config: {eds_config: {}}"]
)
def test_eds_cluster_must_name_its_source(source: str) -> None:
    (fault,) = faults(a_yaml=f"clusters: [{{name: a, type: EDS{source}}}]")
    where = "a.yaml: clusters[0] 'a': eds_cluster_config.eds_config"
    assert fault == f"{where}: must name its source, such as {{ads: {{}}, resource_api_version: V3}}"


@pytest.mark.parametrize("source", ["ads: {}", "self: {}", "path_config_source: {path: /x}", "api_config_source: {}"])
def test_eds_cluster_may_have_any_source(source: str) -> None:
    config = clusters(f"- {{name: a, type: EDS, eds_cluster_config: {{eds_config: {{{source}}}}}}}")
    assert list(config.of(CLUSTERS)) == ["a"]


def test_all_faults_of_all_files_are_told_at_once() -> None:
    found = faults(
        a_yaml="clusters: [{name: a, typ: EDS}, {name: b, type: EDS}]", b_yaml="clusters: [", c_yaml="cluster: []"
    )
    assert [fault.partition(":")[0] for fault in found] == ["a.yaml", "b.yaml", "c.yaml", "a.yaml"]


def test_message_is_as_the_schema_reads_it() -> None:
    words = {"name": "a", "type": "EDS", "eds_cluster_config": {"eds_config": {"ads": {}}}}
    config = parse({"a.json": json.dumps({"clusters": [words]})})
    assert config.of(CLUSTERS)["a"].message == proto.parse(CLUSTERS.message, words)


def test_resource_may_be_wrapped_with_its_ttl() -> None:
    config = parse({"a.yaml": "runtimes: [{ttl: 1.5s, resource: {name: lent}}, {resource: {name: kept}}]"})
    assert {name: entry.ttl_s for name, entry in config.of(RUNTIMES).items()} == {"lent": 1.5, "kept": None}


@pytest.mark.parametrize(
    ("item", "told"),
    [
        ("{ttl: 30, resource: {name: x}}", "a.yaml: runtimes[0] 'x': ttl: 30 is not a duration such as 1.5s"),
        (
            "{ttl: 3s, name: y, resource: {name: x}}",
            "a.yaml: runtimes[0]: has 'name' beside `resource`, where only `ttl` may stand; put it into `resource`",
        ),
    ],
)
def test_ttl_that_is_written_otherwise_is_refused(item: str, told: str) -> None:
    with pytest.raises(InvalidConfig) as caught:
        parse({"a.yaml": f"runtimes: [{item}]"})
    assert str(caught.value) == told


def test_bootstrap_tells_whether_its_proxies_have_delta() -> None:
    def parsed(api_type: str) -> Config:
        bootstrap = f"dynamic_resources: {{ads_config: {{api_type: {api_type}}}}}"
        return parse({"bootstrap.yaml": bootstrap, "a.yaml": "runtimes: [{name: x}]"})

    assert [parsed(each).sotw for each in ("GRPC", "DELTA_GRPC")] == [True, False]
    assert parse({"a.yaml": "runtimes: [{name: x}]"}).sotw is False


def test_aliases_that_stand_for_billions_are_refused_at_once() -> None:
    layers = "\n".join(f"    a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 12))
    bomb = f"- name: a\n  metadata:\n    a0: &a0 [{', '.join('x' * 9)}]\n{layers}\n"
    merged = "\n".join(f"    a{n}: &a{n} {{<<: [{', '.join([f'*a{n - 1}'] * 9)}]}}" for n in range(1, 12))
    grows_while_merged = f"- name: a\n  metadata:\n    a0: &a0 {{x: 1}}\n{merged}\n"
    for text in (bomb, grows_while_merged, "- &a {name: a, metadata: *a}"):
        with pytest.raises(InvalidConfig, match="its aliases stand for more than 1,000,000 values"):
            clusters(text)
