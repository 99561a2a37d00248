"""Watches objects of the registry by polling."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import NoReturn, TypeVar

from shared.runtime import repeat

_T = TypeVar("_T")


async def watch(
    name: str, read: Callable[[], _T], update: Callable[[_T], Awaitable[None]], interval_s: float
) -> NoReturn:
    """Pass one object's value on again and again until cancelled.

    Args:
        name: Of the object, for the log.
        read: Reads it. Blocks. While it fails, `update` is not called.
        update: Takes the value at each reading, changed or not.
        interval_s: Seconds between two readings.
    """

    async def step() -> None:
        await update(await asyncio.to_thread(read))

    await repeat(f"reading of the registry's {name}", step, interval_s)


class ErasureWatcher:
    """Clears data derived from faces when the registry's erasure mark changes.

    Args:
        clear: Called at each change, and at the first reading.
    """

    def __init__(self, *clear: Callable[[], None]) -> None:
        self._clear = clear
        self._generation: int | None = None

    async def update(self, generation: int) -> None:
        """Compare the mark with the one seen before."""
        if generation != self._generation:
            for clear in self._clear:
                clear()
            self._generation = generation
