"""The verbs that steer a rollout in progress."""

from typing import Annotated, NoReturn

import typer

from rollout import screen
from rollout.caller import Caller
from rollout.cli.options import UNSAID, AsJson, DryRun, Server, ServiceName
from rollout.client import Json, path_of

Location = Annotated[
    str | None,
    typer.Option(metavar="REGION/ZONE", help="Only this location, in a rollout by waves; without: all of it."),
]
Stage = Annotated[
    int | None,
    typer.Option(metavar="N", min=1, help="Only if it is in this stage, as `status` counts them: safe to ask twice."),
]


def promote(  # noqa: PLR0913 - one parameter for each option
    service: ServiceName,
    *,
    full: Annotated[bool, typer.Option("--full", help="Go to 100 % at once.")] = False,
    location: Location = None,
    stage: Stage = None,
    dry_run: DryRun = False,
    server: Server = UNSAID,
    as_json: AsJson = False,
) -> None:
    """Go on to the next stage now, whatever the gate says.

    For when you know more than the gate: its evidence is not waited for. A version that proves worse is taken back.
    """
    _command(Caller(server, as_json, dry_run), service, "promote_full" if full else "promote", _for(location, stage))


def skip_stage(
    service: ServiceName,
    *,
    location: Location = None,
    stage: Stage = None,
    dry_run: DryRun = False,
    server: Server = UNSAID,
    as_json: AsJson = False,
) -> None:
    """Leave this stage out, and go on to the next one.

    As `promote`, but the rollout's story says that the stage was skipped.
    """
    _command(Caller(server, as_json, dry_run), service, "skip_stage", _for(location, stage))


def approve(
    service: ServiceName,
    *,
    location: Location = None,
    stage: Stage = None,
    dry_run: DryRun = False,
    server: Server = UNSAID,
    as_json: AsJson = False,
) -> None:
    """Agree that the rollout leaves a stage with `approve: true`.

    It leaves the stage when the gate agrees, too; an approval that comes before that is kept.
    """
    _command(Caller(server, as_json, dry_run), service, "approve", _for(location, stage))


def reject(
    service: ServiceName,
    *,
    location: Location = None,
    dry_run: DryRun = False,
    server: Server = UNSAID,
    as_json: AsJson = False,
) -> None:
    """Say no to a rollout that asks: all traffic goes back to the stable version."""
    _command(Caller(server, as_json, dry_run), service, "reject", _for(location))


def pause(
    service: ServiceName,
    *,
    location: Location = None,
    dry_run: DryRun = False,
    server: Server = UNSAID,
    as_json: AsJson = False,
) -> None:
    """Stay at the present weight until `resume`.

    A version that proves worse is still taken back.
    """
    _command(Caller(server, as_json, dry_run), service, "pause", _for(location))


def resume(
    service: ServiceName,
    *,
    location: Location = None,
    dry_run: DryRun = False,
    server: Server = UNSAID,
    as_json: AsJson = False,
) -> None:
    """Go on with a paused rollout."""
    _command(Caller(server, as_json, dry_run), service, "resume", _for(location))


def abort(
    service: ServiceName,
    *,
    location: Location = None,
    dry_run: DryRun = False,
    server: Server = UNSAID,
    as_json: AsJson = False,
) -> None:
    """Take all traffic back to the stable version now.

    It works until the old version is let go. A deployment that is queued behind the rollout stays there, see `dequeue`.
    """
    _command(Caller(server, as_json, dry_run), service, "abort", _for(location))


def _command(caller: Caller, service: str, word: str, body: Json) -> NoReturn:
    caller.post(path_of("services", service, "commands", word), body, screen.rollout_line)


def _for(location: str | None, stage: int | None = None) -> Json:
    """Return the API's body: which part of the rollout is meant, and which stage, which the API counts from 0."""
    where = {} if location is None else {"location": location}
    return where if stage is None else {**where, "stage": stage - 1}
