"""What several verbs take: arguments, options, and how their values are checked."""

import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer
from yarl import URL

from rollout.errors import InvalidSpec
from rollout.settings import Settings

DEFAULTS = Settings()
Parsed = TypeVar("Parsed")


def named(value: str | None) -> str | None:
    if value is not None and not value.strip():
        raise typer.BadParameter("must not be empty")
    return value


def parsed(option: str, text: str, parse: Callable[[str], Parsed]) -> Parsed:
    """Parse what an option was given. Raises typer.BadParameter, which is wrong usage."""
    try:
        return parse(text)
    except InvalidSpec as error:
        raise typer.BadParameter(str(error), param_hint=option) from error


def server_url(value: str) -> str:
    """Return a server's URL; HOST:PORT alone means http."""
    try:
        url = URL(value if "://" in value else f"http://{value}")
        if url.scheme in ("http", "https") and url.host and url.port:
            return str(url)
    except ValueError:
        pass
    raise typer.BadParameter(f"'{value}' is no server; write http://HOST:PORT")


def page_url(value: str | None) -> str | None:
    """Return where people reach the page, without a slash at the end."""
    if value is None:
        return None
    with contextlib.suppress(ValueError):
        url = URL(value)
        if url.scheme in ("http", "https") and url.host and not url.query_string and not url.fragment:
            return str(url).rstrip("/")
    raise typer.BadParameter(f"'{value}' is no page; write https://HOST, with a path where it has one")


def _server(context: typer.Context, value: str | None) -> str:
    """Return the nearest `--server`: one behind the verb, one before it, ROLLOUT_SERVER, the default."""
    return str(context.obj) if value is None else server_url(value)


def strategy_text(file: Path) -> str:
    """Raises InvalidSpec where it cannot be read."""
    try:
        return file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidSpec(f"cannot read the strategy {file}: {error}") from error


ServiceName = Annotated[str, typer.Argument(callback=named, help="An EDS cluster of envoy-configs.")]
VersionName = Annotated[str, typer.Argument(callback=named, help="A name of your choice, such as v2.")]
Server = Annotated[
    str, typer.Option(metavar="URL", callback=_server, help="The server's admin API.", show_default=False)
]
AsJson = Annotated[bool, typer.Option("--json", help="Print the API's JSON, and nothing else, on stdout.")]
Most = Annotated[int | None, typer.Option("--limit", metavar="N", min=1, help="List at most so many.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Only say what would happen: nothing is changed.")]
Wait = Annotated[bool, typer.Option("--wait", help="Wait for the end.")]
UNSAID: Any = None  # so that `_server` hears of an option that was not given
