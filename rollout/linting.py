"""What is wrong with a strategy's file, all of it at once, and what is allowed but unwise; each with its line. Pure."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import yaml

from rollout.faults import Fault, Path, path_words
from rollout.hooks import HookKind, at
from rollout.spec import OnFailure, Pace, Stage, Strategy, faults_of
from rollout.written import read

_MONDAY = datetime(2024, 1, 1, tzinfo=UTC)  # any: a calendar of weeks says the same of each
_QUARTER = timedelta(minutes=15)


@dataclass(frozen=True, slots=True)
class Finding:
    """What is wrong or unwise: where, as stages[1].hold, "" for the whole; `line` counts from 1, None where unknown."""

    path: str
    line: int | None
    what: str


@dataclass(frozen=True, slots=True)
class Linted:
    """`strategy` is None where there are faults."""

    faults: tuple[Finding, ...] = ()
    warnings: tuple[Finding, ...] = ()
    strategy: Strategy | None = None


def lint(text: str) -> Linted:
    """Read a strategy's file and say what is wrong with it, or else what is unwise."""
    try:
        root, document = read(text)
    except yaml.YAMLError as error:
        return Linted((no_yaml(error),))
    if document is None:
        return Linted(strategy=Strategy())
    if not isinstance(document, dict):
        return Linted((Finding("", 1, f"must be a mapping, but is a {type(document).__name__}"),))
    return lint_document(document, root)


def lint_document(document: Mapping[str, Any], root: yaml.Node | None) -> Linted:
    """Say what is wrong with a strategy as it is written, or unwise; `root` is where, None for what is in no file."""
    twice = stands_twice(root)
    wrong = tuple(_found(root, fault) for fault in _faults(document))
    if twice or wrong:
        return Linted((*twice, *wrong))
    strategy = Strategy.model_validate(document)
    return Linted(warnings=tuple(_found(root, fault) for fault in unwise(strategy, document)), strategy=strategy)


def stands_twice(root: yaml.Node | None) -> tuple[Finding, ...]:
    """Return the keys that are more than once in a mapping."""
    return tuple(Finding(path_words(path), line, "stands twice; leave one out") for path, line in _twice(root, ()))


def no_yaml(error: yaml.YAMLError) -> Finding:
    mark = getattr(error, "problem_mark", None)
    what = getattr(error, "problem", None) or "cannot be read"
    return Finding("", mark.line + 1 if mark else None, f"is no YAML: {what}")


def _faults(document: Mapping[str, Any]) -> tuple[Fault, ...]:
    """All faults: the parser itself stops at the first of the gate, and at one of `hold_back`."""
    gate, held = document.get("gate"), document.get("hold_back")
    apart = {name: value for name, value in document.items() if name not in ("gate", "hold_back")}
    found = list(faults_of(apart))
    if isinstance(gate, Mapping):
        found += [Fault(("gate", str(name)), _short(fault.what, str(name))) for name, fault in _of_gate(gate)]
    elif "gate" in document:
        found += faults_of({"gate": gate})
    if "hold_back" in document:
        found += (Fault(("hold_back",), _short(fault.what, "hold_back")) for fault in faults_of({"hold_back": held}))
    return tuple(found) or faults_of(document)


def _of_gate(gate: Mapping[str, Any]) -> Iterator[tuple[str, Fault]]:
    return ((name, fault) for name, value in gate.items() for fault in faults_of({"gate": {name: value}}))


def _short(what: str, name: str) -> str:
    """Without the setting's name, which is in the path."""
    return what.removeprefix(f"{name}: ").removeprefix(f"{name} ")


def _found(root: yaml.Node | None, fault: Fault) -> Finding:
    return Finding(path_words(fault.path), line_of(root, fault.path), fault.what)


def line_of(node: yaml.Node | None, path: Path) -> int | None:
    """Return the line of what a path leads to, or of the last that is there of it."""
    line = node.start_mark.line + 1 if node else None
    for part in path:
        if isinstance(node, yaml.MappingNode):
            pair = next(((key, value) for key, value in node.value if key.value == str(part)), None)
            if pair is None:
                return line
            line, node = pair[0].start_mark.line + 1, pair[1]
        elif isinstance(node, yaml.SequenceNode) and isinstance(part, int) and part < len(node.value):
            node = node.value[part]
            line = node.start_mark.line + 1 if node else line
        else:
            return line
    return line


def _twice(node: yaml.Node | None, path: Path) -> Iterator[tuple[Path, int]]:
    """Yield keys that a mapping has twice, of which YAML silently takes the last."""
    if isinstance(node, yaml.MappingNode):
        known = set()
        for key, value in node.value:
            if key.value in known:
                yield (*path, key.value), key.start_mark.line + 1
            known.add(key.value)
            yield from _twice(value, (*path, key.value))
    elif isinstance(node, yaml.SequenceNode):
        for number, each in enumerate(node.value):
            yield from _twice(each, (*path, number))


def unwise(strategy: Strategy, document: Mapping[str, Any]) -> Iterator[Fault]:
    """Yield what is allowed, and seldom meant."""
    yield from _of_all_stages(strategy)
    for path, stage in _places(strategy, document):
        yield from _of_stage(strategy, path, stage)
    yield from _of_the_end(strategy)
    yield from _of_times(strategy, document)
    yield from _of_waves(strategy)
    yield from _of_reach(strategy)


