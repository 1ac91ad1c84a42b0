"""The way into the admin API: its certificates, whom it trusts, its doorkeeper, and what the log says of them."""

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import structlog

from rollout.access.doorkeeper import Doorkeeper, Premises
from rollout.access.rejections import Kind, Rejections
from rollout.access.strangers import Strangers
from rollout.access.tls import AdminFiles, AdminTls
from rollout.access.trust import Trust, parse
from rollout.bootstrap import is_loopback, split_address
from rollout.credentials import PREFIX
from rollout.errors import InvalidSpec
from rollout.ledger import Ledger
from rollout.record import Contents, Operation, PutAudit
from rollout.saver import Saver, Saving
from rollout.settings import Settings
from xds.errors import InvalidConfig

SHORT_TOKEN = 16
LOOK_EVERY_S = 1.0


def check_admin(settings: Settings) -> None:
    """Raise InvalidSpec or InvalidConfig for what does not go together."""
    split_address(settings.admin)
    if (settings.admin_cert is None) != (settings.admin_key is None):
        raise InvalidSpec("--admin-cert and --admin-key go together: give the certificate and its key, or neither")
    if settings.admin_client_ca is not None and settings.admin_cert is None:
        raise InvalidSpec("--admin-client-ca needs TLS: give --admin-cert and --admin-key too")
    if settings.token is not None and settings.token.startswith(PREFIX):
        what = "ROLLOUT_TOKEN is one that a server has given out, but a server's own is its root token"
        raise InvalidSpec(f"{what}; take another, or unset it: tokens that were given out are in the data folder")
    read_trust(settings)


def read_trust(settings: Settings) -> Trust | None:
    """Return whom a file trusts, None without one. Raises InvalidSpec or InvalidConfig."""
    path = settings.admin_access
    if path is None:
        return None
    trust = parse(str(path), _text(path))
    if trust.certificates and settings.admin_client_ca is None:
        raise InvalidSpec(f"{path}: has certificates, but no client is asked for one: give --admin-client-ca too")
    return trust


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidSpec(f"cannot read --admin-access {path}: {error}") from error


class Entrance:
    """What lets requests in. `tls` is what the port speaks, None for plain text."""

    def __init__(self, settings: Settings, ledger: Ledger, saver: Saver, clock: Callable[[], float]) -> None:
        """Read certificates and trust. Raises InvalidSpec or InvalidConfig."""
        self._settings = settings
        self._saver = saver
        self._clock = clock
        self._log = structlog.get_logger()
        self.strangers = Strangers()
        self._rejections = Rejections(self._note, _now)
        self._trust = read_trust(settings)
        premises = Premises(settings.token, lambda: self._trust, clock, _now, self._refused, self._declined)
        self.doorkeeper = Doorkeeper(premises, ledger, saver)
        self._certificates = self._read_certificates()
        self.tls = None if self._certificates is None else self._certificates.context

    def restore(self, contents: Contents) -> None:
        """Take up what was saved. Raises InvalidSpec when others reach the API, and nobody has to show who they are."""
        self.doorkeeper.restore(contents)
        settings = self._settings
        others = not is_loopback(split_address(settings.admin)[0])
        if others and not self.doorkeeper.is_on():
            what = f"--admin {settings.admin} is not loopback, so changes need a token; set ROLLOUT_TOKEN"
            raise InvalidSpec(f"{what}, or make one: `rollout token create NAME --role admin --data {settings.data}`")
        if others and settings.admin_cert is None:
            what = "the admin API speaks plain text: whoever is on the way reads tokens, and then has them"
            what = f"{what}; give --admin-cert and --admin-key, or let only a proxy that speaks TLS reach it"
            self._log.warning("open to others", warning=what)
        if settings.token is not None and len(settings.token) < SHORT_TOKEN and others:
            what = f"ROLLOUT_TOKEN has fewer than {SHORT_TOKEN} characters; take `openssl rand -hex 16`"
            self._log.warning("open to others", warning=what)

    async def run(self) -> None:
        """Look after those who are not known, and those who are not any more, until cancelled."""
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(LOOK_EVERY_S)
            self.strangers.look(loop.time())
            if self._certificates is not None:  # who is connected makes no handshake
                self._certificates.look()
            self._rejections.look(self._clock())

    def read_again(self) -> None:
        """Trust whom the file names now. Raises InvalidSpec or InvalidConfig, and then trusts as before."""
        self._trust = read_trust(self._settings)

    def _read_certificates(self) -> AdminTls | None:
        cert, key = self._settings.admin_cert, self._settings.admin_key
        if cert is None or key is None:
            return None
        tls = AdminTls(AdminFiles(cert, key, self._settings.admin_client_ca), _now, self._rotated)
        self._rotated(tls.expires_at)
        return tls

    def _rotated(self, found: datetime | InvalidConfig) -> None:
        if isinstance(found, InvalidConfig):
            self._log.error("admin certificate refused; the last good one stays in use", reason=str(found))
        else:
            self._log.info("admin certificate loaded", expires=found.isoformat())

    def _refused(self, whence: str, why: str) -> None:
        self._rejections.stranger(whence, why, self._clock())

    def _declined(self, kind: Kind, done: Operation) -> None:
        self._rejections.change(kind, done, self._clock())

    def _note(self, done: Operation) -> None:
        if done.verb in (Kind.IDENTIFY, Kind.DENIED):
            self._log.warning("not let in", address=done.origin, reason=done.detail)
        self._saver.put(Saving((PutAudit(done),)))


def _now() -> datetime:
    return datetime.now(UTC)
