"""Tokens and sessions as rows: what a save writes of them, and how they are read."""

import json
from collections.abc import Mapping
from datetime import datetime
from typing import Any, assert_never

from sqlite_utils import Database

from rollout.credentials import CredentialChange, DropSession, DropToken, PutSession, PutToken, Session, Token
from rollout.rights import Grant, Role
from rollout.store.rows import to_text


def apply_to_credentials(database: Database, change: CredentialChange) -> None:
    match change:
        case PutToken(token):
            row = {"hash": token.hash, "name": token.name, "role": token.grant.role.value}
            row |= {"services": json.dumps(token.grant.services), "created_at": to_text(token.created_at)}
            until = None if token.expires_at is None else to_text(token.expires_at)
            database["tokens"].insert({**row, "created_by": token.created_by, "expires_at": until})
        case DropToken(key):
            database.execute("DELETE FROM sessions WHERE token = ?", [key])
            database.execute("DELETE FROM tokens WHERE substr(hash, 1, length(?)) = ?", [key, key])
        case PutSession(session):
            row = {"hash": session.hash, "token": session.token, "proof": session.proof}
            row |= {"created_at": to_text(session.created_at), "seen_at": to_text(session.seen_at)}
            database["sessions"].upsert(row, pk="hash")
        case DropSession(hashed):
            database.execute("DELETE FROM sessions WHERE hash = ?", [hashed])
        case _:
            assert_never(change)


def to_token(row: Mapping[str, Any]) -> Token:
    until = None if row["expires_at"] is None else datetime.fromisoformat(row["expires_at"])
    grant = Grant(Role(row["role"]), tuple(json.loads(row["services"])))
    return Token(row["name"], row["hash"], grant, datetime.fromisoformat(row["created_at"]), row["created_by"], until)


def to_session(row: Mapping[str, Any]) -> Session:
    times = datetime.fromisoformat(row["created_at"]), datetime.fromisoformat(row["seen_at"])
    return Session(row["hash"], row["token"], row["proof"], *times)
