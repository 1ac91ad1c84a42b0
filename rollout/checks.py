"""Checks of a strategy as a user writes them: what is measured, from which source, and its limits."""

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from datetime import timedelta
from enum import StrEnum
from typing import Annotated, Any

from pydantic import (
    BeforeValidator,
    Field,
    ValidationInfo,
    field_validator,
    model_validator,
)

from rollout.concealed import Address, Headers, Template, header_values, http_url
from rollout.fields import Duration, Limit, Spec, duration, share
from rollout.gate.checks import Check, Outage, Unit

MOST_CHECKS = 20
SHORTEST_INTERVAL = timedelta(seconds=1)
COMMAND_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
_PLACEHOLDER = re.compile(r"\$(?:\$|\{(\w+)\}|([A-Za-z_]\w*))", re.ASCII)
_SOURCES = ("metric", "prometheus", "web", "command")


class EnvoyMetric(StrEnum):
    """What Envoy's own stats say of the candidate."""

    ERROR_SHARE = "error_share"
    P50 = "p50"
    P95 = "p95"
    P99 = "p99"
    RETRY_SHARE = "retry_share"
    TIMEOUT_SHARE = "timeout_share"
    REQUESTS_PER_S = "requests_per_s"
    GRPC_ERROR_SHARE = "grpc_error_share"
    CONNECT_FAIL_SHARE = "connect_fail_share"

    @property
    def unit(self) -> Unit:
        match self:
            case EnvoyMetric.P50 | EnvoyMetric.P95 | EnvoyMetric.P99:
                return Unit.MILLISECONDS
            case EnvoyMetric.REQUESTS_PER_S:
                return Unit.PER_SECOND
            case _:
                return Unit.SHARE


@dataclass(frozen=True, slots=True)
class Names:
    """What placeholders stand for: `$candidate` and so on. Clusters by the names that Envoy's metrics have for them."""

    service: str
    stable: str
    candidate: str
    stable_cluster: str
    candidate_cluster: str

    def fill(self, text: str, written: Callable[[str], str] = str) -> str:
        """Put names in; `written` puts each into the form that the text around it needs. `$$` stands for `$`."""
        names = asdict(self)
        return _PLACEHOLDER.sub(lambda found: written(names[found[1] or found[2]]) if found[0] != "$$" else "$", text)


PLACEHOLDERS = tuple(Names.__dataclass_fields__)


def _known_placeholders(text: str) -> str:
    for found in _PLACEHOLDER.finditer(text):
        name = found[1] or found[2]
        if name is not None and name not in PLACEHOLDERS:
            known = ", ".join(f"${each}" for each in PLACEHOLDERS)
            raise ValueError(f"${name} stands for nothing; there are {known}; write $$ for a plain $")
    return text


def _http_url(text: str) -> str:
    """The text itself: names are put in later. What is wrong is told without it, for it may hold a password."""
    if http_url(_PLACEHOLDER.sub("x", text)) is None:
        raise ValueError("is no address to read; write http://HOST:PORT/PATH or https://HOST/PATH, without a #fragment")
    if "$" in text.split("://", 1)[1].partition("/")[0].partition("?")[0]:
        raise ValueError("has a placeholder in its host; write that out: the path and the query may have placeholders")
    return _known_placeholders(text)


def _steps(path: object) -> object:
    if isinstance(path, str):
        return tuple(path.split(".")) if path else ()
    if isinstance(path, list | tuple) and all(isinstance(step, str | int) for step in path):
        return tuple(map(str, path))
    raise ValueError(f"'{path}' is no path; write data.0.value, or a list of keys where one has a dot in it")


JsonPath = Annotated[tuple[str, ...], BeforeValidator(_steps), Field(max_length=50)]


class PrometheusQuery(Spec):
    """An instant query of PromQL that gives one value, as a scalar or a vector with one sample."""

    url: Address
    query: Template
    headers: Headers = Field(default_factory=dict)

    _url = field_validator("url")(_http_url)
    _query = field_validator("query")(_known_placeholders)
    _headers = field_validator("headers")(header_values)


class WebQuery(Spec):
    """A GET for JSON. `path` leads to the value: keys and positions with dots between, or a list of them."""

    url: Address
    path: JsonPath = ()
    headers: Headers = Field(default_factory=dict)

    _url = field_validator("url")(_http_url)
    _headers = field_validator("headers")(header_values)


