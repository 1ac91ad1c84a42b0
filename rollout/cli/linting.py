"""The verbs that look at files only: `lint` of configurations and strategies, and the `schema` of strategies."""

import json
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer
import yaml
from rich.text import Text

from rollout import screen
from rollout.api.stages import stage_view
from rollout.caller import DONE, FAILED, Caller
from rollout.cli.options import AsJson, strategy_text
from rollout.configs import read_configs
from rollout.declared.shape import documents_schema
from rollout.errors import InvalidSpec, RolloutError
from rollout.linting import Finding, Linted, lint, summary
from rollout.schema import strategy_schema
from rollout.traffic.publisher import check
from rollout.written import read
from xds.errors import XdsError
from xds.resources import TYPES


def lint_files(
    paths: Annotated[
        list[Path],
        typer.Argument(
            exists=True, readable=True, metavar="DIR|FILE...", help="A folder of envoy-configs, or strategies' files."
        ),
    ],
    *,
    as_json: AsJson = False,
) -> None:
    """Check a configuration (DIR), or strategies (FILE...); no server is needed.

    Every problem in a line of its own: of a configuration with file, resource and field, of a strategy with its line
    and path. Exits with 1 when there is one; warnings are no problems.

    Example: rollout lint envoy-configs && rollout lint strategies/*.yaml
    """
    folders = [path for path in paths if path.is_dir()]
    if folders and len(paths) > 1:
        raise typer.BadParameter("give one folder of envoy-configs, or files of strategies", param_hint="DIR|FILE...")
    caller = Caller("", as_json)
    if folders:
        _configuration(caller, folders[0])
    else:
        _strategies(caller, paths)


def _configuration(caller: Caller, folder: Path) -> None:
    try:
        files = read_configs(folder)
        _, compiler, warnings = check(files)
    except (RolloutError, XdsError) as error:
        caller.fail(error)
    services, groups = sorted(compiler.services), sorted(files.groups)
    notes = [{"where": each.where, "what": each.what} for each in warnings]
    answer = {"services": services, "groups": groups, "warnings": notes}
    fine = f"{folder} is fine; services: {', '.join(services) or 'none; an EDS cluster is one'}"
    fine = f"{fine}; groups: {', '.join(groups)}" if groups else fine
    fine = (
        f"{fine}. The endpoints of a service here are its first version: later ones have their own"
        if services
        else fine
    )
    caller.show(answer, lambda _: screen.notes(list(map(str, warnings)), fine))


def _strategies(caller: Caller, files: list[Path]) -> NoReturn:
    found = [(file, _linted(caller, file)) for file in files]
    answer = {"strategies": [_view(file, linted) for file, linted in found]}
    caller.show(answer, lambda _: Text("\n").join(line for file, linted in found for line in _told(file, linted)))
    raise typer.Exit(FAILED if any(linted.faults for _, linted in found) else DONE)


def _linted(caller: Caller, file: Path) -> Linted:
    try:
        text = strategy_text(file)
    except InvalidSpec as error:
        caller.fail(error)
    linted = lint(text)
    if linted.faults and _is_configuration(text):
        what = f"is a file of envoy-configs, not a strategy; give its folder: rollout lint {file.parent}"
        return Linted((Finding("", None, what),))
    return linted


def _is_configuration(text: str) -> bool:
    try:
        _, document = read(text)
    except yaml.YAMLError:
        return False
    return isinstance(document, dict) and any(type_.word in document for type_ in TYPES)


def _view(file: Path, linted: Linted) -> dict[str, Any]:
    problems, warnings = summary(linted.faults), summary(linted.warnings)
    return {"file": str(file), "problems": problems, "warnings": warnings}


def _told(file: Path, linted: Linted) -> list[Text]:
    lines = [screen.plain(f"error: {_words(file, each)}", "bold red") for each in linted.faults]
    lines += [screen.plain(f"warning: {_words(file, each)}", "yellow") for each in linted.warnings]
    return lines if linted.faults else [*lines, screen.plain(f"{file} is fine{_stages(linted)}")]


def _words(file: Path, finding: Finding) -> str:
    place = str(file) if finding.line is None else f"{file}:{finding.line}"
    return f"{place}: {finding.path}: {finding.what}" if finding.path else f"{place}: {finding.what}"


def _stages(linted: Linted) -> str:
    if linted.strategy is None:
        return ""
    stages = (screen.station(stage_view(stage, stage.weight_bp)) for stage in linted.strategy.stages)
    return f"; stages: {', '.join(stages)}"


def schema(
    *,
    documents: Annotated[
        bool, typer.Option("--documents", help="Of what `plan` and `apply` take, instead of strategies alone.")
    ] = False,
) -> None:
    """Print the JSON schema of strategies, for editors; no server is needed.

    Example: rollout schema > strategy.schema.json, and as the first line of a strategy:
    # yaml-language-server: $schema=strategy.schema.json
    """
    typer.echo(json.dumps(documents_schema() if documents else strategy_schema(), indent=2))
