"""What an API's document promises, thing by thing, and which of it a later document breaks. Pure."""

import json
from collections.abc import Iterator, Mapping
from typing import Any

Json = Mapping[str, Any]
REQUIRED = ", required"
WORDS = ("description", "summary", "title", "examples", "default")
"""What may be said otherwise without a change of what is meant."""


def promises(document: Json) -> Mapping[str, str]:
    """Return what programs may rely on: by `GET /v1/fleet`, `GET /v1/fleet?limit`, `Node.node` or `Phase=paused`."""
    return dict(_promises(document))


def broken(before: Json, after: Json) -> tuple[str, ...]:
    """Return what of a document a later one does not keep, in order.

    That is what is gone, what has become something else, and what has come to be demanded. What else is new breaks
    nothing: programs leave out fields and words that they do not know.
    """
    earlier, later = promises(before), promises(after)
    changed = {name for name, kind in earlier.items() if later.get(name) != kind}
    known = {_place(name) for name in earlier}
    demanded = {
        name
        for name, kind in later.items()
        if kind.endswith(REQUIRED) and name not in earlier and _place(name) in known
    }
    return tuple(sorted(changed | demanded))


def _place(name: str) -> str:
    """Return the route or the body that a parameter or a field belongs to."""
    return name.partition("?")[0] if name.startswith(METHODS) else name.partition(".")[0]


METHODS = ("GET ", "POST ", "PUT ", "PATCH ", "DELETE ")


def _promises(document: Json) -> Iterator[tuple[str, str]]:
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            yield from _of_route(f"{method.upper()} {path}", operation)
    for name, schema in document["components"]["schemas"].items():
        yield from _of_schema(name, schema)


def _of_route(route: str, operation: Json) -> Iterator[tuple[str, str]]:
    yield route, f"{operation['operationId']} for {operation['x-role'] or 'everybody'}"
    for parameter in operation["parameters"]:
        demanded = REQUIRED if parameter["required"] else ""
        yield f"{route}?{parameter['name']}", f"{_kind(parameter['schema'])}{demanded}"
    body = operation.get("requestBody")
    if body is not None:
        yield f"{route} body", _content(body)
    for status, answer in operation["responses"].items():
        if status < "300":
            yield f"{route} {status}", _content(answer)


def _content(told: Json) -> str:
    return "; ".join(f"{kind} {_kind(each['schema'])}" for kind, each in told.get("content", {}).items())


def _of_schema(name: str, schema: Json) -> Iterator[tuple[str, str]]:
    if "enum" in schema:
        yield from ((f"{name}={word}", "") for word in schema["enum"])
        return
    if "properties" not in schema:
        yield name, _kind(schema)
        return
    is_body = schema.get("additionalProperties") is False
    required = schema.get("required", ())
    yield name, "body" if is_body else "answer"
    for field, shape in schema["properties"].items():
        demanded = REQUIRED if is_body and field in required else ""
        always = ", always" if not is_body and field in required else ""
        yield f"{name}.{field}", f"{_kind(shape)}{demanded}{always}"
        yield from ((f"{name}.{field}={word}", "") for word in shape.get("enum", ()))


def _kind(schema: Json) -> str:
    """Return a schema's meaning without its words; the words of an enumeration are promises of their own."""
    shape = {name: each for name, each in schema.items() if name not in (*WORDS, "enum")}
    if shape.keys() == {"$ref"}:
        return str(shape["$ref"]).rpartition("/")[2]
    if shape.keys() == {"type"}:
        return str(shape["type"])
    return json.dumps(_plain(shape), sort_keys=True)


def _plain(value: Any) -> Any:
    """Return a schema without its words, and with those of fields that are called as one."""
    match value:
        case {"properties": dict(fields), **others}:
            return {**_plain(others), "properties": {name: _plain(each) for name, each in fields.items()}}
        case dict():
            return {name: _plain(each) for name, each in value.items() if name not in WORDS}
        case list():
            return [_plain(each) for each in value]
        case _:
            return value
