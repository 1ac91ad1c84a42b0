"""What a server is started with, checked: what does not go together, and what would let others in."""

from pathlib import Path

from rollout.access.entrance import check_admin
from rollout.bootstrap import is_loopback, split_address
from rollout.errors import InvalidSpec
from rollout.metrics.sources import Commands
from rollout.settings import Settings
from xds.access import Access, Anyone
from xds.access import parse as parse_access


def check_settings(settings: Settings) -> None:
    """Raise InvalidSpec for what does not go together, or would let others in."""
    split_address(settings.xds)
    check_admin(settings)
    if settings.xds_status is not None and status_token(settings) is None and not _is_local(settings.xds_status):
        what = f"--xds-status {settings.xds_status} is not loopback, so what it shows of the fleet needs a token"
        raise InvalidSpec(f"{what}; set ROLLOUT_TOKEN")
    Commands(settings.commands).check_folder()
    _check_tls(settings)


def _is_local(address: str) -> bool:
    return is_loopback(split_address(address)[0])


def status_token(settings: Settings) -> str | None:
    """Return what the client status needs: nothing on loopback, as reading by the admin API there."""
    return None if settings.xds_status is None or _is_local(settings.xds_status) else settings.token


def _check_tls(settings: Settings) -> None:
    if (settings.xds_cert is None) != (settings.xds_key is None):
        raise InvalidSpec("--xds-cert and --xds-key go together: give the certificate and its key, or neither")
    if settings.xds_client_ca is not None and settings.xds_cert is None:
        raise InvalidSpec("--xds-client-ca needs TLS: give --xds-cert and --xds-key too")
    if settings.xds_authz is not None and settings.xds_client_ca is None:
        raise InvalidSpec("--xds-authz needs clients with certificates: give --xds-client-ca too")


def exposure(settings: Settings) -> str | None:
    """Return what a port that others can reach gives away, None when it does not."""
    if settings.xds_client_ca is not None or is_loopback(split_address(settings.xds)[0]):
        return None
    if settings.xds_cert is None:
        what = "the xDS port speaks plain text: whoever reaches it reads the fleet's configuration"
        return f"{what}; give --xds-cert, --xds-key and --xds-client-ca, or keep it in a network of its own"
    what = "the xDS port asks for no certificate: whoever reaches it reads the fleet's configuration as any node"
    return f"{what}; give --xds-client-ca"


def read_access(path: Path | None) -> Access:
    """Return the rules of a file, or access without rules. Raises InvalidSpec or InvalidConfig."""
    if path is None:
        return Anyone()
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidSpec(f"cannot read --xds-authz {path}: {error}") from error
    return parse_access(str(path), text)
