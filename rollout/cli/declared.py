"""The verbs on documents of what shall be: `plan`, `apply` and `export`."""

import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.text import Text

from rollout.caller import DONE, FAILED, IN_PROGRESS, TAKEN_BACK, TO_DO, Caller, Changes, follow_queued
from rollout.cli.options import UNSAID, AsJson, Server
from rollout.client import ApiFault, Client, Json, path_of
from rollout.declared.documents import Problem, Written, parse, read
from rollout.declared.text import text_of
from rollout.errors import InvalidSpec
from rollout.linting import line_of
from rollout.screen import plans

STDIN = "-"
EACH_S = 0.5  # of a document: each change is saved for itself
SUFFIXES = (".yaml", ".yml", ".json")
_PLACE = re.compile(r"^documents\[(\d+)\]\.?([^:\s]*): (.*)$")
Files = Annotated[
    list[str],
    typer.Option("-f", "--file", metavar="FILE", help="A file of documents, a folder of such, or -: stdin; repeat it."),
]
Retry = Annotated[bool, typer.Option("--retry", help="Try again what was rolled back.")]
Supersede = Annotated[bool, typer.Option("--supersede", help="Take back a rollout in progress to another version.")]
Prune = Annotated[
    bool, typer.Option("--prune", help="Remove strategies that no document names and no rollout goes by.")
]


def plan(
    *,
    file: Files,
    retry: Retry = False,
    supersede: Supersede = False,
    prune: Prune = False,
    server: Server = UNSAID,
    as_json: AsJson = False,
) -> None:
    """Show what `apply` would do; nothing is changed.

    Exits with 0 when nothing is to do, 5 when something is, 3 when a version is held that was rolled back, 4 when
    another rollout is in progress, 1 when a document is wrong, every fault with FILE:LINE, or none is there.

    Example: rollout plan -f shop.yaml
    """
    caller = Caller(server, as_json)
    written = _read(caller, file)
    body = _body(written, retry=retry, supersede=supersede, prune=prune)

    async def work(client: Client) -> int:
        answer = await _asked(client, "plan", body, written)
        caller.show(answer, plans.plan_text)
        return _held(answer) or (TO_DO if answer["changes"] else DONE)

    caller.run(work)


def apply(  # noqa: PLR0913 - one parameter for each option
    *,
    file: Files,
    retry: Retry = False,
    supersede: Supersede = False,
    prune: Prune = False,
    fingerprint: Annotated[
        str, typer.Option(metavar="HASH", help="Of a plan: refuse when another one would be made now.")
    ] = "",
    wait: Annotated[bool, typer.Option("--wait", help="Wait for the end of the rollouts.")] = False,
    server: Server = UNSAID,
    as_json: AsJson = False,
) -> None:
    """Have all be as documents say; what is so already is left as it is.

    Exits with 0 when that is so or begun, 3 when a version is held that was rolled back (with --wait: is rolled back),
    4 when another rollout is in progress, 1 when a document is wrong: then nothing is changed.

    Example: rollout apply -f shop.yaml --wait
    """
    caller = Caller(server, as_json)
    written = _read(caller, file)
    body = _body(written, retry=retry, supersede=supersede, prune=prune)
    body |= {"fingerprint": fingerprint} if fingerprint else {}

    async def work(client: Client) -> int:
        answer = await _asked(client, "apply", body, written)
        caller.show(answer, plans.plan_text)
        ended = await _followed(client, answer, as_json=as_json) if wait else DONE
        return ended or _held(answer)

    caller.run(work, interrupted="left; the rollouts go on: `rollout status` shows them")


def export(
    services: Annotated[list[str] | None, typer.Argument(metavar="[SERVICE...]", help="Without: all.")] = None,
    *,
    server: Server = UNSAID,
    as_json: AsJson = False,
) -> None:
    """Print how all stands as documents, which `plan` finds unchanged; what may be a secret is `[redacted]`.

    Example: rollout export > shop.yaml
    """
    query = f"?services={'%2C'.join(path_of(each).removeprefix('/v1/') for each in services)}" if services else ""
    Caller(server, as_json).get(
        path_of("documents") + query, lambda answer: Text(text_of(answer["documents"]).rstrip("\n"))
    )


