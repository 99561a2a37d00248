"""The log of a process, background loops, their end, and retry delays."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any, NoReturn

from shared.errors import MagFaceError, with_details

logger = logging.getLogger(__name__)


def start_log(level: int | str, line_format: str) -> None:
    """Send the log of this process to stderr.

    A domain error that is an argument of a log call is shown with its details, which its message
    keeps from callers.

    Args:
        level: The lowest level that is logged.
        line_format: As in `logging.Formatter`.
    """
    handler = logging.StreamHandler()
    handler.addFilter(_show_details)
    logging.basicConfig(level=level, format=line_format, handlers=[handler])


def _show_details(record: logging.LogRecord) -> bool:
    if isinstance(record.args, tuple):
        record.args = tuple(
            with_details(each) if isinstance(each, MagFaceError) else each for each in record.args
        )
    return True


async def repeat(name: str, step: Callable[[], Awaitable[object]], every_s: float) -> NoReturn:
    """Await `step` repeatedly until cancelled; an exception of `step` does not end the loop.

    Failures are logged as `FailureLog` does.

    Args:
        name: What the step does, for the log, e.g. ``"sweep of orphaned objects"``.
        step: One pass of the work; a new awaitable for each call.
        every_s: Pause after each pass, in seconds.
    """
    failures = FailureLog(name)
    while True:
        try:
            await step()
        except Exception as error:
            failures.failed(error)
        else:
            failures.succeeded()
        await asyncio.sleep(every_s)


async def end_task(task: asyncio.Task[Any]) -> None:
    """Cancel a background task and wait for its end; raises what the task itself has raised."""
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task


class FailureLog:
    """Logs the first of consecutive failures of the same type, and the next success.

    A domain error is logged with its message, any other exception with its traceback.

    Args:
        name: What is attempted, for the log.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._failing: type[Exception] | None = None

    def failed(self, error: Exception) -> None:
        """Note a failure; the attempt is repeated."""
        if self._failing is type(error):
            return
        self._failing = type(error)
        if isinstance(error, MagFaceError):
            logger.warning("%s failed, retrying: %s", self._name, error)
        else:
            logger.error("%s failed unexpectedly, retrying", self._name, exc_info=error)

    def succeeded(self) -> None:
        """Note a success."""
        if self._failing is not None:
            logger.info("%s succeeded again", self._name)
        self._failing = None


def backoff_s(failures: int, *, first_s: float, last_s: float) -> float:
    """Return the pause before the next attempt: it doubles with each failure, up to a limit.

    Args:
        failures: Consecutive failures so far, at least 1.
        first_s: Pause after the first failure, in seconds.
        last_s: Longest pause, in seconds.
    """
    return float(min(first_s * 2.0 ** min(failures - 1, 60), last_s))
