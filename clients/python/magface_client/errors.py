"""Errors of calls, and their translation from gRPC."""

from collections.abc import Sequence
from typing import Final, TypeVar

import grpc
from google.protobuf.message import DecodeError, Message
from google.rpc.error_details_pb2 import BadRequest, RetryInfo
from google.rpc.status_pb2 import Status

_DETAILS_KEY: Final = "grpc-status-details-bin"


class ClientError(Exception):
    """Base of all errors of this package."""


class ConfigurationError(ClientError):
    """An argument, a variable or a file of the access cannot be used; nothing was sent."""


class ServiceError(ClientError):
    """A call failed.

    Attributes:
        reason: What the service said.
        code: Name of the gRPC status, such as ``NOT_FOUND``.
        service: Service and address that were called; empty for one item of a stream.
    """

    def __init__(self, reason: str, code: str, service: str = "") -> None:
        super().__init__(f"{service}: {reason}" if service else reason)
        self.reason = reason
        self.code = code
        self.service = service


class InvalidArgumentError(ServiceError):
    """A field of the request is invalid.

    Attributes:
        field: Path of the field, such as ``a.image.data``; empty if the service names none.
    """

    def __init__(self, reason: str, code: str, service: str = "", *, field: str = "") -> None:
        super().__init__(f"{field} {reason}" if field else reason, code, service)
        self.field = field


class NotFoundError(ServiceError):
    """What the request names does not exist."""


class AlreadyExistsError(ServiceError):
    """The key was used for other content, or the image is stored with another alignment."""


class FailedPreconditionError(ServiceError):
    """The state of the service does not allow the call."""


class AbortedError(ServiceError):
    """Somebody else changed the same thing first."""


class UnauthenticatedError(ServiceError):
    """The service accepts no call without a valid token."""


class PermissionDeniedError(ServiceError):
    """The token's roles do not allow the call."""


class OverloadedError(ServiceError):
    """The service is overloaded, or the caller calls too often.

    Attributes:
        retry_after_s: When the service asks to be called again, in seconds from now.
    """

    def __init__(
        self, reason: str, code: str, service: str = "", *, retry_after_s: float = 0.0
    ) -> None:
        super().__init__(reason, code, service)
        self.retry_after_s = retry_after_s


class UnavailableError(ServiceError):
    """The service cannot be reached, or lacks something that it needs."""


class DeadlineError(ServiceError):
    """There was no answer within the timeout. The call may have been carried out."""


_ERRORS: Final[dict[grpc.StatusCode, type[ServiceError]]] = {
    grpc.StatusCode.INVALID_ARGUMENT: InvalidArgumentError,
    grpc.StatusCode.OUT_OF_RANGE: InvalidArgumentError,
    grpc.StatusCode.NOT_FOUND: NotFoundError,
    grpc.StatusCode.ALREADY_EXISTS: AlreadyExistsError,
    grpc.StatusCode.FAILED_PRECONDITION: FailedPreconditionError,
    grpc.StatusCode.ABORTED: AbortedError,
    grpc.StatusCode.UNAUTHENTICATED: UnauthenticatedError,
    grpc.StatusCode.PERMISSION_DENIED: PermissionDeniedError,
    grpc.StatusCode.RESOURCE_EXHAUSTED: OverloadedError,
    grpc.StatusCode.UNAVAILABLE: UnavailableError,
    grpc.StatusCode.DEADLINE_EXCEEDED: DeadlineError,
}
# What asyncio calls of gRPC 1.85 end with if the connection breaks while they send a message.
_BROKEN_SEND: Final = "Internal error from Core"
_BY_NUMBER: Final = {code.value[0]: code for code in grpc.StatusCode}
_Detail = TypeVar("_Detail", bound=Message)


def from_rpc_error(error: grpc.RpcError, service: str) -> ServiceError:
    """Return the error for a failed call, blocking or asyncio.

    Args:
        error: What gRPC raised.
        service: Service and address that were called.
    """
    code = getattr(error, "code", lambda: None)() or grpc.StatusCode.UNKNOWN
    reason = str(getattr(error, "details", lambda: "")() or code.name)
    if code is grpc.StatusCode.INTERNAL and reason == _BROKEN_SEND:
        return UnavailableError("the connection broke", "UNAVAILABLE", service)
    if code is grpc.StatusCode.INVALID_ARGUMENT:
        violations = _detail(error, BadRequest()).field_violations
        if violations:
            first = violations[0]
            return InvalidArgumentError(first.description, code.name, service, field=first.field)
    if code is grpc.StatusCode.RESOURCE_EXHAUSTED:
        retry = _detail(error, RetryInfo())
        if not retry.HasField("retry_delay"):
            # Without a delay the status comes from gRPC, which refused a message that is too large.
            return InvalidArgumentError(reason, code.name, service)
        delay = retry.retry_delay.ToNanoseconds() / 1e9
        return OverloadedError(reason, code.name, service, retry_after_s=delay)
    return _ERRORS.get(code, ServiceError)(reason, code.name, service)


def from_number(code: int, reason: str) -> ServiceError:
    """Return the error of one item of a stream.

    Args:
        code: As in ``google.rpc.Code``.
        reason: The service's message.
    """
    status = _BY_NUMBER.get(code, grpc.StatusCode.UNKNOWN)
    return _ERRORS.get(status, ServiceError)(reason, status.name)


def _detail(error: grpc.RpcError, wanted: _Detail) -> _Detail:
    """Unpack the detail of the wanted type; empty if the status has none."""
    metadata: Sequence[tuple[str, bytes]] = getattr(error, "trailing_metadata", tuple)() or ()
    for key, value in metadata:
        if key == _DETAILS_KEY:
            try:
                details = Status.FromString(value).details
            except DecodeError:
                return wanted
            if any(detail.Unpack(wanted) for detail in details):
                return wanted
    return wanted
