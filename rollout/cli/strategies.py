"""The verbs on strategies that have names."""

from pathlib import Path
from typing import Annotated

import typer
import yaml
from rich.text import Text

from rollout.caller import DONE, Caller, Listing
from rollout.cli.options import UNSAID, AsJson, DryRun, Server, named
from rollout.client import Client, Json, path_of
from rollout.declared.documents import read
from rollout.declared.text import text_of
from rollout.errors import InvalidSpec
from rollout.linting import Finding, lint_document
from rollout.screen import plain, plans

StrategyName = Annotated[str, typer.Argument(callback=named, help="Its name.")]


def list_strategies(*, server: Server = UNSAID, as_json: AsJson = False) -> None:
    """List the strategies that deployments may name."""
    listing = Listing(path_of("strategies"), "strategies")
    Caller(server, as_json).listed(listing, lambda answer: plans.strategies_table(answer["strategies"]))


def show(name: StrategyName, *, server: Server = UNSAID, as_json: AsJson = False) -> None:
    """Print a strategy as YAML; what may be a secret in it is `[redacted]`."""
    Caller(server, as_json).get(
        path_of("strategies", name), lambda answer: Text(text_of([answer["strategy"]]).rstrip())
    )


def put(
    name: StrategyName,
    file: Annotated[Path, typer.Argument(exists=True, dir_okay=False, readable=True, metavar="FILE", help="YAML.")],
    *,
    dry_run: DryRun = False,
    server: Server = UNSAID,
    as_json: AsJson = False,
) -> None:
    """Save a strategy under a name: `deploy --strategy-name NAME` goes by it.

    It replaces the one of that name; rollouts in progress keep what they began with.

    Example: rollout strategy put careful careful.yaml
    """
    caller = Caller(server, as_json, dry_run)
    try:
        content = _content(file)
    except InvalidSpec as error:
        caller.fail(error)

    async def work(client: Client) -> int:
        answer = await client.put(path_of("strategies", name), {"strategy": content})
        caller.show(answer, lambda saved: Text("\n").join(map(plain, _saved(saved))))
        return DONE

    caller.run(work)


def _saved(saved: Json) -> list[str]:
    return [
        *(f"warning: {each}" for each in saved["warnings"]),
        f"{saved['name']} is saved, revision {saved['revision']}",
    ]


def _content(file: Path) -> Json:
    """Return what a strategy's file says. Raises InvalidSpec with all that is wrong, a line each."""
    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidSpec(f"cannot read the strategy {file}: {error}") from error
    documents, problems = read(str(file), text)
    if problems:
        raise InvalidSpec("\n".join(map(str, problems)))
    if len(documents) > 1:
        raise InvalidSpec(f"{file} has {len(documents)} documents; give one strategy, or use `rollout apply -f {file}`")
    content = documents[0].content if documents else {}
    if not isinstance(content, dict):
        raise InvalidSpec(f"{file}: must be a mapping, but is a {type(content).__name__}")
    root: yaml.Node | None = documents[0].root if documents else None
    faults = lint_document(content, root).faults
    if faults:
        raise InvalidSpec("\n".join(_words(file, each) for each in faults))
    return content


def _words(file: Path, fault: Finding) -> str:
    place = str(file) if fault.line is None else f"{file}:{fault.line}"
    return f"{place}: {fault.path}: {fault.what}" if fault.path else f"{place}: {fault.what}"


def remove(name: StrategyName, *, dry_run: DryRun = False, server: Server = UNSAID, as_json: AsJson = False) -> None:
    """Remove a strategy; rollouts that began by it go on."""
    caller = Caller(server, as_json, dry_run)
    caller.delete(path_of("strategies", name), lambda answer: plain(f"{answer['name']} is removed"))
