"""Documents of what shall be: every fault at once with its place, secrets left out and taken back."""

from typing import Any

import pytest
import yaml
from jsonschema import Draft7Validator

from rollout.concealed import REDACTED
from rollout.declared.documents import Declared, Problem, Written, parse, read
from rollout.declared.secrets import concealed, restored, unknown_secrets
from rollout.declared.shape import documents_schema
from rollout.spec import Strategy

CAREFUL = "kind: strategy\nname: careful\nstages: [5%, 25%, 100%]\n"
CHECKOUT = "kind: service\nname: checkout\nversion: v2\nendpoints: ['10.0.0.21:8080@eu/eu-1']\nstrategy: careful\n"


def faults(**files: str) -> list[str]:
    written: list[Written] = []
    problems: list[Problem] = []
    for name, text in files.items():
        found, wrong = read(f"{name}.yaml", text)
        written += found
        problems += wrong
    return [str(each) for each in (*problems, *parse(written)[1])]


def declared(text: str) -> Declared:
    written, problems = read("shop.yaml", text)
    found, wrong = parse(written)
    assert (problems, wrong) == ((), ())
    return found


def test_one_file_holds_strategies_and_services() -> None:
    found = declared(f"{CAREFUL}---\n{CHECKOUT}---\n# nothing\n")
    assert found.strategies["careful"].strategy == Strategy.model_validate({"stages": ["5%", "25%", "100%"]})
    checkout = found.services["checkout"]
    assert (checkout.version, checkout.strategy, checkout.discover) == ("v2", "careful", None)
    assert [str(each) for each in checkout.endpoints or ()] == ["10.0.0.21:8080@eu/eu-1"]


def test_each_fault_of_each_document_is_told_with_its_line() -> None:
    service = (
        "kind: service\nname: checkout\nversion: 1.10\nendpoints: ['10.0.0.21']\nstrategy: {stages: [5%]}\ncolor: red\n"
    )
    strategy = "kind: strategy\nname: careful\nstages: [125%]\ngate: {warmup: 3}\n"
    told = faults(shop=f"{strategy}---\n{service}---\nkind: sevice\n---\n- a\n---\nname: x\n")
    assert [each.partition(": ")[0] + " " + each.split(": ")[1] for each in told] == [
        "shop.yaml:3 document 1",
        "shop.yaml:4 document 1",
        "shop.yaml:8 document 2",
        "shop.yaml:9 document 2",
        "shop.yaml:11 document 2",
        "shop.yaml:10 document 2",
        "shop.yaml:13 document 3",
        "shop.yaml:15 document 4",
        "shop.yaml:17 document 5",
    ]
    assert "version: YAML reads it as a number, and it must be a text; put it in quotes as you mean it" in told[2]
    assert "strategy.stages: the last weight is 5%" in told[5]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("kind: strategy\nstages: [100%]\n", "name: is missing"),
        ("kind: strategy\nname: 'a b'\n", "'a b' is no name of a strategy"),
        ("kind: strategy\nname: a\nname: b\n", "name: stands twice"),
        ("kind: service\nname: a\nversion: v1\nendpoints: []\n", "endpoints: is empty"),
        ("kind: service\nname: a\nversion: v1\nendpoints: ['10.0.0.1:1', '10.0.0.1:1']\n", "stands twice"),
        ("kind: service\nname: a\nversion: v1\nstrategy: 7\n", "strategy: YAML reads it as a number"),
        ("kind: service\nname: a\nversion: no\n", "version: YAML reads it as true or false"),
        (
            "kind: service\nname: a\nversion: v1\ndiscover: {dns: {name: a.b}}\nendpoints: ['10.0.0.1:1']\n",
            "both given",
        ),
        ("a: [", "is no YAML"),
        ("kind: !!binary aGVsbG8=\n", "type bytes"),
        ("&a [*a]\n", "is no YAML: an alias names what it stands in"),
    ],
)
def test_what_is_wrong_says_what_to_do(text: str, says: str) -> None:
    assert says in " ".join(faults(shop=text))


