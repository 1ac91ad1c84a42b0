"""The JSON schema of strategies, for editors: made from the models, with the rules that these have in code."""

from collections.abc import Mapping
from dataclasses import fields
from datetime import time, timedelta
from types import UnionType
from typing import Any, get_args

from pydantic.json_schema import GenerateJsonSchema

from rollout.checks import EnvoyMetric
from rollout.exposure import PERCENT_SCHEMA
from rollout.fields import DURATION_SCHEMA, SHARE_SCHEMA
from rollout.gate import Gate
from rollout.meanings import MEANINGS
from rollout.spec import DEFAULT_WEIGHTS, Strategy

Schema = dict[str, Any]
DIALECT = "http://json-schema.org/draft-07/schema#"  # what yaml-language-server knows best

_NULL: Schema = {"type": "null"}
_TEXT: Schema = {"type": "string"}
_BOOLEAN: Schema = {"type": "boolean"}  # generators of clients need the type beside a `const`
_LATENCIES = [metric for metric in EnvoyMetric if metric in ("p50", "p95", "p99")]
_SHARES = [metric for metric in EnvoyMetric if metric.endswith("_share")]


def strategy_schema() -> Schema:
    """Return what a strategy's file may hold, as JSON schema (draft 7)."""
    made = Strategy.model_json_schema(by_alias=True, mode="validation", schema_generator=Written)
    parts: Schema = made.pop("$defs")
    parts["Gate"] = _gate()
    parts["Strategy"] = made
    for name, part in parts.items():
        _plain(part)
        _described(name, part)
        part.update(_RULES.get(name, {}))
        for setting, shape in _SHAPES.get(name, {}).items():
            part["properties"][setting] = {**shape, "description": MEANINGS[name][setting]}
    for name, short in _SHORT_FORMS.items():
        whole = parts[name]
        parts[name] = {"anyOf": [short, whole], "description": whole["description"]}
    strategy = parts.pop("Strategy")
    return {"$schema": DIALECT, "title": "Strategy of a rollout", **strategy, "$defs": dict(sorted(parts.items()))}


class Written(GenerateJsonSchema):
    """Has defaults as a user writes them."""

    def encode_default(self, dft: Any) -> Any:
        match dft:
            case timedelta():
                return written(dft)
            case time():
                return f"{dft:%H:%M}"
            case _:
                return super().encode_default(dft)


def written(value: timedelta) -> str:
    """Write a duration with the largest unit that it is whole in: 5m, 90s."""
    seconds = value.total_seconds()
    size, unit = next(((size, unit) for size, unit in _UNITS if seconds and not seconds % size), (1, "s"))
    return f"{seconds / size:g}{unit}" if seconds >= 1 or not seconds else f"{1000 * seconds:g}ms"


_UNITS = ((3600, "h"), (60, "m"))


def _plain(part: Schema) -> None:
    """Take away titles that only repeat names, and defaults that say nothing."""
    part.pop("title", None)
    for shape in part.get("properties", {}).values():
        shape.pop("title", None)
        if shape.get("default") in (None, "", [], {}):
            shape.pop("default", None)


def _described(name: str, part: Schema) -> None:
    """Put in what each setting means, instead of what a model says to those who read its code."""
    if "properties" not in part:
        return
    part["description"] = " ".join(part.get("description", "").partition("\n\n")[0].split())
    for setting, meaning in MEANINGS.get(name, {}).items():
        if setting in part["properties"]:
            part["properties"][setting]["description"] = meaning


def _gate() -> Schema:
    settings = {each.name.removesuffix("_s"): _setting(each.type, each.metadata, each.default) for each in fields(Gate)}
    words = "When a candidate fails, and what it must show to pass a stage."
    return {"type": "object", "description": words, "additionalProperties": False, "properties": settings}


