"""The methods of the contract that a client may retry."""

from collections.abc import Iterator

from google.protobuf.descriptor import MethodDescriptor, ServiceDescriptor
from google.protobuf.descriptor_pb2 import MethodOptions
from magface.v1 import embedder_pb2, feedback_pb2, trainer_pb2

_RETRYABLE = (MethodOptions.NO_SIDE_EFFECTS, MethodOptions.IDEMPOTENT)


def services() -> Iterator[ServiceDescriptor]:
    """Yield the services of the contract."""
    for module in (embedder_pb2, feedback_pb2, trainer_pb2):
        yield from module.DESCRIPTOR.services_by_name.values()


def method_path(method: MethodDescriptor) -> str:
    """Return the path of a method's requests, ``/package.Service/Name``."""
    return f"/{method.containing_service.full_name}/{method.name}"


def is_retryable(method: MethodDescriptor) -> bool:
    """Say whether the ``idempotency_level`` of a method allows retries."""
    return method.GetOptions().idempotency_level in _RETRYABLE
