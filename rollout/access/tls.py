"""TLS of the admin API: certificates from files, read again when they change, and whom a client's certificate names."""

import asyncio
import ssl
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.x509.oid import NameOID

from rollout.access.trust import COMMON_NAME
from xds.access import SPIFFE, dns_name, spiffe_id
from xds.errors import InvalidConfig, Problem

SIZE_LIMIT = 1024 * 1024
RESUMED_FOR = timedelta(hours=2)  # OpenSSL's sessions end then
_UNREADABLE = (
    ValueError,
    TypeError,
    UnsupportedAlgorithm,
    x509.DuplicateExtension,
    x509.UnsupportedGeneralNameType,
)
State = tuple[tuple[int, ...] | None, ...]


@dataclass(frozen=True, slots=True)
class AdminFiles:
    """PEM files: the certificate with its chain, its key, the authorities of clients' certificates (None for none)."""

    cert: Path
    key: Path
    client_ca: Path | None = None

    def paths(self) -> tuple[Path, ...]:
        return (self.cert, self.key, *((self.client_ca,) if self.client_ca else ()))


class AdminTls:
    """The certificates in force. Broken files never replace good ones.

    `now` gives the time in UTC. `told` hears when the one in force expires, or why what the files hold is not.
    """

    def __init__(
        self, files: AdminFiles, now: Callable[[], datetime], told: Callable[[datetime | InvalidConfig], None]
    ) -> None:
        """Read the files. Raises InvalidConfig."""
        self._files = files
        self._now = now
        self._told = told
        self._state = _state(files)
        self.context, _ = load(files, now())
        self._present, self.expires_at = load(files, now())
        self._in_use = weakref.WeakSet((self._present,))
        self._withdrawn: tuple[ssl.SSLContext, datetime] | None = None  # one that names nobody any more, and since when
        # Called in each handshake, with a name or without: there another context can take the place of this one.
        self.context.sni_callback = self._choose

    def _choose(self, handshake: ssl.SSLObject, _name: str | None, _context: ssl.SSLContext) -> None:
        self.look()
        withdrawn = self._withdrawn
        # A session of TLS 1.2 that is resumed is not verified again, and may be of before that.
        doubtful = handshake.session_reused and withdrawn is not None and self._now() - withdrawn[1] < RESUMED_FOR
        handshake.context = withdrawn[0] if doubtful and withdrawn is not None else self._present

    def look(self) -> None:
        """Read the files again if they have changed."""
        state = _state(self._files)
        if state != self._state:
            # Noted before the files are read: what is written meanwhile is another state, and read next time.
            self._state = state
            try:
                former = self._present
                self._present, self.expires_at = load(self._files, self._now())
                self._withdraw(former)
                self._told(self.expires_at)
            except InvalidConfig as error:
                self._told(error)

    def _withdraw(self, former: ssl.SSLContext) -> None:
        """Have connections name nobody any more that were verified while an authority counted which does not now."""
        self._in_use.add(self._present)
        counting = _authorities(self._present)
        for context in {former, *self._in_use}:  # of the former one sessions may be left, and no connection
            if context.verify_mode != ssl.CERT_NONE and not _authorities(context) <= counting:
                context.verify_mode = ssl.CERT_NONE  # no handshake begins with it any more: see `client_names`
                self._withdrawn = context, self._now()


