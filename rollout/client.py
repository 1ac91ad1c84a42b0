"""The admin API as its callers see it: asked over HTTP, told on stdout, ended with an exit code."""

import asyncio
import contextlib
import json
import os
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, NoReturn
from urllib.parse import quote

import aiohttp
import typer
from rich.console import Console, RenderableType
from rich.text import Text
from yarl import URL

from rollout import screen
from rollout.errors import InvalidSpec, RolloutError, Unavailable
from xds.errors import InvalidConfig

DONE, FAILED, TAKEN_BACK, IN_PROGRESS, INTERRUPTED = 0, 1, 3, 4, 130
PIPE_COLUMNS = 160  # the width of tables that do not go to a terminal
TIMEOUT_S = 10.0
POLL_S = 0.5
AWAY_LIMIT_S = 60.0  # so long a server that did answer is waited for: it may be starting anew
HEADER_LIMIT = 64
UNSTEADY = ("phase_seconds",)  # what differs at each glance though nothing has changed
Json = Mapping[str, Any]


class ApiFault(RolloutError):  # noqa: N818 - the tree of errors says what is wrong, not that it is an error
    """The server refused; `status` and `title` are those of its problem document, `detail` says what and what now."""

    def __init__(self, status: int, title: str, detail: str) -> None:
        super().__init__(detail)
        self.status = status
        self.title = title
        self.detail = detail


class Client:
    """Asks one server. Every method raises ApiFault when it refuses, Unavailable when none answers."""

    def __init__(self, http: aiohttp.ClientSession, server: str) -> None:
        self._http = http
        self._server = server.rstrip("/")

    async def get(self, path: str) -> dict[str, Any]:
        """Return the answer's JSON object."""
        return await self._ask("GET", path, None)

    async def post(self, path: str, body: Json) -> dict[str, Any]:
        """Ask for a change; return the answer's JSON object."""
        return await self._ask("POST", path, json.dumps(body).encode())

    async def _ask(self, method: str, path: str, body: bytes | None) -> dict[str, Any]:
        url = URL(self._server + path, encoded=True)
        try:
            async with self._http.request(method, url, data=body, allow_redirects=False) as response:
                return _answer(self._server, response.status, await response.read())
        except TimeoutError as error:
            raise Unavailable(f"the server at {self._server} did not answer within {TIMEOUT_S:g} s") from error
        except aiohttp.ClientConnectorError as error:
            raise Unavailable(_absent(self._server, _why(error.os_error))) from error
        except aiohttp.ClientError as error:
            why = "the connection was closed" if isinstance(error, aiohttp.ServerDisconnectedError) else str(error)
            raise Unavailable(_absent(self._server, why)) from error


@contextlib.asynccontextmanager
async def connect(server: str, *, token: str | None, user: str) -> AsyncIterator[Client]:
    """Yield a client of this server. `token` goes along as bearer; `user` is who asks, for the rollout's journal.

    Raises InvalidSpec for a token that no header can carry.
    """
    headers = {"Content-Type": "application/json", "Accept": "application/json"}
    if user and user.isprintable() and user.isascii():
        headers["X-Rollout-User"] = user[:HEADER_LIMIT]
    if token is not None:
        if not (token.strip().isprintable() and token.isascii()):
            raise InvalidSpec(
                "ROLLOUT_TOKEN has characters that no header can carry; use letters, digits and signs of ASCII"
            )
        headers["Authorization"] = f"Bearer {token.strip()}"
    async with aiohttp.ClientSession(headers=headers, timeout=aiohttp.ClientTimeout(total=TIMEOUT_S)) as http:
        yield Client(http, server)


def path_of(*parts: object) -> str:
    """Return the API's path of these parts, each quoted."""
    return "/v1/" + "/".join(quote(str(part), safe="") for part in parts)


@dataclass(frozen=True, slots=True)
class Glance:
    """What a path answered last; `away` says why the server does not answer now, "" when it does."""

    view: Json
    away: str = ""


