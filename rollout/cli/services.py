"""The verbs on services and their rollouts: they ask the server's admin API."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.live import Live

from rollout import screen
from rollout.caller import DONE, IN_PROGRESS, Caller, Changes, Listing, exit_code, follow, follow_queued, stdout
from rollout.cli.discovering import source_of
from rollout.cli.options import (
    UNSAID,
    AsJson,
    DryRun,
    Most,
    Server,
    ServiceName,
    VersionName,
    Wait,
    named,
    parsed,
    strategy_text,
)
from rollout.client import Client, Glance, path_of
from rollout.declared.documents import read
from rollout.errors import InvalidSpec
from rollout.spec import parse_deployment, parse_endpoint, parse_strategy
from rollout.story import story

Json = Mapping[str, Any]


def deploy(  # noqa: PLR0913 - one parameter for each option
    service: ServiceName,
    version: VersionName,
    *,
    endpoint: Annotated[
        list[str] | None,
        typer.Option(
            metavar="HOST:PORT[@REGION/ZONE]",
            help="One of its backends; repeat it for each. Without any, a `provision` hook says them.",
        ),
    ] = None,
    discover: Annotated[
        str,
        typer.Option(metavar="SOURCE|FILE", help="Where they are found instead: dns:NAME:PORT, dns:NAME (SRV), YAML."),
    ] = "",
    strategy: Annotated[
        Path | None,
        typer.Option(exists=True, dir_okay=False, readable=True, metavar="FILE", help="YAML; else 1, 10, 50, 100 %."),
    ] = None,
    strategy_name: Annotated[
        str, typer.Option(metavar="NAME", help="One that the server has, see `strategy list`; instead of --strategy.")
    ] = "",
    supersede: Annotated[
        bool, typer.Option("--supersede", help="Take back the rollout in progress, and begin when it has ended.")
    ] = False,
    wait: Wait = False,
    dry_run: DryRun = False,
    server: Server = UNSAID,
    as_json: AsJson = False,
) -> None:
    """Start a rollout of VERSION; exits with 0 once it is accepted.

    With --wait it tells of each change, and exits with 0 when the rollout has completed, 3 when it was rolled back.

    Example: rollout deploy checkout v2 --endpoint 10.0.0.21:8080@eu/eu-1 --endpoint 10.0.0.22:8080@eu/eu-2 --wait
    """
    caller = Caller(server, as_json, dry_run)
    if strategy is not None and strategy_name:
        raise typer.BadParameter("give a file or a name, not both", param_hint="--strategy-name")
    if discover and endpoint:
        raise typer.BadParameter("give backends or where they are found, not both", param_hint="--discover")
    if not endpoint and strategy is None and not strategy_name and not discover:
        raise typer.BadParameter("is missing; give one for each backend", param_hint="--endpoint")
    endpoints = [str(parsed("--endpoint", text, parse_endpoint)) for text in endpoint or ()]
    where: Json = {"discover": source_of("--discover", discover)} if discover else {"endpoints": endpoints}
    try:
        wanted = strategy or strategy_name
        body = {**_deployment(service, version, where, wanted), **({"supersede": True} if supersede else {})}
    except InvalidSpec as error:
        caller.fail(error)

    async def work(client: Client) -> int:
        rollout = await client.post(path_of("services", service, "rollouts"), body)
        if wait and rollout.get("queued"):
            return await follow_queued(client, service, rollout["id"] + 1, Changes(as_json).tell)
        if wait:
            return await follow(client, service, rollout["id"], Changes(as_json).tell)
        caller.show(rollout, screen.deployed)
        return DONE

    caller.run(work, interrupted=_goes_on(service))


def _deployment(service: str, version: str, where: Json, strategy: Path | str) -> Json:
    """Return the API's body of a deployment, by a file or a name. Raises InvalidSpec before anything is sent."""
    body: dict[str, Any] = {"version": version, **where}
    if isinstance(strategy, str) and strategy:
        return {**body, "strategy": strategy}
    if isinstance(strategy, Path):
        text = strategy_text(strategy)
        parse_strategy(text, str(strategy))
        documents, _ = read(str(strategy), text)  # as JSON has it: dates are texts
        body["strategy"] = documents[0].content if documents else {}
    if "discover" not in body:
        parse_deployment({**body, "service": service})
    return body


def status(
    service: Annotated[str | None, typer.Argument(callback=named, help="One service; without: all.")] = None,
    *,
    server: Server = UNSAID,
    as_json: AsJson = False,
) -> None:
    """Show where rollouts stand; exits with 4 while one goes on.

    With SERVICE it exits with 3 when its last rollout was rolled back.
    """
    caller = Caller(server, as_json)
    if service is None:
        caller.listed(
            Listing(path_of("services"), "services"),
            lambda answer: screen.status_table(answer["services"]),
            lambda answer: IN_PROGRESS if any(each["in_progress"] for each in answer["services"]) else DONE,
        )
    caller.get(path_of("services", service), screen.service_panel, lambda view: exit_code(view["rollout"]))


def watch(service: ServiceName, *, server: Server = UNSAID, as_json: AsJson = False) -> None:
    """Follow a rollout live to its end; exits as it ended.

    Stages, weights, errors, p99, verdict, drain. Exits with 0 when it has completed, 3 when it was rolled back. Ctrl-C
    leaves, and the rollout goes on. With --json: one object in a line at each change.
    """

    async def work(client: Client) -> int:
        console = stdout()
        if as_json or not console.is_terminal:
            return await follow(client, service, None, Changes(as_json).tell)
        with Live(console=console, auto_refresh=False) as live:
            return await follow(client, service, None, lambda glance: _redraw(live, glance))

    Caller(server, as_json).run(work, interrupted=_goes_on(service))


def _redraw(live: Live, glance: Glance) -> None:
    note = f"trying again: {glance.away}" if glance.away else ""
    live.update(screen.service_panel(glance.view, note), refresh=True)


def _goes_on(service: str) -> str:
    return f"left; the rollout goes on: `rollout watch {service}` shows it, `rollout abort {service}` takes it back"


def list_services(*, server: Server = UNSAID, as_json: AsJson = False) -> None:
    """List the services with their versions and backends."""
    listing = Listing(path_of("services"), "services")
    Caller(server, as_json).listed(listing, lambda answer: screen.services_table(answer["services"]))


def history(service: ServiceName, *, limit: Most = None, server: Server = UNSAID, as_json: AsJson = False) -> None:
    """List SERVICE's rollouts, newest first."""
    listing = Listing(path_of("services", service, "rollouts"), "rollouts", limit)
    Caller(server, as_json).listed(listing, lambda answer: screen.history_table(answer["rollouts"]))


def explain(
    service: ServiceName,
    *,
    rollout: Annotated[int | None, typer.Option(metavar="N", min=1, help="See `history`; without: the last.")] = None,
    server: Server = UNSAID,
    as_json: AsJson = False,
) -> None:
    """Tell a rollout's story: what, when, and on which evidence."""
    Caller(server, as_json).get(path_of("services", service, "rollouts", rollout or "last"), story)
