"""The verbs that need no server: what the judge makes of recorded looks."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, BinaryIO

import typer

from rollout.caller import Caller, say
from rollout.cli.options import strategy_text
from rollout.errors import InvalidSpec
from rollout.gate.sample import Look, Past
from rollout.gate.words import odds
from rollout.samples import is_history, parse_history, parse_look
from rollout.simulate import Decision, Simulation, start, take
from rollout.spec import Strategy, parse_strategy

LINE_BYTES = 1024 * 1024
HEADER = "         t  stage   weight  verdict    against  for: errors    p95    p99  why"


def simulate(
    *,
    strategy: Annotated[Path, typer.Option(exists=True, dir_okay=False, readable=True, metavar="FILE", help="YAML.")],
    samples: Annotated[
        typer.FileBinaryRead, typer.Option(metavar="FILE", help="A line of JSON for each look; `-` is stdin.")
    ],
    as_json: Annotated[bool, typer.Option("--json", help="Print a line of JSON for each look.")] = False,
) -> None:
    """Judge recorded or made-up looks; no server is needed.

    Each line has the counts since the line before; the first line may be the history instead. Each is answered with
    keep, promote, rollback, hold or timeout. After a promote the next line belongs to the next stage; after the last
    stage, or a rollback, it ends.

    A stage begins with the look that promoted into it, the first one a second before its first look. `hold` is its
    least time; when its `timeout` is over nothing is promoted any more. Counts are taken as they are: no warm-up is
    skipped, no weight is raised, and the strategy's checks are left out.

    Example: rollout simulate --strategy strategy.yaml --samples looks.jsonl
    """
    name = "stdin" if samples.name == "<stdin>" else str(samples.name)
    try:
        parsed = parse_strategy(strategy_text(strategy), str(strategy))
        if parsed.checks:
            say(f"note: the checks of {strategy} are not measured here")
        if not as_json:
            typer.echo(HEADER)
        lines = _lines(samples, name)
        for simulation, decision in _judged(parsed, lines):
            typer.echo(_json(decision) if as_json else _row(simulation, decision))
        left = sum(1 for _ in lines) if samples.seekable() else 0
        if left:
            say(f"note: {name}: the rollout is over, so {left} more line{'s' * (left > 1)} did not count")
    except InvalidSpec as error:
        Caller("", as_json=False).fail(error)


def _lines(file: BinaryIO, name: str) -> Iterator[tuple[str, bytes]]:
    """Yield each line that is not empty, with its place; as soon as it is there, and never much more than it."""
    number = 0
    while line := file.readline(LINE_BYTES + 1):
        number += 1
        if len(line) > LINE_BYTES:
            raise InvalidSpec(f"{name}:{number}: is longer than {LINE_BYTES:,} bytes, so it is no look")
        if line.strip():
            yield f"{name}:{number}", line


def _judged(strategy: Strategy, lines: Iterator[tuple[str, bytes]]) -> Iterator[tuple[Simulation, Decision]]:
    """Yield what follows from each look, with the rollout before it. Raises InvalidSpec with the line's place."""
    simulation = None
    for where, line in lines:
        try:
            if is_history(line):
                simulation = _begun(strategy, simulation, line)
                continue
            before = simulation or start(strategy, Past())
            simulation, decision = take(before, _look(before, line))
        except InvalidSpec as error:
            raise InvalidSpec(f"{where}: {error}") from error
        yield before, decision
        if simulation.over:
            return
    if simulation is None or simulation.looked_s is None:
        raise InvalidSpec("there is no look in the samples")


def _begun(strategy: Strategy, simulation: Simulation | None, line: bytes) -> Simulation:
    if simulation is not None:
        raise InvalidSpec("history: it may stand in the first line only")
    return start(strategy, parse_history(line))


def _look(simulation: Simulation, line: bytes) -> Look:
    look = parse_look(line, simulation.past)
    if simulation.looked_s is not None and look.at_s < simulation.looked_s:
        raise InvalidSpec(f"t: {look.at_s:g} comes after {simulation.looked_s:g}; looks must be in the order of time")
    return look


def _json(decision: Decision) -> str:
    return json.dumps(
        {
            "t": decision.at_s,
            "verdict": decision.move,
            "stage": decision.stage,
            "log_e_rollback": decision.log_e_rollback,
            "log_e_promote": dict(decision.log_e_promote),
        }
    )


def _row(simulation: Simulation, decision: Decision) -> str:
    """One line under HEADER; evidence against as odds, that to go on as a part of what is needed."""
    weight = f"{simulation.weight_bp / 100:g} %"
    shown = "".join(f"{int(100 * share):>6}%" for share in decision.progress.values())
    place = f"{decision.at_s:>10.10g}{decision.stage + 1:>7}{weight:>9}  {decision.move:<8}"
    return f"{place}{odds(decision.log_e_rollback):>10}     {shown}  {decision.reason}"