async def glances(client: Client, path: str) -> AsyncIterator[Glance]:
    """Yield what a path answers, again and again, without end.

    The first answer must come at once; after it a server may be away for AWAY_LIMIT_S. Raises ApiFault or Unavailable.
    """
    clock = asyncio.get_running_loop().time
    view, answered_s = await client.get(path), clock()
    yield Glance(view)
    while True:
        await asyncio.sleep(POLL_S)
        try:
            view, answered_s = await client.get(path), clock()
            yield Glance(view)
        except Unavailable as error:
            if clock() - answered_s > AWAY_LIMIT_S:
                raise
            yield Glance(view, str(error))


def changed(before: Json, after: Json) -> bool:
    """Say whether two views of a service differ in more than the time that passed between them."""
    return _steady(before) != _steady(after)


def _steady(view: Json) -> Json:
    rollout = view.get("rollout")
    if not rollout:
        return view
    return {**view, "rollout": {name: value for name, value in rollout.items() if name not in UNSTEADY}}


def _answer(server: str, status: int, raw: bytes) -> dict[str, Any]:
    try:
        answer = json.loads(raw)
    except ValueError:
        answer = None
    if not isinstance(answer, dict) or (status >= 300 and "title" not in answer):
        raise Unavailable(
            f"what answers at {server} is no rollout server (HTTP {status}); give --server or ROLLOUT_SERVER"
        )
    if status >= 300:
        title = str(answer["title"])
        raise ApiFault(status, title, str(answer.get("detail") or title))
    return answer


def _absent(server: str, why: str) -> str:
    remedy = "start one with `rollout serve`, or give --server or ROLLOUT_SERVER"
    return f"no rollout server answers at {server} ({why}); {remedy}"


def _why(error: OSError) -> str:
    if isinstance(error, socket.gaierror) or not error.errno:
        return (error.strerror or str(error)).lower()
    return os.strerror(error.errno).lower()


@dataclass(frozen=True, slots=True)
class Caller:
    """One call of a verb: which server it asks, and whether it answers in JSON."""

    server: str
    as_json: bool

    def get(
        self, path: str, made: Callable[[Json], RenderableType], code: Callable[[Json], int] = lambda _: DONE
    ) -> NoReturn:
        """Ask, print what is made of the answer, and exit."""

        async def work(client: Client) -> int:
            answer = await client.get(path)
            self.show(answer, made)
            return code(answer)

        self.run(work)

    def post(self, path: str, body: Json, made: Callable[[Json], RenderableType]) -> NoReturn:
        """Ask for a change, print what is made of the answer, and exit."""

        async def work(client: Client) -> int:
            self.show(await client.post(path, body), made)
            return DONE

        self.run(work)

    def run(self, work: Callable[[Client], Awaitable[int]], *, interrupted: str = "interrupted") -> NoReturn:
        """Do the work and exit with its code; what is wrong is told without a traceback."""
        try:
            code = asyncio.run(self._connected(work))
        except RolloutError as error:
            self.fail(error)
        except KeyboardInterrupt:
            say(interrupted)
            raise typer.Exit(INTERRUPTED) from None
        raise typer.Exit(code)

    async def _connected(self, work: Callable[[Client], Awaitable[int]]) -> int:
        user = os.environ.get("USER", "")
        async with connect(self.server, token=token(), user=user) as client:
            return await work(client)

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
                typer.echo(json.dumps({"error": _problem(error)}, indent=2))
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


async def follow_drain(client: Client, service: str, address: str, *, as_json: bool) -> int:
    """Tell of one backend's drain, line by line, until it is safe to stop."""
    told = ""
    async for glance in glances(client, path_of("services", service)):
        if glance.away:
            say(f"trying again: {glance.away}")
            continue
        line = json.dumps(glance.view) if as_json else screen.drain_of(glance.view, address).plain
        if line != told:
            typer.echo(line)
            told = line
        if all(each["removed"] for each in glance.view["drains"] if each["backend"] == address):
            return DONE
    return FAILED
