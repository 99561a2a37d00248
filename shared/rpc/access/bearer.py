"""The token that a client shows with each call."""

import string
from collections.abc import Callable, Sequence
from typing import Any, Final, TypeAlias

import grpc

from shared.errors import PreconditionFailed
from shared.settings import ClientSettings
from shared.watched_files import WatchedFiles

_ALLOWED: Final = frozenset(string.ascii_letters + string.digits + "-_.~+/=")
_KEY: Final = "authorization"

_Metadata: TypeAlias = Callable[[], tuple[str, str]]


class Bearer:
    """The token of this process, from a setting or from a file that is read when it changes.

    Args:
        settings: They name a token.

    Raises:
        PreconditionFailed: If the token cannot be used, or two are named.
    """

    def __init__(self, settings: ClientSettings) -> None:
        if settings.token is not None and settings.token_file is not None:
            raise PreconditionFailed("MAGFACE_TOKEN and MAGFACE_TOKEN_FILE: set one of them")
        self._file: WatchedFiles[str] | None = None
        self._token = ""
        if settings.token_file is not None:
            self._file = WatchedFiles({"MAGFACE_TOKEN_FILE": settings.token_file}, _read)
        elif settings.token is not None:
            try:
                self._token = _checked(settings.token.get_secret_value())
            except ValueError as error:
                raise PreconditionFailed(f"MAGFACE_TOKEN: {error}") from None

    def metadata(self) -> tuple[str, str]:
        """Return the metadata of the next call."""
        token = self._file.current() if self._file else self._token
        return _KEY, f"Bearer {token}"

    def call_credentials(self) -> grpc.CallCredentials:
        """Make credentials that show the token over TLS."""
        return grpc.metadata_call_credentials(_Plugin(self.metadata), "bearer")

    def interceptors(self) -> Sequence[grpc.aio.ClientInterceptor]:
        """Make interceptors that show the token on an asyncio channel without TLS."""
        kinds = (_UnaryUnary, _UnaryStream, _StreamUnary, _StreamStream)
        return [kind(self.metadata) for kind in kinds]

    def intercept(self, channel: grpc.Channel) -> grpc.Channel:
        """Show the token on a blocking channel without TLS."""
        return grpc.intercept_channel(channel, _Blocking(self.metadata))


def bearer(settings: ClientSettings) -> Bearer | None:
    """Read the token of this process; None if the settings name none."""
    named = settings.token is not None or settings.token_file is not None
    return Bearer(settings) if named else None


def _read(contents: Sequence[bytes]) -> str:
    return _checked(contents[0].decode("ascii", "replace"))


def _checked(text: str) -> str:
    token = text.strip()
    if not token or not _ALLOWED.issuperset(token):
        raise ValueError("it is not a token; `magface token issue` prints one")
    return token


class _Plugin(grpc.AuthMetadataPlugin):
    def __init__(self, metadata: _Metadata) -> None:
        self._metadata = metadata

    def __call__(self, _: grpc.AuthMetadataContext, callback: Any) -> None:
        callback((self._metadata(),), None)


class _Adding:
    """Adds the token to the metadata of each call."""

    def __init__(self, metadata: _Metadata) -> None:
        self._metadata = metadata

    async def _add(self, proceed: Any, details: Any, request: Any) -> Any:
        metadata = grpc.aio.Metadata(*(details.metadata or ()), self._metadata())
        return await proceed(details._replace(metadata=metadata), request)


class _UnaryUnary(_Adding, grpc.aio.UnaryUnaryClientInterceptor):
    async def intercept_unary_unary(self, proceed: Any, details: Any, request: Any) -> Any:
        return await self._add(proceed, details, request)


class _UnaryStream(_Adding, grpc.aio.UnaryStreamClientInterceptor):
    async def intercept_unary_stream(self, proceed: Any, details: Any, request: Any) -> Any:
        return await self._add(proceed, details, request)


class _StreamUnary(_Adding, grpc.aio.StreamUnaryClientInterceptor):
    async def intercept_stream_unary(self, proceed: Any, details: Any, requests: Any) -> Any:
        return await self._add(proceed, details, requests)


class _StreamStream(_Adding, grpc.aio.StreamStreamClientInterceptor):
    async def intercept_stream_stream(self, proceed: Any, details: Any, requests: Any) -> Any:
        return await self._add(proceed, details, requests)


class _Blocking(
    grpc.UnaryUnaryClientInterceptor,
    grpc.UnaryStreamClientInterceptor,
    grpc.StreamUnaryClientInterceptor,
    grpc.StreamStreamClientInterceptor,
):
    def __init__(self, metadata: _Metadata) -> None:
        self._metadata = metadata

    def _add(self, proceed: Any, details: Any, request: Any) -> Any:
        metadata = (*(details.metadata or ()), self._metadata())
        return proceed(details._replace(metadata=metadata), request)

    # All four are alike, but the stubs give each its own types.
    intercept_unary_unary = intercept_unary_stream = _add  # type: ignore[assignment]
    intercept_stream_unary = intercept_stream_stream = _add  # type: ignore[assignment]
