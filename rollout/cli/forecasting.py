"""The verb that needs neither server nor data: what a strategy would do at a service's traffic."""

import math
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from rollout import fields
from rollout.caller import Caller, say
from rollout.cli.options import strategy_text
from rollout.errors import InvalidSpec
from rollout.forecast.forecast import forecast as simulate
from rollout.forecast.forecast import to_json
from rollout.forecast.page import page
from rollout.forecast.traffic import Service
from rollout.spec import Strategy, parse_strategy

MOST_RPS = 1e7


def _rate(text: str) -> float:
    try:
        rate_rps = float(text)
    except ValueError:
        rate_rps = math.nan
    if 0 < rate_rps <= MOST_RPS:
        return rate_rps
    limits = f"above 0 and at most {MOST_RPS:,.0f}"
    raise typer.BadParameter(f"'{text}' is no rate; write the requests a second of the whole service, {limits}")


def _errors(text: str | float) -> float:
    """Parse what was written; the default comes as it is."""
    try:
        share = fields.share(text if str(text).endswith("%") else float(text))
    except ValueError as error:
        raise typer.BadParameter(f"'{text}' is no share; write 0.001 or 0.1%") from error
    if share < 1:
        return share
    raise typer.BadParameter(f"'{text}' leaves nothing to judge; write the share of requests that fail anyway")


def forecast(
    *,
    rate: Annotated[
        float,
        typer.Option(metavar="N", parser=_rate, help="Requests a second of the service, all its Envoys together."),
    ],
    strategy: Annotated[
        Path | None,
        typer.Option(exists=True, dir_okay=False, readable=True, metavar="FILE", help="YAML; else 1, 10, 50, 100 %."),
    ] = None,
    errors: Annotated[
        float, typer.Option(metavar="SHARE", parser=_errors, help="The share of its requests that fail anyway: 0.1%.")
    ] = 0.001,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, and nothing else, on stdout.")] = False,
) -> None:
    """Show how long each stage would take, what it would catch, and how fast; no server is asked.

    Rollouts on made-up traffic are judged as real ones are, with latencies around 20 ms. The same call gives the same
    answer.

    Example: rollout forecast --strategy careful.yaml --rate 300 --errors 0.1%
    """
    caller = Caller("", as_json)
    try:
        wanted = Strategy() if strategy is None else parse_strategy(strategy_text(strategy), str(strategy))
    except InvalidSpec as error:
        caller.fail(error)
    if wanted.checks:
        say(f"note: the checks of {strategy} are not in it")
    service = Service(rate, errors, late_by=wanted.gate.latency_tolerance)
    with Console(stderr=True).status("simulating") as status:
        told = simulate(wanted, service, lambda what: status.update(f"simulating: {what}"))
    caller.show(to_json(told), page)
