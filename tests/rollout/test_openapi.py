"""The API's document is whole: every route is in it, with who may use it, what it takes and what it gives."""

import asyncio
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer.main
from jsonschema import Draft202012Validator
from typer.testing import CliRunner

from rollout.api.offline import offline_document
from rollout.api.openapi import DOCUMENT_PATH, TAGS
from rollout.api.tables import BEGIN, with_tables
from rollout.cli import app
from tests.rollout.served import running, settings_in

DOCUMENT: dict[str, Any] = offline_document()
OPERATIONS = [
    (f"{method.upper()} {path}", path, operation)
    for path, operations in DOCUMENT["paths"].items()
    for method, operation in operations.items()
]
PAGE = Path(__file__).parents[2] / "docs" / "api.md"


def test_every_operation_has_a_name_of_its_own_a_resource_and_a_role() -> None:
    assert len({operation["operationId"] for _, _, operation in OPERATIONS}) == len(OPERATIONS)
    for route, path, operation in OPERATIONS:
        assert re.fullmatch("[a-z_]+", operation["operationId"]), route
        assert set(operation["tags"]) <= TAGS.keys(), route
        assert operation["x-role"] in (None, "viewer", "operator", "admin"), route
        assert bool(operation["security"]) == (operation["x-role"] is not None), route
        in_path = [each["name"] for each in operation["parameters"] if each["in"] == "path"]
        assert re.findall(r"\{(\w+)\}", path) == in_path, route


def test_every_json_answer_has_a_shape_and_every_refusal_is_a_problem() -> None:
    for route, _, operation in OPERATIONS:
        for status, answer in operation["responses"].items():
            if status >= "400":
                name = answer["$ref"].rpartition("/")[2]
                assert list(DOCUMENT["components"]["responses"][name]["content"]) == ["application/problem+json"]
            elif status not in ("204", "304"):
                shape = answer["content"].get("application/json", {"schema": {"$ref": ""}})["schema"]
                assert shape.keys() & {"$ref", "anyOf", "type"}, route
                assert shape != {"type": "string"}, route


def test_every_body_that_is_taken_has_a_shape() -> None:
    for route, _, operation in OPERATIONS:
        method = route.partition(" ")[0]
        assert ("requestBody" in operation) == (method in ("POST", "PUT", "PATCH")), route


def test_schemas_are_schemas_and_refer_to_what_there_is() -> None:
    parts = DOCUMENT["components"]["schemas"]
    for name, schema in parts.items():
        Draft202012Validator.check_schema(schema)
        assert name[0].isupper()
    named = set(re.findall(r'"#/components/schemas/(\w+)"', json.dumps(DOCUMENT)))
    assert named <= parts.keys()
    assert parts.keys() - named == set(), "nobody refers to these"


def shapes(part: Any) -> Iterator[dict[str, Any]]:
    """Each schema in a part of the document, from the outside in; what is written as an example is none."""
    if isinstance(part, dict):
        yield part
    for each in part.values() if isinstance(part, dict) else part if isinstance(part, list) else ():
        yield from shapes(each)


def test_every_default_is_a_value_that_its_schema_takes() -> None:
    parts = {"components": {"schemas": DOCUMENT["components"]["schemas"]}}
    defaults = [shape for shape in shapes(DOCUMENT) if "default" in shape and not isinstance(shape["default"], dict)]
    wrong = [shape for shape in defaults if not Draft202012Validator({**shape, **parts}).is_valid(shape["default"])]
    assert len(defaults) > 50
    assert wrong == []


def test_generators_of_clients_find_one_type_where_a_value_is_given() -> None:
    """Those of Python leave out what has words and booleans in one `enum`, and stumble on `const: true` alone."""
    for shape in shapes(DOCUMENT["components"]["schemas"]):
        assert len({type(word) for word in shape.get("enum", ()) if isinstance(shape["enum"], list)}) < 2, shape
        assert not isinstance(shape.get("const"), bool) or shape.get("type") == "boolean", shape


def test_bodies_are_closed_and_answers_are_open() -> None:
    parts = DOCUMENT["components"]["schemas"]
    assert parts["Undo"]["additionalProperties"] is False
    assert "additionalProperties" not in parts["Service"]
    assert parts["Rollout"]["properties"]["service"]["description"] == "The service that it moves."  # from its base


def test_a_strategy_is_described_in_the_dialect_of_the_document() -> None:
    parts = DOCUMENT["components"]["schemas"]
    whole = {**parts["StrategySpec"], "components": {"schemas": parts}}
    validator = Draft202012Validator(whole)
    assert validator.is_valid({"stages": ["5%", "100%"], "drain_timeout": "10s"})
    assert validator.is_valid({"hooks": [{"at": "event", "command": ["tell", "me"]}]})
    assert not validator.is_valid({"stages": "5%"})
    assert not validator.is_valid({"stagse": ["5%"]})
    assert not validator.is_valid({"hooks": [{"at": "event", "command": [1]}]})


async def test_a_server_hands_out_its_document_as_json(tmp_path: Path) -> None:
    async with running(settings_in(tmp_path)) as server:
        for _ in range(2):
            async with server.http.get(DOCUMENT_PATH) as answer:
                assert (answer.status, answer.content_type) == (200, "application/json")
                assert await answer.json() == DOCUMENT


