"""What the user asks for: strategies, stages, endpoints and deployments, parsed at the door."""

import ipaddress
import itertools
import re
from collections.abc import Mapping
from dataclasses import Field as DataclassField
from dataclasses import fields
from datetime import timedelta
from enum import StrEnum
from typing import Annotated, Any, Literal, get_args

import yaml
from pydantic import (
    BeforeValidator,
    Field,
    PlainSerializer,
    ValidationError,
    WithJsonSchema,
    field_validator,
    model_validator,
)

from rollout.checks import CheckSpec, told_apart
from rollout.errors import InvalidSpec
from rollout.exposure import FULL_BP, PERCENT_SCHEMA, BasisPoints, Match, Preview, Sticky, basis_points, percent
from rollout.faults import Fault, described, faults
from rollout.fields import Duration, Limit, Share, Spec, duration, share
from rollout.freeze import Freeze
from rollout.gate import Gate
from rollout.hooks import Hook, HookKind, at, named_apart
from rollout.probe import ProbeSpec
from rollout.written import read

DEFAULT_WEIGHTS = ("1%", "10%", "50%", "100%")
HOLD_BACK_WEIGHT = "95%"
VERSION_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")
VERSION_NAME_RULE = "use up to 63 of A-Z a-z 0-9 . _ -, the first a letter or digit"
_ENDPOINT = re.compile(
    r"(?:\[(?P<v6>[^\]\s]*)\]|(?P<host>[^@:\s\[\]]+)):(?P<port>[0-9]{1,9})"
    r"(?:@(?P<region>[^/\s]+)(?:/(?P<zone>\S+))?)?"
)


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


GateSpec = Annotated[Gate, BeforeValidator(_gate), PlainSerializer(_written)]


class OnTimeout(StrEnum):
    """What becomes of a stage that is not decided in time."""

    PAUSE = "pause"
    ROLLBACK = "rollback"


class Pace(StrEnum):
    """Whether traffic moves in one push, or by the strategy's stages, `gradual_step` apart."""

    IMMEDIATE = "immediate"
    GRADUAL = "gradual"


def _share_of_traffic(value: object) -> object:
    return 0 if value == "0%" else basis_points(value)


Weight = Annotated[
    int, BeforeValidator(_share_of_traffic), PlainSerializer(percent), WithJsonSchema({**PERCENT_SCHEMA})
]


class Stage(Spec):
    """One step of a rollout, by one of these: `weight`, the candidate's share of the service's traffic; `match`, for
    only requests that one of these describes; `mirror`, the share of requests that are copied to it, whose answers
    nobody gets; `expose: false`, where only the preview header leads to it.

    `hold` is the least time in it, counted from when every Envoy has it. Without a decision after `timeout` (or after
    the hold and it, where the hold is longer) `on_timeout` happens. With `approve` a person must agree to go on.
    `checks` are its own, besides the strategy's.
    """

    weight_bp: Weight = Field(default=0, alias="weight")
    match: tuple[Match, ...] = ()
    mirror_bp: BasisPoints | None = Field(default=None, alias="mirror")
    expose: bool = True
    hold: Duration = timedelta(seconds=5)
    timeout: Limit = timedelta(minutes=5)
    on_timeout: OnTimeout = OnTimeout.PAUSE
    approve: bool = False
    checks: tuple[CheckSpec, ...] = ()

    _told_apart = field_validator("checks")(told_apart)

    @field_validator("match", mode="before")
    @classmethod
    def _alternatives(cls, value: object) -> object:
        return (value,) if isinstance(value, Mapping) else value

    @model_validator(mode="after")
    def _one_way(self) -> "Stage":
        ways = [bool(self.match), self.mirror_bp is not None, not self.expose]
        if self.weight_bp and any(ways):
            raise ValueError("weight stands beside match, mirror or expose; give each a stage of its own")
        if sum(ways) > 1:
            raise ValueError("match, mirror and expose: false are in one stage; give each a stage of its own")
        if not self.weight_bp and not any(ways):
            raise ValueError("weight is 0% or missing; write a share as 10%, or give match, mirror or expose: false")
        return self

    @property
    def limit_s(self) -> float:
        """How long the stage may take to be decided."""
        limit = self.timeout if self.hold < self.timeout else self.hold + self.timeout
        return limit.total_seconds()


class OnFailure(StrEnum):
    """What a location takes back that fails: itself, or the whole rollout."""

    LOCATION = "location"
    ALL = "all"


