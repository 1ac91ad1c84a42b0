"""Tokens and sessions of the page as they are remembered: whose, for what, until when; of a secret only its hash."""

import hashlib
import hmac
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from types import MappingProxyType

from rollout.errors import Conflict, InvalidSpec
from rollout.rights import Grant, Role

PREFIX = "rlt_"
"""What every token begins with, so that programs that look for lost secrets find it."""
SECRET_BYTES = 32
KEY_DIGITS = 8
SESSION_LIMIT = timedelta(hours=12)
IDLE_LIMIT = timedelta(hours=2)
ROOT = "root"
"""The name of who has the token of the server's environment."""
LONGEST = timedelta(days=3650)
SERVICES_LIMIT = 100
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@-]{0,63}")
_PATTERN = re.compile(r"[^\s\x00-\x1f\x7f]{1,253}")
_SECRET = re.compile(rf"{PREFIX}[A-Za-z0-9_-]+")
_KEY = re.compile(rf"[0-9a-f]{{{KEY_DIGITS}}}")
_LIFETIME = re.compile(r"([0-9]{1,6})([smhdw])")
_UNITS: Mapping[str, timedelta] = MappingProxyType(
    {
        "s": timedelta(seconds=1),
        "m": timedelta(minutes=1),
        "h": timedelta(hours=1),
        "d": timedelta(days=1),
        "w": timedelta(weeks=1),
    }
)


def hashed(secret: str) -> str:
    """Return what is kept of a secret that we made.

    A plain SHA-256 is right for it: it has 256 random bits, which nobody can guess, so neither salt nor a slow hash
    would add anything. (For passwords that people choose it would be wrong.)
    """
    return hashlib.sha256(secret.encode("utf-8", "surrogateescape")).hexdigest()


def derived(secret: str, of: str) -> str:
    """Return a secret that follows from another one, which it does not give away."""
    return hmac.new(secret.encode(), of.encode(), hashlib.sha256).hexdigest()


def without_secrets(text: str) -> str:
    """Return a text in which a token that somebody has put in the wrong place cannot be read."""
    return _SECRET.sub(f"{PREFIX}...", text)


def same(one: str, other: str) -> bool:
    """Say whether two secrets are the same, in a time that does not depend on where they differ."""
    # Headers of a request may be any bytes.
    return hmac.compare_digest(one.encode("utf-8", "surrogateescape"), other.encode("utf-8", "surrogateescape"))


@dataclass(frozen=True, slots=True)
class Token:
    """A token that was given out. `expires_at` None: it holds until it is revoked."""

    name: str
    hash: str
    grant: Grant
    created_at: datetime
    created_by: str
    expires_at: datetime | None = None

    @property
    def key(self) -> str:
        """What names it besides its name, and no other one ever."""
        return self.hash[:KEY_DIGITS]

    def usable(self, now: datetime) -> bool:
        return self.expires_at is None or now < self.expires_at

    def rules_all(self, now: datetime) -> bool:
        """Say whether who has it may do everything."""
        return self.usable(now) and self.grant.allows(Role.ADMIN, None)


@dataclass(frozen=True, slots=True)
class Session:
    """A login of the web page. `token` is the key of the token that it was opened with, "" for the root token.

    `proof` is derived from the session's secret and the root token, so that it ends when that becomes another one;
    "" for other tokens. `seen_at` is when it was used last, to some minutes.
    """

    hash: str
    token: str
    proof: str
    created_at: datetime
    seen_at: datetime

    @property
    def key(self) -> str:
        return self.hash[:KEY_DIGITS]

    def usable(self, now: datetime) -> bool:
        return now < self.created_at + SESSION_LIMIT and now < self.seen_at + IDLE_LIMIT


@dataclass(frozen=True, slots=True)
class PutToken:
    token: Token


@dataclass(frozen=True, slots=True)
class DropToken:
    """Forget a token, and the sessions that were opened with it."""

    key: str


@dataclass(frozen=True, slots=True)
class PutSession:
    session: Session


@dataclass(frozen=True, slots=True)
class DropSession:
    hash: str


CredentialChange = PutToken | DropToken | PutSession | DropSession


@dataclass(frozen=True, slots=True)
class Wanted:
    """A token that somebody asks for; `lifetime` None: without an end."""

    name: str
    grant: Grant
    lifetime: timedelta | None = None

    def __str__(self) -> str:
        of = f" of {', '.join(self.grant.services)}" if self.grant.services else ""
        until = "" if self.lifetime is None else f", for {str(self.lifetime).removesuffix(', 0:00:00')}"
        return f"{self.name}: {self.grant.role}{of}{until}"


def check_wanted(wanted: Wanted) -> None:
    """Raise InvalidSpec for a token that cannot be."""
    check_no_secret("name", wanted.name)
    if not _NAME.fullmatch(wanted.name):
        raise InvalidSpec(f"name: '{wanted.name[:80]}' must be letters, digits and . _ @ -, at most 64, as ci-shop")
    if wanted.name.lower() == ROOT or _KEY.fullmatch(wanted.name):
        raise InvalidSpec(f"name: '{wanted.name}' means something else here; take another one, as ci-shop")
    check_services(wanted.grant.services)


def check_no_secret(field: str, word: str) -> None:
    """Raise InvalidSpec for a secret where a name belongs, before it is written anywhere."""
    if _SECRET.search(word):
        raise InvalidSpec(f"{field}: is a token's secret; give its name or id, and revoke it if others have read it")


def check_first(wanted: Wanted) -> None:
    """Raise Conflict for a first token that would lock everybody out."""
    if not wanted.grant.allows(Role.ADMIN, None):
        what = "the first token turns authentication on, so it must be an admin's without limits"
        raise Conflict(f"{what}: `rollout token create NAME --role admin`; then make this one with it")


def check_services(services: tuple[str, ...]) -> None:
    """Raise InvalidSpec for what can be no services' names, or patterns of them."""
    if len(services) > SERVICES_LIMIT:
        raise InvalidSpec(f"services: are {len(services)}, at most {SERVICES_LIMIT} fit; write patterns, as shop-*")
    wrong = next((each for each in services if not _PATTERN.fullmatch(each)), None)
    if wrong is not None:
        raise InvalidSpec(f"services: '{wrong[:80]}' is neither a service's name nor a pattern such as shop-*")


def parse_role(word: str) -> Role:
    """Raises InvalidSpec."""
    if word not in list(Role):
        raise InvalidSpec(f"role: '{word[:80]}' is no role; there are {', '.join(Role)}")
    return Role(word)


def parse_lifetime(text: str) -> timedelta:
    """Parse 12h, 90d or 4w. Raises InvalidSpec."""
    found = _LIFETIME.fullmatch(text.strip())
    lifetime = timedelta() if found is None else int(found[1]) * _UNITS[found[2]]
    if not timedelta() < lifetime <= LONGEST:
        raise InvalidSpec(f"expires: '{text[:80]}' is no time to live; write 12h, 90d or 4w, up to {LONGEST.days}d")
    return lifetime


def made(wanted: Wanted, secret: str, by: str, now: datetime) -> Token:
    """Return the token that has this secret. Raises InvalidSpec."""
    check_wanted(wanted)
    until = None if wanted.lifetime is None else now + wanted.lifetime
    return Token(wanted.name, hashed(secret), wanted.grant, now, by, until)
