"""Where the backends of a version are found, as a user writes it: DNS, Consul, or an endpoint in the http_sd format."""

import re
from collections.abc import Mapping
from datetime import timedelta
from enum import StrEnum
from ipaddress import ip_address
from typing import Annotated, Any

import yaml
from pydantic import Field, ValidationError, field_validator, model_validator
from yarl import URL

from rollout.concealed import Address, header_values, host_of, http_url
from rollout.errors import InvalidSpec
from rollout.faults import described
from rollout.fields import Duration, Limit, Share, Spec
from rollout.written import read

KINDS = ("dns", "consul", "http_sd")
SHORT_FORMS = "dns:NAME (SRV), dns:NAME:PORT, consul:SERVICE (each also with @region/zone) or http_sd:URL"
SOONEST = timedelta(milliseconds=200)
LONGEST_WAIT = timedelta(minutes=10)  # Consul's own limit
LONGEST_TIMEOUT = timedelta(seconds=60)
_DNS_NAME = re.compile(r"(?=.{1,253}\.?$)(?:[A-Za-z0-9_](?:[A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?\.)*[A-Za-z0-9_-]{1,63}\.?")
_VARIABLE = re.compile(r"ROLLOUT_DISCOVERY_[A-Z0-9_]{1,100}")
_LOCATION = re.compile(r"[^/\s@]+(?:/[^/\s@]+)?")
_LOOPBACK = ("localhost", "127.0.0.1", "::1")
Word = Annotated[str, Field(max_length=500)]


class RecordType(StrEnum):
    """Which records of a name are asked for; `both` is A and AAAA."""

    SRV = "SRV"
    A = "A"
    AAAA = "AAAA"
    BOTH = "both"


class Dns(Spec):
    """A name and its records. SRV ones say their ports themselves, to all others belongs `port`.

    `server` is the IP:PORT of the name server that is asked, "" for those of the host that the server runs on.
    """

    name: str = Field(description="The name, whole: no search list is used.")
    type: RecordType = Field(default=RecordType.BOTH, description="Which records; without a port it is SRV.")
    port: int | None = Field(default=None, ge=1, le=65535, description="The port of all but SRV records.")
    server: str = Field(default="", description="IP:PORT of the name server; left out: those of the host.")

    @property
    def label(self) -> str:
        return f"dns {self.name}"

    @model_validator(mode="before")
    @classmethod
    def _by_port(cls, value: object) -> object:
        """Without a type and a port it is SRV."""
        if isinstance(value, Mapping) and "type" not in value and value.get("port") is None:
            return {**value, "type": RecordType.SRV.value}
        return value

    @field_validator("name")
    @classmethod
    def _name(cls, value: str) -> str:
        if _DNS_NAME.fullmatch(value) is None:
            raise ValueError(f"'{value}' is no DNS name; write it whole, as checkout.internal")
        return value

    @field_validator("server")
    @classmethod
    def _server(cls, value: str) -> str:
        host, _, port = value.rpartition(":")
        if value and not (_is_ip(host.strip("[]")) and port.isascii() and port.isdecimal() and 0 < int(port) < 65536):
            raise ValueError(f"'{value}' is no name server; write IP:PORT, as 10.0.0.2:53")
        return value

    @model_validator(mode="after")
    def _whole(self) -> "Dns":
        if self.type is RecordType.SRV and self.port is not None:
            raise ValueError("port: SRV records have ports of their own; leave it out, or give another `type`")
        if self.type is not RecordType.SRV and self.port is None:
            raise ValueError(f"port: is missing; {self.type} records have none")
        return self


