"""Guard that ends a failed call with the gRPC status of its error."""

import logging
import secrets
import time
import traceback
from functools import partial

import grpc
from grpc_status.rpc_status import to_status

from shared.errors import CorruptData, MagFaceError, Unavailable
from shared.rpc.errors import error_to_status, has_status
from shared.rpc.server.interceptors import CallGuard, Context, Guard

logger = logging.getLogger(__name__)

_SERVER_FAULTS = (Unavailable, CorruptData)
# A call that waited so long for a store that does not answer would wait as long again, up to five
# times, if gRPC retried it. This tells gRPC not to.
_LONG_S = 2.0
_NO_RETRY = ("grpc-retry-pushback-ms", "-1")


def error_status(method: str) -> Guard:
    """Make the guard that ends a call of a method with the status of the error it raised.

    An exception that has no status ends the call as INTERNAL, with a reference under which its
    traceback is logged.
    """
    return partial(_ErrorStatus, method)


def log_fault(method: str, error: MagFaceError) -> None:
    """Log an error that is the server's fault, with the details that its caller does not get."""
    if isinstance(error, _SERVER_FAULTS):
        logger.warning("%s: %s: %s", method, type(error).__name__, error)


class _ErrorStatus(CallGuard):
    def __init__(self, method: str, context: Context) -> None:
        self._method = method
        self._context = context
        self._started = time.monotonic()

    async def ended(self, error: BaseException | None) -> None:
        if not isinstance(error, Exception) or isinstance(error, grpc.aio.AbortError):
            return
        _release_request(error)
        if isinstance(error, MagFaceError) and has_status(error):
            await self._end_known(error)
        else:
            await self._end_unexpected(error)

    async def _end_known(self, error: MagFaceError) -> None:
        log_fault(self._method, error)
        status = to_status(error_to_status(error))
        metadata = status.trailing_metadata
        if isinstance(error, Unavailable) and time.monotonic() - self._started > _LONG_S:
            metadata = (*metadata, _NO_RETRY)
        await self._context.abort(status.code, status.details, metadata)

    async def _end_unexpected(self, error: Exception) -> None:
        reference = secrets.token_hex(4)
        logger.error(
            "%s failed unexpectedly, reference %s", self._method, reference, exc_info=error
        )
        message = f"internal error, reference {reference}; see the log of the server"
        await self._context.abort(grpc.StatusCode.INTERNAL, message)


def _release_request(error: BaseException | None) -> None:
    """Clear the variables of the frames that an error passed, where the request is.

    gRPC refers to the error of an ended call from objects that the error refers to, so that the
    request with its pictures would stay in memory until the next garbage collection.
    """
    while error is not None:
        traceback.clear_frames(error.__traceback__)
        error = error.__context__
