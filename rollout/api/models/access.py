"""Who may use the API, as it is told and asked for."""

from typing import Annotated, Literal, NotRequired

from pydantic import Field
from typing_extensions import TypedDict

from rollout.api.models.values import Instant
from rollout.rights import Role, Via

TokenName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._@-]{0,63}$", examples=["ci-shop"])]
Patterns = Annotated[list[Annotated[str, Field(pattern=r"^[^\s]{1,253}$")]], Field(max_length=100)]
Lifetime = Annotated[str, Field(pattern=r"^[0-9]{1,6}[smhdw]$", examples=["90d"])]


class Me(TypedDict):
    """Who you are here, and what you may do."""

    name: str
    """Your token's name, your certificate's, or what the proxy says; "" where nobody is asked."""
    role: Role
    """What you may do."""
    services: list[str]
    """The services that this is for, as names or patterns; [] for all."""
    via: Via
    """How you have shown it."""
    authentication: bool
    """Whether the server asks who somebody is."""
    csrf: str | None
    """What changes from a browser bring as `X-CSRF-Token`; null where they need not."""


class Login(TypedDict):
    """A token, to log in with."""

    token: Annotated[str, Field(min_length=1, max_length=1000)]
    """As `rollout token create` has told it."""


class LoggedOut(TypedDict):
    """Nothing: the session has ended."""


class TokenBody(TypedDict):
    """A token that is asked for."""

    name: TokenName
    """What its owner is called in the records; no other token has it."""
    role: Role
    """What it is for."""
    services: NotRequired[Patterns | None]
    """The services that it is for, as names or patterns such as `shop-*`; left out: all."""
    expires: NotRequired[Lifetime | Literal[""] | None]
    """How long it holds, as `12h`, `90d` or `4w`; left out: until it is revoked."""


class Token(TypedDict):
    """A token that was given out, without its secret."""

    id: str
    """What names it, as its name does; no other token ever has it."""
    name: str
    """What its owner is called in the records."""
    role: Role
    """What it is for."""
    services: list[str]
    """The services that it is for; [] for all."""
    created_at: Instant
    """When it was made."""
    created_by: str
    """Who has made it."""
    expires_at: Instant | None
    """When it ends by itself; null: it does not."""
    expired: bool
    """Whether it has ended by itself."""
    last_used_at: Instant | None
    """When it was used last since the server runs."""


class NewToken(Token):
    """A token that was just made, with its secret, which is told here only."""

    token: str
    """The secret."""


class Tokens(TypedDict):
    """All tokens that were given out."""

    tokens: list[Token]
    """By name."""