def load(files: AdminFiles, now: datetime) -> tuple[ssl.SSLContext, datetime]:
    """Read the files; return what serves them, and when the certificate expires. Raises InvalidConfig."""
    leaf = _leaf(files.cert)
    if not leaf.not_valid_before_utc <= now <= leaf.not_valid_after_utc:
        when = f"{leaf.not_valid_before_utc:%Y-%m-%d %H:%M} to {leaf.not_valid_after_utc:%Y-%m-%d %H:%M} UTC"
        raise _wrong(files.cert, f"is valid from {when}, which is not now; renew it")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    # A session that is resumed would not be verified again: its certificate may have been withdrawn meanwhile.
    context.options |= ssl.OP_NO_TICKET
    context.num_tickets = 0
    try:
        context.load_cert_chain(files.cert, files.key, password=lambda: b"")
    except (ssl.SSLError, OSError, ValueError) as error:
        what = "is no private key in PEM without a password, or not the key of the first certificate"
        raise _wrong(files.key, f"{what} in {files.cert}; write both anew, from one issue") from error
    if files.client_ca is not None:
        _read(files.client_ca)
        try:
            context.load_verify_locations(files.client_ca)
        except (ssl.SSLError, OSError) as error:
            raise _wrong(files.client_ca, "holds no certificates in PEM; --admin-client-ca needs them") from error
        context.verify_mode = ssl.CERT_OPTIONAL
    return context, leaf.not_valid_after_utc


def _authorities(context: ssl.SSLContext) -> frozenset[bytes]:
    return frozenset(context.get_ca_certs(binary_form=True))


def client_names(transport: asyncio.Transport | None) -> frozenset[str]:
    """Return what a client's verified certificate names: a SPIFFE ID, DNS names, `CN=...`; nothing without one.

    Each only under the kind under which it stands there. One that has expired since the handshake names nobody, nor
    does one whose authority may have been withdrawn since.
    """
    raw = _shown(_handshake(transport))
    if raw is None or is_withdrawn(transport):
        return frozenset()
    try:
        certificate = x509.load_der_x509_certificate(raw)
        if certificate.not_valid_after_utc < datetime.now(UTC):
            return frozenset()
        return frozenset((*_alternative_names(certificate), *_common_names(certificate)))
    except _UNREADABLE:
        return frozenset()


def is_withdrawn(transport: asyncio.Transport | None) -> bool:
    """Say whether a client, who is to connect anew, showed a certificate whose authority may have been withdrawn."""
    handshake = _handshake(transport)
    return _shown(handshake) is not None and handshake.context.verify_mode == ssl.CERT_NONE


def _handshake(transport: asyncio.Transport | None) -> Any:
    """Return the ssl_object of a connection, None in clear."""
    return None if transport is None else transport.get_extra_info("ssl_object")


def _shown(handshake: Any) -> bytes | None:
    """Return the certificate that a client has shown, None for none."""
    return None if handshake is None else handshake.getpeercert(binary_form=True)


def _alternative_names(certificate: x509.Certificate) -> list[str]:
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return []
    uris = names.get_values_for_type(x509.UniformResourceIdentifier)
    ids = [spiffe_id(each) for each in uris if each.startswith(SPIFFE)] if len(uris) == 1 else []
    return [each for each in (*ids, *map(dns_name, names.get_values_for_type(x509.DNSName))) if each is not None]


def _common_names(certificate: x509.Certificate) -> list[str]:
    found = certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    return [f"{COMMON_NAME}{each.value}" for each in found if isinstance(each.value, str)] if len(found) == 1 else []


def _leaf(path: Path) -> x509.Certificate:
    try:
        return x509.load_pem_x509_certificates(_read(path))[0]
    except _UNREADABLE as error:
        raise _wrong(path, "holds no certificate in PEM; --admin-cert needs one") from error


def _read(path: Path) -> bytes:
    try:
        if not path.is_file() or path.stat().st_size > SIZE_LIMIT:
            raise _wrong(path, f"is no file of at most {SIZE_LIMIT >> 20} MiB; name a PEM file")
        return path.read_bytes()
    except OSError as error:
        raise _wrong(path, f"cannot be read: {error.strerror}") from error


def _wrong(path: Path, what: str) -> InvalidConfig:
    return InvalidConfig((Problem(str(path), what),))


def _state(files: AdminFiles) -> State:
    """Return what changes whenever a file is written or replaced; None for one that is not there."""
    return tuple(map(_file_state, files.paths()))


def _file_state(path: Path) -> tuple[int, ...] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return (found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)
