"""`rollout events`: what has happened, and what happens from now on."""

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Annotated
from urllib.parse import urlencode

import typer

from rollout import screen
from rollout.caller import DONE, Caller, say, stdout
from rollout.cli.options import UNSAID, AsJson, Server
from rollout.client import AWAY_LIMIT_S, POLL_S, Client, Json
from rollout.errors import Unavailable
from rollout.happenings import Severity

PAGE = 500
SHOWN = 50


def events(
    service: Annotated[str | None, typer.Argument(help="Only this service's; without: all, and the fleet's.")] = None,
    *,
    follow: Annotated[bool, typer.Option("--follow", help="Go on with what happens, until interrupted.")] = False,
    after: Annotated[int | None, typer.Option(metavar="ID", help="Only what came after this event.")] = None,
    severity: Annotated[Severity, typer.Option(help="Only what matters at least as much.")] = Severity.INFO,
    server: Server = UNSAID,
    as_json: AsJson = False,
) -> None:
    """List the last events, the newest last.

    With --follow it goes on over a restart of the server, and leaves nothing out. With --json each event is one line.

    Example: rollout events checkout --follow --severity warning
    """
    caller = Caller(server, as_json)
    asked = {"severity": severity.value, **({"service": service} if service else {})}

    async def work(client: Client) -> int:
        page = await client.get(_path(asked, after))
        _show(page, as_json=as_json)
        if after is not None or follow:
            async for more in _later(client, asked, page, follow=follow):
                _show(more, as_json=as_json)
        return DONE

    caller.run(work)


async def _later(client: Client, asked: dict[str, str], page: Json, *, follow: bool) -> AsyncIterator[Json]:
    """Yield what comes after a page, in parts: up to now, or without end. A server may be away for a while."""
    clock = asyncio.get_running_loop().time
    answered_s, away = clock(), False
    while follow or len(page["events"]) == PAGE:
        if len(page["events"]) < PAGE:
            await asyncio.sleep(POLL_S)
        try:
            page = await client.get(_path(asked, page["next"]))
        except Unavailable as error:
            if clock() - answered_s > AWAY_LIMIT_S:
                raise
            if not away:
                say(f"trying again: {error}")
            away = True
            continue
        answered_s, away = clock(), False
        yield page


def _path(asked: dict[str, str], after: int | None) -> str:
    place = {"limit": str(SHOWN)} if after is None else {"after": str(after), "limit": str(PAGE)}
    return f"/v1/events?{urlencode({**asked, **place})}"


def _show(page: Json, *, as_json: bool) -> None:
    if page["reset"] is not None:
        say(f"older events are gone: the oldest that is kept is {page['reset']['oldest']}")
    for event in page["events"]:
        if as_json:
            typer.echo(json.dumps(event))
        else:
            stdout().print(screen.event_line(event), soft_wrap=True)
