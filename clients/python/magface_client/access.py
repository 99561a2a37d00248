"""What a client shows to the services: certificates and a token."""

import logging
import os
import ssl
import string
from collections.abc import Mapping
from dataclasses import dataclass, field
from ipaddress import ip_address
from pathlib import Path
from threading import Lock
from typing import Final, Self, TypeAlias

import grpc

from magface_client.errors import ConfigurationError

_TOKEN_CHARACTERS: Final = frozenset(string.ascii_letters + string.digits + "-_.~+/=")
_SCHEMES: Final = ("dns:", "ipv4:", "ipv6:")

_Stamp: TypeAlias = tuple[tuple[int, int, int], ...]

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Access:
    """How a client calls: over TLS if it has a CA, and with a token if it has one.

    Files are read again when they change. Without a CA calls are in plain text, and a token is
    sent to this machine only.

    Attributes:
        tls_ca: PEM file with the authorities that the servers must be signed by.
        tls_certificate: PEM file with the client's own certificate, for mutual TLS.
        tls_key: PEM file with its private key, without a password.
        token: A JWT, see docs/access.md.
        token_file: File with the token instead.
    """

    tls_ca: str | os.PathLike[str] | None = None
    tls_certificate: str | os.PathLike[str] | None = None
    tls_key: str | os.PathLike[str] | None = None
    token: str | None = field(default=None, repr=False)
    token_file: str | os.PathLike[str] | None = None

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] = os.environ) -> Self:
        """Read ``MAGFACE_TLS_CA``, ``MAGFACE_TLS_CERTIFICATE``, ``MAGFACE_TLS_KEY``,
        ``MAGFACE_TOKEN`` and ``MAGFACE_TOKEN_FILE``; an empty one counts as unset.
        """  # noqa: D205
        return cls(
            tls_ca=environment.get("MAGFACE_TLS_CA") or None,
            tls_certificate=environment.get("MAGFACE_TLS_CERTIFICATE") or None,
            tls_key=environment.get("MAGFACE_TLS_KEY") or None,
            token=environment.get("MAGFACE_TOKEN") or None,
            token_file=environment.get("MAGFACE_TOKEN_FILE") or None,
        )


class AccessFiles:
    """Credentials and token of an access, as its files are now. May be used by any thread.

    While changed files cannot be used, because only one of them has been replaced so far, the
    last ones that could be stay in use, and the log says why.

    Raises:
        ConfigurationError: If the files cannot be used at the start, or do not go together.
    """

    def __init__(self, access: Access) -> None:
        if (access.tls_certificate is None) != (access.tls_key is None):
            raise ConfigurationError("tls_certificate and tls_key must be set together")
        if access.tls_certificate is not None and access.tls_ca is None:
            raise ConfigurationError("tls_certificate needs tls_ca")
        if access.token is not None and access.token_file is not None:
            raise ConfigurationError("token and token_file: set one of them")
        self._access = access
        self._lock = Lock()
        self._complaint = ""
        self._seen: _Stamp = ()
        self._credentials: grpc.ChannelCredentials | None = None
        self._token = _checked_token("token", access.token) if access.token is not None else None
        self._read()

    @property
    def has_token(self) -> bool:
        """Whether calls carry a token."""
        return self._token is not None

    def current(self) -> tuple[grpc.ChannelCredentials | None, str | None]:
        """Return the credentials, the same object while nothing changes, and the token."""
        with self._lock:
            try:
                self._read()
                self._complaint = ""
            except ConfigurationError as error:
                if str(error) != self._complaint:
                    logger.warning("%s; what was read before stays in use", error)
                self._complaint = str(error)
            return self._credentials, self._token

    def _read(self) -> None:
        named = {
            name: Path(path)
            for name in ("tls_ca", "tls_certificate", "tls_key", "token_file")
            if (path := getattr(self._access, name)) is not None
        }
        stamp = tuple(_identity(name, path) for name, path in named.items())
        if stamp == self._seen:
            return
        contents = {name: _content(name, path) for name, path in named.items()}
        token_file = contents.pop("token_file", None)
        token = self._token
        if token_file is not None:
            token = _checked_token("token_file", token_file.decode("ascii", "replace"))
        credentials = self._credentials
        if contents:
            _check_certificates(named)
            # The old object stays if the token alone has changed.
            if credentials is None or stamp[: len(contents)] != self._seen[: len(contents)]:
                credentials = grpc.ssl_channel_credentials(
                    contents["tls_ca"], contents.get("tls_key"), contents.get("tls_certificate")
                )
        self._seen, self._token, self._credentials = stamp, token, credentials


def check_plain_text(address: str, files: AccessFiles) -> None:
    """Refuse to show a token to another machine in plain text.

    Raises:
        ConfigurationError: If it would be.
    """
    credentials, _ = files.current()
    if files.has_token and credentials is None and not is_this_machine(address):
        raise ConfigurationError(
            f"the token is not sent to {address} in plain text: set tls_ca (MAGFACE_TLS_CA)"
        )


def is_this_machine(address: str) -> bool:
    """Say whether an address is a loopback address.

    Args:
        address: ``host:port``, or a gRPC target with one or several addresses. A name other than
            localhost is not looked up and counts as another machine.
    """
    if address.startswith("unix:"):
        return True
    scheme = next((one for one in _SCHEMES if address.startswith(one)), "")
    places = address.removeprefix(scheme).rpartition("/")[2].split(",")
    return all(_is_loopback(place.rpartition(":")[0] or place) for place in places)


def _is_loopback(host: str) -> bool:
    try:
        return host == "localhost" or ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def _checked_token(name: str, text: str) -> str:
    token = text.strip()
    if not token or not _TOKEN_CHARACTERS.issuperset(token):
        raise ConfigurationError(f"{name}: it is not a token; `magface token issue` prints one")
    return token


def _check_certificates(paths: Mapping[str, Path]) -> None:
    """Check that the files are certificates, and that key and certificate belong together.

    gRPC itself would say so only as a failed handshake.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    try:
        context.load_verify_locations(cafile=paths["tls_ca"])
    except (ssl.SSLError, OSError):
        raise ConfigurationError(
            f"tls_ca: {paths['tls_ca']} has no valid certificate in PEM"
        ) from None
    if "tls_key" in paths:
        try:
            # An empty password keeps OpenSSL from asking for one at the terminal.
            context.load_cert_chain(paths["tls_certificate"], paths["tls_key"], password="")
        except (ssl.SSLError, OSError):
            raise ConfigurationError(
                f"tls_certificate, tls_key: {paths['tls_certificate']} and {paths['tls_key']} are "
                "not a certificate and its private key in PEM without a password"
            ) from None


def _identity(name: str, path: Path) -> tuple[int, int, int]:
    try:
        status = path.stat()
    except OSError as error:
        raise _unreadable(name, path, error) from None
    return status.st_mtime_ns, status.st_size, status.st_ino


def _content(name: str, path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise _unreadable(name, path, error) from None


def _unreadable(name: str, path: Path, error: OSError) -> ConfigurationError:
    return ConfigurationError(f"{name}: {path} cannot be read ({error.strerror})")
