"""Background loops and retry delays."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import NoReturn

from shared.errors import MagFaceError

logger = logging.getLogger(__name__)


async def repeat(name: str, step: Callable[[], Awaitable[object]], every_s: float) -> NoReturn:
    """Await `step` repeatedly until cancelled; an exception of `step` does not end the loop.

    Of consecutive failures of the same type only the first is logged: a domain error with its
    message, any other exception with its traceback. The next success is logged too.

    Args:
        name: What the step does, for the log, e.g. ``"sweep of orphaned objects"``.
        step: One pass of the work; a new awaitable for each call.
        every_s: Pause after each pass, in seconds.
    """
    failing: type[Exception] | None = None
    while True:
        try:
            await step()
        except Exception as error:
            if failing is not type(error):
                _log_failure(name, error)
            failing = type(error)
        else:
            if failing is not None:
                logger.info("%s succeeded again", name)
            failing = None
        await asyncio.sleep(every_s)


def _log_failure(name: str, error: Exception) -> None:
    if isinstance(error, MagFaceError):
        logger.warning("%s failed, retrying: %s", name, error)
    else:
        logger.error("%s failed unexpectedly, retrying", name, exc_info=error)


def backoff_s(failures: int, *, first_s: float, last_s: float) -> float:
    """Return the pause before the next attempt: it doubles with each failure, up to a limit.

    Args:
        failures: Consecutive failures so far, at least 1.
        first_s: Pause after the first failure, in seconds.
        last_s: Longest pause, in seconds.
    """
    return float(min(first_s * 2.0 ** min(failures - 1, 60), last_s))
