"""The idempotency key of a request."""

from shared.errors import PreconditionFailed
from shared.rpc.server.interceptors import Context

# gRPC sets this header on a call that it repeats because of a retry policy.
_ATTEMPTS_HEADER = "grpc-previous-rpc-attempts"


def read_idempotency_key(idempotency_key: str, context: Context) -> str | None:
    """Read the idempotency key of a request; None when it has none.

    Raises:
        PreconditionFailed: If gRPC repeats a call without a key because of a retry policy.
    """
    if not idempotency_key:
        if any(key == _ATTEMPTS_HEADER for key, _ in context.invocation_metadata() or ()):
            raise PreconditionFailed(
                "the call was repeated without an idempotency_key, and the first attempt may have"
                " been carried out: check the result before you call again, and set a key"
            )
        return None
    return idempotency_key
