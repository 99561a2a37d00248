"""Server reflection, v1 and v1alpha: clients such as grpcurl need no proto files."""

from collections.abc import Sequence
from functools import cache
from typing import Any, Final

import grpc
from google.protobuf import descriptor_pb2, descriptor_pool
from grpc_reflection.v1alpha import reflection, reflection_pb2

_V1ALPHA: Final[str] = reflection.SERVICE_NAME
_V1: Final = "grpc.reflection.v1.ServerReflection"


def add_reflection(server: grpc.aio.Server, service_names: Sequence[str]) -> None:
    """Add both versions of the reflection service, whose messages are the same on the wire.

    Args:
        server: Before its start.
        service_names: Full names of the other services that clients may find.
    """
    _describe_v1()
    servicer = reflection.aio.ReflectionServicer([*service_names, _V1, _V1ALPHA])
    handler = grpc.stream_stream_rpc_method_handler(
        servicer.ServerReflectionInfo,
        request_deserializer=reflection_pb2.ServerReflectionRequest.FromString,
        response_serializer=reflection_pb2.ServerReflectionResponse.SerializeToString,
    )
    for name in (_V1, _V1ALPHA):
        methods = {"ServerReflectionInfo": handler}
        server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler(name, methods)])


@cache
def _describe_v1() -> None:
    """Add v1 to the descriptors, which the package grpcio-reflection does not have."""
    file = descriptor_pb2.FileDescriptorProto()
    reflection_pb2.DESCRIPTOR.CopyToProto(file)
    file.name = "grpc/reflection/v1/reflection.proto"
    file.package = _V1.rpartition(".")[0]
    for message in file.message_type:
        for field in message.field:
            if field.type_name:
                field.type_name = _in_v1(field.type_name)
    for method in file.service[0].method:
        method.input_type, method.output_type = (
            _in_v1(method.input_type),
            _in_v1(method.output_type),
        )
    pool: Any = descriptor_pool.Default()
    pool.AddSerializedFile(file.SerializeToString())


def _in_v1(type_name: str) -> str:
    return type_name.replace(".grpc.reflection.v1alpha.", ".grpc.reflection.v1.")
