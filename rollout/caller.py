"""A verb of the command line at work: it asks the server, tells on stdout, and ends with an exit code."""

import asyncio
import json
import os
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import NoReturn

import typer
from rich.console import Console, RenderableType
from rich.text import Text
from yarl import URL

from rollout import screen
from rollout.bootstrap import is_loopback
from rollout.client import (
    ApiFault,
    Client,
    Glance,
    Json,
    TlsOptions,
    changed,
    connect,
    glances,
    path_of,
)
from rollout.errors import Rehearsed, RolloutError
from xds.errors import InvalidConfig

DONE, FAILED, TAKEN_BACK, IN_PROGRESS, TO_DO, INTERRUPTED = 0, 1, 3, 4, 5, 130
PIPE_COLUMNS = 160  # the width of tables that do not go to a terminal


@dataclass(frozen=True, slots=True)
class Listing:
    """A list of the API: where it is, the field with its items, and how many are wanted at most, None for all."""

    path: str
    field: str
    most: int | None = None


@dataclass(frozen=True, slots=True)
class Caller:
    """One call of a verb: which server it asks, whether it answers in JSON, and whether it only tries what it asks."""

    server: str
    as_json: bool
    dry_run: bool = False

    def get(
        self, path: str, made: Callable[[Json], RenderableType], code: Callable[[Json], int] = lambda _: DONE
    ) -> NoReturn:
        """Ask, print what is made of the answer, and exit."""

        async def work(client: Client) -> int:
            answer = await client.get(path)
            self.show(answer, made)
            return code(answer)

        self.run(work)

    def listed(
        self,
        listing: Listing,
        made: Callable[[Json], RenderableType],
        code: Callable[[Json], int] = lambda _: DONE,
    ) -> NoReturn:
        """Ask for all pages of a list, print what is made of them, and exit."""

        async def work(client: Client) -> int:
            answer = await client.listed(listing.path, listing.field, listing.most)
            self.show(answer, made)
            return code(answer)

        self.run(work)

    def post(self, path: str, body: Json, made: Callable[[Json], RenderableType]) -> NoReturn:
        """Ask for a change, print what is made of the answer, and exit."""

        async def work(client: Client) -> int:
            self.show(await client.post(path, body), made)
            return DONE

        self.run(work)

    def delete(self, path: str, made: Callable[[Json], RenderableType]) -> NoReturn:
        """Ask for something to go, print what is made of the answer, and exit."""

        async def work(client: Client) -> int:
            self.show(await client.delete(path), made)
            return DONE

        self.run(work)

    def run(self, work: Callable[[Client], Awaitable[int]], *, interrupted: str = "interrupted") -> NoReturn:
        """Do the work and exit with its code; what is wrong is told without a traceback."""
        try:
            code = asyncio.run(self._connected(work))
        except Rehearsed as told:
            code = self._tell(told)
        except RolloutError as error:
            self.fail(error)
        except KeyboardInterrupt:
            say(interrupted)
            raise typer.Exit(INTERRUPTED) from None
        raise typer.Exit(code)

    async def _connected(self, work: Callable[[Client], Awaitable[int]]) -> int:
        user, secret = os.environ.get("USER", ""), token()
        if secret is not None and _is_in_clear(self.server):
            say(f"warning: the token goes to {self.server} in clear; use https://")
        async with connect(self.server, token=secret, user=user, tls=tls_options()) as client:
            client.rehearses = self.dry_run
            return await work(client)

    def _tell(self, told: Rehearsed) -> int:
        """Print what would happen."""
        if self.as_json:
            typer.echo(json.dumps({"dry_run": True, "would": str(told), "changes": told.changes}, indent=2))
        else:
            stdout().print(screen.plain(f"dry run: {told}"), soft_wrap=True)
        return DONE

    def show(self, answer: Json, made: Callable[[Json], RenderableType]) -> None:
        """Print an answer: as it came, or what is made of it for people."""
        if self.as_json:
            typer.echo(json.dumps(answer, indent=2))
        else:
            shown = made(answer)
            stdout().print(shown, soft_wrap=isinstance(shown, Text))  # what is one line stays one

    def fail(self, *errors: Exception) -> NoReturn:
        """Tell what is wrong and exit with 1."""
        for error in errors:
            if self.as_json:
                typer.echo(json.dumps({"error": _problem(error)}))  # one line, for it may come behind others
            else:
                for line in _lines(error):
                    say(f"error: {line}")
        raise typer.Exit(FAILED)