@pytest.mark.parametrize("path", ["/v1/nowhere", "/v1/services/checkout/nowhere"])
async def test_what_is_not_there_and_what_it_cannot_do_are_problems(tmp_path: Path, path: str) -> None:
    async with running(settings_in(tmp_path)) as server:
        async with server.http.get(path) as answer:
            assert (answer.status, answer.content_type) == (404, "application/problem+json")
        async with server.http.put("/v1/fleet", json={}) as answer:
            assert (answer.status, "GET" in answer.headers["Allow"]) == (405, True)
            assert answer.content_type == "application/problem+json"


def test_the_verb_prints_the_document_or_writes_it_and_the_tables(tmp_path: Path) -> None:
    command = typer.main.get_command(app)
    assert command.name == "rollout"
    printed = CliRunner().invoke(app, ["openapi"])
    assert json.loads(printed.stdout) == DOCUMENT
    (tmp_path / "api.md").write_text(f"# Mine\n\n{BEGIN}\n\nyesterday\n")
    assert CliRunner().invoke(app, ["openapi", "--into", str(tmp_path)]).exit_code == 0
    assert (tmp_path / "openapi.json").read_text() == printed.stdout
    page = (tmp_path / "api.md").read_text()
    assert page.startswith(f"# Mine\n\n{BEGIN}\n\n## Routes\n")
    assert "yesterday" not in page
    assert page == with_tables(page, DOCUMENT)


def test_the_page_has_every_route_parameter_and_field() -> None:
    page = PAGE.read_text()
    assert page == with_tables(page, DOCUMENT), "make its tables again: rollout openapi --into docs"
    for route, _, operation in OPERATIONS:
        assert f"| `{route}` |" in page
        for each in operation["parameters"]:
            assert f"`{each['name']}`" in page or f"`{{{each['name']}}}`" in page, each["name"]
    for name, schema in DOCUMENT["components"]["schemas"].items():
        for field in () if name.endswith("Spec") else schema.get("properties", ()):
            assert f"| `{field}` |" in page, f"{name}.{field}"


HOSTILE = (
    ("GET", "/v1/services/%ff%fe", b""),
    ("GET", "/v1/services/%zz", b""),
    ("GET", "/v1/services/a%00b", b""),
    ("GET", "/v1/services/%ed%a0%80", b""),
    ("GET", "/v1/services/..%2f..", b""),
    ("GET", "/v1/services/checkout/rollouts/%d9%a3", b""),
    ("GET", f"/v1/services/checkout/rollouts/{'9' * 400}", b""),
    ("GET", "/v1/services?name=%ff", b""),
    ("GET", "/v1/services?name=%00", b""),
    ("GET", "/v1/services?name=[", b""),
    ("GET", "/v1/services?%zz=%zz", b""),
    ("GET", "/v1/operations?by=%ed%a0%80", b""),
    ("GET", "/v1/services?cursor=W10", b""),
    ("GET", "/v1/services/checkout?etag=%ff&wait=1ms", b""),
    ("POST", "/v1/services/checkout/undo", b"[" * 100_000),
    ("POST", "/v1/services/checkout/undo", b'{"to":' * 50_000),
    ("POST", "/v1/services/checkout/undo", b'{"to": "\\ud800"}'),
    ("POST", "/v1/services/checkout/undo", b'{"to": "\\u0000"}'),
    ("POST", "/v1/services/checkout/undo", b"\xff\xfe"),
    ("POST", "/v1/services/checkout/undo", b'{"to": NaN}'),
    ("POST", "/v1/services/checkout/commands/promote", b'{"stage": 1' + b"0" * 5000 + b"}"),
    ("POST", "/v1/services/checkout/commands/promote", b'{"stage": 1e999}'),
    (
        "POST",
        "/v1/services/checkout/rollouts",
        b'{"version": "v2", "endpoints": ["10.0.0.1:80"], "strategy": 1' + b"0" * 5000,
    ),
    (
        "POST",
        "/v1/services/checkout/rollouts",
        b'{"version": "v2", "endpoints": [{}], "strategy": {"stages": [{"weight": 1e308}]}}',
    ),
    ("PUT", "/v1/services/checkout/versions/%ff", b'{"endpoints": ["10.0.0.1:80"]}'),
    ("DELETE", "/v1/services/checkout/versions/a%00b", b""),
)


async def test_hostile_requests_are_refused_as_documented(tmp_path: Path) -> None:
    async with running(settings_in(tmp_path)) as server:
        host, _, port = server.listening.admin.partition(":")
        for method, path, body in HOSTILE:
            reader, writer = await asyncio.open_connection(host, int(port))
            head = f"{method} {path} HTTP/1.1\r\nHost: {host}:{port}\r\nConnection: close\r\n"
            head += f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
            writer.write(head.encode() + body)
            async with asyncio.timeout(20):
                answer = await reader.read()
            writer.close()
            status = int(answer.split(b" ", 2)[1])
            assert status in (200, 400, 404, 409), (method, path, body[:80], answer[-300:])
            if status != 200:
                assert b"application/problem+json" in answer, (method, path)
