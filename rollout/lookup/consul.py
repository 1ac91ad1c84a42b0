"""Asks Consul for the instances of a service: at once, or as soon as they are others than before."""

import asyncio

import aiohttp
from yarl import URL

from rollout.discovery.answer import Answer, consul_places, endpoints_at, next_index
from rollout.discovery.source import Consul, Discover
from rollout.errors import InvalidSpec, Unavailable
from rollout.fetching import Page, Question, get
from rollout.lookup.limits import MOST_BYTES
from rollout.metrics.sources import plain_line

WAIT_PART = 16  # Consul answers up to a sixteenth of `wait` later, so that not all ask at once
SAID_CHARACTERS = 200


async def ask(
    session: aiohttp.ClientSession, token: str | None, consul: Consul, discover: Discover, before: Answer | None
) -> Answer:
    """Return where the service runs; with an answer `before`, once that has changed or `wait` is over.

    Raises Unavailable, or InvalidSpec for an answer that is none.
    """
    mark = before.mark if before is not None else ""
    stale_s = consul.max_stale.total_seconds()
    page, where = await _get(session, token, _url(consul, mark, ("stale",) if stale_s else ()), discover)
    if stale_s and _staleness_s(page) > stale_s:
        page, where = await _get(session, token, _url(consul, "", ()), discover)
    _check(page, where)
    places = lambda: endpoints_at(consul_places(page.body, consul, discover), discover)  # noqa: E731 - for a thread
    try:
        found = await asyncio.to_thread(places)
    except InvalidSpec as error:
        raise InvalidSpec(f"the answer of {where} cannot be used: {error}") from error
    return Answer(found, next_index(mark, page.headers.get("x-consul-index", "")))


async def _get(session: aiohttp.ClientSession, token: str | None, url: URL, discover: Discover) -> tuple[Page, str]:
    wait_s = discover.consul.wait.total_seconds() if discover.consul is not None and "index" in url.query else 0.0
    limit_s = discover.timeout.total_seconds() + wait_s + wait_s / WAIT_PART
    question = Question(url, {} if token is None else {"X-Consul-Token": token}, limit_s, MOST_BYTES)
    return await get(session, question), question.where


def _url(consul: Consul, index: str, modes: tuple[str, ...]) -> URL:
    base = URL(consul.url)
    # One that asks for a path of its own, as behind a proxy, keeps it.
    path = URL.build(scheme=base.scheme, host=base.host or "", port=base.port, path=base.path.rstrip("/"))
    query = [("tag", tag) for tag in consul.tags]
    query += [("passing", "1")] if consul.passing else []
    narrowed = {"dc": consul.datacenter, "ns": consul.namespace, "partition": consul.partition, "peer": consul.peer}
    query += [(name, value) for name, value in {**narrowed, "filter": consul.filter}.items() if value]
    query += [("index", index), ("wait", f"{consul.wait.total_seconds():.0f}s")] if index else []
    return (path / "v1/health/service" / consul.service).with_query([*query, *((mode, "") for mode in modes)])


def _staleness_s(page: Page) -> float:
    """Return how old an answer may be: when the server that gave it last heard of its leader."""
    said = page.headers.get("x-consul-lastcontact", "")
    return int(said) / 1000 if said.isascii() and said.isdecimal() else float("inf")


def _check(page: Page, where: str) -> None:
    """Raise Unavailable for what is no good answer."""
    if page.status in (401, 403):
        raise Unavailable(f"HTTP {page.status} from {where}: the token is not good for it; see `token_env`")
    if page.status == 400:  # a filter that is none, or what only its Enterprise edition knows
        said = plain_line(page.body[: 8 * SAID_CHARACTERS].decode(errors="replace"))[:SAID_CHARACTERS]
        raise Unavailable(f"HTTP 400 from {where}: {said}")
    if page.status != 200:
        raise Unavailable(f"HTTP {page.status} from {where}")
    if page.headers.get("x-consul-knownleader", "true").lower() == "false":
        raise Unavailable(f"{where} knows of no leader of Consul, so its answer may be old")
