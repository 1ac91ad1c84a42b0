"""Who is told of what: the file of notifications, parsed with every fault at once."""

from collections.abc import Iterator, Mapping
from datetime import timedelta
from fnmatch import fnmatchcase
from typing import Annotated, Any

import yaml
from pydantic import Field, ValidationError, model_validator

from rollout.errors import InvalidSpec
from rollout.faults import Fault, faults, path_words
from rollout.fields import Limit, Spec
from rollout.happenings import Event, EventKind, Severity
from rollout.linting import Finding, line_of, no_yaml, stands_twice
from rollout.notify.words import Words, fault_of
from rollout.written import read
from xds.errors import InvalidConfig, Problem

TARGETS_LIMIT = 50  # each may have a thread that hangs
KINDS = tuple(kind.value for kind in EventKind)
_SOURCES = "give it one of `url_env:`, `url_file:` and `url:`"

Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,62}$")]
Pattern = Annotated[str, Field(min_length=1, max_length=253)]
Text = Annotated[str, Field(max_length=4_000)]


class Target(Spec):
    """Somebody who is told, by an Apprise URL: in the file, in an environment variable or in a file of its own."""

    url: str | None = Field(default=None, repr=False, min_length=1, max_length=10_000)
    url_env: str | None = Field(default=None, min_length=1, max_length=200)
    url_file: str | None = Field(default=None, min_length=1, max_length=4_000)

    @model_validator(mode="after")
    def _has_one_url(self) -> "Target":
        if sum(each is not None for each in (self.url, self.url_env, self.url_file)) != 1:
            raise ValueError(f"has none or several addresses; {_SOURCES}")
        return self


class Rule(Spec):
    """Which events some targets are told of. () is all services and all events; patterns as `shop-*` are fine."""

    tell: tuple[str, ...] = Field(min_length=1)
    services: tuple[Pattern, ...] = ()
    events: tuple[Pattern, ...] = ()
    severity: Severity = Severity.NOTICE

    def takes(self, event: Event) -> bool:
        """Say whether an event is one of those. One of the whole fleet concerns every service."""
        of = not self.services or not event.service or _any(self.services, event.service)
        return of and (not self.events or _any(self.events, event.kind)) and event.severity.covers(self.severity)


class Template(Spec):
    """Words of a user's own for a kind of event; None for ours."""

    title: Text | None = None
    body: Text | None = None


class Pace(Spec):
    """How often a target is told something, and how long a message is tried."""

    per_minute: int = Field(default=10, ge=1, le=600)
    timeout: Limit = Field(default=timedelta(seconds=15), le=timedelta(minutes=5))
    give_up: Limit = timedelta(minutes=15)


class Plan(Spec):
    """All that the file says. `link` is where an event's message leads, with placeholders, None for nowhere."""

    targets: Mapping[Name, Target] = Field(default_factory=dict, max_length=TARGETS_LIMIT)
    rules: tuple[Rule, ...] = ()
    templates: Mapping[str, Template] = Field(default_factory=dict)
    limit: Pace = Pace()
    link: Text | None = None

    def tells(self, target: str, event: Event) -> bool:
        """Say whether a target is to be told of an event."""
        return any(target in rule.tell and rule.takes(event) for rule in self.rules)

    def words(self, public_url: str | None) -> Words:
        """Return what messages say; `public_url` is where the page is, for a link where the file gives none."""
        own = {EventKind(kind): (each.title, each.body) for kind, each in self.templates.items()}
        if self.link is not None or public_url is None:
            return Words(own, self.link, self.link)
        page = f"{public_url.rstrip('/')}/#/"
        return Words(own, page, f"{page}services/$service")


def parse(name: str, text: str) -> Plan:
    """Read the text of the file `name`. Raises InvalidConfig with every fault, each with its line."""
    try:
        root, document = read(text)
    except yaml.YAMLError as error:
        raise _refused(name, [no_yaml(error)]) from error
    if not isinstance(document, dict):
        raise _refused(name, [Finding("", 1, "must be a mapping with `targets:` and `rules:`")])
    found = [*stands_twice(root), *(_finding(root, each) for each in _faults(document))]
    if found:
        raise _refused(name, found)
    return Plan.model_validate(document)


