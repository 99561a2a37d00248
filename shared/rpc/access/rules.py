"""Which role may call which method, as the contract says beside the method."""

from functools import cache
from typing import Final

from google.protobuf.descriptor import MethodDescriptor
from magface.v1 import access_pb2

from shared.rpc.retries import method_path, services

ROLE_NAMES: Final = {
    name.removeprefix("ROLE_").lower(): role for name, role in access_pb2.Role.items() if role
}
# Load balancers and orchestrators have no token, and the answer is one of three words.
_OPEN_SERVICES: Final = frozenset({"grpc.health.v1.Health"})
# The contract is no secret, but only those who may call something need it from the server.
_ANY_ROLE_SERVICES: Final = frozenset(
    {"grpc.reflection.v1alpha.ServerReflection", "grpc.reflection.v1.ServerReflection"}
)


def is_open(method: str) -> bool:
    """Say whether a method ``/package.Service/Name`` needs no token."""
    return _service(method) in _OPEN_SERVICES


def roles_for(method: str) -> frozenset[access_pb2.Role.ValueType]:
    """Return the roles that may call a method that is not open; none for an unknown method."""
    if _service(method) in _ANY_ROLE_SERVICES:
        return frozenset(ROLE_NAMES.values())
    return _contract().get(method, frozenset())


def access_roles(method: MethodDescriptor) -> frozenset[access_pb2.Role.ValueType]:
    """Read the roles of a method from the contract."""
    return frozenset(method.GetOptions().Extensions[access_pb2.access].roles)


@cache
def _contract() -> dict[str, frozenset[access_pb2.Role.ValueType]]:
    return {
        method_path(method): access_roles(method)
        for service in services()
        for method in service.methods
    }


def _service(method: str) -> str:
    return method[1:].partition("/")[0]