class Wave(Spec):
    """Locations that move at the same time, each by itself: names, a share of those that are left, or `all` of them.

    A location is "region/zone", a zone or a region.
    """

    locations: tuple[str, ...] | BasisPoints | Literal["all"]
    stages: tuple[Stage, ...] = ()

    @field_validator("locations", mode="before")
    @classmethod
    def _some(cls, value: object) -> object:
        if value == "all":
            return value
        if isinstance(value, str) and "%" in value:
            basis_points(value)  # so that what is wrong is told once, and not for each thing that it might be
            return value
        if not isinstance(value, list | tuple) or not all(isinstance(each, str) for each in value):
            raise ValueError(f"'{value}' is no list of locations; write a list of names, a share as 10%, or all")
        if not value:
            raise ValueError("is empty; name locations, a share as 10%, or all")
        return value

    @field_validator("stages", mode="before")
    @classmethod
    def _short_stages(cls, value: object) -> object:
        return _stages_written(value)

    @field_validator("stages")
    @classmethod
    def _rising(cls, stages: tuple[Stage, ...]) -> tuple[Stage, ...]:
        return rising(stages) if stages else stages


class WhenGone(StrEnum):
    """What happens for an Envoy that is gone: it is waited for, or not; or the rollout fails when it stays away."""

    WAIT = "wait"
    IGNORE = "ignore"
    FAIL = "fail"


class Disconnected(Spec):
    """What happens for an Envoy that was connected and is not: `policy`, and how long it is waited for (`limit`)."""

    policy: WhenGone = WhenGone.WAIT
    limit: Limit = Field(default=timedelta(seconds=30), alias="for")

    @model_validator(mode="before")
    @classmethod
    def _short(cls, value: object) -> object:
        return {"policy": value} if isinstance(value, str) else value


class Strategy(Spec):
    """How a rollout goes: stages, what the gate demands, and how the losing version is let go.

    `warm_timeout`: how long the candidate may take until it is healthy through every Envoy, before the rollout pauses.
    `keep_stable`: how long the old version stays warm after 100 %. `drain_timeout`: how long its requests may take.
    `ready`: the share of the candidate's backends that must be healthy before it gets traffic; `probe`: how the control
    plane asks them itself. `min_healthy`: the share of either version's below which the rollout pauses.
    `progress_deadline`: the longest time in one phase, stage or pause, after which it is taken back.
    `rollback_window`: so long after its end a version may come back without stages.
    """

    stages: tuple[Stage, ...] = tuple(Stage.model_validate({"weight": weight}) for weight in DEFAULT_WEIGHTS)
    waves: tuple[Wave, ...] = ()
    on_failure: OnFailure = OnFailure.ALL
    gate: GateSpec = Field(default_factory=Gate)
    checks: tuple[CheckSpec, ...] = ()
    hooks: tuple[Hook, ...] = ()
    preview: Preview | None = Field(default_factory=Preview)
    sticky: Sticky | None = None
    ready: Share = 1.0
    probe: ProbeSpec | None = None
    min_healthy: Share = 0.5
    disconnected: Disconnected = Field(default_factory=Disconnected)
    freeze: Freeze | None = None
    abort: Pace = Pace.IMMEDIATE
    promote: Pace = Pace.IMMEDIATE
    gradual_step: Duration = timedelta(seconds=5)
    progress_deadline: Limit | None = None
    warm_timeout: Limit = timedelta(minutes=2)
    keep_stable: Duration = timedelta()
    rollback_window: Duration = timedelta(hours=1)
    drain_timeout: Duration = timedelta(seconds=30)

    _told_apart = field_validator("checks")(told_apart)
    _named_apart = field_validator("hooks")(named_apart)

    @model_validator(mode="before")
    @classmethod
    def _hold_back(cls, value: object) -> object:
        """Write `hold_back: 10m` as the stage that it is: 95 % for so long, before 100 %."""
        if not isinstance(value, Mapping) or "hold_back" not in value:
            return value
        given = {**value}
        held = given.pop("hold_back")
        try:
            duration(held)
        except ValueError as error:
            raise ValueError(f"hold_back: {error}") from error
        stages = given.get("stages", DEFAULT_WEIGHTS)
        if not isinstance(stages, list | tuple):
            return given  # what is wrong with it is told there
        stages = list(stages)
        stages.insert(max(0, len(stages) - 1), {"weight": HOLD_BACK_WEIGHT, "hold": held})
        return {**given, "stages": stages}

    @field_validator("preview", mode="before")
    @classmethod
    def _off(cls, value: object) -> object:
        return None if value is False or value == "off" else value

    @field_validator("stages", mode="before")
    @classmethod
    def _short_stages(cls, value: object) -> object:
        return _stages_written(value)

    @field_validator("stages")
    @classmethod
    def _rising(cls, stages: tuple[Stage, ...]) -> tuple[Stage, ...]:
        return rising(stages)

    def all_checks(self) -> tuple[CheckSpec, ...]:
        stages = itertools.chain(self.stages, *(wave.stages for wave in self.waves))
        return (*self.checks, *(check for stage in stages for check in stage.checks))

    def checks_in(self, stage: int) -> tuple[CheckSpec, ...]:
        """Return what is checked in a stage: the strategy's and its own."""
        return (*self.checks, *self.stages[stage].checks)

    @model_validator(mode="after")
    def _checks_told_apart(self) -> "Strategy":
        for number in range(len(self.stages)):
            told_apart(self.checks_in(number))
        return self

    @model_validator(mode="after")
    def _of_waves(self) -> "Strategy":
        if self.waves and self.waves[-1].locations != "all":
            raise ValueError("waves: the last one must have `locations: all`, or some would never move")
        if self.waves and any(not stage.weight_bp for stage in self.stages):
            raise ValueError("stages: a stage without a weight cannot be in a rollout in waves; take it out")
        aside = next(
            (number for number, wave in enumerate(self.waves) if not all(s.weight_bp for s in wave.stages)), None
        )
        if aside is not None:
            raise ValueError(f"waves[{aside}].stages: a stage without a weight cannot be in a wave; take it out")
        return self


