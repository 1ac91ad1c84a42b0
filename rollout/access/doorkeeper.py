"""Who asks: found out from what a request shows, by tokens, sessions, certificates and a trusted proxy."""

import contextlib
import secrets
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import NoReturn

from rollout.access.rejections import Kind
from rollout.access.sessions import CSRF, Sessions
from rollout.access.throttle import Throttle
from rollout.access.tokens import Circumstances, Tokens
from rollout.access.trust import Trust, by_proxy
from rollout.bootstrap import is_loopback
from rollout.credentials import PREFIX, ROOT, SECRET_BYTES, Token, derived, same
from rollout.errors import NotAllowed, NotIdentified, TooMany
from rollout.ledger import Ledger
from rollout.record import Contents, Operation
from rollout.rights import ANYBODY, Asker, Grant, Identity, Role, Via
from rollout.saver import Saver

FORWARDED = "X-Forwarded-For"
HOW = "send `Authorization: Bearer TOKEN` (CLI: ROLLOUT_TOKEN), or log in on the page"
NAMES_LIMIT = 300  # characters
UNKNOWN = f"the token is not known, or was revoked; {HOW}"


@dataclass(frozen=True, slots=True)
class Shown:
    """What a request shows of who sends it.

    `bearer`: the token in its header, None without one. `names`: those of its verified certificate. `header` returns
    each value of a header.
    """

    address: str
    bearer: str | None
    cookie: str
    names: frozenset[str]
    header: Callable[[str], Sequence[str]]


@dataclass(frozen=True, slots=True)
class Premises:
    """What a doorkeeper is given. `root`: the token in the server's environment, None for none.

    `trust` returns what the --admin-access file says now, None without one. `refused` hears of who was wrong: from
    where, and why; `declined` of changes by those who are known.
    """

    root: str | None
    trust: Callable[[], Trust | None]
    clock: Callable[[], float]
    wall: Callable[[], datetime]
    refused: Callable[[str, str], None]
    declined: Callable[[Kind, Operation], None]


