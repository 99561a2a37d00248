"""gRPC channels with TLS where a CA is set, in plain text elsewhere, and with a token."""

import asyncio
from collections.abc import Sequence
from typing import Any, Final, Self, TypeAlias

import grpc

from shared.errors import PreconditionFailed
from shared.rpc.access.bearer import Bearer, bearer
from shared.rpc.access.certificates import channel_files, name_in
from shared.rpc.access.loopback import is_loopback
from shared.runtime import end_task
from shared.settings import ClientSettings, TlsSettings

Options: TypeAlias = Sequence[tuple[str, Any]]

# Longer than the deadline of any call on a channel that is renewed.
_OLD_CALLS_S: Final = 120.0
_NAME_OVERRIDE: Final = "grpc.ssl_target_name_override"


class RenewedChannel:
    """An asyncio channel that is opened again after the files of its certificates have changed.

    gRPC keeps the certificates that a channel was opened with, so that an open channel could not
    connect again once they have expired. Calls on the old channel end as they would have.

    As a context manager it closes the channel at the end of the block.

    Args:
        address: As for `aio_channel`.
        access: As for `aio_channel`.
        options: Of gRPC.

    Raises:
        PreconditionFailed: If the files of the certificates cannot be used.
    """

    def __init__(self, address: str, access: ClientSettings | None, options: Options = ()) -> None:
        self._address = address
        self._options = options
        self._access = access
        self._files = channel_files(access) if access else None
        self._credentials = self._files.current() if self._files else None
        self._channel = aio_channel(address, access, options)
        self._closing: set[asyncio.Task[None]] = set()

    def current(self) -> grpc.aio.Channel:
        """Return the channel for the next call."""
        credentials = self._files.current() if self._files else None
        if credentials is not self._credentials:
            closing = asyncio.create_task(self._channel.close(_OLD_CALLS_S))
            self._closing.add(closing)
            closing.add_done_callback(self._closing.discard)
            self._credentials = credentials
            self._channel = aio_channel(self._address, self._access, self._options)
        return self._channel

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        for closing in list(self._closing):
            await end_task(closing)
        await self._channel.close()


def aio_channel(
    address: str, access: ClientSettings | None, options: Options = ()
) -> grpc.aio.Channel:
    """Open an asyncio channel.

    Args:
        address: Any gRPC target. The certificates of a target with several addresses must be
            valid for the first of them.
        access: The channel uses TLS if this has a CA, and its calls carry the token if it has one.
        options: Of gRPC.

    Raises:
        PreconditionFailed: If the files cannot be used, or the token would be sent to another
            machine in plain text.
    """
    credentials, token = _credentials(address, access)
    if credentials is not None:
        return grpc.aio.secure_channel(address, credentials, [*_expected_name(address), *options])
    interceptors = token.interceptors() if token else None
    return grpc.aio.insecure_channel(address, options=options, interceptors=interceptors)


def sync_channel(
    address: str, access: ClientSettings | None, options: Options = ()
) -> grpc.Channel:
    """Open a blocking channel as `aio_channel` does."""
    credentials, token = _credentials(address, access)
    if credentials is not None:
        return grpc.secure_channel(address, credentials, [*_expected_name(address), *options])
    channel = grpc.insecure_channel(address, options=options)
    return token.intercept(channel) if token else channel


def channel_to_self(address: str, tls: TlsSettings | None) -> grpc.Channel:
    """Open a blocking channel to a server with the settings of this process.

    It trusts the certificate of `tls` alone, whatever name that is for, so that it works with the
    loopback address.
    """
    if tls is None or tls.tls_certificate is None:
        return grpc.insecure_channel(address)
    own = ClientSettings.model_construct(
        tls_ca=tls.tls_certificate, tls_certificate=tls.tls_certificate, tls_key=tls.tls_key
    )
    try:
        name = name_in(tls.tls_certificate.read_bytes())
    except (OSError, ValueError):
        raise PreconditionFailed(
            f"MAGFACE_TLS_CERTIFICATE: {tls.tls_certificate} cannot be read"
        ) from None
    return sync_channel(address, own, [(_NAME_OVERRIDE, name)] if name else [])


def _credentials(
    address: str, access: ClientSettings | None
) -> tuple[grpc.ChannelCredentials | None, Bearer | None]:
    """Make the credentials, which carry the token; without TLS return the token beside them."""
    if access is None:
        return None, None
    files, token = channel_files(access), bearer(access)
    if files is not None:
        credentials = files.current()
        if token is not None:
            credentials = grpc.composite_channel_credentials(credentials, token.call_credentials())
        return credentials, None
    if token is not None and not is_loopback(address):
        raise PreconditionFailed(
            f"the token is not sent to {address} in plain text: set MAGFACE_TLS_CA"
        )
    return None, token


def _expected_name(address: str) -> Options:
    """Name the first of several addresses, which gRPC would compare as one name."""
    scheme, _, addresses = address.partition(":")
    if scheme not in ("ipv4", "ipv6") or "," not in addresses:
        return []
    host = addresses.split(",")[0].rpartition(":")[0]
    return [("grpc.default_authority", host)]
