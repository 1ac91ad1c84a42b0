"""The command line: `rollout ...`. All but `serve` and the offline verbs talk to the admin API."""

import sys
from importlib import metadata
from typing import Annotated

import typer

from rollout.cli import (
    commands,
    envoys,
    forecasting,
    linting,
    offline,
    operations,
    recordings,
    services,
    serving,
    storing,
)
from rollout.cli.options import DEFAULTS, server_url

app = typer.Typer(
    name="rollout",
    help="Move a service's traffic to a new version through a fleet of Envoys, and back when it is worse.",
    epilog="Exit codes: 0 done or nothing in progress, 1 error, 2 wrong usage, 3 rolled back, 4 in progress.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
config = typer.Typer(help="The configuration that a server serves.", no_args_is_help=True, rich_markup_mode=None)
store = typer.Typer(help="What a server remembers, in its data folder.", no_args_is_help=True, rich_markup_mode=None)
app.add_typer(config, name="config")
version = typer.Typer(help="The versions of a service.", no_args_is_help=True, rich_markup_mode=None)
app.add_typer(version, name="version")
app.add_typer(store, name="store")


def _version(wanted: bool) -> None:  # noqa: FBT001 - typer calls it so
    if not wanted:
        return
    try:
        typer.echo(f"rollout {metadata.version('envoy-rollout')}")
    except metadata.PackageNotFoundError:
        typer.echo("rollout, run from a source tree that is not installed")
    raise typer.Exit


@app.callback()
def _main(
    context: typer.Context,
    *,
    server: Annotated[
        str, typer.Option(metavar="URL", envvar="ROLLOUT_SERVER", callback=server_url, help="The server's admin API.")
    ] = f"http://{DEFAULTS.admin}",
    version: Annotated[  # noqa: ARG001 - its callback prints it
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    context.obj = server


app.command()(serving.serve)
app.command()(services.deploy)
app.command()(services.status)
app.command()(services.watch)
app.command(name="list")(services.list_services)
app.command()(operations.undo)
app.command()(operations.retry)
app.command()(operations.dequeue)
app.command()(commands.promote)
app.command()(commands.skip_stage)
app.command()(commands.approve)
app.command()(commands.reject)
app.command()(commands.pause)
app.command()(commands.resume)
app.command()(commands.abort)
app.command()(services.history)
app.command()(services.explain)
app.command()(recordings.replay)
app.command()(operations.drain)
app.command()(operations.undrain)
app.command()(operations.scale)
version.command(name="list")(operations.list_versions)
version.command(name="remove")(operations.remove_version)
app.command()(operations.log)
app.command()(operations.mark)
app.command()(operations.adopt)
app.command()(envoys.fleet)
config.command()(envoys.reload)
app.command(name="lint")(linting.lint_files)
app.command()(linting.schema)
app.command()(envoys.bootstrap)
app.command()(offline.simulate)
app.command()(forecasting.forecast)
store.command()(storing.check)
store.command()(storing.backup)
store.command()(storing.restore)


def main() -> None:
    """Run `rollout`."""
    try:
        app()
    except OSError as error:  # every other door has its own words: what is left is mostly that nothing can be printed
        where = f"cannot use {error.filename}" if error.filename else "cannot write the output"
        sys.exit(f"error: {where}: {error.strerror or error}")
