"""What users may write, and what they are told when it is wrong."""

import json
from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as some
from pydantic import ValidationError

from rollout.errors import InvalidSpec
from rollout.fields import LONGEST
from rollout.gate import Gate
from rollout.record import dump_strategy, load_strategy
from rollout.spec import (
    Deployment,
    Endpoint,
    Stage,
    Strategy,
    parse_deployment,
    parse_endpoint,
    parse_strategy,
)

DEPLOYMENT = {"service": "checkout", "version": "v2", "endpoints": ["10.0.0.1:80"]}


def stage(weight: str, **others: str) -> Stage:
    return Stage.model_validate({"weight": weight, **others})


def test_a_strategy_may_mix_weights_with_whole_stages() -> None:
    strategy = parse_strategy("stages: [1%, {weight: 10%, hold: 20s}, 100%]")
    assert strategy == Strategy(stages=(stage("1%"), stage("10%", hold="20s"), stage("100%")))
    assert [each.weight_bp for each in strategy.stages] == [100, 1000, 10_000]
    assert [each.hold for each in strategy.stages] == [timedelta(seconds=seconds) for seconds in (5, 20, 5)]


def test_every_setting_of_a_strategy_can_be_written() -> None:
    text = """
        stages: [{weight: 100%, hold: 1.5s, timeout: 2m}]
        gate: {error_budget: 7}
        warm_timeout: 1h
        keep_stable: 500ms
        drain_timeout: 0s
    """
    assert parse_strategy(text) == Strategy(
        stages=(stage("100%", hold="1.5s", timeout="2m"),),
        gate=Gate(error_budget=7),
        warm_timeout=timedelta(hours=1),
        keep_stable=timedelta(milliseconds=500),
        drain_timeout=timedelta(),
    )


@pytest.mark.parametrize("text", ["", "{}", "# nothing yet"])
def test_an_empty_strategy_is_the_default_one(text: str) -> None:
    strategy = parse_strategy(text)
    assert strategy == Strategy()
    assert [each.weight_bp for each in strategy.stages] == [100, 1000, 5000, 10_000]


NO_WEIGHT = "weight is 0% or missing; write a share as 10%, or give match, mirror or expose: false"


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("stagez: [100%]", "s.yaml: stagez: is no setting; look for a typing error"),
        ("stages: [{weight: 100%, hodl: 3s}]", "s.yaml: stages[0].hodl: is no setting; look for a typing error"),
        (
            "stages: [{hold: 3s}]",
            f"s.yaml: stages[0]: {NO_WEIGHT}",
        ),
        ("stages: []", "s.yaml: stages: is empty; leave it out for 1%, 10%, 50%, 100%"),
        ("stages: 5", "s.yaml: stages: must be a list, but is 5"),
        ("stages: [null]", "s.yaml: stages[0]: must be a mapping, but is None"),
        (
            "stages: [10%, 5%, 100%]",
            "s.yaml: stages: 5% comes after 10%; each stage must have a higher weight than the one before",
        ),
        (
            "stages: [50%, 50%, 100%]",
            "s.yaml: stages: 50% comes after 50%; each stage must have a higher weight than the one before",
        ),
        ("stages: [1%, 50%]", "s.yaml: stages: the last weight is 50%; add a stage of 100% behind it"),
        ("stages: [10, 100%]", "s.yaml: stages[0].weight: '10' is no share of traffic; write it as 1% or 0.05%"),
        (
            "stages: [{weight: 0.1}, 100%]",
            "s.yaml: stages[0].weight: '0.1' is no share of traffic; write it as 1% or 0.05%",
        ),
        ("stages: [0.001%, 100%]", "s.yaml: stages[0].weight: 0.001% is outside 0.01% to 100%"),
        (
            "stages: [0%, 100%]",
            f"s.yaml: stages[0]: {NO_WEIGHT}",
        ),
        ("stages: [1%, 101%]", "s.yaml: stages[1].weight: 101% is outside 0.01% to 100%"),
        ("stages: [1.005%, 100%]", "s.yaml: stages[0].weight: 1.005% is finer than 0.01%; round it"),
        ("drain_timeout: 5", "s.yaml: drain_timeout: 5 has no unit; write '5s'"),
        ("stages: [{weight: 100%, hold: 5}]", "s.yaml: stages[0].hold: 5 has no unit; write '5s'"),
        ("drain_timeout: soon", "s.yaml: drain_timeout: 'soon' is no duration; write 500ms, 30s, 5m or 1h"),
        ("drain_timeout: -5s", "s.yaml: drain_timeout: '-5s' is no duration; write 500ms, 30s, 5m or 1h"),
        ("drain_timeout: true", "s.yaml: drain_timeout: 'True' is no duration; write 500ms, 30s, 5m or 1h"),
        ("drain_timeout: 721h", "s.yaml: drain_timeout: 721h is too long; write up to 720h"),
        (f"drain_timeout: 1{'0' * 400}h", f"s.yaml: drain_timeout: 1{'0' * 400}h is too long; write up to 720h"),
        ("warm_timeout: 0s", "s.yaml: warm_timeout: 0s leaves no time at all; write a longer one, like 30s"),
        ("gate: {alpha: 70%}", "s.yaml: gate: alpha must be above 0 and at most 0.2, but is 0.7"),
        ("gate: strict", "s.yaml: gate: must be a mapping, but is 'strict'"),
        ("- stages", "s.yaml must be a mapping, but is a list"),
        ("100%", "s.yaml must be a mapping, but is a str"),
    ],
)
def test_a_bad_strategy_is_refused_with_path_value_and_remedy(text: str, told: str) -> None:
    with pytest.raises(InvalidSpec) as refused:
        parse_strategy(text, "s.yaml")
    assert str(refused.value) == told


