"""What a request asks for in its query, read as its route promises it."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from aiohttp import web

from rollout.api.contract import Handler, Query, route_of
from rollout.errors import InvalidSpec

PROMISED = "/v1/"
"""Where a query that no route knows is an error: probes and the web page's files are asked by others' programs."""

TEXT_LENGTH = 4096


@web.middleware
async def known_query(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Refuse what is no parameter: what is misspelt must not be left out silently."""
    route = route_of(request)
    if route is not None and request.path.startswith(PROMISED):
        asked(request)
        given = request.headers
        read(route.headers, {each.name: given[each.name] for each in route.headers if each.name in given})
    return await handler(request)


def asked(request: web.Request) -> Mapping[str, Any]:
    """Return the parameters that a request gives, as values. Raises InvalidSpec."""
    route = route_of(request)
    if route is None:
        return {}
    given: dict[str, str] = {}
    for name, value in request.query.items():
        if name in given:
            raise InvalidSpec(f"{name}: stands twice in the query; leave one out")
        given[name] = value
    return read(route.query, given)


def read(known: Sequence[Query], given: Mapping[str, str]) -> Mapping[str, Any]:
    """Return the values of a query's texts. Raises InvalidSpec with the parameter's name."""
    schemas = {each.name: each.schema for each in known}
    unknown = next((name for name in given if name not in schemas), None)
    if unknown is not None:
        raise InvalidSpec(f"{unknown}: is no parameter here; there are {', '.join(schemas) or 'none'}")
    return {name: _value(name, text, schemas[name]) for name, text in given.items()}


def _value(name: str, text: str, schema: Mapping[str, Any]) -> object:
    words = schema.get("enum")
    if words is not None and text not in words:
        raise InvalidSpec(f"{name}: '{text}' is none of {', '.join(words)}")
    if len(text) < schema.get("minLength", 0):
        raise InvalidSpec(f"{name}: is empty; leave it out")
    if len(text) > schema.get("maxLength", TEXT_LENGTH):
        raise InvalidSpec(f"{name}: is longer than {schema.get('maxLength', TEXT_LENGTH)} characters")
    if not text.isprintable() or not _can_be_saved(text):
        raise InvalidSpec(f"{name}: has characters that no name has")
    match schema.get("type"), schema.get("format"):
        case "boolean", _:
            return _truth(name, text)
        case "integer", _:
            return _number(name, text, schema)
        case _, "date-time":
            return _instant(name, text)
        case _:
            return text


def _can_be_saved(text: str) -> bool:
    """Say whether a text is whole: half of a character has no bytes."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _truth(name: str, text: str) -> bool:
    if text not in ("true", "false"):
        raise InvalidSpec(f"{name}: '{text}' is neither true nor false")
    return text == "true"


def _number(name: str, text: str, schema: Mapping[str, Any]) -> int:
    least, most = schema.get("minimum", 0), schema.get("maximum", 2**53)
    if not (text.isascii() and text.isdigit() and len(text) <= 16 and least <= int(text) <= most):
        raise InvalidSpec(f"{name}: '{text[:40]}' is no whole number from {least} to {most}")
    return int(text)


def _instant(name: str, text: str) -> datetime:
    try:
        found = datetime.fromisoformat(text)
    except ValueError as error:
        raise InvalidSpec(f"{name}: '{text[:40]}' is no time; write it as 2026-03-01T12:00:00Z") from error
    try:
        return (found if found.tzinfo is not None else found.replace(tzinfo=UTC)).astimezone(UTC)
    except OverflowError as error:
        raise InvalidSpec(f"{name}: '{text[:40]}' is out of reach; write a time of these years") from error
