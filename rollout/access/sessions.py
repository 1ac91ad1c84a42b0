"""Sessions of the web page: opened with a token, in the browser as a cookie, ended with the token or by themselves."""

import secrets
from collections.abc import Callable, Iterable
from dataclasses import replace
from datetime import datetime, timedelta

from rollout.access.tokens import Tokens
from rollout.credentials import (
    ROOT,
    SECRET_BYTES,
    DropSession,
    PutSession,
    Session,
    Token,
    derived,
    hashed,
    same,
)
from rollout.record import Change, Operation, PutAudit
from rollout.rights import Asker, Grant, Identity, Role, Via
from rollout.saver import Saver, Saving

SESSIONS_LIMIT = 1_000
SESSIONS_EACH = 50  # of one token, whose owner could end all others' by logging in again and again
SAVED_EVERY = timedelta(minutes=5)  # a restart may forget so much of when a session was used
PROOF, CSRF = "root token", "csrf"


class Sessions:
    """The logins in force. `root` is the token in the server's environment, None for none."""

    def __init__(self, saver: Saver, wall: Callable[[], datetime], tokens: Tokens, root: str | None) -> None:
        self._saver = saver
        self._wall = wall
        self._tokens = tokens
        self._root = root
        self._sessions: dict[str, Session] = {}
        self._saved_at: dict[str, datetime] = {}

    def restore(self, sessions: Iterable[Session]) -> None:
        """Take up what was saved."""
        self._sessions = {each.hash: each for each in sessions}
        self._saved_at = {each.hash: each.seen_at for each in self._sessions.values()}

    async def open(self, token: Token | None, by: Asker) -> tuple[Identity, str]:
        """Open a session with a token, None for the root token; return whose it is, and its secret for the cookie."""
        secret, now = secrets.token_urlsafe(SECRET_BYTES), self._wall()
        proof = self._proof(secret) if token is None else ""
        session = Session(hashed(secret), "" if token is None else token.key, proof, now, now)
        gone = self._ended(session.token)
        changes: tuple[Change, ...] = (PutSession(session), self._noted("login", by, session), *map(DropSession, gone))
        await self._saver.wait(self._saver.put(Saving(changes, then=lambda: self._take(session, gone))))
        return self._identity(session, token), secret

    def find(self, secret: str) -> Identity | None:
        """Return whose session has a secret, None when it has ended; this keeps it from ending by itself."""
        session = self._sessions.get(hashed(secret)) if secret else None
        if session is None or not self._holds(session, secret):
            return None
        now = self._wall()
        session = self._sessions[session.hash] = replace(session, seen_at=now)
        if now - self._saved_at[session.hash] > SAVED_EVERY:
            self._saved_at[session.hash] = now
            self._saver.put(Saving((PutSession(session),)))
        token = self._tokens.by_key(session.token) if session.token else None
        return self._identity(session, token)

    def holds(self, key: str) -> bool:
        """Say whether a session that was found is still in force, for what goes on for long; it is no use of it."""
        session = next((each for each in self._sessions.values() if each.key == key), None)
        return session is not None and self._is_usable(session)

    async def close(self, secret: str, by: Asker) -> None:
        """End a session; one that has ended already is none."""
        session = self._sessions.pop(hashed(secret), None)
        if session is not None:
            self._saved_at.pop(session.hash, None)
            changes = (DropSession(session.hash), self._noted("logout", by, session))
            await self._saver.wait(self._saver.put(Saving(changes)))

    def _holds(self, session: Session, secret: str) -> bool:
        if not self._is_usable(session):
            return False
        return bool(session.token) or same(session.proof, self._proof(secret))

    def _is_usable(self, session: Session) -> bool:
        now = self._wall()
        if not session.usable(now):
            return False
        if not session.token:
            return self._root is not None
        token = self._tokens.by_key(session.token)
        return token is not None and token.usable(now)

    def _proof(self, secret: str) -> str:
        return derived(secret, f"{PROOF} {self._root}")

    def _ended(self, token: str) -> tuple[str, ...]:
        """Return the sessions that have ended, and the one used longest ago where one more would be too many."""
        ended = [each.hash for each in self._sessions.values() if not self._is_usable(each)]
        rest = [each for each in self._sessions.values() if each.hash not in ended]
        mine = [each for each in rest if each.token == token]
        crowd = mine if len(mine) >= SESSIONS_EACH else rest if len(rest) >= SESSIONS_LIMIT else []
        return (*ended, *(each.hash for each in sorted(crowd, key=lambda each: each.seen_at)[:1]))

    def _take(self, session: Session, gone: tuple[str, ...]) -> None:
        for each in gone:
            self._sessions.pop(each, None)
            self._saved_at.pop(each, None)
        self._sessions[session.hash] = session
        self._saved_at[session.hash] = session.seen_at

    def _noted(self, verb: str, by: Asker, session: Session) -> PutAudit:
        return PutAudit(Operation(self._wall(), "", verb, str(by), f"session {session.key}", "done", by.origin))

    def _identity(self, session: Session, token: Token | None) -> Identity:
        if token is None:
            return Identity(ROOT, Grant(Role.ADMIN), Via.SESSION, session.key)
        return Identity(token.name, token.grant, Via.SESSION, session.key)
