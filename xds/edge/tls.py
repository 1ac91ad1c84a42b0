"""TLS of the xDS port: certificates from files, read again when they change, and who a client's certificate names."""

import stat
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any as Credentials

import grpc
from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_private_key

from xds.access import dns_name, spiffe_id
from xds.errors import Forbidden, InvalidConfig, Problem

SIZE_LIMIT = 1024 * 1024  # of one file; the certificates of all public authorities are 200 KB
_UNREADABLE = (
    ValueError,
    TypeError,  # a key that needs a password
    UnsupportedAlgorithm,
    x509.DuplicateExtension,
    x509.UnsupportedGeneralNameType,
)


@dataclass(frozen=True, slots=True)
class TlsFiles:
    """PEM files: the server's certificate with its chain, its key, and the authorities of its clients' certificates.

    Without `client_ca` clients need no certificate, and have no identity.
    """

    cert: Path
    key: Path
    client_ca: Path | None = None

    def paths(self) -> tuple[Path, ...]:
        return (self.cert, self.key, *((self.client_ca,) if self.client_ca else ()))


@dataclass(frozen=True, slots=True)
class Loaded:
    """What was read; `names` and `expires_at` are of the server's certificate."""

    configuration: Credentials
    names: tuple[str, ...]
    expires_at: datetime


State = tuple[tuple[int, ...] | None, ...]


class Certificates:
    """The certificates in force. Broken files never replace good ones.

    `now` gives the time in UTC. `told` hears of each change, from a thread of gRPC: what is in force now, or why what
    the files hold is not.
    """

    def __init__(
        self, files: TlsFiles, now: Callable[[], datetime], told: Callable[[Loaded | InvalidConfig], None]
    ) -> None:
        """Read the files. Raises InvalidConfig."""
        self._files = files
        self._now = now
        self._told = told
        self._lock = threading.Lock()
        self._state = _state(files)
        self.loaded = load(files, now())

    def credentials(self) -> Credentials:
        """Return credentials for one server; it looks at the files before each handshake."""
        with_clients = self._files.client_ca is not None
        return grpc.dynamic_ssl_server_credentials(
            self.loaded.configuration, self._fetch, require_client_authentication=with_clients
        )

    def check_client(self, properties: Mapping[str, Iterable[bytes]]) -> None:
        """Raise Forbidden when a client's certificate has expired: a TLS session that is resumed is not verified."""
        certificate = _client_certificate(properties)
        if certificate is not None and certificate.not_valid_after_utc < self._now():
            raise Forbidden(
                f"the client's certificate has expired at {_shown(certificate.not_valid_after_utc)}; renew it"
            )

    def _fetch(self) -> Credentials:
        """Return what is in force for the next handshake, None when it did not change since the last look."""
        with self._lock:
            state = _state(self._files)
            if state == self._state:
                return None
            # Noted before the files are read: what is written meanwhile is another state, and read next time.
            self._state = state
            try:
                self.loaded = load(self._files, self._now())
            except InvalidConfig as error:
                self._told(error)
                return None
            self._told(self.loaded)
            return self.loaded.configuration


def load(files: TlsFiles, now: datetime) -> Loaded:
    """Read the files. Raises InvalidConfig with every problem: what is no PEM, does not fit together or has expired."""
    problems: list[Problem] = []
    contents = dict(_contents(files, problems))
    chain = _certificates("--xds-cert", files.cert, contents, problems)
    if files.client_ca is not None:
        _certificates("--xds-client-ca", files.client_ca, contents, problems)
    problems += _key_problems(files, contents, chain)
    if chain:
        problems += _time_problems(files, chain[0], now)
    if problems:
        raise InvalidConfig(tuple(problems))
    roots = None if files.client_ca is None else contents[files.client_ca]
    pairs = [(contents[files.key], contents[files.cert])]
    configuration = grpc.ssl_server_certificate_configuration(pairs, roots)
    names = tuple(sorted(name for _, name in _names(chain[0])))
    return Loaded(configuration, names, chain[0].not_valid_after_utc)