def _refused(name: str, found: list[Finding]) -> InvalidConfig:
    return InvalidConfig(tuple(Problem(_place(name, each), each.what) for each in found))


def _place(name: str, found: Finding) -> str:
    where = name if found.line is None else f"{name}:{found.line}"
    return f"{where}: {found.path}" if found.path else where


def _finding(root: yaml.Node | None, fault: Fault) -> Finding:
    return Finding(path_words(fault.path), line_of(root, fault.path), fault.what)


def _faults(document: Mapping[str, Any]) -> Iterator[Fault]:
    try:
        Plan.model_validate(document)
    except ValidationError as error:
        # What was written in the place of a target may be its address, which is a secret.
        for fault in faults(error):
            yield Fault(fault.path, fault.what.partition(", but is ")[0]) if fault.path[:1] == ("targets",) else fault
    yield from _of_rules(document)
    yield from _of_templates(document)


def _of_rules(document: Mapping[str, Any]) -> Iterator[Fault]:
    targets, rules = document.get("targets"), document.get("rules") or ()
    names = tuple(map(str, targets)) if isinstance(targets, dict) else ()
    for number, rule in enumerate(rules if isinstance(rules, list) else ()):
        told, events = (rule.get("tell"), rule.get("events")) if isinstance(rule, dict) else (None, None)
        for place, name in enumerate(told if isinstance(told, list) else ()):
            if isinstance(name, str) and name not in names:
                known = ", ".join(names) or "none"
                yield Fault(("rules", number, "tell", place), f"'{name}' is no target; there are {known}")
        for place, pattern in enumerate(events if isinstance(events, list) else ()):
            if isinstance(pattern, str) and not any(fnmatchcase(kind, pattern) for kind in KINDS):
                what = f"'{pattern}' is no event; there are {', '.join(KINDS)}, and patterns as rollout.*"
                yield Fault(("rules", number, "events", place), what)


def _of_templates(document: Mapping[str, Any]) -> Iterator[Fault]:
    templates = document.get("templates")
    for kind, template in (templates if isinstance(templates, dict) else {}).items():
        if kind not in KINDS:
            yield Fault(("templates", str(kind)), f"is no event; there are {', '.join(KINDS)}")
        for part, text in (template if isinstance(template, dict) else {}).items():
            fault = fault_of(text) if isinstance(text, str) else None
            if fault is not None:
                yield Fault(("templates", str(kind), str(part)), fault)
    link = document.get("link")
    fault = fault_of(link) if isinstance(link, str) else None
    if fault is not None:
        yield Fault(("link",), fault)


def unwise(plan: Plan) -> tuple[str, ...]:
    """Return what is allowed, and seldom meant."""
    told = {name for rule in plan.rules for name in rule.tell}
    idle = [f"targets.{name}: no rule tells it of anything; name it in a rule's `tell:`" for name in plan.targets]
    return tuple(each for each, name in zip(idle, plan.targets, strict=True) if name not in told)


def address(name: str, target: Target, environment: Mapping[str, str], files: Mapping[str, str]) -> str:
    """Return a target's URL, from where it is kept; `files` has the text of each `url_file`. Raises InvalidSpec."""
    where = f"targets.{name}"
    if target.url_env is not None:
        found = environment.get(target.url_env, "").strip()
        if not found:
            raise InvalidSpec(f"{where}.url_env: the environment variable {target.url_env} of the server is not set")
        return found
    if target.url_file is not None:
        found = files.get(target.url_file, "").strip()
        if not found:
            raise InvalidSpec(f"{where}.url_file: {target.url_file} is empty; write the target's address into it")
        return found
    assert target.url is not None
    return target.url.strip()


def _any(patterns: tuple[str, ...], name: str) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)
