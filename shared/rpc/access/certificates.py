"""TLS credentials of servers and channels, from PEM files."""

from collections.abc import Callable, Sequence
from pathlib import Path

import grpc
from cryptography import x509
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from shared.errors import PreconditionFailed
from shared.settings import ServerSettings, TlsSettings
from shared.watched_files import WatchedFiles

_CERTIFICATE = "MAGFACE_TLS_CERTIFICATE"
_KEY = "MAGFACE_TLS_KEY"
_CA = "MAGFACE_TLS_CA"
_CLIENT_CA = "MAGFACE_TLS_CLIENT_CA"


def server_credentials(settings: ServerSettings) -> grpc.ServerCredentials | None:
    """Make the credentials of a server, which follow their files.

    Each new connection gets the certificate, and is held to the client CA, that the files have
    then. Connections that exist go on.

    Returns:
        None if no certificate is set.

    Raises:
        PreconditionFailed: If the files cannot be used.
    """
    paths = _own_paths(settings)
    if settings.tls_client_ca is not None:
        if not paths:
            raise PreconditionFailed(f"{_CLIENT_CA} needs {_CERTIFICATE} and {_KEY}")
        paths[_CLIENT_CA] = settings.tls_client_ca
    if not paths:
        return None
    files = WatchedFiles(paths, _server_configuration)
    return grpc.dynamic_ssl_server_credentials(
        files.current(),
        # The stubs do not know that the function may return None.
        _changes(files),  # type: ignore[arg-type]
        require_client_authentication=settings.tls_client_ca is not None,
    )


def channel_files(tls: TlsSettings) -> WatchedFiles[grpc.ChannelCredentials] | None:
    """Watch the files of a client's credentials: the CA, and its own certificate if it is set.

    Returns:
        None if no CA is set: the client then uses no TLS.

    Raises:
        PreconditionFailed: If the files cannot be used.
    """
    if tls.tls_ca is None:
        return None
    return WatchedFiles({_CA: tls.tls_ca, **_own_paths(tls)}, _channel_credentials)


def name_in(certificate: bytes) -> str:
    """Give a host name or address that a certificate is valid for; empty if it has none.

    Args:
        certificate: In PEM, the server's first.
    """
    extensions = x509.load_pem_x509_certificate(certificate).extensions
    try:
        names = extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return ""
    hosts = names.get_values_for_type(x509.DNSName)
    addresses = map(str, names.get_values_for_type(x509.IPAddress))
    return next(iter([*hosts, *addresses]), "")


def _own_paths(tls: TlsSettings) -> dict[str, Path]:
    if tls.tls_certificate is None and tls.tls_key is None:
        return {}
    if tls.tls_certificate is None or tls.tls_key is None:
        raise PreconditionFailed(f"{_CERTIFICATE} and {_KEY} must be set together")
    return {_CERTIFICATE: tls.tls_certificate, _KEY: tls.tls_key}


def _changes(
    files: WatchedFiles[grpc.ServerCertificateConfiguration],
) -> Callable[[], grpc.ServerCertificateConfiguration | None]:
    """Make the function that gRPC asks before each handshake; None means unchanged."""
    used: list[grpc.ServerCertificateConfiguration] = [files.current()]

    def changed() -> grpc.ServerCertificateConfiguration | None:
        latest = files.current()
        if latest is used[0]:
            return None
        used[0] = latest
        return latest

    return changed


def _server_configuration(contents: Sequence[bytes]) -> grpc.ServerCertificateConfiguration:
    certificate, key, *client_ca = contents
    _check_pair(certificate, key)
    for authorities in client_ca:
        _check_certificates(authorities)
    return grpc.ssl_server_certificate_configuration(
        [(key, certificate)], root_certificates=client_ca[0] if client_ca else None
    )


def _channel_credentials(contents: Sequence[bytes]) -> grpc.ChannelCredentials:
    ca, *own = contents
    _check_certificates(ca)
    if not own:
        return grpc.ssl_channel_credentials(ca)
    certificate, key = own
    _check_pair(certificate, key)
    return grpc.ssl_channel_credentials(ca, private_key=key, certificate_chain=certificate)


def _check_pair(certificate: bytes, key: bytes) -> None:
    leaf = _check_certificates(certificate)
    try:
        private = load_pem_private_key(key, password=None)
    except (ValueError, TypeError):
        raise ValueError("the key is not a private key in PEM without a password") from None
    if private.public_key() != leaf.public_key():
        raise ValueError("the key does not belong to the certificate")


def _check_certificates(pem: bytes) -> x509.Certificate:
    try:
        return x509.load_pem_x509_certificates(pem)[0]
    except ValueError:
        raise ValueError("a file has no valid certificate in PEM") from None
