"""JSON schemas of the API's models, with the text below each field as its description."""

import ast
import inspect
import json
import textwrap
from collections.abc import Iterable, Mapping
from itertools import pairwise
from typing import Any

from pydantic import TypeAdapter
from pydantic.json_schema import JsonSchemaMode, JsonSchemaValue
from pydantic_core import core_schema
from typing_extensions import get_original_bases, is_typeddict

from rollout.schema import Written, strategy_schema

Json = dict[str, Any]
PLACE = "#/components/schemas/"
WHOLE = "StrategySpec"


class Described(Written):
    """Knows that a body has no fields but those of its model, while an answer may get more with time."""

    def typed_dict_schema(self, schema: core_schema.TypedDictSchema) -> JsonSchemaValue:
        made = super().typed_dict_schema(schema)
        texts = field_texts(schema["cls"])
        for name, shape in made.get("properties", {}).items():
            if name in texts:
                made["properties"][name] = {**shape, "description": texts[name]}
        if self.mode == "validation":
            made["additionalProperties"] = False
        return made

    def field_title_should_be_set(self, schema: Any) -> bool:  # noqa: ARG002 - pydantic calls it so
        """A title would only repeat the field's name."""
        return False


def field_texts(model: type) -> Mapping[str, str]:
    """Return the texts below a model's fields, and below those of the models that it is made of."""
    found: dict[str, str] = {}
    for base in get_original_bases(model):
        if is_typeddict(base):
            found.update(field_texts(base))
    (body,) = ast.parse(textwrap.dedent(inspect.getsource(model))).body
    assert isinstance(body, ast.ClassDef)
    for field, below in pairwise(body.body):
        match field, below:
            case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(value=ast.Constant(value=str(text))):
                found[name] = " ".join(inspect.cleandoc(text).split())
    return found


def schemas(takes: Iterable[Any], gives: Iterable[Any]) -> tuple[Mapping[Any, Json], dict[str, Json]]:
    """Return the schema of each model, and the parts that they refer to by name."""
    modes: dict[JsonSchemaMode, Iterable[Any]] = {"validation": takes, "serialization": gives}
    asked = [(each, mode, TypeAdapter(each)) for mode, found in modes.items() for each in dict.fromkeys(found)]
    made, rest = TypeAdapter.json_schemas(asked, ref_template=PLACE + "{model}", schema_generator=Described)
    parts: dict[str, Json] = rest.get("$defs", {})
    for part in parts.values():
        part.pop("title", None)
        if "description" in part:
            part["description"] = " ".join(part["description"].split())
    named = {name: _with_parts(part) for name, part in parts.items()}
    return {model: schema for (model, _), schema in made.items()}, {**named, **_strategy()}


def _with_parts(schema: Any) -> Any:
    """Refer to what is written by hand: pydantic follows each `$ref` itself, and knows its own only."""
    match schema:
        case {"x-part": str(name), **others}:
            return {**others, "$ref": PLACE + name}
        case dict():
            return {name: _with_parts(each) for name, each in schema.items()}
        case list():
            return [_with_parts(each) for each in schema]
        case _:
            return schema


def _strategy() -> dict[str, Json]:
    """Return the parts of a strategy, in the dialect of OpenAPI 3.1, each under a name that no model has."""
    whole = strategy_schema()
    whole.pop("$schema")
    whole.pop("title")
    parts = whole.pop("$defs")
    named = {WHOLE: whole, **{_spec(name): part for name, part in parts.items()}}
    made = {name: _of_today(part) for name, part in named.items()}
    referred = json.dumps(made)  # what the gate's settings have become is written in its own place
    return {name: part for name, part in made.items() if name == WHOLE or f'"{PLACE}{name}"' in referred}


def _spec(name: str) -> str:
    return name.removesuffix("Spec") + "Spec"


def _of_today(schema: Any) -> Any:
    """Write a schema of draft 7 as one of draft 2020-12."""
    match schema:
        case list():
            return [_of_today(each) for each in schema]
        case {"items": list(first), "additionalItems": rest, **others}:
            return _of_today({**others, "prefixItems": first, "items": rest})
        case {"dependencies": dependencies, **others}:
            return _of_today({**others, "dependentRequired": dependencies})
        case {"$ref": str(place), **others}:
            return {**_of_today(others), "$ref": PLACE + _spec(place.removeprefix("#/$defs/"))}
        case dict():
            return {name: _of_today(each) for name, each in schema.items()}
        case _:
            return schema
