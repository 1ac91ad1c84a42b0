"""The verbs on the health of single backends."""

from typing import Annotated

import typer

from rollout import screen
from rollout.caller import Caller
from rollout.cli.options import UNSAID, AsJson, Server, ServiceName
from rollout.client import path_of
from rollout.errors import InvalidSpec
from rollout.marking import Health
from rollout.spec import parse_endpoint


def mark(
    service: ServiceName,
    backend: Annotated[str, typer.Argument(help="HOST:PORT as `rollout list` shows it.")],
    health: Annotated[Health, typer.Argument(help="What it is from now on.")],
    *,
    reason: Annotated[str, typer.Option(metavar="TEXT", help="Why, for others.")] = "",
    server: Server = UNSAID,
    as_json: AsJson = False,
) -> None:
    """Have no Envoy send a backend anything new, or take that back.

    What runs on it goes on. Refused for the last healthy one of a version. `healthy` takes a mark away; what probes or
    Envoys find of the backend counts all the same.

    Example: rollout mark checkout 10.0.0.21:8080 unhealthy --reason "its disk is full"
    """
    caller = Caller(server, as_json)
    try:
        address = parse_endpoint(backend).address
    except InvalidSpec as error:
        caller.fail(error)
    body = {"backend": address, "health": health.value, "reason": reason}
    caller.post(path_of("services", service, "health"), body, lambda view: screen.health_of(view, address))
