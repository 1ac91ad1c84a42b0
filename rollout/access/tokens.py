"""Tokens: made, listed and revoked; the secret of one is told once, and then nobody but its owner has it."""

import secrets
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import datetime

from rollout.credentials import (
    PREFIX,
    SECRET_BYTES,
    DropToken,
    PutToken,
    Token,
    Wanted,
    check_first,
    check_no_secret,
    check_wanted,
    hashed,
    made,
)
from rollout.errors import Conflict, Unknown
from rollout.ledger import Ledger
from rollout.rights import Asker
from rollout.saver import Saver, Saving

TOKENS_LIMIT = 1_000


@dataclass(frozen=True, slots=True)
class Circumstances:
    """What there is beside tokens. `is_on`: requests must show who they are; `has_root`: one token is always there."""

    is_on: bool
    has_root: bool


def new_secret() -> str:
    """Return the secret of a new token."""
    return PREFIX + secrets.token_urlsafe(SECRET_BYTES)


class Tokens:
    """The tokens that were given out. `beside` says what there is beside them."""

    def __init__(
        self, ledger: Ledger, saver: Saver, wall: Callable[[], datetime], beside: Callable[[], Circumstances]
    ) -> None:
        self._ledger = ledger
        self._saver = saver
        self._wall = wall
        self._beside = beside
        self._tokens: dict[str, Token] = {}
        self._used: dict[str, datetime] = {}
        self._names: set[str] = set()  # of tokens that are being saved, too

    def restore(self, tokens: Iterable[Token]) -> None:
        """Take up what was saved."""
        self._tokens = {each.hash: each for each in tokens}
        self._names = {each.name for each in self._tokens.values()}

    def exist(self) -> bool:
        """Say whether there is any, usable or not: a token that has expired must not open the door to everybody."""
        return bool(self._tokens)

    def all(self) -> tuple[Token, ...]:
        return tuple(sorted(self._tokens.values(), key=lambda each: each.name))

    def find(self, secret: str) -> Token | None:
        """Return the token that has a secret. A hash is looked up, so its timing says nothing of the secret."""
        return self._tokens.get(hashed(secret))

    def by_key(self, key: str) -> Token | None:
        return next((each for each in self._tokens.values() if each.key == key), None)

    def note_use(self, token: Token) -> None:
        self._used[token.key] = self._wall()

    def has_expired(self, token: Token) -> bool:
        return not token.usable(self._wall())

    def used_at(self, token: Token) -> datetime | None:
        """Return when a token was used last since the server runs."""
        return self._used.get(token.key)

    async def create(self, wanted: Wanted, by: Asker) -> tuple[Token, str]:
        """Make a token; return it and its secret, which is told nowhere else. Raises InvalidSpec or Conflict."""
        check_wanted(wanted)
        with self._ledger.asked("", "token create", by, str(wanted)) as entry:
            self._check_new(wanted)
            entry.about_to(f"create the token {wanted}")
            token, secret = self._made(wanted, by)
            self._names.add(token.name)
            changes = (PutToken(token), entry.result(f"done: {token.key}"))
            await self._saver.wait(self._saver.put(Saving(changes, then=lambda: self._take(token))))
            return token, secret

    async def revoke(self, word: str, by: Asker) -> Token:
        """Take a token, by its name or its key, and the sessions that it opened, back at once. Raises Unknown."""
        check_no_secret("token", word)
        with self._ledger.asked("", "token revoke", by, word) as entry:
            found = self.by_key(word) or next((each for each in self.all() if each.name == word), None)
            if found is None:
                raise Unknown(f"there is no token '{word[:80]}'; see `rollout token list`")
            self._check_old(found)
            entry.about_to(f"revoke the token {found.name}, and end its sessions")
            # First of all it does not count any more: should the disk fail, that is the better of two faults.
            del self._tokens[found.hash]
            self._names.discard(found.name)
            self._used.pop(found.key, None)
            changes = (DropToken(found.key), entry.result(f"done: {found.key}"))
            await self._saver.wait(self._saver.put(Saving(changes)))
            return found

    def _take(self, token: Token) -> None:
        self._tokens[token.hash] = token

    def _made(self, wanted: Wanted, by: Asker) -> tuple[Token, str]:
        """Return a token with a key of its own, for eight digits of two may be the same; and its secret."""
        while True:
            secret = new_secret()
            token = made(wanted, secret, str(by), self._wall())
            if self.by_key(token.key) is None:
                return token, secret

    def _check_new(self, wanted: Wanted) -> None:
        if wanted.name in self._names:
            raise Conflict(f"there is a token '{wanted.name}'; revoke it, or take another name")
        if len(self._names) >= TOKENS_LIMIT:
            raise Conflict(f"there are {TOKENS_LIMIT} tokens; revoke those that nobody uses")
        if not self._beside().is_on:
            check_first(wanted)

    def _check_old(self, token: Token) -> None:
        now = self._wall()
        others = any(each.rules_all(now) for each in self._tokens.values() if each is not token)
        if token.rules_all(now) and not others and not self._beside().has_root:
            what = f"'{token.name}' is the last token that may do everything, and nobody could make another"
            raise Conflict(f"{what}; make one before, or start the server with ROLLOUT_TOKEN")
