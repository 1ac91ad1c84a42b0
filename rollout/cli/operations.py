"""The verbs on a service's versions and backends outside of a rollout's stages."""

from collections.abc import Mapping
from typing import Annotated, Any

import typer

from rollout import screen
from rollout.caller import DONE, Caller, Changes, Listing, follow, follow_drains, say
from rollout.cli.options import UNSAID, AsJson, DryRun, Most, Server, ServiceName, VersionName, Wait, parsed
from rollout.client import Client, path_of
from rollout.health import Health
from rollout.spec import Endpoint, parse_endpoint

Json = Mapping[str, Any]
Gone = Annotated[bool, typer.Option("--wait", help="Wait until it is safe to stop.")]
Backend = Annotated[str | None, typer.Argument(help="HOST:PORT as `rollout list` shows it.")]
Location = Annotated[
    str | None, typer.Option(metavar="REGION/ZONE", help="All backends of this location, region or zone.")
]
Endpoints = Annotated[
    list[str] | None,
    typer.Option(metavar="HOST:PORT[@REGION/ZONE]", help="Where it runs now, when that has changed; repeat it."),
]
LEFT = "left; the drain goes on: `rollout status {}` shows it"


def undo(  # noqa: PLR0913 - one parameter for each option
    service: ServiceName,
    *,
    to: Annotated[str | None, typer.Option(metavar="VERSION", help="See `version list`; without: the last.")] = None,
    endpoint: Endpoints = None,
    wait: Wait = False,
    dry_run: DryRun = False,
    server: Server = UNSAID,
    as_json: AsJson = False,
) -> None:
    """Go back to the version before.

    A rollout in progress is taken back, as by `abort`. One that has completed is followed by a rollout back to the
    version before it, on the backends where that ran last: within the strategy's `rollback_window` it is warmed and
    then gets 100 % at once, later it goes through the stages. To undo twice is to undo once.
    """
    body = {} if to is None else {"to": to}
    given = {**body, "endpoints": [str(each) for each in _endpoints("--endpoint", endpoint)]} if endpoint else body
    _begin(Caller(server, as_json, dry_run), service, "undo", given, wait=wait)


def retry(
    service: ServiceName,
    *,
    wait: Wait = False,
    dry_run: DryRun = False,
    server: Server = UNSAID,
    as_json: AsJson = False,
) -> None:
    """Begin the last rollout again, after it was taken back: version, backends, strategy."""
    _begin(Caller(server, as_json, dry_run), service, "retry", {}, wait=wait)


def _begin(caller: Caller, service: str, verb: str, body: Json, *, wait: bool) -> None:
    async def work(client: Client) -> int:
        rollout = await client.post(path_of("services", service, verb), body)
        if wait and rollout.get("unchanged"):
            say(screen.begun(rollout).plain)
        if wait:
            return await follow(client, service, rollout["id"], Changes(caller.as_json).tell)
        caller.show(rollout, screen.begun)
        return DONE

    caller.run(work, interrupted=f"left; the rollout goes on: `rollout watch {service}` shows it")


def dequeue(service: ServiceName, *, dry_run: DryRun = False, server: Server = UNSAID, as_json: AsJson = False) -> None:
    """Take out the deployment that waits behind a rollout (`deploy --supersede`)."""
    Caller(server, as_json, dry_run).delete(path_of("services", service, "queue"), screen.service_panel)


def drain(  # noqa: PLR0913 - one parameter for each option
    service: ServiceName,
    backend: Backend = None,
    *,
    location: Location = None,
    wait: Gone = False,
    dry_run: DryRun = False,
    server: Server = UNSAID,
    as_json: AsJson = False,
) -> None:
    """Let a backend go, or all of a location: nothing new, then wait for what runs.

    The last healthy ones of a version are refused, a location as a whole. `undrain` takes them back.
    """
    body = _which(backend, location)
    caller = Caller(server, as_json, dry_run)

    async def work(client: Client) -> int:
        view = await client.post(path_of("services", service, "drains"), body)
        addresses = [body["backend"]] if backend else [each["backend"] for each in view["drains"]]
        if wait:
            return await follow_drains(client, service, addresses, as_json=as_json)
        caller.show(view, lambda answer: screen.drains_of(answer, addresses))
        return DONE

    caller.run(work, interrupted=LEFT.format(service))


def undrain(
    service: ServiceName,
    backend: Backend = None,
    *,
    location: Location = None,
    dry_run: DryRun = False,
    server: Server = UNSAID,
    as_json: AsJson = False,
) -> None:
    """Take back a backend that is drained, or all of a location: they get requests again."""
    path = path_of("services", service, "undrains")
    Caller(server, as_json, dry_run).post(path, _which(backend, location), lambda view: screen.services_table([view]))


