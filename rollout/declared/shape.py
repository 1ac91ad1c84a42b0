"""The JSON schema of documents, for editors: strategies as ever, and services."""

from typing import Any

from rollout.declared.documents import ServiceSpec
from rollout.schema import DIALECT, Schema, strategy_schema
from rollout.spec import VERSION_NAME

_NAME: Schema = {"type": "string", "pattern": f"^{VERSION_NAME.pattern}$"}
_ENDPOINTS: Schema = {
    "type": "array",
    "minItems": 1,
    "items": {"type": "string", "pattern": r"^(\[[^\]\s]*\]|[^@:\s\[\]]+):[0-9]{1,9}(@[^/\s]+(/\S+)?)?$"},
    "description": "Where it runs, as HOST:PORT@region/zone; left out: where it runs already.",
}


def documents_schema() -> Schema:
    """Return what one document of a file may hold, as JSON schema (draft 7)."""
    strategy = strategy_schema()
    parts: Schema = strategy.pop("$defs")
    del strategy["$schema"], strategy["title"]
    service = ServiceSpec.model_json_schema(by_alias=True, mode="validation")
    parts.update(service.pop("$defs"))
    parts["Strategy"] = strategy
    parts["StrategyDocument"] = _document("strategy", strategy["properties"], ("name",))
    parts["ServiceDocument"] = _document("service", _service(service["properties"]), ("name", "version"))
    either = [{"$ref": "#/$defs/StrategyDocument"}, {"$ref": "#/$defs/ServiceDocument"}]
    return {
        "$schema": DIALECT,
        "title": "Document of what shall be",
        "oneOf": either,
        "$defs": dict(sorted(parts.items())),
    }


def _document(kind: str, properties: dict[str, Any], required: tuple[str, ...]) -> Schema:
    named = {"kind": {"const": kind}, "name": {"type": "string", "minLength": 1} if kind == "service" else _NAME}
    whole = {"properties": {**named, **properties}, "required": ["kind", *required]}
    return {"type": "object", "additionalProperties": False, **whole}


def _service(properties: dict[str, Any]) -> dict[str, Any]:
    found = {name: shape for name, shape in properties.items() if name == "discover"}
    strategy = {"anyOf": [_NAME, {"$ref": "#/$defs/Strategy"}], "description": "A strategy's name, or one of its own."}
    return {"version": _NAME, "endpoints": _ENDPOINTS, **found, "strategy": strategy}
