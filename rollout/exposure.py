"""Who gets the candidate: a share of all requests, those that match, testers by a header, users who stay."""

import re
import warnings
from collections.abc import Mapping
from typing import Annotated

from pydantic import BeforeValidator, Field, PlainSerializer, WithJsonSchema, field_validator, model_validator

from rollout.fields import Limit, Spec

FULL_BP = 10_000
PREVIEW_HEADER = "x-rollout-version"
_PERCENT = re.compile(r"([0-9]+(?:\.[0-9]+)?)\s*%")
PERCENT_SCHEMA = {  # above 0%, to 100%, no finer than 0.01%
    "type": "string",
    "pattern": r"^\s*(?!0+(\.0+)?\s*%)(0*[0-9]{1,2}(\.[0-9]{1,2}0*)?|0*100(\.0+)?)\s*%\s*$",
}
_HEADER_NAME = re.compile(r"[a-z0-9!#$%&'*+.^_`|~-]{1,100}")
_COOKIE_NAME = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]{1,100}")
_BROKEN = ("missing )", "unbalanced parenthesis", "unterminated character set", "nothing to repeat")
_OURS = (":", "x-envoy-")


def basis_points(value: object) -> object:
    """Parse 1% or 0.05%. Raises ValueError."""
    match = _PERCENT.fullmatch(value.strip()) if isinstance(value, str) else None
    if match is None:
        raise ValueError(f"'{value}' is no share of traffic; write it as 1% or 0.05%")
    found = float(match[1]) * 100
    if not 1 <= found <= FULL_BP:
        raise ValueError(f"{value} is outside 0.01% to 100%")
    if abs(found - round(found)) > 1e-6:
        raise ValueError(f"{value} is finer than 0.01%; round it")
    return round(found)


def percent(weight_bp: int) -> str:
    return f"{weight_bp / 100:g}%"


BasisPoints = Annotated[
    int, BeforeValidator(basis_points), PlainSerializer(percent), WithJsonSchema({**PERCENT_SCHEMA})
]


class Matcher(Spec):
    """What a header or cookie must be, one of these; a text alone is `exact`."""

    exact: str | None = None
    prefix: str | None = None
    regex: str | None = None
    present: bool | None = None

    @model_validator(mode="before")
    @classmethod
    def _short(cls, value: object) -> object:
        return {"exact": value} if isinstance(value, str) else value

    @model_validator(mode="after")
    def _one(self) -> "Matcher":
        given = [name for name in ("exact", "prefix", "regex", "present") if getattr(self, name) is not None]
        if len(given) != 1:
            raise ValueError("give one of exact, prefix, regex, present")
        if self.present is False:
            raise ValueError("present: false would match nearly everybody; write present: true")
        if "" in (self.exact, self.prefix, self.regex):
            raise ValueError("is empty; to match any value write present: true")
        if self.regex is not None:
            _check_regex(self.regex)
        return self


class Match(Spec):
    """Requests with all of these headers and cookies."""

    headers: Mapping[str, Matcher] = Field(default_factory=dict)
    cookies: Mapping[str, Matcher] = Field(default_factory=dict)

    @field_validator("headers")
    @classmethod
    def _headers(cls, value: Mapping[str, Matcher]) -> Mapping[str, Matcher]:
        return {header_name(name): matcher for name, matcher in value.items()}

    @field_validator("cookies")
    @classmethod
    def _cookies(cls, value: Mapping[str, Matcher]) -> Mapping[str, Matcher]:
        return {cookie_name(name): matcher for name, matcher in value.items()}

    @model_validator(mode="after")
    def _some(self) -> "Match":
        if not self.headers and not self.cookies:
            raise ValueError("is empty; name a header or a cookie")
        return self


class Preview(Spec):
    """The header by which a tester chooses a version by its name, in every stage.

    Envoy removes it from requests of others, unless `external`: those that come from no address which the listener's
    `internal_address_config` names.
    """

    header: str = PREVIEW_HEADER
    external: bool = False

    @field_validator("header")
    @classmethod
    def _named(cls, value: str) -> str:
        return header_name(value)


class Sticky(Spec):
    """What tells a user: who got the candidate at one weight gets it at each higher one.

    A `header`; or a `cookie`, which Envoy gives to who has none for the time of `ttl`.
    """

    header: str | None = None
    cookie: str | None = None
    ttl: Limit | None = None

    @model_validator(mode="after")
    def _one(self) -> "Sticky":
        if (self.header is None) == (self.cookie is None):
            raise ValueError("give one of header, cookie")
        if self.ttl is not None and self.cookie is None:
            raise ValueError("ttl: is the life of a cookie; give `cookie` too")
        return self

    @field_validator("header")
    @classmethod
    def _header(cls, value: str | None) -> str | None:
        return value and header_name(value)

    @field_validator("cookie")
    @classmethod
    def _cookie(cls, value: str | None) -> str | None:
        return value and cookie_name(value)


def _check_regex(text: str) -> None:
    """Raise ValueError for what is none in any dialect; an Envoy would refuse all routes for it, once it is served.

    Envoy's own, RE2, is another one than Python's: about the rest an Envoy decides.
    """
    try:
        with warnings.catch_warnings(action="ignore"):
            re.compile(text)
    except re.error as error:
        if error.msg.startswith(_BROKEN):
            raise ValueError(f"'{text}' is no regular expression: {error.msg}; mend it") from error


def header_name(value: str) -> str:
    """Return a request header's name as HTTP/2 has it. Raises ValueError."""
    name = value.lower()
    if name.startswith(_OURS) or name in ("host", "cookie", "connection"):
        raise ValueError(f"'{value}' is not to be used so; name a header of your own, as x-user")
    if _HEADER_NAME.fullmatch(name) is None:
        raise ValueError(f"'{value}' is no name of a header")
    return name


def cookie_name(value: str) -> str:
    """Return a cookie's name. Raises ValueError."""
    if _COOKIE_NAME.fullmatch(value) is None:
        raise ValueError(f"'{value}' is no name of a cookie")
    return value
