"""A forecast as people read it: the stages, what would be caught, and what becomes of the strategy as written."""

from collections.abc import Iterator, Mapping
from typing import Any

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

Json = Mapping[str, Any]


def page(view: Json) -> RenderableType:
    """The whole of it, from its JSON."""
    return Group(*_parts(view))


def _parts(view: Json) -> Iterator[RenderableType]:
    healthy = view["healthy"]
    yield Text(
        f"A healthy version, at {view['rate_rps']:g} requests/s of which {100 * view['errors']:g} % fail anyway:"
    )
    yield _stages(healthy)
    yield Text(_outcome(healthy))
    for note in view["notes"]:
        yield Text(f"- {note}")
    yield Text("\nOne that is no good:")
    yield _cases(view["regressions"])
    yield Text(
        "Simulated with the real judge; mean, and in brackets what 95 of 100 stay below. The strategy's checks,\n"
        "waiting for healthy backends before the first stage and draining after the last are not in it."
    )


def _stages(healthy: Json) -> Table:
    table = _table("stage", "weight", "its requests/s", "may be worse by", "takes, s", "requests of it")
    for number, stage in enumerate(healthy["stages"], 1):
        last = stage["weight_bp"] == 10_000
        table.add_row(
            str(number),
            _weight(stage["weight_bp"]),
            _rate(stage["candidate_rps"]),
            "-" if last else f"{100 * stage['margin']:.3g} %",
            _spread(stage["seconds"]),
            _spread(stage["requests"]),
        )
    table.add_section()
    table.add_row("all", "", "", "", _spread(healthy["seconds"]), "")
    return table


def _outcome(healthy: Json) -> str:
    told = f"It has all traffic after {_spread(healthy['seconds_to_full'])} s."
    if healthy["paused"]:
        told += f" {_percent(healthy['paused'])} of the rollouts pause at a stage's timeout."
    if healthy["rolled_back"]:
        told += f" {_percent(healthy['rolled_back'])} of them are taken back for nothing."
    return f"{told} ({healthy['runs']} rollouts)"


def _cases(cases: list[Json]) -> Table:
    table = _table("what is wrong", "taken back", "mostly at", "after, s", "bad answers", "paused", "not seen")
    for case in cases:
        table.add_row(
            case["name"],
            _percent(case["rolled_back"]),
            "-" if case["weight_bp"] is None else _weight(case["weight_bp"]),
            _spread(case["seconds"]),
            _spread(case["bad_answers"]),
            _percent(case["paused"]),
            _percent(case["promoted"]),
        )
    return table


def _table(first: str, *others: str) -> Table:
    table = Table(box=box.SIMPLE_HEAD)
    table.add_column(first)
    for heading in others:
        table.add_column(heading, justify="right")
    return table


def _spread(spread: Json) -> str:
    if spread["mean"] is None:
        return "-"
    return f"{spread['mean']:,.0f} ({spread['p95']:,.0f})"


def _weight(weight_bp: int) -> str:
    return f"{weight_bp / 100:g}%"


def _percent(share: float) -> str:
    return f"{100 * share:.3g} %"


def _rate(rate_rps: float) -> str:
    return f"{rate_rps:,.0f}" if rate_rps >= 100 else f"{rate_rps:.3g}"