def matching(regex: str) -> str:
    return json.dumps({"stages": [{"match": {"headers": {"x-user": {"regex": regex}}}}, "100%"]})


@pytest.mark.parametrize("regex", ["(beta", "beta)", "[a-z", "*"])
def test_what_is_no_regular_expression_is_refused_before_an_envoy_refuses_its_routes_for_it(regex: str) -> None:
    with pytest.raises(InvalidSpec) as refused:
        parse_strategy(matching(regex))
    told = str(refused.value)
    assert told.startswith(f"strategy: stages[0].match[0].headers.x-user: '{regex}' is no regular expression: ")


@pytest.mark.parametrize("regex", [r"\pL+", r"ann\z", "[[:alpha:]]+", "(?i)beta", r"\Q.\E"])
def test_what_only_envoys_own_dialect_knows_is_taken(regex: str) -> None:
    assert parse_strategy(matching(regex)).stages[0].match


def test_what_is_no_yaml_is_refused_with_the_place() -> None:
    with pytest.raises(InvalidSpec, match=r"^s\.yaml is no YAML in line 1, column 10: [^\n]+$"):
        parse_strategy("stages: [", "s.yaml")


def test_all_faults_are_told_at_once() -> None:
    with pytest.raises(InvalidSpec, match=r"^strategy: warm_timeout: .*; drain_timeout: "):
        parse_strategy("{warm_timeout: 5, drain_timeout: 5}")


@given(some.timedeltas(min_value=timedelta(microseconds=1), max_value=LONGEST))
def test_every_duration_comes_back_as_it_was_saved(duration: timedelta) -> None:
    strategy = Strategy(warm_timeout=duration, keep_stable=duration, drain_timeout=duration)
    assert load_strategy(dump_strategy(strategy)) == strategy


@given(some.sets(some.integers(1, 9_999), max_size=5), some.timedeltas(min_value=timedelta(), max_value=LONGEST))
def test_every_stage_comes_back_as_it_was_saved(weights: set[int], hold: timedelta) -> None:
    stages = [
        Stage.model_validate({"weight": f"{weight_bp / 100:.2f}%", "hold": hold}) for weight_bp in sorted(weights)
    ]
    strategy = Strategy(stages=(*stages, stage("100%")))
    assert load_strategy(dump_strategy(strategy)) == strategy
    assert [each.weight_bp for each in strategy.stages] == [*sorted(weights), 10_000]


def test_a_strategy_is_saved_in_the_words_that_users_write() -> None:
    text = '{"stages": ["1%", {"weight": "100%", "hold": "0.5s", "timeout": "600s"}], "drain_timeout": "720h"}'
    strategy = Strategy.model_validate_json(text)
    saved = json.loads(dump_strategy(strategy))["stages"]
    assert [(each["weight"], each["hold"], each["timeout"]) for each in saved] == [
        ("1%", "5s", "300s"),
        ("100%", "0.5s", "600s"),
    ]
    assert '"drain_timeout":"2592000s"' in dump_strategy(strategy)


@pytest.mark.parametrize(
    ("text", "endpoint", "address"),
    [
        ("10.0.0.1:80", Endpoint(host="10.0.0.1", port=80), "10.0.0.1:80"),
        ("10.0.0.1:80@eu", Endpoint(host="10.0.0.1", port=80, region="eu"), "10.0.0.1:80"),
        ("10.0.0.1:80@eu/a-1", Endpoint(host="10.0.0.1", port=80, region="eu", zone="a-1"), "10.0.0.1:80"),
        ("[::1]:65535", Endpoint(host="::1", port=65535), "[::1]:65535"),
        ("[2001:DB8:0:0::1]:1@eu/a", Endpoint(host="2001:db8::1", port=1, region="eu", zone="a"), "[2001:db8::1]:1"),
    ],
)
def test_an_endpoint_has_an_address_and_may_have_a_locality(text: str, endpoint: Endpoint, address: str) -> None:
    assert parse_endpoint(text) == endpoint
    assert parse_endpoint(text).address == address
    assert parse_endpoint(str(endpoint)) == endpoint


