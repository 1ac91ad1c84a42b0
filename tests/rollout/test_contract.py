"""What a contract promises, and which changes of it break somebody."""

import copy
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rollout.api.offline import offline_document
from rollout.api.openapi import dump
from rollout.api.promises import broken, promises

ROOT = Path(__file__).parents[2]
KEPT, RELEASED = ROOT / "docs" / "openapi.json", ROOT / "docs" / "openapi.released.json"
AGAIN = "write it again: rollout openapi --into docs"
BEFORE: dict[str, Any] = {
    "paths": {
        "/v1/things": {
            "get": {
                "operationId": "get_things",
                "x-role": "viewer",
                "parameters": [{"name": "limit", "required": False, "schema": {"type": "integer", "maximum": 10}}],
                "responses": {
                    "200": {"content": {"application/json": {"schema": {"$ref": "#/components/schemas/Thing"}}}},
                    "400": {"$ref": "#/components/responses/Wrong"},
                },
            },
            "post": {
                "operationId": "post_things",
                "x-role": "operator",
                "parameters": [],
                "requestBody": {"content": {"application/json": {"schema": {"$ref": "#/components/schemas/Wish"}}}},
                "responses": {"201": {"content": {}}},
            },
        }
    },
    "components": {
        "schemas": {
            "Thing": {
                "description": "A thing.",
                "properties": {
                    "name": {"type": "string", "description": "Its name."},
                    "state": {"enum": ["new", "old"], "type": "string"},
                },
                "required": ["name", "state"],
            },
            "Wish": {"properties": {"name": {"type": "string"}}, "required": ["name"], "additionalProperties": False},
            "Color": {"enum": ["red", "blue"], "type": "string"},
        }
    },
}


def test_promises_are_routes_parameters_bodies_answers_fields_and_words() -> None:
    assert set(promises(BEFORE)) == {
        "GET /v1/things",
        "GET /v1/things?limit",
        "GET /v1/things 200",
        "POST /v1/things",
        "POST /v1/things body",
        "POST /v1/things 201",
        "Thing",
        "Thing.name",
        "Thing.state",
        "Thing.state=new",
        "Thing.state=old",
        "Wish",
        "Wish.name",
        "Color=red",
        "Color=blue",
    }


def changed(change: Callable[[dict[str, Any]], object]) -> dict[str, Any]:
    after = copy.deepcopy(BEFORE)
    change(after)
    return after


def get(document: Any) -> Any:
    return document["paths"]["/v1/things"]["get"]


def fields(document: dict[str, Any], name: str) -> Any:
    return document["components"]["schemas"][name]["properties"]


@pytest.mark.parametrize(
    ("change", "names"),
    [
        (lambda after: after["paths"]["/v1/things"].pop("post"), {"POST /v1/things", "POST /v1/things body"}),
        (lambda after: get(after).update({"x-role": "admin"}), {"GET /v1/things"}),
        (lambda after: get(after)["parameters"].clear(), {"GET /v1/things?limit"}),
        (lambda after: get(after)["parameters"][0]["schema"].update(maximum=5), {"GET /v1/things?limit"}),
        (lambda after: get(after)["responses"].pop("200"), {"GET /v1/things 200"}),
        (lambda after: fields(after, "Thing").pop("name"), {"Thing.name"}),
        (lambda after: fields(after, "Thing")["name"].update(type="integer"), {"Thing.name"}),
        (lambda after: after["components"]["schemas"]["Thing"]["required"].remove("name"), {"Thing.name"}),
        (lambda after: fields(after, "Thing")["state"]["enum"].remove("old"), {"Thing.state=old"}),
        (lambda after: after["components"]["schemas"]["Color"]["enum"].remove("red"), {"Color=red"}),
        (
            lambda after: (
                fields(after, "Wish").update(color={"type": "string"}),
                after["components"]["schemas"]["Wish"]["required"].append("color"),
            ),
            {"Wish.color"},
        ),
    ],
)
def test_what_is_gone_or_other_or_newly_demanded_is_broken(
    change: Callable[[dict[str, Any]], object], names: set[str]
) -> None:
    assert names <= set(broken(BEFORE, changed(change)))


@pytest.mark.parametrize(
    "change",
    [
        lambda after: after["paths"].update({"/v1/others": {"get": get(after)}}),
        lambda after: get(after)["parameters"].append({"name": "by", "required": False, "schema": {"type": "string"}}),
        lambda after: get(after)["responses"].pop("400"),
        lambda after: get(after).update(summary="Things."),
        lambda after: fields(after, "Thing").update(color={"type": "string"}),
        lambda after: fields(after, "Thing")["name"].update(description="What it is called."),
        lambda after: fields(after, "Thing")["state"]["enum"].append("lost"),
        lambda after: fields(after, "Wish").update(color={"type": "string"}),
    ],
)
def test_what_is_new_or_said_in_other_words_breaks_nothing(change: Callable[[dict[str, Any]], object]) -> None:
    assert broken(BEFORE, changed(change)) == ()


def test_a_word_that_a_field_is_called_by_is_no_description() -> None:
    shape = {"type": "object", "properties": {"title": {"type": "string"}, "at": {"type": "string"}}}
    before: Any = {"paths": {}, "components": {"schemas": {"Part": {"anyOf": [shape]}}}}
    after = copy.deepcopy(before)
    after["components"]["schemas"]["Part"]["anyOf"][0]["properties"].pop("title")
    assert broken(before, after) == ("Part",)


def test_the_document_in_docs_is_what_a_server_hands_out() -> None:
    assert KEPT.read_text() == dump(offline_document()), AGAIN


def test_what_the_last_release_promised_is_kept_or_its_end_is_in_the_changelog() -> None:
    told = unreleased((ROOT / "CHANGELOG.md").read_text())
    untold = [name for name in broken(json.loads(RELEASED.read_text()), offline_document()) if f"`{name}`" not in told]
    assert not untold, f"name each in CHANGELOG.md, `## Unreleased`, `### API changes`: {untold}"


def unreleased(changelog: str) -> str:
    """Return what the changelog says of changes of the API since the last release."""
    section = re.search(r"^## Unreleased\n(.*?)(?=^## |\Z)", changelog, re.DOTALL | re.MULTILINE)
    changes = re.search(r"^### API changes\n(.*?)(?=^#|\Z)", section[1] if section else "", re.DOTALL | re.MULTILINE)
    return changes[1] if changes else ""


def test_changes_of_earlier_releases_do_not_count() -> None:
    earlier = "## 1.0\n\n### API changes\n\n- `Wish`\n"
    text = f"## Unreleased\n\n- x\n\n### API changes\n\n- `Thing.name` is gone\n\n{earlier}"
    assert unreleased(text).strip() == "- `Thing.name` is gone"
    assert unreleased(f"## Unreleased\n\n{earlier}") == ""
