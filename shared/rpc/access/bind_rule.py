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
    missing = []
    if settings.tls_certificate is None:
        missing.append("TLS (MAGFACE_TLS_CERTIFICATE and MAGFACE_TLS_KEY)")
    if settings.jwks is None:
        missing.append("keys for tokens (MAGFACE_JWKS)")
    if not missing:
        return
    lacks = f"this server has no {' and no '.join(missing)}"
    if is_loopback(settings.listen):
        logger.info("%s, so only this machine may reach it, at %s", lacks, settings.listen)
    elif settings.insecure:
        logger.warning(
            "%s, and MAGFACE_INSECURE lets whoever reaches %s call it", lacks, settings.listen
        )
    else:
        raise PreconditionFailed(
            f"MAGFACE_LISTEN is {settings.listen}, which other machines may reach, but {lacks}:"
            " set them, listen on 127.0.0.1, or set MAGFACE_INSECURE=true to serve everybody"
        )