def _number(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ValueError(f"'{value}' is no number; write one in the unit of the source, as 0.8")
    return float(value)


def _limit(unit: Unit, value: object) -> float:
    """A limit as its check's readings are: shares as parts of 1, latencies in milliseconds."""
    match unit:
        case Unit.SHARE:
            return share(value)
        case Unit.MILLISECONDS if isinstance(value, int | float):
            raise ValueError(f"{value:g} has no unit; write '{value:g}ms'")
        case Unit.MILLISECONDS:
            return duration(value) / timedelta(milliseconds=1)
        case _:
            return _number(value)


def _as_written(value: object) -> object:
    """Limits stay as they were written; a number for pydantic is also what merely looks like one."""
    if value is not None and (isinstance(value, bool) or not isinstance(value, str | int | float)):
        raise ValueError(f"'{value}' is no limit; write a number, a share as 2% or a duration as 250ms")
    return value


Written = Annotated[str | float | None, BeforeValidator(_as_written)]


class CheckSpec(Spec):
    """A limit on a measured value: one of `metric`, `prometheus`, `web` and `command` says where from.

    Every `interval` there is a reading: of Envoy's stats over so long, of any other source at its end, and `timeout`
    is how long that may take to answer. `outage`: what it means when it does not.
    """

    name: str = ""
    metric: EnvoyMetric | None = None
    prometheus: PrometheusQuery | None = None
    web: WebQuery | None = None
    command: tuple[Template, ...] | None = None
    maximum: Written = Field(default=None, alias="max")
    minimum: Written = Field(default=None, alias="min")
    interval: Duration = timedelta(seconds=10)
    timeout: Limit = timedelta(seconds=2)
    consecutive: int = Field(default=1, ge=1, le=1000)
    critical: bool = False
    dry_run: bool = False
    outage: Outage = Outage.BLIND

    @field_validator("name")
    @classmethod
    def _short(cls, value: str) -> str:
        if len(value) > 100 or not value.isprintable():
            raise ValueError("is no name; write up to 100 characters in one line")
        return value

    @field_validator("command", mode="before")
    @classmethod
    def _words(cls, value: object) -> object:
        if isinstance(value, str):
            raise ValueError(f"'{value}' is a text; write a list, as {[*value.split()]}: no shell reads it")  # noqa: TRY004
        return value

    @field_validator("command")
    @classmethod
    def _a_name(cls, command: tuple[str, ...] | None) -> tuple[str, ...] | None:
        if command is None:
            return None
        if not command or COMMAND_NAME.fullmatch(command[0]) is None:
            said = f"'{command[0]}' is no" if command else "is empty; give the"
            raise ValueError(f"{said} name of a file in the server's --commands folder; write it without a path")
        if any("\0" in word for word in command):
            raise ValueError("has a zero byte in it, which no command can be given")
        return tuple(map(_known_placeholders, command))

    @field_validator("maximum", "minimum")
    @classmethod
    def _in_unit(cls, value: object, info: ValidationInfo) -> object:
        if value is not None and "metric" in info.data:  # else that one is wrong, and says so itself
            _limit(_unit(info.data), value)
        return value

    @field_validator("interval")
    @classmethod
    def _some_time(cls, value: timedelta) -> timedelta:
        if value < SHORTEST_INTERVAL:
            raise ValueError(f"{value / timedelta(seconds=1):g}s is too short; write at least 1s")
        return value

    @model_validator(mode="after")
    def _complete(self) -> "CheckSpec":
        given = [source for source in _SOURCES if getattr(self, source) is not None]
        if len(given) != 1:
            found = f"has {' and '.join(given)}" if given else "does not say what to measure"
            raise ValueError(f"{found}; give one of {', '.join(_SOURCES)}")
        if self.maximum is None and self.minimum is None and self.command is None:
            raise ValueError("has no limit; give max or min")
        check = self.check
        if check.maximum is not None and check.minimum is not None and check.minimum > check.maximum:
            raise ValueError(f"min {self.minimum} is above max {self.maximum}; nothing keeps both")
        return self

    @property
    def label(self) -> str:
        """Its name; without one, the metric's or the command's, or that of the kind of source."""
        if self.name or self.metric is not None:
            return self.name or str(self.metric)
        return self.command[0] if self.command else "prometheus" if self.prometheus else "web"

    @property
    def check(self) -> Check:
        """What the judge is to know of it."""
        unit = _unit({"metric": self.metric, "command": self.command})
        maximum, minimum = (each if each is None else _limit(unit, each) for each in (self.maximum, self.minimum))
        if self.command is not None and self.maximum is None and self.minimum is None:
            maximum = 0.0
        return Check(
            self.label,
            maximum,
            minimum,
            self.consecutive,
            self.critical,
            self.dry_run,
            self.outage,
            unit,
            f"{self.label} of $candidate" if self.metric is not None else self._said(),
        )

    def _said(self) -> str:
        return f"the exit code of {self.label}" if self.command is not None else ""


def _unit(given: Mapping[str, Any]) -> Unit:
    if given.get("metric") is not None:
        return EnvoyMetric(given["metric"]).unit
    return Unit.NUMBER if given.get("command") is None else Unit.EXIT_CODE


def told_apart(checks: tuple[CheckSpec, ...]) -> tuple[CheckSpec, ...]:
    """The checks themselves. Raises ValueError when there are too many, or two have the same name."""
    if len(checks) > MOST_CHECKS:
        raise ValueError(f"has {len(checks)}; {MOST_CHECKS} are the most")
    names = [check.label for check in checks]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise ValueError(f"has two checks called '{twice}'; give one of them another `name`")
    return checks
