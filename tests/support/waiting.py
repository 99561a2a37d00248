"""Polling for a condition, with a deadline that a busy machine meets too."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from inspect import isawaitable
from typing import Any, TypeVar

from shared.errors import Unavailable

_T = TypeVar("_T")

# A deadline only tells a hang from slowness; what a test promises about time it measures itself.
_DEADLINE_S = 60.0
_POLL_S = 0.01


def wait_until(
    condition: Callable[[], Any], timeout_s: float = _DEADLINE_S, *, what: str = ""
) -> None:
    """Returns as soon as the condition holds.

    Args:
        condition: Asked every 10 ms.
        timeout_s: Seconds to wait at most.
        what: Named in the error.

    Raises:
        TimeoutError: The condition did not come to hold in time.
    """
    deadline = time.monotonic() + timeout_s
    while not condition():
        _require_before(deadline, timeout_s, what)
        time.sleep(_POLL_S)


async def until(
    condition: Callable[[], Any | Awaitable[Any]],
    timeout_s: float = _DEADLINE_S,
    *,
    what: str = "",
) -> None:
    """The same for code on an event loop; the condition may be a coroutine function."""
    deadline = time.monotonic() + timeout_s
    while True:
        holds = condition()
        if await holds if isawaitable(holds) else holds:
            return
        _require_before(deadline, timeout_s, what)
        await asyncio.sleep(_POLL_S)


async def retry_while_unavailable(call: Callable[[], Awaitable[_T]]) -> _T:
    """Calls again and again until the answer is another than `Unavailable`, and gives it."""
    deadline = time.monotonic() + _DEADLINE_S
    while True:
        try:
            return await call()
        except Unavailable:
            if time.monotonic() > deadline:
                raise
        await asyncio.sleep(_POLL_S)


async def let_others_run(turns: int = 50) -> None:
    """Gives every task of the loop that can go on so many turns, in place of a fixed sleep."""
    for _ in range(turns):
        await asyncio.sleep(0)


def _require_before(deadline: float, timeout_s: float, what: str) -> None:
    if time.monotonic() > deadline:
        raise TimeoutError(f"waited {timeout_s:g} s in vain" + (f" for {what}" if what else ""))
