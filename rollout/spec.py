"""What the user asks for: strategies, stages, endpoints and deployments, parsed at the door."""

import ipaddress
import itertools
import re
from collections.abc import Mapping
from dataclasses import Field as DataclassField
from dataclasses import fields
from datetime import timedelta
from typing import Annotated, Any, get_args

import yaml
from pydantic import (
    BeforeValidator,
    Field,
    PlainSerializer,
    ValidationError,
    field_validator,
    model_validator,
)
from pydantic_core import ErrorDetails

from rollout.checks import CheckSpec, told_apart
from rollout.errors import InvalidSpec
from rollout.fields import Duration, Limit, Spec, duration, share
from rollout.gate import Gate

FULL_BP = 10_000
DEFAULT_WEIGHTS = ("1%", "10%", "50%", "100%")
VERSION_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")
VERSION_NAME_RULE = "use up to 63 of A-Z a-z 0-9 . _ -, the first a letter or digit"
_PERCENT = re.compile(r"([0-9]+(?:\.[0-9]+)?)\s*%")
_ENDPOINT = re.compile(
    r"(?:\[(?P<v6>[^\]\s]*)\]|(?P<host>[^@:\s\[\]]+)):(?P<port>[0-9]{1,9})"
    r"(?:@(?P<region>[^/\s]+)(?:/(?P<zone>\S+))?)?"
)
_PRIVATE = frozenset({"prometheus", "web"})  # what is wrong there may be a password or a key in the wrong place
_WORDS = {
    "Extra inputs are not permitted": "is no setting; look for a typing error",
    "Field required": "is missing",
    "Input should be": "must be",
    r"a (valid )?dictionary( or (an )?instance of \w+)?": "a mapping",
    "a valid tuple": "a list",
}


def _basis_points(value: object) -> object:
    match = _PERCENT.fullmatch(value.strip()) if isinstance(value, str) else None
    if match is None:
        raise ValueError(f"'{value}' is no share of traffic; write it as 1% or 0.05%")
    basis_points = float(match[1]) * 100
    if not 1 <= basis_points <= FULL_BP:
        raise ValueError(f"{value} is outside 0.01% to 100%")
    if abs(basis_points - round(basis_points)) > 1e-6:
        raise ValueError(f"{value} is finer than 0.01%; round it")
    return round(basis_points)


def _percent(weight_bp: int) -> str:
    return f"{weight_bp / 100:g}%"


def _gate(value: object) -> object:
    """Read the gate's settings as they are written, `warmup: 10s` and `margin: 0.5%`. Raises ValueError."""
    if not isinstance(value, Mapping):
        return value
    names = {setting.name.removesuffix("_s"): setting for setting in fields(Gate)}
    unknown = next((name for name in value if name not in names), None)
    if unknown is not None:
        raise ValueError(f"{unknown} is no setting; there are {', '.join(names)}")
    return {names[name].name: _setting(names[name], given) for name, given in value.items()}


def _setting(setting: DataclassField[Any], given: object) -> object:
    name = setting.name.removesuffix("_s")
    if given is None:
        if type(None) not in get_args(setting.type):
            raise ValueError(f"{name} is empty; leave it out for {setting.default}")
        return None
    try:
        match setting.metadata["unit"]:
            case "share":
                return share(given)
            case "duration":
                return duration(given).total_seconds()
            case "number":
                return _not_a_word(given)
            case _:
                return given
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from error


def _not_a_word(given: object) -> object:
    """Return what may be a number; for pydantic `yes` is one."""
    if isinstance(given, bool):
        raise ValueError(f"'{given}' is no number; write one, as 2")  # noqa: TRY004 - pydantic wants a ValueError
    return given


def _written(gate: Gate) -> dict[str, object]:
    """Write it as `_gate` reads it, defaults too: a rollout in progress keeps them when a release changes them."""
    return {
        name.removesuffix("_s"): f"{value:.6f}s" if name.endswith("_s") and value is not None else value
        for name, value in ((setting.name, getattr(gate, setting.name)) for setting in fields(Gate))
    }


BasisPoints = Annotated[int, BeforeValidator(_basis_points), PlainSerializer(_percent)]
GateSpec = Annotated[Gate, BeforeValidator(_gate), PlainSerializer(_written)]


class Stage(Spec):
    """One step of a rollout: `weight` is the candidate's share of the service's traffic.

    `hold` is the least time at this weight, counted from when every Envoy has it. Without a decision after `timeout`
    (or after the hold and it, where the hold is longer) the rollout pauses and asks.
    """

    weight_bp: BasisPoints = Field(alias="weight")
    hold: Duration = timedelta(seconds=5)
    timeout: Limit = timedelta(minutes=5)

    @property
    def limit_s(self) -> float:
        """How long the stage may take to be decided."""
        limit = self.timeout if self.hold <= self.timeout else self.hold + self.timeout
        return limit.total_seconds()


