"""The command line: `rollout ...`. All but `serve` and the offline verbs talk to the admin API."""

import sys
from importlib import metadata
from typing import Annotated

import typer

from rollout.cli.options import DEFAULTS, server_url
from rollout.cli.verbs import Verbs

app = typer.Typer(
    name="rollout",
    cls=Verbs,
    help="Move a service's traffic to a new version through a fleet of Envoys, and back when it is worse.",
    epilog="Exit codes: 0 done or nothing in progress, 1 error, 2 wrong usage, 3 rolled back, 4 in progress, "
    "5 something to do.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
for group, about in (
    ("audit", "Who did what."),
    ("config", "The configuration that a server serves."),
    ("version", "The versions of a service."),
    ("discovery", "Where the backends of versions are found."),
    ("strategy", "Strategies that deployments may name."),
    ("token", "Who may use the admin API."),
    ("store", "What a server remembers, in its data folder."),
    ("notify", "Who is told of what happens."),
):
    app.add_typer(typer.Typer(cls=Verbs, help=about, no_args_is_help=True, rich_markup_mode=None), name=group)


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


def main() -> None:
    """Run `rollout`."""
    try:
        app()
    except OSError as error:  # every other door has its own words: what is left is mostly that nothing can be printed
        where = f"cannot use {error.filename}" if error.filename else "cannot write the output"
        sys.exit(f"error: {where}: {error.strerror or error}")
