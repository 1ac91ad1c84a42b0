"""What handlers take from a request: who asks, its JSON, its fields."""

import json
from collections.abc import Mapping
from typing import Any

from aiohttp import web

from rollout.errors import InvalidSpec
from rollout.rights import Asker
from rollout.spec import Endpoint, parse_endpoint


def caller(request: web.Request) -> Asker:
    """Return who asks, by their own word: the token says what they may do."""
    said = request.headers.get("X-Rollout-User", "")[:64].encode("ascii", "replace").decode()
    return Asker(said or f"api client {request.remote}", f"{request.remote}")


async def body_of(request: web.Request) -> dict[str, Any]:
    """Return the JSON object of a change. The content type is demanded: a browser's form cannot forge it."""
    if request.content_type != "application/json":
        raise InvalidSpec("send `Content-Type: application/json`")
    try:
        body = await request.json()
        json.dumps(body, ensure_ascii=False).encode()  # half of a character, as "\\ud800", could not be saved
    except (ValueError, LookupError, RecursionError) as error:
        raise InvalidSpec(f"the body is no JSON: {error}") from error
    if not isinstance(body, dict):
        raise InvalidSpec("the body must be a JSON object")
    return body


def text(body: Mapping[str, Any], field: str) -> str:
    value = body.get(field)
    if value is None or value == "":
        raise InvalidSpec(f"{field}: is missing; give it as text")
    if not isinstance(value, str):
        raise InvalidSpec(f"{field}: must be text, but is {json.dumps(value)[:80]}")
    return value


def maybe_text(body: Mapping[str, Any], field: str) -> str:
    """Return a text, "" where none is given."""
    return text(body, field) if body.get(field) is not None else ""


def endpoints(body: Mapping[str, Any], field: str) -> tuple[Endpoint, ...]:
    """Return a list of endpoints, () where none is given."""
    given = body.get(field)
    if given is None:
        return ()
    if not isinstance(given, list) or not all(isinstance(each, str) for each in given):
        raise InvalidSpec(f'{field}: is no list of texts; give it as ["10.0.0.5:8080@eu/eu-1"]')
    found = {each.address: each for each in map(parse_endpoint, given)}
    if len(found) < len(given):
        raise InvalidSpec(f"{field}: has an address twice; leave one out")
    return tuple(found.values())


def known_fields(body: Mapping[str, Any], *names: str) -> None:
    """Raise InvalidSpec for a field that is none of these: what is misspelt must not be left out silently."""
    others = sorted(body.keys() - set(names))
    if others:
        raise InvalidSpec(f"{others[0]}: is no field here; there are {', '.join(names) or 'none'}")
