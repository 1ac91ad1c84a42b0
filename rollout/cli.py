"""The command line: `rollout ...`. All but `serve` and the offline verbs talk to the admin API."""

import asyncio
import contextlib
import json
import logging
import sys
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Annotated, Any, NoReturn

import structlog
import typer
import yaml
from rich.live import Live
from yarl import URL

from rollout import screen
from rollout.app import Listening, Settings, read_configs
from rollout.app import serve as run_server
from rollout.bootstrap import Proxy, xds_tls
from rollout.bootstrap import bootstrap as bootstrap_of
from rollout.caller import DONE, IN_PROGRESS, Caller, Changes, exit_code, follow, follow_drain, stdout, token
from rollout.client import Client, Glance, path_of
from rollout.errors import InvalidSpec, RolloutError
from rollout.spec import parse_deployment, parse_endpoint, parse_strategy
from rollout.traffic.publisher import check
from xds.errors import XdsError

DEFAULTS = Settings()
Json = Mapping[str, Any]

app = typer.Typer(
    name="rollout",
    help="Move a service's traffic to a new version through a fleet of Envoys, and back when it is worse.",
    epilog="Exit codes: 0 done or nothing in progress, 1 error, 2 wrong usage, 3 rolled back, 4 in progress.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
config = typer.Typer(help="The configuration that a server serves.", no_args_is_help=True, rich_markup_mode=None)
app.add_typer(config, name="config")


def _version(wanted: bool) -> None:  # noqa: FBT001 - typer calls it so
    if not wanted:
        return
    try:
        typer.echo(f"rollout {metadata.version('envoy-rollout')}")
    except metadata.PackageNotFoundError:
        typer.echo("rollout, run from a source tree that is not installed")
    raise typer.Exit


def _named(value: str | None) -> str | None:
    if value is not None and not value.strip():
        raise typer.BadParameter("must not be empty")
    return value


def _url(value: str) -> str:
    """Return a server's URL; HOST:PORT alone means http."""
    try:
        url = URL(value if "://" in value else f"http://{value}")
        if url.scheme in ("http", "https") and url.host and url.port:
            return str(url)
    except ValueError:
        pass
    raise typer.BadParameter(f"'{value}' is no server; write http://HOST:PORT")


def _server(context: typer.Context, value: str | None) -> str:
    """Return the nearest `--server`: one behind the verb, one before it, ROLLOUT_SERVER, the default."""
    return str(context.obj) if value is None else _url(value)


ServiceName = Annotated[str, typer.Argument(callback=_named, help="An EDS cluster of envoy-configs.")]
VersionName = Annotated[str, typer.Argument(callback=_named, help="A name of your choice, such as v2.")]
ConfigFolder = Annotated[Path, typer.Argument(metavar="DIR", help="Envoy's configuration: YAML files.")]
Server = Annotated[
    str, typer.Option(metavar="URL", callback=_server, help="The server's admin API.", show_default=False)
]
AsJson = Annotated[bool, typer.Option("--json", help="Print the API's JSON, and nothing else, on stdout.")]
Wait = Annotated[bool, typer.Option("--wait", help="Wait for the end.")]
UNSAID: Any = None  # so that `_server` hears of an option that was not given


@app.callback()
def _main(
    context: typer.Context,
    *,
    server: Annotated[
        str, typer.Option(metavar="URL", envvar="ROLLOUT_SERVER", callback=_url, help="The server's admin API.")
    ] = f"http://{DEFAULTS.admin}",
    version: Annotated[  # noqa: ARG001 - its callback prints it
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    context.obj = server


@app.command()
def serve(  # noqa: PLR0913 - one parameter for each option
    *,
    configs: Annotated[Path, typer.Option(metavar="DIR", help="Envoy's configuration: YAML files.")] = DEFAULTS.configs,
    data: Annotated[Path, typer.Option(metavar="DIR", help="Where rollouts are remembered.")] = DEFAULTS.data,
    xds: Annotated[str, typer.Option(metavar="HOST:PORT", help="Where Envoys connect.")] = DEFAULTS.xds,
    admin: Annotated[
        str, typer.Option(metavar="HOST:PORT", help="The admin API; not on loopback it needs ROLLOUT_TOKEN.")
    ] = DEFAULTS.admin,
    envoy_admin_port: Annotated[
        int, typer.Option(metavar="N", min=1, max=65535, help="The admin port of Envoys that do not name theirs.")
    ] = DEFAULTS.envoy_admin_port,
    xds_cert: Annotated[Path | None, typer.Option(metavar="FILE", help="TLS: the server's certificate, PEM.")] = None,
    xds_key: Annotated[Path | None, typer.Option(metavar="FILE", help="TLS: its key, PEM.")] = None,
    xds_client_ca: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Mutual TLS: the authorities of the Envoys' certificates, PEM.")
    ] = None,
    xds_authz: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Which certificate may be which node and have which secrets.")
    ] = None,
    xds_status: Annotated[
        str | None, typer.Option(metavar="HOST:PORT", help="gRPC: what each Envoy has (CSDS), health, reflection.")
    ] = None,
) -> None:
    """Run the server: control plane and rollout engine.

    It ends at SIGTERM or Ctrl-C, and reads its configuration again at SIGHUP. Changes by the API need the bearer token
    in ROLLOUT_TOKEN when it is set.
    """
    _log_to_stderr()
    settings = Settings(
        configs,
        data,
        xds,
        admin,
        envoy_admin_port,
        token(),
        xds_cert=xds_cert,
        xds_key=xds_key,
        xds_client_ca=xds_client_ca,
        xds_authz=xds_authz,
        xds_status=xds_status,
    )
    faults: list[Exception] = []
    try:
        asyncio.run(run_server(settings, _ready))
    except* (RolloutError, XdsError) as group:
        faults.extend(_flat(group))
    if faults:
        Caller("", as_json=False).fail(*faults)


def _flat(group: ExceptionGroup[Any]) -> list[Exception]:
    parts = ([each] if not isinstance(each, ExceptionGroup) else _flat(each) for each in group.exceptions)
    return [error for part in parts for error in part]


def _ready(listening: Listening) -> None:
    status = "" if listening.xds_status is None else f", its status on {listening.xds_status}"
    structlog.get_logger().info(f"xDS on {listening.xds}{status}, admin API on http://{listening.admin}")


class _Stderr:
    """The log's file: what cannot be written is lost, for a full disk must not end the fleet's control plane."""

    def write(self, text: str) -> None:
        with contextlib.suppress(OSError):
            sys.stderr.write(text)

    def flush(self) -> None:
        with contextlib.suppress(OSError):
            sys.stderr.flush()


def _log_to_stderr() -> None:
    """Write lines to read on a terminal, JSON elsewhere."""
    terminal = sys.stderr.isatty()
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="%H:%M:%S" if terminal else "iso", utc=not terminal),
            structlog.processors.format_exc_info,
            structlog.dev.ConsoleRenderer() if terminal else structlog.processors.JSONRenderer(),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
        logger_factory=structlog.PrintLoggerFactory(_Stderr()),  # type: ignore[arg-type]  # has what is used of a file
    )