class Doorkeeper:
    """Knows everybody. Authentication is on with a root token, any token given out, or an --admin-access file."""

    def __init__(self, premises: Premises, ledger: Ledger, saver: Saver) -> None:
        self._has = premises
        self.wall = premises.wall
        self.tokens = Tokens(ledger, saver, premises.wall, self._circumstances)
        self.sessions = Sessions(saver, premises.wall, self.tokens, premises.root)
        self._throttle = Throttle()
        self._key = secrets.token_urlsafe(SECRET_BYTES)

    def restore(self, contents: Contents) -> None:
        """Take up what was saved."""
        self.tokens.restore(contents.tokens)
        self.sessions.restore(contents.sessions)

    def is_on(self) -> bool:
        """Say whether requests must show who they are."""
        return self._has.root is not None or self._has.trust() is not None or self.tokens.exist()

    def identify(self, shown: Shown) -> Identity:
        """Return who sends a request. Raises NotIdentified, NotAllowed or TooMany."""
        if not self.is_on() and is_loopback(plain_address(shown.address)):
            return ANYBODY
        if shown.bearer is not None:
            return self._by_bearer(shown.bearer, shown)
        found = self.sessions.find(shown.cookie) or self._by_certificate(shown) or self._by_proxy(shown)
        if found is None:
            why = "the session has ended; log in again" if shown.cookie else self._unlisted(shown) or HOW
            raise NotIdentified(why)
        return found

    async def log_in(self, secret: str, by: Callable[[str], Asker], shown: Shown) -> tuple[Identity, str]:
        """Open a session with a token; return whose it is, and its secret. Raises NotIdentified or TooMany."""
        token = self.tokens.find(secret)
        if token is None:
            with self._heard_of(shown):
                self._throttle.check_all(self._has.clock())
            self._guess(secret, shown)
        else:
            self._check_usable(token, shown)
        return await self.sessions.open(token, by(ROOT if token is None else token.name))

    def turned_away(self, shown: Shown) -> None:
        """Hear of who may not go on unknown: a certificate that nobody listed is noted, who shows nothing is not."""
        if shown.bearer is None and not shown.cookie and (why := self._unlisted(shown)):
            self._has.refused(self.whence(shown), why)

    def whence(self, shown: Shown) -> str:
        """Return where a request comes from, for the records: behind the proxy, what that says of it, too."""
        trust, address = self._has.trust(), plain_address(shown.address)
        proxy = None if trust is None else trust.proxy
        client = None if proxy is None or not proxy.is_at(address) else proxy.client(shown.header(FORWARDED))
        return address if client is None else f"{client} through {address}"

    def declined(self, kind: Kind, done: Operation) -> None:
        """Hear of a change that was not made, though who wanted it is known."""
        self._has.declined(kind, done)

    def holds(self, identity: Identity, shown: Shown) -> bool:
        """Say whether who was identified a while ago may go on: for streams, which are one long request."""
        match identity.via:
            case Via.TOKEN:
                token = self.tokens.by_key(identity.key)
                return token is not None and token.usable(self._has.wall())
            case Via.SESSION:
                return self.sessions.holds(identity.key)
            case Via.CERTIFICATE:
                return self._by_certificate(shown) == identity
            case Via.PROXY:
                return self._still_by_proxy(identity, shown)
            case Via.LOOPBACK:
                return not self.is_on()
            case _:
                return True

    def csrf(self, identity: Identity, cookie: str) -> str | None:
        """Return what changes must bring that browsers send, for a browser shows who asks on every page's behalf."""
        match identity.via:
            case Via.SESSION:
                return derived(cookie, CSRF)
            case Via.CERTIFICATE | Via.PROXY:
                return derived(self._key, f"{CSRF} {identity.via} {identity.name}")
            case _:
                return None

    def _circumstances(self) -> Circumstances:
        return Circumstances(self.is_on(), self._has.root is not None)

    def _by_bearer(self, secret: str, shown: Shown) -> Identity:
        token = self.tokens.find(secret)
        if token is None:
            if secret.startswith(PREFIX):  # none of ours, and none that a guess finds: who lost one harms nobody else
                self._refuse(shown, UNKNOWN)
            self._guess(secret, shown)
            return Identity(ROOT, Grant(Role.ADMIN), Via.ROOT)
        self._check_usable(token, shown)
        self.tokens.note_use(token)
        return Identity(token.name, token.grant, Via.TOKEN, token.key)

    def _guess(self, secret: str, shown: Shown) -> None:
        """Raise NotIdentified for what is not the root token, TooMany where that was so too often.

        People choose that token, so it might be guessed; those that we make cannot be.
        """
        # Not by what a proxy says of its client: where it passes that on unseen, each guess could come from elsewhere.
        address, now_s = shown.address, self._has.clock()
        with self._heard_of(shown):
            self._throttle.check(address, now_s)
        if self._has.root is not None and same(secret, self._has.root):
            return
        self._throttle.failed(address, now_s)
        self._refuse(shown, UNKNOWN)

    @contextlib.contextmanager
    def _heard_of(self, shown: Shown) -> Iterator[None]:
        """Have those counted that are not even looked at."""
        try:
            yield
        except TooMany as error:
            self._has.refused(self.whence(shown), str(error))
            raise

    def _check_usable(self, token: Token, shown: Shown) -> None:
        if not token.usable(self._has.wall()):
            self._refuse(shown, f"the token '{token.name}' has expired; have another made by `rollout token create`")

    def _refuse(self, shown: Shown, why: str) -> NoReturn:
        self._has.refused(self.whence(shown), why)
        raise NotIdentified(why)

    def _by_certificate(self, shown: Shown) -> Identity | None:
        trust = self._has.trust()
        return None if trust is None else trust.by_certificate(shown.names)

    def _unlisted(self, shown: Shown) -> str:
        """Say what is wrong with a verified certificate that names nobody who is known; "" without one."""
        if not shown.names:
            return ""
        named = ", ".join(sorted(shown.names))[:NAMES_LIMIT]
        if self._has.trust() is None:
            return f"your certificate ({named}) counts only with a file that lists it: --admin-access; or {HOW}"
        return f"your certificate is good, but no name of it ({named}) is in the --admin-access file; add one, or {HOW}"

    def _still_by_proxy(self, identity: Identity, shown: Shown) -> bool:
        try:
            return self._by_proxy(shown) == identity
        except NotAllowed:
            return False

    def _by_proxy(self, shown: Shown) -> Identity | None:
        trust = self._has.trust()
        proxy = None if trust is None else trust.proxy
        if proxy is None or not shown.header(proxy.user):
            return None
        address = plain_address(shown.address)
        if not proxy.is_at(address):
            self._has.refused(address, f"{proxy.user} counts only from the proxy, which has another address")
            return None
        try:
            said = by_proxy(proxy, shown.header)
        except ValueError as error:
            raise NotAllowed(str(error)) from error
        if said is None:
            return None
        user, groups = said
        grant = proxy.grant(groups)
        if grant is None:
            raise NotAllowed(f"'{user}' is in no group that may use this; the --admin-access file says which may")
        return Identity(user, grant, Via.PROXY)


def plain_address(address: str) -> str:
    """Return an IPv4 address that stands in one of IPv6 as itself."""
    return address.removeprefix("::ffff:") if "." in address else address
