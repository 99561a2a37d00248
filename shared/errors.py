"""Errors of the domain.

Only `shared.rpc.errors` maps them to gRPC status codes and back.
"""

from typing import TypeVar

_Error = TypeVar("_Error", bound=BaseException)


class MagFaceError(Exception):
    """Base of the errors whose message is meant for the caller.

    Args:
        message: For the caller. It names no address, no path and no text of a library, for
            instance of the database's driver.
        detail: For the log and for operators: what the message must not name.
    """

    def __init__(self, message: str, *, detail: str = "") -> None:
        super().__init__(message)
        self.detail = detail


def details_of(error: BaseException) -> str:
    """Give the details of an error and of its causes, for logs; empty if there are none."""
    details: list[str] = []
    cause: BaseException | None = error
    while cause is not None:
        details.append(getattr(cause, "detail", ""))
        cause = cause.__cause__
    return "; ".join(filter(None, details))


def with_details(error: BaseException) -> str:
    """Give the message of an error with the details of `details_of`."""
    details = details_of(error)
    return f"{error} ({details})" if details else str(error)


class InvalidInput(MagFaceError):
    """A field of the input is invalid; sending it again gives the same error.

    Args:
        field: Path of the field as the contract names it, e.g. ``images[3].data``.
        reason: What is wrong with it and what is valid.
        detail: See `MagFaceError`.
    """

    def __init__(self, field: str, reason: str, *, detail: str = "") -> None:
        super().__init__(f"{field}: {reason}", detail=detail)
        self.field = field
        self.reason = reason


class NoFace(InvalidInput):
    """A picture shows no face."""


class Unauthenticated(MagFaceError):
    """The call has no valid token."""


class PermissionDenied(MagFaceError):
    """The caller is known and may not do this."""


class NotFound(MagFaceError):
    """What the caller names is not stored."""


class AlreadyExists(MagFaceError):
    """The name or key is in use for something else."""


class PreconditionFailed(MagFaceError):
    """The call is valid but not possible in the current state."""


class Conflict(MagFaceError):
    """A concurrent change was committed first; read the state again before a retry."""


class Overloaded(MagFaceError):
    """There is no capacity for the call now.

    Args:
        message: Which capacity is used up.
        retry_after_s: Seconds to wait before a retry.
    """

    def __init__(self, message: str, retry_after_s: float) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class TimedOut(MagFaceError):
    """The caller was too slow to send its request."""


class Unavailable(MagFaceError):
    """A dependency cannot be reached now; nothing was changed."""


class AccessRefused(Unavailable):
    """A dependency refuses the credentials of this process."""


class CorruptData(MagFaceError):
    """Stored data does not match its checksum or its format."""


def without_frames(error: _Error) -> _Error:
    """Take from an error that is kept the frames it passed, and the errors it arose from.

    The frames hold what was worked on, such as a request with its pictures, and often the error
    itself, so that only the garbage collector would free them.

    Returns:
        The same error.
    """
    left: list[BaseException | None] = [error]
    while left:
        if (one := left.pop()) is not None:
            left += [one.__cause__, one.__context__]
            one.__traceback__ = one.__cause__ = one.__context__ = None
    return error