class Strategy(Spec):
    """How a rollout goes: stages, what the gate demands, and how the losing version is let go.

    `warm_timeout`: how long the candidate may take until it is healthy through every Envoy, before the rollout pauses.
    `keep_stable`: how long the old version stays warm after 100 %. `drain_timeout`: how long its requests may take.
    """

    stages: tuple[Stage, ...] = tuple(Stage.model_validate({"weight": weight}) for weight in DEFAULT_WEIGHTS)
    gate: GateSpec = Field(default_factory=Gate)
    checks: tuple[CheckSpec, ...] = ()
    warm_timeout: Limit = timedelta(minutes=2)
    keep_stable: Duration = timedelta()
    drain_timeout: Duration = timedelta(seconds=30)

    _told_apart = field_validator("checks")(told_apart)

    @field_validator("stages", mode="before")
    @classmethod
    def _short_stages(cls, value: object) -> object:
        if isinstance(value, list | tuple):
            return tuple({"weight": item} if isinstance(item, str | int | float) else item for item in value)
        return value

    @field_validator("stages")
    @classmethod
    def _rising(cls, stages: tuple[Stage, ...]) -> tuple[Stage, ...]:
        if not stages:
            raise ValueError(f"is empty; leave it out for {', '.join(DEFAULT_WEIGHTS)}")
        for before, after in itertools.pairwise(stages):
            if after.weight_bp <= before.weight_bp:
                found = f"{_percent(after.weight_bp)} comes after {_percent(before.weight_bp)}"
                raise ValueError(f"{found}; each stage must have a higher weight than the one before")
        if stages[-1].weight_bp != FULL_BP:
            raise ValueError(f"the last weight is {_percent(stages[-1].weight_bp)}; add a stage of 100% behind it")
        return stages


class Endpoint(Spec):
    """One backend: an IP address and port, and the locality it is in ("" where it has none)."""

    host: str
    port: int = Field(ge=1, le=65535)
    region: str = ""
    zone: str = ""

    @property
    def address(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    def __str__(self) -> str:
        location = "/".join(part for part in (self.region, self.zone) if part)
        return f"{self.address}@{location}" if location else self.address

    @model_validator(mode="before")
    @classmethod
    def _short(cls, value: object) -> object:
        return _endpoint(value) if isinstance(value, str) else value

    @field_validator("host")
    @classmethod
    def _canonical(cls, value: str) -> str:
        """Equal addresses must be equal values: IPv6 has many ways to write one."""
        try:
            address = ipaddress.ip_address(value)
        except ValueError as error:
            raise ValueError(f"'{value}' is no IP address; Envoy takes no host names in endpoints") from error
        if isinstance(address, ipaddress.IPv6Address) and address.scope_id is not None:
            raise ValueError(f"'{value}' has a scope; write the address without %{address.scope_id}")
        return str(address)


class Deployment(Spec):
    """A wish: move this service's traffic to this version, which runs on these endpoints."""

    service: str
    version: str
    endpoints: tuple[Endpoint, ...]
    strategy: Strategy = Field(default_factory=Strategy)

    @field_validator("version")
    @classmethod
    def _named(cls, value: str) -> str:
        if VERSION_NAME.fullmatch(value) is None:
            raise ValueError(f"'{value}' is no version name; {VERSION_NAME_RULE}")
        return value

    @field_validator("endpoints")
    @classmethod
    def _complete(cls, endpoints: tuple[Endpoint, ...]) -> tuple[Endpoint, ...]:
        if not endpoints:
            raise ValueError("is empty; give at least one as HOST:PORT")
        addresses = [endpoint.address for endpoint in endpoints]
        twice = next((address for address in addresses if addresses.count(address) > 1), None)
        if twice is not None:
            raise ValueError(f"{twice} stands twice; leave one out")
        return endpoints


def _endpoint(text: str) -> Mapping[str, object]:
    match = _ENDPOINT.fullmatch(text)
    if match is None:
        raise ValueError(f"'{text}' is no endpoint; write HOST:PORT or HOST:PORT@region/zone, an IPv6 address in []")
    host = match["host"] if match["v6"] is None else match["v6"]
    return {"host": host, "port": int(match["port"]), "region": match["region"] or "", "zone": match["zone"] or ""}


def check_version_name(name: str) -> None:
    """Raise InvalidSpec unless a version may be called so."""
    if VERSION_NAME.fullmatch(name) is None:
        raise InvalidSpec(f"'{name}' is no version name; {VERSION_NAME_RULE}")


def parse_endpoint(text: str) -> Endpoint:
    """Parse HOST:PORT[@region[/zone]]. Raises InvalidSpec."""
    try:
        return Endpoint.model_validate(text)
    except ValidationError as error:
        raise InvalidSpec(_describe(error)) from error


def parse_strategy(text: str, source: str = "strategy") -> Strategy:
    """Parse a strategy's YAML. Raises InvalidSpec with the path of each fault."""
    try:
        document = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise InvalidSpec(f"{source} is no YAML: {error}") from error
    if document is not None and not isinstance(document, dict):
        raise InvalidSpec(f"{source} must be a mapping, but is a {type(document).__name__}")
    try:
        return Strategy.model_validate(document or {})
    except ValidationError as error:
        raise InvalidSpec(f"{source}: {_describe(error)}") from error


def parse_deployment(value: Mapping[str, Any]) -> Deployment:
    """Parse the JSON of a deployment. Raises InvalidSpec with the path of each fault."""
    try:
        return Deployment.model_validate(value)
    except ValidationError as error:
        raise InvalidSpec(_describe(error)) from error


def _describe(error: ValidationError) -> str:
    return "; ".join(map(_fault, error.errors(include_url=False)))


def _fault(fault: ErrorDetails) -> str:
    path = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in fault["loc"]).lstrip(".")
    message, given = fault["msg"].removeprefix("Value error, "), fault["input"]
    for theirs, ours in _WORDS.items():
        message = re.sub(theirs, ours, message)
    # Our own messages have the value in them.
    shown = fault["type"] not in ("value_error", "extra_forbidden") and _PRIVATE.isdisjoint(fault["loc"])
    if shown and not isinstance(given, Mapping | list | tuple):
        message += f", but is {repr(given)[:80]}"
    return f"{path}: {message}" if path else message
