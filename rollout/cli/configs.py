"""`rollout config show`: the configuration that a server serves."""

from typing import Annotated

import typer

from rollout import screen
from rollout.caller import Caller, Listing
from rollout.cli.options import UNSAID, AsJson, Server, named
from rollout.client import path_of, queried

Type = Annotated[
    str | None, typer.Option("--type", metavar="TYPE", callback=named, help="Its resources of this type instead.")
]
Name = Annotated[str | None, typer.Option(metavar="NAME", callback=named, help="This resource, with what it holds.")]


def show(*, kind: Type = None, name: Name = None, server: Server = UNSAID, as_json: AsJson = False) -> None:
    """Show which files are served, and the last change that was refused.

    With --type or --name it lists what is served: resources with the versions that Envoys ACK, without secrets.

    Example: rollout config show --type clusters
    """
    caller = Caller(server, as_json)
    if kind is None and name is None:
        caller.get(path_of("config"), screen.config_lines)
    path = queried(path_of("config", "resources"), type=kind, name=name, contents=None if name is None else "true")
    caller.listed(Listing(path, "resources"), screen.resources_table)
