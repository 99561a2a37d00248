"""Certificates that are made for a test."""

from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
)
from cryptography.x509.oid import NameOID


class Authority:
    """A certificate authority."""

    def __init__(self, name: str = "test authority") -> None:
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._certificate = _build(name, self._key, self._key, name, is_ca=True)

    @property
    def pem(self) -> bytes:
        return self._certificate.public_bytes(Encoding.PEM)

    def issue(self, name: str = "service", *, days: float = 1) -> tuple[bytes, bytes]:
        """Make a certificate for loopback and ``name``; returns it and its key, both in PEM."""
        key = ec.generate_private_key(ec.SECP256R1())
        issuer = self._certificate.subject.rfc4514_string().removeprefix("CN=")
        certificate = _build(name, key, self._key, issuer, is_ca=False, days=days)
        return certificate.public_bytes(Encoding.PEM), key.private_bytes(
            Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()
        )


class Files:
    """The files of one process: its certificate and key, and the authority it trusts."""

    def __init__(self, folder: Path, authority: Authority) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.certificate = folder / "tls.crt"
        self.key = folder / "tls.key"
        self.ca = folder / "ca.crt"
        self.ca.write_bytes(authority.pem)
        self.replace(authority.issue(folder.name))

    def replace(self, pair: tuple[bytes, bytes]) -> None:
        """Write a certificate and its key, one after the other."""
        self.certificate.write_bytes(pair[0])
        self.key.write_bytes(pair[1])

    def own(self) -> dict[str, Path]:
        """Settings of a server."""
        return {"tls_certificate": self.certificate, "tls_key": self.key}

    def trusting(self) -> dict[str, Path]:
        """Settings of a client that needs no certificate of its own."""
        return {"tls_ca": self.ca}


def _build(
    name: str,
    key: ec.EllipticCurvePrivateKey,
    signer: ec.EllipticCurvePrivateKey,
    issuer: str,
    *,
    is_ca: bool,
    days: float = 1,
) -> x509.Certificate:
    now = datetime.now(UTC)
    hosts = [x509.DNSName(name), x509.DNSName("localhost"), x509.IPAddress(ip_address("127.0.0.1"))]
    builder = (
        x509.CertificateBuilder()
        .subject_name(_name(name))
        .issuer_name(_name(issuer))
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=2))
        .not_valid_after(now + timedelta(days=days))
        .add_extension(x509.BasicConstraints(ca=is_ca, path_length=None), critical=True)
    )
    if not is_ca:
        builder = builder.add_extension(x509.SubjectAlternativeName(hosts), critical=False)
    return builder.sign(signer, SHA256())


def _name(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
