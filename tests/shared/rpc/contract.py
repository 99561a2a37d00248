"""A server with all services of the contract, whose methods a test makes."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import grpc
from google.protobuf.descriptor import MethodDescriptor

from shared.rpc.retries import services
from shared.rpc.server.lifecycle import Lifecycle
from shared.rpc.server.runner import Build


def kind_of(method: MethodDescriptor) -> str:
    """Name the kind of a method as gRPC does, e.g. ``unary_stream``."""
    streams = (method.client_streaming, method.server_streaming)
    return "_".join("stream" if one else "unary" for one in streams)


def contract(make_handler: Callable[[MethodDescriptor], Any]) -> Build:
    """Build all services, ready at once."""

    @asynccontextmanager
    async def build(server: grpc.aio.Server, lifecycle: Lifecycle) -> AsyncIterator[None]:
        for service in services():
            handlers = {method.name: make_handler(method) for method in service.methods}
            server.add_generic_rpc_handlers(
                [grpc.method_handlers_generic_handler(service.full_name, handlers)]
            )
        await lifecycle.set_ready(True)
        yield

    return build
