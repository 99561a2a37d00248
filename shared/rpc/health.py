"""Client of the standard gRPC health service: ``python -m shared.rpc.health HOST:PORT``."""

import sys
from collections.abc import Callable
from functools import partial

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from shared.errors import PreconditionFailed
from shared.rpc.access.transport import channel_to_self
from shared.settings import TlsSettings, settings_or_exit


def is_serving(
    address: str,
    timeout_s: float = 1.0,
    connect: Callable[[str], grpc.Channel] = grpc.insecure_channel,
) -> bool:
    """Say whether a server reports within ``timeout_s`` that it is serving.

    Args:
        address: ``host:port``.
        timeout_s: In seconds.
        connect: Opens the channel, without a service config.
    """
    return bool(_status(address, timeout_s, connect) == health_pb2.HealthCheckResponse.SERVING)


def answers(
    address: str,
    timeout_s: float,
    connect: Callable[[str], grpc.Channel] = grpc.insecure_channel,
) -> bool:
    """Say whether a server reports its health within ``timeout_s``, whatever that is."""
    return _status(address, timeout_s, connect) is not None


def _status(address: str, timeout_s: float, connect: Callable[[str], grpc.Channel]) -> int | None:
    request = health_pb2.HealthCheckRequest()
    with connect(address) as channel:
        try:
            response = health_pb2_grpc.HealthStub(channel).Check(request, timeout=timeout_s)
        except grpc.RpcError:
            return None
    return int(response.status)


def _main() -> int:
    tls = settings_or_exit(TlsSettings, "the health check")
    try:
        return 0 if is_serving(sys.argv[1], 3.0, partial(channel_to_self, tls=tls)) else 1
    except PreconditionFailed as error:
        raise SystemExit(f"the health check cannot start: {error}") from None


if __name__ == "__main__":
    sys.exit(_main())