def mark(  # noqa: PLR0913 - one parameter for each option
    service: ServiceName,
    backend: Annotated[str, typer.Argument(help="HOST:PORT as `rollout list` shows it.")],
    health: Annotated[Health, typer.Argument(help="What it is from now on.")],
    *,
    reason: Annotated[str, typer.Option(metavar="TEXT", help="Why, for others.")] = "",
    dry_run: DryRun = False,
    server: Server = UNSAID,
    as_json: AsJson = False,
) -> None:
    """Have no Envoy send a backend anything new, or take that back.

    What runs on it goes on. Refused for the last healthy one of a version. `healthy` takes a mark away; what probes or
    Envoys find of the backend counts all the same.

    Example: rollout mark checkout 10.0.0.21:8080 unhealthy --reason "its disk is full"
    """
    address = parsed("BACKEND", backend, parse_endpoint).address
    body = {"backend": address, "health": health.value, "reason": reason}
    path = path_of("services", service, "health")
    Caller(server, as_json, dry_run).post(path, body, lambda view: screen.health_of(view, address))


def _which(backend: str | None, location: str | None) -> Json:
    """Return the API's body for one backend, or a location."""
    if (backend is None) == (location is None):
        raise typer.BadParameter("give one of them: a backend, or --location", param_hint="BACKEND")
    if backend is None:
        return {"location": location}
    return {"backend": parsed("BACKEND", backend, parse_endpoint).address}


def scale(  # noqa: PLR0913 - one parameter for each option
    service: ServiceName,
    version: Annotated[str, typer.Argument(help="One that is there, see `version list`.")],
    *,
    add: Annotated[list[str] | None, typer.Option(metavar="HOST:PORT[@REGION/ZONE]", help="Add it; repeat it.")] = None,
    remove: Annotated[list[str] | None, typer.Option(metavar="HOST:PORT", help="Drain it, then remove it.")] = None,
    endpoint: Annotated[
        list[str] | None, typer.Option(metavar="HOST:PORT[@REGION/ZONE]", help="The whole set; repeat it.")
    ] = None,
    wait: Gone = False,
    dry_run: DryRun = False,
    server: Server = UNSAID,
    as_json: AsJson = False,
) -> None:
    """Add backends to a version, remove some, or give the whole set.

    At any time, in a rollout too. New ones get requests when Envoy's health checks find them healthy; those that go are
    drained first. The last healthy ones are refused: add others first.
    """
    path = path_of("services", service, "versions", version)
    added, whole = _endpoints("--add", add), _endpoints("--endpoint", endpoint)
    removed = [each.address for each in _endpoints("--remove", remove)]
    if bool(whole) == bool(added or removed):
        raise typer.BadParameter("give --add and --remove, or the whole set by --endpoint", param_hint="--endpoint")
    caller = Caller(server, as_json, dry_run)

    async def work(client: Client) -> int:
        if whole:
            view = await client.put(path, {"endpoints": [str(each) for each in whole]})
        else:
            view = await client.patch(path, {"add": [str(each) for each in added], "remove": removed})
        leaving = [each["backend"] for each in view["drains"] if each["version"] == version and each["leaves"]]
        if wait and leaving:
            return await follow_drains(client, service, leaving, as_json=as_json)
        caller.show(view, lambda answer: screen.services_table([answer]))
        return DONE

    caller.run(work, interrupted=LEFT.format(service))


def adopt(
    service: ServiceName,
    version: VersionName,
    *,
    dry_run: DryRun = False,
    server: Server = UNSAID,
    as_json: AsJson = False,
) -> None:
    """Name the version that envoy-configs' endpoints are.

    Without it that version is called `initial`. It must come before the service's first rollout.
    """
    path = path_of("services", service, "adopt")
    Caller(server, as_json, dry_run).post(path, {"version": version}, lambda view: screen.services_table([view]))


def list_versions(service: ServiceName, *, server: Server = UNSAID, as_json: AsJson = False) -> None:
    """List SERVICE's versions: those that are there, and those that were, with where they ran."""
    Caller(server, as_json).get(path_of("services", service, "versions"), screen.versions_table)


def remove_version(
    service: ServiceName,
    version: Annotated[str, typer.Argument(help="A past one, see `version list`.")],
    *,
    dry_run: DryRun = False,
    server: Server = UNSAID,
    as_json: AsJson = False,
) -> None:
    """Forget a past version, so that nothing goes back to it by mistake."""
    path = path_of("services", service, "versions", version)
    Caller(server, as_json, dry_run).delete(path, lambda view: screen.services_table([view]))


def log(
    service: Annotated[str | None, typer.Argument(help="One service; without: all, and the configuration.")] = None,
    *,
    limit: Most = 1000,
    server: Server = UNSAID,
    as_json: AsJson = False,
) -> None:
    """List who asked for what and what came of it, newest first."""
    path = path_of("services", service, "operations") if service else path_of("operations")
    listing = Listing(path, "operations", limit)
    Caller(server, as_json).listed(listing, lambda answer: screen.operations_table(answer["operations"]))


def _endpoints(option: str, texts: list[str] | None) -> list[Endpoint]:
    return [parsed(option, text, parse_endpoint) for text in texts or ()]
