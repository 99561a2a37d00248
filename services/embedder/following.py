"""Looks at an object of the registry again and again, and acts on what changed."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import TypeVar

_log = logging.getLogger(__name__)
_T = TypeVar("_T")


async def follow(
    name: str,
    read: Callable[[], _T],
    changed: Callable[[_T], Awaitable[None]],
    interval_s: float,
) -> None:
    """Follow one object until cancelled. While it cannot be read nothing changes.

    Args:
        name: What it is, for the log.
        read: Reads it. Blocks.
        changed: Told what was read first, and each time that it is another.
        interval_s: Seconds between two looks.
    """
    last: list[_T] = []
    readable = True
    while True:
        try:
            value = await asyncio.to_thread(read)
            if [value] != last:
                await changed(value)
                last = [value]
            readable = True
        except Exception as error:
            if readable:
                _log.warning("%s cannot be followed, it will be tried again: %s", name, error)
            readable = False
        await asyncio.sleep(interval_s)