def _stages_written(value: object) -> object:
    if isinstance(value, list | tuple):
        return tuple({"weight": item} if isinstance(item, str | int | float) else item for item in value)
    return value


def rising(stages: tuple[Stage, ...]) -> tuple[Stage, ...]:
    """The stages themselves. Raises ValueError unless their weights rise to 100 %; those without one come first."""
    if not stages:
        raise ValueError(f"is empty; leave it out for {', '.join(DEFAULT_WEIGHTS)}")
    for before, after in itertools.pairwise(stages):
        if after.weight_bp <= before.weight_bp and not (before.weight_bp == after.weight_bp == 0):
            after_words = percent(after.weight_bp) if after.weight_bp else "a stage without a weight"
            found = f"{after_words} comes after {percent(before.weight_bp)}"
            raise ValueError(f"{found}; each stage must have a higher weight than the one before")
    if stages[-1].weight_bp != FULL_BP:
        last = f"the last weight is {percent(stages[-1].weight_bp)}" if stages[-1].weight_bp else "none has a weight"
        raise ValueError(f"{last}; add a stage of 100% behind it")
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

    @property
    def location(self) -> str:
        """The locality as "region/zone", or the part of it that is known; "" for none."""
        return "/".join(part for part in (self.region, self.zone) if part)

    def __str__(self) -> str:
        return f"{self.address}@{self.location}" if self.location else self.address

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
    """A wish: move this service's traffic to this version, which runs on these endpoints.

    There are none where a `provision` hook is to say them.
    """

    service: str
    version: str
    endpoints: tuple[Endpoint, ...] = ()
    strategy: Strategy = Field(default_factory=Strategy)

    @field_validator("version")
    @classmethod
    def _named(cls, value: str) -> str:
        if VERSION_NAME.fullmatch(value) is None:
            raise ValueError(f"'{value}' is no version name; {VERSION_NAME_RULE}")
        return value

    @field_validator("endpoints")
    @classmethod
    def _distinct(cls, endpoints: tuple[Endpoint, ...]) -> tuple[Endpoint, ...]:
        return distinct(endpoints)

    @model_validator(mode="after")
    def _complete(self) -> "Deployment":
        if not self.endpoints and not at(self.strategy.hooks, HookKind.PROVISION):
            raise ValueError("endpoints: is empty; give at least one as HOST:PORT, or a `provision` hook")
        return self


def distinct(endpoints: tuple[Endpoint, ...]) -> tuple[Endpoint, ...]:
    """The endpoints themselves. Raises ValueError when two have the same address."""
    found: set[str] = set()
    for address in (endpoint.address for endpoint in endpoints):
        if address in found:
            raise ValueError(f"{address} stands twice; leave one out")
        found.add(address)
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
        raise InvalidSpec(described(error)) from error


def parse_strategy(text: str, source: str = "strategy") -> Strategy:
    """Parse a strategy's YAML. Raises InvalidSpec with the path of each fault."""
    try:
        _, document = read(text)
    except yaml.YAMLError as error:
        mark, what = getattr(error, "problem_mark", None), getattr(error, "problem", None) or str(error)
        where = f" in line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        raise InvalidSpec(f"{source} is no YAML{where}: {what}") from error
    if document is not None and not isinstance(document, dict):
        raise InvalidSpec(f"{source} must be a mapping, but is a {type(document).__name__}")
    try:
        return Strategy.model_validate(document or {})
    except ValidationError as error:
        raise InvalidSpec(f"{source}: {described(error)}") from error


def faults_of(document: Mapping[str, object]) -> tuple[Fault, ...]:
    """Return what is wrong with a strategy as it is written, () when nothing is."""
    try:
        Strategy.model_validate(document)
    except ValidationError as error:
        return faults(error)
    return ()


def parse_deployment(value: Mapping[str, Any]) -> Deployment:
    """Parse the JSON of a deployment. Raises InvalidSpec with the path of each fault."""
    try:
        return Deployment.model_validate(value)
    except ValidationError as error:
        raise InvalidSpec(described(error)) from error