def _problem(error: Exception) -> Json:
    match error:
        case ApiFault():
            return {"title": error.title, "status": error.status, "detail": error.detail}
        case InvalidConfig():
            problems = [{"where": each.where, "what": each.what} for each in error.problems]
            return {"title": "configuration refused", "detail": str(error), "problems": problems}
        case _:
            return {"title": type(error).__name__, "detail": str(error)}


def _lines(error: Exception) -> list[str]:
    if isinstance(error, InvalidConfig):
        return [str(problem) for problem in error.problems]
    return str(error).splitlines() or [type(error).__name__]


def stdout() -> Console:
    """Return stdout as it is now; into a pipe, tables are not squeezed to 80 columns."""
    console = Console(highlight=False)
    return console if console.is_terminal else Console(highlight=False, width=PIPE_COLUMNS)


def say(text: str) -> None:
    typer.echo(screen.plain(text).plain, err=True)


def token() -> str | None:
    return os.environ.get("ROLLOUT_TOKEN") or None


def tls_options() -> TlsOptions | None:
    """Return whom the caller believes and with which certificate they come, None where the environment says nothing."""
    options = TlsOptions(*(os.environ.get(f"ROLLOUT_{name}", "") for name in ("CA", "CERT", "KEY")))
    return None if options == TlsOptions() else options


def _is_in_clear(server: str) -> bool:
    url = URL(server)
    return url.scheme == "http" and not is_loopback(url.host or "")


def exit_code(rollout: Json | None) -> int:
    """Return the exit code of a rollout: how it ended, or that it goes on."""
    if rollout is None:
        return DONE
    if rollout.get("in_progress") or rollout["outcome"] == "in_progress":
        return IN_PROGRESS
    return TAKEN_BACK if rollout["outcome"] == "rolled_back" else DONE


@dataclass(slots=True)
class Changes:
    """Tells of what is new at a glance: a JSON object, or a line for each phase and stage."""

    as_json: bool
    before: Glance | None = None

    def tell(self, glance: Glance) -> None:
        before, self.before = self.before, glance
        if glance.away:
            if before is None or not before.away:
                say(f"trying again: {glance.away}")
        elif self.as_json:
            if before is None or changed(before.view, glance.view):
                typer.echo(json.dumps(glance.view))
        elif glance.view["rollout"] is None:
            stdout().print(screen.service_panel(glance.view))
        elif before is None or _place(before.view) != _place(glance.view):
            stdout().print(screen.rollout_line(glance.view["rollout"]), soft_wrap=True)
        paused = _place(glance.view)[:1] == ("paused",)
        if paused and (before is None or _place(before.view) != _place(glance.view)):
            say("paused, and still waiting: `rollout resume`, `promote` or `abort` goes on")


def _place(view: Json) -> tuple[str, ...]:
    """Return the phase and stage of a service's rollout."""
    rollout = view["rollout"]
    return (rollout["phase"], str(rollout["stage"])) if rollout else ()


async def follow(client: Client, service: str, number: int | None, tell: Callable[[Glance], None]) -> int:
    """Tell of a service's rollout until it has ended; return its exit code. `number` None: the newest one."""
    async for glance in glances(client, path_of("services", service)):
        rollout = glance.view["rollout"]
        number = rollout["id"] if rollout and number is None else number
        if rollout and rollout["id"] != number:  # it ended, and another began, between two glances
            return exit_code(await client.get(path_of("services", service, "rollouts", number)))
        tell(glance)
        if not glance.view["in_progress"]:
            return exit_code(rollout)
    return FAILED


async def follow_queued(client: Client, service: str, number: int, tell: Callable[[Glance], None]) -> int:
    """Tell of the rollout in progress, then of the one queued behind it to its end; return that one's exit code."""
    async for glance in glances(client, path_of("services", service)):
        rollout, queued = glance.view["rollout"], glance.view["queued"]
        if rollout and rollout["id"] >= number:
            return await follow(client, service, number, tell)
        tell(glance)
        if queued is None or queued["fault"]:
            say(f"it does not begin: {queued['fault'] if queued else 'it was taken out of the queue'}")
            return FAILED
    return FAILED


async def follow_drains(client: Client, service: str, addresses: Sequence[str], *, as_json: bool) -> int:
    """Tell of backends' drains, line by line, until all are safe to stop."""
    told = ""
    async for glance in glances(client, path_of("services", service)):
        if glance.away:
            say(f"trying again: {glance.away}")
            continue
        line = json.dumps(glance.view) if as_json else screen.drains_of(glance.view, addresses).plain
        if line != told:
            typer.echo(line)
            told = line
        if all(each["removed"] for each in glance.view["drains"] if each["backend"] in addresses):
            return DONE
    return FAILED
