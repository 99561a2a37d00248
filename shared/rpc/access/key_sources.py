"""Public keys that tokens are checked with: a JWKS from a file or a URL."""

import asyncio
import logging
import ssl
import time
import urllib.error
import urllib.request
from http.client import HTTPException
from pathlib import Path
from typing import Final, NoReturn, Protocol

from joserfc.jwk import KeySet

from shared.errors import PreconditionFailed, Unavailable
from shared.key_sets import load_key_set
from shared.rpc.access.loopback import is_loopback
from shared.runtime import repeat
from shared.settings import ServerSettings
from shared.watched_files import WatchedFiles

_VARIABLE: Final = "MAGFACE_JWKS"
_TIMEOUT_S: Final = 5.0
_MOST_BYTES: Final = 2**20
# Pause between two readings because of a token with an unknown key.
_REST_S: Final = 5.0

logger = logging.getLogger(__name__)


class KeySource(Protocol):
    """Gives the keys that are valid now."""

    def current(self) -> KeySet:
        """Return the keys; the same object while they do not change.

        Raises:
            Unavailable: If no keys could be read so far.
        """
        ...

    async def refresh(self) -> None:
        """Read the keys again, because a token names one that is not known."""

    async def follow(self) -> None:
        """Keep the keys up to date until it is cancelled."""


def key_source(settings: ServerSettings) -> KeySource | None:
    """Open the keys that the settings name.

    Returns:
        None if they name none.

    Raises:
        PreconditionFailed: If the setting or the file cannot be used.
    """
    if settings.jwks is None:
        return None
    if "://" not in settings.jwks:
        return _FileKeys(Path(settings.jwks))
    return _RemoteKeys(settings.jwks, settings.jwks_refresh_s, settings.tls_ca)


class _FileKeys:
    def __init__(self, path: Path) -> None:
        self._files: WatchedFiles[KeySet] = WatchedFiles({_VARIABLE: path}, load_key_set)

    def current(self) -> KeySet:
        return self._files.current()

    async def refresh(self) -> None:
        """Do nothing: each use looks at the file."""

    async def follow(self) -> None:
        """Do nothing: each use looks at the file."""


class _RemoteKeys:
    def __init__(self, url: str, every_s: float, ca: Path | None) -> None:
        self._request = urllib.request.Request(_checked(url))  # noqa: S310
        self._every_s = every_s
        handler = urllib.request.HTTPSHandler(context=_tls_context(ca))
        self._opener = urllib.request.build_opener(handler, _NoRedirect())
        self._lock = asyncio.Lock()
        self._content = b""
        self._keys: KeySet | None = None
        self._read = float("-inf")

    def current(self) -> KeySet:
        if self._keys is None:
            raise Unavailable("the keys that tokens are checked with cannot be read")
        return self._keys

    async def refresh(self) -> None:
        asked = time.monotonic()
        async with self._lock:
            # Many calls may wait for one reading, and made-up keys must not cause many.
            if self._read < asked - _REST_S:
                await self._update()

    async def follow(self) -> NoReturn:
        await repeat("reading of the keys for tokens", self._update, every_s=self._every_s)

    async def _update(self) -> None:
        self._read = time.monotonic()
        try:
            content = await asyncio.to_thread(self._fetch)
            if content != self._content:
                self._keys, self._content = load_key_set([content]), content
                logger.info("%s: keys were read", _VARIABLE)
        except (OSError, ValueError, HTTPException) as error:
            logger.warning(
                "%s cannot be read (%s); keys that were read before stay in use", _VARIABLE, error
            )

    def _fetch(self) -> bytes:
        with self._opener.open(self._request, timeout=_TIMEOUT_S) as answer:
            content: bytes = answer.read(_MOST_BYTES + 1)
        if len(content) > _MOST_BYTES:
            raise ValueError("the answer is too long")
        return content


def _tls_context(ca: Path | None) -> ssl.SSLContext:
    """Trust the system's authorities and that of the services."""
    context = ssl.create_default_context()
    if ca is not None:
        try:
            context.load_verify_locations(ca)
        except OSError as error:
            raise PreconditionFailed(f"MAGFACE_TLS_CA: {ca} cannot be used ({error})") from None
    return context


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """Ends with an error where a server names another address, which might be without TLS."""

    def redirect_request(self, *_: object) -> None:
        return None


def _checked(url: str) -> str:
    scheme, _, rest = url.partition("://")
    host = rest.partition("/")[0]
    if scheme == "https" or (scheme == "http" and is_loopback(host)):
        return url
    raise PreconditionFailed(f"{_VARIABLE} must be a file or start with https://")
