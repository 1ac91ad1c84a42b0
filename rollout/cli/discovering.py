"""The verbs on where the backends of versions are found: they ask the server's admin API."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from rollout.caller import DONE, Caller, Listing
from rollout.cli.options import UNSAID, AsJson, DryRun, Server, ServiceName, parsed
from rollout.client import Client, path_of
from rollout.concealed import WITH_SECRETS
from rollout.discovery.source import Discover, is_short, parse_discover, parse_discover_text
from rollout.errors import InvalidSpec
from rollout.screen.discoveries import discoveries_table

Version = Annotated[str, typer.Argument(help="One that is there, see `version list`.")]


def source_of(option: str, text: str) -> Mapping[str, Any]:
    """Return the API's body of a source: a short form, or what a file says. Raises typer.BadParameter."""
    found = parsed(option, text, _source)
    return dict(json.loads(found.model_dump_json(exclude_unset=True, context=WITH_SECRETS)))


def _source(text: str) -> Discover:
    if is_short(text):
        return parse_discover(text)
    try:
        content = Path(text).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidSpec(f"'{text}' is no short form, as dns:NAME:PORT, and no file that can be read") from error
    return parse_discover_text(content, text)


def list_sources(*, server: Server = UNSAID, as_json: AsJson = False) -> None:
    """List where backends are found: what each source says, when it was asked, and why it is not followed."""
    listing = Listing(path_of("discoveries"), "discoveries")
    Caller(server, as_json).listed(listing, lambda answer: discoveries_table(answer["discoveries"]))


def set_source(
    service: ServiceName,
    version: Version,
    source: Annotated[
        str, typer.Argument(metavar="SOURCE|FILE", help="dns:NAME:PORT[@region/zone], dns:NAME for SRV, or YAML.")
    ],
    *,
    dry_run: DryRun = False,
    server: Server = UNSAID,
    as_json: AsJson = False,
) -> None:
    """Have the backends of VERSION found there from now on.

    Those that are new come at once; those that are not named any more are drained, as by `scale`.

    Example: rollout discovery set checkout v1 dns:checkout.internal:8080
    """
    body = source_of("SOURCE", source)
    caller = Caller(server, as_json, dry_run)

    async def work(client: Client) -> int:
        answer = await client.put(path_of("services", service, "versions", version, "discovery"), body)
        caller.show(answer, lambda view: discoveries_table([view]))
        return DONE

    caller.run(work)


def remove_source(
    service: ServiceName,
    version: Version,
    *,
    dry_run: DryRun = False,
    server: Server = UNSAID,
    as_json: AsJson = False,
) -> None:
    """Follow the source of VERSION no more; its backends stay as they are."""
    path = path_of("services", service, "versions", version, "discovery")
    Caller(server, as_json, dry_run).delete(path, lambda answer: discoveries_table(answer["discoveries"]))
