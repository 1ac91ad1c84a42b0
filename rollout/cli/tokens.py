"""`rollout token ...`: who may use the admin API. The first token can be made in the data folder, without a server."""

import asyncio
from enum import StrEnum
from importlib import import_module
from pathlib import Path
from typing import Annotated

import typer

from rollout.caller import DONE, Caller, say
from rollout.cli.options import UNSAID, AsJson, DryRun, Server, named
from rollout.client import Client, Json, path_of
from rollout.credentials import Token, Wanted, check_no_secret, parse_lifetime
from rollout.errors import RolloutError
from rollout.rights import Grant, Role
from rollout.screen.tokens import revoked, token_words, tokens_table


class RoleName(StrEnum):
    """What a token may be for, as typer shows it."""

    VIEWER = "viewer"
    OPERATOR = "operator"
    ADMIN = "admin"


def create(  # noqa: PLR0913 - one parameter for each option
    name: Annotated[str, typer.Argument(callback=named, help="What its owner is called in the records.")],
    *,
    role: Annotated[RoleName, typer.Option(help="viewer reads, operator changes services, admin does everything.")],
    service: Annotated[
        list[str] | None,
        typer.Option(metavar="SERVICE", help="Only for this service, or a pattern as shop-*; may be repeated."),
    ] = None,
    expires: Annotated[str | None, typer.Option(metavar="TIME", help="How long it holds: 12h, 90d, 4w.")] = None,
    data: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Make it in the folder of a server that does not run.")
    ] = None,
    dry_run: DryRun = False,
    server: Server = UNSAID,
    as_json: AsJson = False,
) -> None:
    """Make a token and print its secret, once: the server keeps a hash of it only.

    The first one turns authentication on: from then on every request needs a token.

    Example: rollout token create ci-shop --role operator --service 'shop-*' --expires 90d
    """
    caller, services = Caller(server, as_json, dry_run), tuple(service or ())
    if data is not None:
        if dry_run:
            raise typer.BadParameter("asks a server, and --data none; leave one out", param_hint="--dry-run")
        try:
            wanted = Wanted(name, Grant(Role(role), services), None if expires is None else parse_lifetime(expires))
            view = _made_offline(data, wanted)
        except RolloutError as error:
            caller.fail(error)
        _tell(caller, view)
        raise typer.Exit(DONE)
    body = {"name": name, "role": role.value, "services": list(services), "expires": expires}

    async def work(client: Client) -> int:
        _tell(caller, await client.post(path_of("tokens"), body))
        return DONE

    caller.run(work)


def list_tokens(*, server: Server = UNSAID, as_json: AsJson = False) -> None:
    """List the tokens that were given out: for what, until when, and when they were used last."""
    Caller(server, as_json).get(path_of("tokens"), lambda answer: tokens_table(answer["tokens"]))


def revoke(
    token: Annotated[str, typer.Argument(callback=named, metavar="NAME|ID", help="As `rollout token list` has it.")],
    *,
    dry_run: DryRun = False,
    server: Server = UNSAID,
    as_json: AsJson = False,
) -> None:
    """Take a token back at once, and end the page's sessions that were opened with it."""
    caller = Caller(server, as_json, dry_run)
    try:
        check_no_secret("token", token)  # before it is sent, for paths are logged by what is on the way
    except RolloutError as error:
        caller.fail(error)
    caller.delete(path_of("tokens", token), revoked)


def _tell(caller: Caller, view: Json) -> None:
    """Print the secret alone on stdout, so that a script can take it."""
    if not caller.as_json:
        say(token_words(view))
    caller.show(view, lambda found: found["token"])


def _made_offline(data: Path, wanted: Wanted) -> Json:
    founding = import_module("rollout.access.founding")  # the store, which no other verb here should load
    token, secret = asyncio.run(founding.found(data, wanted))
    return {**_view(token), "token": secret}


def _view(token: Token) -> Json:
    """Return what the API says of a new token."""
    return {
        "id": token.key,
        "name": token.name,
        "role": token.grant.role,
        "services": list(token.grant.services),
        "created_at": token.created_at.isoformat(),
        "created_by": token.created_by,
        "expires_at": None if token.expires_at is None else token.expires_at.isoformat(),
        "expired": False,
        "last_used_at": None,
    }
