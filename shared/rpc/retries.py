"""Which methods of the contract may be retried, and the keys that make retries safe."""

from collections.abc import Iterator

from google.protobuf.descriptor import MethodDescriptor, ServiceDescriptor
from google.protobuf.descriptor_pb2 import MethodOptions
from magface.v1 import embedder_pb2, feedback_pb2, trainer_pb2

from shared.errors import PreconditionFailed
from shared.rpc.interceptors import Context

_REPEATABLE = (MethodOptions.NO_SIDE_EFFECTS, MethodOptions.IDEMPOTENT)
# Set by gRPC on a call that it repeats by a retry policy.
_ATTEMPTS_HEADER = "grpc-previous-rpc-attempts"


def services() -> Iterator[ServiceDescriptor]:
    """Yield the contract's services."""
    for module in (embedder_pb2, feedback_pb2, trainer_pb2):
        yield from module.DESCRIPTOR.services_by_name.values()


def is_repeatable(method: MethodDescriptor) -> bool:
    """Say whether a method's ``idempotency_level`` lets a channel repeat a call of it."""
    return method.GetOptions().idempotency_level in _REPEATABLE


def read_key(idempotency_key: str, context: Context) -> str | None:
    """Read the key of a request; None when it has none.

    Raises:
        PreconditionFailed: If gRPC repeats, by a retry policy, a call without a key.
    """
    if not idempotency_key:
        if any(key == _ATTEMPTS_HEADER for key, _ in context.invocation_metadata() or ()):
            raise PreconditionFailed(
                "the call was repeated without an idempotency_key, and may have been carried out"
                " the first time: look, and set a key if you call again"
            )
        return None
    return idempotency_key