class Consul(Spec):
    """A service of Consul's catalog, by its HTTP API: the instances whose checks pass, or all with `passing: false`.

    `token_env` names the environment variable, ROLLOUT_DISCOVERY_..., with the token; where NAME_FILE is set in its
    place, the token is what that file holds at each question. `wait` is how long a query waits for a change.
    `max_stale` above 0s: any server of Consul may answer that heard of the leader so long ago at most.
    `region_meta` and `zone_meta`: the keys of an instance's or its node's metadata with its location.
    """

    url: Address = Field(default="http://127.0.0.1:8500", repr=False, description="Its HTTP API.")
    service: Word = Field(description="The name in its catalog.")
    tags: tuple[Word, ...] = Field(default=(), max_length=20, description="Only instances that have all of these.")
    datacenter: Word = Field(default="", description="Left out: the agent's own.")
    namespace: Word = Field(default="", description="Of Consul Enterprise; left out: the token's, else `default`.")
    partition: Word = Field(default="", description="Of Consul Enterprise; left out: the agent's own.")
    peer: Word = Field(default="", description="The cluster peering that the service was imported by.")
    filter: str = Field(default="", max_length=2000, description="An expression in Consul's own words.")
    token_env: str | None = Field(
        default=None, description="The variable of the server's environment with the token, or NAME_FILE with its file."
    )
    passing: bool = Field(default=True, description="Whether only instances count whose checks all pass.")
    wait: Limit = Field(default=timedelta(minutes=1), description="How long a query waits for a change.")
    max_stale: Duration = Field(default=timedelta(), description="How old an answer may be; 0s: its leader is asked.")
    region_meta: Word = Field(default="region", description="The key of the metadata with an instance's region.")
    zone_meta: Word = Field(default="zone", description="The key of the metadata with an instance's zone.")

    @property
    def label(self) -> str:
        return f"consul {self.service}"

    @property
    def variables(self) -> Mapping[str, str]:
        return {} if self.token_env is None else {"token_env": self.token_env}

    @model_validator(mode="before")
    @classmethod
    def _one_tag(cls, value: object) -> object:
        if isinstance(value, Mapping) and isinstance(value.get("tags"), str):
            return {**value, "tags": (value["tags"],)}
        return value

    @field_validator("url")
    @classmethod
    def _http(cls, value: str) -> str:
        return _checked_url(value)

    @field_validator("service")
    @classmethod
    def _service(cls, value: str) -> str:
        if not value or not value.isprintable() or {".", ".."} & set(value.split("/")):
            raise ValueError("name a service of Consul's catalog")
        return value

    @field_validator("token_env")
    @classmethod
    def _variable(cls, value: str | None) -> str | None:
        return None if value is None else _checked_variable(value)

    @field_validator("wait")
    @classmethod
    def _bounded(cls, value: timedelta) -> timedelta:
        if value > LONGEST_WAIT:
            raise ValueError("is longer than Consul lets a query wait; write up to 10m")
        return value

    @model_validator(mode="after")
    def _guarded(self) -> "Consul":
        _check_encrypted(self.url, self.variables)
        return self


class HttpSd(Spec):
    """An endpoint that answers a JSON list of {"targets": ["IP:PORT"], "labels": {...}}, as Prometheus' http_sd asks.

    `labels`: only groups that have these. `headers_env`: headers with the environment variables, ROLLOUT_DISCOVERY_...,
    that hold their values. `location_label` is the label with the region/zone of a group.
    """

    url: Address = Field(repr=False, description="What is asked, by GET.")
    labels: Mapping[str, Word] = Field(
        default_factory=dict, max_length=20, description="Only groups with these labels."
    )
    headers_env: Mapping[str, str] = Field(
        default_factory=dict,
        max_length=20,
        description="Headers, each with the variable of the server's environment that has its value.",
    )
    location_label: Word = Field(default="__meta_location", description="The label with region/zone.")

    @property
    def label(self) -> str:
        url = URL(self.url)
        return f"http_sd {host_of(url)}{url.path}"

    @property
    def variables(self) -> Mapping[str, str]:
        return {f"headers_env.{header}": name for header, name in self.headers_env.items()}

    @field_validator("url")
    @classmethod
    def _http(cls, value: str) -> str:
        return _checked_url(value)

    @field_validator("headers_env")
    @classmethod
    def _variables(cls, value: Mapping[str, str]) -> Mapping[str, str]:
        for name in value.values():
            _checked_variable(name)
        return header_values(value)

    @model_validator(mode="after")
    def _guarded(self) -> "HttpSd":
        _check_encrypted(self.url, self.headers_env)
        return self


Source = Dns | Consul | HttpSd


