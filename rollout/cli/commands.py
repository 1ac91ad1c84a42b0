"""The verbs that steer a rollout in progress."""

from typing import Annotated, NoReturn

import typer

from rollout import screen
from rollout.caller import Caller
from rollout.cli.options import UNSAID, AsJson, Server, ServiceName
from rollout.client import path_of

Location = Annotated[
    str | None,
    typer.Option(metavar="REGION/ZONE", help="Only this location, in a rollout by waves; without: all of it."),
]


def promote(
    service: ServiceName,
    *,
    full: Annotated[bool, typer.Option("--full", help="Go to 100 % at once.")] = False,
    location: Location = None,
    server: Server = UNSAID,
    as_json: AsJson = False,
) -> None:
    """Go on to the next stage now, whatever the gate says.

    For when you know more than the gate: its evidence is not waited for. A version that proves worse is taken back.
    """
    _command(Caller(server, as_json), service, "promote_full" if full else "promote", location)


def skip_stage(
    service: ServiceName, *, location: Location = None, server: Server = UNSAID, as_json: AsJson = False
) -> None:
    """Leave this stage out, and go on to the next one.

    As `promote`, but the rollout's story says that the stage was skipped.
    """
    _command(Caller(server, as_json), service, "skip_stage", location)


def approve(
    service: ServiceName, *, location: Location = None, server: Server = UNSAID, as_json: AsJson = False
) -> None:
    """Agree that the rollout leaves a stage with `approve: true`.

    It leaves the stage when the gate agrees, too; an approval that comes before that is kept.
    """
    _command(Caller(server, as_json), service, "approve", location)


def reject(
    service: ServiceName, *, location: Location = None, server: Server = UNSAID, as_json: AsJson = False
) -> None:
    """Say no to a rollout that asks: all traffic goes back to the stable version."""
    _command(Caller(server, as_json), service, "reject", location)


def pause(service: ServiceName, *, location: Location = None, server: Server = UNSAID, as_json: AsJson = False) -> None:
    """Stay at the present weight until `resume`.

    A version that proves worse is still taken back.
    """
    _command(Caller(server, as_json), service, "pause", location)


def resume(
    service: ServiceName, *, location: Location = None, server: Server = UNSAID, as_json: AsJson = False
) -> None:
    """Go on with a paused rollout."""
    _command(Caller(server, as_json), service, "resume", location)


def abort(service: ServiceName, *, location: Location = None, server: Server = UNSAID, as_json: AsJson = False) -> None:
    """Take all traffic back to the stable version now.

    It works until the old version is let go. A deployment that is queued behind the rollout stays there, see `dequeue`.
    """
    _command(Caller(server, as_json), service, "abort", location)


def _command(caller: Caller, service: str, word: str, location: str | None) -> NoReturn:
    body = {} if location is None else {"location": location}
    caller.post(path_of("services", service, "commands", word), body, screen.rollout_line)
