"""The verbs on services and their rollouts: they ask the server's admin API."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer
import yaml
from rich.live import Live

from rollout import screen
from rollout.caller import DONE, IN_PROGRESS, Caller, Changes, exit_code, follow, follow_drain, stdout
from rollout.cli.options import UNSAID, AsJson, Server, ServiceName, VersionName, Wait, named, strategy_text
from rollout.client import Client, Glance, path_of
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
    strategy: Annotated[
        Path | None,
        typer.Option(exists=True, dir_okay=False, readable=True, metavar="FILE", help="YAML; else 1, 10, 50, 100 %."),
    ] = None,
    wait: Wait = False,
    server: Server = UNSAID,
    as_json: AsJson = False,
) -> None:
    """Start a rollout of VERSION; exits with 0 once it is accepted.

    With --wait it tells of each change, and exits with 0 when the rollout has completed, 3 when it was rolled back.

    Example: rollout deploy checkout v2 --endpoint 10.0.0.21:8080@eu/eu-1 --endpoint 10.0.0.22:8080@eu/eu-2 --wait
    """
    caller = Caller(server, as_json)
    try:
        body = _deployment(service, version, endpoint or [], strategy)
    except InvalidSpec as error:
        caller.fail(error)

    async def work(client: Client) -> int:
        rollout = await client.post(path_of("services", service, "rollouts"), body)
        if wait:
            return await follow(client, service, rollout["id"], Changes(as_json).tell)
        caller.show(rollout, screen.rollout_line)
        return DONE

    caller.run(work, interrupted=_goes_on(service))


def _deployment(service: str, version: str, endpoints: list[str], strategy: Path | None) -> Json:
    """Return the API's body of a deployment. Raises InvalidSpec before anything is sent."""
    body: dict[str, Any] = {"version": version, "endpoints": [_endpoint(text) for text in endpoints]}
    if strategy is not None:
        text = strategy_text(strategy)
        parse_strategy(text, str(strategy))
        body["strategy"] = yaml.safe_load(text) or {}
    parse_deployment({**body, "service": service})
    return body


def _endpoint(text: str) -> str:
    try:
        return str(parse_endpoint(text))
    except InvalidSpec as error:
        raise InvalidSpec(f"--endpoint {text}: {error}") from error


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
        caller.get(
            path_of("services"),
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
    Caller(server, as_json).get(path_of("services"), lambda answer: screen.services_table(answer["services"]))


def promote(
    service: ServiceName,
    *,
    full: Annotated[bool, typer.Option("--full", help="Go to 100 % at once.")] = False,
    server: Server = UNSAID,
    as_json: AsJson = False,
) -> None:
    """Go on to the next stage now, whatever the gate says."""
    _command(Caller(server, as_json), service, "promote_full" if full else "promote")


def pause(service: ServiceName, *, server: Server = UNSAID, as_json: AsJson = False) -> None:
    """Stay at the present weight until `resume`.

    A version that proves worse is still taken back.
    """
    _command(Caller(server, as_json), service, "pause")


def resume(service: ServiceName, *, server: Server = UNSAID, as_json: AsJson = False) -> None:
    """Go on with a paused rollout."""
    _command(Caller(server, as_json), service, "resume")


def abort(service: ServiceName, *, server: Server = UNSAID, as_json: AsJson = False) -> None:
    """Take all traffic back to the stable version now."""
    _command(Caller(server, as_json), service, "abort")


def _command(caller: Caller, service: str, word: str) -> NoReturn:
    caller.post(path_of("services", service, "commands", word), {}, screen.rollout_line)


def history(service: ServiceName, *, server: Server = UNSAID, as_json: AsJson = False) -> None:
    """List SERVICE's rollouts, newest first."""
    path = path_of("services", service, "rollouts")
    Caller(server, as_json).get(path, lambda answer: screen.history_table(answer["rollouts"]))


def explain(
    service: ServiceName,
    *,
    rollout: Annotated[int | None, typer.Option(metavar="N", min=1, help="See `history`; without: the last.")] = None,
    server: Server = UNSAID,
    as_json: AsJson = False,
) -> None:
    """Tell a rollout's story: what, when, and on which evidence."""
    Caller(server, as_json).get(path_of("services", service, "rollouts", rollout or "last"), story)


def drain(
    service: ServiceName,
    backend: Annotated[str, typer.Argument(help="HOST:PORT as `rollout list` shows it.")],
    *,
    wait: Annotated[bool, typer.Option("--wait", help="Wait until it is safe to stop.")] = False,
    server: Server = UNSAID,
    as_json: AsJson = False,
) -> None:
    """Let one backend go: nothing new, then wait for what runs."""
    caller = Caller(server, as_json)
    try:
        address = parse_endpoint(backend).address
    except InvalidSpec as error:
        caller.fail(error)

    async def work(client: Client) -> int:
        view = await client.post(path_of("services", service, "drains"), {"backend": address})
        if wait:
            return await follow_drain(client, service, address, as_json=as_json)
        caller.show(view, lambda answer: screen.drain_of(answer, address))
        return DONE

    caller.run(work, interrupted=f"left; the drain goes on: `rollout status {service}` shows it")


def adopt(service: ServiceName, version: VersionName, *, server: Server = UNSAID, as_json: AsJson = False) -> None:
    """Name the version that envoy-configs' endpoints are.

    Without it that version is called `initial`. It must come before the service's first rollout.
    """
    path = path_of("services", service, "adopt")
    Caller(server, as_json).post(path, {"version": version}, lambda view: screen.services_table([view]))