@app.command()
def deploy(  # noqa: PLR0913 - one parameter for each option
    service: ServiceName,
    version: VersionName,
    *,
    endpoint: Annotated[
        list[str], typer.Option(metavar="HOST:PORT[@REGION/ZONE]", help="One of its backends; repeat it for each.")
    ],
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
        body = _deployment(service, version, endpoint, strategy)
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
        try:
            text = strategy.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise InvalidSpec(f"cannot read the strategy {strategy}: {error}") from error
        parse_strategy(text, str(strategy))
        body["strategy"] = yaml.safe_load(text) or {}
    parse_deployment({**body, "service": service})
    return body


def _endpoint(text: str) -> str:
    try:
        return str(parse_endpoint(text))
    except InvalidSpec as error:
        raise InvalidSpec(f"--endpoint {text}: {error}") from error


@app.command()
def status(
    service: Annotated[str | None, typer.Argument(callback=_named, help="One service; without: all.")] = None,
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


@app.command()
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


@app.command(name="list")
def list_services(*, server: Server = UNSAID, as_json: AsJson = False) -> None:
    """List the services with their versions and backends."""
    Caller(server, as_json).get(path_of("services"), lambda answer: screen.services_table(answer["services"]))


@app.command()
def promote(
    service: ServiceName,
    *,
    full: Annotated[bool, typer.Option("--full", help="Go to 100 % at once.")] = False,
    server: Server = UNSAID,
    as_json: AsJson = False,
) -> None:
    """Go on to the next stage now, whatever the gate says."""
    _command(Caller(server, as_json), service, "promote_full" if full else "promote")


@app.command()
def pause(service: ServiceName, *, server: Server = UNSAID, as_json: AsJson = False) -> None:
    """Stay at the present weight until `resume`.

    A version that proves worse is still taken back.
    """
    _command(Caller(server, as_json), service, "pause")


@app.command()
def resume(service: ServiceName, *, server: Server = UNSAID, as_json: AsJson = False) -> None:
    """Go on with a paused rollout."""
    _command(Caller(server, as_json), service, "resume")


@app.command()
def abort(service: ServiceName, *, server: Server = UNSAID, as_json: AsJson = False) -> None:
    """Take all traffic back to the stable version now."""
    _command(Caller(server, as_json), service, "abort")


def _command(caller: Caller, service: str, word: str) -> NoReturn:
    caller.post(path_of("services", service, "commands", word), {}, screen.rollout_line)


@app.command()
def history(service: ServiceName, *, server: Server = UNSAID, as_json: AsJson = False) -> None:
    """List SERVICE's rollouts, newest first."""
    path = path_of("services", service, "rollouts")
    Caller(server, as_json).get(path, lambda answer: screen.history_table(answer["rollouts"]))


@app.command()
def explain(
    service: ServiceName,
    *,
    rollout: Annotated[int | None, typer.Option(metavar="N", min=1, help="See `history`; without: the last.")] = None,
    server: Server = UNSAID,
    as_json: AsJson = False,
) -> None:
    """Tell a rollout's story: what, when, and on which evidence."""
    Caller(server, as_json).get(path_of("services", service, "rollouts", rollout or "last"), screen.story)


@app.command()
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


@app.command()
def adopt(service: ServiceName, version: VersionName, *, server: Server = UNSAID, as_json: AsJson = False) -> None:
    """Name the version that envoy-configs' endpoints are.

    Without it that version is called `initial`. It must come before the service's first rollout.
    """
    path = path_of("services", service, "adopt")
    Caller(server, as_json).post(path, {"version": version}, lambda view: screen.services_table([view]))


@app.command()
def fleet(*, server: Server = UNSAID, as_json: AsJson = False) -> None:
    """List the Envoys, with what each has ACKed and refused."""
    Caller(server, as_json).get(path_of("fleet"), lambda answer: screen.fleet_table(answer["nodes"]))


@config.command()
def reload(*, server: Server = UNSAID, as_json: AsJson = False) -> None:
    """Have the server read its envoy-configs again.

    A bad change is refused whole, with every problem in it, and the last good one is still served.
    """
    Caller(server, as_json).post(
        path_of("config", "reload"), {}, lambda answer: screen.notes(answer["warnings"], "reloaded")
    )


@app.command()
def lint(folder: ConfigFolder, *, as_json: AsJson = False) -> None:
    """Check a configuration; no server is needed.

    Every problem in a line of its own, with file, resource and field. Exits with 1 when there is one; warnings are no
    problems.
    """
    caller = Caller("", as_json)
    try:
        files = read_configs(folder)
        _, compiler, warnings = check(files)
    except (RolloutError, XdsError) as error:
        caller.fail(error)
    services, groups = sorted(compiler.services), sorted(files.groups)
    notes = [{"where": each.where, "what": each.what} for each in warnings]
    answer = {"services": services, "groups": groups, "warnings": notes}
    fine = f"{folder} is fine; services: {', '.join(services) or 'none; an EDS cluster is one'}"
    fine = f"{fine}; groups: {', '.join(groups)}" if groups else fine
    caller.show(answer, lambda _: screen.notes(list(map(str, warnings)), fine))


@app.command()
def bootstrap(  # noqa: PLR0913 - one parameter for each option
    *,
    node_id: Annotated[str, typer.Option(metavar="ID", callback=_named, help="Its name, unique in the fleet.")],
    location: Annotated[str, typer.Option(metavar="REGION/ZONE", help="Where it runs.")],
    cluster: Annotated[str, typer.Option(metavar="NAME", help="The group of Envoys it belongs to.")] = "envoy",
    xds: Annotated[str, typer.Option(metavar="HOST:PORT", help="The control plane.")] = DEFAULTS.xds,
    envoy_admin: Annotated[
        str, typer.Option(metavar="HOST:PORT", help="Its admin port; keep it on loopback.")
    ] = f"127.0.0.1:{DEFAULTS.envoy_admin_port}",
    stats: Annotated[
        str | None, typer.Option(metavar="HOST:PORT", help="A read-only port of its stats, for a server elsewhere.")
    ] = None,
    delta: Annotated[bool, typer.Option("--delta", help="Speak incremental xDS.")] = False,
    xds_ca: Annotated[
        str | None, typer.Option(metavar="FILE", help="TLS: the authority of the server's certificate, PEM.")
    ] = None,
    xds_cert: Annotated[
        str | None, typer.Option(metavar="FILE", help="Mutual TLS: this Envoy's own certificate, PEM.")
    ] = None,
    xds_key: Annotated[str | None, typer.Option(metavar="FILE", help="Mutual TLS: its key, PEM.")] = None,
    xds_name: Annotated[
        str | None, typer.Option(metavar="NAME", help="The name in the server's certificate, by default --xds's host.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Print what an Envoy of the fleet starts with, as YAML.

    Example: rollout bootstrap --node-id edge-1 --location eu/eu-1 > edge-1.yaml && envoy -c edge-1.yaml
    """
    region, slash, zone = location.partition("/")
    if not region or "/" in zone or (slash and not zone):
        raise typer.BadParameter(f"'{location}' is no location; write REGION/ZONE", param_hint="--location")
    try:
        tls = xds_tls(xds_ca, xds_cert, xds_key, xds_name)
        document = bootstrap_of(Proxy(node_id, cluster, region, zone, xds, envoy_admin, stats, delta, tls))
    except InvalidSpec as error:
        Caller("", as_json).fail(error)
    if as_json:
        typer.echo(json.dumps(document, indent=2))
    else:
        typer.echo(yaml.dump(document, Dumper=_PlainDumper, sort_keys=False, default_flow_style=False), nl=False)


class _PlainDumper(yaml.SafeDumper):
    """Writes equal parts out each time, instead of anchors."""

    def ignore_aliases(self, data: Any) -> bool:  # noqa: ARG002 - yaml calls it so
        return True


def main() -> None:
    """Run `rollout`."""
    app()


if __name__ == "__main__":
    main()
