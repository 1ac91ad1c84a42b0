"""Certificates for tests: an authority in memory, and what it issues as PEM."""

import ipaddress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from xds.edge.tls import TlsFiles

DAY = timedelta(days=1)


def uri(value: str) -> x509.GeneralName:
    return x509.UniformResourceIdentifier(value)


def dns(value: str) -> x509.GeneralName:
    return x509.DNSName(value)


def address(value: str) -> x509.GeneralName:
    return x509.IPAddress(ipaddress.ip_address(value))


@dataclass(frozen=True, slots=True)
class Issued:
    """A certificate and its key in PEM."""

    cert: bytes
    key: bytes

    def write(self, folder: Path, name: str) -> tuple[Path, Path]:
        """Write NAME.pem and NAME.key; return both."""
        paths = folder / f"{name}.pem", folder / f"{name}.key"
        for path, content in zip(paths, (self.cert, self.key), strict=True):
            path.write_bytes(content)
        return paths


class Authority:
    """Signs certificates; every key is on a fast curve."""

    def __init__(self, name: str = "authority") -> None:
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = _name(name)
        self._certificate = self._sign(self._name, self._key, (), ca=True, days=(-10, 10))
        self.pem = self._certificate.public_bytes(serialization.Encoding.PEM)

    def issue(
        self,
        *names: x509.GeneralName,
        common_name: str = "leaf",
        days: tuple[float, float] = (-1, 1),
        password: bytes | None = None,
    ) -> Issued:
        """Issue a certificate for these alternative names, valid between two days from now; its key has a password."""
        key = ec.generate_private_key(ec.SECP256R1())
        certificate = self._sign(_name(common_name), key, names, ca=False, days=days)
        pem = certificate.public_bytes(serialization.Encoding.PEM)
        lock = serialization.BestAvailableEncryption(password) if password else serialization.NoEncryption()
        form = (serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, lock)
        return Issued(pem, key.private_bytes(*form))

    def _sign(
        self,
        subject: x509.Name,
        key: ec.EllipticCurvePrivateKey,
        names: tuple[x509.GeneralName, ...],
        *,
        ca: bool,
        days: tuple[float, float],
    ) -> x509.Certificate:
        now = datetime.now(UTC)
        builder = (
            x509.CertificateBuilder(subject_name=subject, issuer_name=self._name, public_key=key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now + days[0] * DAY)
            .not_valid_after(now + days[1] * DAY)
            .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
        )
        if names:
            builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
        return builder.sign(self._key, hashes.SHA256())


def _name(common_name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])


def server_files(folder: Path, authority: Authority) -> TlsFiles:
    """Write a server's certificate for loopback, its key, and the authority of its clients."""
    cert, key = authority.issue(dns("localhost"), address("127.0.0.1")).write(folder, "server")
    client_ca = folder / "client-ca.pem"
    client_ca.write_bytes(authority.pem)
    return TlsFiles(cert, key, client_ca)