FORM = "write HOST:PORT or HOST:PORT@region/zone, an IPv6 address in []"


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("localhost:80", "host: 'localhost' is no IP address; Envoy takes no host names in endpoints"),
        ("256.0.0.1:80", "host: '256.0.0.1' is no IP address; Envoy takes no host names in endpoints"),
        ("[fe80::1%eth0]:80", "host: 'fe80::1%eth0' has a scope; write the address without %eth0"),
        ("10.0.0.1:0", "port: must be greater than or equal to 1, but is 0"),
        ("10.0.0.1:70000", "port: must be less than or equal to 65535, but is 70000"),
        ("10.0.0.1", f"'10.0.0.1' is no endpoint; {FORM}"),
        ("10.0.0.1:http", f"'10.0.0.1:http' is no endpoint; {FORM}"),
        ("::1:80", f"'::1:80' is no endpoint; {FORM}"),
        ("10.0.0.1:80@", f"'10.0.0.1:80@' is no endpoint; {FORM}"),
        ("10.0.0.1:80@/a", f"'10.0.0.1:80@/a' is no endpoint; {FORM}"),
        (" 10.0.0.1:80", f"' 10.0.0.1:80' is no endpoint; {FORM}"),
        ("", f"'' is no endpoint; {FORM}"),
    ],
)
def test_a_bad_endpoint_is_refused_with_value_and_remedy(text: str, told: str) -> None:
    with pytest.raises(InvalidSpec) as refused:
        parse_endpoint(text)
    assert str(refused.value) == told


def test_a_deployment_takes_endpoints_as_text_or_in_parts() -> None:
    endpoints = ["10.0.0.1:80@eu/a", {"host": "10.0.0.2", "port": 80}]
    assert parse_deployment({**DEPLOYMENT, "endpoints": endpoints, "strategy": {"stages": ["100%"]}}) == Deployment(
        service="checkout",
        version="v2",
        endpoints=(
            Endpoint(host="10.0.0.1", port=80, region="eu", zone="a"),
            Endpoint(host="10.0.0.2", port=80),
        ),
        strategy=Strategy(stages=(stage("100%"),)),
    )


@pytest.mark.parametrize("version", ["v2", "2026.10.03-rc.1", "A", "a_b", "7" * 63])
def test_a_version_may_be_named(version: str) -> None:
    assert parse_deployment({**DEPLOYMENT, "version": version}).version == version


@pytest.mark.parametrize("version", ["", "-v", ".v", "v 2", "v@2", "v/2", "v2\n", "vé", "7" * 64])
def test_a_bad_version_name_is_refused(version: str) -> None:
    allowed = "up to 63 of A-Z a-z 0-9 . _ -, the first a letter or digit"
    with pytest.raises(InvalidSpec) as refused:
        parse_deployment({**DEPLOYMENT, "version": version})
    assert str(refused.value) == f"version: '{version}' is no version name; use {allowed}"


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"version": 2}, "version: must be a valid string, but is 2"),
        ({"endpoints": []}, "endpoints: is empty; give at least one as HOST:PORT"),
        ({"endpoints": "10.0.0.1:80"}, "endpoints: must be a list, but is '10.0.0.1:80'"),
        ({"endpoints": ["10.0.0.1:80", "10.0.0.1:80@eu"]}, "endpoints: 10.0.0.1:80 stands twice; leave one out"),
        ({"endpoints": ["[::1]:80", "[0:0::1]:80"]}, "endpoints: [::1]:80 stands twice; leave one out"),
        ({"endpoints": ["10.0.0.1:80", "ten:80"]}, "endpoints[1].host: 'ten' is no IP address"),
        ({"endpoints": [{"host": "ten", "port": 80}]}, "endpoints[0].host: 'ten' is no IP address"),
        ({"endpoints": ["10.0.0.1:0"]}, "endpoints[0].port: must be greater than or equal to 1, but is 0"),
        ({"endpoints": ["here"]}, f"endpoints[0]: 'here' is no endpoint; {FORM}"),
        ({"strategy": {"stages": ["2%"]}}, "strategy.stages: the last weight is 2%; add a stage of 100% behind it"),
        ({"sevice": "x"}, "sevice: is no setting; look for a typing error"),
    ],
)
def test_a_bad_deployment_is_refused_with_path_value_and_remedy(change: dict[str, object], told: str) -> None:
    with pytest.raises(InvalidSpec) as refused:
        parse_deployment({**DEPLOYMENT, **change})
    assert str(refused.value).startswith(told)


def test_what_was_asked_for_cannot_be_changed_later() -> None:
    with pytest.raises(ValidationError):
        Strategy().keep_stable = timedelta(days=1)
