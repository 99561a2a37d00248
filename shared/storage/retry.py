"""Patience with stores that are not there yet."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Final, TypeVar

from shared.errors import Conflict, Unavailable

logger = logging.getLogger(__name__)

_RETRY_S: Final = 0.5

_Result = TypeVar("_Result")


async def retry_until_available(attempt: Callable[[], Awaitable[_Result]]) -> _Result:
    """Try until a store can be reached and no other writer is in the way.

    Raises:
        Exception: Whatever `attempt` raises but `Unavailable` and `Conflict`.
    """
    while True:
        try:
            return await attempt()
        except (Unavailable, Conflict) as error:
            logger.warning("not done yet, trying again: %s", error)
            await asyncio.sleep(_RETRY_S)
