"""The one map between the domain's errors and gRPC status, in both directions."""

import logging
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import grpc
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import DecodeError
from google.rpc.error_details_pb2 import BadRequest, RetryInfo
from google.rpc.status_pb2 import Status
from grpc_status.rpc_status import to_status

from shared.errors import (
    AlreadyExists,
    Conflict,
    CorruptData,
    InvalidInput,
    MagFaceError,
    NotFound,
    Overloaded,
    PreconditionFailed,
    Unavailable,
)
from shared.rpc.server.interceptors import CallGuard, Context, Guard

logger = logging.getLogger(__name__)

_CODES: dict[type[MagFaceError], grpc.StatusCode] = {
    InvalidInput: grpc.StatusCode.INVALID_ARGUMENT,
    NotFound: grpc.StatusCode.NOT_FOUND,
    AlreadyExists: grpc.StatusCode.ALREADY_EXISTS,
    PreconditionFailed: grpc.StatusCode.FAILED_PRECONDITION,
    Conflict: grpc.StatusCode.ABORTED,
    Overloaded: grpc.StatusCode.RESOURCE_EXHAUSTED,
    Unavailable: grpc.StatusCode.UNAVAILABLE,
    CorruptData: grpc.StatusCode.DATA_LOSS,
}
_SERVER_FAULTS = (Unavailable, CorruptData)
_DETAILS_KEY = "grpc-status-details-bin"
# A status travels in HTTP/2 headers, of which peers accept 8 KiB in all; it goes there
# twice, percent-encoded and base64.
_MESSAGE_LIMIT = 1000


def error_status(method: str) -> Guard:
    """Guard a method: end a call whose handler raised with the status that the error stands for.

    A field's name and fault travel as ``google.rpc.BadRequest``, a retry delay as
    ``google.rpc.RetryInfo``. An unforeseen exception becomes INTERNAL with a reference
    under which its traceback is logged.
    """
    return partial(_StatusOfErrors, method)


class _StatusOfErrors(CallGuard):
    def __init__(self, method: str, context: Context) -> None:
        self._method = method
        self._context = context

    async def ended(self, error: BaseException | None) -> None:
        if not isinstance(error, Exception) or isinstance(error, grpc.aio.AbortError):
            return
        if isinstance(error, MagFaceError) and isinstance(error, tuple(_CODES)):
            await self._end_known(error)
        else:
            await self._end_unforeseen(error)

    async def _end_known(self, error: MagFaceError) -> None:
        if isinstance(error, _SERVER_FAULTS):
            logger.warning("%s: %s: %s", self._method, type(error).__name__, error)
        await _abort(self._context, _status(error))

    async def _end_unforeseen(self, error: Exception) -> None:
        reference = secrets.token_hex(4)
        logger.error(
            "%s failed unexpectedly, reference %s", self._method, reference, exc_info=error
        )
        message = f"internal error, reference {reference}; the server's log says more"
        await self._context.abort(grpc.StatusCode.INTERNAL, message)


async def _abort(context: Context, status: Status) -> None:
    packed = to_status(status)
    await context.abort(packed.code, packed.details, packed.trailing_metadata)


def status_code(error: MagFaceError) -> grpc.StatusCode:
    """Say with which status a call ends that raises an error of the domain."""
    return next(code for kind, code in _CODES.items() if isinstance(error, kind))


def _status(error: MagFaceError) -> Status:
    status = Status(code=status_code(error).value[0], message=_short(str(error)))
    detail = _detail(error)
    if detail is not None:
        status.details.add().Pack(detail)
    return status


def _detail(error: MagFaceError) -> Any:
    if isinstance(error, InvalidInput):
        violation = BadRequest.FieldViolation(field=error.field, description=_short(error.reason))
        return BadRequest(field_violations=[violation])
    if isinstance(error, Overloaded):
        delay = Duration()
        delay.FromNanoseconds(int(error.retry_after_s * 1e9))
        return RetryInfo(retry_delay=delay)
    return None


def _short(text: str) -> str:
    encoded = text.encode()
    if len(encoded) <= _MESSAGE_LIMIT:
        return text
    return encoded[:_MESSAGE_LIMIT].decode(errors="ignore") + " …"


@contextmanager
def domain_errors() -> Iterator[None]:
    """Turn what a call to a service raises in the block back into the domain's errors.

    For sync and async calls alike. Besides the map above: DEADLINE_EXCEEDED becomes
    Unavailable, a message above the size limit InvalidInput, and any other failure a plain
    MagFaceError. CANCELLED is left as it is.
    """
    try:
        yield
    except grpc.RpcError as error:
        if _code(error) is grpc.StatusCode.CANCELLED:
            raise
        raise from_rpc_error(error) from error


def from_rpc_error(error: grpc.RpcError) -> MagFaceError:
    """Translate a failed call's status into the domain error it was made from."""
    code, text = _code(error), str(getattr(error, "details", lambda: "")() or "")
    if code is grpc.StatusCode.INVALID_ARGUMENT:
        return _invalid_input(error, text)
    if code is grpc.StatusCode.RESOURCE_EXHAUSTED:
        return _exhausted(error, text)
    if code is grpc.StatusCode.DEADLINE_EXCEEDED:
        return Unavailable(f"no answer before the deadline: {text}")
    kinds = {code: kind for kind, code in _CODES.items()}
    if code in kinds:
        return kinds[code](text)
    return MagFaceError(f"{code.name if code else 'failed'}: {text}")


def _invalid_input(error: grpc.RpcError, text: str) -> InvalidInput:
    for violation in _find(error, BadRequest()).field_violations:
        return InvalidInput(violation.field, violation.description)
    return InvalidInput("request", text)


def _exhausted(error: grpc.RpcError, text: str) -> MagFaceError:
    retry = _find(error, RetryInfo())
    if retry.HasField("retry_delay"):
        return Overloaded(text, retry.retry_delay.ToNanoseconds() / 1e9)
    # Without a delay it is gRPC's own refusal of a message that is too large.
    return InvalidInput("request", text)


def _find(error: grpc.RpcError, wanted: Any) -> Any:
    """Unpack the detail of the wanted type; empty if the status carries none."""
    for key, value in getattr(error, "trailing_metadata", tuple)() or ():
        if key == _DETAILS_KEY:
            for detail in _details(value):
                if detail.Unpack(wanted):
                    return wanted
    return wanted


def _details(packed: bytes) -> list[AnyMessage]:
    try:
        return list(Status.FromString(packed).details)
    except DecodeError:
        return []


def _code(error: grpc.RpcError) -> grpc.StatusCode | None:
    code = getattr(error, "code", lambda: None)()
    return code if isinstance(code, grpc.StatusCode) else None
