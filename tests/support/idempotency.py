"""Methods of the contract that have an idempotency key."""

from google.protobuf.descriptor import Descriptor, ServiceDescriptor

KEY_FIELDS = ("idempotency_key", "request_id")


def keyed_methods(service: ServiceDescriptor) -> set[str]:
    """Names of the methods whose requests have a key, also in nested messages."""
    return {method.name for method in service.methods if has_key(method.input_type)}


def has_key(message: Descriptor) -> bool:
    """Whether a message or a message in it has a key."""
    inner = (field.message_type for field in message.fields if field.message_type)
    return any(name in message.fields_by_name for name in KEY_FIELDS) or any(map(has_key, inner))