def _places(strategy: Strategy, document: Mapping[str, Any]) -> Iterator[tuple[Path, Stage]]:
    """Yield each stage with the path to where it is written."""
    last = len(strategy.stages) - 1
    for number, stage in enumerate(strategy.stages):
        if "hold_back" in document and number >= last - 1:
            yield (("hold_back",) if number < last else ("stages", last - 1)), stage
        else:
            yield ("stages", number), stage
    for wave, each in enumerate(strategy.waves):
        for number, stage in enumerate(each.stages):
            yield ("waves", wave, "stages", number), stage


def _of_all_stages(strategy: Strategy) -> Iterator[Fault]:
    if len(strategy.stages) == 1 and not strategy.waves:
        what = "all traffic moves in one push, before anything is known of the candidate"
        yield Fault(("stages",), f"{what}; begin with a small weight, or with `expose: false` for testers")
    weighted = [stage for stage in strategy.stages if stage.weight_bp]
    if strategy.sticky is not None and len(weighted) == 1 and not strategy.waves:
        yield Fault(("sticky",), "has no effect: there is no weight between 0% and 100%")


def _of_stage(strategy: Strategy, path: Path, stage: Stage) -> Iterator[Fault]:
    serves = bool(stage.weight_bp or stage.match)
    if serves and not stage.hold:
        yield Fault((*path, "hold"), "0s: a few looks may end this stage; give it some seconds")
    if not stage.expose and strategy.preview is None:
        yield Fault((*path, "expose"), "nobody can reach the candidate here, for `preview` is off")
    asked = stage.approve or at(strategy.hooks, HookKind.CONFIRM_TRAFFIC_INCREASE, HookKind.ROLLOUT)
    checks = (*strategy.checks, *stage.checks)
    if not serves and not asked and not checks:
        kind = "a copy of requests" if stage.mirror_bp else "testers only"
        what = f"{kind}: nothing judges it, so it ends after its hold of {_seconds(stage.hold)}"
        yield Fault(path, f"{what}; give it `approve: true`, or `checks`")
    for check in checks:
        if check.interval.total_seconds() >= stage.limit_s:
            what = f"is over before the check '{check.label}' has a reading, after {_seconds(check.interval)}"
            yield Fault((*path, "timeout"), f"{_seconds(stage.timeout)} {what}")
    if serves and stage.limit_s <= strategy.gate.warmup_s:
        what = f"is over before the gate's warmup of {strategy.gate.warmup_s:g}s, so nothing passes in time"
        yield Fault((*path, "timeout"), f"{_seconds(stage.timeout)} {what}")
    deadline = strategy.progress_deadline
    if deadline is not None and stage.hold >= deadline:
        where = path if path == ("hold_back",) else (*path, "hold")
        yield Fault(where, f"is not shorter than progress_deadline ({_seconds(deadline)}): it is taken back")


def _of_the_end(strategy: Strategy) -> Iterator[Fault]:
    switch = len([stage for stage in strategy.stages if stage.weight_bp]) == 1 and len(strategy.stages) > 1
    if switch and not strategy.keep_stable:
        what = "0s: after the switch the old version is let go at once, and nothing is left to go back to"
        yield Fault(("keep_stable",), f"{what}; keep it for some minutes")
    if not strategy.drain_timeout:
        yield Fault(("drain_timeout",), "0s cuts every request that still runs on the old version")


def _of_times(strategy: Strategy, document: Mapping[str, Any]) -> Iterator[Fault]:
    if strategy.min_healthy > strategy.ready:
        words = f"{strategy.min_healthy:.0%} is above ready ({strategy.ready:.0%})"
        yield Fault(("min_healthy",), f"{words}: what is ready pauses the rollout at once")
    if "gradual_step" in document and Pace.GRADUAL not in (strategy.abort, strategy.promote):
        yield Fault(("gradual_step",), "has no effect: neither abort nor promote is gradual")
    freeze = strategy.freeze
    if freeze is not None and all(freeze.why(_MONDAY + number * _QUARTER) for number in range(7 * 24 * 4)):
        yield Fault(("freeze",), "covers the whole week: no rollout would ever start")


def _of_waves(strategy: Strategy) -> Iterator[Fault]:
    if len(strategy.waves) == 1:
        yield Fault(("waves",), "one wave moves all locations at the same time; begin with one, or with 10%")
    if not strategy.waves and strategy.on_failure is not OnFailure.ALL:
        yield Fault(("on_failure",), "has no effect without waves")


def _of_reach(strategy: Strategy) -> Iterator[Fault]:
    if strategy.preview is not None and strategy.preview.external:
        what = f"anybody on the internet reaches the candidate by the header {strategy.preview.header}"
        yield Fault(("preview", "external"), what)


def _seconds(value: timedelta) -> str:
    return f"{value.total_seconds():g}s"


def summary(findings: Iterable[Finding]) -> tuple[Mapping[str, Any], ...]:
    """Findings as plain values."""
    return tuple({"path": each.path, "line": each.line, "what": each.what} for each in findings)
