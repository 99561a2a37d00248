"""Retries of work that needs a store which may not be reachable yet."""

import asyncio
from collections.abc import Awaitable, Callable
from itertools import count
from typing import Final, TypeVar

from shared.errors import (
    AccessRefused,
    Conflict,
    MagFaceError,
    PreconditionFailed,
    Unavailable,
    details_of,
)
from shared.runtime import FailureLog, backoff_s

_FIRST_PAUSE_S: Final = 0.5
_LAST_PAUSE_S: Final = 5.0

_Result = TypeVar("_Result")


async def retry_until_available(name: str, attempt: Callable[[], Awaitable[_Result]]) -> _Result:
    """Await `attempt` until it succeeds; failures are logged as `FailureLog` does.

    The pauses between attempts double, from 0.5 to 5 seconds.

    Args:
        name: What is attempted, for the log.
        attempt: The work; a new awaitable for each call.

    Raises:
        MagFaceError: A refusal of `attempt`, that is one other than `Unavailable` and `Conflict`.
        PreconditionFailed: If a store refuses the credentials.
    """
    failures = FailureLog(name)
    for failed in count(1):
        try:
            result = await attempt()
        except AccessRefused as error:
            raise PreconditionFailed(str(error), detail=details_of(error)) from None
        except (Unavailable, Conflict) as error:
            failures.failed(error)
        except MagFaceError:
            raise
        except Exception as error:
            failures.failed(error)
        else:
            failures.succeeded()
            return result
        await asyncio.sleep(backoff_s(failed, first_s=_FIRST_PAUSE_S, last_s=_LAST_PAUSE_S))
    raise AssertionError("unreachable")
