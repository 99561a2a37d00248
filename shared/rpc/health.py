"""Client of the standard gRPC health service: ``python -m shared.rpc.health HOST:PORT``."""

import sys

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc


def is_serving(address: str, timeout_s: float = 1.0) -> bool:
    """Say whether a server reports within ``timeout_s`` that it is serving."""
    return bool(_status(address, timeout_s) == health_pb2.HealthCheckResponse.SERVING)


def answers(address: str, timeout_s: float) -> bool:
    """Say whether a server reports its health within ``timeout_s``, whatever that is."""
    return _status(address, timeout_s) is not None


def _status(address: str, timeout_s: float) -> int | None:
    request = health_pb2.HealthCheckRequest()
    with grpc.insecure_channel(address) as channel:
        try:
            response = health_pb2_grpc.HealthStub(channel).Check(request, timeout=timeout_s)
        except grpc.RpcError:
            return None
    return int(response.status)


if __name__ == "__main__":
    sys.exit(0 if is_serving(sys.argv[1], timeout_s=3.0) else 1)
