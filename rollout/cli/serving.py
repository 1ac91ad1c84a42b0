"""`rollout serve`: the server's life in this process, and its log."""

import asyncio
import contextlib
import logging
import sys
from pathlib import Path
from typing import Annotated, Any

import structlog
import typer

from rollout.app import Listening
from rollout.app import serve as run_server
from rollout.bootstrap import split_address
from rollout.caller import Caller, token
from rollout.cli.options import DEFAULTS, page_url, parsed
from rollout.errors import RolloutError
from rollout.settings import Settings
from xds.errors import XdsError


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
    admin_client_ca: Annotated[
        Path | None, typer.Option(metavar="FILE", help="The authorities of certificates that show who asks, PEM.")
    ] = None,
    admin_access: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Which certificates and groups of a proxy may what, YAML.")
    ] = None,
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
    commands: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Programs that strategies may have run as checks and hooks; else none."),
    ] = None,
    notify: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Who is told of what happens: targets and rules, YAML.")
    ] = None,
    public_url: Annotated[
        str | None, typer.Option(metavar="URL", callback=page_url, help="Where people reach the page, for links.")
    ] = None,
    traces: Annotated[
        bool, typer.Option("--traces", help="Send traces of rollouts by OTLP, as the OTEL_... variables say.")
    ] = False,
) -> None:
    """Run the server: control plane and rollout engine.

    It ends at SIGTERM or Ctrl-C, and reads its configuration again at SIGHUP. With ROLLOUT_TOKEN, or once
    `rollout token create` has made a token, the API needs one.
    """
    for option, address in (("--xds", xds), ("--admin", admin), ("--xds-status", xds_status)):
        if address is not None:
            parsed(option, address, split_address)
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
