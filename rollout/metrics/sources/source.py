"""The sources of a strategy's checks, made from what the user wrote."""

from dataclasses import asdict, dataclass
from typing import Protocol
from urllib.parse import quote

import aiohttp
from yarl import URL

from rollout.checks import CheckSpec, Names, PrometheusQuery
from rollout.fetching import Question
from rollout.metrics.sources.answer import Answer
from rollout.metrics.sources.command import Command, Commands
from rollout.metrics.sources.prometheus import Prometheus
from rollout.metrics.sources.web import Web


class Source(Protocol):
    """Where a value comes from."""

    async def read(self) -> Answer:
        """Return the value now, within the source's timeout. Raises Unavailable with why there is none."""
        ...


@dataclass(frozen=True, slots=True)
class Sources:
    """Makes them: `session` is for the web, `commands` says what may be run."""

    session: aiohttp.ClientSession
    commands: Commands

    def source(self, check: CheckSpec, names: Names) -> Source | None:
        """Return a check's source; None where it is Envoy's own stats."""
        timeout_s = check.timeout.total_seconds()
        if check.prometheus is not None:
            return Prometheus(self.session, _query(check.prometheus, names, timeout_s))
        if check.web is not None:
            question = Question(_url(check.web.url, names), check.web.headers, timeout_s)
            return Web(self.session, question, check.web.path)
        if check.command is not None:
            words = tuple(names.fill(word) for word in check.command)
            return Command(self.commands, words, _environment(names), timeout_s)
        return None


def _query(spec: PrometheusQuery, names: Names, timeout_s: float) -> Question:
    base = _url(spec.url, names)
    url = base.with_path(base.path.rstrip("/") + "/api/v1/query").with_query(base.query)
    query = names.fill(spec.query, _in_promql)
    return Question(url.update_query(query=query), spec.headers, timeout_s)


def _url(text: str, names: Names) -> URL:
    return URL(names.fill(text, lambda name: quote(name, safe="")))


def _in_promql(name: str) -> str:
    """As part of a string in either quotes: what is not plain is escaped by its number."""
    return "".join(each if each.isalnum() or each in "_@:/.- " else _escaped(each) for each in name)


def _escaped(character: str) -> str:
    return f"\\U{ord(character):08x}"


def _environment(names: Names) -> dict[str, str]:
    return {f"ROLLOUT_{name.upper()}": value for name, value in asdict(names).items()}
