"""Hooks of a strategy as a user writes them: when somebody is asked or told, how, and what an answer does."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from enum import StrEnum

from pydantic import Field, field_validator, model_validator
from yarl import URL

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


class Hook(Spec):
    """One hook: a webhook (`url`, JSON by POST, 2xx agrees) or a command in the folder of --commands (0 agrees).

    `secret` names the environment variable, ROLLOUT_HOOK_..., with the key of the webhook's signature. `reversible`:
    false where what it does cannot be undone; after it the engine asks instead of rolling back by itself.
    """

    at: HookKind
    name: str = ""
    url: str | None = None
    command: tuple[str, ...] | None = None
    headers: Mapping[str, str] = Field(default_factory=dict)
    secret: str | None = None
    timeout: Limit = timedelta(seconds=10)
    retries: int = Field(default=3, ge=0, le=MOST_RETRIES)
    interval: Limit = timedelta(seconds=5)
    backoff: Duration = timedelta(seconds=1)
    reversible: bool = True

    @property
    def label(self) -> str:
        return self.name or (self.command[0] if self.command else URL(self.url or "").host or self.at.value)

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
        return value

    @field_validator("url")
    @classmethod
    def _http(cls, value: str | None) -> str | None:
        if value is not None:
            url = URL(value)
            if url.scheme not in ("http", "https") or not url.host:
                raise ValueError("is no http:// or https:// URL")  # without the text: it may hold a password
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
        if not self.reversible and self.at in (HookKind.EVENT, HookKind.ROLLBACK, HookKind.ROLLOUT):
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
