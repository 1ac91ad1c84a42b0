"""`rollout replay`: a rollout's recording, from the server or a file, decided again."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.text import Text

from rollout.caller import DONE, FAILED, Caller
from rollout.cli.options import UNSAID, AsJson, Server, named
from rollout.client import Client, path_of
from rollout.errors import InvalidSpec
from rollout.replay import Recording, Replayed, dump_recording, load_recording
from rollout.replay import replay as replayed
from rollout.screen import plain, plural

LAST = "last"


def replay(
    rollout: Annotated[
        str,
        typer.Argument(
            callback=named, metavar="SERVICE[/N]|FILE", help="A service's last rollout, its N-th, or a file."
        ),
    ],
    *,
    save: Annotated[
        Path | None, typer.Option(dir_okay=False, metavar="FILE", help="Write the recording to a file, too.")
    ] = None,
    server: Server = UNSAID,
    as_json: AsJson = False,
) -> None:
    """Decide a rollout again by what was seen, and say what differs.

    What the server has recorded goes through machine and judge once more, from the beginning: phase, stage, weight,
    verdict and reason of each step must be the same, else it exits with 1. A file that was saved needs no server.

    Example: rollout replay checkout/3 --save checkout-3.json
    """
    caller = Caller(server, as_json)
    if Path(rollout).is_file():
        try:
            code = _replayed(caller, _parsed(Path(rollout).read_bytes(), rollout), save)
        except (InvalidSpec, OSError) as error:
            caller.fail(error)
        raise typer.Exit(code)
    path = _path(rollout)

    async def work(client: Client) -> int:
        return _replayed(caller, _parsed(json.dumps(await client.get(path)).encode(), rollout), save)

    caller.run(work)


def _path(rollout: str) -> str:
    """Return the API's path of SERVICE or SERVICE/N."""
    service, _, number = rollout.rpartition("/")
    if not service or not (number.isascii() and number.isdecimal()):
        service, number = rollout, LAST
    return path_of("services", service, "rollouts", number, "record")


def _parsed(text: bytes, source: str) -> Recording:
    try:
        return load_recording(text)
    except InvalidSpec as error:
        raise InvalidSpec(f"{source} {error}") from error


def _write(file: Path, text: bytes) -> None:
    try:
        file.write_bytes(text)
    except OSError as error:
        raise InvalidSpec(f"cannot write the recording to {file}: {error.strerror}") from error


def _replayed(caller: Caller, recording: Recording, save: Path | None) -> int:
    """Say what came out; return the exit code."""
    if save is not None:
        _write(save, dump_recording(recording))
    found = replayed(recording.strategy, recording.entries)
    caller.show(_view(recording, found), _words)
    return DONE if found.difference is None else FAILED


def _view(recording: Recording, found: Replayed) -> Mapping[str, Any]:
    difference = found.difference
    return {
        "service": recording.service,
        "id": recording.id,
        "stable": recording.stable,
        "candidate": recording.candidate,
        "looks": found.looks,
        "decisions": found.decisions,
        "same": difference is None,
        "difference": difference
        and {
            "revision": difference.entry.revision,
            "at": difference.entry.at.isoformat(),
            "what": difference.what,
            "recorded": difference.recorded,
            "replayed": difference.replayed,
        },
    }


def _words(view: Mapping[str, Any]) -> Text:
    counts = f"{plural(view['looks'], 'look')}, {plural(view['decisions'], 'decision')}"
    line = plain(f"{view['service']}/{view['id']} {view['stable']} → {view['candidate']}: {counts}: ")
    difference = view["difference"]
    if difference is None:
        return line.append("the same", "bold green")
    line.append("then it differs", "bold red")
    where = plain(f"step {difference['revision']} at {difference['at']}, {difference['what']}:")
    sides = (plain(f"{side}: {difference[side]}") for side in ("recorded", "replayed"))
    return Text("\n").join([line, where, *sides])
