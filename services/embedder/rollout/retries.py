"""Versions that failed to load: the reason that is shown, and the pause before the next try."""

from typing import Final

from services.embedder.models.version_threads import Hanging
from shared.errors import MagFaceError
from shared.runtime import backoff_s

_FIRST_RETRY_S: Final = 1.0
_LAST_RETRY_S: Final = 60.0
_RETRY_HANGING_S: Final = 600.0


def describe_failure(error: Exception) -> str:
    """Describe for callers why a version failed; only the log has the text of other errors."""
    kind = type(error).__name__
    return f"{kind}: {error if isinstance(error, MagFaceError) else 'see the log of the embedder'}"


def retry_pause_s(error: Exception, failures: int) -> float:
    """Return the pause before the next attempt, in seconds.

    Args:
        error: Of the last attempt.
        failures: Consecutive failures so far, at least 1.
    """
    if isinstance(error, Hanging):
        # Each attempt keeps a processor busy until it is given up.
        return _RETRY_HANGING_S
    return backoff_s(failures, first_s=_FIRST_RETRY_S, last_s=_LAST_RETRY_S)
