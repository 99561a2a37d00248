"""gRPC channels to the services, all with the same retry policy."""

import json
from typing import Any

import grpc

from shared.rpc.access.transport import RenewedChannel, aio_channel, sync_channel
from shared.rpc.retries import is_retryable, services
from shared.settings import ClientSettings

_MAX_MESSAGE_BYTES = 64 * 2**20

_RETRY_POLICY: dict[str, Any] = {
    "maxAttempts": 5,
    "initialBackoff": "0.1s",
    "maxBackoff": "2s",
    "backoffMultiplier": 2,
    # Not RESOURCE_EXHAUSTED: it is also the status of a message above the size limit.
    "retryableStatusCodes": ["UNAVAILABLE"],
}


def _service_config() -> dict[str, Any]:
    """Return the gRPC service config; methods that it does not name are never retried."""
    retryable = [
        {"service": service.full_name, "method": method.name}
        for service in services()
        for method in service.methods
        if is_retryable(method)
    ]
    return {
        # Only this policy checks the health of the servers.
        "loadBalancingConfig": [{"round_robin": {}}],
        "healthCheckConfig": {"serviceName": ""},
        "methodConfig": [{"name": retryable, "retryPolicy": _RETRY_POLICY}],
    }


_OPTIONS: list[tuple[str, Any]] = [
    ("grpc.service_config", json.dumps(_service_config())),
    ("grpc.max_send_message_length", _MAX_MESSAGE_BYTES),
    ("grpc.max_receive_message_length", _MAX_MESSAGE_BYTES),
    # Reconnect to a restarted server within about two seconds, not after minutes of back-off.
    ("grpc.initial_reconnect_backoff_ms", 200),
    ("grpc.min_reconnect_backoff_ms", 1000),
    ("grpc.max_reconnect_backoff_ms", 2000),
    # While a call waits, a frozen or disconnected peer is detected within half a minute.
    # gRPC 1.85 uses the timeout of the pings and ignores grpc.keepalive_timeout_ms.
    # With shorter times a machine that is short of processor time would look frozen.
    ("grpc.keepalive_time_ms", 10_000),
    ("grpc.http2.ping_timeout_ms", 20_000),
]


def open_channel(address: str, access: ClientSettings | None = None) -> grpc.aio.Channel:
    """Open an asyncio channel.

    Calls are spread over the healthy replicas behind the address. A call that ends UNAVAILABLE
    is attempted up to five times within about two seconds, if its method is marked IDEMPOTENT or
    NO_SIDE_EFFECTS in the contract; set the idempotency key of a request that has one. The
    channel sets no timeout: give each call a ``timeout``.

    Args:
        address: ``host:port``, or any gRPC target such as ``dns:///embedder:50051``.
        access: The channel uses TLS if this has a CA, and its calls carry the token if it has one.

    Raises:
        PreconditionFailed: If the files cannot be used, or the token would be sent to another
            machine in plain text.
    """
    return aio_channel(address, access, _OPTIONS)


def open_sync_channel(address: str, access: ClientSettings | None = None) -> grpc.Channel:
    """Open a blocking channel with the policy of `open_channel`."""
    return sync_channel(address, access, _OPTIONS)


def open_renewed_channel(address: str, access: ClientSettings | None) -> RenewedChannel:
    """Open a channel with the policy of `open_channel` that outlives its certificates."""
    return RenewedChannel(address, access, _OPTIONS)
