"""The first token of a server that does not run yet: made in its data folder, by who may write there."""

from datetime import UTC, datetime
from getpass import getuser
from pathlib import Path

from rollout.access.tokens import new_secret
from rollout.credentials import PutToken, Token, Wanted, check_first, made
from rollout.errors import Conflict
from rollout.record import Operation, PutOperation
from rollout.store.sqlite import open_store


async def found(data: Path, wanted: Wanted) -> tuple[Token, str]:
    """Make a token; return it and its secret. Raises InvalidSpec, Unavailable, or Conflict while a server runs."""
    store, now = await open_store(data), datetime.now(UTC)
    try:
        contents = await store.load()
        if any(each.name == wanted.name for each in contents.tokens):
            raise Conflict(f"there is a token '{wanted.name}'; take another name")
        if not contents.tokens:
            check_first(wanted)
        secret, by = new_secret(), getuser()
        token = made(wanted, secret, by, now)
        done, origin = f"done: {token.key}", "the server's data folder"
        note = PutOperation(Operation(now, "", "token create", by, str(wanted), done, origin))
        await store.save((PutToken(token), note), engine_s=contents.engine_s)
        return token, secret
    finally:
        await store.close()
