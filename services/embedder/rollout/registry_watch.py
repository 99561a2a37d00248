"""Looks at objects of the registry again and again."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import TypeVar

_log = logging.getLogger(__name__)
_T = TypeVar("_T")


async def follow(
    name: str, read: Callable[[], _T], look: Callable[[_T], Awaitable[None]], interval_s: float
) -> None:
    """Follow one object until cancelled. While it cannot be read nothing happens.

    Args:
        name: What it is, for the log.
        read: Reads it. Blocks.
        look: Is given what was read, each time.
        interval_s: Seconds between two looks.
    """
    following = True
    while True:
        try:
            await look(await asyncio.to_thread(read))
            following = True
        except Exception as error:
            if following:
                _log.warning("the registry's %s cannot be followed, trying on: %s", name, error)
            following = False
        await asyncio.sleep(interval_s)


class Forgetting:
    """Lets go of what was derived from faces when the erasure mark is another.

    Args:
        forget: What to call then.
    """

    def __init__(self, *forget: Callable[[], None]) -> None:
        self._forget = forget
        self._seen: int | None = None

    async def look(self, generation: int) -> None:
        """Compare the mark with the one seen before; at the first look nothing may be left."""
        if generation != self._seen:
            for forget in self._forget:
                forget()
            self._seen = generation