class Discover(Spec):
    """Where the backends of a version are found: one of `dns`, `consul`, `http_sd`, and how its answers are taken.

    It is asked `every` so often, at most for `timeout`. `location` is of backends of which the source says none. A
    backend is let go after it was missing in `confirm` answers in a row, and an answer that takes away more than the
    share `max_removed` at once is not followed.
    """

    dns: Dns | None = Field(default=None, description="Records of a name.")
    consul: Consul | None = Field(default=None, description="A service of Consul's catalog.")
    http_sd: HttpSd | None = Field(default=None, description="An endpoint in the format of Prometheus' http_sd.")
    every: Limit = Field(default=timedelta(seconds=10), description="How often it is asked.")
    timeout: Limit = Field(default=timedelta(seconds=5), description="How long an answer may take.")
    location: str = Field(default="", description="region/zone of backends of which the source says none.")
    confirm: int = Field(
        default=2, ge=1, le=100, description="A backend goes when it was missing in so many answers in a row."
    )
    max_removed: Share = Field(default=0.5, description="An answer that leaves out more than this changes nothing.")

    @property
    def source(self) -> Source:
        found = self.dns or self.consul or self.http_sd
        assert found is not None
        return found

    @property
    def kind(self) -> str:
        return next(kind for kind in KINDS if getattr(self, kind) is not None)

    @property
    def label(self) -> str:
        """What it is called in the log and the records; it has nothing that is secret."""
        return self.source.label

    @property
    def variables(self) -> Mapping[str, str]:
        """The environment variables that it needs, by the setting that names each."""
        return {} if isinstance(self.source, Dns) else self.source.variables

    @property
    def region_zone(self) -> tuple[str, str]:
        region, _, zone = self.location.partition("/")
        return region, zone

    @model_validator(mode="before")
    @classmethod
    def _short(cls, value: object) -> object:
        return _written_short(value) if isinstance(value, str) else value

    @field_validator("every")
    @classmethod
    def _not_too_often(cls, value: timedelta) -> timedelta:
        if value < SOONEST:
            raise ValueError("is too often; write 200ms or more")
        return value

    @field_validator("timeout")
    @classmethod
    def _not_too_long(cls, value: timedelta) -> timedelta:
        if value > LONGEST_TIMEOUT:
            raise ValueError("is too long; write up to 60s")
        return value

    @field_validator("location")
    @classmethod
    def _located(cls, value: str) -> str:
        if value and _LOCATION.fullmatch(value) is None:
            raise ValueError(f"'{value}' is no location; write region/zone, as eu/eu-1")
        return value

    @model_validator(mode="after")
    def _one(self) -> "Discover":
        given = [kind for kind in KINDS if getattr(self, kind) is not None]
        if len(given) != 1:
            what = f"has {' and '.join(given)}" if given else "has no source"
            raise ValueError(f"{what}; give one of {', '.join(KINDS)}")
        return self

    @model_validator(mode="after")
    def _timely(self) -> "Discover":
        if self.max_removed <= 0:
            raise ValueError("max_removed: 0% would let no backend go ever; write 50%, or up to 100%")
        return self


def parse_discover(value: object) -> Discover:
    """Parse what was read from JSON or YAML, or a short form. Raises InvalidSpec with the path of each fault."""
    if not isinstance(value, Mapping | str):
        raise InvalidSpec(f"must be a mapping with one of {', '.join(KINDS)}, or {SHORT_FORMS}")
    try:
        return Discover.model_validate(value)
    except ValidationError as error:
        raise InvalidSpec(described(error)) from error


def parse_discover_text(text: str, where: str) -> Discover:
    """Parse a file's YAML, which may have it below `discover:`. Raises InvalidSpec."""
    try:
        _, document = read(text)
    except yaml.YAMLError as error:
        raise InvalidSpec(f"{where} is no YAML: {' '.join(str(error).split())}") from error
    if isinstance(document, dict) and set(document) == {"discover"}:
        document = document["discover"]
    try:
        return parse_discover(document)
    except InvalidSpec as error:
        raise InvalidSpec(f"{where}: {error}") from error


def is_short(text: str) -> bool:
    return text.partition(":")[0] in KINDS


def shown_discover(discover: Discover) -> dict[str, Any]:
    """Return it as it may be shown: what was written and all that counts, without what may be a secret."""
    return discover.model_dump(mode="json", exclude_none=True)


def _written_short(text: str) -> Mapping[str, Any]:
    kind, _, rest = text.partition(":")
    if kind == "http_sd" and rest:  # a URL may have an @ of its own, and the answer has a label for it
        return {"http_sd": {"url": rest}}
    name, at, location = rest.partition("@")
    located = {"location": location} if location else {}
    if at and not location:
        raise ValueError(f"'{text}' has no location behind its @; write @region/zone, as @eu/eu-1")
    match kind:
        case "dns" if name:
            name, _, port = name.partition(":")
            return {"dns": {"name": name, "port": port} if port else {"name": name}, **located}
        case "consul" if name:
            return {"consul": {"service": name}, **located}
        case _:
            raise ValueError(f"'{text}' is no source; write {SHORT_FORMS}")


def _is_ip(text: str) -> bool:
    try:
        ip_address(text)
    except ValueError:
        return False
    return True


def _checked_url(value: str) -> str:
    """Told without the text: it may hold a password."""
    url = http_url(value)
    if url is None:
        raise ValueError("is no address to ask; write http://HOST:PORT/PATH or https://HOST/PATH")
    if url.user or url.password:
        raise ValueError("has a user or password in it; name the environment variable with it instead")
    return value


def _checked_variable(value: str) -> str:
    if _VARIABLE.fullmatch(value) is None:
        raise ValueError("name an environment variable of the server, as ROLLOUT_DISCOVERY_TOKEN; not the token itself")
    return value


def _check_encrypted(address: str, variables: Mapping[str, str]) -> None:
    url = URL(address)
    if variables and url.scheme != "https" and url.host not in _LOOPBACK:
        raise ValueError("url: a secret would go over the network in plain text; use https, or an agent on loopback")