def _setting(type_: Any, known: Mapping[str, Any], default: Any) -> Schema:
    """One of the gate's settings; limits of durations and of shares in percent are left to the server."""
    match known["unit"]:
        case "share":
            low = {"exclusiveMinimum": known["above"]} if "above" in known else {}
            shape: Schema = {"anyOf": [SHARE_SCHEMA["anyOf"][0], {"type": "number", **low, "maximum": known["to"]}]}
            shown: Any = default if default is None else f"{100 * default:.6g}%"
        case "duration":
            shape = {**DURATION_SCHEMA}
            shown = default if default is None else written(timedelta(seconds=default))
        case "number":
            shape, shown = {"type": "number", "minimum": known["least"], "maximum": known["to"]}, default
        case _:
            shape = {"type": "boolean"} if type_ is bool else {"enum": [str(word) for word in type_]}
            shown = default if type_ is bool else str(default)
    if isinstance(type_, UnionType) and type(None) in get_args(type_):
        return {"anyOf": [shape, _NULL], "description": known["meaning"]}
    return {**shape, "description": known["meaning"], "default": shown}


def _header_name() -> Schema:
    """Names of request headers that may be used: no pseudo headers, none of Envoy's own."""
    taken = "|".join("".join(f"[{letter}{letter.upper()}]" for letter in name) for name in _TAKEN_HEADERS)
    envoys = "[xX]-[eE][nN][vV][oO][yY]-"
    return {"type": "string", "pattern": rf"^(?!{envoys})(?!({taken})$)[A-Za-z0-9!#$%&'*+.^_`|~-]{{1,100}}$"}