def _body(written: Sequence[Written], **options: bool) -> dict[str, Any]:
    return {"documents": [each.content for each in written], **{name: True for name, on in options.items() if on}}


def _read(caller: Caller, files: Sequence[str]) -> tuple[Written, ...]:
    """Return the documents of all files; says every fault of all of them, and ends there."""
    written: list[Written] = []
    problems: list[Problem] = []
    empty: list[str] = []
    for file in dict.fromkeys(files):
        found, wrong = _documents(file)
        written += found
        problems += wrong
        if not found and not wrong:
            empty.append("stdin" if file == STDIN else file)
    problems += parse(written)[1]
    if problems:
        caller.fail(InvalidSpec("\n".join(map(str, problems))))
    if empty:  # a name that is wrong must not look as if nothing were to do, nor have --prune remove every strategy
        where = f"files end in {', '.join(SUFFIXES)}, and a document begins with `kind: service`"
        caller.fail(InvalidSpec(f"no documents in {', '.join(empty)}; {where}"))
    return tuple(written)


def _documents(file: str) -> tuple[list[Written], list[Problem]]:
    """Return the documents of one file or folder, and what is wrong with them. Raises typer.BadParameter."""
    written: list[Written] = []
    problems: list[Problem] = []
    try:
        for source in _sources(file):
            found, wrong = _document(source)
            written += found
            problems += wrong
    except OSError as error:
        what = f"'{error.filename or file}' cannot be read: {error.strerror}"
        raise typer.BadParameter(what, param_hint="'-f' / '--file'") from error
    return written, problems


def _sources(file: str) -> list[str]:
    path = Path(file)
    if file == STDIN or not path.is_dir():
        return [file]
    return sorted(str(each) for each in path.iterdir() if each.suffix in SUFFIXES and each.is_file())


def _document(source: str) -> tuple[tuple[Written, ...], tuple[Problem, ...]]:
    name = "stdin" if source == STDIN else source
    try:
        text = sys.stdin.read() if source == STDIN else Path(source).read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        return (), (Problem(name, 1, "", None, f"cannot be read: it is no text in UTF-8 (byte {error.start})"),)
    return read(name, text)


async def _asked(client: Client, verb: str, body: Json, written: Sequence[Written]) -> dict[str, Any]:
    """Ask the server; what it finds wrong is told by file and line. Raises ApiFault or Unavailable."""
    client.limit_s += len(written) * EACH_S
    try:
        return await client.post(path_of(verb), body)
    except ApiFault as fault:
        lines = [_located(line, written) for line in fault.detail.splitlines()]
        raise ApiFault(fault.status, fault.title, "\n".join(lines)) from fault


def _located(line: str, written: Sequence[Written]) -> str:
    match = _PLACE.match(line)
    if match is None or int(match[1]) >= len(written):
        return line
    each, path = written[int(match[1])], match[2]
    steps = tuple(int(part) if part.isdigit() else part for part in re.split(r"[.\[\]]+", path) if part)
    return str(Problem(each.source, each.number, path, line_of(each.root, steps), match[3]))


def _held(answer: Json) -> int:
    """Return the exit code of what is not done: what was rolled back comes before what only waits."""
    actions = {step["action"] for step in answer["steps"]}
    if "held" in actions:
        return TAKEN_BACK
    return IN_PROGRESS if "waits" in actions else DONE


async def _followed(client: Client, answer: Json, *, as_json: bool) -> int:
    """Tell of the rollouts that lead to what is wanted, one service after the other; they go on side by side."""
    codes = {DONE}
    for step in answer["steps"]:
        if step["rollout"] is None:
            continue
        service = step["resource"].partition("/")[2]
        await follow_queued(client, service, step["rollout"], Changes(as_json).tell)
        view = await client.get(path_of("services", service))
        if view["stable"] != step["after"]["version"] or view["in_progress"]:
            codes.add(FAILED if view["in_progress"] else TAKEN_BACK)
    return FAILED if FAILED in codes else max(codes)