def test_a_name_is_declared_once_over_all_files() -> None:
    told = faults(one=CAREFUL, two=f"{CHECKOUT}---\n{CAREFUL}")
    assert told == ["two.yaml:8: document 2: name: the strategy 'careful' is in one.yaml:2 already; leave one out"]


def test_dates_of_yaml_are_texts_as_in_json() -> None:
    freeze = "freeze:\n  windows:\n  - dates: [2026-12-24, 2026-12-27]\n"
    found = declared(CAREFUL + freeze).strategies["careful"]
    assert found.content["freeze"] == {"windows": [{"dates": ["2026-12-24", "2026-12-27"]}]}


def test_documents_of_a_request_are_counted_as_in_its_json() -> None:
    _, problems = parse([Written("", 1, {"kind": "strategy", "name": "a", "stages": []}), Written("", 2, 7)])
    assert [str(each).partition(": ")[0] for each in problems] == ["documents[0].stages", "documents[1]"]


SECRET: dict[str, Any] = {
    "stages": [{"weight": "5%", "match": []}, {"match": {"headers": {"x-user": "ann"}}}],
    "hooks": [
        {"at": "event", "url": "https://chat.example.com/T1/SECRET", "headers": {"Authorization": "Bearer SECRET"}},
        {"at": "event", "command": ["tell", "all"]},
    ],
    "checks": [
        {"name": "a", "prometheus": {"url": "http://ann:SECRET@prom:9090/api?key=SECRET", "query": "up"}, "max": 1},
        {"name": "b", "web": {"url": "http://b:1/status", "headers": {"x-key": "SECRET"}}, "max": 1},
    ],
}


def test_secrets_are_not_shown_and_what_is_shown_is_taken_back() -> None:
    shown = concealed(SECRET)
    assert "SECRET" not in str(shown)
    assert shown["checks"][1]["web"]["url"] == "http://b:1/status"
    assert shown["hooks"][0]["url"] == f"https://chat.example.com/{REDACTED}"
    assert shown["stages"] == SECRET["stages"]
    assert restored(shown, SECRET) == SECRET
    assert unknown_secrets(restored(shown, SECRET)) == ()


def test_a_secret_that_is_not_known_is_a_fault() -> None:
    moved = concealed(SECRET)
    moved["hooks"] = moved["hooks"][::-1]
    paths = [each.path for each in unknown_secrets(restored(moved, SECRET))]
    assert paths == [("hooks", 1, "url"), ("hooks", 1, "headers", "Authorization")]


@pytest.mark.parametrize(
    ("document", "fits"),
    [
        (CAREFUL, True),
        (CHECKOUT, True),
        ("kind: service\nname: a\nversion: v1\nstrategy: {stages: [5%, 100%], drain_timeout: 5s}\n", True),
        ("kind: service\nname: a\nversion: v1\ndiscover: {dns: {name: a.internal, port: 80}}\n", True),
        ("kind: service\nname: a\n", False),
        ("kind: strategy\nname: a\nstagse: [100%]\n", False),
        ("kind: service\nname: a\nversion: v1\nendpoints: [10.0.0.1]\n", False),
        ("kind: service\nname: a\nversion: v1\nstrategy: {drain_timeout: 5}\n", False),
    ],
)
def test_editors_know_documents_by_their_schema(document: str, fits: bool) -> None:
    schema = documents_schema()
    Draft7Validator.check_schema(schema)
    assert Draft7Validator(schema).is_valid(yaml.safe_load(document)) is fits


@pytest.mark.parametrize("keeper", ["hooks", "prometheus", "web"])
def test_secrets_are_not_sent_to_another_server_than_before(keeper: str) -> None:
    known = {keeper: {"url": "https://ann:pass@chat.corp/hooks/key?k=1", "headers": {"X-Key": "secret"}}}
    shown = concealed(known)
    assert "secret" not in repr(shown)
    assert restored(shown, known) == known
    for url in ("https://evil.corp/hooks", "http://chat.corp/hooks", "https://chat.corp:444/", REDACTED, None):
        moved = {keeper: {**shown[keeper], "url": url}}
        assert restored(moved, known) == moved
    moved = {keeper: {**shown[keeper], "url": "https://chat.corp/other"}}
    assert restored(moved, known)[keeper]["headers"] == {"X-Key": "secret"}
