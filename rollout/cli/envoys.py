"""The verbs on the Envoys and on their configuration."""

import json
from typing import Annotated, Any

import typer
import yaml

from rollout import screen
from rollout.bootstrap import Proxy, xds_tls
from rollout.bootstrap import bootstrap as bootstrap_of
from rollout.caller import Caller, Listing
from rollout.cli.options import DEFAULTS, UNSAID, AsJson, DryRun, Server, named
from rollout.client import path_of
from rollout.errors import InvalidSpec


def fleet(*, server: Server = UNSAID, as_json: AsJson = False) -> None:
    """List the Envoys, with what each has ACKed and refused."""
    listing = Listing(path_of("fleet"), "nodes")
    Caller(server, as_json).listed(listing, lambda answer: screen.fleet_table(answer["nodes"]))


def reload(*, dry_run: DryRun = False, server: Server = UNSAID, as_json: AsJson = False) -> None:
    """Have the server read its envoy-configs again.

    A bad change is refused whole, with every problem in it, and the last good one is still served.
    """
    Caller(server, as_json, dry_run).post(
        path_of("config", "reload"), {}, lambda answer: screen.notes(answer["warnings"], "reloaded")
    )


def bootstrap(  # noqa: PLR0913 - one parameter for each option
    *,
    node_id: Annotated[str, typer.Option(metavar="ID", callback=named, help="Its name, unique in the fleet.")],
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
