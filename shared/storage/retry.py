"""Retries of work that needs a store which may not be reachable yet."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final, TypeVar

from shared.errors import Conflict, MagFaceError, Unavailable
from shared.runtime import FailureLog

_PAUSE_S: Final = 0.5

_Result = TypeVar("_Result")


async def retry_until_available(name: str, attempt: Callable[[], Awaitable[_Result]]) -> _Result:
    """Await `attempt` until it succeeds; failures are logged as `FailureLog` does.

    Args:
        name: What is attempted, for the log.
        attempt: The work; a new awaitable for each call.

    Raises:
        MagFaceError: A refusal of `attempt`, that is one other than `Unavailable` and `Conflict`.
    """
    failures = FailureLog(name)
    while True:
        try:
            result = await attempt()
        except (Unavailable, Conflict) as error:
            failures.failed(error)
        except MagFaceError:
            raise
        except Exception as error:
            failures.failed(error)
        else:
            failures.succeeded()
            return result
        await asyncio.sleep(_PAUSE_S)