def identities(properties: Mapping[str, Iterable[bytes]]) -> frozenset[str] | None:
    """Return the SPIFFE ID and the DNS names of a verified client certificate, from gRPC's properties of a connection.

    None without one. gRPC cuts a name at a NUL byte, and a DNS name may be spelt like a SPIFFE ID: so a name counts
    only when another parser finds the same, under the same kind, and when it is well-formed for that kind.
    """
    if "x509_pem_cert" not in properties:
        return None
    certificate = _client_certificate(properties)
    names = set() if certificate is None else _names(certificate)
    found = [
        # At most one: a certificate with several URIs is no SPIFFE one (X509-SVID, section 2).
        *((x509.UniformResourceIdentifier, name, spiffe_id(name)) for name in _texts(properties, "peer_spiffe_id")),
        *((x509.DNSName, name, dns_name(name)) for name in _texts(properties, "peer_dns")),
    ]
    return frozenset(identity for kind, name, identity in found if identity is not None and (kind, name) in names)


def _client_certificate(properties: Mapping[str, Iterable[bytes]]) -> x509.Certificate | None:
    try:
        return next((x509.load_pem_x509_certificate(pem) for pem in properties.get("x509_pem_cert", ())), None)
    except _UNREADABLE:
        return None


def _texts(properties: Mapping[str, Iterable[bytes]], key: str) -> Iterator[str]:
    return (value.decode("utf-8", "replace") for value in properties.get(key, ()))


def _names(certificate: x509.Certificate) -> set[tuple[type[x509.GeneralName], str]]:
    """Return the alternative names that are texts, by kind; none when a part of the certificate cannot be read."""
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        return {(type(name), name.value) for name in names if isinstance(name.value, str)}
    except (*_UNREADABLE, x509.ExtensionNotFound):
        return set()


def _state(files: TlsFiles) -> State:
    """Return what changes whenever a file is written or replaced; None for one that is not there."""
    return tuple(_file_state(path) for path in files.paths())


def _file_state(path: Path) -> tuple[int, ...] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return (found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)


def _contents(files: TlsFiles, problems: list[Problem]) -> Iterator[tuple[Path, bytes]]:
    for path in files.paths():
        try:
            found = path.stat()
            if not stat.S_ISREG(found.st_mode) or found.st_size > SIZE_LIMIT:
                problems.append(Problem(str(path), f"is no file of at most {SIZE_LIMIT >> 20} MiB; name a PEM file"))
            else:
                yield path, path.read_bytes()
        except OSError as error:
            problems.append(Problem(str(path), f"cannot be read: {error.strerror}"))


def _certificates(
    option: str, path: Path, contents: Mapping[Path, bytes], problems: list[Problem]
) -> list[x509.Certificate]:
    content = contents.get(path)
    if content is None:
        return []
    what = f"holds no certificates in PEM (-----BEGIN CERTIFICATE-----); {option} needs them"
    try:
        if content.count(b"-----BEGIN") == content.count(b"-----END"):
            return x509.load_pem_x509_certificates(content)
        what = "ends in the middle of a certificate; write it to another file and rename that"
    except ValueError:
        pass
    problems.append(Problem(str(path), what))
    return []


def _key_problems(files: TlsFiles, contents: Mapping[Path, bytes], chain: list[x509.Certificate]) -> Iterator[Problem]:
    if files.key not in contents:
        return
    form = (Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    try:
        public = load_pem_private_key(contents[files.key], password=None).public_key().public_bytes(*form)
    except _UNREADABLE:  # their texts may quote the file
        yield Problem(str(files.key), "holds no private key in PEM without a password; --xds-key needs one")
        return
    try:
        fits = not chain or chain[0].public_key().public_bytes(*form) == public
    except _UNREADABLE:
        fits = False
    if not fits:
        what = f"is not the key of the first certificate in {files.cert}; write both anew, from one issue"
        yield Problem(str(files.key), what)


def _time_problems(files: TlsFiles, certificate: x509.Certificate, now: datetime) -> Iterator[Problem]:
    if certificate.not_valid_after_utc < now:
        yield Problem(str(files.cert), f"has expired at {_shown(certificate.not_valid_after_utc)}; renew it")
    if certificate.not_valid_before_utc > now:
        since = _shown(certificate.not_valid_before_utc)
        yield Problem(str(files.cert), f"is not valid before {since}; look at this host's clock")


def _shown(moment: datetime) -> str:
    return f"{moment:%Y-%m-%d %H:%M} UTC"