_TAKEN_HEADERS = ("host", "cookie", "connection")
_COOKIE_NAME: Schema = {"type": "string", "pattern": r"^[A-Za-z0-9!#$%&'*+.^_`|~-]{1,100}$"}
_PROGRAM: Schema = {"type": "string", "pattern": r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$"}
_WORDS: Schema = {"type": "array", "items": [_PROGRAM], "additionalItems": _TEXT, "minItems": 1}
_DATE: Schema = {"type": "string", "pattern": r"^[0-9]{4}-[0-9]{2}-[0-9]{2}$"}
_URL: Schema = {"type": "string", "pattern": r"^https?://[^\s/?#]"}
_STAGES: Schema = {
    "type": "array",
    "minItems": 1,
    "items": {"anyOf": [PERCENT_SCHEMA, {"$ref": "#/$defs/Stage"}]},
}


def _given(*names: str) -> list[Schema]:
    return [{"required": [name]} for name in names]


def _measured(metrics: list[EnvoyMetric], shape: Schema) -> Schema:
    """Say in which unit the limits of these metrics are."""
    limits = {"properties": {"max": shape, "min": shape}}
    return {"if": {"properties": {"metric": {"enum": metrics}}, "required": ["metric"]}, "then": limits}


_RULES: Mapping[str, Schema] = {
    "Strategy": {
        "if": {"required": ["waves"]},
        "then": {"properties": {"stages": {"items": {"anyOf": [_TEXT, {"required": ["weight"]}]}}}},
    },
    "Stage": {
        "oneOf": [
            *_given("weight", "match", "mirror"),
            {"required": ["expose"], "properties": {"expose": {**_BOOLEAN, "const": False}}},
        ]
    },
    "Match": {"minProperties": 1},
    "Matcher": {"minProperties": 1, "maxProperties": 1},
    "Sticky": {"oneOf": _given("header", "cookie"), "dependencies": {"ttl": ["cookie"]}},
    "Hook": {
        "oneOf": _given("url", "command"),
        "dependencies": {"headers": ["url"], "secret": ["url"]},
        "if": {"properties": {"at": {"enum": ["event", "rollback", "rollout"]}}, "required": ["at"]},
        "then": {"properties": {"reversible": {**_BOOLEAN, "const": True}}},
    },
    "ProbeSpec": {"oneOf": _given("http", "grpc", "tcp"), "dependencies": {"host": ["http"]}},
    "Window": {"not": {"required": ["days", "dates"]}},
    "CheckSpec": {
        "allOf": [
            {"oneOf": _given("metric", "prometheus", "web", "command")},
            {"anyOf": _given("max", "min", "command")},
            _measured(_LATENCIES, DURATION_SCHEMA),
            _measured(_SHARES, SHARE_SCHEMA),
            _measured([EnvoyMetric.REQUESTS_PER_S], {"type": "number"}),
        ]
    },
}
"""What a model demands of its settings together."""

_SHAPES: Mapping[str, Mapping[str, Schema]] = {
    "Strategy": {
        "stages": {**_STAGES, "default": [*DEFAULT_WEIGHTS]},
        "hold_back": {**DURATION_SCHEMA},
        "preview": {"anyOf": [{"$ref": "#/$defs/Preview"}, {"enum": ["off"]}, {**_BOOLEAN, "const": False}]},
        "checks": {"type": "array", "maxItems": 20, "items": {"$ref": "#/$defs/CheckSpec"}},
        "hooks": {"type": "array", "maxItems": 20, "items": {"$ref": "#/$defs/Hook"}},
    },
    "Stage": {
        "match": {
            "anyOf": [
                {"$ref": "#/$defs/Match"},
                {"type": "array", "minItems": 1, "items": {"$ref": "#/$defs/Match"}},
            ]
        },
        "weight": {**PERCENT_SCHEMA},
        "mirror": {**PERCENT_SCHEMA},
    },
    "Wave": {
        "locations": {"anyOf": [{"type": "array", "minItems": 1, "items": _TEXT}, PERCENT_SCHEMA, {"const": "all"}]},
        "stages": {**_STAGES, "minItems": 0},
    },
    "Match": {
        "headers": {
            "type": "object",
            "minProperties": 1,
            "propertyNames": _header_name(),
            "additionalProperties": {"$ref": "#/$defs/Matcher"},
        },
        "cookies": {
            "type": "object",
            "minProperties": 1,
            "propertyNames": _COOKIE_NAME,
            "additionalProperties": {"$ref": "#/$defs/Matcher"},
        },
    },
    "Matcher": {
        "exact": {"type": "string", "minLength": 1},
        "prefix": {"type": "string", "minLength": 1},
        "regex": {"type": "string", "minLength": 1},
        "present": {**_BOOLEAN, "const": True},
    },
    "Preview": {"header": {**_header_name(), "default": "x-rollout-version"}},
    "Sticky": {"header": _header_name(), "cookie": {**_COOKIE_NAME}},
    "Hook": {
        "url": {**_URL},
        "command": {"anyOf": [_PROGRAM, _WORDS]},
        "secret": {"type": "string", "pattern": r"^ROLLOUT_HOOK_[A-Z0-9_]{1,100}$"},
        "name": {"type": "string", "pattern": r"^([A-Za-z0-9][A-Za-z0-9._-]{0,62})?$"},
    },
    "ProbeSpec": {
        "http": {"type": "string", "pattern": "^/"},
        "grpc": {**_TEXT},
        "tcp": {**_BOOLEAN, "const": True},
    },
    "Window": {"dates": {"type": "array", "items": _DATE, "minItems": 2, "maxItems": 2}},
    "CheckSpec": {
        "name": {"type": "string", "maxLength": 100},
        "metric": {"$ref": "#/$defs/EnvoyMetric"},
        "command": {**_WORDS},
    },
    "PrometheusQuery": {"url": {**_URL}},
    "WebQuery": {
        "url": {**_URL},
        "path": {"anyOf": [_TEXT, {"type": "array", "maxItems": 50, "items": {"type": ["string", "integer"]}}]},
    },
}
"""Settings that a user writes otherwise than the model keeps them."""

_SHORT_FORMS: Mapping[str, Schema] = {
    "Matcher": {"type": "string", "minLength": 1},
    "Disconnected": {"enum": ["wait", "ignore", "fail"]},
}
"""Models that may be written in a word."""
