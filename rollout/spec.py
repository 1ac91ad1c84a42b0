"""What the user asks for: strategies, stages, endpoints and deployments, parsed at the door."""

import ipaddress
import re
from collections.abc import Mapping
from datetime import timedelta
from typing import Annotated, Any, Self

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, PlainSerializer, ValidationError, field_validator, model_validator

from rollout.errors import InvalidSpec
from rollout.gate import Gate

FULL_BP = 10_000
DEFAULT_WEIGHTS = ("1%", "10%", "50%", "100%")
VERSION_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")
VERSION_NAME_RULE = "use up to 63 of A-Z a-z 0-9 . _ - and begin with a letter or digit"
_DURATION = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h)")
_PERCENT = re.compile(r"(\d+(?:\.\d+)?)\s*%")
_UNIT_S = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}
_ENDPOINT = re.compile(r"(?P<host>\[[0-9a-fA-F:.]+\]|[^@:\s]+):(?P<port>\d{1,5})(?:@(?P<region>[^/\s]+)(?:/(?P<zone>\S+))?)?")


def _duration(value: object) -> object:
    if isinstance(value, str):
        match = _DURATION.fullmatch(value.strip())
        if match is None:
            raise ValueError(f"'{value}' is no duration; write 500ms, 30s, 5m or 1h")
        return timedelta(seconds=float(match[1]) * _UNIT_S[match[2]])
    if isinstance(value, int | float) and not isinstance(value, bool):
        raise ValueError(f"{value} has no unit; write '{value}s'")  # noqa: TRY004 - pydantic wants a ValueError
    return value


def _basis_points(value: object) -> object:
    match = _PERCENT.fullmatch(value.strip()) if isinstance(value, str) else None
    if match is None:
        raise ValueError(f"'{value}' is no share of traffic; write it as 1% or 0.05%")
    basis_points = float(match[1]) * 100
    if not 1 <= basis_points <= FULL_BP:
        raise ValueError(f"{value} is outside 0.01% to 100%")
    if abs(basis_points - round(basis_points)) > 1e-6:
        raise ValueError(f"{value} is finer than 0.01%")
    return round(basis_points)


Duration = Annotated[
    timedelta,
    Field(le=timedelta(days=30)),
    BeforeValidator(_duration),
    PlainSerializer(lambda duration: f"{duration / timedelta(seconds=1):.6f}".rstrip("0").rstrip(".") + "s"),
]
BasisPoints = Annotated[int, BeforeValidator(_basis_points), PlainSerializer(lambda weight_bp: f"{weight_bp / 100:g}%")]


class _Spec(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Stage(_Spec):
    """One step of a rollout: `weight` is the candidate's share of the service's traffic.

    `hold` is the least time at this weight, counted from when every Envoy has it. After `timeout` without a
    decision the rollout pauses and asks.
    """

    weight_bp: BasisPoints = Field(alias="weight")
    hold: Duration = timedelta(seconds=5)
    timeout: Duration = timedelta(minutes=5)


class Strategy(_Spec):
    """How a rollout goes: stages, what the gate demands, and how the losing version is let go.

    `warm_timeout`: how long the candidate may take until it is healthy through every Envoy, before the rollout pauses.
    `keep_stable`: how long the old version stays warm after 100 %. `drain_timeout`: how long its requests may take.
    """

    stages: tuple[Stage, ...] = tuple(Stage.model_validate({"weight": weight}) for weight in DEFAULT_WEIGHTS)
    gate: Gate = Field(default_factory=Gate)
    warm_timeout: Duration = timedelta(minutes=2)
    keep_stable: Duration = timedelta()
    drain_timeout: Duration = timedelta(seconds=30)

    @field_validator("stages", mode="before")
    @classmethod
    def _short_stages(cls, value: object) -> object:
        if isinstance(value, list | tuple):
            return tuple({"weight": item} if isinstance(item, str | int | float) else item for item in value)
        return value

    @model_validator(mode="after")
    def _rising(self) -> Self:
        weights = [stage.weight_bp for stage in self.stages]
        if not weights:
            raise ValueError("stages is empty; leave it out for 1%, 10%, 50%, 100%")
        if weights != sorted(set(weights)):
            raise ValueError("the weights of stages must rise from one to the next")
        if weights[-1] != FULL_BP:
            raise ValueError("the last stage must have weight 100%")
        return self


class Endpoint(_Spec):
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


class Deployment(_Spec):
    """A wish: move this service's traffic to this version, which runs on these endpoints."""

    service: str
    version: str
    endpoints: tuple[Endpoint, ...]
    strategy: Strategy = Field(default_factory=Strategy)

    @field_validator("endpoints", mode="before")
    @classmethod
    def _parsed(cls, value: object) -> object:
        if isinstance(value, list | tuple):
            return tuple(_endpoint(item) if isinstance(item, str) else item for item in value)
        return value

    @field_validator("version")
    @classmethod
    def _named(cls, value: str) -> str:
        if VERSION_NAME.fullmatch(value) is None:
            raise ValueError(f"'{value}' is no version name; {VERSION_NAME_RULE}")
        return value

    @model_validator(mode="after")
    def _complete(self) -> Self:
        if not self.endpoints:
            raise ValueError(f"version '{self.version}' has no endpoints; give at least one as HOST:PORT")
        addresses = [endpoint.address for endpoint in self.endpoints]
        twice = next((address for address in addresses if addresses.count(address) > 1), None)
        if twice is not None:
            raise ValueError(f"the endpoint {twice} stands twice")
        return self


def _endpoint(text: str) -> dict[str, object]:
    match = _ENDPOINT.fullmatch(text)
    if match is None:
        raise ValueError(f"'{text}' is no endpoint; write HOST:PORT or HOST:PORT@region/zone")
    host = match["host"].strip("[]")
    try:
        ipaddress.ip_address(host)
    except ValueError as error:
        raise ValueError(f"'{host}' is no IP address; Envoy takes no host names in endpoints") from error
    return {"host": host, "port": int(match["port"]), "region": match["region"] or "", "zone": match["zone"] or ""}


def check_version_name(name: str) -> None:
    """Raise InvalidSpec unless a version may be called so."""
    if VERSION_NAME.fullmatch(name) is None:
        raise InvalidSpec(f"'{name}' is no version name; {VERSION_NAME_RULE}")


def parse_endpoint(text: str) -> Endpoint:
    """Parse HOST:PORT[@region[/zone]]. Raises InvalidSpec."""
    try:
        return Endpoint.model_validate(_endpoint(text))
    except ValidationError as error:
        raise InvalidSpec(_describe(error)) from error
    except ValueError as error:
        raise InvalidSpec(str(error)) from error


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
    return "; ".join(_fault(each["loc"], each["msg"]) for each in error.errors(include_url=False))


def _fault(location: tuple[int | str, ...], message: str) -> str:
    path = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in location).lstrip(".")
    message = message.removeprefix("Value error, ")
    message = message.replace("Extra inputs are not permitted", "is no setting; look for a typing error")
    return f"{path}: {message}" if path else message
