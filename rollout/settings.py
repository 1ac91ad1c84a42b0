"""What a server is started with: where its files are, and where it listens."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Settings:
    """What `rollout serve` takes. `xds` and `admin` are HOST:PORT to listen on.

    `envoy_admin_port` is where an Envoy's stats are read when its node.metadata does not say it.
    `token`: the root token of the admin API, None without one. `admin_cert`, `admin_key`: PEM files for TLS there, None
    for plain text. `admin_client_ca`: the authorities of certificates that clients may show. `admin_access`: whom the
    API trusts beside those with tokens, None for nobody.
    `xds_cert`, `xds_key`: PEM files for TLS on the xDS port, None for plain text. `xds_client_ca`: the authorities of
    the certificates that clients must show, None when they need none. `xds_authz`: the rules of who may have what.
    `xds_status`: HOST:PORT of the status port, None for no such port. `commands`: the folder of the programs that
    strategies may have run as checks, None for none. `notify`: the file of who is told of events, None for nobody.
    `public_url`: where people reach the page, None where that is unknown. `traces`: send traces of rollouts, as the
    OTEL_... variables say; without it they are sent where these name an endpoint.
    """

    configs: Path = Path("envoy-configs")
    data: Path = Path("data")
    xds: str = "127.0.0.1:18000"
    admin: str = "127.0.0.1:18080"
    envoy_admin_port: int = 9901
    token: str | None = None
    xds_cert: Path | None = None
    xds_key: Path | None = None
    xds_client_ca: Path | None = None
    xds_authz: Path | None = None
    xds_status: str | None = None
    commands: Path | None = None
    admin_cert: Path | None = None
    admin_key: Path | None = None
    admin_client_ca: Path | None = None
    admin_access: Path | None = None
    notify: Path | None = None
    public_url: str | None = None
    traces: bool = False
