"""Documents of what shall be: YAML read with the place of each fault, and parsed into strategies and services."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from typing import Any

import yaml
from pydantic import Field, ValidationError, field_validator, model_validator

from rollout.discovery.source import Discover
from rollout.faults import Fault, Path, faults, path_words
from rollout.fields import Spec
from rollout.linting import Finding, line_of, lint_document, no_yaml, stands_twice
from rollout.spec import VERSION_NAME, VERSION_NAME_RULE, Endpoint, Strategy, distinct
from rollout.written import read_all

KINDS = ("strategy", "service")


@dataclass(frozen=True, slots=True)
class Written:
    """One document as it was written: `source` is its file, "" for a request; `number` counts from 1 in it.

    `root` has the lines, None where there are none.
    """

    source: str
    number: int
    content: Any
    root: yaml.Node | None = None


@dataclass(frozen=True, slots=True)
class Problem:
    """What is wrong with a document: `path` leads to it, "" for the whole, `line` counts from 1, None where unknown."""

    source: str
    number: int
    path: str
    line: int | None
    what: str

    def __str__(self) -> str:
        path = f"{self.path}: " if self.path else ""
        if not self.source:
            dot = "" if not self.path or self.path.startswith("[") else "."
            return f"documents[{self.number - 1}]{dot}{path or ': '}{self.what}"
        place = self.source if self.line is None else f"{self.source}:{self.line}"
        return f"{place}: document {self.number}: {path}{self.what}"


@dataclass(frozen=True, slots=True)
class StrategyDocument:
    """A named strategy that shall be there; `content` is as it was written, `warnings` say what is unwise in it."""

    written: Written
    name: str
    content: Mapping[str, Any]
    strategy: Strategy
    warnings: tuple[Finding, ...] = ()


@dataclass(frozen=True, slots=True)
class ServiceDocument:
    """A version that shall have a service's traffic, and where it runs.

    `endpoints` None: where it runs already, or where `discover` finds it. `strategy` is a name, or one of its own, None
    for the default one.
    """

    written: Written
    service: str
    version: str
    endpoints: tuple[Endpoint, ...] | None
    strategy: str | Strategy | None
    discover: Discover | None = None


@dataclass(frozen=True, slots=True)
class Declared:
    """All documents together, each name once."""

    strategies: Mapping[str, StrategyDocument]
    services: Mapping[str, ServiceDocument]


def read(source: str, text: str) -> tuple[tuple[Written, ...], tuple[Problem, ...]]:
    """Read the documents of a file; or else say why it is no YAML."""
    found: list[Written] = []
    try:
        for number, (root, value) in enumerate(read_all(text), start=1):
            found.append(Written(source, number, _plain(value), root))
        return tuple(each for each in found if each.content is not None), ()
    except yaml.YAMLError as error:
        fault = no_yaml(error)
        return (), (Problem(source, len(found) + 1, "", fault.line, fault.what),)
    except (ValueError, RecursionError) as error:
        return (), (Problem(source, len(found) + 1, "", None, f"cannot be read: {str(error)[:200]}"),)


def _plain(value: Any) -> Any:
    """Return a value of YAML as JSON has it: dates are texts there, and so are all names."""
    if isinstance(value, Mapping):
        return {str(key): _plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    if isinstance(value, date):
        return value.isoformat()
    if value is None or isinstance(value, str | int | float):
        return value
    raise ValueError(f"a value of the type {type(value).__name__} is in it; write text, a number, a list or a mapping")


def parse(documents: Sequence[Written]) -> tuple[Declared, tuple[Problem, ...]]:
    """Return what documents say, and all that is wrong with them."""
    strategies: dict[str, StrategyDocument] = {}
    services: dict[str, ServiceDocument] = {}
    problems: list[Problem] = []
    for written in documents:
        found = _parsed(written)
        if isinstance(found, tuple):
            problems += found
        elif isinstance(found, StrategyDocument):
            problems += _once("strategy", found.name, strategies.setdefault(found.name, found), found)
        else:
            problems += _once("service", found.service, services.setdefault(found.service, found), found)
    return Declared(strategies, services), tuple(dict.fromkeys(problems))


Document = StrategyDocument | ServiceDocument


def _once(kind: str, name: str, first: Document, this: Document) -> Iterator[Problem]:
    if first is this:
        return
    other = first.written
    line = line_of(other.root, ("name",))
    where = f"in {other.source}{f':{line}' if line else ''}" if other.source else f"as documents[{other.number - 1}]"
    yield problem(this.written, ("name",), f"the {kind} '{name}' is {where} already; leave one out")


def problem(written: Written, path: Path, what: str) -> Problem:
    """Return a problem at a path of a document."""
    return Problem(written.source, written.number, path_words(path), line_of(written.root, path), what)


def _parsed(written: Written) -> Document | tuple[Problem, ...]:
    content = written.content
    if not isinstance(content, Mapping):
        what = f"must be a mapping, but is a {type(content).__name__}; begin it with `kind: {' or '.join(KINDS)}`"
        return (problem(written, (), what),)
    kind = content.get("kind")
    match kind:
        case "strategy":
            return _strategy(written, content)
        case "service":
            return _service(written, content)
    known = " or ".join(f"`kind: {each}`" for each in KINDS)
    if "kind" not in content:
        return (problem(written, (), f"has no kind; write {known}"),)
    return (problem(written, ("kind",), f"'{kind}' is none; write {known}"),)


def _strategy(written: Written, content: Mapping[str, Any]) -> StrategyDocument | tuple[Problem, ...]:
    wrong = [problem(written, ("name",), words) for words in wrong_name(content.get("name"))]
    own = {key: each for key, each in content.items() if key not in ("kind", "name")}
    linted = lint_document(own, written.root)
    wrong += (_at(written, each) for each in linted.faults)
    if wrong or linted.strategy is None:
        return tuple(wrong)
    return StrategyDocument(written, content["name"], own, linted.strategy, linted.warnings)


def wrong_name(name: object) -> tuple[str, ...]:
    """Say what is wrong with a strategy's name, () for nothing."""
    if name is None:
        return ("is missing; give it one",)
    if isinstance(name, int | float):
        return (_unquoted(name),)
    if not isinstance(name, str) or VERSION_NAME.fullmatch(name) is None:
        return (f"'{name}' is no name of a strategy; {VERSION_NAME_RULE}",)
    return ()


