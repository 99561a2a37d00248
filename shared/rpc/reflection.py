"""Server reflection, by which clients such as grpcurl read the contract from a server."""

from typing import Final

import grpc
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection, reflection_pb2, reflection_pb2_grpc

# The package has v1alpha only. v1 has the same messages and methods under another name.
V1: Final = "grpc.reflection.v1.ServerReflection"


def add_reflection(service_name: str, server: grpc.aio.Server) -> None:
    """Let a server describe a service, its health service and reflection itself."""
    health = health_pb2.DESCRIPTOR.services_by_name["Health"].full_name
    servicer = reflection.aio.ReflectionServicer(
        [service_name, health, reflection.SERVICE_NAME, V1]
    )
    reflection_pb2_grpc.add_ServerReflectionServicer_to_server(servicer, server)
    handler = grpc.stream_stream_rpc_method_handler(
        servicer.ServerReflectionInfo,
        request_deserializer=reflection_pb2.ServerReflectionRequest.FromString,
        response_serializer=reflection_pb2.ServerReflectionResponse.SerializeToString,
    )
    server.add_generic_rpc_handlers(
        [grpc.method_handlers_generic_handler(V1, {"ServerReflectionInfo": handler})]
    )
