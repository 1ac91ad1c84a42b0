"""`rollout serve`: the server's life in this process, and its log."""

import asyncio
from pathlib import Path
from typing import Annotated, Any

import structlog
import typer

from rollout.app import Listening
from rollout.app import serve as run_server
from rollout.bootstrap import split_address
from rollout.caller import Caller, token
from rollout.cli.logs import LogFormat, LogLevel, log_to_stderr
from rollout.cli.options import DEFAULTS, page_url, parsed
from rollout.errors import RolloutError
from rollout.settings import Settings
from xds.errors import XdsError

AdminAuthorities = Annotated[
    Path | None, typer.Option(metavar="FILE", help="The authorities of certificates that show who asks, PEM.")
]
AdminAccess = Annotated[
    Path | None, typer.Option(metavar="FILE", help="Which certificates and groups of a proxy may what, YAML.")
]
EnvoyAdminPort = Annotated[
    int, typer.Option(metavar="N", min=1, max=65535, help="The admin port of Envoys that do not name theirs.")
]
XdsAuthorities = Annotated[
    Path | None, typer.Option(metavar="FILE", help="Mutual TLS: the authorities of the Envoys' certificates, PEM.")
]
XdsRules = Annotated[
    Path | None, typer.Option(metavar="FILE", help="Which certificate may be which node and have which secrets.")
]
XdsStatus = Annotated[
    str | None, typer.Option(metavar="HOST:PORT", help="gRPC: what each Envoy has (CSDS), health, reflection.")
]
CommandsFolder = Annotated[
    Path | None,
    typer.Option(metavar="DIR", help="Programs that strategies may have run as checks and hooks; else none."),
]
NotifyFile = Annotated[
    Path | None, typer.Option(metavar="FILE", help="Who is told of what happens: targets and rules, YAML.")
]
PublicUrl = Annotated[
    str | None, typer.Option(metavar="URL", callback=page_url, help="Where people reach the page, for links.")
]
Traced = Annotated[
    bool, typer.Option("--traces", help="Send traces of rollouts by OTLP, as the OTEL_... variables say.")
]
Format = Annotated[
    LogFormat | None, typer.Option(help="How the log is written; without: text on a terminal, JSON elsewhere.")
]


def serve(  # noqa: PLR0913 - one parameter for each option
    *,
    configs: Annotated[Path, typer.Option(metavar="DIR", help="Envoy's configuration: YAML files.")] = DEFAULTS.configs,
    data: Annotated[Path, typer.Option(metavar="DIR", help="Where rollouts are remembered.")] = DEFAULTS.data,
    xds: Annotated[str, typer.Option(metavar="HOST:PORT", help="Where Envoys connect.")] = DEFAULTS.xds,
    admin: Annotated[
        str, typer.Option(metavar="HOST:PORT", help="The admin API; not on loopback it needs a token.")
    ] = DEFAULTS.admin,
    admin_cert: Annotated[Path | None, typer.Option(metavar="FILE", help="TLS there: its certificate, PEM.")] = None,
    admin_key: Annotated[Path | None, typer.Option(metavar="FILE", help="TLS there: its key, PEM.")] = None,
    admin_client_ca: AdminAuthorities = None,
    admin_access: AdminAccess = None,
    envoy_admin_port: EnvoyAdminPort = DEFAULTS.envoy_admin_port,
    xds_cert: Annotated[Path | None, typer.Option(metavar="FILE", help="TLS: the server's certificate, PEM.")] = None,
    xds_key: Annotated[Path | None, typer.Option(metavar="FILE", help="TLS: its key, PEM.")] = None,
    xds_client_ca: XdsAuthorities = None,
    xds_authz: XdsRules = None,
    xds_status: XdsStatus = None,
    commands: CommandsFolder = None,
    notify: NotifyFile = None,
    public_url: PublicUrl = None,
    traces: Traced = False,
    log_format: Format = None,
    log_level: Annotated[LogLevel, typer.Option(help="The least that is logged.")] = LogLevel.INFO,
) -> None:
    """Run the server: control plane and rollout engine.

    It ends at SIGTERM or Ctrl-C, and reads its configuration again at SIGHUP. With ROLLOUT_TOKEN, or once
    `rollout token create` has made a token, the API needs one.
    """
    for option, address in (("--xds", xds), ("--admin", admin), ("--xds-status", xds_status)):
        if address is not None:
            parsed(option, address, split_address)
    log_to_stderr(log_format, log_level)
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
        commands=commands,
        admin_cert=admin_cert,
        admin_key=admin_key,
        admin_client_ca=admin_client_ca,
        admin_access=admin_access,
        notify=notify,
        public_url=public_url,
        traces=traces,
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
    admin = f"{listening.admin_scheme}://{listening.admin}"
    structlog.get_logger().info(f"xDS on {listening.xds}{status}, admin API on {admin}")
