"""Waiting for what other processes do."""

import asyncio
import inspect
from collections.abc import Awaitable, Callable


async def wait_for(condition: Callable[[], bool | Awaitable[bool]], timeout_s: float) -> None:
    """Return as soon as the condition holds; TimeoutError when it never does."""
    async with asyncio.timeout(timeout_s):
        while True:
            holds = condition()
            if await holds if inspect.isawaitable(holds) else holds:
                return
            await asyncio.sleep(0.05)
