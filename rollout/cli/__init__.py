"""The command line: `rollout ...`. All but `serve` and the offline verbs talk to the admin API."""

import sys
from importlib import metadata
from typing import Annotated

import typer

from rollout.cli import envoys, forecasting, health, offline, recordings, services, serving
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
app.add_typer(config, name="config")


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
app.command()(services.promote)
app.command()(services.pause)
app.command()(services.resume)
app.command()(services.abort)
app.command()(services.history)
app.command()(services.explain)
app.command()(recordings.replay)
app.command()(services.drain)
app.command()(health.mark)
app.command()(services.adopt)
app.command()(envoys.fleet)
config.command()(envoys.reload)
app.command()(envoys.lint)
app.command()(envoys.bootstrap)
app.command()(offline.simulate)
app.command()(forecasting.forecast)


def main() -> None:
    """Run `rollout`."""
    try:
        app()
    except OSError as error:  # every other door has its own words: what is left is that nothing can be printed
        sys.exit(f"error: cannot write the output: {error.strerror or error}")
