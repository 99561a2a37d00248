"""Mapping between the domain's errors and gRPC status, in both directions."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import grpc
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import DecodeError
from google.rpc.error_details_pb2 import BadRequest, RetryInfo
from google.rpc.status_pb2 import Status

from shared.errors import (
    AlreadyExists,
    Conflict,
    CorruptData,
    InvalidInput,
    MagFaceError,
    NotFound,
    Overloaded,
    PermissionDenied,
    PreconditionFailed,
    TimedOut,
    Unauthenticated,
    Unavailable,
)

_CODES: dict[type[MagFaceError], grpc.StatusCode] = {
    InvalidInput: grpc.StatusCode.INVALID_ARGUMENT,
    Unauthenticated: grpc.StatusCode.UNAUTHENTICATED,
    PermissionDenied: grpc.StatusCode.PERMISSION_DENIED,
    NotFound: grpc.StatusCode.NOT_FOUND,
    AlreadyExists: grpc.StatusCode.ALREADY_EXISTS,
    PreconditionFailed: grpc.StatusCode.FAILED_PRECONDITION,
    Conflict: grpc.StatusCode.ABORTED,
    Overloaded: grpc.StatusCode.RESOURCE_EXHAUSTED,
    TimedOut: grpc.StatusCode.DEADLINE_EXCEEDED,
    Unavailable: grpc.StatusCode.UNAVAILABLE,
    CorruptData: grpc.StatusCode.DATA_LOSS,
}
_DETAILS_KEY = "grpc-status-details-bin"
# A status is sent in HTTP/2 headers, of which peers accept 8 KiB in all. The message is in them
# twice: percent-encoded and in base64.
_MESSAGE_LIMIT = 1000


def has_status(error: MagFaceError) -> bool:
    """Say whether a status other than INTERNAL stands for an error."""
    return isinstance(error, tuple(_CODES))


def status_code(error: MagFaceError) -> grpc.StatusCode:
    """Return the status code of an error for which `has_status` is true."""
    return next(code for kind, code in _CODES.items() if isinstance(error, kind))


def error_to_status(error: MagFaceError) -> Status:
    """Return the status of an error for which `has_status` is true.

    The details carry the name and fault of a field as ``google.rpc.BadRequest``, and a retry
    delay as ``google.rpc.RetryInfo``.
    """
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
    """Raise the domain's error in place of a grpc.RpcError that the block raises.

    Works for blocking and asyncio calls. In addition to the mapping, DEADLINE_EXCEEDED becomes
    Unavailable, a message above the size limit InvalidInput, and any other failure a
    MagFaceError. CANCELLED is raised unchanged.
    """
    try:
        yield
    except grpc.RpcError as error:
        if _code(error) is grpc.StatusCode.CANCELLED:
            raise
        raise from_rpc_error(error) from error


def from_rpc_error(error: grpc.RpcError) -> MagFaceError:
    """Return the domain's error for the status of a failed call."""
    code, text = _code(error), str(getattr(error, "details", lambda: "")() or "")
    if code in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED):
        return _unavailable(error, text)
    if code is grpc.StatusCode.INVALID_ARGUMENT:
        return _invalid_input(error, text)
    if code is grpc.StatusCode.RESOURCE_EXHAUSTED:
        return _exhausted(error, text)
    errors = {code: kind for kind, code in _CODES.items()}
    if code in errors:
        return errors[code](text)
    return MagFaceError(f"{code.name if code else 'failed'}: {text}")


def _unavailable(error: grpc.RpcError, text: str) -> Unavailable:
    late = _code(error) is grpc.StatusCode.DEADLINE_EXCEEDED
    what = "no answer before the deadline" if late else "the service cannot be reached"
    # gRPC's own text names the addresses that it has tried.
    return Unavailable(text) if _is_of_service(error) else Unavailable(what, detail=text)


def _invalid_input(error: grpc.RpcError, text: str) -> InvalidInput:
    for violation in _find(error, BadRequest()).field_violations:
        return InvalidInput(violation.field, violation.description)
    return InvalidInput("request", text)


def _exhausted(error: grpc.RpcError, text: str) -> MagFaceError:
    retry = _find(error, RetryInfo())
    if retry.HasField("retry_delay"):
        return Overloaded(text, retry.retry_delay.ToNanoseconds() / 1e9)
    # Without a delay the status comes from gRPC, which refused a message that is too large.
    return InvalidInput("request", f"{text}; the limit is the server's MAGFACE_MAX_MESSAGE_BYTES")


def _is_of_service(error: grpc.RpcError) -> bool:
    """Say whether the status comes from one of our services, not from gRPC."""
    return any(key == _DETAILS_KEY for key, _ in _metadata(error))


def _find(error: grpc.RpcError, wanted: Any) -> Any:
    """Unpack the detail of the wanted type; empty if the status has none."""
    for key, value in _metadata(error):
        if key == _DETAILS_KEY:
            for detail in _details(value):
                if detail.Unpack(wanted):
                    return wanted
    return wanted


def _metadata(error: grpc.RpcError) -> Iterable[tuple[str, Any]]:
    return getattr(error, "trailing_metadata", tuple)() or ()


def _details(packed: bytes) -> list[AnyMessage]:
    try:
        return list(Status.FromString(packed).details)
    except DecodeError:
        return []


def _code(error: grpc.RpcError) -> grpc.StatusCode | None:
    code = getattr(error, "code", lambda: None)()
    return code if isinstance(code, grpc.StatusCode) else None
