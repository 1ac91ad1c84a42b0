"""Asks an HTTP endpoint for targets, as Prometheus' http_sd does."""

import asyncio
from collections.abc import Mapping
from dataclasses import replace

import aiohttp
from yarl import URL

from rollout.discovery.answer import Answer, endpoints_at, http_sd_places
from rollout.discovery.source import Discover, HttpSd
from rollout.errors import InvalidSpec, Unavailable
from rollout.fetching import Page, Question, get
from rollout.lookup.limits import MOST_BYTES

ETAG_CHARACTERS = 1000


async def ask(
    session: aiohttp.ClientSession,
    secrets: Mapping[str, str],
    http_sd: HttpSd,
    discover: Discover,
    before: Answer | None,
) -> Answer:
    """Return the targets; those `before` when the endpoint says that nothing has changed.

    Raises Unavailable, or InvalidSpec for an answer that is none.
    """
    known = {"If-None-Match": before.mark} if before is not None and before.mark else {}
    every_s = f"{discover.every.total_seconds():g}"
    headers = {"X-Prometheus-Refresh-Interval-Seconds": every_s, **known, **secrets}
    question = Question(URL(http_sd.url), headers, discover.timeout.total_seconds(), MOST_BYTES)
    page = await get(session, question)
    if page.status == 304 and before is not None and known:
        return replace(before)
    _check(page, question.where)
    places = lambda: endpoints_at(http_sd_places(page.body, http_sd), discover)  # noqa: E731 - for a thread
    try:
        found = await asyncio.to_thread(places)
    except InvalidSpec as error:
        raise InvalidSpec(f"the answer of {question.where} cannot be used: {error}") from error
    etag = page.headers.get("etag", "")
    return Answer(found, etag if len(etag) <= ETAG_CHARACTERS else "")


def _check(page: Page, where: str) -> None:
    """Raise Unavailable for what is no good answer."""
    if page.status != 200:
        raise Unavailable(f"HTTP {page.status} from {where}")
    kind = page.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json":
        raise Unavailable(f"{where} answers {kind[:80] or 'no content type'}, which must be application/json")
