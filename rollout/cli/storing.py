"""`rollout store ...`: whether what a server remembers is whole, a copy of it, and the way back. No server is asked."""

import asyncio
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.text import Text

from rollout.caller import DONE, FAILED, Caller
from rollout.cli.options import DEFAULTS, AsJson
from rollout.errors import RolloutError
from rollout.record import Contents, JournalEntry, Rollout
from rollout.replay import replay as replayed
from rollout.screen import plain, plural
from rollout.state import ENDED
from rollout.store import Store
from rollout.store.copies import Condition, condition, copy
from rollout.store.copies import restore as put_back
from rollout.store.folder import DATABASE_NAME, usable, user
from rollout.store.sqlite import open_store

ALL = 1_000_000

Data = Annotated[Path, typer.Option(metavar="DIR", help="The server's data folder.")]


@dataclass(frozen=True, slots=True)
class Journals:
    """How the steps of the rollouts came out when they were decided again: `older` ones were judged by other rules."""

    steps: int = 0
    same: int = 0
    older: int = 0
    different: tuple[Mapping[str, Any], ...] = ()


def check(*, data: Data = DEFAULTS.data, as_json: AsJson = False) -> None:
    """Say whether a server's database is whole, and what is in it; a server may be using it.

    Everything is read as a server reads it, from a copy, and every journal is decided again. Exits with 1 when
    something is damaged, cannot be read, or comes out otherwise.
    """
    caller = Caller("", as_json)
    path = data / DATABASE_NAME
    try:
        found = condition(path)
        with usable(data):
            owner = user(data)
        view = {"database": str(path), "server": owner, **_condition(found)}
        if not found.faults:
            view |= asyncio.run(_looked_through(path))
    except RolloutError as error:
        caller.fail(error)
    caller.show(view, _words)
    raise typer.Exit(FAILED if found.faults or view["different"] else DONE)


def backup(
    target: Annotated[Path, typer.Argument(metavar="TO", help="A file that does not exist.")],
    *,
    data: Data = DEFAULTS.data,
    as_json: AsJson = False,
) -> None:
    """Copy what a server remembers into one file, as of one moment; the server may be running.

    Example: rollout store backup --data /var/lib/rollout rollout-$(date +%F).db
    """
    caller = Caller("", as_json)
    try:
        size = copy(data / DATABASE_NAME, target)
    except RolloutError as error:
        caller.fail(error)
    caller.show({"backup": str(target), "bytes": size}, lambda _: plain(f"{target}: {size:,} bytes"))


def restore(
    source: Annotated[Path, typer.Argument(metavar="FROM", help="A file that `backup` made.")],
    *,
    data: Data = DEFAULTS.data,
    as_json: AsJson = False,
) -> None:
    """Have the next server begin with what is in a backup; refused while a server uses the folder.

    The database that was there is kept beside it. A rollout that was in progress goes on from where the backup has it,
    and so do the weights of the Envoys.
    """
    caller = Caller("", as_json)
    try:
        aside = put_back(source, data)
    except RolloutError as error:
        caller.fail(error)
    before = "there was none before" if aside is None else f"the one before is {aside}"
    answer = {"restored": str(data / DATABASE_NAME), "before": None if aside is None else str(aside)}
    caller.show(answer, lambda _: plain(f"{data / DATABASE_NAME} is restored from {source}; {before}"))


def _condition(found: Condition) -> dict[str, Any]:
    return {
        "bytes": found.size_bytes,
        "format": found.format,
        "newest_format": found.known_format,
        "faults": list(found.faults),
        "different": [],
    }


async def _looked_through(path: Path) -> dict[str, Any]:
    """Open a copy as a server would, and read all of it. Raises Conflict or Unavailable."""
    with tempfile.TemporaryDirectory(prefix="rollout-store-") as folder:
        copy(path, Path(folder) / DATABASE_NAME)
        store = await open_store(Path(folder))
        try:
            contents = await store.load()
            rollouts = await store.rollouts(None, ALL)
            return {**_contents(contents, rollouts), **_journals(await _replayed(store, rollouts))}
        finally:
            await store.close()


def _contents(contents: Contents, rollouts: tuple[Rollout, ...]) -> dict[str, Any]:
    going = [each for each in contents.rollouts if each.state.phase not in ENDED]
    return {
        "services": len(contents.services),
        "versions": len(contents.versions),
        "envoys": len(contents.nodes),
        "rollouts": len(rollouts),
        "in_progress": [f"{each.service}/{each.id} {each.state.phase}" for each in going],
    }


async def _replayed(store: Store, rollouts: tuple[Rollout, ...]) -> Journals:
    steps = same = older = 0
    different: list[Mapping[str, Any]] = []
    for rollout in rollouts:
        entries = await store.journal(rollout.service, rollout.id)
        steps += len(entries)
        if not entries or _is_older(entries):
            older += bool(entries)
            continue
        difference = await asyncio.to_thread(_difference, rollout, entries)
        same += difference is None
        different += [] if difference is None else [{"rollout": f"{rollout.service}/{rollout.id}", **difference}]
    return Journals(steps, same, older, tuple(different))


def _difference(rollout: Rollout, entries: tuple[JournalEntry, ...]) -> Mapping[str, Any] | None:
    unseen = next((each for each in entries[1:] if each.because is None), None)
    if unseen is not None:
        return {"revision": unseen.revision, "what": "it has not what was seen"}
    found = replayed(rollout.strategy, entries).difference
    if found is None:
        return None
    return {"revision": found.entry.revision, "what": f"{found.what}: {found.recorded} / {found.replayed}"}


def _is_older(entries: tuple[JournalEntry, ...]) -> bool:
    """Say whether looks were left out of it when its format changed: those steps can be explained, but not replayed."""
    looked_s = -1.0
    for entry in entries:
        if entry.because is not None and entry.because.looked_s > looked_s:
            if entry.because.look is None:
                return True
            looked_s = entry.because.looked_s
    return False


def _journals(found: Journals) -> dict[str, Any]:
    return {"steps": found.steps, "same": found.same, "older": found.older, "different": list(found.different)}


def _words(view: Mapping[str, Any]) -> Text:
    return Text("\n").join([Text().join(each) for each in _lines(view)])


def _lines(view: Mapping[str, Any]) -> Iterator[tuple[Text, ...]]:
    user_of = "no server uses it" if view["server"] is None else f"the server with pid {view['server']} uses it"
    newer = "" if view["format"] == view["newest_format"] else f" (a server makes it {view['newest_format']})"
    yield (plain(f"{view['database']}: {view['bytes']:,} bytes, format {view['format']}{newer}; {user_of}"),)
    for fault in view["faults"]:
        yield (Text("damaged: ", "bold red"), plain(fault))
    if view["faults"]:
        yield (plain("`rollout store restore FROM` puts a backup back; the file that was there is kept beside it"),)
        return
    counts = (plural(view[name], name.removesuffix("s")) for name in ("services", "versions", "rollouts", "envoys"))
    yield (plain(", ".join(counts)),)
    yield from ((plain(f"in progress: {each}"),) for each in view["in_progress"])
    older = f", {view['older']} of an earlier format were not decided again" if view["older"] else ""
    yield (plain(f"{plural(view['steps'], 'step')} of journals; {plural(view['same'], 'rollout')} the same{older}"),)
    for each in view["different"]:
        yield (Text("otherwise: ", "bold red"), plain(f"{each['rollout']}, step {each['revision']}: {each['what']}"))
    if not view["different"]:
        yield (Text("whole", "bold green"),)
