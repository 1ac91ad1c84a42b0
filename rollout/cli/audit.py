"""`rollout audit list`: who did what."""

from typing import Annotated
from urllib.parse import urlencode

import typer

from rollout import screen
from rollout.caller import Caller
from rollout.cli.options import UNSAID, AsJson, Server

LIMIT = 100


def list_rows(
    service: Annotated[str | None, typer.Argument(help="Only what concerns this service.")] = None,
    *,
    who: Annotated[str | None, typer.Option(metavar="NAME", help="Only what this person or program asked for.")] = None,
    verb: Annotated[str | None, typer.Option(metavar="VERB", help="Only what asked for this.")] = None,
    limit: Annotated[int, typer.Option(metavar="N", min=1, max=1000, help="How many at most.")] = LIMIT,
    server: Server = UNSAID,
    as_json: AsJson = False,
) -> None:
    """List who asked for what, how and from where, and what came of it; the newest first."""
    given = {"service": service, "who": who, "verb": verb, "limit": str(limit)}
    query = urlencode({name: value for name, value in given.items() if value is not None})
    Caller(server, as_json).get(f"/v1/audit?{query}", screen.audit_table)
