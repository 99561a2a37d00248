"""Whether a server may listen where other machines reach it."""

import logging

from shared.errors import PreconditionFailed
from shared.rpc.access.loopback import is_loopback
from shared.settings import ServerSettings

logger = logging.getLogger(__name__)


def check_listen_address(settings: ServerSettings) -> None:
    """Check that other machines reach a server only over TLS and with tokens.

    Raises:
        PreconditionFailed: If they would reach it otherwise, and the settings do not allow that.
    """
    lacks = _lacks(settings)
    if lacks and not settings.insecure and not is_loopback(settings.listen):
        raise PreconditionFailed(
            f"MAGFACE_LISTEN is {settings.listen}, which other machines may reach, but {lacks}:"
            " set them, listen on 127.0.0.1, or set MAGFACE_INSECURE=true to serve everybody"
        )


def log_openness(settings: ServerSettings) -> None:
    """Log who may call a server that lacks TLS or tokens."""
    lacks = _lacks(settings)
    if not lacks:
        return
    if is_loopback(settings.listen):
        logger.info("%s, so it listens on loopback only: %s", lacks, settings.listen)
    else:
        logger.warning(
            "%s, and MAGFACE_INSECURE lets whoever reaches %s call it", lacks, settings.listen
        )


def _lacks(settings: ServerSettings) -> str:
    missing = []
    if settings.tls_certificate is None:
        missing.append("TLS (MAGFACE_TLS_CERTIFICATE and MAGFACE_TLS_KEY)")
    if settings.jwks is None:
        missing.append("keys for tokens (MAGFACE_JWKS)")
    return f"this server has no {' and no '.join(missing)}" if missing else ""
