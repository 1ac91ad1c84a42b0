"""The generated part of docs/api.md: routes, parameters and fields as tables, made from the API's document. Pure."""

from collections.abc import Iterator, Mapping
from typing import Any

Json = Mapping[str, Any]
BEGIN = "<!-- From here on this page is made from openapi.json: `rollout openapi --into docs` writes it again. -->"
STRATEGY = "StrategySpec"


def with_tables(page: str, document: Json) -> str:
    """Return a page with its generated part made again; what a person wrote stands before it."""
    written, _, _ = page.partition(BEGIN)
    return "\n".join((written + BEGIN, "", *_tables(document), ""))


def _tables(document: Json) -> Iterator[str]:
    yield "## Routes"
    for tag in document["tags"]:
        yield from ("", f"### {tag['name'].capitalize()}", "", tag["description"], "")
        yield from _routes(document, tag["name"])
    yield from ("", "## Parameters", "", "| parameter | value | meaning |", "|---|---|---|")
    yield from sorted(set(_parameters(document)))
    yield from ("", "## Bodies", "", "A field that is not needed may be left out.")
    models = {name: each for name, each in document["components"]["schemas"].items() if not name.endswith("Spec")}
    bodies = {name: each for name, each in models.items() if each.get("additionalProperties") is False}
    yield from _models(bodies)
    yield from ("", "## Answers", "", "Later versions may have more fields: leave out what you do not know.")
    yield from _models({name: each for name, each in models.items() if name not in bodies})


def _routes(document: Json, tag: str) -> Iterator[str]:
    yield "| route | role | what | parameters | body | answers | refused by |"
    yield "|---|---|---|---|---|---|---|"
    for path, operations in document["paths"].items():
        for method, each in operations.items():
            if tag in each["tags"]:
                yield f"| `{method.upper()} {path}` | {_row(each)} |"


def _row(operation: Json) -> str:
    taken = ", ".join(f"`{each['name']}`" for each in operation["parameters"] if each["in"] != "path")
    body = _content(operation.get("requestBody", {}))
    answers = operation["responses"]
    given = ", ".join(f"{status} {_content(each)}".strip() for status, each in answers.items() if status < "400")
    refused = ", ".join(status for status in answers if status >= "400")
    return " | ".join((operation["x-role"] or "none", operation["summary"], taken, body, given, refused))


def _content(answer: Json) -> str:
    return ", ".join(
        _kind(each["schema"]) if kind == "application/json" else f"`{kind}`"
        for kind, each in answer.get("content", {}).items()
    )


def _parameters(document: Json) -> Iterator[str]:
    for operations in document["paths"].values():
        for operation in operations.values():
            for each in operation["parameters"]:
                yield f"| {_place(each)} | {_kind(each['schema'])} | {each['description']} |"


def _place(parameter: Json) -> str:
    name = parameter["name"]
    return {"path": f"`{{{name}}}` in the path", "header": f"`{name}`, a header"}.get(parameter["in"], f"`{name}`")


def _models(models: Json) -> Iterator[str]:
    for name, schema in models.items():
        yield from ("", f"### {name}", "", schema.get("description", ""), "")
        if "enum" in schema:
            yield ", ".join(f"`{word}`" for word in schema["enum"])
            continue
        yield from ("| field | value | meaning |", "|---|---|---|")
        needed = schema.get("required", ())
        for field, shape in schema.get("properties", {}).items():
            left_out = "" if field in needed else "may be left out; "
            yield f"| `{field}` | {left_out}{_kind(shape)} | {shape.get('description', '')} |"


def _kind(shape: Json) -> str:  # noqa: PLR0911 - one for each kind
    """Say in words what a value is."""
    match shape:
        case {"$ref": str(place)}:
            return _linked(place.rpartition("/")[2])
        case {"anyOf": list(kinds)}:
            return " or ".join(map(_kind, kinds))
        case {"enum": list(words)}:
            return ", ".join(f"`{word}`" for word in words)
        case {"const": word}:
            return f"`{word}`"
        case {"type": "array", **others}:
            return f"list of {_kind(others.get('items', {}))}"
        case {"type": "object", "additionalProperties": dict(values)}:
            return f"object of {_kind(values)}"
        case {"type": "integer", "minimum": int(least), "maximum": int(most), **others}:
            default = f", {others['default']} when left out" if "default" in others else ""
            return f"{least} to {most}{default}"
        case {"format": "date-time"}:
            return "time"
        case {"type": str(word)}:
            return {"string": "text", "boolean": "true or false"}.get(word, word)
        case _:
            return "anything"


def _linked(name: str) -> str:
    if name == STRATEGY:
        return "a strategy, see [strategy.schema.json](strategy.schema.json)"
    return f"[{name}](#{name.lower()})"
