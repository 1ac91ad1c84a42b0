"""What handlers take from a request: who asks, its JSON, its fields."""

import asyncio
import json
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from aiohttp import hdrs, web

from rollout.errors import InvalidSpec, NotAllowed, Unknown
from rollout.rights import Asker, Identity, Role, Via
from rollout.spec import Endpoint, parse_endpoint

BODY_LIMIT_S = 10.0
IDENTITY = web.RequestKey("identity", Identity)
"""Who sends a request: the guard puts it there; it is missing where nobody has said so, and everybody may ask."""
WHENCE = web.RequestKey("whence", str)
"""Where a request comes from, for the records."""
STANDING: web.RequestKey[Callable[[], bool]] = web.RequestKey("standing")
"""Whether that is so still: of who follows a stream, the token may have been revoked meanwhile."""
NOTED = web.ResponseKey("noted", bool)
"""In an answer that refuses a change: the audit log has it already."""


def identity(request: web.Request) -> Identity:
    """Return who sends a request, and what they may do; there is somebody on each route that needs a role."""
    return request[IDENTITY]


def sees(request: web.Request, service: str) -> bool:
    """Say whether who asks may hear of a service: lists leave out what is not theirs. "" is the whole fleet."""
    return not service or identity(request).grant.sees(service)


def demand(request: web.Request, need: Role, service: str | None) -> None:
    """Raise NotAllowed when who asks may not do this with a service, None for the whole fleet.

    The guard asks it for the service in a path; a handler does for those in a body.
    """
    who = identity(request)
    if who.grant.allows(need, service):
        return
    has = f"'{who.name}' is {who.grant.role}" + (f" of {', '.join(who.grant.services)}" if who.grant.services else "")
    of = "without limits to services" if service is None else f"of '{service}'"
    raise NotAllowed(f"this needs the role {need} {of}, but {has}; an admin makes tokens by `rollout token create`")


def check_known(request: web.Request, service: str, services: Iterable[str]) -> None:
    """Raise Unknown for a service that there is not, without a word of those that are not for who asks."""
    seen, grant = tuple(services), identity(request).grant
    if grant.services and service not in seen:
        yours = ", ".join(grant.seen(seen)) or "none"
        raise Unknown(f"there is no service '{service}' that you may see; there are {yours}")


def still_known(request: web.Request) -> bool:
    """Say whether who sent a request may still hear its answer; streams ask that from time to time, and end."""
    return STANDING not in request or request[STANDING]()


def caller(request: web.Request) -> Asker:
    """Return who asks, for the records; nobody can sign as somebody else."""
    who, remote = identity(request), whence(request)
    said = request.headers.get("X-Rollout-User", "")[:64].encode("ascii", "replace").decode()
    if who.via is Via.LOOPBACK:
        return careful(request, Asker(said or f"api client {remote}", f"{who.via} from {remote}"))
    name = f"{who.name} (said: {said})" if said and said != who.name else who.name
    how = str(who.via) if who.via is Via.ROOT else f"{who.via} {who.name}"
    return careful(request, Asker(name, f"{how} from {remote}"))


def whence(request: web.Request) -> str:
    """Return where a request comes from, for the records."""
    known: str = request.get(WHENCE, f"{request.remote}")
    return known


def signature(request: web.Request) -> str:
    """Return what tells one who asks from all others, were they of the same name."""
    who = identity(request)
    return caller(request).name if who.via is Via.LOOPBACK else f"{who.via} {who.key or who.name}"


def careful(request: web.Request, asker: Asker) -> Asker:
    """Return who asks with what they are careful about: only to know what would happen, only if nothing has changed."""
    return replace(asker, rehearses=request.query.get("dry_run") == "true", only_if=_only_if(request))


def _only_if(request: web.Request) -> tuple[str, ...]:
    given = ",".join(request.headers.getall("If-Match", ()))
    tags = tuple(each.strip().strip('"') for each in given.split(",") if each.strip())
    if "*" in tags or "If-Match" not in request.headers:
        return ()
    return tags or ("",)  # a script that has lost its ETag means no state at all


async def body_bytes(request: web.Request) -> bytes:
    """Return a body as it was sent, once all of it is there. Raises InvalidSpec.

    One that is packed is not unpacked: a thousandth of what it would be is soon sent, and the fleet would wait for it.
    """
    if request.headers.get(hdrs.CONTENT_ENCODING, "identity").lower() != "identity":
        raise InvalidSpec("Content-Encoding: send the body as it is, for nothing that is packed is read")
    try:
        async with asyncio.timeout(BODY_LIMIT_S):
            return await request.read()
    except TimeoutError as error:
        raise InvalidSpec(f"the body did not come within {BODY_LIMIT_S:g} s; send it at once") from error
    except (ConnectionError, web.RequestPayloadError) as error:
        raise InvalidSpec("the body broke off") from error


async def body_of(request: web.Request) -> dict[str, Any]:
    """Return the JSON object of a change. The content type is demanded: a browser's form cannot forge it."""
    if request.content_type != "application/json":
        raise InvalidSpec("send `Content-Type: application/json`")
    await body_bytes(request)
    try:
        body = json.loads(await request.text(), object_pairs_hook=_each_once)
        json.dumps(body, ensure_ascii=False).encode()  # half of a character, as "\\ud800", could not be saved
    except (ValueError, LookupError, RecursionError) as error:
        raise InvalidSpec(f"the body is no JSON: {error}") from error
    if not isinstance(body, dict):
        raise InvalidSpec("the body must be a JSON object")
    return body


def _each_once(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    """Return an object. Raises InvalidSpec for a key that is there twice: which of them is meant, nobody knows."""
    found = dict(pairs)
    if len(found) < len(pairs):
        counts = Counter(name for name, _ in pairs)
        double = next(name for name in found if counts[name] > 1)
        what = f"is {counts[double]} times in one object of the body"
        raise InvalidSpec(f"{json.dumps(double)[:80]}: {what}; give it once")
    return found


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
