"""A gRPC server that answers calls of the contract by a script."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import grpc
from google.protobuf.message import Message
from google.rpc.status_pb2 import Status


class ScriptedServer(grpc.GenericRpcHandler):
    """Answers each call with the next failure of `failures`, and else with an empty message.

    Attributes:
        failures: Status code, message and detail of the next calls.
        calls: Method and metadata of each call.
    """

    def __init__(self) -> None:
        self.failures: list[tuple[grpc.StatusCode, str, Message | None]] = []
        self.calls: list[tuple[str, dict[str, Any]]] = []

    def service(self, details: Any) -> grpc.RpcMethodHandler | None:
        if not details.method.startswith("/magface."):
            return None
        self.calls.append((details.method, dict(details.invocation_metadata)))
        return grpc.unary_unary_rpc_method_handler(self._answer)

    def _answer(self, _: bytes, context: grpc.ServicerContext) -> bytes:
        if not self.failures:
            return b""
        code, text, detail = self.failures.pop(0)
        if detail is not None:
            status = Status(code=code.value[0], message=text)
            status.details.add().Pack(detail)
            context.set_trailing_metadata(
                (("grpc-status-details-bin", status.SerializeToString()),)
            )
        context.abort(code, text)
        return b""


@contextmanager
def scripted_server(
    credentials: grpc.ServerCredentials | None = None, port: int = 0
) -> Iterator[tuple[ScriptedServer, int]]:
    """Serve on loopback; yields the server and its port."""
    handler = ScriptedServer()
    server = grpc.server(ThreadPoolExecutor(4), handlers=(handler,))
    address = f"127.0.0.1:{port}"
    if credentials is None:
        bound = server.add_insecure_port(address)
    else:
        bound = server.add_secure_port(address, credentials)
    server.start()
    try:
        yield handler, bound
    finally:
        server.stop(0).wait()
