"""Retries of work that needs a store which may not be reachable yet."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Final, TypeVar

from shared.errors import Conflict, Unavailable

logger = logging.getLogger(__name__)

_PAUSE_S: Final = 0.5

_Result = TypeVar("_Result")


async def retry_until_available(attempt: Callable[[], Awaitable[_Result]]) -> _Result:
    """Await `attempt` until it raises neither `Unavailable` nor `Conflict`.

    Raises:
        Exception: Any other exception of `attempt`.
    """
    while True:
        try:
            return await attempt()
        except (Unavailable, Conflict) as error:
            logger.warning("not available yet, retrying in %g s: %s", _PAUSE_S, error)
            await asyncio.sleep(_PAUSE_S)