def _unquoted(value: float) -> str:
    """Say what YAML made of a name; not the value, for of 1.10 that is 1.1."""
    read_as = "true or false" if isinstance(value, bool) else "a number"
    return f"YAML reads it as {read_as}, and it must be a text; put it in quotes as you mean it"


def _at(written: Written, finding: Finding, below: str = "") -> Problem:
    path = ".".join(part for part in (below, finding.path) if part)
    return Problem(written.source, written.number, path, finding.line, finding.what)


class ServiceSpec(Spec):
    """What a service's document says beside its strategy, which is checked by itself."""

    name: str = Field(min_length=1)
    version: str
    endpoints: tuple[Endpoint, ...] | None = None
    discover: Discover | None = None

    @field_validator("version", mode="before")
    @classmethod
    def _text(cls, value: object) -> object:
        if isinstance(value, int | float):
            raise ValueError(_unquoted(value))  # noqa: TRY004 - pydantic's
        return value

    @field_validator("version")
    @classmethod
    def _named(cls, value: str) -> str:
        if VERSION_NAME.fullmatch(value) is None:
            raise ValueError(f"'{value}' is no version name; {VERSION_NAME_RULE}")
        return value

    @field_validator("endpoints")
    @classmethod
    def _some(cls, endpoints: tuple[Endpoint, ...] | None) -> tuple[Endpoint, ...] | None:
        if endpoints == ():
            raise ValueError("is empty; give at least one as HOST:PORT, or leave it out: where it runs is kept then")
        return distinct(endpoints) if endpoints else None

    @model_validator(mode="after")
    def _one_way(self) -> "ServiceSpec":
        if self.endpoints is not None and self.discover is not None:
            raise ValueError("endpoints and discover are both given; leave one out")
        return self


def _service(written: Written, content: Mapping[str, Any]) -> ServiceDocument | tuple[Problem, ...]:
    own = {key: each for key, each in content.items() if key not in ("kind", "strategy")}
    wrong = [_at(written, each) for each in stands_twice(written.root)]
    spec, found = _spec(own)
    wrong += (problem(written, each.path, each.what) for each in found)
    strategy, more = _strategy_of(written, content.get("strategy"))
    wrong += more
    if wrong or spec is None:
        return tuple(wrong)
    return ServiceDocument(written, spec.name, spec.version, spec.endpoints, strategy, spec.discover)


def _spec(own: Mapping[str, Any]) -> tuple[ServiceSpec | None, tuple[Fault, ...]]:
    try:
        return ServiceSpec.model_validate(own), ()
    except ValidationError as error:
        return None, faults(error)


def _strategy_of(written: Written, given: Any) -> tuple[str | Strategy | None, tuple[Problem, ...]]:
    if given is None:
        return None, ()
    if isinstance(given, Mapping):
        linted = lint_document(given, _value(written.root, "strategy"))
        return linted.strategy, tuple(_at(written, each, "strategy") for each in linted.faults)
    wrong = tuple(problem(written, ("strategy",), words) for words in wrong_name(given))
    return (None if wrong else given), wrong


def _value(root: yaml.Node | None, name: str) -> yaml.Node | None:
    pairs = root.value if isinstance(root, yaml.MappingNode) else ()
    return next((value for key, value in pairs if key.value == name), None)
