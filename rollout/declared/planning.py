"""The plan: from how things stand to what documents say, step by step; what cannot be now, and why."""

import difflib
import json
from collections.abc import Iterable, Iterator, Mapping
from functools import lru_cache
from typing import Any

import yaml

from rollout.concealed import WITH_SECRETS
from rollout.declared.documents import Declared, Problem, ServiceDocument, StrategyDocument, problem
from rollout.declared.moving import service_steps
from rollout.declared.secrets import concealed
from rollout.declared.steps import IDLE, Action, Situation, Standing, Step, Wanted, Wishes
from rollout.errors import InvalidSpec
from rollout.hooks import HookKind, at
from rollout.record import NamedStrategy
from rollout.spec import Strategy, faults_of

DEFAULT, INLINE = "default", "inline"
MEANINGS_KEPT = 2_000  # of saved strategies: a thousand services may name the same one


def content_of(strategy: NamedStrategy) -> dict[str, Any]:
    """Return a strategy as it was written."""
    content: dict[str, Any] = json.loads(strategy.text)
    return content


@lru_cache(maxsize=MEANINGS_KEPT)
def parsed(strategy: NamedStrategy) -> Strategy:
    """Return what a saved strategy means. Raises InvalidSpec where this release takes it no more."""
    content = content_of(strategy)
    found = faults_of(content)
    if found:
        words = "; ".join(map(str, found))
        raise InvalidSpec(f"the strategy '{strategy.name}' was saved by another release: {words}; save it anew")
    return Strategy.model_validate(content)


def plan(declared: Declared, now: Situation, wishes: Wishes) -> tuple[tuple[Step, ...], tuple[Problem, ...]]:
    """Return the steps, strategies first, and all that can never be as it is written."""
    steps = [_strategy_step(each, now.strategies.get(each.name)) for each in declared.strategies.values()]
    problems: list[Problem] = []
    for document in declared.services.values():
        found = _service(document, declared, now, wishes)
        if isinstance(found, Problem):
            problems.append(found)
        else:
            steps += found
    if wishes.prune:
        steps += _pruned(declared, now)
    return tuple(steps), tuple(problems)


def to_do(steps: Iterable[Step]) -> int:
    """Count the steps that change something."""
    return sum(step.action not in IDLE for step in steps)


def _strategy_step(document: StrategyDocument, known: NamedStrategy | None) -> Step:
    name, after = document.name, concealed(document.content)
    if known is None:
        words = "is added"
        return Step("strategy", name, Action.CREATE, words, {}, after, _changed({}, after), wish=document)
    content = content_of(known)
    before = concealed(content)
    if content == document.content:
        return Step("strategy", name, Action.NONE, "is so already", before, after)
    lines = _changed(before, after)
    words = "changes; rollouts in progress keep what they began with" if lines else "changes in what is not shown"
    return Step("strategy", name, Action.CHANGE, words, before, after, lines, wish=document)


def _changed(before: Mapping[str, Any], after: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the lines that go and come, as `- stages: ...` and `+ stages: ...`."""
    lines = difflib.ndiff(_lines(before), _lines(after))
    return tuple(line for line in lines if line[:2] in ("- ", "+ "))


def _lines(content: Mapping[str, Any]) -> list[str]:
    return yaml.safe_dump(dict(content), sort_keys=False).splitlines() if content else []


def _pruned(declared: Declared, now: Situation) -> Iterator[Step]:
    """Yield those that no document names, nor what is in progress or waits goes by."""
    named = {each.strategy for each in declared.services.values() if isinstance(each.strategy, str)}
    used = {_meaning(each) for standing in now.services.values() for each in _in_use(standing)}
    for name, known in now.strategies.items():
        if name not in named and name not in declared.strategies and _meaning_of(known) not in used:
            words = "is removed: no document names it, and no rollout in progress goes by it"
            yield Step("strategy", name, Action.REMOVE, words, concealed(content_of(known)))


def _meaning_of(known: NamedStrategy) -> str | None:
    """Return what tells a saved strategy from others, None where this release takes it no more: nothing goes by it."""
    try:
        return _meaning(parsed(known))
    except InvalidSpec:
        return None


def _meaning(strategy: Strategy) -> str:
    return strategy.model_dump_json(context=WITH_SECRETS)


def _in_use(standing: Standing) -> Iterator[Strategy]:
    if standing.in_progress and standing.rollout is not None:
        yield standing.rollout.strategy
    if standing.queued is not None:
        yield standing.queued.strategy


def _service(
    document: ServiceDocument, declared: Declared, now: Situation, wishes: Wishes
) -> tuple[Step, ...] | Problem:
    standing = now.services.get(document.service)
    if standing is None:
        known = ", ".join(sorted(now.services)) or "none, for envoy-configs has no EDS cluster"
        return problem(document.written, ("name",), f"there is no service '{document.service}'; there are {known}")
    try:
        wanted = _wanted(document, declared, now)
    except InvalidSpec as error:
        return problem(document.written, ("strategy",), str(error))
    steps = service_steps(wanted, standing, wishes)
    return _wrong(wanted, standing, steps[0].action) or steps


def _wanted(document: ServiceDocument, declared: Declared, now: Situation) -> Wanted:
    name = document.strategy
    if name is None:
        return Wanted(document, Strategy(), DEFAULT)
    if isinstance(name, Strategy):
        return Wanted(document, name, INLINE)
    if name in declared.strategies:
        return Wanted(document, declared.strategies[name].strategy, name)
    if name in now.strategies:
        return Wanted(document, parsed(now.strategies[name]), name)
    known = ", ".join(sorted({*declared.strategies, *now.strategies})) or "none yet"
    raise InvalidSpec(f"there is no strategy '{name}'; there are {known}; add a document of it, or write it here")


def _wrong(wanted: Wanted, now: Standing, action: Action) -> Problem | None:
    """Say what a rollout of this could never begin with."""
    if action not in (Action.ROLLOUT, Action.SUPERSEDE) or (
        action is Action.SUPERSEDE and wanted.version in now.versions
    ):
        return None
    written = wanted.document.written
    said = wanted.endpoints is not None or wanted.discover is not None
    if not said and not at(wanted.strategy.hooks, HookKind.PROVISION):
        what = f"is missing: '{wanted.version}' of '{now.service}' does not run yet"
        remedy = "say where, by `discover` too, or give its strategy a `provision` hook"
        return problem(written, ("endpoints",), f"{what}; {remedy}")
    stable = {each.address for each in now.versions[now.stable].endpoints}
    shared = sorted(stable & {each.address for each in wanted.endpoints or ()})
    if not shared or action is Action.SUPERSEDE:  # what is stable when it begins is not known yet
        return None
    what = f"{', '.join(shared)} belongs to '{now.stable}', whose backends are let go at the end"
    return problem(written, ("endpoints",), f"{what}; give '{wanted.version}' backends of its own")
