"""Polling for a condition, with a deadline that is long enough on a busy machine."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from inspect import isawaitable
from typing import Any, TypeVar

from shared.errors import Unavailable

_T = TypeVar("_T")

# The deadline only detects a hang. Tests about time measure it themselves.
_DEADLINE_S = 60.0
_POLL_S = 0.01


def wait_until(
    condition: Callable[[], Any], timeout_s: float = _DEADLINE_S, *, what: str = ""
) -> None:
    """Returns as soon as the condition holds.

    Args:
        condition: Called every 10 ms.
        timeout_s: Most seconds to wait.
        what: Description of the condition for the error.

    Raises:
        TimeoutError: The condition did not hold in time.
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
    """The same as `wait_until` on an event loop; the condition may be a coroutine function."""
    deadline = time.monotonic() + timeout_s
    while True:
        holds = condition()
        if await holds if isawaitable(holds) else holds:
            return
        _require_before(deadline, timeout_s, what)
        await asyncio.sleep(_POLL_S)


async def retry_while_unavailable(call: Callable[[], Awaitable[_T]]) -> _T:
    """Repeats a call while it raises `Unavailable`, and returns its result."""
    deadline = time.monotonic() + _DEADLINE_S
    while True:
        try:
            return await call()
        except Unavailable:
            if time.monotonic() > deadline:
                raise
        await asyncio.sleep(_POLL_S)


async def let_others_run(turns: int = 50) -> None:
    """Lets the loop run its ready tasks for so many turns; replaces a fixed sleep."""
    for _ in range(turns):
        await asyncio.sleep(0)


def _require_before(deadline: float, timeout_s: float, what: str) -> None:
    if time.monotonic() > deadline:
        raise TimeoutError(f"{what or 'the condition'}: not reached within {timeout_s:g} s")
