"""What can go wrong, in the domain's words.

The domain raises these; `shared.rpc.errors` alone turns them into gRPC status codes.
"""


class MagFaceError(Exception):
    """Base of every error that is meant for a caller to read."""


class InvalidInput(MagFaceError):
    """A field of the input breaks its contract; sending it again cannot help.

    Args:
        field: Path of the field, as the contract names it, e.g. ``images[3].data``.
        reason: What is wrong with it and what would be right.
    """

    def __init__(self, field: str, reason: str) -> None:
        super().__init__(f"{field}: {reason}")
        self.field = field
        self.reason = reason


class NotFound(MagFaceError):
    """Something named by the caller is not stored."""


class AlreadyExists(MagFaceError):
    """The name is taken by something else."""


class PreconditionFailed(MagFaceError):
    """The call is well formed, but not possible in the present state."""


class Conflict(MagFaceError):
    """Another writer came first; read again and decide anew."""


class Overloaded(MagFaceError):
    """No room for more work now.

    Args:
        message: What is full.
        retry_after_s: Seconds after which trying again makes sense.
    """

    def __init__(self, message: str, retry_after_s: float) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class Unavailable(MagFaceError):
    """A part that is needed cannot be reached now; nothing was changed."""


class CorruptData(MagFaceError):
    """Stored data does not match its checksum or its format."""
