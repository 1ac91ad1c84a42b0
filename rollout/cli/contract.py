"""The verb that prints what the API promises."""

from pathlib import Path
from typing import Annotated

import typer

from rollout.api.offline import offline_document
from rollout.api.openapi import dump
from rollout.api.tables import with_tables

DOCUMENT, PAGE = "openapi.json", "api.md"


def openapi(
    *,
    into: Annotated[
        Path | None,
        typer.Option(exists=True, file_okay=False, writable=True, metavar="FOLDER", help="Write it there instead."),
    ] = None,
) -> None:
    """Print the API as an OpenAPI 3.1 document; no server is needed.

    With --into it is written as openapi.json, and the tables of the folder's api.md are made from it again.

    Example: rollout openapi > openapi.json
    """
    made = offline_document()
    if into is None:
        typer.echo(dump(made), nl=False)
        return
    (into / DOCUMENT).write_text(dump(made), encoding="utf-8")
    page = into / PAGE
    if page.exists():
        page.write_text(with_tables(page.read_text(encoding="utf-8"), made), encoding="utf-8")
