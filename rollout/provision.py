"""What a `provision` hook has said: where the candidate runs, taken in before anything is pushed."""

import json
from collections.abc import Iterator
from typing import Any

from rollout.controller import Controller
from rollout.errors import Conflict, InvalidSpec
from rollout.record import PutVersion, Rollout, Version
from rollout.saver import Saving
from rollout.spec import Endpoint, distinct, parse_endpoint
from rollout.state import Phase

MOST_ENDPOINTS = 10_000


def endpoints_in(text: str) -> tuple[Endpoint, ...]:
    """Return the endpoints of an answer: a JSON object as a whole, or its last line where others are before it.

    () when it names none. Raises InvalidSpec.
    """
    document = next(_documents(text), None)
    if document is None:
        return ()
    given = document["endpoints"]
    if not isinstance(given, list) or not all(isinstance(each, str) for each in given):
        raise InvalidSpec('its `endpoints` are no list of texts; answer {"endpoints": ["10.0.0.5:8080@eu/eu-1"]}')
    if not given:
        raise InvalidSpec("its `endpoints` are empty; name one at least, or leave them out")
    if len(given) > MOST_ENDPOINTS:
        raise InvalidSpec(f"it has {len(given)} `endpoints`; {MOST_ENDPOINTS} are the most")
    try:
        return distinct(tuple(map(parse_endpoint, given)))
    except ValueError as error:
        raise InvalidSpec(f"its endpoints: {error}") from error


def _documents(text: str) -> Iterator[dict[str, Any]]:
    for written in (text, *reversed(text.splitlines())):
        try:
            document = json.loads(written)
        except (ValueError, RecursionError):
            continue
        if isinstance(document, dict) and "endpoints" in document:
            yield document


async def provided(controller: Controller, rollout: Rollout, text: str) -> None:
    """Save what a hook has said of the candidate. Raises InvalidSpec, Conflict or Unavailable."""
    service, candidate, books = rollout.service, rollout.candidate, controller.books
    endpoints = endpoints_in(text)
    if not endpoints:
        if not books.addresses(service, candidate):
            raise InvalidSpec('it does not say where the candidate runs; answer {"endpoints": ["10.0.0.5:8080"]}')
        return
    shared = sorted(set(books.addresses(service, rollout.stable)) & {each.address for each in endpoints})
    if shared:
        raise InvalidSpec(f"{', '.join(shared)} belongs to '{rollout.stable}'; provide backends of its own")
    with controller.alone(service):
        now = books.rollouts.get(service)
        if now is None or now.id != rollout.id or now.state.phase is not Phase.PENDING:
            raise Conflict("the rollout does not wait for it any more")
        version = Version(service, candidate, endpoints)
        saving = Saving((PutVersion(version),), service, lambda: books.put_version(version))
        await controller.saver.wait(controller.saver.put(saving))
