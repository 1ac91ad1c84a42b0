"""Hooks of a strategy as a user writes them: when somebody is asked or told, how, and what an answer does."""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import timedelta
from enum import StrEnum

from pydantic import Field, field_validator, model_validator
from yarl import URL

from rollout.concealed import Headers, SecretAddress, Template, header_values, host_of, http_url
from rollout.fields import Duration, Limit, Spec

MOST_HOOKS = 20
MOST_RETRIES = 10
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")
_COMMAND = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
_VARIABLE = re.compile(r"ROLLOUT_HOOK_[A-Z0-9_]{1,100}")


class HookKind(StrEnum):
    """When a hook is called, and what its answer does.

    The `confirm-...` ones are asked again and again until they agree; `rollback` until it says to go back; `rollout` as
    long as traffic is shifted, and must agree. The others are called once, and tried again when they fail.
    """

    CONFIRM_ROLLOUT = "confirm-rollout"
    PROVISION = "provision"
    PRE_ROLLOUT = "pre-rollout"
    ROLLOUT = "rollout"
    ROLLBACK = "rollback"
    CONFIRM_TRAFFIC_INCREASE = "confirm-traffic-increase"
    CONFIRM_PROMOTION = "confirm-promotion"
    TERMINATE = "terminate"
    POST_ROLLOUT = "post-rollout"
    EVENT = "event"


ASKED_AGAIN = frozenset(
    {
        HookKind.CONFIRM_ROLLOUT,
        HookKind.CONFIRM_TRAFFIC_INCREASE,
        HookKind.CONFIRM_PROMOTION,
        HookKind.ROLLOUT,
        HookKind.ROLLBACK,
    }
)
"""Kinds that are asked every `interval`; their last answer counts."""
RETRIED = frozenset({*HookKind} - ASKED_AGAIN | {HookKind.ROLLOUT})
"""Kinds that are tried again when they fail; the others are soon asked again in any case."""


class Hook(Spec):
    """One hook: a webhook (`url`, JSON by POST, 2xx agrees) or a command in the folder of --commands (0 agrees).

    Each try may take `timeout`; `retries` more follow, `backoff` after the first, and then twice as late each time.
    `secret` names the environment variable, ROLLOUT_HOOK_..., with the key of the webhook's signature. `reversible`:
    false where what it does cannot be undone; after it the engine asks instead of rolling back by itself.
    """

    at: HookKind
    name: str = ""
    url: SecretAddress | None = Field(default=None, repr=False)
    command: tuple[Template, ...] | None = None
    headers: Headers = Field(default_factory=dict)
    secret: str | None = None
    timeout: Limit = timedelta(seconds=10)
    retries: int = Field(default=3, ge=0, le=MOST_RETRIES)
    interval: Limit = timedelta(seconds=5)
    backoff: Duration = timedelta(seconds=1)
    reversible: bool = True

    @property
    def label(self) -> str:
        """Its name; without one, the command's, or the host of the webhook."""
        return self.name or (self.command[0] if self.command else self.host)

    @property
    def host(self) -> str:
        """HOST[:PORT] of a webhook, "" of a command."""
        return host_of(URL(self.url)) if self.url else ""

    @property
    def asked_again(self) -> bool:
        return self.at in ASKED_AGAIN

    _headers = field_validator("headers")(header_values)

    @field_validator("name")
    @classmethod
    def _named(cls, value: str) -> str:
        if value and _NAME.fullmatch(value) is None:
            raise ValueError(f"'{value}' is no name; use up to 63 of A-Z a-z 0-9 . _ -")
        return value

    @field_validator("command", mode="before")
    @classmethod
    def _words(cls, value: object) -> object:
        return (value,) if isinstance(value, str) else value

    @field_validator("command")
    @classmethod
    def _program(cls, value: tuple[str, ...] | None) -> tuple[str, ...] | None:
        if value is not None and (not value or _COMMAND.fullmatch(value[0]) is None):
            raise ValueError("name a program in the folder of --commands, without a path")
        if value is not None and any("\0" in word for word in value):
            raise ValueError("has a zero byte in it, which no command can be given")
        return value

    @field_validator("url")
    @classmethod
    def _http(cls, value: str | None) -> str | None:
        if value is not None and http_url(value) is None:  # told without the text: it may hold a password
            raise ValueError("is no address to call; write http://HOST:PORT/PATH or https://HOST/PATH")
        return value

    @field_validator("secret")
    @classmethod
    def _variable(cls, value: str | None) -> str | None:
        if value is not None and _VARIABLE.fullmatch(value) is None:
            raise ValueError("name an environment variable of the server, as ROLLOUT_HOOK_KEY; not the key itself")
        return value

    @model_validator(mode="after")
    def _one(self) -> "Hook":
        if (self.url is None) == (self.command is None):
            raise ValueError("give one of url, command")
        if self.url is None and (self.headers or self.secret):
            raise ValueError("headers and secret are of a webhook; give `url`")
        # Who confirms may do what cannot be undone, and agree once it is done.
        if not self.reversible and self.at in (HookKind.ROLLOUT, HookKind.ROLLBACK, HookKind.EVENT):
            raise ValueError(f"a hook at {self.at} cannot be irreversible; it is called again and again")
        return self


@dataclass(frozen=True, slots=True)
class Call:
    """A hook that is wanted now. `number` counts the strategy's hooks from 0; `occasion` tells one call from another.

    Of a hook that is called in each stage the occasion is the stage's number, of others "".
    """

    number: int
    occasion: str = ""

    @property
    def key(self) -> str:
        return f"{self.number}/{self.occasion}" if self.occasion else str(self.number)


@dataclass(frozen=True, slots=True)
class Answer:
    """What came of a call, after its retries: whether it agreed, and in words why not; `at_s` is the engine's time."""

    agreed: bool
    at_s: float
    words: str = ""


def named_apart(hooks: tuple[Hook, ...]) -> tuple[Hook, ...]:
    """The hooks themselves. Raises ValueError when there are too many, or two at the same point have the same name."""
    if len(hooks) > MOST_HOOKS:
        raise ValueError(f"has {len(hooks)}; {MOST_HOOKS} are the most")
    labels = [(hook.at, hook.label) for hook in hooks]
    twice = next((label for label in labels if labels.count(label) > 1), None)
    if twice is not None:
        raise ValueError(f"has two {twice[0]} hooks called '{twice[1]}'; give one of them another `name`")
    return hooks


def at(hooks: Iterable[Hook], *kinds: HookKind) -> tuple[int, ...]:
    """Return the numbers of the hooks of these kinds."""
    return tuple(number for number, hook in enumerate(hooks) if hook.at in kinds)
